"""A Ceph of one node, with its S3 gateway, on loopback: the real server of an object store.

It takes Debian's packages radosgw, ceph-mon, ceph-osd and ceph-common, and no rights.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
import urllib.request
import uuid
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from .held import PATIENCE
from .ports import free_port
from .s3_server import ACCESS_KEY, SECRET_KEY, S3Server

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

PROGRAMS: Final = ("ceph", "ceph-authtool", "ceph-mon", "ceph-osd", "monmaptool", "rados", "radosgw", "radosgw-admin")

CONFIGURATION: Final = """
[global]
fsid = {cluster}
mon host = {monitor}
mon initial members = a
public addr = 127.0.0.1
cluster addr = 127.0.0.1
ms bind ipv6 = false
auth allow insecure global id reclaim = false
keyring = {folder}/keyring
mon data = {folder}/mon
osd data = {folder}/osd
run dir = {folder}/run
admin socket = {folder}/run/$name-$pid.asok
log file = {folder}/log/$name.log
mon cluster log file = {folder}/log/cluster.log
pid file =
# Of one node, answering at once, and keeping no logs, which take a tenth of its time or more.
debug ms = 0/0
debug monc = 0/0
debug objecter = 0/0
debug osd = 0/0
debug rados = 0/0
debug rgw = 0/0
mon allow pool size one = true
mon data avail warn = 2
mon data avail crit = 1
mon max pg per osd = 1000
# A gateway that was killed still counts as one to be told of what changes, for so many seconds.
osd client watch timeout = 6
osd crush chooseleaf type = 0
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pgp num = 8
paxos propose interval = 0.05
paxos min wait = 0.01
osd objectstore = {object_store}
osd memory target = 939524096
memstore device bytes = 2147483648
bluestore block size = 2147483648
bluestore fsck on mount = false
[client.rgw]
rgw frontends = beast endpoint=127.0.0.1:{gateway_port} tcp_nodelay=1
rgw enable ops log = false
rgw enable usage log = false
rgw dns name = localhost
"""

KEYS: Final = {
    "mon.": {"mon": "allow *"},
    "client.admin": {"mon": "allow *", "osd": "allow *", "mgr": "allow *"},
    "client.rgw": {"mon": "allow rw", "osd": "allow rwx"},
    "osd.0": {"mon": "allow profile osd", "osd": "allow *"},
}


def missing() -> str | None:
    """Return why there can be no server, or None if there can."""
    lacking = [program for program in PROGRAMS if shutil.which(program) is None]
    if not lacking:
        return None
    return f"no Ceph is installed, for {lacking[0]} is missing (apt-get install radosgw ceph-mon ceph-osd ceph-common)"


class CephServer(S3Server):
    """A monitor, an object daemon, and a gateway, each a process that can be killed and started again."""

    def __init__(self, folder: Path, object_store: str) -> None:
        monitor_port, gateway_port = free_port(), free_port()
        super().__init__(f"http://127.0.0.1:{gateway_port}")
        self._folder = folder
        self._cluster = str(uuid.uuid4())
        self._monitor = f"[v2:127.0.0.1:{monitor_port}]"
        self._configuration = folder / "ceph.conf"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        for name in ("mon", "osd", "run", "log"):
            (folder / name).mkdir()
        self._configuration.write_text(
            CONFIGURATION.format(
                cluster=self._cluster,
                folder=folder,
                monitor=self._monitor,
                gateway_port=gateway_port,
                object_store=object_store,
            )
        )

    def create(self) -> None:
        """Create the cluster and a user, and start it all."""
        keyring, map_file = f"{self._folder}/keyring", f"{self._folder}/monmap"
        self._run("ceph-authtool", "--create-keyring", keyring)
        for name, rights in KEYS.items():
            caps = [word for who, right in rights.items() for word in ("--cap", who, right)]
            self._run("ceph-authtool", keyring, "--gen-key", f"--name={name}", *caps)
        self._run("monmaptool", "--create", "--fsid", self._cluster, "--addv", "a", self._monitor, map_file)
        self._run("ceph-mon", "--mkfs", "-i", "a", "--monmap", map_file, "--keyring", keyring)
        self._start("mon", "ceph-mon", "-i", "a")
        identity = str(uuid.uuid4())
        self._run("ceph", "--connect-timeout", str(PATIENCE), "osd", "new", identity)
        self._run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", identity)
        self.start_objects()
        self.start_gateway()
        self.add_user("owner", ACCESS_KEY, SECRET_KEY)

    def start_objects(self) -> None:
        """Start the object daemon, and wait until it is up."""
        epoch = self._epoch()
        self._start("osd", "ceph-osd", "-i", "0")
        _wait(lambda: self._is_up(epoch))

    def start_gateway(self) -> None:
        """Start the gateway, and wait until it answers."""
        self._start("rgw", "radosgw", "-n", "client.rgw")
        _wait(self._is_answering)

    def kill_objects(self) -> None:
        """Kill the object daemon. With the memstore that is the end of all objects; the bluestore keeps them."""
        self._kill("osd")

    def kill_gateway(self) -> None:
        """Kill the gateway, in the middle of what it does."""
        self._kill("rgw")

    def add_user(self, name: str, access_key: str, secret_key: str, *options: str) -> None:
        """Create a user of the gateway."""
        keys = [f"--access-key={access_key}", f"--secret-key={secret_key}"]
        create = ["user", "create", f"--uid={name}", f"--display-name={name}"]
        self._run("radosgw-admin", "-n", "client.rgw", *create, *keys, *options)

    def lose(self, bucket: str, key: str) -> None:
        """Remove the data of an object behind the gateway's back. It goes on listing the object."""
        stats = json.loads(self._run("radosgw-admin", "-n", "client.rgw", "bucket", "stats", f"--bucket={bucket}"))
        self._run("rados", "--pool=default.rgw.buckets.data", "rm", f"{stats['marker']}_{key}")

    def stop(self) -> None:
        """Kill what runs."""
        for name in tuple(self._processes):
            self._kill(name)

    def _run(self, program: str, *arguments: str) -> str:
        ended = subprocess.run(
            [program, "-c", str(self._configuration), *arguments],
            check=False,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert ended.returncode == 0, f"{program}: {ended.stderr}"
        return ended.stdout

    def _start(self, name: str, program: str, *arguments: str) -> None:
        with (self._folder / f"log/{name}.out").open("ab") as output:
            self._processes[name] = subprocess.Popen(
                [program, "-c", str(self._configuration), *arguments, "-f"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    def _kill(self, name: str) -> None:
        process = self._processes.pop(name)
        process.kill()
        process.wait(PATIENCE)

    def _osd(self) -> dict[str, Any]:
        """Return what the monitor knows of the object daemon."""
        known: dict[str, Any] = json.loads(self._run("ceph", "osd", "dump", "--format=json"))["osds"][0]
        return known

    def _epoch(self) -> int:
        return int(self._osd()["up_from"])

    def _is_up(self, epoch: int) -> bool:
        known = self._osd()
        return bool(known["up"]) and int(known["up_from"]) > epoch

    def _is_answering(self) -> bool:
        with suppress(OSError):
            with urllib.request.urlopen(self.endpoint, timeout=PATIENCE) as answer:
                return bool(answer.status == 200)
        return False


@contextmanager
def ceph_server(object_store: Literal["memstore", "bluestore"] = "memstore") -> Generator[CephServer, None, None]:
    """Run a Ceph for the block, on free ports and in a temporary folder.

    It starts in about 2 seconds with the memstore, in 6 with the bluestore, which outlives its daemon.
    """
    with tempfile.TemporaryDirectory(prefix="ceph-") as folder:
        server = CephServer(Path(folder), object_store)
        try:
            server.create()
            yield server
        finally:
            server.stop()


def _wait(condition: Callable[[], bool]) -> None:
    """Wait for a process that has no other way to tell."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)

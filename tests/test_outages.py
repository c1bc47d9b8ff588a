"""Replicas with a remote store whose server is killed, or hangs, while they are used."""

from __future__ import annotations

import itertools
import sysconfig
import threading
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, Literal

import pytest
import trio
import trio.testing

import trio_replica as replica
from trio_replica import PoisonedError, Ref, ReplicaStore, RetryingStore

from .ceph_server import CephServer, ceph_server
from .held import PATIENCE, wait_for
from .s3_server import S3Server
from .scripted import Answer, Request, Scripted, answering, never_answer, scripted_server

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_replica import Store

BUCKET: Final = "blobs"
FILES: Final = 2000
LARGEST: Final = 256 * 1024
"""Bytes of the largest file that is put, so that all of them are some tens of MB."""

CALLERS: Final = 16
QUEUE_SIZE: Final = 64
OUTAGE: Final = 10
"""Seconds from the server's death until it is started again. They are real ones, as the server is."""

HANG: Final = 4.0 * PATIENCE
"""Seconds after which a client gives up a request that is not answered: far more than the test takes."""


def real_files() -> list[Path]:
    """Return Python's own files, then those of what is installed, no two with the same content."""
    found: dict[Ref, Path] = {}
    for folder in ("stdlib", "purelib"):
        for path in sorted(Path(sysconfig.get_path(folder)).rglob("*.*")):
            if path.is_file() and path.stat().st_size <= LARGEST:
                found.setdefault(Ref.of(path.read_bytes()), path)
    assert len(found) >= FILES
    return list(found.values())[:FILES]


class Outage:
    """Puts of many files at once, half of which a server is killed after, and started again."""

    def __init__(self, server: CephServer, *, with_objects: bool) -> None:
        self._server = server
        self._with_objects = with_objects
        self._begun = trio.Event()
        self.accepted: set[Ref] = set()
        self.poisoned: list[PoisonedError] = []

    async def put_files(self, store: ReplicaStore) -> None:
        """Put the files, each caller until it has seen the replica poisoned; and return when the server is up again."""

        async def put_some() -> None:
            for path in remaining:
                try:
                    ref, _ = await store.put(path.read_bytes())
                except PoisonedError as error:
                    self.poisoned.append(error)
                    return
                self.accepted.add(ref)
                if next(numbers) == FILES // 2:
                    self._kill()

        remaining = iter(real_files())
        numbers = itertools.count(1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._restart)
            for _ in range(CALLERS):
                nursery.start_soon(put_some)

    def _kill(self) -> None:
        self._server.kill_gateway()
        if self._with_objects:
            self._server.kill_objects()
        self._begun.set()

    async def _restart(self) -> None:
        await self._begun.wait()
        await trio.sleep(OUTAGE)
        if self._with_objects:
            await trio.to_thread.run_sync(self._server.start_objects)
        await trio.to_thread.run_sync(self._server.start_gateway)


async def refs_of(store: Store) -> set[Ref]:
    return {ref async for ref in store.list_refs()}


async def assert_has(store: Store, refs: set[Ref]) -> None:
    """Check that a store has just the blobs `refs`, and their content."""
    assert await refs_of(store) == refs
    assert {ref: Ref.of(data) for ref, data in (await store.get_many(refs)).items()} == {ref: ref for ref in refs}


@pytest.mark.ceph
@pytest.mark.parametrize(
    ("object_store", "with_objects"), [("memstore", False), ("bluestore", True)], ids=["gateway", "all-daemons"]
)
async def test_with_retries_an_outage_is_only_waited_for(
    tmp_path: Path, object_store: Literal["memstore", "bluestore"], with_objects: bool
) -> None:
    with ceph_server(object_store) as server:
        server.client().create_bucket(Bucket=BUCKET)
        outage = Outage(server, with_objects=with_objects)
        async with (
            replica.open_sqlite(tmp_path / "local.db") as local,
            replica.open_object_store(server.url(f"{BUCKET}/copy")) as remote,
        ):
            retrying = RetryingStore(remote)
            async with replica.open({"local": local}, {"offsite": retrying}, queue_size=QUEUE_SIZE) as store:
                await outage.put_files(store)
                await store.flush()
            assert outage.poisoned == []
            assert len(outage.accepted) == FILES
            await assert_has(local, outage.accepted)
            await assert_has(remote, outage.accepted)
    offsite = store.statistics().async_stores["offsite"]
    assert (offsite.written, offsite.failure, store.unreplicated["offsite"]) == (FILES, None, ())
    assert offsite.blocked_puts >= CALLERS
    assert offsite.blocked_seconds > OUTAGE  # of several callers
    counts = retrying.statistics()
    assert counts.retries > 0
    assert counts.gave_up == 0
    assert f"s3://{BUCKET}/copy at {server.endpoint}: its server " in counts.last_error


@pytest.mark.ceph
async def test_without_retries_an_outage_poisons_and_what_the_server_lacks_is_known(tmp_path: Path) -> None:
    with ceph_server() as server:
        server.client().create_bucket(Bucket=BUCKET)
        outage = Outage(server, with_objects=False)
        async with (
            replica.open_sqlite(tmp_path / "local.db") as local,
            replica.open_object_store(server.url(f"{BUCKET}/copy")) as remote,
        ):
            async with replica.open({"local": local}, {"offsite": remote}, queue_size=QUEUE_SIZE) as store:
                await outage.put_files(store)
            assert len(outage.poisoned) == CALLERS
            for error in outage.poisoned:
                assert error.store == "offsite"
                assert f"s3://{BUCKET}/copy at {server.endpoint}: its server " in str(error)
            assert FILES // 2 <= len(outage.accepted) < FILES
            lacking = outage.accepted - await refs_of(remote)
            assert lacking
            assert lacking <= set(store.unreplicated["offsite"])
            async with replica.open({"local": local}, {"offsite": remote}) as store:
                for ref in lacking:
                    await store.put(await store.get(ref))
            assert outage.accepted <= await refs_of(remote)


def answer_who_it_is(request: Request) -> Answer | Callable[[Scripted, IO[bytes]], None]:
    return Answer(200, "0" * 32) if request.path.endswith("b~") else never_answer


async def test_a_remote_store_that_hangs_holds_up_no_get_and_the_end_only_while_its_request_runs(
    tmp_path: Path,
) -> None:
    async def hang_up() -> None:
        await trio.testing.wait_all_tasks_blocked()
        assert f"readers of s3://{BUCKET}/copy" in "".join(names_of_threads())
        server.ended.set()

    with scripted_server(answering(answer_who_it_is)) as server:
        url = S3Server(server.endpoint()).url(f"{BUCKET}/copy", request_timeout=str(HANG))
        async with replica.open_sqlite(tmp_path / "local.db") as local, trio.open_nursery() as nursery:
            ref, _ = await local.put(b"blob")
            with trio.fail_after(HANG / 2):
                async with replica.open_store(url) as remote:  # which retries, as it is not told otherwise
                    async with replica.open([remote, local]) as store:
                        async with trio.open_nursery() as asking:
                            asking.start_soon(store.get, Ref.ZERO)  # which the local store lacks
                            await wait_for(server.was_asked)
                            asking.cancel_scope.cancel()
                        assert await store.get(ref) == b"blob"
                        assert await store.contains(ref)
                    nursery.start_soon(hang_up)
        assert server.ended.is_set()
        assert [name for name in names_of_threads() if " of s" in name] == []


def names_of_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate()]

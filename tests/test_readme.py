"""The examples of the README run as they stand."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import trio

import trio_replica as replica
from trio_replica import ConfigError, MemoryStore, Ref
from trio_replica.config import read_config
from trio_replica.testing import SimulatedStore

if TYPE_CHECKING:
    from trio.testing import MockClock

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PROGRAM, REPAIR, SERVICE, LIFESPAN, OWN_STORE = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def run(code: str) -> dict[str, Any]:
    names: dict[str, Any] = {"trio": trio, "replica": replica}
    exec(compile(code, "README.md", "exec"), names)
    return names


def test_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    run(PROGRAM)
    ref = str(Ref.of(b"hello"))
    assert capsys.readouterr().out == f"{ref}\n"
    for folder in ("second-copy", "offsite"):
        assert (tmp_path / folder / "blobs" / ref[:2] / ref[:4] / ref).read_bytes() == b"hello"


async def test_the_service_goes_on_after_poison(autojump_clock: MockClock, capsys: pytest.CaptureFixture[str]) -> None:
    sync, offsite = MemoryStore(), SimulatedStore(put=0.5)
    offsite.fail(OSError("away"), count=2)

    async def serve(store: replica.Store) -> None:
        await store.put(b"at %d" % trio.current_time())
        await trio.sleep(1)

    await run(SERVICE)["serve_for_ever"]([sync], {"offsite": offsite}, serve)
    # Twice a second and a minute; then three blobs of half a second each.
    assert trio.current_time() == 2 * 61 + 1.5
    assert len(offsite.blobs) == len(sync) == 3
    assert capsys.readouterr().out.count("an async store failed: the replica is poisoned: offsite: OSError: away") == 2


async def test_reconciling(capsys: pytest.CaptureFixture[str]) -> None:
    stores = {"one": MemoryStore(), "other": MemoryStore()}
    await stores["one"].put(b"hello")
    assert await run(REPAIR)["repair"](stores) is True
    assert capsys.readouterr().out == "one 1 0 0 0 0\nother 0 1 1 0 5\n"


async def test_the_lifespan(tmp_path: Path) -> None:
    app = SimpleNamespace(config={"sync": {"local": "memory:"}, "async": {"offsite": f"dir:{tmp_path}"}})
    async with run(LIFESPAN)["lifespan"](app):
        ref, _ = await app.store.put(b"blob")
    async with replica.open_directory(tmp_path) as offsite:
        assert await offsite.get(ref) == b"blob"


TestListStore = run(OWN_STORE)["TestListStore"]
"""The README's own store passes the contract."""


def test_the_configuration(tmp_path: Path) -> None:
    (document,) = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
    path = tmp_path / "trio-replica.toml"
    path.write_text(document)
    config = read_config(path)
    assert config.sync["local"].shown == f"sqlite:{tmp_path}/blobs.db"
    assert config.async_["second"].retry == {}
    assert config.async_["offsite"].retry == {"seconds": 300}
    path.write_text(document.replace("requests", "request"))
    with pytest.raises(ConfigError) as caught:
        read_config(path)
    said = str(caught.value).replace(f"{tmp_path}/", "")
    assert said in " ".join(README.split())


def test_the_test_command_is_that_of_ci() -> None:
    _, command = re.findall(r"```sh\n(.*?)\n```", README, re.DOTALL)
    assert command in (ROOT / ".ci" / "run").read_text().splitlines()


def test_the_links_lead_somewhere() -> None:
    for document in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for link in re.findall(r"\]\(([^)#]+)", document.read_text()):
            assert link.startswith("https://") or (document.parent / link).exists(), link

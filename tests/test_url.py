"""Stores by their URLs, and replicas of such stores."""

from __future__ import annotations

import os
import signal
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

import trio_replica as replica
from trio_replica import DirectoryStore, MemoryStore, PoisonedError, Ref, SqliteStore, _url
from trio_replica._url import SCHEMES, split_url

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

    from trio_replica import DeletableStore

KNOWN = "memory:, dir:PATH, sqlite:PATH"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let relative paths be in a folder of the test's own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Opened:
    """Stands in for `open_store`: notes what is opened and closed, and fails for the URLs that it is told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.events: list[str] = []
        self.failing: set[str] = set()
        self._open_store = _url.open_store
        monkeypatch.setattr(_url, "open_store", self)

    @asynccontextmanager
    async def __call__(self, url: str) -> AsyncGenerator[DeletableStore, None]:
        if url in self.failing:
            raise OSError(f"can't open {url}")
        async with self._open_store(url) as store:
            self.events.append(f"open {url}")
            try:
                yield store
            finally:
                self.events.append(f"close {url}")


# One store


@pytest.mark.parametrize(
    ("url", "kind", "shown"),
    [
        ("memory:", MemoryStore, "<MemoryStore of 0 blobs>"),
        ("dir:blobs", DirectoryStore, "<DirectoryStore '{here}/blobs'>"),
        ("dir:a:b?c=d#e%20f", DirectoryStore, "<DirectoryStore '{here}/a:b?c=d#e%20f'>"),
        ("sqlite:blobs.db", SqliteStore, "<SqliteStore '{here}/blobs.db'>"),
        ("sqlite:{here}/blobs.db", SqliteStore, "<SqliteStore '{here}/blobs.db'>"),
        ("sqlite:a b", SqliteStore, "<SqliteStore '{here}/a b'>"),
    ],
)
async def test_each_scheme(here: Path, url: str, kind: type[DeletableStore], shown: str) -> None:
    with trio.testing.assert_checkpoints():
        async with replica.open_store(url.format(here=here)) as store:
            assert type(store) is kind
            assert repr(store) == shown.format(here=here)
            ref, _ = await store.put(b"hello")
            assert await store.get(ref) == b"hello"


@pytest.mark.parametrize("scheme", ["dir", "sqlite"])
async def test_a_store_on_disk_has_its_blobs_when_opened_again(scheme: str) -> None:
    async with replica.open_store(f"{scheme}:blobs") as store:
        await store.put(b"hello")
    async with replica.open_store(f"{scheme}:blobs") as store:
        assert await store.contains(Ref.of(b"hello"))


async def test_a_store_in_memory_is_new() -> None:
    async with replica.open_store("memory:") as one, replica.open_store("memory:") as other:
        await one.put(b"hello")
        assert not await other.contains(Ref.of(b"hello"))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_split_url(scheme: str) -> None:
    path = "" if scheme == "memory" else "some/path"
    assert split_url(f"{scheme}:{path}") == (scheme, path)


@pytest.mark.parametrize(
    "url",
    ["", "blobs", "/blobs", "./blobs.db", "s3://bucket/prefix", "file:///x", "DIR:x", " dir:x", ":x", "dir", "memory"],
)
def test_an_unknown_scheme_lists_the_known_ones(url: str) -> None:
    with pytest.raises(ValueError) as caught:
        replica.open_store(url)
    assert str(caught.value) == f"unknown store {url!r}: a store's URL is one of {KNOWN}"


@pytest.mark.parametrize(
    ("url", "shape"),
    [
        ("dir:", "dir:PATH"),
        ("sqlite:", "sqlite:PATH"),
        ("memory:x", "memory:"),
        ("memory://", "memory:"),
        ("dir:a\0b", "dir:PATH"),
    ],
)
def test_a_path_that_is_missing_or_too_much(url: str, shape: str) -> None:
    with pytest.raises(ValueError) as caught:
        replica.open_store(url)
    assert str(caught.value) == f"the URL of such a store is {shape}, not {url!r}"


@pytest.mark.parametrize("url", ["dir://nas/backup", "sqlite://host/blobs.db"])
def test_a_url_that_names_a_host(url: str) -> None:
    with pytest.raises(ValueError, match=f"can't name a host as '{url}' does"):
        replica.open_store(url)
    replica.open_store("dir:///absolute/path")


@pytest.mark.parametrize("junk", [None, 5, b"memory:", MemoryStore(), ["memory:"]])
def test_a_url_that_is_no_str(junk: Any) -> None:
    with pytest.raises(TypeError, match=rf"^the URL of a store is a str, not {type(junk).__name__}$"):
        replica.open_store(junk)
    with pytest.raises(TypeError, match=rf"^the URL of a store is a str, not {type(junk).__name__}$"):
        replica.open_urls([junk])


# A replica


@pytest.mark.parametrize(
    ("sync", "async_", "names"),
    [
        (["memory:"], (), "sync-0"),
        (("dir:a", "dir:b"), ["sqlite:c"], "sync-0, sync-1; async-0: 0 unreplicated"),
        (iter(["memory:", "memory:"]), (url for url in ["memory:"]), "sync-0, sync-1; async-0: 0 unreplicated"),
        ({"here": "dir:a"}, {"there": "dir:b"}, "here; there: 0 unreplicated"),
        ({"here": "dir:a"}, ["memory:"], "here; async-0: 0 unreplicated"),
        (["dir:a"], ["sqlite:b"], "sync-0; async-0: 0 unreplicated"),
    ],
)
async def test_open_urls(sync: Any, async_: Any, names: str) -> None:
    with trio.testing.assert_checkpoints():
        async with replica.open_urls(sync, async_) as store:
            assert repr(store) == f"<ReplicaStore open, {names}>"
            await store.put(b"hello")
            await store.flush()


async def test_what_is_put_is_in_every_store(here: Path) -> None:
    async with replica.open_urls({"near": "dir:a"}, {"far": "sqlite:b"}) as store:
        ref, _ = await store.put(b"hello")
    for url in ("dir:a", f"sqlite:{here}/b"):
        async with replica.open_store(url) as one:
            assert await one.get(ref) == b"hello"


async def test_options_are_passed_through(monkeypatch: pytest.MonkeyPatch) -> None:
    passed: list[dict[str, object]] = []

    def noting(*stores: Any, **options: Any) -> Any:
        passed.append(options)
        return replica.open(*stores, **options)

    monkeypatch.setattr(_url, "open_replica", noting)
    options = {"queue_size": 7, "batch_size": 3, "grace": 1.5, "hedge_delay": 0.25, "verify": False}
    async with replica.open_urls(["memory:"], ["memory:"], **options) as store:
        assert store.statistics().async_stores["async-0"].capacity == 7
    assert passed[-1] == options


async def test_stores_are_closed_in_reverse_after_the_replica_has_drained(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Opened(monkeypatch)
    async with replica.open_urls(["memory:", "dir:a"], ["sqlite:b"]) as store:
        assert opened.events == ["open memory:", "open dir:a", "open sqlite:b"]
        ref, _ = await store.put(b"hello")
    assert opened.events[3:] == ["close sqlite:b", "close dir:a", "close memory:"]
    async with replica.open_store("sqlite:b") as far:
        assert await far.contains(ref)


@pytest.mark.parametrize("failing", ["dir:a", "dir:b", "memory:"])
async def test_when_one_cannot_be_opened_those_before_it_are_closed(
    monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    opened = Opened(monkeypatch)
    opened.failing = {failing}
    with pytest.raises(OSError, match=rf"^can't open {failing}$"):
        await replica.open_urls(["dir:a", "dir:b"], ["memory:"]).__aenter__()
    count = len(opened.events) // 2
    assert count == ["dir:a", "dir:b", "memory:"].index(failing)
    assert [event.replace("close", "open") for event in opened.events[count:]] == opened.events[:count][::-1]


async def test_an_error_of_the_body_comes_out_as_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Opened(monkeypatch)
    error = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError) as caught:
        async with replica.open_urls(["dir:a"], ["memory:"]):
            raise error
    assert caught.value is error
    assert opened.events == ["open dir:a", "open memory:", "close memory:", "close dir:a"]


def test_an_interrupt_while_opening_waits_until_the_store_is_in_safe_hands(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []

    class Interrupting:
        async def __aenter__(self) -> MemoryStore:
            events.append("open")
            signal.raise_signal(signal.SIGINT)  # it is open, but nobody has it yet who would close it
            return MemoryStore()

        async def __aexit__(self, *exception: object) -> None:
            events.append("close")

    monkeypatch.setattr(_url, "open_store", lambda _url: Interrupting())

    async def main() -> None:
        async with replica.open_urls(["memory:"]):
            await trio.sleep_forever()

    with pytest.raises(KeyboardInterrupt):
        trio.run(main)
    assert events == ["open", "close"]


@pytest.mark.parametrize(
    ("sync", "async_"),
    [
        (["dir:a", "dir:a"], ()),
        (["dir:a"], ["dir:a"]),
        (["dir:a"], ["dir:{here}/a"]),
        (["dir:a"], ["dir:./b/../a/"]),
        (["dir:a"], ["dir:link/a"]),
        (["dir:dangling"], ["dir:a"]),
        (["sqlite:a.db"], {"other": "sqlite:link/a.db"}),
        ({"one": "sqlite:a.db", "other": "sqlite:a.db"}, ()),
    ],
)
def test_one_place_given_twice(here: Path, sync: Any, async_: Any) -> None:
    (here / "link").symlink_to(here)
    (here / "dangling").symlink_to("a")
    sync, async_ = (
        {name: url.format(here=here) for name, url in urls.items()}
        if isinstance(urls, dict)
        else [url.format(here=here) for url in urls]
        for urls in (sync, async_)
    )
    with pytest.raises(ValueError, match=r"^one store is given twice: as '(dir|sqlite):.*' and as '(dir|sqlite):.*'$"):
        replica.open_urls(sync, async_)
    assert sorted(os.listdir(here)) == ["dangling", "link"]


async def test_two_stores_in_memory_are_two() -> None:
    async with replica.open_urls(["memory:", "memory:"], ["memory:"]) as store:
        await store.put(b"hello")


@pytest.mark.parametrize(
    ("sync", "async_", "options", "expected"),
    [
        ("dir:a", (), {}, TypeError("sync stores are an iterable of URLs or a mapping of names to URLs, not 'dir:a'")),
        (
            ["dir:a"],
            "dir:b",
            {},
            TypeError("async stores are an iterable of URLs or a mapping of names to URLs, not 'dir:b'"),
        ),
        (None, (), {}, TypeError("sync stores are an iterable of URLs or a mapping of names to URLs, not None")),
        ([], ["dir:a"], {}, ValueError("a replica needs at least one sync store")),
        ({}, (), {}, ValueError("a replica needs at least one sync store")),
        (["dir:a", "nowhere"], (), {}, ValueError(f"unknown store 'nowhere': a store's URL is one of {KNOWN}")),
        (["dir:a"], ["sqlite:"], {}, ValueError("the URL of such a store is sqlite:PATH, not 'sqlite:'")),
        ({"": "dir:a"}, (), {}, ValueError("the name of a store is not empty")),
        ({1: "dir:a"}, (), {}, TypeError("the name of a store is a str, not 1")),
        (
            {"x": "dir:a"},
            {"x": "dir:b"},
            {},
            ValueError("the name 'x' is given twice: to a sync store and to an async store"),
        ),
        (["dir:a"], (), {"queue_size": 0}, ValueError("queue_size is at least 1, not 0")),
        (["dir:a"], (), {"grace": "1"}, TypeError("grace is a number of seconds, not '1'")),
        (["dir:a"], (), {"size": 1}, TypeError("open() got an unexpected keyword argument 'size'")),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_opened(
    here: Path, sync: Any, async_: Any, options: dict[str, Any], expected: Exception
) -> None:
    with pytest.raises(type(expected)) as caught:
        replica.open_urls(sync, async_, **options)
    assert str(caught.value) == str(expected)
    assert os.listdir(here) == []


async def test_a_poisoned_replica_says_so_when_its_block_ends(here: Path) -> None:
    with pytest.raises(PoisonedError) as caught:
        async with replica.open_urls(["memory:"], {"far": "dir:far"}) as store:
            (here / "far" / "tmp").rmdir()
            await store.put(b"hello")
    assert caught.value.unreplicated == {"far": (Ref.of(b"hello"),)}

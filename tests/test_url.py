"""Stores by their URLs, and replicas of such stores."""

from __future__ import annotations

import os
import shutil
import signal
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import trio
import trio.testing

import trio_replica as replica
from trio_replica import DirectoryStore, MemoryStore, PoisonedError, Ref, RetryingDeletableStore, SqliteStore
from trio_replica._open import open_with
from trio_replica._options import OPTIONS, Options
from trio_replica._urls import opening
from trio_replica._urls.parse import parse_url
from trio_replica._urls.places import check_places
from trio_replica._urls.store_url import StoreUrl
from trio_replica.testing import SimulatedStore

from .common import open_and_close
from .schemes import open_with_function

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from trio.testing import MockClock

    from trio_replica import DeletableStore

KNOWN = (
    "memory:, dir:PATH, sqlite:PATH, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX, "
    "postgresql://USER@HOST/DATABASE, postgres://USER@HOST/DATABASE"
)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let relative paths be in a folder of the test's own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Opened:
    """Notes which stores a replica opens and closes, and fails for the URLs that it is told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.events: list[str] = []
        self.failing: set[str] = set()
        self._open = StoreUrl.open
        monkeypatch.setattr(StoreUrl, "open", lambda url: self._opened(url))  # noqa: PLW0108  (to be bound)

    @asynccontextmanager
    async def _opened(self, opening: StoreUrl) -> AsyncGenerator[DeletableStore, None]:
        url = opening.shown
        if url in self.failing:
            raise OSError(f"can't open {url}")
        async with self._open(opening) as store:
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


@pytest.mark.parametrize(
    "url",
    ["", "blobs", "/blobs", "./blobs.db", "https://host/x", "file:///x", ":x"],
)
def test_an_unknown_scheme_lists_the_known_ones(url: str) -> None:
    with pytest.raises(ValueError) as caught:
        replica.open_store(url)
    assert str(caught.value) == f"unknown store {url!r}: a store's URL is one of {KNOWN}"


@pytest.mark.parametrize(
    ("url", "form"),
    [
        ("DIR:x", "dir:PATH"),
        (" dir:x", "dir:PATH"),
        ("dir", "dir:PATH"),
        ("memory", "memory:"),
        ("sqlit:x", "sqlite:PATH"),
        ("postgressql://h/db", "postgresql://USER@HOST/DATABASE"),
    ],
)
def test_a_scheme_that_is_misspelt(url: str, form: str) -> None:
    with pytest.raises(ValueError) as caught:
        replica.open_store(url)
    assert str(caught.value) == f"unknown store {url!r}; did you mean {form}?"


@pytest.mark.parametrize("scheme", ["dir", "sqlite"])
def test_a_path_that_a_shell_would_replace(here: Path, monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    with pytest.raises(ValueError) as caught:
        replica.open_store(f"{scheme}:~/x")
    assert str(caught.value) == (
        f"{scheme}:~/x is in a folder called ~, because ~ is not replaced here: write {scheme}:/home/me/x, "
        f"or {scheme}:./~/x if that is meant"
    )
    with pytest.raises(ValueError, match=r"because ~ is not replaced here"):
        replica.open_urls([f"{scheme}:~"])
    for path in ("./~/x", "a/~", "~nobody-has-this-name"):
        parse_url(f"{scheme}:{path}")
    assert os.listdir(here) == []


@pytest.mark.parametrize(
    ("url", "hint"),
    [
        ("s3://b?regoin=x", "; did you mean region?"),
        ("s3://b?request=5", "; did you mean requests?"),
        ("postgresql://h/db?durble=true", "; did you mean durable?"),
        ("postgresql://h/db?sslmod=require", "; did you mean sslmode?"),
    ],
)
def test_an_option_in_the_query_that_is_misspelt(url: str, hint: str) -> None:
    with pytest.raises(ValueError) as caught:
        replica.open_store(url)
    assert str(caught.value).endswith(hint)
    assert "\n" not in str(caught.value)


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


@pytest.mark.parametrize("url", ["dir:postgresql://me:hunter2@h/db", "sqlite:s3://b?secret_access_key=hunter2"])
def test_a_url_within_a_path(url: str) -> None:
    with pytest.raises(ValueError, match=r": for a store of \w+:// leave out (dir|sqlite):$") as caught:
        replica.open_store(url)
    assert "hunter2" not in str(caught.value)


def test_the_options_of_postgresql_in_its_url() -> None:
    url = parse_url("postgresql://me@h/db?durable=false&sslmode=prefer&answer_timeout=5&retry=false", {"durable": True})
    assert (url.path, url.options) == ("//me@h/db?sslmode=prefer", {"durable": False, "answer_timeout": 5.0})
    with pytest.raises(ValueError, match=r"^durable is true or false$"):
        parse_url("postgresql://me@h/db?durable=maybe")


@pytest.mark.parametrize("url", ["dir://nas/backup", "sqlite://host/blobs.db"])
def test_a_url_that_names_a_host(url: str) -> None:
    with pytest.raises(ValueError, match=f"can't name a host as '{url}' does"):
        replica.open_store(url)
    replica.open_store("dir:///absolute/path")


@pytest.mark.parametrize(
    "url", ["sqlite://user:hunter2@host/db", "memory://user:hunter2@host", "memory:password=hunter2"]
)
def test_a_secret_in_a_local_url_is_not_shown(url: str) -> None:
    with pytest.raises(ValueError, match=r"\*\*\*") as caught:
        replica.open_store(url)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("junk", [None, 5, b"memory:", MemoryStore(), ["memory:"]])
def test_a_url_that_is_no_str(junk: Any) -> None:
    with pytest.raises(TypeError, match=rf"^the URL of a store is a str, not {type(junk).__name__}$"):
        replica.open_store(junk)
    with pytest.raises(TypeError, match=rf"^the URL of a store is a str, not {type(junk).__name__}$"):
        replica.open_urls([junk])


# A store on another machine


class OpenedWith(NamedTuple):
    """A call of a function that opens a store."""

    function: str
    arguments: tuple[object, ...]
    options: dict[str, object]


@pytest.fixture
def opened_with(monkeypatch: pytest.MonkeyPatch) -> list[OpenedWith]:
    """Note what is opened; each store is one in memory."""
    calls: list[OpenedWith] = []

    def fake(function: str) -> Any:
        def open_it(*arguments: object, **options: object) -> Any:
            calls.append(OpenedWith(function, arguments, options))
            return open_store("memory:")

        return open_it

    open_store = replica.open_store
    open_with_function(monkeypatch, fake("open_object_store"), "s3", "gs", "az")
    open_with_function(monkeypatch, fake("open_postgres"), "postgresql", "postgres")
    open_with_function(monkeypatch, fake("open_directory"), "dir")
    open_with_function(monkeypatch, fake("open_sqlite"), "sqlite")
    return calls


@pytest.mark.parametrize(
    ("url", "function", "theirs"),
    [
        ("s3://bucket/some/prefix", "open_object_store", "s3://bucket/some/prefix"),
        ("gs://bucket", "open_object_store", "gs://bucket"),
        ("az://c/p?account_name=x&retry=true", "open_object_store", "az://c/p?account_name=x"),
        ("s3://b?retry=1", "open_object_store", "s3://b"),
        ("s3://b?retry=true&region=x&retry_seconds=5&a=b%26c=", "open_object_store", "s3://b?region=x&a=b%26c="),
        ("s3://b?r%65try=true&retries=5&retry_timeout=3", "open_object_store", "s3://b?retries=5&retry_timeout=3"),
        ("postgresql://me:pw@host/db", "open_postgres", "postgresql://me:pw@host/db"),
        ("postgres://me:p?retry=x@host/db?retry=true", "open_postgres", "postgres://me:p?retry=x@host/db"),
        (
            "postgres://me:p%3Fw@host?retry=1&sslmode=require",
            "open_postgres",
            "postgres://me:p%3Fw@host?sslmode=require",
        ),
        ("postgresql:///db?host=/tmp/x@y", "open_postgres", "postgresql:///db?host=/tmp/x@y"),
        ("postgresql://", "open_postgres", "postgresql://"),
        ("postgresql://?service=x", "open_postgres", "postgresql://?service=x"),
    ],
)
async def test_a_remote_store_retries(opened_with: list[OpenedWith], url: str, function: str, theirs: str) -> None:
    async with replica.open_store(url) as store:
        assert opened_with == [OpenedWith(function, (theirs,), {})]
        assert isinstance(store, RetryingDeletableStore)
        ref, _ = await store.put(b"hello")
        assert await store.delete(ref)


@pytest.mark.parametrize(
    ("url", "theirs"),
    [
        ("s3://b/p?retry=false", "s3://b/p"),
        ("s3://b?region=x&retry=0", "s3://b?region=x"),
        ("postgresql://h/db?retry=false", "postgresql://h/db"),
    ],
)
async def test_a_remote_store_may_be_told_not_to_retry(opened_with: list[OpenedWith], url: str, theirs: str) -> None:
    async with replica.open_store(url) as store:
        assert type(store) is MemoryStore
    assert opened_with[0].arguments == (theirs,)


async def test_the_budget_of_the_retries(monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock) -> None:
    url = parse_url("s3://b?retry_attempts=3&retry_seconds=7.5")
    assert url.retry == {"attempts": 3, "seconds": 7.5}
    away = SimulatedStore()
    away.fail(OSError("away"))
    open_with_function(monkeypatch, lambda _: nullcontext(away), "s3")
    async with replica.open_store("s3://b?retry_seconds=7.5") as store:
        with pytest.raises(OSError, match="away"):
            await store.put(b"hello")
    assert trio.current_time() == 7.5


async def test_options_beside_the_url(opened_with: list[OpenedWith]) -> None:
    for url in ("s3://b?retry_attempts=5", "postgresql://h", "dir:a?retry=false", "sqlite:b"):
        parsed = parse_url(url, {"durable": False, "retry": True, "retry_attempts": 9})
        assert parsed.retry == {"attempts": 5 if "s3" in url else 9}
        async with parsed.open() as store:
            assert isinstance(store, RetryingDeletableStore)
        async with parsed.open(retry=False) as store:
            assert type(store) is MemoryStore
    assert [call.options for call in opened_with] == [{"durable": False}] * 8
    opened = ["s3://b", "postgresql://h", "a?retry=false", "b"]
    assert [call.arguments for call in opened_with[::2]] == [(path,) for path in opened]


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("s3:bucket", "the URL of such a store is s3://BUCKET/PREFIX"),
        ("postgres:/me:secret@host", "the URL of such a store is postgres://USER@HOST/DATABASE"),
        ("s3://b/p?sig=sec ret", "the URL of such a store is s3://BUCKET/PREFIX; a space in it is %20"),
        ("az://b/p\n?sig=secret", "the URL of such a store is az://CONTAINER/PREFIX; a space in it is %20"),
        ("gs://b\0", "the URL of such a store is gs://BUCKET/PREFIX; a space in it is %20"),
        ("s3://b?retry=maybe", "retry is true or false"),
        ("s3://b?retry", "retry is given once, as retry=VALUE"),
        ("s3://b?retry=true&retry=true", "retry is given once, as retry=VALUE"),
        ("s3://b?retry_attempts=x", "retry_attempts is a whole number"),
        ("s3://b?retry_seconds=", "retry_seconds is a number"),
        ("s3://b?retry_attempts=0", "retry_attempts is at least 1, not 0"),
        ("s3://b?retry_seconds=nan", "retry_seconds is 0 or more seconds, not nan"),
        ("s3://b?retry=false&retry_attempts=3", "retry_attempts and retry_seconds are for a store with retry=true"),
        ("redis://me:secret@host/1", f"unknown store 'redis:…': a store's URL is one of {KNOWN}"),
        ("me:secret@host", f"unknown store 'me:…': a store's URL is one of {KNOWN}"),
        ("http://host/?sig=secret", f"unknown store 'http://host/?sig=***': a store's URL is one of {KNOWN}"),
    ],
)
def test_what_is_wrong_with_a_remote_url(url: str, problem: str) -> None:
    with pytest.raises(ValueError) as caught:
        replica.open_store(url)
    assert str(caught.value) == problem


def test_what_a_store_refuses_is_said_before_any_is_opened(here: Path) -> None:
    with pytest.raises(ValueError, match="requests is at least 1, not 0"):
        replica.open_urls(["dir:a"], ["s3://bucket?requests=0"])
    with pytest.raises(ValueError, match="nothing but a bucket's name first"):
        replica.open_urls(["dir:a", "s3://me:secret@bucket"])
    assert os.listdir(here) == []


def test_a_url_is_shown_without_its_secrets() -> None:
    url = parse_url("postgresql://me:secret@host/db?sslpassword=secret&retry=true", {"durable": False})
    assert repr(url) == "<StoreUrl 'postgresql://me:***@host/db?sslpassword=***'>"
    assert repr(parse_url("dir:password=x")) == "<StoreUrl 'dir:password=***'>"  # in doubt


def test_urls_that_are_one_store() -> None:
    for one, other in [
        ("s3://b/p", "s3://b/p/"),
        ("s3://b/p?secret_access_key=x", "s3://b/p?secret_access_key=y&retry=false"),
        ("s3://b/a%20b", "s3://b/a%20b/?region=x"),
        ("s3://b?endpoint=http://h:1/", "s3://b/?endpoint=http%3A%2F%2FH:1"),
        ("postgresql://a:x@h/db", "postgres://b:y@H:5432/db"),
        ("postgresql://a@h", "postgresql://h/a"),
        ("postgresql:///db?host=h", "postgresql://h/?dbname=db&user=x"),
        ("postgresql:///?user=me&host=h,i", "postgresql://me:pw@h:5432,i:5432"),
        ("postgresql://h/db?port=7", "postgresql://h:7/db"),
    ]:
        with pytest.raises(ValueError, match=r"^one store is given twice: as '.*' and as '.*'$") as caught:
            check_places(map(parse_url, [one, "memory:", other]))
        assert "=x" not in str(caught.value).replace("region=x", "").replace("user=x", "")


def test_urls_that_are_different_stores() -> None:
    for one, other in [
        ("s3://b/p", "s3://b/q"),
        ("s3://b/p", "gs://b/p"),
        ("s3://b?endpoint=http://h:1", "s3://b?endpoint=http://h:2"),
        ("az://c?account_name=a", "az://c?account_name=b"),
        ("az://c?azure_storage_account_name=a", "az://c?azure_storage_account_name=b"),
        ("s3://b?aws_endpoint_url=http://h:1", "s3://b?aws_endpoint_url=http://h:2"),
        ("gs://b?base_url=http://h:1", "gs://b?base_url=http://h:2"),
        ("postgresql:///db?hostaddr=10.0.0.1", "postgresql:///db?hostaddr=10.0.0.2"),
        ("postgresql:///db?host=/tmp/a", "postgresql:///db?host=/tmp/A"),
        ("postgresql://h/db", "postgresql://h/other"),
        ("postgresql://h/db", "postgresql://h:5433/db"),
        ("postgresql://h/db", "postgresql://i/db"),
        ("postgresql://?service=a", "postgresql://?service=b"),
        ("postgresql://h/db?options=-csearch_path%3Da", "postgresql://h/db?options=-csearch_path%3Db"),
        ("dir:a", "sqlite:a"),
    ]:
        check_places(map(parse_url, [one, other]))
    check_places([parse_url("s3://b", {"endpoint": "http://h"}), parse_url("s3://b", {"endpoint": "http://i"})])


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
    passed: list[Options] = []

    def noting(sync: Any, async_: Any, options: Options, *outbox: Any, **how: Any) -> Any:
        passed.append(options)
        return open_with(sync, async_, options, *outbox, **how)

    monkeypatch.setattr(opening, "open_with", noting)
    async with replica.open_urls(
        ["memory:"], ["memory:"], queue_size=7, batch_size=3, grace=1.5, hedge_delay=0.25, verify=False
    ) as store:
        assert store.statistics().async_stores["async-0"].capacity == 7
    assert passed == [Options(queue_size=7, batch_size=3, grace=1.5, hedge_delay=0.25, verify=False)]


@pytest.mark.parametrize("fallback", [["async-1"], iter(["async-1"])])
async def test_the_fallback_is_read(fallback: Any) -> None:
    async with replica.open_urls(["dir:a"], ["memory:", "dir:b"], fallback=fallback, repair_reads=True) as store:
        ref, _ = await store.put(b"hello")
        await store.flush()
        for folder in Path("a/blobs").iterdir():
            shutil.rmtree(folder)
        assert await store.get(ref) == b"hello"
        await trio.testing.wait_all_tasks_blocked()
    assert store.statistics().sync_stores["sync-0"].repaired == 1


def test_a_fallback_that_is_no_async_store() -> None:
    with pytest.raises(ValueError, match=r"^fallback has 'far', which is not an async store: those are 'async-0'$"):
        replica.open_urls(["dir:a"], ["dir:b"], fallback=["far"])
    assert os.listdir() == []


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

    monkeypatch.setattr(StoreUrl, "open", lambda _url: Interrupting())

    async def main() -> None:
        await open_and_close(replica.open_urls(["memory:"]))

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
        (
            "postgresql://me:secret@host",
            (),
            {},
            TypeError(
                "sync stores are an iterable of URLs or a mapping of names to URLs, not 'postgresql://me:***@host'"
            ),
        ),
        (
            ["s3://b?sig=x"],
            ["s3://b?sig=y"],
            {},
            ValueError("one store is given twice: as 's3://b?sig=***' and as 's3://b?sig=***'"),
        ),
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
        (
            ["dir:a"],
            (),
            {"size": 1},
            TypeError(f"open_urls() got an unexpected keyword argument 'size'; the options are {', '.join(OPTIONS)}"),
        ),
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
            (here / "far" / "store-id").unlink()
            await store.put(b"hello")
    assert caught.value.unreplicated == {"far": (Ref.of(b"hello"),)}

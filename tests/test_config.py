"""Configuration files: what they open, and what is said of those that open nothing."""

from __future__ import annotations

import copy
import io
import os
import pickle
import tomllib
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

import trio_replica as replica
from trio_replica import ConfigError, DirectoryStore, RetryingDeletableStore, SqliteStore, config
from trio_replica._options import OPTIONS
from trio_replica._urls.registry import OURS, find_scheme, forms
from trio_replica._urls.store_options import option_kinds
from trio_replica.config import read_config

from .common import miss_package, open_and_close
from .schemes import open_with_function

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

FILE = "trio-replica.toml"


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Write a file of some text, in the current folder, and return its name."""
    monkeypatch.chdir(tmp_path)

    def write(text: str) -> str:
        Path(FILE).write_text(text)
        return FILE

    return write


def problem(path: str) -> str:
    """Return what is wrong with a file."""
    with pytest.raises(ConfigError) as caught:
        replica.open_config(path)
    assert "\n" not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return str(caught.value).removeprefix(FILE)


# Files that open a replica


async def test_a_replica(write: Callable[[str], str], tmp_path: Path) -> None:
    path = write(
        """
        queue_size = 7
        batch_size = 3
        grace = 1.5
        hedge_delay = 0
        verify = false
        fallback = ["none", "far away"]
        repair_reads = true

        [sync]
        near = "sqlite:near.db"
        here = { url = "dir:here", durable = false }
        [async]
        "far away" = "dir:far"
        none.url = "memory:"
        """
    )
    with trio.testing.assert_checkpoints():
        async with replica.open_config(path) as store:
            assert repr(store) == "<ReplicaStore open, near, here; far away: 0 unreplicated; none: 0 unreplicated>"
            assert store.statistics().async_stores["far away"].capacity == 7
            ref, _ = await store.put(b"hello")
    for url in ("sqlite:near.db", "dir:here", "dir:far"):
        async with replica.open_store(url) as one:
            assert await one.get(ref) == b"hello"
    assert sorted(os.listdir(tmp_path)) == ["far", "here", "near.db", FILE]
    assert read_config(path).options == {
        "queue_size": 7,
        "batch_size": 3,
        "grace": 1.5,
        "hedge_delay": 0,
        "verify": False,
        "fallback": ("none", "far away"),
        "repair_reads": True,
    }


def test_a_fallback_that_is_named_by_a_url(write: Callable[[str], str]) -> None:
    name = "s3://b?sig=secret"
    path = write(f"fallback = ['{name}']\n[sync]\na = 'memory:'\n[async]\n'{name}' = 'memory:'\n")
    assert read_config(path).options == {"fallback": ("s3://b?sig=***",)}


async def test_paths_are_relative_to_the_file(write: Callable[[str], str], tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / FILE).write_text(
        f'[sync]\na = "dir:a"\nb = "sqlite:../b.db"\nc = "dir:{tmp_path}/c"\nd="dir:///{tmp_path}/d"\n'
    )
    for path in (folder / FILE, Path("folder", FILE), f"folder/../folder/{FILE}"):
        await open_and_close(replica.open_config(path))
    assert sorted(os.listdir(tmp_path)) == ["b.db", "c", "d", "folder"]
    assert sorted(os.listdir(folder)) == ["a", FILE]
    assert read_config(folder / FILE).sync["a"].shown == f"dir:{folder}/a"


async def test_options_are_what_the_store_is_opened_with(
    write: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Any] = []

    @asynccontextmanager
    async def opening(*said: object) -> AsyncGenerator[Any, None]:
        opened.append(said)
        async with replica.open_store("memory:") as store:
            yield store

    def open_object_store(url: str, *, requests: int = 1, request_timeout: float = 1.0, **others: str | bool) -> Any:
        return opening(url, requests, request_timeout, others)

    def open_postgres(url: str, *, durable: bool = True, answer_timeout: float = 1.0) -> Any:
        return opening(url, durable, answer_timeout)

    open_with_function(monkeypatch, open_object_store, "s3")
    open_with_function(monkeypatch, open_postgres, "postgres")
    path = write(
        """
        [sync]
        a = { url = "memory:", retry = true, retry_attempts = 5, retry_seconds = 7 }
        b = "memory:"
        [async.c]
        url = "s3://b/p?region=x&retry_seconds=3"
        requests = 5
        request_timeout = 3
        allow_http = true
        secret_access_key = "secret"
        retry_seconds = 9.5
        [async.d]
        url = "postgres://me@h/db"
        durable = false
        answer_timeout = 2.5
        retry = false
        """
    )
    await open_and_close(replica.open_config(path))
    others = {"allow_http": True, "secret_access_key": "secret"}
    assert opened == [("s3://b/p?region=x", 5, 3, others), ("postgres://me@h/db", False, 2.5)]
    kept = read_config(path)
    assert kept.sync["a"].retry == {"attempts": 5, "seconds": 7}
    assert kept.sync["b"].retry is None
    assert kept.async_["c"].retry == {"seconds": 3.0}
    assert kept.async_["d"].retry is None
    assert "secret" not in repr(kept)


async def test_a_store_retries_if_the_file_says_so(write: Callable[[str], str]) -> None:
    path = write('[sync]\na = { url = "dir:a", retry = true }\nb = { url = "sqlite:b" }\n')
    async with read_config(path).sync["a"].open() as a, read_config(path).sync["b"].open() as b:
        assert isinstance(a, RetryingDeletableStore)
        assert isinstance(b, SqliteStore)
    async with read_config(path).sync["a"].open(retry=False) as a:
        assert isinstance(a, DirectoryStore)


def test_a_file_from_another_system(write: Callable[[str], str]) -> None:
    Path(FILE).write_bytes('# ä\r\n[sync]\r\na = "memory:"\r\nb = """\r\nmemory:"""\r\nc = 1\r\n'.encode())
    assert problem(FILE) == ":6: sync.c has to be a URL in quotes, or a table with one, not a whole number"


@pytest.mark.parametrize("scheme", OURS)
def test_the_options_of_each_store_are_known(scheme: str) -> None:
    kind = find_scheme(scheme)
    assert kind is not None
    known, others = option_kinds(kind)
    assert {"retry", "retry_attempts", "retry_seconds"} <= known.keys()
    assert (others is not None) == (scheme in {"s3", "gs", "az"})
    assert ("durable" in known) == (scheme in {"dir", "sqlite", "postgresql", "postgres"})


# Files with a mistake

WRONG = [
    # The file
    ("sync", ":1: the file is not TOML: Expected '=' after a key in a key/value pair"),
    ('[sync]\n\na = "', ":3: the file is not TOML: Unterminated string"),
    ('[sync]\na = "memory:"\na = 1', ":3: the file is not TOML: Cannot overwrite a value"),
    ("[sync]\n[sync]\n", ":2: the file is not TOML: Cannot declare ('sync',) twice"),
    ("a = " + "[" * 3000 + "]" * 3000, ": its arrays or tables are nested too deeply"),
    ('a = """x\n\n', ":1: the file is not TOML: Unterminated string"),
    # Keys
    ("queue = 1", ":1: queue is unknown; did you mean queue_size?"),
    ("\nqueue_sise = 1", ":2: queue_sise is unknown; did you mean queue_size?"),
    (
        "[sync]\n[x.y]",
        f":2: x is unknown; known are {', '.join(OPTIONS)}, sync, async",
    ),
    ('[sync]\na = { url = "dir:a", durble = true }', ":2: sync.a.durble is unknown; did you mean durable?"),
    (
        '[sync.a]\nurl = "memory:"\nx = 1',
        ":3: sync.a.x is unknown; known are url, retry, retry_attempts, retry_seconds",
    ),
    (
        '[sync]\na = { url = "memory:", durable = true }',
        ":2: sync.a.durable is unknown; known are url, retry, retry_attempts, retry_seconds",
    ),
    (
        '[async]\n[async.a]\n\nx.y = 1\nurl = "postgres://h"',
        (
            ":4: async.a.x is unknown; known are url, retry, retry_attempts, retry_seconds, durable, answer_timeout, "
            "create, read_only, max_memory"
        ),
    ),
    # Types
    ("queue_size = '5'", ":1: queue_size has to be a whole number, not a text in quotes"),
    ("queue_size = 5.0", ":1: queue_size has to be a whole number, not a number"),
    ("batch_size = true", ":1: batch_size has to be a whole number, not true or false"),
    ("grace = []", ":1: grace has to be a number, not an array"),
    ("hedge_delay = 2020-01-01", ":1: hedge_delay has to be a number, not a date or time"),
    ("verify = 1", ":1: verify has to be true or false, not a whole number"),
    ("sync = 'dir:a'", ":1: sync has to be a table of stores, [sync], not a text in quotes"),
    ("[[sync]]", ":1: sync has to be a table of stores, [sync], not an array"),
    ("[sync]\na = 5", ":2: sync.a has to be a URL in quotes, or a table with one, not a whole number"),
    ("[sync]\na = ['dir:a']", ":2: sync.a has to be a URL in quotes, or a table with one, not an array"),
    ("[sync]\n[sync.a]\n", ':2: sync.a has no url: add url = "…"'),
    ("[sync]\na.durable = true\n", ':2: sync.a has no url: add url = "…"'),
    ("[sync]\na = { url = 5 }", ":2: sync.a.url has to be a text in quotes, not a whole number"),
    (
        "[sync.a]\nurl = 'dir:a'\ndurable = 'yes'",
        ":3: sync.a.durable has to be true or false, not a text in quotes",
    ),
    (
        "[sync.a]\nurl = 's3://b'\nsecret_access_key = 5",
        ":3: sync.a.secret_access_key has to be a text in quotes or true or false, not a whole number",
    ),
    (
        "[sync]\na = 'dir:x'\n[async]\nb = 'postgresql://me@h:port/db'",
        (
            ":4: async.b can't be used: the conninfo has no proper host and port: "
            "in a URL, a password's @, / and : are %40, %2F, %3A"
        ),
    ),
    (
        "[sync.a]\nurl = 'postgresql://h/db'\nanswer_timeout = -5",
        ":1: sync.a can't be used: answer_timeout is more than 0 seconds, not -5",
    ),
    (
        "[sync]\na = 'dir:x'\n[async]\nb = { url = 's3://b', endpoint = 'http://h:1' }",
        ":4: async.b can't be used: an endpoint with http:// needs allow_http=true, because it is not encrypted: s3://b",
    ),
    ("[sync.a]\nurl = 's3://b'\nrequest = 8", ":3: sync.a.request is unknown; did you mean requests?"),
    ("[sync.a]\nurl = 's3://b'\nrequests = 1.5", ":3: sync.a.requests has to be a whole number, not a number"),
    ("[sync.a]\nretry = 1\nurl = 'dir:a'", ":2: sync.a.retry has to be true or false, not a whole number"),
    # Values
    ("queue_size = 0", ":1: queue_size can't be used: queue_size is at least 1, not 0"),
    ("fallback = 'a'", ":1: fallback has to be an array, not a text in quotes"),
    ("repair_reads = 1", ":1: repair_reads has to be true or false, not a whole number"),
    (
        "\nfallback = ['a']\n[sync]\na = 'memory:'\n[async]\nb = 'memory:'",
        ":2: fallback can't be used: fallback has 'a', which is not an async store: those are 'b'",
    ),
    (
        "fallback = ['b', 5]\n[sync]\na = 'memory:'\n[async]\nb = 'memory:'",
        ":1: fallback can't be used: the name of a store is a str, not 5",
    ),
    (
        "fallback = ['a://me:secret@h', 'a://me:other@h']\n[sync]\na = 'memory:'\n[async]\n'a://me:x@h' = 'memory:'",
        ":1: fallback can't be used: fallback has 'a://me:***@h' twice",
    ),
    ("\ngrace = nan", ":2: grace can't be used: grace is 0 or more seconds, not nan"),
    (
        "[sync]\na = 'nowhere'",
        f":2: sync.a can't be used: unknown store 'nowhere': a store's URL is one of {', '.join(forms())}",
    ),
    ("[sync]\na = 'dir:'", ":2: sync.a can't be used: the URL of such a store is dir:PATH, not 'dir:'"),
    (
        "[sync.a]\nretry = false\nurl = 's3://b?retry=maybe'",
        ":3: sync.a.url can't be used: retry is true or false",
    ),
    (
        "[sync.a]\nurl = 'dir:a'\nretry_attempts = 0\nretry = true",
        ":1: sync.a can't be used: retry_attempts is at least 1, not 0",
    ),
    (
        "[sync.a]\nurl = 'dir:a'\nretry_attempts = 1",
        ":1: sync.a can't be used: retry_attempts and retry_seconds are for a store with retry=true",
    ),
    (
        "[sync]\nb = 'memory:'\na = { url = 's3://b', requests = 0 }",
        ":3: sync.a can't be used: requests is at least 1, not 0",
    ),
    ("[sync]\n'' = 'dir:a'", ':2: sync."" can\'t be used: the name of a store is not empty'),
    # Stores
    ("", ': sync needs a store: NAME = "URL"'),
    ("[async]\na = 'memory:'", ': sync needs a store: NAME = "URL"'),
    ("\n[sync]\n", ':2: sync needs a store: NAME = "URL"'),
    (
        "[sync]\na = 's3://b?sig=x'\n\n[async]\nb = 's3://b?sig=y'",
        ":5: async.b can't be used: one store is given twice: as 's3://b?sig=***' and as 's3://b?sig=***'",
    ),
    (
        "[sync]\na = 'memory:'\n[async]\nb = 'memory:'\na = 'memory:'",
        ":5: async.a can't be used: the name 'a' is given twice: to a sync store and to an async store",
    ),
    # No secrets
    (
        "[sync]\n'a://me:secret@h' = 'memory:'\n'a://me:other@h' = 'memory:'",
        ':3: sync."a://me:***@h" differs from another name only in its secrets',
    ),
    (
        "[sync]\na = 'memory:'\n'a://me:secret@h' = 's3://b?requests=0'",
        ':3: sync."a://me:***@h" can\'t be used: requests is at least 1, not 0',
    ),
    (
        "[sync]\n'a://me:secret@h' = 5",
        ':2: sync."a://me:***@h" has to be a URL in quotes, or a table with one, not a whole number',
    ),
    (
        "[sync]\na = 'x://me:secret@h'",
        f":2: sync.a can't be used: unknown store 'x:…': a store's URL is one of {', '.join(forms())}",
    ),
    (
        "[sync]\na = { url = 's3://me:secret@b' }",
        (
            ":2: sync.a can't be used: the URL of such a store is s3://BUCKET/PREFIX, "
            "with nothing but a bucket's name first"
        ),
    ),
]


@pytest.mark.parametrize(("text", "expected"), WRONG)
def test_what_is_wrong_is_said_at_once(write: Callable[[str], str], tmp_path: Path, text: str, expected: str) -> None:
    assert problem(write(text)) == expected
    assert os.listdir(tmp_path) == [FILE]


def test_one_store_twice(write: Callable[[str], str], tmp_path: Path) -> None:
    path = write('[sync]\na = "dir:x"\n[async]\nb = { url = "dir:./y/../x" }')
    assert problem(path) == (
        f":4: async.b can't be used: one store is given twice: as 'dir:{tmp_path}/x' and as 'dir:{tmp_path}/./y/../x'"
    )


def test_there_is_no_file(write: Callable[[str], str], tmp_path: Path) -> None:
    assert problem(FILE) == ": there is no such file; trio-replica init writes an example"
    home = os.path.expanduser("~/nowhere.toml")
    assert problem("~/nowhere.toml") == f"~/nowhere.toml: there is no such file; ~ is not replaced here: write {home!r}"
    assert problem(str(tmp_path)).endswith(": it can't be read: Is a directory")
    with pytest.raises(TypeError):
        replica.open_config(5)  # type: ignore[arg-type]


def test_a_file_in_another_encoding(write: Callable[[str], str]) -> None:
    Path(FILE).write_bytes(b"# \n# \n# \xff\n")
    assert problem(FILE) == ":3: the file is not UTF-8"
    Path(FILE).write_bytes(b"\xef\xbb\xbf[sync]\r\na = 'memory:'\r\n")
    assert read_config(FILE).sync["a"].shown == "memory:"


def test_a_reason_that_has_no_place(write: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> None:
    def loads(_: str) -> None:
        raise tomllib.TOMLDecodeError("token=secret")

    monkeypatch.setattr(tomllib, "loads", loads)
    assert problem(write("")) == ": the file is not TOML: token=***"


def test_a_package_is_missing(write: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> None:
    miss_package(monkeypatch, "obstore")
    with pytest.raises(ModuleNotFoundError, match=r"trio-replica\[cloud\]"):
        replica.open_config(write('[sync]\na = "s3://b"'))


async def test_a_store_that_cannot_be_opened(write: Callable[[str], str]) -> None:
    path = write('[sync]\na = "sqlite:a.db"\nb = "sqlite:nowhere/b.db"')
    opening = replica.open_config(path)
    with pytest.raises(Exception, match="nowhere"):
        await opening.__aenter__()


def test_the_error_survives_pickle_and_copy() -> None:
    for line, shown in ((5, "a.toml:5: x"), (None, "a.toml: x")):
        error = ConfigError("a.toml", line, "x")
        assert str(error) == shown
        for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
            assert type(again) is ConfigError
            assert (again.path, again.line, again.problem, str(again)) == ("a.toml", line, "x", shown)
    assert isinstance(error, ValueError)
    assert isinstance(error, replica.ReplicaError)


VALUE = st.recursive(
    st.one_of(
        st.integers(-3, 3).map(str),
        st.sampled_from(["true", "'memory:'", "'dir:x'", "'s3://b?retry=1'", "nan", "1.5", "1979-05-27", "'x'"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=2).map(lambda values: f"[{', '.join(values)}]"),
        st.dictionaries(st.sampled_from(["url", "durable", "retry", "retry_attempts", "x"]), inner, max_size=3).map(
            lambda table: "{" + ", ".join(f"{key} = {value}" for key, value in table.items()) + "}"
        ),
    ),
    max_leaves=4,
)
KEYS = ["queue_size", "grace", "verify", "sync", "async", "sync.a", "sync.b", "async.c", '"x y"', "sync.a.url"]


@given(st.dictionaries(st.sampled_from(KEYS), VALUE, max_size=6))
def test_any_file_opens_or_is_one_line(lines: dict[str, str]) -> None:
    folder = Path(trio.__file__).parent  # nothing is written there
    text = "".join(f"{key} = {value}\n" for key, value in lines.items())
    parsed: Any = None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config, "open", lambda *_: io.BytesIO(text.encode()), raising=False)
        try:
            parsed = read_config(folder / "made-up.toml")
        except ConfigError as error:
            assert "\n" not in str(error)
            assert error.line is None or 1 <= error.line <= len(lines)
            assert error.line is not None or not text or "sync needs a store" in str(error)
    assert parsed is None or parsed.sync

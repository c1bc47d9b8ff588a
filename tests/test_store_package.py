"""Stores of other packages, by their URLs: in programs, files and commands, and errors that name the package."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest

import trio_replica as replica
from trio_replica import ConfigError, MemoryStore, Ref, RetryingDeletableStore, StoreScheme
from trio_replica._urls.parse import parse_url
from trio_replica._urls.places import check_places
from trio_replica._urls.registry import claims

from . import store_packages
from .store_packages import run_command

if TYPE_CHECKING:
    from pathlib import Path

    from .store_packages import Site

site = store_packages.site

NEAR = """
from __future__ import annotations
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
import os
import trio_replica
from trio_replica import StoreScheme

if TYPE_CHECKING:
    from nowhere import Unknown

OPENED = []

@asynccontextmanager
async def open_near(path: Unknown, *, durable: bool = True, size: int | None = None, odd: Unknown = None) -> Unknown:
    OPENED.append((path, durable, size))
    async with trio_replica.open_directory(path + ".near", durable=durable) as store:
        yield store

SCHEME = StoreScheme(open_near, "PATH", landmark=lambda path: path + ".near")
"""
"""A store at a path. What its annotations name is not all there at run time."""

FAR = """
from contextlib import asynccontextmanager
from trio_replica import MemoryStore, StoreScheme

OPENED = []

@asynccontextmanager
async def _open(url, options):
    OPENED.append((url, options))
    yield MemoryStore()

def open_far(url, *, size: int = 5, wait: float = 1.0, name: str = "", tags: list[str] = ()):
    if size < 1:
        raise ValueError(f"size is at least 1, not {size}")
    return _open(url, {"size": size, "wait": wait, "name": name, "tags": tags})

SCHEME = StoreScheme(open_far, "//HOST/NAME")
"""
"""A store on another machine."""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TRIO_REPLICA_CONFIG", raising=False)
    return tmp_path


def opened(module: str) -> list[Any]:
    """Return what a package was asked to open."""
    calls: list[Any] = sys.modules[module].OPENED
    return calls


# What works


async def test_a_store_at_a_path(site: Site, here: Path) -> None:
    site.add("trio-near", NEAR, {"near": "trio_near:SCHEME"})
    async with replica.open_store("near:a"):
        pass
    (here / "x.toml").write_text('[sync]\na = { url = "near:b", durable = false, size = 7, retry = true }\n')
    async with replica.open_config(here / "x.toml") as store:
        ref, _ = await store.put(b"hello")
    async with replica.open_urls(["near:b"], {"c": "near:c"}) as store:
        assert await store.get(ref) == b"hello"
    assert opened("trio_near") == [
        ("a", True, None),
        (f"{here}/b", False, 7),
        ("b", True, None),
        ("c", True, None),
    ]
    with pytest.raises(ValueError, match=r"^one store is given twice: as 'near:a' and as 'near:\./a'$"):
        replica.open_urls(["near:a"], ["near:./a"])
    with pytest.raises(ValueError, match=r"^the outbox 'a' is a store as well: name another file$"):
        replica.open_urls({"a": "near:a"}, {}, outbox="a")


async def test_a_store_on_another_machine(site: Site) -> None:
    site.add("trio-far", FAR, {"far": "trio_far:SCHEME"})
    async with replica.open_store("far://host/name?size=7&wait=2&name=a%26b&retry_seconds=5") as store:
        assert isinstance(store, RetryingDeletableStore)
    async with replica.open_store("far://host/name?retry=false") as store:
        assert isinstance(store, MemoryStore)
    assert opened("trio_far") == [
        ("far://host/name", {"size": 7, "wait": 2.0, "name": "a&b", "tags": ()}),
        ("far://host/name", {"size": 5, "wait": 1.0, "name": "", "tags": ()}),
    ]
    with pytest.raises(ValueError, match=r"^one store is given twice: as 'far://h/x' and as 'far://h/x'$"):
        check_places([parse_url("far://h/x"), parse_url("far://h/x?size=7")])
    check_places([parse_url("far://h/x"), parse_url("far://h/y")])


async def test_the_options_in_a_file(site: Site, here: Path) -> None:
    site.add("trio-far", FAR, {"far": "trio_far:SCHEME"})
    (here / "x.toml").write_text('[sync]\na = { url = "far://h/x?size=7", size = 9, tags = ["a"] }\n')
    async with replica.open_config("x.toml"):
        pass
    assert opened("trio_far") == [("far://h/x", {"size": 7, "wait": 1.0, "name": "", "tags": ["a"]})]


async def test_each_is_imported_when_it_is_needed(site: Site) -> None:
    site.add("trio-near", NEAR, {"near": "trio_near:SCHEME"})
    site.add("trio-far", FAR, {"far": "trio_far:SCHEME"})
    async with replica.open_store("memory:"):
        assert claims.cache_info().misses == 0  # nobody has looked yet
    async with replica.open_store("near:a"):
        assert "trio_near" in sys.modules
    assert "trio_far" not in sys.modules


def test_the_command_line(site: Site, here: Path) -> None:
    site.add("trio-near", NEAR, {"near": "trio_near:SCHEME"})
    (here / "data").write_bytes(b"data")
    line = f"{Ref.of(b'data')}  data\n"
    stores = ["--sync", "near:a", "--async", "near:b"]
    ended = run_command(site, "put", "data", *stores)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, line, "")
    for folder in ("a.near", "b.near"):
        assert (here / folder / "blobs").is_dir()
    assert run_command(site, "ls", *stores).stdout == f"{Ref.of(b'data')}\n"
    ended = run_command(site, "ls", "--sync", "near:c")
    assert ended.stderr == "trio-replica: there is no store near:c: c.near: No such file or directory\n"
    assert not (here / "c.near").exists()
    (here / "x.toml").write_text('[sync]\na = { url = "near:c", durble = false }\n')
    ended = run_command(site, "put", "data", "--config", "x.toml")
    assert ended.stderr == "trio-replica: x.toml:2: sync.a.durble is unknown; did you mean durable?\n"
    (here / "x.toml").write_text('[sync]\na = { url = "near:c", durable = false }\n')
    assert run_command(site, "put", "data", "--config", "x.toml").stdout == line


# What is wrong


def test_a_package_that_cannot_be_imported(site: Site, here: Path) -> None:
    site.add("broken-stores", "import nowhere\n", {"broken": "broken_stores:SCHEME"})
    site.add("trio-near", NEAR, {"near": "trio_near:SCHEME"})
    said = (
        "the stores called broken of the package broken-stores can't be used: ModuleNotFoundError: "
        "No module named 'nowhere'"
    )
    for _ in range(2):
        with pytest.raises(ImportError) as caught:
            replica.open_store("broken:x")
        assert str(caught.value) == said
    replica.open_store("near:a")
    with pytest.raises(ImportError, match="broken-stores"):
        replica.open_urls(["dir:a"], ["broken:x"])
    (here / "x.toml").write_text('[sync]\na = "broken:x"\n')
    with pytest.raises(ImportError, match="broken-stores"):
        replica.open_config("x.toml")
    assert run_command(site, "ls", "--config", "x.toml").stderr == f"trio-replica: {said}\n"
    ended = run_command(site, "ls", "--sync", "broken:x")
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1] == f"Error: Invalid value for '--sync': {said}"


@pytest.mark.parametrize("value", ["other_stores:open_it", "other_stores"])
def test_an_object_that_is_no_scheme(site: Site, value: str) -> None:
    site.add("other-stores", "def open_it(path): ...", {"other": value})
    kind = "function" if ":" in value else "module"
    with pytest.raises(ImportError) as caught:
        replica.open_store("other:x")
    assert str(caught.value) == (
        f"the stores called other of the package other-stores can't be used: {value} is of type {kind}, "
        "not a StoreScheme"
    )


def test_two_packages_that_have_one_scheme(site: Site) -> None:
    for package in ("one-stores", "two-stores"):
        site.add(package, NEAR, {"near": f"{package.replace('-', '_')}:SCHEME"})
    with pytest.raises(ValueError, match=r"^the packages one-stores and two-stores both have stores called near: "):
        replica.open_store("near:x")
    replica.open_store("memory:")
    assert "one_stores" not in sys.modules


async def test_a_package_that_claims_a_scheme_of_ours(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    site.add("my-stores", NEAR, {"memory": "my_stores:SCHEME", "near": "my_stores:SCHEME"})
    replica.open_store("near:x")
    async with replica.open_store("memory:") as store:
        assert isinstance(store, MemoryStore)
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "the scheme memory is trio_replica's own: that of the package my-stores is not used")
    ]


def test_a_scheme_that_is_misspelt(site: Site) -> None:
    site.add("trio-near", NEAR, {"near": "trio_near:SCHEME"})
    with pytest.raises(ValueError, match=r"^unknown store 'naer:x'; did you mean near:…\?$"):
        replica.open_store("naer:x")
    with pytest.raises(ValueError, match=r"^unknown store 'xyz:x': a store's URL is one of memory:, .*, near:…$"):
        replica.open_store("xyz:x")
    assert "trio_near" not in sys.modules


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("far:x", "the URL of such a store is far://HOST/NAME"),
        ("far://h/x?szie=5", "the URL has an unknown option; did you mean size?"),
        (
            "far://h/x?qqq=secret",
            "the URL has an unknown option; known are retry, retry_attempts, retry_seconds, size, wait, name",
        ),
        ("far://h/x?tags=a", "the URL has an unknown option; known are "),
        ("far://h/x?size=x", "size is a whole number"),
        ("far://h/x?wait=x", "wait is a number"),
        ("far://h/x?size", "size is given once, as size=VALUE"),
        ("far://h/x?size=0", "size is at least 1, not 0"),
        ("near:", "the URL of such a store is near:PATH, not 'near:'"),
        ("near:~/x", "near:~/x is in a folder called ~, because ~ is not replaced here: write near:"),
        ("dir:far://h/x", "the URL of such a store is dir:PATH: for a store of far:// leave out dir:"),
    ],
)
def test_a_bad_url(site: Site, url: str, problem: str) -> None:
    site.add("trio-near", NEAR, {"near": "trio_near:SCHEME"})
    site.add("trio-far", FAR, {"far": "trio_far:SCHEME"})
    with pytest.raises(ValueError) as caught:
        replica.open_store(url)
    assert str(caught.value).startswith(problem)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('url = "near:a", durble = true', "sync.a.durble is unknown; did you mean durable?"),
        ('url = "near:a", size = "5"', "sync.a.size has to be a whole number, not a text in quotes"),
        (
            'url = "near:a", odd = 5',
            "sync.a.odd is unknown; known are url, retry, retry_attempts, retry_seconds, durable, size",
        ),
        ('url = "near:~/a"', "sync.a.url can't be used: near:~/a is in a folder called ~, because "),
        ('url = "far://h/x", size = 0', "sync.a can't be used: size is at least 1, not 0"),
    ],
)
def test_a_bad_option_in_a_file(site: Site, here: Path, line: str, problem: str) -> None:
    site.add("trio-near", NEAR, {"near": "trio_near:SCHEME"})
    site.add("trio-far", FAR, {"far": "trio_far:SCHEME"})
    (here / "x.toml").write_text(f"[sync]\na = {{ {line} }}\n")
    with pytest.raises(ConfigError) as caught:
        replica.open_config("x.toml")
    assert str(caught.value).startswith(f"x.toml:2: {problem}")


@pytest.mark.parametrize(("url", "extra"), [("s3://b", "cloud"), ("postgresql://h/db", "postgres")])
def test_the_extra_of_the_store_comes_first(monkeypatch: pytest.MonkeyPatch, url: str, extra: str) -> None:
    for name in ("obstore", "psycopg", "tenacity"):
        monkeypatch.setitem(sys.modules, name, None)
    for name in [
        name for name in sys.modules if name.startswith(("trio_replica.stores._obj", "trio_replica.stores._pos"))
    ]:
        monkeypatch.delitem(sys.modules, name)
    for opening in (replica.open_store, lambda url: replica.open_urls(["memory:"], [url])):
        with pytest.raises(ModuleNotFoundError, match=rf"pip install 'trio-replica\[{extra}\]'$"):
            opening(url)


def test_a_scheme_is_what_it_says() -> None:
    kind = StoreScheme(replica.open_directory, "PATH")
    assert (kind.has_path, kind.is_remote) == (True, False)
    assert StoreScheme(replica.open_directory, "//HOST").is_remote
    assert not StoreScheme(replica.open_directory, "").has_path

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

from . import store_packages, test_cli
from .common import open_and_close

if TYPE_CHECKING:
    from pathlib import Path

    from .store_packages import Site
    from .test_cli import Run

run = test_cli.run
site = store_packages.site

NEAR = """
from __future__ import annotations
from collections.abc import Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
import trio_replica
from trio_replica import StoreScheme

if TYPE_CHECKING:
    from nowhere import Unknown

OPENED = []

@asynccontextmanager
async def open_near(
    path: Unknown, *, durable: bool = True, size: int | None = None, odd: Callable[[], int] | None = None
) -> Unknown:
    OPENED.append((path, durable, size))
    async with trio_replica.open_directory(path + ".near", durable=durable) as store:
        yield store

SCHEME = StoreScheme(open_near, "PATH", landmark=lambda path: path + ".near")
"""
"""A store at a path. Annotations that are not those of options name a class that is not there at run time."""

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


# Schemes that work


async def test_a_store_at_a_path(site: Site, here: Path) -> None:
    site.add("trio-near", NEAR, {"near": "trio_near:SCHEME"})
    await open_and_close(replica.open_store("near:a"))
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
    await open_and_close(replica.open_config("x.toml"))
    assert opened("trio_far") == [("far://h/x", {"size": 7, "wait": 1.0, "name": "", "tags": ["a"]})]


async def test_each_is_imported_when_it_is_needed(site: Site) -> None:
    site.add("trio-near", NEAR, {"near": "trio_near:SCHEME"})
    site.add("trio-far", FAR, {"far": "trio_far:SCHEME"})
    async with replica.open_store("memory:"):
        assert claims.cache_info().misses == 0  # nobody has looked yet
    async with replica.open_store("near:a"):
        assert "trio_near" in sys.modules
    assert "trio_far" not in sys.modules


def test_the_command_line(site: Site, run: Run, here: Path) -> None:
    site.add("trio-near", NEAR, {"near": "trio_near:SCHEME"})
    (here / "data").write_bytes(b"data")
    line = f"{Ref.of(b'data')}  data\n".encode()
    stores = ["--sync", "near:a", "--async", "near:b"]
    ended = run("put", "data", *stores)
    assert ended == (0, line, "")
    for folder in ("a.near", "b.near"):
        assert (here / folder / "blobs").is_dir()
    assert run("ls", *stores).out == f"{Ref.of(b'data')}\n".encode()
    ended = run("ls", "--sync", "near:c")
    assert ended.problems == ["there is no store near:c: c.near: No such file or directory"]
    assert not (here / "c.near").exists()
    (here / "x.toml").write_text('[sync]\na = { url = "near:c", durble = false }\n')
    ended = run("put", "data", "--config", "x.toml")
    assert ended.problems == ["x.toml:2: sync.a.durble is unknown; did you mean durable?"]
    (here / "x.toml").write_text('[sync]\na = { url = "near:c", durable = false }\n')
    assert run("put", "data", "--config", "x.toml").out == line


# Packages, options and URLs with a mistake


def test_a_package_that_cannot_be_imported(site: Site, run: Run, here: Path) -> None:
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
    located = f"x.toml:2: sync.a can't be used: {said}"
    with pytest.raises(ImportError) as caught:
        replica.open_config("x.toml")
    assert str(caught.value) == located
    assert run("ls", "--config", "x.toml").problems == [located]
    ended = run("ls", "--sync", "broken:x")
    assert ended.status == 2
    assert ended.err.splitlines()[-1] == f"Error: Invalid value for '--sync': {said}"


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


@pytest.mark.parametrize(
    ("packages", "said"),
    [
        (
            ["a-stores", "b-stores"],
            "the packages a-stores and b-stores both have stores called near: uninstall all but ",
        ),
        (
            ["a-stores", "b-stores", "c-stores"],
            "the packages a-stores, b-stores and c-stores all have stores called near",
        ),
    ],
)
def test_packages_that_have_one_scheme(site: Site, packages: list[str], said: str) -> None:
    for package in packages:
        site.add(package, NEAR, {"near": f"{package.replace('-', '_')}:SCHEME"})
    with pytest.raises(ValueError) as caught:
        replica.open_store("near:x")
    assert str(caught.value).startswith(said)
    replica.open_store("memory:")
    assert "a_stores" not in sys.modules


def test_a_package_that_has_one_scheme_twice(site: Site) -> None:
    information = site.add("a-stores", NEAR, {"near": "a_stores:SCHEME"})
    with (information / "entry_points.txt").open("a") as file:
        file.write("near = a_stores:OTHER\n")
    with pytest.raises(ValueError, match=r"^the package a-stores has several entry points for stores called near$"):
        replica.open_store("near:x")


@pytest.mark.parametrize("value", ["not a valid thing!!", "a_stores:", ":SCHEME", "a b:c"])
async def test_an_entry_point_that_is_no_reference(site: Site, here: Path, value: str) -> None:
    site.add("a-stores", NEAR, {"weird": value, "near": "a_stores:SCHEME"})
    await open_and_close(replica.open_store("near:x"))
    said = (
        f"the stores called weird of the package a-stores can't be used: the entry point is MODULE:NAME, not {value!r}"
    )
    with pytest.raises(ImportError) as caught:
        replica.open_store("weird:x")
    assert str(caught.value) == said
    (here / "x.toml").write_text('[sync]\na = { url = "weird:x", durable = true }\n')
    with pytest.raises(ImportError) as caught:
        replica.open_config("x.toml")
    assert str(caught.value) == f"x.toml:2: sync.a.url can't be used: {said}"
    with pytest.raises(ValueError, match="did you mean weird:…"):
        replica.open_store("wierd:x")


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"[trio_replica.stores]\nbad = bad:S\xff\n", "UnicodeDecodeError: 'utf-8' codec can't decode byte 0xff"),
        (b"[trio_replica.stores]\nbad = bad:S\n[console_scripts]\nno equals sign\n", "entry_points.txt is malformed"),
    ],
)
async def test_entry_points_that_cannot_be_read(site: Site, here: Path, data: bytes, problem: str) -> None:
    for package in ("a-stores", "z-stores"):
        site.add(package, NEAR, {package[0]: f"{package[0]}_stores:SCHEME"})
    (site.add("bad-stores", "", {}) / "entry_points.txt").write_bytes(data)
    async with replica.open_store("a:x"), replica.open_store("z:y"):
        pass
    with pytest.raises(ValueError) as caught:
        replica.open_store("bad:x")
    start, _, end = str(caught.value).partition("; ")
    assert start.startswith("unknown store 'bad:x': a store's URL is one of memory:, ")
    assert end.startswith(f"the entry points of the package bad-stores can't be read: {problem}")
    (here / "x.toml").write_text('[sync]\na = "bad:x"\n')
    with pytest.raises(ConfigError, match=r"^x\.toml:2: sync\.a can't be used: unknown store .* package bad-stores "):
        replica.open_config("x.toml")


async def test_damage_that_has_nothing_to_do_with_stores(site: Site) -> None:
    site.add("a-stores", NEAR, {"a": "a_stores:SCHEME"})
    (site.add("other", "", {}) / "entry_points.txt").write_text("[console_scripts]\nno equals sign\n")
    await open_and_close(replica.open_store("a:x"))
    with pytest.raises(ValueError, match=r"^unknown store 'xyz:x': a store's URL is one of memory:, .*, a:…$"):
        replica.open_store("xyz:x")


async def test_the_first_package_of_a_name_on_the_path_counts_beside_damage(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (site.add("bad-stores", "", {}) / "entry_points.txt").write_text("[trio_replica.stores]\nno equals sign\n")
    site.add("a-stores", NEAR, {"near": "a_stores:SCHEME"})
    (tmp_path / "later").mkdir()
    type(site)(tmp_path / "later").add("a-stores", NEAR, {"near": "nowhere:SCHEME"})
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "later")])
    await open_and_close(replica.open_store("near:x"))


async def test_several_packages_without_metadata_beside_damage(site: Site) -> None:
    (site.add("bad-stores", "", {}) / "entry_points.txt").write_text("[trio_replica.stores]\nno equals sign\n")
    for package in ("a-stores", "z-stores"):
        information = site.add(package, NEAR, {package[0]: f"{package[0]}_stores:SCHEME"})
        (information / "METADATA").unlink()
    async with replica.open_store("a:x"), replica.open_store("z:y"):
        pass


@pytest.mark.parametrize("data", [b"[trio_replica.stores]\nnear = a_stores:NOTHING\n", b"\xff"])
def test_a_package_without_metadata(site: Site, data: bytes) -> None:
    information = site.add("a-stores", NEAR, {})
    (information / "METADATA").unlink()
    (information / "entry_points.txt").write_bytes(data)
    with pytest.raises((ValueError, ImportError)) as caught:
        replica.open_store("near:x")
    shown = (
        "of the package a_stores can't" if b"near" in data else f"of a package without METADATA in {site.folder} can't"
    )
    assert shown in str(caught.value)


def test_a_package_with_damaged_metadata(site: Site) -> None:
    information = site.add("a-stores", NEAR, {"near": "a_stores:NOTHING"})
    (information / "METADATA").write_bytes(b"\xff")
    with pytest.raises(ImportError, match=r"^the stores called near of the package a_stores can't be used: "):
        replica.open_store("near:x")


def test_a_package_that_exits(site: Site, run: Run) -> None:
    site.add("a-stores", "raise SystemExit(3)", {"near": "a_stores:SCHEME"})
    said = "the stores called near of the package a-stores can't be used: SystemExit: 3"
    with pytest.raises(ImportError) as caught:
        replica.open_store("near:x")
    assert str(caught.value) == said
    ended = run("ls", "--sync", "near:x")
    assert ended.status == 2
    assert ended.err.splitlines()[-1] == f"Error: Invalid value for '--sync': {said}"


def test_a_package_that_is_interrupted(site: Site) -> None:
    site.add("a-stores", "raise KeyboardInterrupt", {"near": "a_stores:SCHEME"})
    with pytest.raises(KeyboardInterrupt):
        replica.open_store("near:x")


@pytest.mark.parametrize(
    ("form", "parameters", "problem"),
    [
        ("PATH", "path, *, size=5", "their option size has no annotation, such as size: int"),
        (
            "PATH",
            "path, *, size: 'Unknown' = 5",
            "the annotation of their option size can't be looked up: NameError: name 'Unknown' is not defined; import ",
        ),
        ("PATH", "path, **more: 'Unknown'", "the annotation of their option more can't be looked up: NameError: "),
        ("PATH", "path, size: int = 5", "their option size is a positional parameter: make it keyword-only, after a *"),
        (
            "PATH",
            "path, size: int = 5, /",
            "their option size is a positional parameter: make it keyword-only, after a *",
        ),
        ("", "size: int = 5", "their option size is a positional parameter: make it keyword-only, after a *"),
        ("PATH", "*, size: int = 5", "the function that opens them has no parameter for the PATH"),
    ],
)
def test_an_option_that_is_not_declared(site: Site, here: Path, form: str, parameters: str, problem: str) -> None:
    source = f"import trio_replica\ndef f({parameters}): ...\nSCHEME = trio_replica.StoreScheme(f, {form!r})\n"
    site.add("a-stores", source, {"near": "a_stores:SCHEME"})
    url = "near:x" if form else "near:"
    said = f"the stores called near of the package a-stores can't be used: {problem}"
    with pytest.raises(ImportError) as caught:
        replica.open_store(url)
    assert str(caught.value).startswith(said)
    (here / "x.toml").write_text(f'[sync]\na = "{url}"\n')
    with pytest.raises(ImportError) as caught:
        replica.open_config("x.toml")
    assert str(caught.value).startswith(f"x.toml:2: sync.a can't be used: {said}")


@pytest.mark.parametrize("parameters", ["*addresses, **more", "path, *, size: int = 5, **more: str"])
def test_more_options(site: Site, here: Path, parameters: str) -> None:
    source = (
        f"import trio_replica\ndef f({parameters}): return trio_replica.open_store('memory:')\n"
        "SCHEME = trio_replica.StoreScheme(f, 'PATH')\n"
    )
    site.add("a-stores", source, {"near": "a_stores:SCHEME"})
    replica.open_store("near:x")
    (here / "x.toml").write_text('[sync]\na = { url = "near:x", extra = 3 }\n')
    problem = "is unknown; known are url, retry" if "addresses" in parameters else "has to be a text in quotes, not a "
    with pytest.raises(ConfigError, match=rf"^x\.toml:2: sync\.a\.extra {problem}"):
        replica.open_config("x.toml")


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


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"open": 3}, "open of a StoreScheme is a function, not 3"),
        ({"form": 3}, "form of a StoreScheme is a str, such as PATH or //HOST/NAME, not 3"),
        ({"place": 3}, "place of a StoreScheme is a function, not 3"),
        ({"landmark": "x"}, "landmark of a StoreScheme is a function, not 'x'"),
        ({"query": "size"}, "query of a StoreScheme is a collection of names, not 'size'"),
        ({"query": 3}, "query of a StoreScheme is a collection of names, not 3"),
    ],
)
def test_a_scheme_of_wrong_types(arguments: dict[str, Any], problem: str) -> None:
    given: dict[str, Any] = {"open": replica.open_directory, "form": "PATH", **arguments}
    with pytest.raises(TypeError) as caught:
        StoreScheme(**given)
    assert str(caught.value) == problem


def test_a_path_that_looks_like_a_url_is_a_path() -> None:
    with pytest.raises(ValueError, match=r"^one store is given twice: as 'dir:http://x' and as 'dir:http:/x'$"):
        replica.open_urls(["dir:http://x", "dir:http:/x"])


def test_a_scheme_is_what_it_says() -> None:
    kind = StoreScheme(replica.open_directory, "PATH")
    assert (kind.has_path, kind.is_remote) == (True, False)
    assert StoreScheme(replica.open_directory, "//HOST").is_remote
    assert not StoreScheme(replica.open_directory, "").has_path

"""`open_config`: a replica that a TOML file describes."""

from __future__ import annotations

import os
import re
import tomllib
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, final

from ._checks import at_home, did_you_mean
from ._errors import ReplicaError
from ._options import OPTIONS, TYPES, Options
from ._redact import redacted
from ._urls.kinds import kinds_of
from ._urls.opening import check_replica, open_opening
from ._urls.parse import parse_url
from ._urls.places import check_outbox, check_places
from ._urls.store_options import option_kinds
from ._urls.toml_lines import key_lines

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Mapping
    from contextlib import AbstractAsyncContextManager

    from ._replica import ReplicaStore
    from ._urls.store_url import StoreUrl
    from ._urls.toml_lines import Key

_KINDS: Final = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text in quotes",
    dict: "a table",
    list: "an array",
}
"""What the types of values are called. The others are those of dates and times."""


class ConfigError(ReplicaError, ValueError):
    """A configuration file can't be used. It is said in one line, with the file, the line in it, and the key."""

    def __init__(self, path: str, line: int | None, problem: str) -> None:
        place = path if line is None else f"{path}:{line}"
        super().__init__(f"{place}: {problem}")
        self.path = path
        """The file, as it was given."""
        self.line = line
        """The line, counted from 1; None if the problem has none."""
        self.problem = problem
        """What is wrong."""

    def _arguments(self) -> tuple[Any, ...]:
        return self.path, self.line, self.problem


def open_config(path: str | os.PathLike[str]) -> AbstractAsyncContextManager[ReplicaStore]:
    """Open the replica that a TOML file describes, with stores of its own, which the block opens and closes.

    As in ``async with open_config("trio-replica.toml") as store: …``. The file::

        queue_size = 64            # also batch_size, grace, hedge_delay, verify, repair_reads: what `open` takes
        outbox = "outbox.db"       # keeps what is pending for the async stores
        fallback = ["offsite"]     # async stores that a get asks when no sync store has the blob

        [sync]                     # names of stores, and their URLs: what `open_store` takes
        local = "sqlite:blobs.db"  # a path is relative to the folder of the file

        [async]
        offsite = { url = "s3://bucket/prefix", requests = 8, retry_seconds = 300 }

    A table instead of a URL has the URL and options: keyword arguments of the function that opens the store
    (`open_directory`, `open_sqlite`, `open_object_store`, `open_postgres`), ``retry``, ``retry_attempts`` and
    ``retry_seconds``. What the URL says itself counts more. Credentials need not be in the file: the clients find them
    in the environment.

    The file is read when this is called, which blocks.

    Raises:
      TypeError: at once, if `path` is no path.
      ConfigError: at once, if there is no such file, or it is no TOML, has an unknown key or a value of a wrong type,
        or describes no replica.
      ModuleNotFoundError: at once, if a store takes a package that is not installed.
      ImportError: at once, if the package that has such stores can't be used.
      Exception: on entering the block, what opening a store raises; those opened before it have been closed.
      PoisonedError: when the block ends; see `open`.

    """
    return read_config(path).open()


@final
@dataclass(frozen=True)
class Config:
    """What a file says."""

    sync: Mapping[str, StoreUrl]
    async_: Mapping[str, StoreUrl]
    options: Mapping[str, Any]
    """Those of `ReplicaOptions` that the file gives."""

    def open(self) -> AbstractAsyncContextManager[ReplicaStore]:
        """Open the replica for a block: see `open_config`."""
        sync, async_ = [{name: url.open() for name, url in urls.items()} for urls in (self.sync, self.async_)]
        return open_opening(sync, async_, Options(**self.options))


def read_config(path: str | os.PathLike[str]) -> Config:
    """Return what a configuration file says, and that fits together. Blocks.

    Raises:
      TypeError, ConfigError, ImportError: see `open_config`.

    """
    file = _File(os.fsdecode(path))
    file.check_keys((), file.document, (*OPTIONS, "sync", "async"))
    options = file.options()
    sync, async_ = file.stores("sync"), file.stores("async")
    if not sync:
        raise file.error(("sync",), 'needs a store: NAME = "URL"')
    _check_together(file, sync, async_, options.get("outbox"))
    with file.locating(("fallback",)):  # the one option that is about the stores
        check_replica(sync, async_, Options(**options))
    for kind, stores in (("sync", sync), ("async", async_)):
        for name, url in stores.items():
            with file.locating((kind, name)):
                url.open()  # which opens nothing yet, but checks all that is said of the store
    return Config(sync, async_, options)


def _check_together(
    file: _File, sync: Mapping[str, StoreUrl], async_: Mapping[str, StoreUrl], outbox: str | None
) -> None:
    """Check each store beside those before it, so that the error is at the line of the one too many."""
    names: dict[str, list[str]] = {"sync": [], "async": []}
    urls: list[StoreUrl] = []
    for kind, stores in (("sync", sync), ("async", async_)):
        for name, url in stores.items():
            names[kind].append(name)
            urls.append(url)
            with file.locating((kind, name)):
                check_replica(names["sync"], names["async"], Options(outbox=outbox))
                check_places(urls)
                check_outbox(outbox, urls)


@final
class _File:
    """A file that was read, and the errors that are in it."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._lines: dict[Key, int] = {}
        try:
            with open(path, "rb") as file:
                text = _decoded(path, file.read())
            self.document = tomllib.loads(text)
            self._lines.update(key_lines(text))
        except FileNotFoundError:
            home = at_home(path)
            hint = f"; ~ is not replaced here: write {home!r}" if home else "; trio-replica init writes an example"
            raise ConfigError(path, None, f"there is no such file{hint}") from None
        except OSError as error:
            raise ConfigError(path, None, f"it can't be read: {error.strerror}") from None
        except tomllib.TOMLDecodeError as error:
            raise _no_toml(path, text, str(error)) from None
        except RecursionError:
            raise ConfigError(path, None, "its arrays or tables are nested too deeply") from None

    def error(self, key: Key, problem: str) -> ConfigError:
        """Return the error that there is a problem with the value of a key, at its line or that of its table."""
        line = next((self._lines[key[:size]] for size in range(len(key), 0, -1) if key[:size] in self._lines), None)
        return ConfigError(self.path, line, f"{_shown(key)} {problem}")

    @contextmanager
    def locating(self, key: Key) -> Generator[None, None, None]:
        """Turn what is raised because a value is bad into an error at its line."""
        try:
            yield
        except (TypeError, ValueError) as error:
            raise self.error(key, f"can't be used: {redacted(str(error))}") from None
        except ImportError as error:  # nothing in the file is wrong, so it stays what it is
            kind = ModuleNotFoundError if isinstance(error, ModuleNotFoundError) else ImportError
            raise kind(str(self.error(key, f"can't be used: {redacted(str(error))}")), name=error.name) from error

    def beside(self, path: str) -> str:
        """Return a path that is relative to the folder of the file."""
        return os.path.join(os.path.dirname(os.path.abspath(self.path)), path)

    def options(self) -> dict[str, Any]:
        """Return the options of the replica that the file gives, checked."""
        options: dict[str, Any] = {}
        for name in filter(self.document.__contains__, OPTIONS):
            self.check_kind((name,), self.document[name], kinds_of(TYPES[name]))
            with self.locating((name,)):
                options[name] = OPTIONS[name].check(name, self.document[name])
        if "outbox" in options:
            options["outbox"] = self.beside(options["outbox"])
        return options

    def check_keys(self, table: Key, value: Mapping[str, Any], known: Iterable[str]) -> None:
        """Check that a table has only known keys."""
        known = list(known)
        for key in value:
            if key not in known:
                hint = did_you_mean(key, known) or f"; known are {', '.join(known)}"
                raise self.error((*table, key), f"is unknown{hint}")

    def check_kind(self, key: Key, value: object, kinds: tuple[type, ...]) -> None:
        """Check the type of a value."""
        if type(value) not in kinds:
            shape = " or ".join(_KINDS[kind] for kind in kinds if kind is not int or float not in kinds)
            raise self.error(key, f"has to be {shape}, not {_kind(value)}")

    def stores(self, kind: str) -> dict[str, StoreUrl]:
        """Return the stores of one kind, by their names without secrets."""
        table = self.document.get(kind, {})
        if not isinstance(table, dict):
            raise self.error((kind,), f"has to be a table of stores, [{kind}], not {_kind(table)}")
        stores: dict[str, StoreUrl] = {}
        for name, value in table.items():
            key, shown = (kind, name), redacted(name)
            if shown in stores:
                raise self.error(key, "differs from another name in what is secret in it alone")
            stores[shown] = self._store(key, value)
            self._lines.setdefault((kind, shown), self._lines[key])
        return stores

    def _store(self, key: Key, value: object) -> StoreUrl:
        if isinstance(value, str):
            return self._url(key, value, {})
        if not isinstance(value, dict):
            raise self.error(key, f"has to be a URL in quotes, or a table with one, not {_kind(value)}")
        if "url" not in value:
            raise self.error(key, 'has no url: add url = "…"')
        self.check_kind((*key, "url"), value["url"], (str,))
        options = {option: value[option] for option in value if option != "url"}
        url = self._url((*key, "url"), value["url"], {})
        known, others = option_kinds(url.kind)
        if others is None:
            self.check_keys(key, value, ["url", *known])
        for option, given in options.items():
            is_taken = option in known or type(given) in (others or ())
            if not is_taken and (hint := did_you_mean(option, known)):
                raise self.error((*key, option), f"is unknown{hint}")
            self.check_kind((*key, option), given, known.get(option, others or ()))
        return self._url(key, value["url"], options)

    def _url(self, key: Key, url: str, options: Mapping[str, Any]) -> StoreUrl:
        with self.locating(key):
            return parse_url(url, options, folder=self.beside(""))


def _decoded(path: str, data: bytes) -> str:
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n")  # some editors begin a file with a byte order mark
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
    raise ConfigError(path, line, "the file is not UTF-8")  # out here, for that error has the whole file


def _no_toml(path: str, text: str, reason: str) -> ConfigError:
    """Return the error for what `tomllib` says, which ends with the line and the column, or says that it is the end."""
    place = re.search(r" \(at (?:line (\d+), column \d+|end of document)\)$", reason)
    if place is None:
        return ConfigError(path, None, f"the file is no TOML: {redacted(reason)}")
    line = int(place[1]) if place[1] else text.rstrip("\n").count("\n") + 1
    return ConfigError(path, line, f"the file is no TOML: {redacted(reason[: place.start()])}")


def _shown(key: Key) -> str:
    """Return a key as it would be written, without secrets, for a name may be a URL."""
    parts = [part if re.fullmatch("[A-Za-z0-9_-]+", part) else f'"{redacted(part)}"' for part in key]
    return ".".join(parts)


def _kind(value: object) -> str:
    return next((shape for kind, shape in _KINDS.items() if type(value) is kind), "a date or time")

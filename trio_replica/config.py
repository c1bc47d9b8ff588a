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
"""The names of the types of values. Other types are those of dates and times."""


class ConfigError(ReplicaError, ValueError):
    """A configuration file can't be used. The message is one line with the file, the line in it, and the key."""

    def __init__(self, path: str, line: int | None, problem: str) -> None:
        place = path if line is None else f"{path}:{line}"
        super().__init__(f"{place}: {problem}")
        self.path = path
        """The path of the file, as it was given."""
        self.line = line
        """The line, counted from 1, or None if the problem has none."""
        self.problem = problem
        """The problem."""

    def _arguments(self) -> tuple[Any, ...]:
        return self.path, self.line, self.problem


def open_config(path: str | os.PathLike[str]) -> AbstractAsyncContextManager[ReplicaStore]:
    """Open the replica that a TOML file describes, with stores of its own, which the block opens and closes.

    Use it as in ``async with open_config("trio-replica.toml") as store: …``. An example of a file::

        queue_size = 64            # also batch_size, grace, hedge_delay, verify, repair_reads, as for `open`
        outbox = "outbox.db"       # keeps what is pending for the async stores
        fallback = ["offsite"]     # async stores that a get asks when no sync store has the blob

        [sync]                     # names of stores, and their URLs, as for `open_store`
        local = "sqlite:blobs.db"  # a path is relative to the folder of the file

        [async]
        offsite = { url = "s3://bucket/prefix", requests = 8, retry_seconds = 300 }

    A table instead of a URL has the URL and options. The options are the keyword arguments of the function that opens
    the store (`open_directory`, `open_sqlite`, `open_object_store`, `open_postgres`), and ``retry``, ``retry_attempts``
    and ``retry_seconds``. Options in the URL take precedence. Credentials need not be in the file, because the clients
    find them in the environment.

    The file is read when this is called, which blocks.

    Raises:
      TypeError: at once, if `path` is not a path.
      ConfigError: at once, if there is no such file, or it is not TOML, has an unknown key or a value of a wrong type,
        or does not describe a replica.
      ModuleNotFoundError: at once, if a store needs a package that is not installed.
      ImportError: at once, if another package provides such stores and can't be used.
      Exception: on entering the block, if a store can't be opened. Stores opened before it have been closed.
      PoisonedError, StoreError: when the block ends, in the same cases as with `open`.

    """
    return read_config(path).open()


@final
@dataclass(frozen=True)
class Config:
    """The content of a file."""

    sync: Mapping[str, StoreUrl]
    async_: Mapping[str, StoreUrl]
    options: Mapping[str, Any]
    """The options of `ReplicaOptions` that the file gives."""

    def open(self) -> AbstractAsyncContextManager[ReplicaStore]:
        """Open the replica for a block: see `open_config`."""
        return open_opening(self.sync, self.async_, Options(**self.options))


def read_config(path: str | os.PathLike[str]) -> Config:
    """Return the content of a configuration file after checking all of it. Blocks.

    Raises:
      TypeError, ConfigError, ImportError: in the same cases as with `open_config`.

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
                url.open()  # this opens nothing yet, but checks the options of the store
    return Config(sync, async_, options)


def _check_together(
    file: _File, sync: Mapping[str, StoreUrl], async_: Mapping[str, StoreUrl], outbox: str | None
) -> None:
    """Check each store together with those before it, so that the error is at the line of the one that does not fit."""
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
    """A file that was read, with methods that check its values and make errors with their lines."""

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
        """Return the error for a problem with the value of a key, at the line of the key or of its table."""
        line = next((self._lines[key[:size]] for size in range(len(key), 0, -1) if key[:size] in self._lines), None)
        return ConfigError(self.path, line, f"{_shown(key)} {problem}")

    @contextmanager
    def locating(self, key: Key) -> Generator[None, None, None]:
        """Turn an exception about a bad value into an error at its line."""
        try:
            yield
        except (TypeError, ValueError) as error:
            raise self.error(key, f"can't be used: {redacted(str(error))}") from None
        except ImportError as error:  # the file is right, so it stays an ImportError
            kind = ModuleNotFoundError if isinstance(error, ModuleNotFoundError) else ImportError
            raise kind(str(self.error(key, f"can't be used: {redacted(str(error))}")), name=error.name) from error

    def beside(self, path: str) -> str:
        """Return a path of the file, relative to the folder of the file."""
        return os.path.join(os.path.dirname(os.path.abspath(self.path)), path)

    def options(self) -> dict[str, Any]:
        """Return the options of the replica that the file gives, after checking them."""
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
                raise self.error(key, "differs from another name only in its secrets")
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
    raise ConfigError(path, line, "the file is not UTF-8")  # out here, because the other error has the whole file


def _no_toml(path: str, text: str, reason: str) -> ConfigError:
    """Return the error for a message of `tomllib`, which ends with the place of the error."""
    place = re.search(r" \(at (?:line (\d+), column \d+|end of document)\)$", reason)
    if place is None:
        return ConfigError(path, None, f"the file is not TOML: {redacted(reason)}")
    line = int(place[1]) if place[1] else text.rstrip("\n").count("\n") + 1
    return ConfigError(path, line, f"the file is not TOML: {redacted(reason[: place.start()])}")


def _shown(key: Key) -> str:
    """Return a key as a file would have it, without secrets, because a name may be a URL."""
    parts = [part if re.fullmatch("[A-Za-z0-9_-]+", part) else f'"{redacted(part)}"' for part in key]
    return ".".join(parts)


def _kind(value: object) -> str:
    return next((shape for kind, shape in _KINDS.items() if type(value) is kind), "a date or time")

"""A kind of store that the URLs of one scheme name: how it is opened, and where a store of it is."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

from ._query import split_query

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping
    from contextlib import AbstractAsyncContextManager

    from ._deletable import DeletableStore


def path_place(path: str, _: Mapping[str, Any]) -> Hashable:
    """Return where a path leads."""
    return os.path.realpath(path)


def url_place(url: str, _: Mapping[str, Any]) -> Hashable:
    """Return a URL without its options."""
    return split_query(url)[0]


@final
@dataclass(frozen=True)
class StoreScheme:
    """A kind of store that URLs name, also in files and on the command line.

    A package registers one for its stores as an entry point of the group ``trio_replica.stores``, whose name is the
    scheme and whose object is a `StoreScheme`::

        [project.entry-points."trio_replica.stores"]
        lmdb = "trio_lmdb:SCHEME"

    It is imported when a URL with its scheme is first used.

    Args:
      open: the function that opens such a store for a block. It is given the path or the URL, unless `form` is empty,
        and options as keyword arguments. It opens nothing before the block is entered, but raises `TypeError` or
        `ValueError` at once for a bad option. An option is a keyword-only parameter whose annotation says which values
        a file may have for it: ``bool``, ``int``, ``float``, ``str``, ``list`` and unions of these. It has to
        be one that can be looked up at run time. The options
        ``retry``, ``retry_attempts`` and ``retry_seconds``, which all stores have, do not get there.
      form: what comes after the scheme and its colon, as messages show it. ``PATH`` is a path, which is taken as it
        stands; in a file it is relative to the folder of the file, and options stand beside the URL. A form that begins
        with ``//``, as ``//HOST/NAME``, is that of a store on another machine: the function is given the whole URL, the
        options in its query are taken out and given to it, and failed operations are retried unless the URL says
        ``retry=false``. If the form is empty, nothing comes after the colon.
      place: returns what is the same for two URLs of one store, given what the function is given: the path or the URL,
        and a mapping of the options. None means that each is a store of its own. By default it is where the path leads,
        or the URL without its options.
      landmark: returns the path that exists if there is a store at a path, so that a command that only reads can say
        that there is none instead of creating it.
      query: the names of options that the function reads in the query of its URL itself, as far as they are known, for
        a message about one that is misspelt. Options that are neither these nor parameters are left in the URL, too. By
        default there are none, and other options are refused.

    Raises:
      TypeError: if an argument is not of the type that it has here.

    """

    open: Callable[..., AbstractAsyncContextManager[DeletableStore]]
    form: str
    place: Callable[[str, Mapping[str, Any]], Hashable] | None = url_place
    landmark: Callable[[str], str] = str
    query: Collection[str] | None = None

    def __post_init__(self) -> None:
        for name in ("open", "landmark", *(["place"] if self.place is not None else [])):
            if not callable(getattr(self, name)):
                raise TypeError(f"{name} of a StoreScheme is a function, not {getattr(self, name)!r}")
        if not isinstance(self.form, str):
            raise TypeError(f"form of a StoreScheme is a str, such as PATH or //HOST/NAME, not {self.form!r}")
        names = () if self.query is None else self.query
        if isinstance(names, str) or not isinstance(names, Collection):
            raise TypeError(f"query of a StoreScheme is a collection of names, not {names!r}")
        if self.place is url_place and self.has_path:
            object.__setattr__(self, "place", path_place)  # a path may look like a URL

    @property
    def is_remote(self) -> bool:
        """Whether the stores are on other machines, so that failed operations are retried."""
        return self.form.startswith("//")

    @property
    def has_path(self) -> bool:
        """Whether a store is at a path."""
        return bool(self.form) and not self.is_remote

"""The description of a kind of store for the URLs of one scheme."""

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
    """Return the real path that a path leads to."""
    return os.path.realpath(path)


def url_place(url: str, _: Mapping[str, Any]) -> Hashable:
    """Return a URL without its options."""
    return split_query(url)[0]


@final
@dataclass(frozen=True)
class StoreScheme:
    """A kind of store that has URLs, which also work in files and on the command line.

    A package registers one for its stores as an entry point of the group ``trio_replica.stores``, whose name is the
    scheme and whose object is a `StoreScheme`::

        [project.entry-points."trio_replica.stores"]
        lmdb = "trio_lmdb:SCHEME"

    It is imported when a URL with its scheme is first used.

    Args:
      open: the function that opens such a store for a block. It is given the path or the URL, unless `form` is empty,
        and options as keyword arguments. It opens nothing before the block is entered, but raises `TypeError` or
        `ValueError` at once for a bad option. An option is a keyword-only parameter. Its annotation says which values a
        file may have for it: ``bool``, ``int``, ``float``, ``str``, ``list`` and unions of these. The annotation has to
        be usable at run time. The function does not get the options ``retry``, ``retry_attempts`` and
        ``retry_seconds``, which all stores have.
      form: the part after the scheme and its colon, as messages show it. ``PATH`` is a path, which is used literally.
        In a file it is relative to the folder of the file, and options stand beside the URL. A form that begins with
        ``//``, such as ``//HOST/NAME``, is that of a store on another machine. Then the function is given the whole URL
        without the options in its query, and these options as keyword arguments. Failed operations are retried unless
        the URL says ``retry=false``. If the form is empty, nothing comes after the colon.
      place: a function that returns a value that is equal for two URLs of one store. Its arguments are the path or the
        URL, and a mapping of the options. None means that each URL is a store of its own. By default the value is the
        real path, or the URL without its options.
      landmark: a function that takes the path of a store and returns a path that exists only if the store does. With
        it, a command that only reads can report a missing store instead of creating it. The function may look at the
        files there, and raise `OSError` if the system refuses.
      query: the names of options that the function itself reads in the query of its URL, as far as they are known.
        Messages about misspelt options use these names. Options that are neither these nor parameters stay in the URL
        as well. By default there are none, and other options are refused.

    Raises:
      TypeError: if an argument has the wrong type.

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
            object.__setattr__(self, "place", path_place)  # `url_place` would misread a path that looks like a URL

    @property
    def is_remote(self) -> bool:
        """Whether the stores are on other machines, so that failed operations are retried."""
        return self.form.startswith("//")

    @property
    def has_path(self) -> bool:
        """Whether a store is at a path."""
        return bool(self.form) and not self.is_remote

"""The check that no two URLs, and no URL and the outbox, name the same place."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable

    from .store_url import StoreUrl


def check_places(urls: Iterable[StoreUrl]) -> None:
    """Check that no two URLs name the same store.

    Raises:
      ValueError: if two do.

    """
    places: dict[Hashable, StoreUrl] = {}
    for url in urls:
        other = places.setdefault(url.place, url)
        if url.place is not None and other is not url:
            raise ValueError(f"one store is given twice: as {other.shown!r} and as {url.shown!r}")


def check_outbox(outbox: str | None, urls: Iterable[StoreUrl]) -> None:
    """Check that the outbox, if there is one, is not also a store.

    Raises:
      ValueError: if it is.

    """
    if outbox is not None:
        place = os.path.realpath(outbox)
        if any(url.file and os.path.realpath(url.file) == place for url in urls):
            raise ValueError(f"the outbox {outbox!r} is a store as well: name another file")

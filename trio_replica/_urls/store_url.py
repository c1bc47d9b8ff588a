"""A URL split into its parts, and the store that it opens."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeAlias, final

from .._query import options_in, split_query
from .._redact import redacted
from ..stores.memory import MemoryStore
from ..stores.retrying import RetryingDeletableStore
from .store_options import misspelt_hint, option_kinds

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Hashable, Mapping
    from contextlib import AbstractAsyncContextManager

    from .._deletable import DeletableStore
    from .._scheme import StoreScheme

    OpeningStore: TypeAlias = AbstractAsyncContextManager[DeletableStore]


@final
@dataclass(frozen=True, repr=False)
class StoreUrl:
    """The parts of a URL, with the options that were given beside it."""

    scheme: str
    path: str
    """The part after the scheme and the colon, without the options that were taken out of it."""
    kind: StoreScheme
    """The scheme."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of the function that opens the store. Some may be secrets."""
    retry: Mapping[str, Any] | None = None
    """Keyword arguments of `RetryingStore`, or None if nothing is retried."""

    def __repr__(self) -> str:
        return f"<StoreUrl {self.shown!r}>"

    @property
    def shown(self) -> str:
        """The URL without secrets."""
        return redacted(f"{self.scheme}:{self.path}")

    @property
    def file(self) -> str:
        """The path of the store. Empty if it has none."""
        return self.path if self.kind.has_path else ""

    @property
    def landmark(self) -> str:
        """A path that exists only if the store does. Empty if that is unknown."""
        return self.kind.landmark(self.path) if self.kind.has_path else ""

    @property
    def place(self) -> Hashable:
        """A value that is equal for two URLs of one store, or None if each URL is a store of its own."""
        if self.kind.place is None:
            return None
        place = self.kind.place(self._address, self.options)
        return (self.scheme, place) if self.kind.has_path else place

    def to_read(self) -> StoreUrl:
        """Return this URL with ``read_only`` set, if stores of its scheme have that option."""
        return self._with(read_only=True)

    def not_created(self) -> StoreUrl:
        """Return this URL with ``create`` turned off, if stores of its scheme have that option."""
        return self._with(create=False)

    def open(self, *, retry: bool = True) -> OpeningStore:
        """Open the store for a block. Without `retry`, nothing is retried.

        Raises:
          TypeError, ValueError: at once, if an option is bad.
          ModuleNotFoundError: at once, if a package that the store needs is missing.

        """
        try:
            opening = self.kind.open(*([self._address] if self.kind.form else []), **self.options)
        except (TypeError, ValueError) as error:
            if not (hint := self._misspelt()):
                raise
            raise ValueError(f"{str(error).removesuffix('.')}{hint}") from None
        if self.retry is None or not retry:
            return opening
        RetryingDeletableStore(MemoryStore(), **self.retry)  # this checks the budget now, before the block
        return _open_retrying(opening, self.retry)

    def _with(self, **options: Any) -> StoreUrl:
        known, _ = option_kinds(self.kind)
        taken = {option: value for option, value in options.items() if option in known}
        return replace(self, options={**self.options, **taken})

    @property
    def _address(self) -> str:
        return f"{self.scheme}:{self.path}" if self.kind.is_remote else self.path

    def _misspelt(self) -> str:
        """Return a hint at the option that a misspelt one of this URL may mean. It is empty if there is none."""
        in_query = [name for name, _ in options_in(split_query(self.path)[1])] if self.kind.is_remote else []
        return misspelt_hint([*in_query, *self.options], [*option_kinds(self.kind)[0], *(self.kind.query or ())])


@asynccontextmanager
async def _open_retrying(opening: OpeningStore, budget: Mapping[str, Any]) -> AsyncGenerator[DeletableStore, None]:
    async with opening as store:
        yield RetryingDeletableStore(store, **budget)

"""The tests of the identity of a store, and of its other properties."""

from __future__ import annotations

import trio
import trio.testing

from .._blob import Ref
from .._deletable import DeletableStore
from .._identity import is_identity
from ._contract_parts import ContractPart, assert_raises, skip

_MARKS = "0123456789abcdef" * 2, "f" * 32

_NO_MARKS = "", "f" * 31, "f" * 33, "F" * 32, "f" * 32 + "\n", "\u0663" * 32


class IdentityContract(ContractPart):
    """The behaviours of identities and session marks, and of `Store.is_durable` and `Store.is_read_only`."""

    async def test_its_identity(self) -> None:
        """The identity is 32 hex digits and never changes, whatever is stored. A store without one returns None."""
        async with self.open_store() as store:
            with trio.testing.assert_checkpoints():
                identity = await store.identity()
            assert identity is None or is_identity(identity), f"{identity!r} is neither None nor 32 hex digits"
            await store.put(b"blob")
            assert await store.identity() == identity
            assert [ref async for ref in store.list_refs()] == [Ref.of(b"blob")], "an identity is no blob"

    async def test_its_identity_stays_with_it(self) -> None:
        """A store that is opened again has the same identity."""
        if not self.is_persistent:
            skip("the store is not persistent")
        async with self.open_store() as store:
            identity = await store.identity()
            await store.put(b"blob")
        async with self.open_store() as store:
            assert await store.identity() == identity
            assert await store.get(Ref.of(b"blob")) == b"blob"

    async def test_its_session_mark(self) -> None:
        """The last one is kept, beside the identity; a store that has no identity keeps none.

        Anything else than 32 lowercase hex digits raises ValueError and leaves the last one.
        """
        async with self.open_store() as store:
            identity = await store.identity()
            with trio.testing.assert_checkpoints():
                assert await store.session_mark() is None
            for mark in _MARKS:
                with trio.testing.assert_checkpoints():
                    await store.set_session_mark(mark)
                for bad in _NO_MARKS if identity is not None else ():
                    await assert_raises(ValueError, store.set_session_mark, bad)
                assert await store.session_mark() == (None if identity is None else mark)
            assert await store.identity() == identity
            assert [ref async for ref in store.list_refs()] == [], "a mark is no blob"

    async def test_its_session_mark_stays_with_it(self) -> None:
        """A store that is opened again has the mark of the last session."""
        if not self.is_persistent:
            skip("the store is not persistent")
        async with self.open_store() as store:
            await store.set_session_mark(_MARKS[0])
            mark = await store.session_mark()
        async with self.open_store() as store:
            assert await store.session_mark() == mark

    async def test_who_it_is_cancelled_at_once(self) -> None:
        """A cancelled call leaves the store usable, and can be repeated."""
        async with self.open_store() as store:
            identity = await store.identity()
            for call in (store.identity, store.session_mark, lambda: store.set_session_mark(_MARKS[0])):
                with trio.CancelScope() as scope:
                    scope.cancel()
                    await call()
                assert scope.cancelled_caught
            assert await store.identity() == identity
            await store.set_session_mark(_MARKS[1])
            assert await store.session_mark() == (None if identity is None else _MARKS[1])

    async def test_a_new_identity(self) -> None:
        """A copy that is given an identity of its own keeps it, and its blobs, and forgets the mark."""
        async with self.open_store() as store:
            if not isinstance(store, DeletableStore):
                skip("the store can't delete")
            identity = await store.identity()
            await store.put(b"blob")
            await store.set_session_mark(_MARKS[0])
            with trio.testing.assert_checkpoints():
                new = await store.renew_identity()
            assert (new is None) == (identity is None)
            assert new is None or (is_identity(new) and new != identity)
            assert (await store.identity(), await store.session_mark()) == (new, None)
            assert await store.get(Ref.of(b"blob")) == b"blob"
        if self.is_persistent:
            async with self.open_store() as store:
                assert (await store.identity(), await store.session_mark()) == (new, None)
                assert await store.get(Ref.of(b"blob")) == b"blob"

    async def test_what_it_says_about_itself(self) -> None:
        """`Store.is_durable` does not change. The store is not read-only, because the tests write to it."""
        async with self.open_store() as store:
            is_durable = store.is_durable
            assert isinstance(is_durable, bool)
            assert store.is_read_only is False
            await store.put(b"blob")
            assert (store.is_durable, store.is_read_only) == (is_durable, False)

"""The test suite that every store passes."""

from __future__ import annotations

import gc
import random
from typing import TYPE_CHECKING, Any

import trio
import trio.testing

from .._blob import Blob, Ref
from .._deletable import DeletableStore
from .._errors import BlobNotFoundError
from .._store import PutResult
from ._contract_agreement import AgreementContract
from ._contract_deletable import DeletableContract
from ._contract_identity import IdentityContract
from ._contract_parts import ABSENT, assert_raises, assert_refuses, skip, some_blobs

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class StoreContract(IdentityContract, AgreementContract, DeletableContract):
    """The behaviours that `Store` and `DeletableStore` promise, as tests for pytest-trio.

    A subclass opens the store, and says which promises it can't keep::

        class TestMyStore(StoreContract):
            counts_racers = False

            @asynccontextmanager
            async def open_store(self):
                async with my_package.open_my_store(...) as store:
                    yield store

    Its name has to be one that pytest collects. Fixtures work as in any test class, for example with an autouse fixture
    that keeps ``tmp_path`` in ``self``.
    """

    counts_racers = True
    """Whether exactly one of racing puts of one blob is ``added``. If False, any number of them may be."""

    largest = 2 * 1024 * 1024
    """Bytes of the largest blob that the tests put. It is over 1 MiB, so that the blob is hashed in a thread."""

    def __init_subclass__(cls, **options: Any) -> None:
        import pytest  # noqa: PLC0415  (only running the tests needs it)

        super().__init_subclass__(**options)
        pytest.mark.trio(cls)

    # One blob

    async def test_a_blob_comes_back(self) -> None:
        """A get returns the bytes that were put."""
        async with self.open_store() as store:
            for data in (b"content", b"\0" * 1000, bytes(range(256)) * 300):
                assert await store.put(data) == PutResult(Ref.of(data), added=True)
                assert await store.get(Ref.of(data)) == data

    async def test_a_blob_is_added_once(self) -> None:
        """A repeated put finds the blob there."""
        async with self.open_store() as store:
            assert (await store.put(b"twice")).added is True
            assert (await store.put(b"twice")).added is False
            assert await store.get(Ref.of(b"twice")) == b"twice"

    async def test_the_empty_blob(self) -> None:
        """An empty blob is a blob as well."""
        async with self.open_store() as store:
            assert await store.put(b"") == PutResult(Ref.of(b""), added=True)
            assert await store.get(Ref.of(b"")) == b""
            assert await store.contains(Ref.of(b""))
            assert [ref async for ref in store.list_refs()] == [Ref.of(b"")]

    async def test_a_large_blob(self) -> None:
        """A blob over 1 MiB, which is hashed in a thread, comes back."""
        data = random.Random(1).randbytes(self.largest)  # noqa: S311
        async with self.open_store() as store:
            ref, added = await store.put(data)
            assert added
            assert await store.get(ref) == data

    async def test_anything_bytes_like_is_a_blob(self) -> None:
        """Buffers are copied, so their owner may go on using them."""
        async with self.open_store() as store:
            buffer = bytearray(b"buffer")
            ref, _ = await store.put(buffer)
            buffer[:] = b"change"
            assert await store.get(ref) == b"buffer"
            assert (await store.put(memoryview(b"--view--")[2:6])).ref == Ref.of(b"view")
            assert (await store.put(Blob(b"blob"))).ref == Ref.of(b"blob")
            assert await store.get(Ref.of(b"view")) == b"view"

    async def test_what_is_no_blob_is_refused(self) -> None:
        """A put of anything else raises TypeError and stores nothing."""
        bad: Any
        async with self.open_store() as store:
            for bad in ("text", None, 3, [1, 2]):
                await assert_raises(TypeError, store.put, bad)
                await assert_raises(TypeError, store.put_many, [b"good", bad])
            assert [ref async for ref in store.list_refs()] == []

    async def test_a_missing_blob(self) -> None:
        """A missing blob is not found, and the error has its ref."""
        async with self.open_store() as store:
            await store.put(b"another")
            for ref in (ABSENT, Ref.ZERO, Ref(b"\xff" * 32), Ref(b"\0" * 31 + b"\1")):
                error = await assert_raises(BlobNotFoundError, store.get, ref)
                assert isinstance(error, BlobNotFoundError)
                assert error.ref == ref
                assert await store.contains(ref) is False

    async def test_what_is_no_ref_is_refused(self) -> None:
        """Methods raise TypeError for anything but a ref, also for plain bytes and hex."""
        bad: Any
        async with self.open_store() as store:
            for bad in (str(ABSENT), bytes(ABSENT), None, 3):
                await assert_raises(TypeError, store.get, bad)
                await assert_raises(TypeError, store.contains, bad)
                await assert_raises(TypeError, store.get_many, [bad])
                await assert_raises(TypeError, store.list_page, bad, 1)
                assert_refuses(store.list_refs, bad)

    async def test_contains(self) -> None:
        """`contains` is right for each blob, including the first and the last."""
        async with self.open_store() as store:
            refs = [result.ref for result in await store.put_many(some_blobs(20))]
            assert [await store.contains(ref) for ref in refs] == [True] * 20
            assert await store.contains(ABSENT) is False

    # Many blobs

    async def test_put_many(self) -> None:
        """The results come in order, and of equal blobs one is added."""
        async with self.open_store() as store:
            await store.put(b"old")
            results = await store.put_many([b"new", b"old", b"new", bytearray(b"newer"), Blob(b"new")])
            assert [ref for ref, _ in results] == list(map(Ref.of, (b"new", b"old", b"new", b"newer", b"new")))
            assert sum(added for ref, added in results if ref == Ref.of(b"new")) == 1
            assert results[1].added is False
            assert results[3].added is True
            assert await store.put_many(iter(())) == []
            assert await store.get(Ref.of(b"newer")) == b"newer"

    async def test_get_many(self) -> None:
        """Missing blobs are absent from the result of `get_many`."""
        blobs = some_blobs(300)
        async with self.open_store() as store:
            await store.put_many(blobs)
            wanted = list(map(Ref.of, blobs))
            assert await store.get_many([*wanted, ABSENT, wanted[0]]) == dict(zip(wanted, blobs, strict=True))
            assert await store.get_many([ABSENT]) == {}
            assert await store.get_many([]) == {}

    async def test_racing_puts_of_one_blob(self) -> None:
        """All succeed, and if the store can tell, one is added."""
        added = []
        async with self.open_store() as store:

            async def put() -> None:
                added.append((await store.put(b"contended")).added)

            async with trio.open_nursery() as nursery:
                for _ in range(50):
                    nursery.start_soon(put)
            assert len(added) == 50
            assert sum(added) == 1 or not self.counts_racers
            assert await store.get(Ref.of(b"contended")) == b"contended"

    async def test_many_tasks(self) -> None:
        """Concurrent puts and gets do not affect each other."""
        blobs = some_blobs(200)
        async with self.open_store() as store:

            async def put_and_get(data: bytes) -> None:
                ref, added = await store.put(data)
                assert added
                assert await store.get(ref) == data

            async with trio.open_nursery() as nursery:
                for data in blobs:
                    nursery.start_soon(put_and_get, data)
            assert [ref async for ref in store.list_refs()] == sorted(map(Ref.of, blobs))

    # Listing

    async def test_pages(self) -> None:
        """Any page after any ref is the beginning of the remaining refs."""
        blobs = some_blobs(100)
        refs = sorted(map(Ref.of, blobs))
        source = random.Random(2)  # noqa: S311
        async with self.open_store() as store:
            assert await store.list_page(Ref.ZERO, 10) == []
            await store.put_many(blobs)
            between, last = Ref(source.randbytes(32)), Ref(b"\xff" * 32)
            for after in [Ref.ZERO, refs[0], refs[50], refs[98], refs[99], between, last]:
                left = [ref for ref in refs if ref > after]
                for limit in (1, 2, 7, 100, 101, 10**6):
                    page = await store.list_page(after, limit)
                    assert page == left[: len(page)]
                    assert len(page) <= limit
                    assert bool(page) == bool(left), "an empty page means the end, and only that"

    async def test_a_listing_resumes_anywhere(self) -> None:
        """Successive pages have all refs, each once."""
        blobs = some_blobs(60)
        async with self.open_store() as store:
            await store.put_many(blobs)
            listed: list[Ref] = []
            while page := await store.list_page(listed[-1] if listed else Ref.ZERO, 7):
                assert not listed or page[0] > listed[-1], "a page begins after the ref that it was asked for"
                listed += page
            assert listed == sorted(map(Ref.of, blobs))
            assert [ref async for ref in store.list_refs(listed[29])] == listed[30:]

    async def test_bad_page_requests(self) -> None:
        """Bad arguments of `list_page` are errors at once."""
        bad: Any
        async with self.open_store() as store:
            for limit in (0, -1):
                await assert_raises(ValueError, store.list_page, Ref.ZERO, limit)
            for bad in ("1", 1.0, None, True):
                await assert_raises(TypeError, store.list_page, Ref.ZERO, bad)

    async def test_puts_during_a_listing(self) -> None:
        """Blobs that were there before are listed, each ref once and in order."""
        before, later = some_blobs(100), some_blobs(100, seed=3)
        async with self.open_store() as store:
            await store.put_many(before)
            listed: list[Ref] = []
            for data in later:
                page = await store.list_page(listed[-1] if listed else Ref.ZERO, 3)
                listed += page
                await store.put(data)
            listed += [ref async for ref in store.list_refs(listed[-1])]
            assert listed == sorted(set(listed))
            assert set(map(Ref.of, before)) <= set(listed)
            assert set(listed) <= set(map(Ref.of, before + later))

    async def test_leaving_a_listing_early(self) -> None:
        """A loop that ends early causes no warning, and the store goes on."""
        async with self.open_store() as store:
            await store.put_many(some_blobs(10))
            async for ref in store.list_refs():
                assert await store.contains(ref)
                break
            gc.collect()
            assert len([ref async for ref in store.list_refs()]) == 10

    # Cancellation

    async def test_checkpoints(self) -> None:
        """Every method has a checkpoint on every path."""
        async with self.open_store() as store:
            with trio.testing.assert_checkpoints():
                await store.put(b"blob")
            with trio.testing.assert_checkpoints():
                await store.put(b"blob")
            with trio.testing.assert_checkpoints():
                await store.put_many([])
            with trio.testing.assert_checkpoints():
                await store.put_many([b"blob", b"other"])
            with trio.testing.assert_checkpoints():
                await store.get(Ref.of(b"blob"))
            with trio.testing.assert_checkpoints():
                await store.get_many([])
            with trio.testing.assert_checkpoints():
                await store.get_many([Ref.of(b"blob")])
            for ref in (Ref.of(b"blob"), ABSENT, Ref.ZERO):
                with trio.testing.assert_checkpoints():
                    await store.contains(ref)
            with trio.testing.assert_checkpoints():
                await store.list_page(Ref.ZERO, 10)
            with trio.testing.assert_checkpoints():
                await anext(store.list_refs())

    async def test_cancelled_at_once(self) -> None:
        """A cancelled call leaves the store usable, and can be repeated."""
        async with self.open_store() as store:
            await store.put(b"there")
            calls: list[tuple[Callable[[Any], Awaitable[object]], object]] = [
                (store.put, b"blob"),
                (store.put_many, [b"blob", b"other"]),
                (store.get, Ref.of(b"there")),
                (store.get_many, [Ref.of(b"there")]),
                (store.contains, Ref.of(b"there")),
            ]
            for method, argument in calls:
                with trio.CancelScope() as scope:
                    scope.cancel()
                    await method(argument)
                assert scope.cancelled_caught
            assert (await store.put(b"blob")).ref == Ref.of(b"blob")
            assert await store.get(Ref.of(b"blob")) == b"blob"
            assert await store.get(Ref.of(b"there")) == b"there"

    async def test_cancelled_on_the_way(self) -> None:
        """A blob whose put was cancelled is there or not, but never in part."""
        blobs = some_blobs(64)
        async with self.open_store() as store:
            for steps, data in enumerate(blobs):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(store.put, data)
                    for _ in range(steps % 8):
                        await trio.lowlevel.checkpoint()
                    nursery.cancel_scope.cancel()
            found = await store.get_many(map(Ref.of, blobs))
            assert all(Ref.of(data) == ref for ref, data in found.items())
            assert sorted(found) == [ref async for ref in store.list_refs()]
            assert [ref for ref, _ in await store.put_many(blobs)] == list(map(Ref.of, blobs))
            assert len(await store.get_many(map(Ref.of, blobs))) == len(blobs)

    # Where the store can

    async def test_it_is_persistent(self) -> None:
        """A store that is opened again has the same blobs."""
        if not self.is_persistent:
            skip("the store is not persistent")
        async with self.open_store() as store:
            refs = [result.ref for result in await store.put_many(some_blobs(10))]
        async with self.open_store() as store:
            assert [ref async for ref in store.list_refs()] == sorted(refs)
            assert (await store.put(some_blobs(1)[0])).added is False

    async def test_like_a_dictionary(self) -> None:
        """Any sequence of calls has the same effect as on a plain dictionary."""
        source = random.Random(4)  # noqa: S311
        blobs = some_blobs(30)
        model: dict[Ref, bytes] = {}
        async with self.open_store() as store:
            for _ in range(200):
                data = source.choice(blobs)
                ref = Ref.of(data)
                match source.choice(["put", "put_many", "get", "contains", "list", "delete"]):
                    case "put":
                        assert await store.put(data) == PutResult(ref, ref not in model)
                        model[ref] = data
                    case "put_many":
                        some = source.sample(blobs, 3)
                        expected = [PutResult(Ref.of(data), Ref.of(data) not in model) for data in some]
                        assert await store.put_many(some) == expected
                        model.update((Ref.of(data), data) for data in some)
                    case "get":
                        assert await store.get_many([ref]) == ({ref: model[ref]} if ref in model else {})
                    case "contains":
                        assert await store.contains(ref) is (ref in model)
                    case "list":
                        assert [ref async for ref in store.list_refs(ref)] == sorted(r for r in model if r > ref)
                    case _:
                        if isinstance(store, DeletableStore):
                            assert await store.delete(ref) is (model.pop(ref, None) is not None)

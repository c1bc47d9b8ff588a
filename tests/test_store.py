"""The methods that a store inherits: the defaults over one that implements only what it must."""

from __future__ import annotations

import gc
import math
import weakref
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from trio_replica import (
    Blob,
    BlobNotFoundError,
    CorruptBlobError,
    DeletableStore,
    PutResult,
    Ref,
    ReplicaError,
    Store,
    to_blob,
)
from trio_replica._calls.fan_out import CONCURRENCY, concurrently
from trio_replica._listing import PAGE_SIZE, check_page_request, check_ref, check_refs
from trio_replica._store import check_results
from trio_replica.testing import SimulatedStore

from .common import without_gc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from trio.testing import MockClock

    from trio_replica._blob import BytesLike

BROKEN = OSError("broken")
LAST = Ref(b"\xff" * 32)


class FakeStore(DeletableStore):
    """A store that has only what is abstract. Each call takes a second, or as long as it is told for a blob."""

    def __init__(self, *, page_size: int = PAGE_SIZE) -> None:
        self.blobs: dict[Ref, bytes] = {}
        self.calls: list[tuple[str, Ref]] = []
        self.called_at: list[float] = []
        self.cancelled_at: list[float] = []
        self.seconds: dict[Ref, float] = {}
        self.failures: dict[Ref, BaseException] = {}
        self.answers: dict[Ref, Ref] = {}
        self._page_size = page_size

    async def put(self, blob: Blob | BytesLike) -> PutResult:
        blob = await to_blob(blob)
        await self._call("put", blob.ref)
        added = blob.ref not in self.blobs
        self.blobs[blob.ref] = blob.data
        return PutResult(self.answers.get(blob.ref, blob.ref), added)

    async def get(self, ref: Ref) -> bytes:
        await self._call("get", ref)
        if ref not in self.blobs:
            raise BlobNotFoundError(ref)
        return self.blobs[ref]

    async def list_page(self, after: Ref, limit: int) -> list[Ref]:
        await self._call(f"list {limit}", after)
        return sorted(ref for ref in self.blobs if ref > after)[: min(limit, self._page_size)]

    async def delete(self, ref: Ref) -> bool:
        await self._call("delete", ref)
        return self.blobs.pop(ref, None) is not None

    async def _call(self, name: str, ref: Ref) -> None:
        self.calls.append((name, ref))
        self.called_at.append(trio.current_time())
        try:
            await trio.sleep(self.seconds.get(ref, 1))
        except trio.Cancelled:
            self.cancelled_at.append(trio.current_time())
            raise
        if failure := self.failures.pop(ref, None):
            raise failure


def numbered(count: int) -> list[Blob]:
    return [Blob(b"%d" % i) for i in range(count)]


def with_refs(refs: Iterable[Ref], **options: Any) -> FakeStore:
    """Return a store that claims to have blobs of these refs."""
    store = FakeStore(**options)
    store.blobs = dict.fromkeys(refs, b"")
    return store


def ref_number(number: int) -> Ref:
    return Ref(number.to_bytes(32, "big"))


async def rest_of(iterator: AsyncIterator[Ref]) -> list[Ref]:
    return [ref async for ref in iterator]


# Abstract methods


def test_a_store_implements_what_is_abstract() -> None:
    assert Store.__abstractmethods__ == {"put", "get", "list_page"}
    assert DeletableStore.__abstractmethods__ == {"put", "get", "list_page", "delete"}


def test_put_result_unpacks() -> None:
    ref, added = result = PutResult(LAST, added=True)
    assert (ref, added) == (result.ref, result.added) == (LAST, True)
    assert result == (LAST, True)


# put_many


async def test_put_many_answers_in_order_and_adds_each_blob_once(autojump_clock: MockClock) -> None:
    store = FakeStore()
    await store.put(b"there")
    results = await store.put_many([b"b", bytearray(b"a"), b"there", Blob(b"b"), b"there", b"b"])
    assert [ref for ref, _ in results] == [Ref.of(data) for data in (b"b", b"a", b"there", b"b", b"there", b"b")]
    assert [added for _, added in results] == [True, True, False, False, False, False]
    assert sorted(store.blobs.values()) == [b"a", b"b", b"there"]
    assert len(store.calls) == 4
    assert all(type(result) is PutResult for result in results)


async def test_put_many_has_16_under_way(autojump_clock: MockClock) -> None:
    store = FakeStore()
    await store.put_many(numbered(40))
    assert store.called_at == [0] * 16 + [1] * 16 + [2] * 8
    assert trio.current_time() == 3
    assert CONCURRENCY == 16


async def test_put_many_puts_the_next_when_one_has_ended(autojump_clock: MockClock) -> None:
    store = FakeStore()
    blobs = numbered(1 + 15 * 10)
    store.seconds[blobs[0].ref] = 10
    await store.put_many(blobs)
    assert trio.current_time() == 10


@pytest.mark.parametrize("count", [1, 2, 16, 40])
@pytest.mark.parametrize("failure", [BROKEN, ExceptionGroup("deep", [BROKEN])], ids=["bare", "group"])
async def test_put_many_raises_the_first_failure_as_it_is(
    autojump_clock: MockClock, count: int, failure: BaseException
) -> None:
    store = FakeStore()
    blobs = numbered(count)
    store.seconds = {blob.ref: 5 for blob in blobs[1:]}
    store.failures[blobs[0].ref] = failure
    tasks = trio.lowlevel.current_statistics().tasks_living
    with pytest.raises(type(failure)) as caught:
        await store.put_many(blobs)
    assert repr(caught.value) == repr(failure)
    assert trio.current_time() == 1
    assert store.cancelled_at == [1] * (min(count, 16) - 1)
    assert len(store.calls) == min(count, 16)
    assert store.blobs == {}
    assert trio.lowlevel.current_statistics().tasks_living == tasks


@pytest.mark.parametrize("items", [[b"good", "bad"], [b"good", None], b"bytes", "text"])
async def test_put_many_with_a_bad_item_stores_none(items: Any) -> None:
    store = FakeStore()
    with pytest.raises(TypeError, match=r"^a blob is made of bytes"):
        await store.put_many(items)
    assert store.calls == []


async def test_put_many_notices_a_put_that_names_another_ref(autojump_clock: MockClock) -> None:
    store = FakeStore()
    store.answers[Ref.of(b"1")] = LAST
    with pytest.raises(CorruptBlobError) as caught:
        await store.put_many(numbered(3))
    assert (caught.value.ref, caught.value.actual) == (Ref.of(b"1"), LAST)


@pytest.mark.parametrize("count", [1, 2, 40])
async def test_put_many_can_be_cancelled_and_repeated(autojump_clock: MockClock, count: int) -> None:
    store = FakeStore()
    blobs = numbered(count)
    caught: list[type[BaseException]] = []
    with trio.move_on_after(0.5) as scope:
        try:
            await store.put_many(blobs)
        except BaseException as exc:
            caught.append(type(exc))
            raise
    assert scope.cancelled_caught
    assert caught == [trio.Cancelled]
    assert store.blobs == {}
    assert await store.put_many(blobs) == [(blob.ref, True) for blob in blobs]


# get_many


async def test_get_many_leaves_out_what_is_not_there(autojump_clock: MockClock) -> None:
    store = FakeStore()
    await store.put_many([b"a", b"b", b"c"])
    store.calls.clear()
    refs = [Ref.of(data) for data in (b"b", b"x", b"a", b"b", b"x")]
    assert await store.get_many(iter(refs)) == {Ref.of(b"b"): b"b", Ref.of(b"a"): b"a"}
    assert len(store.calls) == 3


async def test_get_many_has_16_under_way(autojump_clock: MockClock) -> None:
    store = FakeStore()
    assert await store.get_many(blob.ref for blob in numbered(17)) == {}
    assert store.called_at == [0] * 16 + [1]
    assert trio.current_time() == 2


async def test_get_many_raises_the_first_failure_as_it_is(autojump_clock: MockClock) -> None:
    store = FakeStore()
    refs = [blob.ref for blob in numbered(5)]
    store.failures[refs[2]] = BROKEN
    store.seconds = {ref: 5 for ref in refs if ref != refs[2]}
    with pytest.raises(OSError, match=r"^broken$"):
        await store.get_many(refs)
    assert store.cancelled_at == [1] * 4
    assert trio.current_time() == 1


async def test_get_many_takes_a_group_for_a_failure(autojump_clock: MockClock) -> None:
    store = FakeStore()
    store.failures[LAST] = ExceptionGroup("mirrors", [BlobNotFoundError(LAST)])
    with pytest.raises(Exception, match=r"^mirrors") as caught:
        await store.get_many([LAST])
    assert type(caught.value) is ExceptionGroup


@pytest.mark.parametrize("refs", [[LAST, bytes(32)], [str(LAST)], LAST, [None]])
async def test_get_many_of_what_is_no_ref(refs: Any) -> None:
    store = FakeStore()
    with pytest.raises(TypeError, match=r"^a ref is a trio_replica.Ref, not"):
        await store.get_many(refs)
    assert store.calls == []


@pytest.mark.parametrize("method", [FakeStore.put_many, FakeStore.get_many])
async def test_nothing_to_do_is_a_checkpoint(method: Callable[..., Any]) -> None:
    store = FakeStore()
    with trio.testing.assert_checkpoints():
        assert not await method(store, [])
    assert store.calls == []
    with trio.CancelScope() as scope:
        scope.cancel()
        await method(store, [])
    assert scope.cancelled_caught


async def test_no_more_calls_are_made_after_calls_that_ignore_their_cancellation(autojump_clock: MockClock) -> None:
    called: list[int] = []

    async def call(number: int) -> None:
        called.append(number)
        with trio.CancelScope(shield=True):
            await trio.sleep(2 if number else 1)
        if not number:
            raise BROKEN

    with pytest.raises(OSError, match=r"^broken$"):
        await concurrently(call, list(range(40)))
    assert sorted(called) == list(range(16))
    assert trio.current_time() == 2


async def test_a_failure_leaves_no_cycle(autojump_clock: MockClock) -> None:
    class Payload:
        pass

    payloads: list[weakref.ref[Payload]] = []

    async def call(number: int) -> None:
        payload = Payload()
        payloads.append(weakref.ref(payload))
        await trio.sleep(number)
        raise OSError

    with without_gc():
        with pytest.raises(OSError):
            await concurrently(call, [1, 2, 3])
        await trio.lowlevel.checkpoint()
        assert [payload() for payload in payloads] == [None] * 3


# contains


@pytest.mark.parametrize("there", [ref_number(1), ref_number(2**64), ref_number(2**64 + 1), LAST])
async def test_contains(autojump_clock: MockClock, there: Ref) -> None:
    number = int.from_bytes(there, "big")
    neighbours = [ref_number(n) for n in (number - 1, number + 1) if 0 < n < 2**256]
    assert await with_refs([there, *neighbours]).contains(there)
    assert await with_refs([there]).contains(there)
    assert not await with_refs(neighbours).contains(there)
    assert not await with_refs([]).contains(there)


async def test_contains_asks_for_one_ref(autojump_clock: MockClock) -> None:
    store = with_refs([ref_number(256)])
    assert await store.contains(ref_number(256))
    assert store.calls == [("list 1", ref_number(255))]


async def test_contains_of_zero_asks_nothing() -> None:
    store = with_refs([Ref.ZERO])
    with trio.testing.assert_checkpoints():
        assert await store.contains(Ref.ZERO) is False
    assert store.calls == []


async def test_contains_raises_what_keeps_it_from_telling(autojump_clock: MockClock) -> None:
    store = with_refs([ref_number(2)])
    store.failures[ref_number(1)] = BROKEN
    with pytest.raises(OSError, match=r"^broken$"):
        await store.contains(ref_number(2))


@pytest.mark.parametrize("junk", [bytes(32), str(LAST), None, 5])
async def test_contains_of_what_is_no_ref(junk: Any) -> None:
    with pytest.raises(TypeError, match=rf"^a ref is a trio_replica.Ref, not {type(junk).__name__}$"):
        await FakeStore().contains(junk)


# list_refs


@pytest.mark.parametrize("count", [0, 1, PAGE_SIZE - 1, PAGE_SIZE, PAGE_SIZE + 1, 2 * PAGE_SIZE + 500])
async def test_list_refs_shows_all_in_order(autojump_clock: MockClock, count: int) -> None:
    store = with_refs(blob.ref for blob in numbered(count))
    expected = sorted(store.blobs)
    assert await rest_of(store.list_refs()) == expected
    assert {name for name, _ in store.calls} == {"list 1000"}
    assert len(store.calls) == math.ceil(count / PAGE_SIZE) + 1


async def test_only_an_empty_page_is_the_end(autojump_clock: MockClock) -> None:
    store = with_refs((blob.ref for blob in numbered(10)), page_size=3)
    assert await rest_of(store.list_refs()) == sorted(store.blobs)
    assert len(store.calls) == 5


async def test_list_refs_after_a_ref(autojump_clock: MockClock) -> None:
    store = with_refs(map(ref_number, range(1, 10)))
    assert await rest_of(store.list_refs(ref_number(6))) == [ref_number(n) for n in (7, 8, 9)]
    assert await rest_of(store.list_refs(after=LAST)) == []


@pytest.mark.parametrize("junk", [bytes(32), str(LAST), None, 5])
def test_list_refs_checks_its_argument_at_once(junk: Any) -> None:
    with pytest.raises(TypeError, match=rf"^a ref is a trio_replica.Ref, not {type(junk).__name__}$"):
        FakeStore().list_refs(junk)


async def test_list_refs_has_a_checkpoint_for_each_page() -> None:
    store = with_refs(map(ref_number, range(1, 5)), page_size=2)
    store.seconds = dict.fromkeys((Ref.ZERO, *store.blobs), 0)
    refs = store.list_refs()
    for _ in range(2):
        with trio.testing.assert_checkpoints():
            await anext(refs)
        with trio.testing.assert_no_checkpoints():
            await anext(refs)
    with trio.testing.assert_checkpoints(), pytest.raises(StopAsyncIteration):
        await anext(refs)


async def test_a_listing_that_has_ended_stays_ended(autojump_clock: MockClock) -> None:
    store = with_refs([ref_number(1)], page_size=2)
    refs = store.list_refs()
    assert [ref async for ref in refs] == [ref_number(1)]
    store.blobs[ref_number(2)] = b""
    assert [ref async for ref in refs] == []


async def test_a_listing_that_goes_round_is_an_error(autojump_clock: MockClock) -> None:
    class Stuck(SimulatedStore):
        async def list_page(self, after: Ref, limit: int) -> list[Ref]:
            return await super().list_page(Ref.ZERO, limit)

    store = Stuck()
    await store.put(b"blob")
    refs = store.list_refs()
    assert await anext(refs) == Ref.of(b"blob")
    with pytest.raises(ReplicaError, match="which is not after"):
        await anext(refs)


async def test_leaving_a_listing_early_leaves_nothing_behind(autojump_clock: MockClock) -> None:
    store = with_refs(map(ref_number, range(1, 5)), page_size=2)
    tasks = trio.lowlevel.current_statistics().tasks_living
    refs = store.list_refs()
    assert [await anext(refs) for _ in range(3)] == [ref_number(n) for n in (1, 2, 3)]
    del refs
    gc.collect()  # a generator would be finalized here, with a warning, which is an error
    await trio.testing.wait_all_tasks_blocked()
    assert trio.lowlevel.current_statistics().tasks_living == tasks
    assert len(store.calls) == 2


async def test_a_listing_goes_on_after_an_error(autojump_clock: MockClock) -> None:
    store = with_refs(map(ref_number, range(1, 6)), page_size=2)
    store.failures = {Ref.ZERO: BROKEN, ref_number(4): BROKEN}
    refs = store.list_refs()
    with pytest.raises(OSError, match=r"^broken$"):
        await anext(refs)
    shown = [await anext(refs) for _ in range(4)]
    with pytest.raises(OSError, match=r"^broken$"):
        await anext(refs)
    assert shown + await rest_of(refs) == sorted(store.blobs)


async def test_a_listing_goes_on_after_a_cancellation(autojump_clock: MockClock) -> None:
    store = with_refs(map(ref_number, range(1, 6)), page_size=2)
    refs = store.list_refs()
    shown: list[Ref] = []
    for _ in range(3):
        with trio.move_on_after(0.5) as scope:
            await anext(refs)
        assert scope.cancelled_caught
        shown += [await anext(refs) for _ in range(2 if len(shown) < 4 else 1)]
    assert shown == sorted(store.blobs)


async def test_a_listing_is_for_one_task_at_a_time(autojump_clock: MockClock) -> None:
    store = with_refs(map(ref_number, range(1, 4)))
    refs = store.list_refs()
    shown = []

    async def show() -> None:
        shown.append(await anext(refs))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(show)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError, match="another task is waiting for the next page"):
            await anext(refs)
    assert shown + await rest_of(refs) == sorted(store.blobs)


# replace


async def test_replace_deletes_then_puts(autojump_clock: MockClock) -> None:
    store = FakeStore()
    blob = Blob(b"hello")
    store.blobs[blob.ref] = b"damaged"
    await store.replace(b"hello")
    assert store.calls == [("delete", blob.ref), ("put", blob.ref)]
    assert store.blobs == {blob.ref: b"hello"}


@pytest.mark.parametrize("junk", ["hello", None, 5])
async def test_replace_of_what_is_no_blob_deletes_nothing(junk: Any) -> None:
    store = FakeStore()
    with pytest.raises(TypeError, match=r"^a blob is made of bytes"):
        await store.replace(junk)
    assert store.calls == []


# The checks


def test_check_ref_returns_it() -> None:
    assert check_ref(LAST) is LAST


def test_check_refs_returns_each_once_in_order() -> None:
    refs = [ref_number(number) for number in (3, 1, 3, 2, 1)]
    assert check_refs(iter(refs)) == [ref_number(number) for number in (3, 1, 2)]


@pytest.mark.parametrize("limit", [1, 1000, 10**30])
def test_a_good_page_request(limit: int) -> None:
    check_page_request(LAST, limit)


@pytest.mark.parametrize(
    ("after", "limit", "error", "complaint"),
    [
        (bytes(32), 1, TypeError, "a ref is a trio_replica.Ref, not bytes"),
        (None, 1, TypeError, "a ref is a trio_replica.Ref, not NoneType"),
        (LAST, None, TypeError, "limit is an int, not NoneType"),
        (LAST, 1.0, TypeError, "limit is an int, not float"),
        (LAST, True, TypeError, "limit is an int, not bool"),
        (LAST, 0, ValueError, "limit is at least 1, not 0"),
        (LAST, -3, ValueError, "limit is at least 1, not -3"),
    ],
)
def test_a_bad_page_request(after: Any, limit: Any, error: type[Exception], complaint: str) -> None:
    with pytest.raises(error) as caught:
        check_page_request(after, limit)
    assert str(caught.value) == complaint


def test_good_results() -> None:
    blobs = numbered(2)
    check_results([], [])
    check_results(blobs, [PutResult(blob.ref, added=True) for blob in blobs])


@pytest.mark.parametrize("count", [0, 1, 3])
def test_results_of_the_wrong_length(count: int) -> None:
    with pytest.raises(ReplicaError, match=rf"^{count} results for 2 blobs$"):
        check_results(numbered(2), [PutResult(blob.ref, added=True) for blob in numbered(count)])


def test_results_of_another_blob() -> None:
    one, two = numbered(2)
    with pytest.raises(CorruptBlobError) as caught:
        check_results([one, two], [PutResult(one.ref, added=True), PutResult(LAST, added=True)])
    assert (caught.value.ref, caught.value.actual) == (two.ref, LAST)

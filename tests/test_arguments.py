"""The checks at the door of `open`."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import pytest

import trio_replica as replica
from trio_replica import MemoryStore
from trio_replica._checks import check_seconds, check_size, named_stores

from .common import open_and_close

A, B, C = MemoryStore(), MemoryStore(), MemoryStore()


@pytest.mark.parametrize(
    ("sync_stores", "async_stores", "expected_sync", "expected_async"),
    [
        ([A], (), {"sync-0": A}, {}),
        ((A, B), [C], {"sync-0": A, "sync-1": B}, {"async-0": C}),
        (iter([A]), (store for store in (B, C)), {"sync-0": A}, {"async-0": B, "async-1": C}),
        ({"near": B, "here": A}, {"far": C}, {"near": B, "here": A}, {"far": C}),
        ({"near": A}, [B], {"near": A}, {"async-0": B}),
        ({"async-1": A}, [B], {"async-1": A}, {"async-0": B}),
        ({"a://me:pw@host/b": A}, {"s3://b?sig=x": B}, {"a://me:***@host/b": A}, {"s3://b?sig=***": B}),
        ([A], {}, {"sync-0": A}, {}),
    ],
)
def test_stores_have_names_and_keep_their_order(
    sync_stores: Any, async_stores: Any, expected_sync: dict[str, MemoryStore], expected_async: dict[str, MemoryStore]
) -> None:
    named_sync, named_async = named_stores(sync_stores, async_stores)
    assert list(named_sync.items()) == list(expected_sync.items())
    assert list(named_async.items()) == list(expected_async.items())


def test_a_mapping_is_copied() -> None:
    given = {"near": A}
    named, _ = named_stores(given, ())
    given["far"] = B
    assert named == {"near": A}


@pytest.mark.parametrize(
    ("sync_stores", "async_stores", "complaint"),
    [
        ([], [A], "a replica needs at least one sync store"),
        ({}, (), "a replica needs at least one sync store"),
        (
            {"a://me:one@host": A, "a://me:other@host": B},
            (),
            "the name 'a://me:***@host' is given twice: names must not differ only in their secrets",
        ),
        (
            {"a://me:one@host": A},
            {"a://me:other@host": B},
            "the name 'a://me:***@host' is given twice: to a sync store and to an async store",
        ),
        ({"": A}, (), "the name of a store is not empty"),
        ([A], {"": B}, "the name of a store is not empty"),
        ({"x": A}, {"x": B}, "the name 'x' is given twice: to a sync store and to an async store"),
        ([A], {"sync-0": B}, "the name 'sync-0' is given twice: to a sync store and to an async store"),
        ([A, B, A], (), "one store is given twice: as 'sync-0' and as 'sync-2'"),
        ([A], [B, B], "one store is given twice: as 'async-0' and as 'async-1'"),
        ([A], {"far": A}, "one store is given twice: as 'sync-0' and as 'far'"),
    ],
)
def test_stores_of_a_wrong_value(sync_stores: Any, async_stores: Any, complaint: str) -> None:
    with pytest.raises(ValueError) as caught:
        replica.open(sync_stores, async_stores)
    assert str(caught.value) == complaint


SHAPE = "sync_stores is an iterable of stores or a mapping of names to stores, not "


@pytest.mark.parametrize(
    ("sync_stores", "async_stores", "complaint"),
    [
        (
            A,
            (),
            SHAPE + "<MemoryStore of 0 blobs>: put it in a list",
        ),
        (
            [A],
            B,
            "a" + SHAPE + "<MemoryStore of 0 blobs>: put it in a list",
        ),
        (None, (), SHAPE + "None"),
        (
            "memory:",
            (),
            SHAPE + "'memory:': use open_store('memory:')",
        ),
        (["memory:"], (), "sync-0 is of type str, not a Store: use open_store('memory:')"),
        ([A], {"far": "memory:"}, "far is of type str, not a Store: use open_store('memory:')"),
        ([A, None], (), "sync-1 is of type NoneType, not a Store"),
        ([MemoryStore], (), "sync-0 is of type ABCMeta, not a Store"),
        (
            [replica.open_store("memory:")],
            (),
            "sync-0 is of type _AsyncGeneratorContextManager, not a Store: enter it first, with `async with`",
        ),
        (
            [A],
            [replica.open([B])],
            "async-0 is of type _AsyncGeneratorContextManager, not a Store: enter it first, with `async with`",
        ),
        ({1: A}, (), "the name of a store is a str, not 1"),
        ({b"near": A}, (), "the name of a store is a str, not b'near'"),
    ],
)
def test_stores_of_a_wrong_type(sync_stores: Any, async_stores: Any, complaint: str) -> None:
    with pytest.raises(TypeError) as caught:
        replica.open(sync_stores, async_stores)
    assert str(caught.value) == complaint


@pytest.mark.parametrize("size", [1, 2, 10**9])
def test_a_good_size(size: int) -> None:
    check_size("queue_size", size)


@pytest.mark.parametrize("seconds", [0, 0.0, -0.0, 1, 0.25, math.inf])
def test_a_good_time(seconds: float) -> None:
    check_seconds("grace", seconds)


@pytest.mark.parametrize(
    ("option", "value", "error"),
    [
        ("queue_size", 0, "queue_size is at least 1, not 0"),
        ("queue_size", -1, "queue_size is at least 1, not -1"),
        ("batch_size", 0, "batch_size is at least 1, not 0"),
        ("grace", -0.5, "grace is 0 or more seconds, not -0.5"),
        ("grace", math.nan, "grace is 0 or more seconds, not nan"),
        ("grace", -math.inf, "grace is 0 or more seconds, not -inf"),
        ("hedge_delay", -1, "hedge_delay is 0 or more seconds, not -1"),
        ("hedge_delay", math.nan, "hedge_delay is 0 or more seconds, not nan"),
    ],
)
def test_options_of_a_wrong_value(option: str, value: float, error: str) -> None:
    with pytest.raises(ValueError) as caught:
        replica.open([A], **{option: value})  # type: ignore[arg-type]
    assert str(caught.value) == error


@pytest.mark.parametrize(
    ("option", "value", "error"),
    [
        ("queue_size", 1.0, "queue_size is an int, not 1.0"),
        ("queue_size", True, "queue_size is an int, not True"),
        ("queue_size", None, "queue_size is an int, not None"),
        ("queue_size", math.inf, "queue_size is an int, not inf"),
        ("batch_size", "5", "batch_size is an int, not '5'"),
        ("batch_size", False, "batch_size is an int, not False"),
        ("grace", None, "grace is a number of seconds, not None"),
        ("grace", "5", "grace is a number of seconds, not '5'"),
        ("grace", True, "grace is a number of seconds, not True"),
        ("hedge_delay", 1j, "hedge_delay is a number of seconds, not 1j"),
        ("hedge_delay", Decimal(1), "hedge_delay is a number of seconds, not Decimal('1')"),
    ],
)
def test_options_of_a_wrong_type(option: str, value: Any, error: str) -> None:
    with pytest.raises(TypeError) as caught:
        replica.open([A], **{option: value})
    assert str(caught.value) == error


@pytest.mark.parametrize(
    "fallback", [("far",), ["far"], {"far": 1}, {"far"}, iter(["far"]), ["s3://b?sig=x", "far"], []]
)
async def test_a_good_fallback(fallback: Any) -> None:
    await open_and_close(replica.open([A], {"far": B, "s3://b?sig=x": C}, fallback=fallback))


@pytest.mark.parametrize(
    ("async_stores", "fallback", "error"),
    [
        ((), ["far"], "fallback has 'far', which is not an async store: there is none"),
        ({"far": B}, ["near"], "fallback has 'near', which is not an async store: those are 'far'"),
        ({"far": B}, ["sync-0"], "fallback has 'sync-0', which is not an async store: those are 'far'"),
        (
            [B, C],
            ["async-1", "async-2"],
            "fallback has 'async-2', which is not an async store: those are 'async-0', 'async-1'",
        ),
        ([B, C], ["async-1", "async-0", "async-1"], "fallback has 'async-1' twice"),
        ({"s3://b?sig=x": B}, ["s3://b?sig=x", "s3://b?sig=y"], "fallback has 's3://b?sig=***' twice"),
        (
            {"far": B},
            ["a://me:pw@host"],
            "fallback has 'a://me:***@host', which is not an async store: those are 'far'",
        ),
        ({"far": B}, [""], "the name of a store is not empty"),
    ],
)
def test_a_fallback_of_a_wrong_value(async_stores: Any, fallback: Any, error: str) -> None:
    with pytest.raises(ValueError) as caught:
        replica.open([A], async_stores, fallback=fallback)
    assert str(caught.value) == error


@pytest.mark.parametrize(
    ("fallback", "error"),
    [
        ("far", "fallback is an iterable of names of stores, not 'far'"),
        (None, "fallback is an iterable of names of stores, not None"),
        (B, "fallback is an iterable of names of stores, not <MemoryStore of 0 blobs>"),
        ([B], "the name of a store is a str, not <MemoryStore of 0 blobs>"),
        (b"far", "the name of a store is a str, not 102"),
    ],
)
def test_a_fallback_of_a_wrong_type(fallback: Any, error: str) -> None:
    with pytest.raises(TypeError) as caught:
        replica.open([A], {"far": B}, fallback=fallback)
    assert str(caught.value) == error


async def test_batch_size_may_be_none() -> None:
    await open_and_close(replica.open([A], [B], batch_size=None))

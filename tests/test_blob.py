"""Refs and blobs, and on which thread they are hashed."""

from __future__ import annotations

import array
import copy
import hashlib
import pickle
import re
import threading
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from trio_replica import Blob, Ref, to_blob
from trio_replica._blob import HASH_OVERHEAD, to_blobs

if TYPE_CHECKING:
    from collections.abc import Callable

MIB = 1024 * 1024
DIGEST = hashlib.sha256(b"hello").digest()
HEX = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"

BUFFERS: dict[str, Callable[[bytes], Any]] = {
    "bytes": lambda data: data,
    "bytearray": bytearray,
    "memoryview": memoryview,
    "array": lambda data: array.array("I", data),
    "every second byte": lambda data: memoryview(bytes(byte for pair in zip(data, data, strict=True) for byte in pair))[
        ::2
    ],
    "backwards": lambda data: memoryview(data[::-1])[::-1],
    "two dimensions": lambda data: memoryview(data).cast("B", [2, len(data) // 2]),
}


class OtherBytes(bytes):
    """A subclass of `bytes`."""


class Hashed:
    """Stands in for `hashlib.sha256`: does the same, and keeps what it hashed and on which thread."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sizes: list[int] = []
        self.threads: list[threading.Thread] = []
        self._sha256 = hashlib.sha256
        monkeypatch.setattr(hashlib, "sha256", self)

    def __call__(self, data: bytes) -> object:
        self.sizes.append(len(data))
        self.threads.append(threading.current_thread())
        return self._sha256(data)

    @property
    def elsewhere(self) -> list[bool]:
        return [thread is not threading.main_thread() for thread in self.threads]


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> Hashed:
    return Hashed(monkeypatch)


# Ref


@pytest.mark.parametrize("buffer", BUFFERS.values(), ids=BUFFERS.keys())
def test_ref_is_made_of_anything_bytes_like(buffer: Callable[[bytes], Any]) -> None:
    ref = Ref(buffer(DIGEST))
    assert type(ref) is Ref
    assert ref == DIGEST
    assert Ref(ref) == ref


@pytest.mark.parametrize("size", [0, 31, 33, 64])
@pytest.mark.parametrize("kind", [bytes, bytearray, lambda size: memoryview(bytes(size))])
def test_ref_of_another_length(size: int, kind: Callable[[int], Any]) -> None:
    with pytest.raises(ValueError, match=rf"^a ref is exactly 32 bytes, not {size}$"):
        Ref(kind(size))


def test_ref_counts_bytes_and_not_items() -> None:
    with pytest.raises(ValueError, match="exactly 32 bytes, not 128"):
        Ref(array.array("I", range(32)))


@pytest.mark.parametrize("junk", [32, 0, None, [0] * 32, (0,) * 32, 1.5, object(), HEX])
def test_ref_of_what_is_not_bytes_like(junk: Any) -> None:
    with pytest.raises(TypeError, match=rf"^a ref is made of bytes, .*, not {type(junk).__name__}"):
        Ref(junk)


def test_ref_of_a_str_says_what_to_do() -> None:
    with pytest.raises(TypeError, match=r"not str; Ref.from_hex takes a str$"):
        Ref(HEX)  # type: ignore[arg-type]


@pytest.mark.parametrize("buffer", BUFFERS.values(), ids=BUFFERS.keys())
def test_ref_of_data(buffer: Callable[[bytes], Any]) -> None:
    data = bytes(range(64))
    assert Ref.of(buffer(data)) == hashlib.sha256(data).digest()
    assert type(Ref.of(data)) is Ref


def test_ref_of_a_blob_is_its_ref(hashed: Hashed) -> None:
    blob = Blob(b"hello")
    assert Ref.of(blob) is blob.ref
    assert len(hashed.sizes) == 1


@pytest.mark.parametrize("junk", ["hello", None, 5, ["hello"]])
def test_ref_of_data_that_is_not_bytes_like(junk: Any) -> None:
    with pytest.raises(TypeError, match=rf"^a blob is made of bytes, .*, not {type(junk).__name__}"):
        Ref.of(junk)


def test_ref_and_its_hex() -> None:
    ref = Ref.from_hex(HEX)
    assert type(ref) is Ref
    assert ref == DIGEST
    assert str(ref) == f"{ref}" == HEX
    assert f"{ref!s:.12}" == HEX[:12]
    assert repr(ref) == f"Ref.from_hex('{HEX}')"
    assert eval(repr(ref)) == ref


@pytest.mark.parametrize(
    "text",
    [
        "",
        HEX[:-1],
        HEX + "0",
        HEX.upper(),
        HEX[:-1] + "g",
        HEX[:-1] + "\u0663",  # a digit, but not of ASCII
        HEX[:-1] + "\uff41",  # a full-width a
        HEX + "\n",
        "\n" + HEX[:-1],
        " " + HEX[1:],
        "0x" + HEX[2:],
        HEX[:30] + " " + HEX[31:],
    ],
)
def test_hex_that_is_no_ref(text: str) -> None:
    with pytest.raises(ValueError, match=rf"^a ref is exactly 64 lowercase hex.* not {len(text)} characters: '"):
        Ref.from_hex(text)


@pytest.mark.parametrize(("length", "shown"), [(80, "z" * 80), (81, "z" * 77 + "..."), (10**6, "z" * 77 + "...")])
def test_long_text_is_not_shown_whole(length: int, shown: str) -> None:
    with pytest.raises(ValueError, match=f"not {length} characters: '{re.escape(shown)}'$"):
        Ref.from_hex("z" * length)


@pytest.mark.parametrize("junk", [HEX.encode(), DIGEST, None, 0, [HEX]])
def test_hex_that_is_no_str(junk: Any) -> None:
    with pytest.raises(TypeError, match=rf"^the hex of a ref is a str, not {type(junk).__name__}$"):
        Ref.from_hex(junk)


@given(st.lists(st.binary(min_size=32, max_size=32)))
def test_refs_are_ordered_and_hashed_like_their_bytes(digests: list[bytes]) -> None:
    refs = [Ref(digest) for digest in digests]
    assert sorted(refs) == sorted(digests)
    assert set(refs) == set(digests)
    assert all(ref >= Ref.ZERO for ref in refs)
    assert [Ref.from_hex(str(ref)) for ref in refs] == refs


def test_zero_sorts_first() -> None:
    assert type(Ref.ZERO) is Ref
    assert bytes(Ref.ZERO) == bytes(32)
    assert Ref(bytes(31) + b"\x01") > Ref.ZERO


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_ref_survives_pickle(protocol: int) -> None:
    ref = pickle.loads(pickle.dumps(Ref(DIGEST), protocol))
    assert type(ref) is Ref
    assert ref == DIGEST


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_ref_survives_copy(copied: Callable[[Ref], Ref]) -> None:
    ref = copied(Ref(DIGEST))
    assert type(ref) is Ref
    assert ref == DIGEST


def test_ref_is_immutable() -> None:
    ref: Any = Ref(DIGEST)
    with pytest.raises(AttributeError):
        ref.name = "greeting"
    with pytest.raises(TypeError):
        ref[0] = 0


# Blob


def test_blob_keeps_the_very_bytes() -> None:
    data = bytes(1000)
    blob = Blob(data)
    assert blob.data is data
    assert bytes(blob) is data
    assert len(blob) == 1000
    assert Blob(blob) is blob


@pytest.mark.parametrize("buffer", [bytearray(b"hello"), memoryview(bytearray(b"hello"))])
def test_blob_copies_what_its_owner_may_change(buffer: bytearray | memoryview) -> None:
    blob = Blob(buffer)
    buffer[0] = 0
    assert blob.data == b"hello"
    assert blob.ref == DIGEST


def test_blob_lets_go_of_a_buffer() -> None:
    buffer = bytearray(b"hello")
    blob = Blob(buffer)
    buffer.clear()  # refused while anything looks into it
    assert blob.data == b"hello"


@pytest.mark.parametrize("buffer", BUFFERS.values(), ids=BUFFERS.keys())
def test_blob_is_made_of_anything_bytes_like(buffer: Callable[[bytes], Any]) -> None:
    data = bytes(range(64))
    blob = Blob(buffer(data))
    assert type(blob.data) is bytes
    assert blob.data == data
    assert blob.ref == Ref.of(data) == Ref.of(buffer(data))


@pytest.mark.parametrize("data", [OtherBytes(b"hello"), Ref(DIGEST)])
def test_blob_of_a_subclass_of_bytes_has_plain_bytes(data: bytes) -> None:
    blob = Blob(data)
    assert type(blob.data) is bytes
    assert blob.data == data


def test_the_empty_blob() -> None:
    blob = Blob(b"")
    assert len(blob) == 0
    assert str(blob.ref) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.mark.parametrize("junk", [0, 5, None, [1, 2], object()])
def test_blob_of_what_is_not_bytes_like(junk: Any) -> None:
    with pytest.raises(TypeError, match=rf"^a blob is made of bytes, .* or the like, not {type(junk).__name__}$"):
        Blob(junk)


def test_blob_of_a_str_says_what_to_do() -> None:
    with pytest.raises(TypeError, match=r"not str; encode a str first$"):
        Blob("hello")  # type: ignore[arg-type]


def test_blob_is_hashed_once_and_when_needed(hashed: Hashed) -> None:
    blob = Blob(b"hello")
    assert hashed.sizes == []
    assert blob.ref is blob.ref
    assert {blob: blob}[Blob(blob)] == blob
    assert hashed.sizes == [5]


def test_blobs_are_equal_and_hash_by_their_refs() -> None:
    one, same, other = Blob(b"hello"), Blob(bytearray(b"hello")), Blob(b"other")
    assert one == same
    assert hash(one) == hash(same) == hash(Ref(DIGEST))
    assert one != other
    assert len({one, same, other}) == 2
    assert one != b"hello"
    assert one != one.ref


def test_blob_is_immutable() -> None:
    blob: Any = Blob(b"hello")
    for name in ("data", "ref", "name"):
        with pytest.raises(AttributeError):
            setattr(blob, name, b"")


def test_blob_shows_the_beginning_of_its_ref() -> None:
    assert repr(Blob(b"hello")) == "<Blob 2cf24dba5fb0, 5 bytes>"


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_blob_survives_pickle(protocol: int) -> None:
    blob = pickle.loads(pickle.dumps(Blob(b"hello"), protocol))
    assert type(blob) is Blob
    assert blob.data == b"hello"
    assert blob.ref == DIGEST


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_blob_survives_copy(copied: Callable[[Blob], Blob]) -> None:
    blob = Blob(b"hello")
    assert copied(blob) == blob
    assert copied(blob).data is blob.data


# to_blob


@pytest.mark.parametrize(
    ("size", "elsewhere"),
    [(0, False), (5, False), (MIB, False), (MIB + 1, True), (3 * MIB, True)],
)
async def test_to_blob_hashes_large_data_in_a_thread(hashed: Hashed, size: int, elsewhere: bool) -> None:
    with trio.testing.assert_checkpoints():
        blob = await to_blob(bytearray(size))
    assert hashed.elsewhere == [elsewhere]
    with trio.testing.assert_no_checkpoints():
        assert blob.ref == Ref.of(bytes(size))
    assert hashed.sizes[0] == size


@pytest.mark.parametrize("size", [5, MIB + 1])
async def test_to_blob_of_a_hashed_blob_is_that_blob(hashed: Hashed, size: int) -> None:
    blob = Blob(bytes(size))
    assert blob.ref
    with trio.testing.assert_checkpoints():
        assert await to_blob(blob) is blob
    assert len(hashed.sizes) == 1


@pytest.mark.parametrize("size", [5, MIB + 1])
async def test_to_blob_can_be_cancelled(size: int) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        await to_blob(bytes(size))
    assert scope.cancelled_caught


async def test_to_blob_abandons_the_thread_that_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    sha256 = hashlib.sha256
    hashing, cancelled = trio.Event(), threading.Event()
    token = trio.lowlevel.current_trio_token()

    def slow(data: bytes) -> object:
        trio.from_thread.run_sync(hashing.set, trio_token=token)
        assert cancelled.wait(60)
        return sha256(data)

    monkeypatch.setattr(hashlib, "sha256", slow)
    blob = Blob(bytes(MIB + 1))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(to_blob, blob)
        await hashing.wait()
        nursery.cancel_scope.cancel()
    cancelled.set()  # only now can the thread go on
    monkeypatch.undo()
    assert (await to_blob(blob)).ref == sha256(blob.data).digest()


@pytest.mark.parametrize("junk", ["hello", None, 5])
async def test_to_blob_of_what_is_not_bytes_like(junk: Any) -> None:
    with pytest.raises(TypeError, match=r"^a blob is made of bytes"):
        await to_blob(junk)


# to_blobs


@pytest.mark.parametrize(
    ("sizes", "elsewhere"),
    [
        ([], []),
        ([5, 0, 5], [False] * 3),
        ([MIB], [False]),
        ([5, MIB + 1, 5], [False, True, False]),
        ([MIB // 2] * 5, [False] * 5),
    ],
)
async def test_to_blobs_hashes_large_data_in_a_thread(hashed: Hashed, sizes: list[int], elsewhere: list[bool]) -> None:
    with trio.testing.assert_checkpoints():
        blobs = await to_blobs(bytes(size) for size in sizes)
    assert hashed.elsewhere == elsewhere
    assert hashed.sizes == sizes
    assert [len(blob) for blob in blobs] == sizes
    with trio.testing.assert_checkpoints():
        assert await to_blobs(blobs) == blobs
    assert len(hashed.sizes) == len(sizes)


@pytest.mark.parametrize(("size", "count"), [(MIB // 4, 40), (0, 5 * MIB // HASH_OVERHEAD)])
async def test_to_blobs_lets_others_run(hashed: Hashed, size: int, count: int) -> None:
    turns = [0]

    async def watch() -> None:
        while True:
            turns.append(len(hashed.sizes))
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        await to_blobs([bytes(size)] * count)
        nursery.cancel_scope.cancel()
    turns.append(count)
    runs = [after - before for before, after in pairwise(turns)]
    # Either task may take its turn twice in a row, when Trio has shuffled them so.
    assert max(runs) * (size + HASH_OVERHEAD) <= 2 * (MIB + size + HASH_OVERHEAD)
    assert len(runs) <= 2 * (count * (size + HASH_OVERHEAD) / MIB + 2)


async def test_to_blobs_copies_all_buffers_before_anything_else_runs() -> None:
    buffers = [bytearray(b"%d" % i) + bytes(MIB) for i in range(3)]
    expected = [bytes(buffer) for buffer in buffers]

    async def scribble() -> None:
        await trio.lowlevel.checkpoint()
        for buffer in buffers:
            buffer[:] = b"changed"

    async with trio.open_nursery() as nursery:
        nursery.start_soon(scribble)
        blobs = await to_blobs(buffers)
    assert [blob.data for blob in blobs] == expected


@pytest.mark.parametrize("items", [[b"good", "bad"], [b"good", None], b"bytes", "text"])
async def test_to_blobs_with_a_bad_item_hashes_none(hashed: Hashed, items: Any) -> None:
    with pytest.raises(TypeError, match=r"^a blob is made of bytes"):
        await to_blobs(items)
    assert hashed.sizes == []


@pytest.mark.parametrize("sizes", [[], [5], [MIB + 1]])
async def test_to_blobs_can_be_cancelled(sizes: list[int]) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        await to_blobs(bytes(size) for size in sizes)
    assert scope.cancelled_caught

"""Blobs, and the refs that name them."""

from __future__ import annotations

import collections.abc
import hashlib
import re
from typing import TYPE_CHECKING, ClassVar, Final, Self, TypeAlias, final

import trio

if TYPE_CHECKING:
    from collections.abc import Iterable

    from typing_extensions import Buffer

    BytesLike: TypeAlias = Buffer
else:
    BytesLike = getattr(collections.abc, "Buffer", bytes | bytearray | memoryview)  # Buffer is new in Python 3.12
"""Bytes-like objects: `bytes`, `bytearray`, `memoryview`, and any other object that shows its bytes as these do."""

REF_SIZE: Final = 32
"""Bytes in a ref: the length of a SHA-256 digest (FIPS 180-4)."""

HASH_INLINE_LIMIT: Final = 1024 * 1024
"""Bytes that may be hashed on the event loop: 1 MiB took 0.6 ms on a CPU with SHA instructions."""

HASH_PIECE: Final = 2047
"""Bytes that `hashlib` hashes without releasing the interpreter, which it does for 2048 and more. Getting it back
from a busy thread takes longer than hashing a small blob: 18 µs more for a verified get of 4 KiB from SQLite."""

HASH_PIECES_LIMIT: Final = 64 * 1024
"""The largest blob, in bytes, that is hashed in such pieces. This holds the interpreter for 35 µs and costs 10 % (4
KiB: 2.7 µs, 16 %)."""

HASH_OVERHEAD: Final = 1024
"""Bytes that can be hashed in 1 µs, which is the time that each blob takes beside its content."""

SHOWN_LIMIT: Final = 80
"""Characters that an error shows of a text that is not a ref. They fit on a line of most terminals."""

_HEX = re.compile(r"[0-9a-f]{64}")


@final
class Ref(bytes):
    """The name of a blob: the 32 bytes of the SHA-256 digest of its content.

    Refs are `bytes`: ordered, hashable, and equal to the same plain bytes. `str` of a ref is its 64 lowercase
    hexadecimal digits, which is also what ``sha256sum`` prints.

    Args:
      digest: exactly 32 bytes, in anything bytes-like.

    Raises:
      TypeError: if `digest` is not bytes-like (an `int` would otherwise make that many zeros).
      ValueError: if it has another length than 32 bytes.

    """

    __slots__ = ()

    ZERO: ClassVar[Ref]
    """The ref of 32 zero bytes. It sorts first, so listing after it lists everything."""

    def __new__(cls, digest: BytesLike, /) -> Self:
        view = _view(digest, "a ref")
        if view.nbytes != REF_SIZE:
            raise ValueError(f"a ref is exactly {REF_SIZE} bytes, not {view.nbytes}")
        return super().__new__(cls, view)

    @classmethod
    def of(cls, data: Blob | BytesLike, /) -> Ref:
        """Return the ref of a blob, or of bytes-like data, which is hashed without being copied.

        Raises:
          TypeError: if `data` is neither.

        """
        if isinstance(data, Blob):
            return data.ref
        return cls._trusted(sha256(_contiguous(_view(data, "a blob"))))

    @classmethod
    def from_hex(cls, text: str, /) -> Ref:
        """Return the ref that `str` shows as `text`.

        Raises:
          TypeError: if `text` is not a `str`.
          ValueError: if it is not exactly 64 lowercase hexadecimal digits.

        """
        if not isinstance(text, str):
            raise TypeError(f"the hex of a ref is a str, not {type(text).__name__}")
        if _HEX.fullmatch(text) is None:
            shown = text if len(text) <= SHOWN_LIMIT else text[: SHOWN_LIMIT - 3] + "..."
            raise ValueError(f"a ref is exactly 64 lowercase hexadecimal digits, not {len(text)} characters: {shown!r}")
        return cls._trusted(bytes.fromhex(text))

    @classmethod
    def _trusted(cls, digest: bytes) -> Ref:
        """Return the ref of `digest`, which is known to be 32 bytes."""
        return bytes.__new__(cls, digest)

    def __str__(self) -> str:
        return self.hex()

    def __repr__(self) -> str:
        return f"Ref.from_hex({self.hex()!r})"


Ref.ZERO = Ref._trusted(bytes(REF_SIZE))


@final
class Blob:
    """Immutable bytes with their ref, which is computed once, when it is first needed.

    Blobs are equal, and hash, by their refs. ``Blob(blob)`` is `blob` itself.

    Args:
      data: anything bytes-like. A `bytes` is kept as it is. Any other buffer is copied, so that its owner may go on
        using it.

    Raises:
      TypeError: if `data` is not bytes-like; a `str` has to be encoded first.

    """

    __slots__ = ("_data", "_ref")

    _data: bytes
    _ref: Ref | None

    def __new__(cls, data: Blob | BytesLike, /) -> Blob:
        if isinstance(data, Blob):
            return data
        blob = super().__new__(cls)
        blob._data = data if type(data) is bytes else bytes(_view(data, "a blob"))
        blob._ref = None
        return blob

    @property
    def data(self) -> bytes:
        """The content."""
        return self._data

    @property
    def ref(self) -> Ref:
        """The ref of the content. The first access hashes it: see `to_blob` for large ones."""
        if self._ref is None:
            self._ref = Ref._trusted(sha256(self._data))
        return self._ref

    def __len__(self) -> int:
        return len(self._data)

    def __bytes__(self) -> bytes:
        return self._data

    def __eq__(self, other: object) -> bool:
        return self.ref == other.ref if isinstance(other, Blob) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.ref)

    def __reduce__(self) -> tuple[type[Blob], tuple[bytes]]:
        return Blob, (self._data,)

    def __repr__(self) -> str:
        return f"<Blob {self.ref!s:.12}, {len(self)} bytes>"


def sha256(data: bytes | memoryview) -> bytes:
    """Return the SHA-256 digest of `data`. A view has to be one of bytes."""
    size = len(data)
    if size > HASH_PIECES_LIMIT:
        return hashlib.sha256(data).digest()
    digest = hashlib.sha256(data[:HASH_PIECE])
    for start in range(HASH_PIECE, size, HASH_PIECE):
        digest.update(data[start : start + HASH_PIECE])
    return digest.digest()


async def to_blob(data: Blob | BytesLike) -> Blob:
    """Return `data` as a blob whose ref has been computed, in a thread when it is over 1 MiB.

    Every store begins its ``put`` with this. Being cancelled changes nothing, and abandons a thread that hashes.

    Raises:
      TypeError: if `data` is neither a `Blob` nor bytes-like.

    """
    blob = await hashed(data)
    await trio.lowlevel.checkpoint()
    return blob


async def hashed(data: Blob | BytesLike) -> Blob:
    """Return what `to_blob` returns, without its checkpoint. The caller has to pass a checkpoint of its own next."""
    blob = Blob(data)
    if takes_thread(blob):
        await trio.to_thread.run_sync(_compute_ref, blob, abandon_on_cancel=True)
    else:
        _compute_ref(blob)
    return blob  # noqa: ASYNC910  (see above)


def takes_thread(blob: Blob) -> bool:
    """Return whether computing the ref of `blob`, if it is not computed yet, would hold up the event loop."""
    return blob._ref is None and len(blob) > HASH_INLINE_LIMIT


async def to_blobs(items: Iterable[Blob | BytesLike]) -> list[Blob]:
    """Return `items` as `to_blob` would each, in their order.

    It has a checkpoint at its end, and one for each MiB that is hashed. Buffers that may change are copied
    before anything else runs, and a bad item raises before any item is hashed. Being cancelled changes nothing.

    Raises:
      TypeError: if one is neither a `Blob` nor bytes-like.

    """
    blobs = await all_hashed(items)
    await trio.lowlevel.checkpoint()
    return blobs


async def all_hashed(items: Iterable[Blob | BytesLike]) -> list[Blob]:
    """Return what `to_blobs` returns, without the checkpoint at its end. The caller has to pass one of its own next."""
    given = list(items)
    if not set(map(type, given)) <= _IMMUTABLE:
        given = [Blob(item) for item in given]
    blobs: list[Blob] = []
    since_checkpoint = 0
    for item in given:
        blob = Blob(item)
        blobs.append(blob)
        if blob._ref is None:
            since_checkpoint += len(blob) + HASH_OVERHEAD
            if since_checkpoint > HASH_INLINE_LIMIT:
                await to_blob(blob)
                since_checkpoint = 0
            else:
                _compute_ref(blob)
    return blobs  # noqa: ASYNC910  (see above)


_IMMUTABLE: Final = frozenset({bytes, Blob})
"""The types of items that can't change in the meantime, so that each can be converted when its turn comes."""


def _compute_ref(blob: Blob) -> None:
    blob.ref  # noqa: B018  (the first access computes it)


def _view(data: BytesLike, what: str) -> memoryview:
    try:
        return memoryview(data)
    except TypeError:
        hints = {"a ref": "; Ref.from_hex takes a str", "a blob": "; encode a str first"}
        hint = hints[what] if isinstance(data, str) else ""
        kind = type(data).__name__
        raise TypeError(f"{what} is made of bytes, bytearray, memoryview or the like, not {kind}{hint}") from None


def _contiguous(view: memoryview) -> memoryview | bytes:
    return view.cast("B") if view.c_contiguous and view.nbytes else bytes(view)

"""The listing of an object store: what is no listing, or an unproved end, is an error; and none goes on forever."""

from __future__ import annotations

import itertools
import logging
import threading
from contextlib import asynccontextmanager
from typing import IO, TYPE_CHECKING, Any

import pytest
import trio

from trio_replica import (
    MemoryStore,
    ObjectStore,
    Ref,
    ReplicaError,
    StoreIdentityError,
    open_object_store,
    open_store_threads,
    reconcile,
)
from trio_replica.stores._object_store.client import ObjectClient
from trio_replica.stores._object_store.keys import Keys, KeySource
from trio_replica.stores._object_store.listing import Listing
from trio_replica.stores._object_store.parts import ObjectParts
from trio_replica.stores._object_store.ref_page import RefPage
from trio_replica.stores._object_store.s3_answer import read_listing
from trio_replica.stores._object_store.s3_requests import ANSWER_BYTES
from trio_replica.stores._object_store.url import ClientLimits, parse_object_url
from trio_replica.stores.object_store import _serve, open_objects

from .fake_bucket import BUCKET, FakeBucket, Query
from .held import PATIENCE, wait_for
from .s3_server import S3Server
from .scripted import Answer, Request, Scripted, answering, never_answer, scripted_server

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
    from contextlib import AbstractAsyncContextManager

PREFIX = b"p/"
BLOBS = [b"%d" % number for number in range(25)]
REFS = sorted(map(Ref.of, BLOBS))
ODD_KEYS = [
    b"a",
    b"p",
    b"p//x",
    b"p/../x",
    b"p/b",
    b"p/b//x",
    b"p/b:",
    b"p/b:%41 +&<>\"'",
    b"p/b:\x01\x1b[31m\x7f",
    b"p/b:\xff\xfe",
    "p/b:\u2028\u0085\ufffe".encode(),
    b"p/b:" + b"0" * 64 + b"/child",
    b"p/b:" + b"F" * 64,
    b"p/b:" + b"9" * 64 + b"/",
    b"p/b:zoo//x",
    b"p/b~mark",
    b"p/b~~",
    b"p/zoo//x",
    b"q/b:" + str(REFS[0]).encode(),
    b"\xff\xff",
]
NO_GOOD_SERVER = "correct the endpoint, or repair the server"
NO_LISTING = f"it answers a request for its listing with 200, but not with that listing: {NO_GOOD_SERVER}"
NOT_IN_ORDER = "it does not list in the order of the names, as a store needs it"
PROVES_NOTHING = "its listing ended before the object b~, which is there, so it may lack blobs"
NO_PROOF = f"{PROVES_NOTHING}: try again later, or repair the server"
FORBIDDEN = (
    "the server forbids this with these credentials: "
    "permit them to list, get, put and delete in the bucket (403 AccessDenied)"
)
THE_SAME = f"it lists the same names again: {NO_GOOD_SERVER}"
NOTHING = f"it lists nothing, and says that there is more: {NO_GOOD_SERVER}"
TOO_LONG = f"it sent more than {ANSWER_BYTES} bytes for a page of its listing: {NO_GOOD_SERVER}"
HUNG_UP = "its server closed the connection without an answer: try again later; if it speaks TLS, correct the endpoint"
NO_OBJECT_STORE = "the server is not an object store: correct the endpoint"
HUNG = "its server did not answer in time: try again later, or raise request_timeout, which limits the size of blobs"


@pytest.fixture
def bucket() -> FakeBucket:
    """A bucket with a store of `BLOBS` under a prefix, and with odd objects of other programs."""
    bucket = FakeBucket()
    bucket.objects = dict.fromkeys(ODD_KEYS, b"other")
    bucket.objects |= {PREFIX + f"b:{Ref.of(blob)}".encode(): blob for blob in BLOBS}
    bucket.objects[PREFIX + b"b~"] = b"0123456789abcdef" * 2
    return bucket


def open_at(server: Scripted, scheme: str = "s3", **options: Any) -> AbstractAsyncContextManager[ObjectStore]:
    """Open the store under the prefix. It asks once, unless it is told otherwise."""
    given = S3Server(server.endpoint()).options() if scheme == "s3" else {"endpoint": server.endpoint()}
    given |= {"allow_http": "true", **({"bearer_token": "token"} if scheme == "gs" else {})}
    return open_object_store(f"{scheme}://{BUCKET}/p", **{**given, "retries": 0, "retry_timeout": 1.0, **options})


def lose_patience(store: ObjectStore) -> None:
    """Let each request of the listing take 0.3 s from now on. However slow the machine is, the store is open by now."""
    object.__setattr__(store._client.place.limits, "request_timeout", 0.3)


def open_in_pages(server: Scripted, keys_at_once: int) -> AbstractAsyncContextManager[ObjectStore]:
    """Open the store under the prefix. It asks for so many keys at once."""
    options = S3Server(server.endpoint()).options()
    place = parse_object_url(f"s3://{BUCKET}/p", ClientLimits(2, 5.0, 5.0, 0, 1.0), options)
    return open_objects(ObjectParts(place, keys_at_once=keys_at_once))


async def list_all(store: ObjectStore) -> list[Ref]:
    return [ref async for ref in store.list_refs()]


def line_of(server: Scripted, text: str, scheme: str = "s3") -> str:
    return f"{scheme}://{BUCKET}/p at {server.endpoint()}: {text}"


# True listings


def page_cases() -> Iterator[Any]:
    """Return all cases. Those of the fast gear have each number of keys once."""
    for encodes, counts in ((True, (1, 2, 3, 7, 1000)), (False, (5, 7, 1000))):
        for place, count in enumerate(counts):
            for is_plain in (False, True):
                is_fast = is_plain == bool(place % 2)
                yield pytest.param(encodes, is_plain, count, marks=[] if is_fast else pytest.mark.deep)


@pytest.mark.parametrize(("encodes", "has_plain_tokens", "keys_at_once"), [*page_cases()])
async def test_objects_of_other_programs_are_left_alone(
    bucket: FakeBucket, encodes: bool, has_plain_tokens: bool, keys_at_once: int
) -> None:
    """A server that does not encode keys has to give a page with more keys than odd ones that come together."""
    bucket.encodes, bucket.has_plain_tokens = encodes, has_plain_tokens
    with scripted_server(answering(bucket.answer)) as server:
        async with open_in_pages(server, keys_at_once) as store:
            assert await list_all(store) == REFS
            assert await store.list_page(REFS[3], 4) == REFS[4:8]
            assert await store.list_page(REFS[3], 10**9) == REFS[4:]
            assert await store.list_page(REFS[-1], 1) == []
    assert set(ODD_KEYS) <= set(bucket.objects)


async def test_a_page_is_one_request(bucket: FakeBucket) -> None:
    with scripted_server(answering(bucket.answer)) as server:
        async with open_at(server) as store:
            assert len(server.requests) == 1  # which found the identity
            assert await store.list_page(Ref.ZERO, 3) == REFS[:3]
            assert await store.list_page(Ref.ZERO, 1000) == REFS
            assert await store.list_page(REFS[-1], 1000) == []
        assert [request.path.partition("?")[0] for request in server.requests[1:]] == [f"/{BUCKET}"] * 3


async def test_a_request_says_what_is_needed(bucket: FakeBucket) -> None:
    with scripted_server(answering(bucket.answer)) as server:
        async with open_at(server) as store:
            await store.list_page(REFS[0], 3)
        query = Query(server.requests[-1])
    assert query.options == {
        "encoding-type": "url",
        "list-type": "2",
        "max-keys": "4",
        "prefix": "p/b",
        "start-after": f"p/b:{REFS[0]}",
    }


def begin_again(bucket: FakeBucket) -> Callable[[Query], Answer]:
    """Return the answers of a server that uses only the token, and otherwise lists from the first object."""

    def answer(query: Query) -> Answer:
        keys = sorted(bucket.objects)
        begin = keys.index(query.after) if "continuation-token" in query.options else 0
        return bucket.page(
            keys[begin : begin + 10], token=bucket.token(keys[begin + 10]) if keys[begin + 10 :] else None
        )

    return answer


def pause(bucket: FakeBucket) -> Callable[[Query], Answer]:
    """Return the answers of a server that sends empty pages in between, as if many objects had been deleted."""
    numbers = itertools.count()

    def answer(query: Query) -> Answer:
        if (number := next(numbers)) % 4:
            return bucket.page([], token=bucket.token(query.after.ljust(100) + b"%d" % number))
        query.after = query.after[:100].rstrip()
        query.at_most = 9
        return bucket.listing(query)

    return answer


def heed_nothing(bucket: FakeBucket) -> Callable[[Query], Answer]:
    return lambda _: bucket.page(sorted(bucket.objects))


@pytest.mark.parametrize("poor", [begin_again, heed_nothing, pause])
async def test_a_server_that_can_do_less(
    bucket: FakeBucket, poor: Callable[[FakeBucket], Callable[[Query], Answer]]
) -> None:
    with scripted_server(answering(bucket.answer)) as server:
        async with open_at(server) as store:
            bucket.lie = poor(bucket)
            assert await list_all(store) == REFS
            assert await store.list_page(REFS[9], 2) == REFS[10:12]


# Lies


def after_all(query: Query) -> Query:
    query.start = PREFIX + b"b:g"
    return query


def under_q(query: Query) -> Query:
    query.prefix = b"q/b"
    return query


XML = b"<?xml version='1.0'?>"
LIES: dict[str, tuple[Callable[[FakeBucket, Query], Answer], str]] = {
    "an error": (lambda *_: Answer(200, XML + b"<Error><Code>InternalError</Code></Error>"), NO_LISTING),
    "a page of a proxy": (lambda *_: Answer(200, "<html><body>Please log in</body></html>"), NO_LISTING),
    "nothing": (lambda *_: Answer(200), NO_LISTING),
    "another charset": (lambda *_: Answer(200, b"<?xml version='1.0' encoding='x-odd'?><a/>"), NO_LISTING),
    "entities": (lambda *_: Answer(200, b"<!DOCTYPE a [<!ENTITY b 'c'>]><ListBucketResult/>"), NO_LISTING),
    "a listing that is cut off": (
        lambda bucket, query: Answer(200, bytes(bucket.listing(query).body)[:-9]),  # type: ignore[arg-type]
        NO_LISTING,
    ),
    "an empty listing": (lambda bucket, _: bucket.page([]), NO_PROOF),
    "a listing that ends early": (
        lambda bucket, query: bucket.page([key for key in bucket.keys(query) if key < b"p/b:8"]),
        NO_PROOF,
    ),
    "a listing without the identity": (
        lambda bucket, query: bucket.page([key for key in bucket.keys(query) if not key.endswith(b"~")]),
        NO_PROOF,
    ),
    "a listing in another order": (lambda bucket, query: bucket.page(bucket.keys(query)[::-1]), NOT_IN_ORDER),
    "the identity first": (
        lambda bucket, query: bucket.page([PREFIX + b"b~", *bucket.keys(query)]),
        NOT_IN_ORDER,
    ),
    "a blob twice": (
        lambda bucket, query: bucket.page(sorted(bucket.keys(query) * 2)),
        NOT_IN_ORDER,
    ),
    "the first page again and again": (
        lambda bucket, _: bucket.page([PREFIX + b"b", PREFIX + b"b:"], token=b"t"),
        THE_SAME,
    ),
    "the first page again and again, without a token": (
        lambda bucket, _: bucket.page([PREFIX + b"b:zoo"], is_truncated=True),
        THE_SAME,
    ),
    "a page that goes back": (
        lambda bucket, query: bucket.page([PREFIX + (b"b:w" if query.after == b"t" else b"b:x")], token=b"t"),
        THE_SAME,
    ),
    "more, and no token": (lambda bucket, _: bucket.page([], is_truncated=True), NOTHING),
    "a token that never advances": (lambda bucket, _: bucket.page([], token=b"t"), NOTHING),
    "empty pages forever": (lambda bucket, query: bucket.page([], token=query.after + b"t"), NOTHING),
    "a million keys": (lambda *_: Answer(200, "<ListBucketResult>" + "<Contents/>" * 10**6), TOO_LONG),
    "the answer to another request, of a cache": (
        lambda bucket, query: bucket.page([PREFIX + b"b~"], asked=after_all(query)),
        NO_LISTING,
    ),
    "the listing of another prefix": (
        lambda bucket, query: bucket.page([b"q/b~", b"p/b~"], asked=under_q(query)),
        NO_LISTING,
    ),
    "a refusal": (
        lambda *_: Answer.of_error(403, "AccessDenied"),
        FORBIDDEN,
    ),
    "a redirect": (
        lambda *_: Answer(307, headers="Location: http://127.0.0.1:9/elsewhere\r\n"),
        "the bucket is elsewhere: correct the region or the endpoint (307)",
    ),
}


@pytest.mark.parametrize("name", LIES)
async def test_a_lie_is_no_end(bucket: FakeBucket, name: str) -> None:
    lie, text = LIES[name]
    with scripted_server(answering(bucket.answer)) as server:
        async with open_at(server) as store:
            bucket.lie = lambda query: lie(bucket, query)
            with pytest.raises(ReplicaError) as caught:
                await list_all(store)
            assert str(caught.value) == line_of(server, text)
            assert (caught.value.__cause__, caught.value.__context__) == (None, None)
            report = await reconcile({"bucket": store, "other": MemoryStore()})
            assert list(report.failures) == ["bucket"]
            bucket.lie = None
            assert await list_all(store) == REFS


class OneByOne:
    """A source of keys that gives one in each answer."""

    def __init__(self, keys: Iterable[bytes]) -> None:
        self.keys = iter(keys)

    async def ask(self, after: bytes, token: str | None, at_most: int) -> Keys:
        await trio.lowlevel.checkpoint()
        return Keys([PREFIX + next(self.keys)], may_go_on=True)


@asynccontextmanager
async def open_listing(source: KeySource) -> AsyncGenerator[Listing, None]:
    options = S3Server("http://127.0.0.1:1").options()
    client = ObjectClient(parse_object_url(f"s3://{BUCKET}", ClientLimits(1, 1.0, 1.0, 0, 1.0), options))
    async with open_store_threads("threads", _serve) as threads:
        yield Listing(client, PREFIX, source, threads, at_once=5, answers=4)


async def list_one_by_one(keys: Iterable[bytes], limit: int) -> list[Ref]:
    async with open_listing(OneByOne(keys)) as listing:
        return await listing.list_page(Ref.ZERO, limit, trio.lowlevel.checkpoint)


async def test_objects_of_other_programs_without_end() -> None:
    """A server makes them up."""
    keys = (b"b:%09d" % number for number in itertools.count())
    with pytest.raises(ReplicaError, match="between two blobs it lists 20 other objects: move them away"):
        await list_one_by_one(keys, 1)


async def test_objects_of_other_programs_between_all_blobs() -> None:
    keys = [f"b:{ref}{rest}".encode() for ref in REFS for rest in ("", "x", "y", "z")]
    assert await list_one_by_one(keys, len(REFS)) == REFS


async def test_the_identity_is_removed_while_the_store_is_open(bucket: FakeBucket) -> None:
    with scripted_server(answering(bucket.answer)) as server:
        async with open_at(server) as store:
            identity = bucket.objects.pop(PREFIX + b"b~").decode()
            with pytest.raises(StoreIdentityError) as caught:
                await list_all(store)
            assert (caught.value.expected, caught.value.found) == (identity, None)
            bucket.objects[PREFIX + b"b~"] = b"f" * 32
            with pytest.raises(StoreIdentityError, match=f"was {identity} and is {'f' * 32}"):
                await store.identity()
            assert bucket.objects[PREFIX + b"b~"] == b"f" * 32


async def test_without_an_identity_the_server_is_believed(bucket: FakeBucket, caplog: pytest.LogCaptureFixture) -> None:
    del bucket.objects[PREFIX + b"b~"]
    with scripted_server(answering(bucket.answer)) as server:
        async with open_at(server, read_only=True) as store:
            assert await list_all(store) == REFS
            bucket.lie = lambda _: Answer(200, "<html>Please log in")
            with pytest.raises(ReplicaError, match="not with that listing"):
                await list_all(store)
            bucket.lie = None
            bucket.objects[PREFIX + b"b~"] = b"f" * 32  # another program has opened it to write
            assert await store.identity() == "f" * 32
            bucket.lie = lambda _: bucket.page([])
            with pytest.raises(ReplicaError, match="its listing ended before the object b~"):
                await list_all(store)
        text = "has no identity, so its listings end where the server says, without proof"
        assert caplog.record_tuples == [
            ("trio_replica", logging.WARNING, line_of(server, text).replace(": has", " has"))
        ]
    assert all(request.method == "GET" for request in server.requests)


# Answers that do not end

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n"
CHUNK = b"10000\r\n" + b"x" * 65536 + b"\r\n"


def send_for_ever(server: Scripted, writer: IO[bytes]) -> None:
    writer.write(HEAD + b"\r\n")
    while True:
        writer.write(CHUNK)


def drip_for_ever(server: Scripted, writer: IO[bytes]) -> None:
    """Send a byte of the body now and then, so that no read takes long."""
    writer.write(HEAD + b"\r\n")
    while not server.ended.wait(0.02):
        writer.write(b"1\r\nx\r\n")
        writer.flush()


def drip_headers_for_ever(server: Scripted, writer: IO[bytes]) -> None:
    writer.write(HEAD + b"x: ")
    while not server.ended.wait(0.02):
        writer.write(b"x")
        writer.flush()


@pytest.mark.parametrize(
    ("talk", "text"),
    [(send_for_ever, TOO_LONG), (drip_for_ever, HUNG), (drip_headers_for_ever, HUNG), (never_answer, HUNG)],
)
async def test_an_answer_that_never_ends(
    bucket: FakeBucket, talk: Callable[[Scripted, IO[bytes]], None], text: str
) -> None:
    with scripted_server(answering(bucket.answer)) as server:
        async with open_at(server, request_timeout=10 * PATIENCE) as store:
            bucket.lie = lambda _: talk
            if text == HUNG:
                lose_patience(store)
            with trio.fail_after(PATIENCE), pytest.raises(ReplicaError) as caught:
                await store.list_page(Ref.ZERO, 1)
            assert str(caught.value) == line_of(server, text)


async def test_a_listing_that_hangs_holds_up_neither_its_caller_nor_the_end(bucket: FakeBucket) -> None:
    with scripted_server(answering(bucket.answer)) as server:
        async with open_at(server, request_timeout=10 * PATIENCE) as store:
            bucket.lie = lambda _: never_answer
            async with trio.open_nursery() as nursery:
                nursery.start_soon(store.list_page, Ref.ZERO, 1)
                await trio.to_thread.run_sync(server.was_asked.wait, PATIENCE)
                assert repr(store._listing) == f"<Listing of {line_of(server, '')[:-2]!r}, 1 pages under way>"
                nursery.cancel_scope.cancel()


async def test_a_listing_does_not_wait_for_gets(bucket: FakeBucket) -> None:
    """All threads that read are busy for longer than a request of the listing may take."""
    is_asked, is_listed = threading.Event(), threading.Event()

    def answer(request: Request) -> Any:
        if request.path.endswith(str(REFS[0])):
            is_asked.set()
            assert is_listed.wait(2 * PATIENCE)
        return bucket.answer(request)

    with scripted_server(answering(answer)) as server:
        store_of_one_thread = open_at(server, requests=1, request_timeout=10 * PATIENCE)
        async with store_of_one_thread as store, trio.open_nursery() as nursery:
            nursery.start_soon(store.get, REFS[0])
            await wait_for(is_asked)
            with trio.fail_after(PATIENCE):
                assert await store.list_page(Ref.ZERO, 3) == REFS[:3]
            is_listed.set()


async def test_a_listing_under_way_when_the_block_ends(bucket: FakeBucket) -> None:
    """The caller gets an error, and no empty page, which would mean that there are no more refs."""

    async def list_page(store: ObjectStore) -> None:
        with pytest.raises(trio.ClosedResourceError, match=r"^s3://blobs/p at http://127.0.0.1:\d+ is closed$"):
            await store.list_page(Ref.ZERO, 1)

    with scripted_server(answering(bucket.answer)) as server:
        bucket.lie = lambda _: never_answer
        async with trio.open_nursery() as nursery, open_at(server, request_timeout=10 * PATIENCE) as store:
            nursery.start_soon(list_page, store)  # noqa: ASYNC111  (it is to be under way when the block ends)
            await trio.to_thread.run_sync(server.was_asked.wait, PATIENCE)


@pytest.mark.parametrize("answers", [0, 2])
async def test_a_closed_listing_asks_for_nothing(answers: int) -> None:
    """Neither for a first answer nor for a further one of a page under way."""
    asked = 0

    class Closing(OneByOne):
        async def ask(self, after: bytes, token: str | None, at_most: int) -> Keys:
            nonlocal asked
            asked += 1
            found = await super().ask(after, token, at_most)
            if asked == answers:
                listing.close()
            return found

    async with open_listing(Closing(f"b:{ref}".encode() for ref in REFS)) as listing:
        if not answers:
            listing.close()
        with pytest.raises(trio.ClosedResourceError, match=f"^s3://{BUCKET} at http://127.0.0.1:1 is closed$"):
            await listing.list_page(Ref.ZERO, len(REFS), trio.lowlevel.checkpoint)
        assert asked == answers


@pytest.mark.parametrize(
    ("talk", "text"),
    [
        (lambda _, writer: None, HUNG_UP),
        (lambda _, writer: writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n<"), HUNG_UP),
        (
            lambda _, writer: writer.write(b"220 mail.example ESMTP\r\n\r\n"),
            "the server is not an object store: correct the endpoint",
        ),
    ],
)
async def test_an_answer_that_is_none(
    bucket: FakeBucket, talk: Callable[[Scripted, IO[bytes]], None], text: str
) -> None:
    with scripted_server(answering(bucket.answer)) as server:
        async with open_at(server) as store:
            bucket.lie = lambda _: talk
            with pytest.raises(ReplicaError) as caught:
                await store.list_page(Ref.ZERO, 1)
            assert str(caught.value) == line_of(server, text)


async def test_trouble_that_passes(bucket: FakeBucket) -> None:
    troubles: list[Answer | Callable[[Scripted, IO[bytes]], None]] = [
        Answer.of_error(503, "SlowDown"),
        lambda _, writer: None,
        Answer.of_error(500, "InternalError"),
    ]
    bucket.lie = lambda query: troubles.pop() if troubles else bucket.listing(query)
    with scripted_server(answering(bucket.answer)) as server:
        async with open_at(server, retries=3, retry_timeout=PATIENCE) as store:
            assert await store.list_page(Ref.ZERO, 100) == REFS
        async with open_at(server, retries=1) as store:
            troubles += [Answer.of_error(500, "InternalError")] * 2
            with pytest.raises(ReplicaError, match=r"the server is in trouble: try again later \(500 InternalError\)"):
                await store.list_page(Ref.ZERO, 100)
            assert troubles == []
            troubles += [Answer.of_error(403, "AccessDenied")] * 2
            with pytest.raises(ReplicaError, match="AccessDenied"):
                await store.list_page(Ref.ZERO, 100)
            assert len(troubles) == 1


# As the client lists


async def test_google_is_listed_by_the_client(bucket: FakeBucket) -> None:
    for key in ODD_KEYS:
        del bucket.objects[key]
    bucket.encodes = False
    with scripted_server(answering(bucket.answer)) as server:
        async with open_at(server, "gs") as store:
            assert await list_all(store) == REFS
            assert await store.list_page(REFS[3], 4) == REFS[4:8]
            bucket.lie = lambda _: bucket.page([])
            with pytest.raises(ReplicaError) as caught:
                await list_all(store)
            assert str(caught.value) == line_of(server, NO_PROOF, "gs")


ODD_NAME = (
    "under its prefix is an object of another program with a name that the client can't list (an empty part, a dot for "
    "one, or a control character): move it away"
)


@pytest.mark.parametrize("key", [b"p/zoo//x", b"p//x", b"p/../x", b"p/b:\x01"])
async def test_an_odd_key_that_the_client_can_not_list(bucket: FakeBucket, key: bytes) -> None:
    bucket.encodes = False
    bucket.lie = lambda _: bucket.page([PREFIX + b"b:", key])
    with scripted_server(answering(bucket.answer)) as server:
        async with open_at(server, "gs") as store:
            with pytest.raises(ReplicaError) as caught:
                await list_all(store)
            assert str(caught.value) == line_of(server, ODD_NAME, "gs")


async def test_empty_pages_for_ever_to_the_client(bucket: FakeBucket) -> None:
    bucket.lie = lambda _: bucket.page([], token=b"t")
    with scripted_server(answering(bucket.answer)) as server:
        async with open_at(server, "gs", request_timeout=10 * PATIENCE) as store:
            lose_patience(store)
            with trio.fail_after(PATIENCE), pytest.raises(ReplicaError) as caught:
                await list_all(store)
            assert str(caught.value) == line_of(server, HUNG, "gs")


# One page, and one answer


def test_keys_below_another_prefix_are_passed_over() -> None:
    page = RefPage(b"q/", Ref.ZERO, 9)
    assert page.take([f"p/b:{REFS[0]}".encode(), b"p/b~", f"q/b:{REFS[1]}".encode()])
    assert (page.refs, page.has_shown_identity, page.is_past_blobs) == ([REFS[1]], False, False)
    assert page.take([b"r"])
    assert (page.has_shown_identity, page.is_past_blobs) == (False, True)
    assert not page.take([f"q/b:{REFS[2]}".encode()])


def test_a_full_page_still_has_to_be_in_order() -> None:
    page = RefPage(b"", Ref.ZERO, 1)
    assert page.take([f"b:{REFS[1]}".encode(), f"b:{REFS[2]}".encode()])
    assert (page.refs, page.is_full) == ([REFS[1]], True)
    assert not page.take([f"b:{REFS[0]}".encode()])


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("a&#x20;b&#32;c&amp;", "a b c&"),
        ("a&#0;&#x1;&#xFFFFFFFF;b&#x1F600;", "a\ufffd\ufffd\ufffdb\U0001f600"),
        ("a\x0b\ufffe", "a\ufffd\ufffd"),
        ("", ""),
    ],
)
def test_characters_that_xml_does_not_allow(text: str, key: str) -> None:
    body = f"\ufeff \n<ListBucketResult><Contents><Key>{text}</Key></Contents></ListBucketResult>".encode()
    assert read_listing(body, b"", b"") == ([key.encode()] if "\ufffd" not in key else [], False, None)


def test_a_long_document_is_read_in_pieces() -> None:
    keys = [f"{number:06}&#x41;&amp;" for number in range(5000)]
    found = "".join(f"<Contents><Key>{key}</Key></Contents>" for key in keys)
    answer = read_listing(f"<ListBucketResult>{found}</ListBucketResult>".encode(), b"", b"")
    assert answer is not None
    assert answer.keys == [f"{number:06}A&".encode() for number in range(5000)]
    long = "x" * 200_000  # no piece of it ends with a tag
    assert read_listing(f"<ListBucketResult><Name>{long}</Name></ListBucketResult>".encode(), b"", b"") == (
        [],
        False,
        None,
    )

"""The identity of an object store, its options, and the memory that it takes."""

from __future__ import annotations

import re
import threading
from contextlib import nullcontext
from functools import partial
from typing import IO, TYPE_CHECKING, Any

import outcome
import pytest
import trio.testing

from trio_replica import (
    BlobNotFoundError,
    BlobTooLargeError,
    ObjectStore,
    Ref,
    ReplicaError,
    StoreIdentityError,
    StoreNotFoundError,
    StoreReadOnlyError,
    open_object_store,
    open_store_threads,
)
from trio_replica._calls.threads import ALONE
from trio_replica._identity import is_identity

from .fake_bucket import BUCKET, MISSING, FakeBucket
from .held import PATIENCE, Held, wait_for
from .s3_server import S3Server
from .scripted import DATE, Answer, Request, Scripted, answering, scripted_server

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from contextlib import AbstractAsyncContextManager

    from trio_replica._calls.threads import Call

DATA = b"blob"
REF = Ref.of(DATA)
BLOB_KEY = f"p/b:{REF}".encode()
ONE, OTHER = "0123456789abcdef" * 2, "f" * 32
NEITHER = (
    "is not an identity, which is 32 lowercase hex digits: if another program has written it, move it away; "
    "else the server is not an object store: correct the endpoint"
)


@pytest.fixture
def bucket() -> FakeBucket:
    return FakeBucket()


@pytest.fixture
def server(bucket: FakeBucket) -> Generator[Scripted, None, None]:
    with scripted_server(answering(bucket.answer)) as server:
        yield server


def open_at(server: Scripted, **options: Any) -> AbstractAsyncContextManager[ObjectStore]:
    given = S3Server(server.endpoint()).options() | {"retries": 0}
    return open_object_store(f"s3://{BUCKET}/p", **{**given, **options})


def name_of(server: Scripted) -> str:
    return f"s3://{BUCKET}/p at {server.endpoint()}"


def methods(server: Scripted) -> list[str]:
    return [request.method for request in server.requests]


# The identity


async def test_a_store_gets_an_identity_and_keeps_it(bucket: FakeBucket, server: Scripted) -> None:
    async with open_at(server) as store:
        identity = await store.identity()
        assert is_identity(identity)
        assert bucket.objects == {b"p/b~": str(identity).encode()}
        assert methods(server) == ["GET", "PUT", "GET", "GET"]
        assert not store.is_read_only
        assert store.is_durable
    async with open_at(server) as store:
        assert await store.identity() == identity
    assert methods(server)[4:] == ["GET", "GET"]


async def test_the_loser_of_a_race_takes_the_identity_of_the_winner(bucket: FakeBucket) -> None:
    def answer(request: Request) -> Any:
        if request.method == "PUT":
            bucket.objects.setdefault(b"p/b~", f"{ONE}\n".encode())
        return bucket.answer(request)

    with scripted_server(answering(answer)) as server:
        async with open_at(server) as store:
            assert await store.identity() == ONE
    assert bucket.objects == {b"p/b~": f"{ONE}\n".encode()}


async def test_a_server_without_create_if_absent_has_one_identity_all_the_same(bucket: FakeBucket) -> None:
    def answer(request: Request) -> Any:
        answered = bucket.answer(request._replace(headers={}))
        if request.method == "PUT":
            bucket.objects[b"p/b~"] = ONE.encode()  # another program was later, and has overwritten it
        return answered

    with scripted_server(answering(answer)) as server:
        async with open_at(server) as store:
            assert await store.identity() == ONE


@pytest.mark.parametrize("create", [True, False])
async def test_a_store_that_was_made_before_gets_an_identity(
    bucket: FakeBucket, server: Scripted, create: bool
) -> None:
    bucket.objects[BLOB_KEY] = DATA
    async with open_at(server, create=create) as store:
        assert is_identity(await store.identity())
        assert await store.get(REF) == DATA


@pytest.mark.parametrize("options", [{"create": False}, {"read_only": True}, {"create": False, "read_only": True}])
async def test_no_store_is_made_where_none_is_wanted(
    bucket: FakeBucket, server: Scripted, options: dict[str, bool]
) -> None:
    bucket.objects |= {b"p/a": b"other", b"p/b~mark": ONE.encode(), f"q/b:{REF}".encode(): DATA}
    before = dict(bucket.objects)
    with pytest.raises(StoreNotFoundError) as caught:
        await open_at(server, **options).__aenter__()
    assert caught.value.store == name_of(server)
    assert bucket.objects == before


@pytest.mark.parametrize(
    "content", [b"", b"x", OTHER.upper().encode(), OTHER.encode() + b"\n\n", b"f" * 10**6, b"\xff" * 32]
)
@pytest.mark.parametrize("read_only", [False, True])
async def test_something_else_under_its_name_is_an_error(
    bucket: FakeBucket, server: Scripted, content: bytes, read_only: bool
) -> None:
    bucket.objects[b"p/b~"] = content
    with pytest.raises(ReplicaError) as caught:
        await open_at(server, read_only=read_only).__aenter__()
    assert str(caught.value) == f"{name_of(server)}: b~ {NEITHER}"
    assert bucket.objects == {b"p/b~": content}


async def test_an_identity_that_changes_or_goes(bucket: FakeBucket, server: Scripted) -> None:
    bucket.objects[b"p/b~"] = ONE.encode()
    async with open_at(server) as store:
        bucket.objects[b"p/b~"] = OTHER.encode()
        with pytest.raises(StoreIdentityError) as caught:
            await store.identity()
        assert (caught.value.store, caught.value.expected, caught.value.found) == (name_of(server), ONE, OTHER)
        del bucket.objects[b"p/b~"]
        with pytest.raises(StoreIdentityError, match="is none"):
            await store.identity()
        await store.put(DATA)
        assert b"p/b~" not in bucket.objects


async def test_a_put_that_is_said_to_be_done_and_is_not(bucket: FakeBucket) -> None:
    with scripted_server(answering(lambda asked: Answer(200) if asked.method == "PUT" else MISSING)) as server:
        with pytest.raises(ReplicaError) as caught:
            await open_at(server).__aenter__()
        text = "b~ was stored, but is not there: correct the endpoint, or repair the server"
        assert str(caught.value) == f"{name_of(server)}: {text}"


async def test_an_identity_that_can_not_be_written(bucket: FakeBucket) -> None:
    refusal = Answer.of_error(403, "AccessDenied")
    with scripted_server(answering(lambda asked: refusal if asked.method == "PUT" else MISSING)) as server:
        with pytest.raises(ReplicaError, match="the server forbids this"):
            await open_at(server).__aenter__()


async def test_the_mark_of_a_session(bucket: FakeBucket, server: Scripted) -> None:
    async with open_at(server) as store:
        assert await store.session_mark() is None
        await store.set_session_mark(ONE)
        await store.set_session_mark(OTHER)
        assert await store.session_mark() == OTHER
        assert bucket.objects[b"p/b~mark"] == OTHER.encode()
        assert await store.list_page(Ref.ZERO, 1) == []
        bucket.objects[b"p/b~mark"] = b"something else"
        for call in (store.session_mark(), store.set_session_mark(ONE)):
            with pytest.raises(ReplicaError, match=re.escape(f"b~mark {NEITHER}")):
                await call
        assert bucket.objects[b"p/b~mark"] == b"something else"


@pytest.mark.parametrize(
    ("call", "other"),
    [
        (lambda store: store.identity(), lambda store, data: store.get(Ref.of(data))),
        (lambda store: store.session_mark(), lambda store, data: store.get(Ref.of(data))),
        (lambda store: store.set_session_mark(ONE), lambda store, data: store.put(data)),
    ],
)
async def test_the_identity_does_not_wait_for_a_later_request(
    bucket: FakeBucket,
    call: Callable[[ObjectStore], Any],
    other: Callable[[ObjectStore, bytes], Any],
) -> None:
    """Both wait for one thread. The first ends while the server still answers the second."""
    datas = b"earlier", b"later"
    bucket.objects |= {f"p/b:{Ref.of(data)}".encode(): data for data in datas}
    is_asked = threading.Event()
    may_answer = {str(Ref.of(data)): threading.Event() for data in datas}

    def answer(request: Request) -> Any:
        if event := may_answer.get(request.path[-64:]):
            is_asked.set()
            assert event.wait(2 * PATIENCE)
        return bucket.answer(request)

    with scripted_server(answering(answer)) as server:
        store_of_one_thread = open_at(server, requests=1, request_timeout=10 * PATIENCE)
        async with store_of_one_thread as store, trio.open_nursery() as nursery:
            nursery.start_soon(other, store, datas[0])
            await wait_for(is_asked)
            ended = trio.Event()

            async def make_call() -> None:
                await call(store)
                ended.set()

            nursery.start_soon(make_call)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(other, store, datas[1])
            await trio.testing.wait_all_tasks_blocked()
            earlier, later = may_answer.values()
            earlier.set()
            with trio.fail_after(PATIENCE):
                await ended.wait()
            later.set()


async def test_anything_but_a_mark_is_not_sent(server: Scripted) -> None:
    async with open_at(server) as store:
        asked = len(server.requests)
        with pytest.raises(ValueError, match=r"^the mark of a session is 32 lowercase hex digits, not 'x'$"):
            await store.set_session_mark("x")
        assert len(server.requests) == asked


async def test_a_request_joins_no_batch() -> None:
    """Not even that of a call which counts as 0 bytes."""
    batches: list[list[int]] = []

    def handle(batch: Sequence[Call[Callable[[], object]]]) -> None:
        batches.append([call.size for call in batch])
        for call in batch:
            call.outcome = outcome.capture(call.request)

    with Held() as held:
        async with open_store_threads("threads", lambda: nullcontext(handle)) as threads:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(threads.run, held)
                await held.wait_running()
                for size in (0, ALONE, 0):
                    nursery.start_soon(partial(threads.run, bool, size=size))
                    await trio.testing.wait_all_tasks_blocked()
                held.release()
    assert batches == [[0], [0], [ALONE], [0]]


async def test_a_mark_that_can_not_be_written(bucket: FakeBucket) -> None:
    def answer(request: Request) -> Any:
        is_write = request.method == "PUT" and request.path.endswith("mark")
        return Answer.of_error(403, "AccessDenied") if is_write else bucket.answer(request)

    with scripted_server(answering(answer)) as server:
        async with open_at(server) as store:
            with pytest.raises(ReplicaError, match="the server forbids this"):
                await store.set_session_mark(ONE)


async def test_a_copy_that_is_given_a_new_identity(bucket: FakeBucket, server: Scripted) -> None:
    async with open_at(server) as store:
        former = await store.identity()
        await store.set_session_mark(ONE)
        new = await store.renew_identity()
        assert is_identity(new)
        assert new != former
        assert bucket.objects[b"p/b~"] == new.encode()
        assert b"p/b~mark" not in bucket.objects
    async with open_at(server, read_only=True) as store:
        with pytest.raises(StoreReadOnlyError):
            await store.renew_identity()


@pytest.mark.parametrize("answer", [Answer.of_error(403, "AccessDenied"), Answer(200)])
async def test_a_new_identity_that_is_not_kept(bucket: FakeBucket, answer: Answer) -> None:
    def respond(request: Request) -> Any:
        is_second = request.method == "PUT" and b"p/b~" in bucket.objects
        return answer if is_second else bucket.answer(request)

    with scripted_server(answering(respond)) as server:
        async with open_at(server) as store:
            former = await store.identity()
            with pytest.raises(ReplicaError, match=r"the server forbids this|b~ was stored, but is not there"):
                await store.renew_identity()
            assert await store.identity() == former


# Only reading


async def test_a_store_that_is_only_read_writes_nothing(bucket: FakeBucket, server: Scripted) -> None:
    bucket.objects[BLOB_KEY] = DATA
    before = dict(bucket.objects)
    async with open_at(server, read_only=True) as store:
        assert store.is_read_only
        assert await store.identity() is None
        assert await store.session_mark() is None
        assert await store.get(REF) == DATA
        assert await store.contains(REF)
        assert await store.list_page(Ref.ZERO, 2) == [REF]
        for write in (
            lambda: store.put(b"new"),
            lambda: store.put(DATA),
            lambda: store.put_many([b"new"]),
            lambda: store.delete(REF),
            lambda: store.replace(DATA),
            lambda: store.set_aside(REF),
            lambda: store.set_session_mark(ONE),
        ):
            with pytest.raises(StoreReadOnlyError) as caught:
                await write()
            assert caught.value.store == name_of(server)
    assert bucket.objects == before
    assert set(methods(server)) == {"GET", "HEAD"}


# Memory


async def test_a_blob_that_is_larger_than_it_may_be(bucket: FakeBucket, server: Scripted) -> None:
    bucket.objects[f"p/b:{REF}".encode()] = DATA
    async with open_at(server, max_memory=3) as store:
        asked = len(server.requests)
        for call in (store.put(DATA), store.put_many([b"a", DATA]), store.replace(DATA)):
            with pytest.raises(BlobTooLargeError) as caught:
                await call
            assert (caught.value.store, caught.value.size, caught.value.limit) == (name_of(server), 4, 3)
        assert len(server.requests) == asked
        for read in (store.get(REF), store.get_many([REF])):
            with pytest.raises(BlobTooLargeError, match="a blob has 4 bytes, but max_memory is 3"):
                await read
        assert await store.contains(REF)
    async with open_at(server, max_memory=4) as store:
        assert await store.get(REF) == DATA
        assert await store.put(DATA) == (REF, False)


async def test_a_server_that_sends_more_than_it_said(bucket: FakeBucket) -> None:
    sent = 0

    def send_for_ever(server: Scripted, writer: IO[bytes]) -> None:
        nonlocal sent
        head = f'HTTP/1.1 200 OK\r\nETag: "1"\r\nLast-Modified: {DATE}\r\nContent-Length: 4\r\n'
        writer.write(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        while True:
            sent += writer.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")

    def answer(request: Request) -> Any:
        return send_for_ever if str(REF) in request.path else bucket.answer(request)

    with scripted_server(answering(answer)) as server:
        async with open_at(server) as store:
            with pytest.raises(ReplicaError) as caught:
                await store.get(REF)
            text = f"it sent more than the 4 bytes that it announced for b:{REF}: "
            text += "correct the endpoint, or repair the server"
            assert str(caught.value) == f"{name_of(server)}: {text}"
    assert sent < 64 * 1024 * 1024


async def test_a_server_that_does_not_say_how_much_it_sends(bucket: FakeBucket) -> None:
    def send(server: Scripted, writer: IO[bytes]) -> None:
        writer.write(b'HTTP/1.1 200 OK\r\nETag: "1"\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nblob\r\n0\r\n\r\n')

    def answer(request: Request) -> Any:
        return send if str(REF) in request.path else bucket.answer(request)

    with scripted_server(answering(answer)) as server:
        async with open_at(server) as store:
            with pytest.raises(ReplicaError, match="it does not say how many bytes it sends"):
                await store.get(REF)


# A store that contradicts itself


async def test_a_put_that_is_answered_without_an_etag_is_not_believed(bucket: FakeBucket) -> None:
    def agree(server: Scripted, writer: IO[bytes]) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    bucket.objects[b"p/b~"] = ONE.encode()
    with scripted_server(answering(lambda asked: agree if asked.method == "PUT" else bucket.answer(asked))) as server:
        async with open_at(server) as store:
            with pytest.raises(ReplicaError, match="the server is not an object store"):
                await store.put(DATA)


async def test_a_blob_that_is_listed_and_not_there(bucket: FakeBucket) -> None:
    bucket.objects |= {b"p/b~": ONE.encode(), BLOB_KEY: DATA}

    def answer(request: Request) -> Any:
        return MISSING if str(REF) in request.path and "list-type" not in request.path else bucket.answer(request)

    with scripted_server(answering(answer)) as server:
        async with open_at(server) as store:
            assert await store.list_page(Ref.ZERO, 1) == [REF]
            assert not await store.contains(REF)
            with pytest.raises(BlobNotFoundError):
                await store.get(REF)


async def test_a_second_put_tells_whether_the_server_can_create_if_absent(bucket: FakeBucket, server: Scripted) -> None:
    async with open_at(server) as store:
        assert [(await store.put(DATA)).added for _ in range(2)] == [True, False]

    def answer(request: Request) -> Any:
        return bucket.answer(request._replace(headers={}))

    with scripted_server(answering(answer)) as poor:
        async with open_at(poor) as store:
            assert [(await store.put(DATA)).added for _ in range(2)] == [True, True]


# Answers of servers


@pytest.mark.parametrize("operation", ["get", "list_page"])
async def test_no_text_of_a_server_forges_a_line(bucket: FakeBucket, operation: str) -> None:
    text = "a\nERROR b\r\x1b[31m\x07\x7f\u0085c\u2028d\u2029e\u202ef\u2066g\x00h"
    refusal = Answer.of_error(400, "Odd", text)
    calls: dict[str, Callable[[ObjectStore], Any]] = {
        "get": lambda store: store.get(REF),
        "list_page": lambda store: store.list_page(Ref.ZERO, 1),
    }

    def answer(request: Request) -> Any:
        return bucket.answer(request) if request.path.endswith("b~") else refusal

    with scripted_server(answering(answer)) as server:
        async with open_at(server) as store:
            with pytest.raises(ReplicaError) as caught:
                await calls[operation](store)
    assert str(caught.value).isprintable()


async def test_a_redirect_is_followed_by_the_client_alone(bucket: FakeBucket) -> None:
    """As SECURITY.md says: no credentials go along but a session's token, which is worth nothing without its key."""
    bucket.objects |= {b"p/b~": ONE.encode(), BLOB_KEY: DATA}
    with scripted_server(answering(bucket.answer)) as elsewhere:

        def answer(request: Request) -> Answer:
            place = elsewhere.endpoint().replace("127.0.0.1", "localhost")
            return Answer(307, headers=f"Location: {place}{request.path}\r\n")

        with scripted_server(answering(answer)) as server:
            async with open_at(server, session_token="a-session") as store:
                assert await store.get(REF) == DATA
                asked = len(elsewhere.requests)
                for call in (store.put(b"new"), store.list_page(Ref.ZERO, 1)):
                    with pytest.raises(ReplicaError, match="the bucket is elsewhere: correct"):
                        await call
        assert len(elsewhere.requests) == asked
        for request in elsewhere.requests:
            assert "authorization" not in request.headers
            assert request.headers["x-amz-security-token"] == "a-session"


async def test_a_put_that_a_redirect_turns_into_a_get_sends_nothing(bucket: FakeBucket) -> None:
    """It counts as done, as SECURITY.md says. Nothing else shows it than to read the blob."""
    bucket.objects[b"p/b~"] = ONE.encode()
    with scripted_server(answering(lambda _: Answer(200))) as elsewhere:

        def answer(request: Request) -> Any:
            place = f"Location: {elsewhere.endpoint()}{request.path}\r\n"
            return Answer(303, headers=place) if request.method == "PUT" else bucket.answer(request)

        with scripted_server(answering(answer)) as server:
            async with open_at(server) as store:
                assert await store.put(DATA) == (REF, True)
                with pytest.raises(BlobNotFoundError):
                    await store.get(REF)
    assert [(request.method, request.body) for request in elsewhere.requests] == [("GET", b"")]


async def test_the_identity_is_found_with_checkpoints(server: Scripted) -> None:
    async with open_at(server) as store:
        for call in (store.identity, store.session_mark):
            with trio.testing.assert_checkpoints():
                await call()

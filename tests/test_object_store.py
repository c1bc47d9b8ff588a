"""The object store: against a real Ceph, against moto, and what servers seldom do against one that is told to."""

from __future__ import annotations

import copy
import itertools
import logging
import os
import pickle
import random
import re
import shutil
import ssl
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlencode

import obstore
import pytest
import trio

from trio_replica import (
    Blob,
    BlobNotFoundError,
    MemoryStore,
    ObjectStore,
    ReconcileCounts,
    Ref,
    ReplicaError,
    RetryingStore,
    StoreIdentityError,
    open_object_store,
    reconcile,
    scrub,
)
from trio_replica.stores._object_store.parts import ObjectParts
from trio_replica.stores._object_store.url import ClientLimits, parse_object_url
from trio_replica.stores.object_store import REQUESTS, open_objects
from trio_replica.testing import StoreContract

from .ceph_server import CephServer, ceph_server
from .ceph_server import missing as missing_ceph
from .common import miss_package
from .held import PATIENCE, wait_for
from .moto_server import moto_server
from .s3_server import ACCESS_KEY, SECRET_KEY, S3Server
from .scripted import DATE, Answer, Request, Scripted, answering, say_nothing, scripted_server

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator
    from contextlib import AbstractAsyncContextManager

BUCKET = "blobs"
DATA = b"blob"
REF = Ref.of(DATA)
OTHER = Ref.of(b"another")
NUMBERS = itertools.count()
PAGE = 50
"""Names that moto lists in one answer. Ceph, as S3, lists 1000."""

MISSING = Answer.of_error(404, "NoSuchKey")
IDENTITY = "0123456789abcdef" * 2
OPENS = Answer(200, IDENTITY)
"""The answer to the one request of opening a store."""
NO_BUCKET = "there is no such bucket: create it, or correct the URL (NoSuchBucket)"
HUNG = "its server did not answer in time: try again later, or raise request_timeout, which limits the size of blobs"


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing but the tests say where to go."""
    monkeypatch.setenv("AWS_REGION", "nowhere")  # on most machines, there is no other to remove
    for name in os.environ:
        if name.startswith(("AWS_", "AZURE_", "GOOGLE_")):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def moto() -> Generator[S3Server, None, None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", str(PAGE))
        with moto_server() as server:
            server.client().create_bucket(Bucket=BUCKET)
            yield server


@pytest.fixture(scope="session")
def ceph() -> Generator[CephServer, None, None]:
    with ceph_server() as server:
        server.client().create_bucket(Bucket=BUCKET)
        yield server


@pytest.fixture(params=["moto", pytest.param("ceph", marks=pytest.mark.ceph)])
def server(request: pytest.FixtureRequest) -> S3Server:
    found: S3Server = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def url(server: S3Server) -> str:
    """The URL of an empty store, which nobody else has."""
    return server.url(new_place())


def new_place() -> str:
    return f"{BUCKET}/test-{next(NUMBERS)}/blobs"


class TestOnMoto(StoreContract):
    is_persistent = True

    DEEP = frozenset(
        {
            "test_cancelled_on_the_way",
            "test_a_listing_resumes_anywhere",
            "test_get_many",
            "test_its_answers_agree_after_deletions",
            "test_its_answers_agree_after_puts",
            "test_like_a_dictionary",
            "test_many_tasks",
            "test_pages",
            "test_puts_during_a_listing",
            "test_racing_puts_of_one_blob",
            "test_repairing_a_sound_store_loses_nothing",
        }
    )
    """Tests of dozens or hundreds of requests, each of which takes moto some milliseconds."""

    @pytest.fixture(autouse=True)
    def _keep_url(self, moto: S3Server) -> None:
        self.url = moto.url(new_place())

    def open_store(self) -> AbstractAsyncContextManager[ObjectStore]:
        return open_object_store(self.url)


@pytest.mark.ceph
class TestOnCeph(StoreContract):
    is_persistent = True

    @pytest.fixture(autouse=True)
    def _keep_url(self, ceph: CephServer) -> None:
        self.url = ceph.url(new_place())

    def open_store(self) -> AbstractAsyncContextManager[ObjectStore]:
        return open_object_store(self.url)


def keys(server: S3Server, bucket: str = BUCKET, prefix: str = "") -> list[str]:
    """Return the names of the first objects of a bucket, as another client lists them."""
    listed = server.client().list_objects_v2(Bucket=bucket, Prefix=prefix)
    return [found["Key"] for found in listed.get("Contents", [])]


async def list_all(store: ObjectStore) -> list[Ref]:
    return [ref async for ref in store.list_refs()]


def assert_line(error: BaseException, line: str) -> None:
    """Check that an error is this line, that a log can have it, and that nothing hides behind it."""
    assert type(error) is ReplicaError
    assert str(error) == line
    assert "\n" not in line
    assert error.__cause__ is None
    assert error.__context__ is None
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert str(again) == line


async def assert_fails(line: str, call: Callable[..., Awaitable[object]], *arguments: object) -> None:
    with pytest.raises(ReplicaError) as caught:
        await call(*arguments)
    assert_line(caught.value, line)


async def assert_does_not_open(url: str, line: str, **options: Any) -> None:
    with pytest.raises(ReplicaError) as caught:
        await open_object_store(url, **options).__aenter__()
    assert_line(caught.value, line)


# The contents of the bucket


@pytest.mark.parametrize(
    ("path", "prefix"),
    [
        ("", ""),
        ("/one", "one/"),
        ("//one/two//", "one/two/"),
        *(
            pytest.param(path, prefix, marks=pytest.mark.deep)
            for path, prefix in (("/", ""), ("/one/", "one/"), ("/one/two", "one/two/"))
        ),
        ("/a%20b/100%25/%C3%BC+~", "a b/100%/ü+~/"),
    ],
)
async def test_the_names_of_objects(server: S3Server, path: str, prefix: str) -> None:
    bucket = f"bucket-{next(NUMBERS)}"
    server.client().create_bucket(Bucket=bucket)
    async with open_object_store(server.url(bucket + path)) as store:
        assert await store.put(DATA) == (REF, True)
        assert keys(server, bucket) == [f"{prefix}b:{REF}", f"{prefix}b~"]
        assert await store.get(REF) == DATA
        assert await list_all(store) == [REF]
    async with open_object_store(server.url(f"{bucket}/{path.strip('/')}/")) as store:
        assert await store.put(DATA) == (REF, False)


async def test_what_is_no_blob_is_left_alone(moto: S3Server, url: str, server: S3Server) -> None:
    client = server.client()
    prefix = url.partition("?")[0].removeprefix(f"s3://{BUCKET}/")
    many = [f"b:{REF}-{number:03}" for number in range(PAGE + 10 if server is moto else 1010)]
    others = [
        "a",
        "b",
        "b:",
        f"b:{REF}/child",
        f"b:{REF}0",
        f"b:{str(REF)[:-1]}",
        f"b:{str(REF).upper()}",
        f"c:{REF}",
        f"sub/b:{REF}",
        "~",
        *many,
    ]
    async with open_object_store(url) as store:
        blobs = [b"%d" % number for number in range(40)]
        refs = sorted(result.ref for result in await store.put_many(blobs))
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda other: obstore.put(store._client.client, other, b"other"), others))
        client.put_object(Bucket=BUCKET, Key=f"{prefix}-sibling/b:{OTHER}", Body=b"other")
        client.put_object(Bucket=BUCKET, Key=f"{prefix}b:{OTHER}", Body=b"other")
        assert await list_all(store) == refs
        after = max([ref for ref in refs if ref < REF], default=Ref.ZERO)
        left = [ref for ref in refs if ref > after]
        assert await store.list_page(after, 1) == left[:1]
        assert await store.list_page(after, 10**6) == left
        assert await store.list_page(refs[-1], 10) == []
        assert not await store.contains(REF)
    assert client.head_object(Bucket=BUCKET, Key=f"{prefix}/b:{REF}/child")["ContentLength"] == 5


async def test_odd_objects_are_left_alone(server: S3Server, url: str) -> None:
    prefix = url.partition("?")[0].removeprefix(f"s3://{BUCKET}/")
    names = [
        "/x",
        "//",
        "b//x",
        "b:/../x",
        "b:%41+ &<>'\"",
        "b:\u2028\U0001f600",
        "b:\x01\x7f",
        "b~~",
        "zoo//x",
        "..//x",
    ]
    client = server.client()
    for name in names:
        client.put_object(Bucket=BUCKET, Key=f"{prefix}/{name}", Body=b"other")
    async with open_object_store(url) as store:
        refs = sorted(result.ref for result in await store.put_many([b"1", b"2", b"3"]))
        assert await list_all(store) == refs
        assert await store.list_page(refs[0], 1) == refs[1:2]
    place = parse_object_url(url, ClientLimits(16, 30.0, 5.0, 3, 10.0), {})
    for count in (1, 2, 3):  # a page may end with any of them, and Ceph's token is then its name
        async with open_objects(ObjectParts(place, keys_at_once=count)) as store:
            assert await list_all(store) == refs
    found = client.list_objects_v2(Bucket=BUCKET, Prefix=f"{prefix}/")["Contents"]
    assert {f"{prefix}/{name}" for name in names} < {one["Key"] for one in found}


@pytest.mark.deep
async def test_a_bucket_with_nothing_but_other_objects(moto: S3Server) -> None:
    place = new_place()
    for number in range(2 * PAGE + 1):
        moto.client().put_object(Bucket=BUCKET, Key=f"{place.partition('/')[2]}/b:{number}", Body=b"")
    async with open_object_store(moto.url(place)) as store:
        assert await store.list_page(Ref.ZERO, 1) == []
        assert await list_all(store) == []


@pytest.mark.deep
async def test_many_refs_are_listed_in_order(server: S3Server, moto: S3Server, url: str) -> None:
    count = 1000 if server is moto else 5000
    refs = sorted(Ref.of(b"%d" % number) for number in range(count))
    async with open_object_store(url, requests=32) as store:
        results = await store.put_many(b"%d" % number for number in range(count))
        assert all(added for _, added in results)
        assert await list_all(store) == refs
        assert await store.list_page(refs[700], 250) == refs[701:951]
        assert await store.list_page(refs[700], 10**9) == refs[701:]


@pytest.mark.deep
async def test_large_blobs(url: str) -> None:
    blobs = [Blob(random.Random(seed).randbytes(16 * 1024 * 1024)) for seed in range(3)]
    async with open_object_store(url) as store:
        assert [added for _, added in await store.put_many(blobs)] == [True] * 3
        found = await store.get_many(blob.ref for blob in blobs)
        assert found == {blob.ref: blob.data for blob in blobs}
        assert await store.put(blobs[0]) == (blobs[0].ref, False)


async def test_of_racing_puts_one_is_added(url: str) -> None:
    added: list[bool] = []

    async def put(store: ObjectStore) -> None:
        added.append((await store.put(DATA)).added)

    async with (
        open_object_store(url, requests=32) as store,
        open_object_store(url, requests=32) as other,
        trio.open_nursery() as nursery,
    ):
        for _ in range(32):
            nursery.start_soon(put, store)
            nursery.start_soon(put, other)
    assert sorted(added) == [False] * 63 + [True]


async def test_an_object_of_another_size_is_replaced(
    server: S3Server, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    key = f"{url.partition('?')[0].removeprefix(f's3://{BUCKET}/')}/b:{REF}"
    server.client().put_object(Bucket=BUCKET, Key=key, Body=b"")
    async with open_object_store(url) as store:
        assert await store.contains(REF)
        assert await store.put(DATA) == (REF, True)
        assert await store.get(REF) == DATA
        assert await store.put(DATA) == (REF, False)
        name = repr(store)[len("<ObjectStore '") : -2]
        server.client().put_object(Bucket=BUCKET, Key=key, Body=b"rots")  # its size is right, so a put leaves it
        assert await store.put(DATA) == (REF, False)
        assert await store.get(REF) == b"rots"
        await store.replace(DATA)
        assert await store.get(REF) == DATA
    assert caplog.record_tuples == [
        ("trio_replica", logging.WARNING, f"replaced {REF} of {name}: it had 0 bytes, not 4"),
    ]


async def test_an_object_is_set_aside(server: S3Server, url: str) -> None:
    prefix = url.partition("?")[0].removeprefix(f"s3://{BUCKET}/")
    async with open_object_store(url) as store:
        assert await store.set_aside(REF) is None
        await store.put(DATA)
        aside = await store.set_aside(REF)
        assert aside is not None
        name, _, place = aside.partition(" of ")
        assert re.fullmatch(rf"damaged:{REF}-\d{{8}}T\d{{6}}Z", name)
        assert place == repr(store)[len("<ObjectStore '") : -2]
        assert server.client().get_object(Bucket=BUCKET, Key=f"{prefix}/{name}")["Body"].read() == DATA
        assert [ref async for ref in store.list_refs()] == [REF]
        assert await store.delete(REF)
        assert [ref async for ref in store.list_refs()] == []
        with pytest.raises(TypeError):
            await store.set_aside(bytes(REF))  # type: ignore[arg-type]


async def test_a_bucket_is_reconciled_and_scrubbed(server: S3Server, url: str) -> None:
    prefix = url.partition("?")[0].removeprefix(f"s3://{BUCKET}/")
    local = MemoryStore()
    await local.put_many([DATA, b"another"])
    async with open_object_store(url) as store:
        stores = {"local": local, "remote": RetryingStore(store)}
        assert (await reconcile(stores)).stores["remote"] == ReconcileCounts(0, 2, 2, 0, 11)
        server.client().put_object(Bucket=BUCKET, Key=f"{prefix}/b:{REF}", Body=b"blub")
        report = await scrub(stores, repair=True)
        (finding,) = report.findings
        assert (finding.store, finding.ref, finding.is_repaired, report.is_sound) == ("remote", REF, True, True)
        kept = f"repaired from local; the bad bytes are kept: damaged:{REF}-"
        assert finding.outcome.startswith(kept)
        assert await store.get(REF) == DATA
        assert (await scrub(stores)).findings == ()


# Failures of real servers


def test_a_server_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda program: None if program == "ceph-osd" else program)
    assert missing_ceph() == (
        "no Ceph is installed, for ceph-osd is missing (apt-get install radosgw ceph-mon ceph-osd ceph-common)"
    )
    monkeypatch.setattr(shutil, "which", lambda program: program)
    assert missing_ceph() is None


@pytest.mark.ceph
async def test_a_gateway_that_is_killed_and_started_again(ceph: CephServer) -> None:
    place = new_place()
    refused = f"s3://{place} at {ceph.endpoint}: its server refuses the connection: start it, or correct the endpoint"
    async with open_object_store(ceph.url(place), retries=0) as store:
        assert await store.put(DATA) == (REF, True)
        ceph.kill_gateway()
        try:
            await assert_fails(refused, store.put, b"another")
            await assert_fails(refused, store.put_many, [b"one", b"two"])
            await assert_fails(refused, store.get, REF)
            await assert_fails(refused, store.contains, OTHER)
            await assert_fails(refused, store.list_page, Ref.ZERO, 1)
            await assert_fails(refused, store.delete, REF)
        finally:
            ceph.start_gateway()
        assert await store.put(b"another") == (OTHER, True)
        assert await list_all(store) == sorted([REF, OTHER])


def connections_to(port: int) -> int:
    """Return how many established connections there are to a port of this machine, by its clients' side."""
    rows = [line.split() for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]]
    return sum(state == "01" and int(remote.rpartition(":")[2], 16) == port for _, _, remote, state, *_ in rows)


@pytest.mark.ceph
async def test_no_connection_is_kept_for_long(ceph: CephServer) -> None:
    port = int(ceph.endpoint.rpartition(":")[2])
    ceph.client().close()  # it keeps its connections
    place = parse_object_url(ceph.url(new_place()), ClientLimits(16, 30.0, 5.0, 3, 30.0), {})
    async with open_objects(ObjectParts(place, idle_seconds=0.5)) as store:
        await store.put_many(b"%d" % number for number in range(100))
        assert connections_to(port) > 0
    with trio.fail_after(PATIENCE):
        while connections_to(port):  # noqa: ASYNC110  (the client has no event for it)
            await trio.sleep(0.1)


@pytest.mark.ceph
async def test_a_blob_is_lost_behind_the_gateways_back(ceph: CephServer) -> None:
    """It is listed and not there. The answers are the server's, and a put stores it again."""
    place = new_place()
    async with open_object_store(ceph.url(place)) as store:
        await store.put(DATA)
        ceph.lose(*f"{place}/b:{REF}".split("/", 1))
        assert await list_all(store) == [REF]
        with pytest.raises(BlobNotFoundError):
            await store.get(REF)
        assert not await store.contains(REF)
        assert await store.put(DATA) == (REF, True)
        assert await store.get(REF) == DATA
        assert await list_all(store) == [REF]


@pytest.mark.ceph
async def test_the_identity_is_lost_behind_the_gateways_back(ceph: CephServer) -> None:
    place = new_place()
    async with open_object_store(ceph.url(place)) as store:
        identity = await store.identity()
        await store.put(DATA)
        ceph.lose(*f"{place}/b~".split("/", 1))
        assert await list_all(store) == [REF]  # the gateway lists it still
        with pytest.raises(StoreIdentityError) as caught:
            await store.identity()
        assert (caught.value.expected, caught.value.found) == (identity, None)
        bucket, key = f"{place}/b~".split("/", 1)
        ceph.client().put_object(Bucket=bucket, Key=key, Body=str(identity).encode())
        assert await store.identity() == identity
        ceph.client().delete_object(Bucket=bucket, Key=key)
        with pytest.raises(StoreIdentityError):
            await list_all(store)
        assert await store.get(REF) == DATA
    async with open_object_store(ceph.url(place), create=False) as store:
        assert await store.identity() not in {identity, None}


@pytest.mark.ceph
async def test_objects_outlive_their_daemon() -> None:
    with ceph_server("bluestore") as server:
        server.client().create_bucket(Bucket=BUCKET)
        async with open_object_store(server.url(BUCKET)) as store:
            assert await store.put(DATA) == (REF, True)
            server.kill_objects()
            server.start_objects()
            assert await store.get(REF) == DATA
            assert await store.put(b"another") == (OTHER, True)


async def test_a_bucket_that_goes(server: S3Server) -> None:
    bucket = f"bucket-{next(NUMBERS)}"
    server.client().create_bucket(Bucket=bucket)
    line = f"s3://{bucket} at {server.endpoint}: {NO_BUCKET}"
    async with open_object_store(server.url(bucket)) as store:
        with pytest.raises(BlobNotFoundError):
            await store.get(REF)
        server.client().delete_object(Bucket=bucket, Key="b~")
        server.client().delete_bucket(Bucket=bucket)
        await assert_fails(line, store.get, REF)
        await assert_fails(line, store.get_many, [REF])
        await assert_fails(line, store.contains, REF)
        await assert_fails(line, store.delete, REF)
        await assert_fails(line, store.put, DATA)
        await assert_fails(line, store.put_many, [DATA])
        await assert_fails(line, store.replace, DATA)
        await assert_fails(line, store.set_aside, REF)
        await assert_fails(line, store.list_page, Ref.ZERO, 1)
    await assert_does_not_open(server.url(bucket), line)


@pytest.mark.ceph
@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"access_key_id": "AKIDNOBODY"}, "InvalidAccessKeyId"),
        ({"secret_access_key": "NOT-THE-SECRET"}, "SignatureDoesNotMatch"),
    ],
)
async def test_wrong_credentials(ceph: CephServer, options: dict[str, str], code: str) -> None:
    line = f"s3://{BUCKET} at {ceph.endpoint}: the server does not accept the credentials: correct them ({code})"
    await assert_does_not_open(ceph.url(BUCKET, **options), line)


@pytest.mark.ceph
async def test_a_user_who_may_only_read(ceph: CephServer) -> None:
    ceph.add_user("reader", "AKIDREADER", "READERSECRET", "--op-mask=read")
    place = new_place()
    async with open_object_store(ceph.url(place)) as store:
        await store.put(DATA)
    policy = """{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": "*",
        "Action": ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:ListBucket"],
        "Resource": ["arn:aws:s3:::blobs", "arn:aws:s3:::blobs/*"]}]}"""
    ceph.client().put_bucket_policy(Bucket=BUCKET, Policy=policy)
    line = (
        f"s3://{place} at {ceph.endpoint}: the server forbids this with these credentials: "
        "permit them to list, get, put and delete in the bucket (403 AccessDenied)"
    )
    url = ceph.url(place, access_key_id="AKIDREADER", secret_access_key="READERSECRET")
    async with open_object_store(url, read_only=True) as store:
        assert await store.get(REF) == DATA
        assert await list_all(store) == [REF]
        assert await store.identity() is not None
    other = new_place()  # where an identity would have to be written
    await assert_does_not_open(
        ceph.url(other, access_key_id="AKIDREADER", secret_access_key="READERSECRET"), line.replace(place, other)
    )
    async with open_object_store(url) as store:
        assert await store.get(REF) == DATA
        await assert_fails(line, store.put, b"new")
        await assert_fails(line, store.put, DATA)
        await assert_fails(line, store.replace, DATA)
        await assert_fails(line, store.delete, REF)
    ceph.client().delete_bucket_policy(Bucket=BUCKET)
    await assert_does_not_open(url, line)


async def test_tls_to_a_plain_port(moto: S3Server) -> None:
    endpoint = moto.endpoint.replace("http:", "https:")
    line = "its server speaks no TLS: correct the endpoint, or make it http:// and add allow_http=true"
    await assert_does_not_open(moto.url(BUCKET, endpoint=endpoint, retries="0"), f"s3://{BUCKET} at {endpoint}: {line}")


# Failures of servers with a script


def line_of(server: Scripted, text: str) -> str:
    return f"s3://{BUCKET} at {server.endpoint()}: {text}"


def scripted_options(server: Scripted, **options: Any) -> dict[str, Any]:
    """Return the options of a store that asks a server once."""
    return S3Server(server.endpoint()).options() | {"retries": 0} | options


def open_scripted(server: Scripted, **options: Any) -> AbstractAsyncContextManager[ObjectStore]:
    return open_object_store(f"s3://{BUCKET}", **scripted_options(server, **options))


def scripts(*answers: Answer) -> Callable[[Request], Answer]:
    """Return a function that first lets a store open, then gives `answers` in order, the last again and again."""
    remaining = iter((OPENS, *answers))
    return lambda _: next(remaining, answers[-1])


def says(text: bytes) -> Callable[[Scripted, IO[bytes], IO[bytes]], None]:
    def talk(server: Scripted, reader: IO[bytes], writer: IO[bytes]) -> None:
        reader.readline()
        writer.write(text)

    return talk


NO_OBJECT_STORE = "the server is not an object store: correct the endpoint"
CLOSED = "its server closed the connection without an answer: try again later; if it speaks TLS, correct the endpoint"


@pytest.mark.parametrize(
    ("talk", "line"),
    [
        pytest.param(
            answering(lambda _: Answer(200, "<html>Hello")),
            "b~ is not an identity, which is 32 lowercase hex digits: if another program has written it, move it away; "
            "else the server is not an object store: correct the endpoint",
            id="a web page",
        ),
        pytest.param(answering(lambda _: Answer(404, "<html>Not here")), f"{NO_OBJECT_STORE} (404)", id="no web page"),
        pytest.param(says(b"220 mail.example ESMTP\r\n"), NO_OBJECT_STORE, id="no HTTP"),
        pytest.param(says(b""), CLOSED, id="nothing"),
        pytest.param(
            answering(lambda _: Answer.of_error(503, "SlowDown")),
            "the server is in trouble: try again later (503 SlowDown)",
            id="trouble",
        ),
        pytest.param(
            answering(lambda _: Answer.of_error(400, "InvalidRequest", "a &lt;b&gt; is\nbad")),
            "the server answered 400 InvalidRequest: a <b> is bad",
            id="a refusal",
        ),
        pytest.param(
            answering(lambda _: Answer.of_error(403, "AccessDenied")),
            "the server forbids this with these credentials: "
            "permit them to list, get, put and delete in the bucket (403 AccessDenied)",
            id="a policy",
        ),
        pytest.param(say_nothing, HUNG, id="silence"),
    ],
)
async def test_a_server_that_is_no_good(talk: Callable[[Scripted, IO[bytes], IO[bytes]], None], line: str) -> None:
    with scripted_server(talk) as server:
        options = scripted_options(server, request_timeout=0.3 if line == HUNG else PATIENCE)
        await assert_does_not_open(f"s3://{BUCKET}", line_of(server, line), **options)


async def test_plain_text_to_a_tls_port() -> None:
    with scripted_server(says(b""), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)) as server:
        await assert_does_not_open(f"s3://{BUCKET}", line_of(server, CLOSED), **scripted_options(server))


async def test_a_server_that_is_not_known() -> None:
    line = "the name of its server is not known: correct the endpoint, or the name service"
    endpoint = "http://no-such-host.invalid"
    options = S3Server(endpoint).options()
    await assert_does_not_open(f"s3://{BUCKET}", f"s3://{BUCKET} at {endpoint}: {line}", **options, retries=0)


async def test_a_client_that_panics(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "127.0.0.1:5")
    options = {"access_key_id": ACCESS_KEY, "secret_access_key": SECRET_KEY}
    await assert_does_not_open(f"s3://{BUCKET}", f"s3://{BUCKET}: its endpoint is no URL: correct it", **options)


async def test_an_endpoint_of_the_environment_without_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:5")
    line = f"s3://{BUCKET}: its endpoint is http://: make it https://, or add allow_http=true"
    await assert_does_not_open(f"s3://{BUCKET}", line, access_key_id=ACCESS_KEY, secret_access_key=SECRET_KEY)


async def test_no_credentials() -> None:
    with scripted_server(answering(lambda _: Answer(404, "<html>Not here</html>"))) as server:
        line = line_of(
            server,
            "there are no credentials: give them as options or in the environment, or skip_signature=true for none",
        )
        options = {"endpoint": server.endpoint(), "metadata_endpoint": server.endpoint(), "retries": 0}
        await assert_does_not_open(f"s3://{BUCKET}", line, allow_http=True, **options)


async def test_operations_with_a_server_that_is_no_good_any_more() -> None:
    answers = [OPENS, *[Answer(404, "<html>Not here")] * 20]
    with scripted_server(answering(lambda _: answers.pop(0))) as server:
        line = line_of(server, f"{NO_OBJECT_STORE} (404)")
        async with open_scripted(server) as store:
            await assert_fails(line, store.put, DATA)
            await assert_fails(line, store.replace, DATA)
            await assert_fails(line, store.set_aside, REF)
            await assert_fails(line, store.get, REF)
            await assert_fails(line, store.contains, REF)
            await assert_fails(line, store.delete, REF)
            await assert_fails(line, store.list_page, Ref.ZERO, 1)


async def test_a_copy_that_is_refused() -> None:
    answers = [OPENS, Answer.of_error(403, "AccessDenied")]
    with scripted_server(answering(lambda _: answers.pop(0))) as server:
        line = (
            "the server forbids this with these credentials: "
            "permit them to list, get, put and delete in the bucket (403 AccessDenied)"
        )
        async with open_scripted(server) as store:
            await assert_fails(line_of(server, line), store.set_aside, REF)


async def test_an_answer_that_ends_too_early() -> None:
    def talk(server: Scripted, reader: IO[bytes], writer: IO[bytes]) -> None:
        if server.requests:
            reader.readline()
            head = f'Content-Length: 9\r\nETag: "etag"\r\nLast-Modified: {DATE}'
            writer.write(f"HTTP/1.1 200 OK\r\n{head}\r\n\r\nblob".encode())
        else:
            answering(scripts(OPENS))(server, reader, writer)

    with scripted_server(talk) as server:
        async with open_scripted(server) as store:
            await assert_fails(line_of(server, CLOSED), store.get, REF)


# Races, and puts that were stored after all


async def test_a_put_that_was_stored_and_said_to_have_failed() -> None:
    answers = scripts(
        Answer.of_error(500, "InternalError"), Answer.of_error(412, "PreconditionFailed"), Answer(200, DATA.decode())
    )
    with scripted_server(answering(answers)) as server:
        async with open_scripted(server, retries=1) as store:
            assert await store.put(DATA) == (REF, False)
        assert server.asked[1:] == [f"{method} /{BUCKET}/b%3A{REF}" for method in ("PUT", "PUT", "HEAD")]
        assert [request.body for request in server.requests[1:]] == [DATA, DATA, b""]


async def test_a_put_beside_another_that_fails() -> None:
    answers = scripts(Answer.of_error(409, "ConditionalRequestConflict"), MISSING, MISSING, Answer(200))
    with scripted_server(answering(answers)) as server:
        async with open_scripted(server) as store:
            assert await store.put(DATA) == (REF, True)
        assert [asked.split()[0] for asked in server.asked[1:]] == ["PUT", "HEAD", "GET", "PUT"]


async def test_a_put_beside_others_that_fail_again_and_again() -> None:
    conflict = Answer.of_error(409, "ConditionalRequestConflict")
    answers = {"PUT": conflict, "HEAD": MISSING}
    with scripted_server(
        answering(lambda request: answers.get(request.method, OPENS if "~" in request.path else MISSING))
    ) as server:
        line = line_of(server, f"{REF!s:.12} can't be created and can't be found: try again later")
        async with open_scripted(server) as store:
            await assert_fails(line, store.put, DATA)
        assert [asked.split()[0] for asked in server.asked].count("PUT") == 5


async def test_a_put_of_what_is_there_with_another_size_and_can_not_be_replaced() -> None:
    answers = scripts(
        Answer.of_error(412, "PreconditionFailed"), Answer(200, "other"), Answer.of_error(403, "AccessDenied")
    )
    with scripted_server(answering(answers)) as server:
        async with open_scripted(server) as store:
            with pytest.raises(ReplicaError, match="forbids"):
                await store.put(DATA)


async def test_a_blob_that_comes_while_it_is_asked_for() -> None:
    with scripted_server(answering(scripts(MISSING, Answer(200, DATA.decode())))) as server:
        async with open_scripted(server) as store:
            assert await store.contains(REF)
        assert [asked.split()[0] for asked in server.asked[1:]] == ["HEAD", "GET"]


async def test_a_blob_that_goes_while_it_is_deleted() -> None:
    with scripted_server(answering(scripts(Answer(200, DATA.decode()), MISSING))) as server:
        async with open_scripted(server) as store:
            assert not await store.delete(REF)
        assert [asked.split()[0] for asked in server.asked[1:]] == ["HEAD", "DELETE", "HEAD", "GET"]


async def test_a_deletion_that_is_forbidden() -> None:
    answers = scripts(Answer(200, DATA.decode()), Answer.of_error(403, "AccessDenied"))
    with scripted_server(answering(answers)) as server:
        async with open_scripted(server) as store:
            with pytest.raises(ReplicaError, match="forbids"):
                await store.delete(REF)


# Calls that hang


def hang_after_opening(server: Scripted, reader: IO[bytes], writer: IO[bytes]) -> None:
    if server.requests:
        say_nothing(server, reader, writer)
    else:
        answering(scripts(OPENS))(server, reader, writer)


def threads_of_stores() -> list[str]:
    return [thread.name for thread in threading.enumerate() if f"s3://{BUCKET}" in thread.name]


@pytest.mark.deep
async def test_a_get_that_hangs_does_not_hold_up_who_gives_it_up() -> None:
    with scripted_server(hang_after_opening) as server:
        begun = trio.current_time()
        async with open_scripted(server, request_timeout=1) as store:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(store.get, REF)
                nursery.start_soon(store.contains, REF)
                nursery.start_soon(store.list_page, REF, 1)
                nursery.start_soon(store.get_many, [REF, OTHER])
                await wait_for(server.was_asked)
                nursery.cancel_scope.cancel()
            assert len(threads_of_stores()) == len(["readers", "writers"]) * REQUESTS + len(["lister"])
        assert trio.current_time() - begun < PATIENCE / 4  # the client's timeout has ended them
        assert threads_of_stores() == []


@pytest.mark.deep
async def test_a_put_that_hangs_fails_in_time() -> None:
    with scripted_server(hang_after_opening) as server:
        async with open_scripted(server, request_timeout=1, retries=3) as store:
            await assert_fails(line_of(server, HUNG), store.put, DATA)
            await assert_fails(line_of(server, HUNG), store.get, REF)
        assert len(server.requests) == 3  # of opening, and one each: they took too long to be repeated


@pytest.mark.deep
async def test_puts_that_wait_behind_hung_ones_are_withdrawn() -> None:
    async def put(store: ObjectStore, number: int) -> None:
        with suppress(ReplicaError):  # what it really came to, also when it is cancelled
            await store.put(b"%d" % number)

    with scripted_server(hang_after_opening) as server:
        async with open_scripted(server, requests=2, request_timeout=1) as store:
            async with trio.open_nursery() as nursery:
                for number in range(50):
                    nursery.start_soon(put, store, number)
                await wait_for(server.was_asked)
                nursery.cancel_scope.cancel()
        assert 2 <= len(server.requests) <= 3  # that of opening is one


# Its owner, its options and its secrets


async def test_it_belongs_to_the_run_that_opened_it(moto: S3Server) -> None:
    async with open_object_store(moto.url(new_place())) as store:
        with pytest.raises(RuntimeError, match=r"belongs to the trio\.run that opened it"):
            await trio.to_thread.run_sync(trio.run, store.get, REF)
    with pytest.raises(trio.ClosedResourceError):
        await store.put(DATA)


def test_it_does_not_work_in_a_forked_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getpid", lambda: 1)
    with pytest.raises(RuntimeError, match="don't work in a forked process"):
        open_object_store(f"s3://{BUCKET}")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"nonsense": "1"}, "Configuration key: 'nonsense' is not valid for store 'S3'."),
        ({"skip_signature": "perhaps"}, 'Generic Config error: failed to parse "***" as boolean'),
        ({"access_key_id": "x"}, "or in the environment, or skip_signature=true for none"),
        ({"bucket_name": "another"}, "Duplicate key aws_bucket provided"),
        ({"prefix": "another"}, "got multiple values for keyword argument 'prefix'"),
        ({"client_options": "x"}, "got multiple values for keyword argument 'client_options'"),
    ],
)
def test_options_that_the_client_does_not_take(options: dict[str, Any], error: str) -> None:
    with pytest.raises(ValueError, match=r"^s3://blobs: ") as caught:
        open_object_store(f"s3://{BUCKET}", **options)
    assert str(caught.value).endswith(error)


@pytest.mark.parametrize("name", ["obstore", "botocore", "httpcore"])
def test_it_takes_more_packages(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    miss_package(monkeypatch, name)
    with pytest.raises(ModuleNotFoundError) as caught:
        open_object_store(f"s3://{BUCKET}")
    assert str(caught.value) == f"object stores need {name}: pip install 'trio-replica[cloud]'"


def test_a_package_that_is_broken_is_not_said_to_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    miss_package(monkeypatch, "obstore.store")
    with pytest.raises(ModuleNotFoundError, match=r"obstore\.store"):
        open_object_store(f"s3://{BUCKET}")


def test_who_has_no_object_store_does_not_import_its_client() -> None:
    program = "import sys, trio_replica; assert 'obstore' not in sys.modules; assert trio_replica.open_object_store"
    subprocess.run([sys.executable, "-c", program], check=True)


async def test_secrets_are_not_shown(caplog: pytest.LogCaptureFixture) -> None:
    secrets = {
        "access_key_id": "AKIDofAPerson",
        "secret_access_key": "s3cret+/key=",
        "session_token": "t0ken&of=a session" * 20,  # longer than what is quoted of an answer
    }
    said: list[object] = []

    def answer(request: Request) -> Answer:
        if len(scripted.requests) == 1:
            return OPENS
        return Answer.of_error(400, "Bad", " ".join(secrets.values()).replace("&", "&amp;"))

    with scripted_server(answering(answer)) as scripted:
        options = S3Server(scripted.endpoint()).options(**secrets)
        async with open_object_store(f"s3://{BUCKET}?{urlencode(options, quote_via=quote)}", retries=0) as store:
            said += [store, vars(store), *threads_of_stores()]
            for call in (store.put(DATA), store.get(REF), store.list_page(Ref.ZERO, 1)):
                with pytest.raises(ReplicaError) as caught:
                    await call
                said += [caught.value, repr(caught.value), pickle.dumps(caught.value)]
    assert str(said[-3]) == line_of(scripted, "the server answered 400 Bad: *** *** ***")
    shown = " ".join(map(str, said)) + caplog.text
    assert not [secret for secret in secrets.values() if secret[:12] in shown]


# Other clouds


CLOUDS: dict[str, tuple[dict[str, Any], str]] = {
    "gs": ({"bearer_token": "ya29.SECRET"}, "NoSuchKey"),
    "az": ({"account_name": "account", "sas_key": "sv=2021&sig=SECRET%2B"}, "BlobNotFound"),
}


@pytest.mark.parametrize("scheme", CLOUDS)
async def test_other_clouds(scheme: str) -> None:
    options, missing = CLOUDS[scheme]
    objects: dict[str, str] = {}

    def answer(request: Request) -> Answer:
        path = request.path.partition("?")[0]
        match request.method:
            case "PUT" if path in objects:
                return Answer.of_error(412 if scheme == "gs" else 409, "Exists")
            case "PUT":
                objects[path] = request.body.decode()
                return Answer(201)
            case _ if path in objects:
                return Answer(200, objects[path])
            case _:
                return Answer.of_error(404, missing)

    with scripted_server(answering(answer)) as server:
        url = f"{scheme}://{BUCKET}/pre/fix?endpoint={server.endpoint()}&allow_http=true"
        async with open_object_store(url, retries=0, **options) as store:
            assert repr(store) == f"<ObjectStore '{scheme}://{BUCKET}/pre/fix at {server.endpoint()}'>"
            assert await store.put(DATA) == (REF, True)
            assert await store.put(DATA) == (REF, False)
            assert await store.get(REF) == DATA
            with pytest.raises(BlobNotFoundError):
                await store.get(OTHER)
            assert not await store.contains(OTHER)
        assert list(map(unquote, objects)) == [f"/{BUCKET}/pre/fix/b~", f"/{BUCKET}/pre/fix/b:{REF}"]

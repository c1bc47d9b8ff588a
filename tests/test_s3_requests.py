"""Requests to S3 beside those of the client: where they go, how they are signed, and what their failures mean."""

from __future__ import annotations

import datetime as dt
import json
import ssl
import threading
from contextlib import asynccontextmanager
from ipaddress import ip_address
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import obstore
import pytest
import trio
from obstore.store import S3Store

from trio_replica import ReplicaError, open_object_store, open_store_threads
from trio_replica.stores._object_store.client import ObjectClient
from trio_replica.stores._object_store.s3_account import NoCredentialsError, S3Account
from trio_replica.stores._object_store.s3_requests import S3Requests, _proxy, open_s3_requests
from trio_replica.stores._object_store.url import ClientLimits, ObjectPlace, parse_object_url
from trio_replica.stores.object_store import _serve

from .common import open_and_close
from .fake_bucket import BUCKET, FakeBucket
from .s3_server import ACCESS_KEY, SECRET_KEY, S3Server
from .scripted import Answer, Request, Scripted, answering, scripted_server

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from pathlib import Path

KEYS: dict[str, Any] = {"access_key_id": ACCESS_KEY, "secret_access_key": SECRET_KEY}
LIMITS = ClientLimits(2, 5.0, 5.0, 0, 1.0)


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


def place_of(options: dict[str, Any]) -> ObjectPlace:
    return ObjectPlace("store", "s3", BUCKET, "", True, options, LIMITS)


# Where, and who


@pytest.mark.parametrize(
    ("variables", "options"),
    [
        ({}, {}),
        ({"AWS_REGION": "a"}, {}),
        ({"AWS_DEFAULT_REGION": "b"}, {}),
        ({"AWS_REGION": "a", "AWS_DEFAULT_REGION": "b"}, {}),
        ({"AWS_REGION": "a"}, {"default_region": "c"}),
        ({"AWS_REGION": "a"}, {"region": "c"}),
        ({}, {"aws_region": "c", "aws_session_token": "d"}),
        ({"AWS_ENDPOINT_URL": "http://a"}, {}),
        ({"AWS_ENDPOINT": "http://a/"}, {}),
        ({"AWS_ENDPOINT_URL": "http://a"}, {"endpoint": "http://b:1"}),
        ({"AWS_ENDPOINT_URL": "http://a", "AWS_ENDPOINT_URL_S3": "http://c"}, {}),
        ({"AWS_ENDPOINT_URL_S3": "http://c"}, {"endpoint": "http://b:1"}),
        ({"AWS_VIRTUAL_HOSTED_STYLE_REQUEST": "true"}, {}),
        ({}, {"virtual_hosted_style_request": "Yes", "endpoint": f"http://{BUCKET}.b:1"}),
        ({"AWS_TOKEN": "a"}, {}),
        ({"AWS_SESSION_TOKEN": "a"}, {"token": "b"}),
    ],
)
def test_an_account_is_that_of_the_client(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], options: dict[str, Any]
) -> None:
    """The URLs that the client signs show it."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    client = S3Store(BUCKET, client_options={"allow_http": True}, **KEYS, **options)
    told = urlsplit(obstore.sign(client, "GET", "x", dt.timedelta(seconds=60)))
    query = {name: values[0] for name, values in parse_qs(told.query).items()}
    account = S3Account(place_of(KEYS | options))
    assert repr(account) == f"<S3Account '{told.scheme}://{told.netloc}{told.path.removesuffix('/x')}'>"
    headers = account.sign(account.url)
    date, region = query["X-Amz-Credential"].split("/")[1:3]
    assert f"Credential={ACCESS_KEY}/{date}/{region}/s3/aws4_request, SignedHeaders=host;" in headers["Authorization"]
    assert headers.get("X-Amz-Security-Token") == query.get("X-Amz-Security-Token")
    assert headers["Host"] == told.netloc
    assert SECRET_KEY not in str(headers)


@pytest.mark.parametrize(("value", "pays"), [("true", True), ("requester", True), ("false", False)])
def test_requests_are_not_signed_if_they_shall_not_be(value: str, pays: bool) -> None:
    account = S3Account(place_of({"skip_signature": "true", "request_payer": value}), {})
    headers = account.sign("http://host/blobs?list-type=2")
    always = {"Host": "host", "User-Agent": "trio-replica"}
    assert headers == always | ({"x-amz-request-payer": "requester"} if pays else {})


async def test_the_credentials_of_a_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A container is told where to get them. Both the client and the listing go there."""
    bucket = FakeBucket()
    expires = (dt.datetime.now(dt.UTC) + dt.timedelta(hours=1)).isoformat()
    told = {"AccessKeyId": "AKIDMACHINE", "SecretAccessKey": "SECRET", "Token": "token", "Expiration": expires}

    def answer(request: Request) -> Any:
        return Answer(200, json.dumps(told)) if request.path == "/credentials" else bucket.answer(request)

    (tmp_path / "token").write_text("let-me-in")
    with scripted_server(answering(answer)) as server:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{server.endpoint()}/credentials")
        monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", str(tmp_path / "token"))
        options: dict[str, Any] = {"endpoint": server.endpoint(), "allow_http": True, "retries": 0}
        async with open_object_store(f"s3://{BUCKET}", **options) as store:
            ref, _ = await store.put(b"blob")
            assert [found async for found in store.list_refs()] == [ref]
        asked = [request for request in server.requests if request.path != "/credentials"]
        assert all("Credential=AKIDMACHINE/" in request.headers["authorization"] for request in asked)
        assert all(request.headers["x-amz-security-token"] == "token" for request in asked)


async def test_no_credentials_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    account = S3Account(place_of({}), {})
    with pytest.raises(NoCredentialsError):
        account.sign(account.url)
    line = "there are no credentials: give them as options or in the environment, or skip_signature=true for none"
    await assert_fails(place_at("http://127.0.0.1:1"), account, line)


# Failures


def place_at(endpoint: str) -> ObjectPlace:
    return parse_object_url(f"s3://{BUCKET}", LIMITS, S3Server(endpoint).options())


@asynccontextmanager
async def open_requests(place: ObjectPlace, account: S3Account | None = None) -> AsyncGenerator[S3Requests, None]:
    async with (
        open_store_threads("threads", _serve) as threads,
        open_s3_requests(ObjectClient(place), account or S3Account(place, {}), threads) as requests,
    ):
        yield requests


async def assert_fails(place: ObjectPlace, account: S3Account | None, line: str) -> None:
    async with open_requests(place, account) as requests:
        with pytest.raises(ReplicaError) as caught:
            await requests.get("list-type=2")
    assert str(caught.value) == f"{place.name}: {line}"
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)


async def test_nothing_listens() -> None:
    line = "its server refuses the connection: start it, or correct the endpoint"
    await assert_fails(place_at("http://127.0.0.1:1"), None, line)


async def test_a_server_that_is_not_known() -> None:
    line = "the name of its server is not known: correct the endpoint, or the name service"
    await assert_fails(place_at("http://no-such-host.invalid"), None, line)


async def test_tls_to_a_plain_port() -> None:
    line = "its server speaks no TLS: correct the endpoint, or make it http:// and add allow_http=true"

    def talk(server: Scripted, reader: IO[bytes], writer: IO[bytes]) -> None:
        writer.write(b"220 mail.example ESMTP\r\n")

    with scripted_server(talk) as server:
        await assert_fails(place_at(server.endpoint("https")), None, line)


async def test_an_endpoint_that_is_not_of_http() -> None:
    """A variable of the environment may name one."""
    place = place_at("http://127.0.0.1:1")
    account = S3Account(place_of(KEYS | {"endpoint": "ftp://127.0.0.1:1"}), {})
    await assert_fails(place, account, "its endpoint is not an http:// or https:// URL: correct it")


async def test_a_certificate_that_nobody_has_signed(tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(make_certificate(tmp_path))
    line = "the certificate of its server is not trusted: correct the endpoint or the certificate"
    with scripted_server(answering(lambda _: Answer(200)), context) as server:
        await assert_fails(place_at(server.endpoint("https")), None, line)


async def test_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    with scripted_server(answering(lambda _: Answer(200, "listed")), context) as server:
        async with open_requests(place_at(server.endpoint("https"))) as requests:
            assert await requests.get("list-type=2") == b"listed"


async def test_the_certificates_of_the_machine_are_read_in_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    create, names = ssl.create_default_context, []

    def create_and_tell() -> ssl.SSLContext:
        names.append(threading.current_thread().name)
        return create()

    monkeypatch.setattr(ssl, "create_default_context", create_and_tell)
    for endpoint in ("https://127.0.0.1:1", "http://127.0.0.1:1"):  # the second needs none
        await open_and_close(open_requests(place_at(endpoint)))
    assert names == ["threads 0"]


def make_certificate(folder: Path) -> Path:
    """Return a file with a certificate of 127.0.0.1, signed by itself, and its key."""
    from cryptography import x509  # noqa: PLC0415  (only these tests need it)
    from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415

    key, now = ec.generate_private_key(ec.SECP256R1()), dt.datetime.now(dt.UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    alternative = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(alternative, critical=False)
        .sign(key, hashes.SHA256())
    )
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    path = folder / "certificate.pem"
    pem = serialization.Encoding.PEM
    path.write_bytes(certificate.public_bytes(pem) + key.private_bytes(pem, *form))
    return path


async def test_its_requests_end_with_the_block() -> None:
    async with open_requests(place_at("http://127.0.0.1:1")) as requests:
        pass
    with pytest.raises(trio.ClosedResourceError):
        await requests.get("")


# Proxies


@pytest.mark.parametrize(
    ("variables", "proxy", "headers"),
    [
        ({}, None, []),
        ({"http_proxy": "http://p:1"}, None, []),
        ({"https_proxy": "http://p:1"}, "http://p:1/", []),
        ({"all_proxy": "p:1"}, "http://p:1/", []),
        ({"https_proxy": "http://p:1", "no_proxy": "other,host"}, None, []),
        ({"https_proxy": "http://user:a%3Ab@p:1"}, "http://p:1/", [(b"Proxy-Authorization", b"Basic dXNlcjphOmI=")]),
        ({"https_proxy": "http://user@p:1"}, "http://p:1/", [(b"Proxy-Authorization", b"Basic dXNlcjo=")]),
    ],
)
def test_a_proxy_is_that_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], proxy: str | None, headers: list[tuple[bytes, bytes]]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    found = _proxy("https://host/blobs")
    if proxy is None:
        assert found is None
    else:
        assert found is not None
        assert bytes(found.url) == proxy.encode()
        assert found.headers == headers


@pytest.mark.parametrize("proxy", ["socks5://user:secret@p:1", "socks5h://p:1", "ftp://p:1", "http://secret@p:secret"])
async def test_a_proxy_that_a_listing_can_not_use(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    """It is refused when the store is opened, and nothing of it is shown."""
    monkeypatch.setenv("all_proxy", proxy)
    place = place_at("http://store.invalid")
    with pytest.raises(ReplicaError) as caught:
        await open_requests(place).__aenter__()
    line = (
        "the environment names a proxy that is not an http:// or https:// URL, which a listing needs: "
        "correct http_proxy, https_proxy or all_proxy, or name the server in no_proxy"
    )
    assert str(caught.value) == f"{place.name}: {line}"
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)
    monkeypatch.setenv("no_proxy", "store.invalid")
    await open_and_close(open_requests(place))


async def test_the_client_and_the_listing_use_one_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = FakeBucket()

    def answer(request: Request) -> Any:
        assert request.path.startswith("http://store.invalid/")
        return bucket.answer(request._replace(path=request.path.removeprefix("http://store.invalid")))

    with scripted_server(answering(answer)) as proxy:
        monkeypatch.setenv("http_proxy", proxy.endpoint())
        async with open_object_store(S3Server("http://store.invalid").url(BUCKET), retries=0) as store:
            ref, _ = await store.put(b"blob")
            assert [found async for found in store.list_refs()] == [ref]


async def test_a_proxy_that_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    with scripted_server(answering(lambda _: Answer(407, "who are you?"))) as proxy:
        monkeypatch.setenv("https_proxy", proxy.endpoint())
        await assert_fails(place_at("https://store.invalid"), None, "407 Proxy Authentication Required")

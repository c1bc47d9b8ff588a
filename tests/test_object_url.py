"""The URLs and options of object stores, and those that are refused."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest

from trio_replica.stores._object_store.url import ClientLimits, ObjectPlace, parse_object_url

LIMITS = ClientLimits(requests=16, request_timeout=30.0, connect_timeout=5.0, retries=3, retry_timeout=10.0)
SHAPE = "the URL of such a store is s3://BUCKET/PREFIX, with nothing but a bucket's name first"
ENDPOINT = "an endpoint is http://HOST:PORT or https://HOST:PORT, without secrets in it: s3://b"
OPTIONS = "the options of a store's URL are ?OPTION=VALUE&…, each once: s3://b"


def parse(url: Any, **config: Any) -> ObjectPlace:
    return parse_object_url(url, LIMITS, config)


def test_a_url_with_everything() -> None:
    place = parse(
        "s3://bucket/a%20b/c/?endpoint=http://[::1]:7480/path&allow_http=true&region=eu&secret_access_key=a+b%26/c="
        "&requests=4&request_timeout=2.5&connect_timeout=1&retries=0&retry_timeout=0",
        region="us",
        session_token="given",
        unsigned_payload=True,
    )
    assert place == ObjectPlace(
        name="s3://bucket/a b/c at http://[::1]:7480/path",
        scheme="s3",
        bucket="bucket",
        prefix="a b/c",
        allow_http=True,
        config={
            "region": "eu",
            "session_token": "given",
            "unsigned_payload": "true",
            "secret_access_key": "a+b&/c=",
            "endpoint": "http://[::1]:7480/path",
        },
        limits=ClientLimits(4, 2.5, 1.0, 0, 0.0),
    )
    assert "a+b" not in repr(place)
    assert "given" not in repr(place)


@pytest.mark.parametrize(
    ("url", "name", "config"),
    [
        ("s3://bucket", "s3://bucket", {}),
        ("s3://bucket/?", "s3://bucket", {}),
        ("s3://bucket?&region=eu&", "s3://bucket", {"region": "eu"}),
        ("gs://b/p?endpoint=https://host", "gs://b/p at https://host", {"base_url": "https://host"}),
        ("az://$web/p?endpoint=https://host", "az://$web/p at https://host", {"endpoint": "https://host"}),
    ],
)
def test_short_urls(url: str, name: str, config: dict[str, str]) -> None:
    place = parse(url)
    assert (place.name, place.config) == (name, config)
    assert place.limits == LIMITS
    assert not place.allow_http


@pytest.mark.parametrize(
    ("url", "line"),
    [
        ("bucket", "the URL of an object store begins with one of s3://, gs://, az://"),
        ("http://bucket/", "the URL of an object store begins with one of s3://, gs://, az://"),
        ("s3:bucket", "the URL of an object store begins with one of s3://, gs://, az://"),
        ("s3://", SHAPE),
        ("s3:///prefix", SHAPE),
        ("s3://user:SECRET@bucket/", SHAPE),
        ("s3://bucket:80/", SHAPE),
        ("s3://b/a//c", "no prefix has an empty part, a dot for one, or control characters: 's3://b/a//c'"),
        ("s3://b/a/%2E./c", "no prefix has an empty part, a dot for one, or control characters: 's3://b/a/../c'"),
        ("s3://b/.", "no prefix has an empty part, a dot for one, or control characters: 's3://b/.'"),
        ("s3://b/a%0A", "no prefix has an empty part, a dot for one, or control characters: 's3://b/a\\n'"),
        ("s3://b?SECRET", OPTIONS),
        ("s3://b?region=eu&region=SECRET", OPTIONS),
        ("s3://b?endpoint=host:80", ENDPOINT),
        ("s3://b?endpoint=ftp://host", ENDPOINT),
        ("s3://b?endpoint=https://", ENDPOINT),
        ("s3://b?endpoint=https://host:99999", ENDPOINT),
        ("s3://b?endpoint=https://host:0", ENDPOINT),
        ("s3://b?endpoint=https://user:SECRET@host", ENDPOINT),
        ("s3://b?endpoint=https://host/?sig=SECRET", ENDPOINT),
        ("s3://b?endpoint=https://ho st", ENDPOINT),
        (
            "s3://b?endpoint=http://host",
            "an endpoint with http:// needs allow_http=true, because it is not encrypted: s3://b",
        ),
        (
            "s3://b?timeout=1s",
            "there is no option timeout, but request_timeout, connect_timeout and retry_timeout: s3://b",
        ),
        ("s3://b?allow_http=perhaps", "allow_http is true or false: s3://b"),
        ("s3://b?requests=many", "requests is a number: s3://b"),
        ("s3://b?retry_timeout=1s", "retry_timeout is a number: s3://b"),
        ("s3://b?requests=0", "requests is at least 1, not 0: s3://b"),
        ("s3://b?retry_timeout=nan", "retry_timeout is a positive number of seconds, not nan: s3://b"),
    ],
)
def test_bad_urls(url: str, line: str) -> None:
    with pytest.raises(ValueError, match=re.escape(line)) as caught:
        parse(url)
    assert str(caught.value) == line
    assert "SECRET" not in str(caught.value)


def test_what_is_no_text() -> None:
    with pytest.raises(TypeError, match="the URL of a store is a str, not bytes"):
        parse(b"s3://bucket")
    with pytest.raises(TypeError, match="the option 'region' of an object store is a str, not int"):
        parse("s3://bucket", region=1)


@pytest.mark.parametrize(
    ("limits", "kind", "message"),
    [
        ({"requests": 0}, ValueError, "requests is at least 1, not 0"),
        ({"retries": -1}, ValueError, "retries is at least 0, not -1"),
        ({"requests": 1.0}, TypeError, "requests is an int, not float"),
        ({"retries": True}, TypeError, "retries is an int, not bool"),
        ({"request_timeout": 0}, ValueError, "request_timeout is a positive number of seconds, not 0"),
        ({"connect_timeout": 0.0}, ValueError, "connect_timeout is a positive number of seconds, not 0.0"),
        ({"retry_timeout": -1}, ValueError, "retry_timeout is a positive number of seconds, not -1"),
        ({"request_timeout": math.nan}, ValueError, "request_timeout is a positive number of seconds, not nan"),
        ({"request_timeout": "30s"}, TypeError, "request_timeout is a number of seconds, not str"),
        ({"request_timeout": True}, TypeError, "request_timeout is a number of seconds, not bool"),
    ],
)
def test_bad_limits(limits: dict[str, Any], kind: type[Exception], message: str) -> None:
    good: dict[str, Any] = {
        "requests": 1,
        "request_timeout": math.inf,
        "connect_timeout": 1,
        "retries": 0,
        "retry_timeout": 0,
    }
    assert ClientLimits(**good)
    with pytest.raises(kind) as caught:
        ClientLimits(**good | limits)
    assert str(caught.value) == message


def test_options_without_a_question_mark_are_not_shown() -> None:
    assert "hunter2" not in parse("s3://b/p&secret_access_key=hunter2").name


def test_secrets_are_taken_out() -> None:
    place = parse(
        "az://c?sas_key=sv=2021-08-06%26sig=SECRET%252B",
        account_name="account",
        account_key="secret",
        token="a longer secret",
        short="short",
    )
    text = "account a longer secret, secret, SECRET+, sv=2021-08-06&sig=SECRET%2B, 2021-08-06, short"
    assert place.without_secrets(text) == "account ***, ***, ***, ***, ***, short"
    assert place.without_secrets("a%20longer%20secret") == "***"

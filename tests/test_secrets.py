"""Secrets are taken out of whatever is shown, and nothing else is."""

from __future__ import annotations

import json
import re
import time
import traceback
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode
from xml.sax.saxutils import escape

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import trio_replica as replica
from trio_replica import MemoryStore, PoisonedError, RetryingStore, cli
from trio_replica._redact import LIMIT, names_secret, redacted
from trio_replica._urls.parse import parse_url
from trio_replica.testing import SimulatedStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from trio.testing import MockClock

# Hidden and shown texts


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        # The password of a URL
        ("postgresql://user:pw@host:5432/db", "postgresql://user:***@host:5432/db"),
        ("postgresql://:pw@/db", "postgresql://:***@/db"),
        ("postgres://user:p%40w@host/db", "postgres://user:***@host/db"),
        ("postgres://user:p@w@host/db", "postgres://user:***@host/db"),
        ("postgres://user:p/w@host/db", "postgres://user:***@host/db"),
        ("postgres://user:p:w?x#y@host/db", "postgres://user:***@host/db"),
        ("postgres://us/er:pw@host/db", "postgres://us/er:***@host/db"),
        ("s3://b/p?endpoint=http://key:secret@host:80", "s3://b/p?endpoint=http:***@host:80"),
        ("s3://b/p?endpoint=http%3A%2F%2Fkey%3Asec%2Fret%40host", "s3://b/p?endpoint=http%3A%2F%2Fkey%3A***%40host"),
        ("postgresql%3a//u%3apw%40h", "postgresql%3a//u%3a***%40h"),
        ("x?y=a%253A%252F%252Fu%253Apw%2540h", "x?y=a%253A%252F%252Fu%253A***%2540h"),
        ("can't open 'a://u:pw@h' nor (b://u:pw@h)", "can't open 'a://u:***@h' nor (b://u:***@h)"),
        ("a://me:p w@host", "a://me:***@host"),
        ("a://h:80 a://me:p w@host", "a://h:80 a://me:***@host"),
        ("a://h:1 or\na://me:123456 w@host", "a://h:1 or\na://me:***@host"),
        ("me:pw@host", "me:***@host"),
        ("postgresql:me:p@w@host", "postgresql:***@host"),
        ("('s3:/me:pw@host')", "('s3:***@host')"),
        # Options of a URL
        ("s3://b?secret_access_key=a/b+c==&region=x", "s3://b?secret_access_key=***&region=x"),
        ("s3://b?region=x&SecretAccessKey=a'b", "s3://b?region=x&SecretAccessKey=***"),
        ("az://c?sas_token=sv%3D1%26sig%3Dx&x=y", "az://c?sas_token=***&x=y"),
        ("https://h/o?sv=1&sig=abc%3D&se=2", "https://h/o?sv=1&sig=***&se=2"),
        (
            "?X-Amz-Credential=A%2F&X-Amz-Expires=5&X-Amz-Signature=f",
            "?X-Amz-Credential=***&X-Amz-Expires=5&X-Amz-Signature=***",
        ),
        ("?key=AIza", "?key=***"),
        ("?pass%77ord=pw&x=1", "?pass%77ord=***&x=1"),
        ("?p%2561ssword=pw&x=1", "?p%2561ssword=***&x=1"),
        ("postgresql:///db?sslpassword=pw&sslkey=/k", "postgresql:///db?sslpassword=***&sslkey=/k"),
        ("postgresql:///db?user=me&password=pw", "postgresql:///db?user=me&password=***"),
        # The same, as a part of a URL
        ("s3%3A%2F%2Fb%3Fsig%3Dabc%2526%26region%3Dx&y=z", "s3%3A%2F%2Fb%3Fsig%3D***%26region%3Dx&y=z"),
        ("a%253Fsig%253Dabc%2526x%253Dy", "a%253Fsig%253D***%2526x%253Dy"),
        # Parameters of a conninfo
        ("host=h password=pw user=u", "host=h password=*** user=u"),
        ("host=h password = pw user=u", "host=h password = *** user=u"),
        ("password=p&w user=u", "password=*** user=u"),
        (r"password=p\ w user=u", "password=*** user=u"),
        (r"password='my p\'w' user=u", "password='***' user=u"),
        (r"'password=\'my p\\\'w\' user=u'", r"'password=\'***\' user=u'"),
        ("password='my pw", "password='***"),
        ("AccountName=me;AccountKey=pw==", "AccountName=me;AccountKey=***"),
        ("PGPASSWORD:pw", "PGPASSWORD:***"),
        # Headers
        ("Authorization: AWS4 Credential=AK, Signature=x\nHost: h", "Authorization: ***\nHost: h"),
        ("x-amz-security-token: abc\nHost: h", "x-amz-security-token: ***\nHost: h"),
        ("Set-Cookie: a=b; c\r\nHost: h", "Set-Cookie: ***\r\nHost: h"),
        # Fields
        ('{"password": "a b", "x": 1}', '{"password": "***", "x": 1}'),
        ("{'password': \"it's\", 'x': 1}", "{'password': \"***\", 'x': 1}"),
        ("{'password': ['a b', \"c]d\"], 'x': 1}", "{'password': *** 'x': 1}"),
        ('Config { secret_key: "a b", port: 5 }', 'Config { secret_key: "***", port: 5 }'),
        ('Config { secret: Some("a) b"), port: 5 }', "Config { secret: *** port: 5 }"),
        ("f(password='a b', host='h')", "f(password='***', host='h')"),
        ('token = "a b"  # TOML', 'token = "***"  # TOML'),
        ("headers[token]=abc", "headers[token]=***"),
        ("%22password%22%3A%22pw%22", "%22password%22%3A***"),
        ("<AWSAccessKeyId>AK</AWSAccessKeyId><Code>X</Code>", "<AWSAccessKeyId>***</AWSAccessKeyId><Code>X</Code>"),
        ('<a:Token x="y">pw</a:Token>', '<a:Token x="y">***</a:Token>'),
        # Where one begins in another
        ("token=' password='my pw'", "token='***'***'"),
        ("password=token=pw", "password=***"),
    ],
)
def test_a_secret_is_hidden(text: str, shown: str) -> None:
    assert redacted(text) == shown
    assert redacted(f"bad: {text}") == f"bad: {shown}"
    assert redacted(shown) == shown


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sqlite:some/path.db",
        "dir:/a:b@c?d=e",
        "a://h:80/b c@d",
        "a://[::1]:80/b c@d",
        "a://h:5432: refused for c@d",
        "a://h: refused for c@d",
        "'dir:a@b' and (sqlite:c@d), mailto:me@host",
        "s3://bucket/prefix?endpoint=http://127.0.0.1:9000&region=x&allow_http=true&skip_signature=true",
        "postgresql://user@host:5432/db?sslmode=require&sslkey=/k&require_auth=scram-sha-256",
        "postgresql://user:@host",
        "host=h passfile=/p user=u",
        'InvalidPassword: password authentication failed for user "me"',
        "check the user, and the password: or ~/.pgpass",
        "give them as options or in the environment, or skip_signature=true for none",
        "a URL has no password's @, / and : in it",
        "<Code>NoSuchKey</Code><Key>b:12</Key>",
        "password='' token= x?sig=&y",
        "trio-replica.toml:5: sync.far.password is a str",
        "password=*** x://u:***@h",
        "as 'x?sig=***' and ('y?sig=***'): password=***.",
        "100%3D %zz % ://",
    ],
)
def test_all_else_is_shown(text: str) -> None:
    # An empty value may be followed by a word on its own.
    assert redacted(text) == text.replace("token= x?sig=&y", "token= ***")


@pytest.mark.parametrize(
    "name",
    [
        "password",
        "PASSWORD",
        "sslpassword",
        "PGPASSWORD",
        "passwd",
        "passphrase",
        "pass",
        "db_pass",
        "pwd",
        "pw",
        "pass_word",
        "secret",
        "secret_access_key",
        "SecretAccessKey",
        "aws_access_key_id",
        "AWSAccessKeyId",
        "token",
        "session_token",
        "sas",
        "sas_key",
        "sas_token",
        "sig",
        "Signature",
        "X-Amz-Signature",
        "X-Amz-Credential",
        "X-Goog-Credential",
        "account_key",
        "AccountKey",
        "api_key",
        "apikey",
        "x-api-key",
        "private_key",
        "sse_customer_key_base64",
        "scram_client_key",
        "jwt",
        "auth",
        "Authorization",
        "cookie",
        "credentials",
        "pass%77ord",
        "async.far.secret",
        "client_secret",
        "kms-key",
    ],
)
def test_names_of_secrets(name: str) -> None:
    assert names_secret(name)


@pytest.mark.parametrize(
    "name",
    [
        "user",
        "host",
        "key",
        "keys",
        "sslkey",
        "passfile",
        "bypass",
        "compass",
        "design",
        "sign",
        "region",
        "endpoint",
        "bucket",
        "account_name",
        "requests",
        "retry",
        "keepalives_idle",
        "skip_signature",
        "aws_skip_signature",
        "require_auth",
        "author",
        "pathname",
        "monkey",
        "%",
        "5",
    ],
)
def test_other_names(name: str) -> None:
    assert not names_secret(name)


# Any secret in any place

ANY = st.text(st.characters(codec="utf-8"), max_size=20)
SECRET = st.text(st.characters(codec="utf-8", exclude_characters="*"), min_size=4, max_size=20).map(
    lambda text: f"q{text}Q"
)
NAME = st.sampled_from(["password", "secret_access_key", "X-Amz-Signature", "sslpassword", "sas_key", "AccountKey"])
SPACELESS = st.from_regex(r"[^\s*\\'\"(\[{]{6,20}", fullmatch=True)
"""Without spaces, and what begins a quotation or keeps a space."""


def _quoted(secret: str) -> str:
    escaped = secret.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


@given(user=st.sampled_from(["", "me", "m%40e"]), secret=SPACELESS, before=ANY, after=ANY)
@example(user="me", secret="a@b://c:d", before="x", after="")
@example(user="me", secret="://a:b@c:d", before="x://y: z", after="a@b")
def test_a_password_of_a_url_never_shows(user: str, secret: str, before: str, after: str) -> None:
    for password in (secret, quote(secret), quote(secret, safe="")):
        url = f"postgresql://{user}:{password}@host/db"
        for text in (f"{before} {url} {after}", f"{before} '{url}': {after}", f"{before} ?url={quote(url, safe='')}"):
            assert password not in redacted(text)


@given(name=NAME, secret=SECRET, before=ANY, after=ANY)
def test_an_option_of_a_url_never_shows(name: str, secret: str, before: str, after: str) -> None:
    query = urlencode({"region": "x", name: secret, "last": "y"})
    plain = quote(secret)
    for text in (f"{before} s3://bucket?{query} {after}", f"{before} s3://bucket?{name}={plain}&x=y {after}"):
        shown = redacted(text)
        assert plain not in shown
        assert urlencode({"": secret}) not in shown
    for level in (1, 2, 3):
        encoded = f"s3://bucket?{name}={plain}&x=y"
        for _ in range(level):
            encoded, plain = quote(encoded, safe=""), quote(plain, safe="")
        assert plain not in redacted(f"{before} https://h/?u={encoded} {after}")
        plain = quote(secret)


@given(name=NAME, secret=SECRET, before=ANY, after=ANY)
def test_a_quoted_parameter_never_shows(name: str, secret: str, before: str, after: str) -> None:
    quoted = _quoted(secret)
    conninfo = f"host=h {name}={quoted} user=u"
    for text, hidden in (
        (f"{before} {conninfo} {after}", quoted[1:-1]),
        (f"{before} {conninfo!r} {after}", repr(quoted)[1:-1]),
        (f"{before} {json.dumps({name: secret})} {after}", json.dumps(secret)[1:-1]),
        (f"{before} { {name: secret}!r} {after}", repr(secret)[1:-1]),
        (f"{before} { {name: [secret]}!r} {after}", repr(secret)[1:-1]),
        (f"{before} <{name}>{escape(secret)}</{name}> {after}", f">{escape(secret)}<"),
    ):
        assert hidden not in redacted(text)


@given(
    st.lists(st.sampled_from([*"aA=:/@&?'\"\\([{)]}<> \n*", "%25", "%3D", "%26", "%3A", "%2F", "password", "sig"])).map(
        "".join
    )
)
@example("a://b:c@d e")
@example("sig='token=*'%25 ?")  # once is not enough for these
@example("token=atoken=' %3D '>[<token>a://?(")
def test_to_redact_again_changes_nothing(text: str) -> None:
    shown = redacted(text)
    assert redacted(shown) == shown


@given(st.text(st.characters(exclude_characters="=:%<")))
def test_a_text_without_any_form_of_a_secret_is_shown_as_it_is(text: str) -> None:
    assert redacted(text) == text


@pytest.mark.parametrize(
    "piece",
    [
        "://a:",
        "a",
        "password",
        "password=",
        "password='",
        "password=(",
        "%25",
        "a=",
        "<a",
        "<a>",
        "%253A%252F",
        "password=Some(",
        "\\",
        "a\\",
        "password\\'",
        "a]",
        "token=x&",
        "token:abc,",
        "-",
    ],
)
def test_long_texts_take_time_in_proportion(piece: str) -> None:
    text = piece * (50_000 // len(piece)) + " ') x@y"
    began = time.process_time()
    shown = redacted(text)
    assert time.process_time() - began < 10  # one character more a step would be a billion steps
    assert redacted(shown) == shown


def test_a_name_that_is_encoded_many_times_takes_time_in_proportion() -> None:
    began = time.process_time()
    assert names_secret("p%" + "25" * 100_000 + "61ssword")
    assert time.process_time() - began < 5


def test_what_is_too_much_to_be_looked_at_is_hidden() -> None:
    assert redacted("password=(" * 20_000 + ") shown") == "password=***"
    assert LIMIT < 20_000 * 20_000
    assert redacted("password=(" * 20 + ") shown") == "password=*** shown"


# All that is shown, searched

PASSWORD = "hunter2 is no good, p@ss/w\u00f6rd:1?&="
"""Marked: whatever form it has, "hunter2" is in it."""

HUNTED = re.compile("hunter2", re.IGNORECASE)
ENCODED = quote(PASSWORD, safe="")
NOWHERE = "127.0.0.1:1"  # tcpmux, which nobody runs


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception and all that it refers to."""
    remaining = [error]
    seen: list[BaseException] = []
    while remaining:
        one = remaining.pop()
        if one is None or one in seen:
            continue
        seen.append(one)
        yield one
        remaining += [
            one.__cause__,
            one.__context__,
            *getattr(one, "exceptions", ()),
            *getattr(one, "failures", {}).values(),
        ]


def all_that_is_shown(error: BaseException) -> str:
    texts = ["".join(traceback.format_exception(error))]
    for one in chain(error):
        texts += [str(one), repr(one), repr(one.args), *getattr(one, "__notes__", ())]
    return "\n".join(texts)


BAD_URLS = [
    f"postgresql://me:{ENCODED}@{NOWHERE}/db?retry=maybe",
    f"postgresql:me:{ENCODED}@{NOWHERE}/db",
    f"postgresql://me:{PASSWORD}@{NOWHERE}/db",
    f"postgresq://me:{ENCODED}@{NOWHERE}/db",
    f"s3://me:{ENCODED}@bucket",
    f"s3://bucket?secret_access_key={PASSWORD}",
    f"s3://bucket?secret_access_key={ENCODED}&retry_seconds=x",
    f"s3://bucket?secret_access_key={ENCODED}&no_such_option=1",
    f"s3://bucket?secret_access_key={ENCODED}&endpoint=http://{NOWHERE}",
    f"s3://bucket?endpoint=http://me:{ENCODED}@{NOWHERE}&allow_http=true",
    f"az://container?account_name=x&account_key={ENCODED}",
    f"https://host/bucket?X-Amz-Signature={ENCODED}",
    f"me:{ENCODED}@host",
]
"""URLs that are refused."""

LOST_URLS = [
    f"postgresql://me:{ENCODED}@{NOWHERE}/db?sslmode=disable",
    f"postgresql:///db?host=127.0.0.1&port=1&password={ENCODED}",
    (
        f"s3://bucket?endpoint=http://{NOWHERE}&allow_http=true&region=x&retries=0&access_key_id=hunter2"
        f"&secret_access_key={ENCODED}&session_token={ENCODED}"
    ),
]
"""URLs of servers that do not answer."""


@pytest.mark.parametrize("url", BAD_URLS)
def test_no_error_at_the_door_shows_a_secret(url: str, tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    toml = json.dumps(url)
    texts = [f"[sync]\na = {toml}\n", f"[sync]\na = {{ url = {toml} }}\n", f"[sync]\n{toml} = 5\n"]
    for text in texts:
        file.write_text(text)
        with pytest.raises(replica.ConfigError) as refused:
            replica.open_config(file)
        assert not HUNTED.search(all_that_is_shown(refused.value))
    bad: Any
    for bad in (url, {url: "memory:", "b": url}, {"a": "memory:", "b": url}, [url, url]):
        with pytest.raises((TypeError, ValueError)) as caught:
            replica.open_urls(["memory:"], bad)
        assert not HUNTED.search(all_that_is_shown(caught.value))
        with pytest.raises((TypeError, ValueError)) as caught:
            replica.open([MemoryStore()], bad)
        assert not HUNTED.search(all_that_is_shown(caught.value))


@pytest.mark.parametrize("url", LOST_URLS)
async def test_no_failure_of_a_store_shows_a_secret(
    url: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level("DEBUG")
    for opening in (replica.open_store(url), replica.open_urls({url: url}), replica.open_urls(["memory:"], {"x": url})):
        assert not HUNTED.search(repr(opening))
        with pytest.raises(Exception) as caught:
            await opening.__aenter__()
        assert not HUNTED.search(all_that_is_shown(caught.value))
    assert not HUNTED.search(repr(parse_url(url)))
    assert not HUNTED.search(caplog.text)
    assert not HUNTED.search("".join(capfd.readouterr()))


@pytest.mark.parametrize("url", [*BAD_URLS, *LOST_URLS])
def test_no_command_shows_a_secret(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").write_bytes(b"data")
    (tmp_path / "x.toml").write_text(f"[sync]\n{json.dumps(url)} = {json.dumps(url)}\n")
    for command in (["put", "data"], ["get", "00"], ["ls"], ["status"], ["check"], ["reconcile"]):
        for stores in (["--sync", url], ["--sync", "memory:", "--async", url], ["--config", "x.toml"]):
            # Nothing is got from, or listed in, a memory that is new.
            if cli.main([*stores, *command]) == 0:
                assert command[0] == "ls"
                assert stores[:2] == ["--sync", "memory:"]
            assert not HUNTED.search("".join(capfd.readouterr()))
    assert cli.main([url]) != 0
    assert not HUNTED.search("".join(capfd.readouterr()))


async def test_no_part_of_a_replica_shows_a_secret(autojump_clock: MockClock, caplog: pytest.LogCaptureFixture) -> None:
    class Telling(SimulatedStore):
        def __repr__(self) -> str:
            return f"<Telling 'postgresql://me:{ENCODED}@host/db?password={ENCODED}'>"

    url = f"postgresql://me:{ENCODED}@host/db?sslpassword={ENCODED}"
    near, behind = Telling(), Telling()
    far = RetryingStore(behind, attempts=2)
    for telling in (near, behind):
        telling.fail(OSError(f"can't reach {url!r}: password='{PASSWORD}'"), "put", after=1)
    shown: list[object] = []
    with pytest.raises(PoisonedError) as poisoned:
        async with replica.open({url: near, "memory": MemoryStore()}, {f"{url}&x=y": far}) as store:
            shown.append(store)
            await store.put(b"1")
            await store.flush()
            with pytest.raises(replica.StoreError) as failed:
                await store.put(b"2")
            near.recover()
            await store.put(b"3")
            await store.wait_poisoned()
    error, statistics = poisoned.value, store.statistics()
    shown += [store, list(statistics.sync_stores), list(statistics.async_stores), list(store.unreplicated)]
    shown += [list(error.unreplicated), list(error.failures), error.store, list(failed.value.failures)]
    shown += [str(error), str(failed.value), far, far.statistics()]
    # In a log, the error of the store itself follows with its traceback. The replica does not change this one.
    shown += [record.getMessage() for record in caplog.records]
    assert len(caplog.records) == 3
    for one in shown:
        assert not HUNTED.search(repr(one)), one

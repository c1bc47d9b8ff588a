"""Signed GETs of an S3 bucket, separate from the client's: bounded in bytes and in time, and without redirects."""

from __future__ import annotations

import random
import socket
import ssl
from contextlib import asynccontextmanager
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, final
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import httpcore
import outcome
import trio

from .client import IDLE_SECONDS
from .errors import (
    BAD_CERTIFICATE,
    HUNG_UP,
    NO_CREDENTIALS,
    NO_GOOD_SERVER,
    NO_OBJECT_STORE,
    NO_TLS,
    NOT_IN_TIME,
    NOT_LISTENING,
    UNKNOWN_SERVER,
    explain,
    explain_answer,
)
from .s3_account import NoCredentialsError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence
    from typing import Any

    from ..._calls.attempt import Ended
    from ..._calls.threads import StoreThreads
    from .client import ObjectClient
    from .s3_account import S3Account

ANSWER_BYTES: Final = 8 * 1024 * 1024
"""Bytes of the longest answer. A thousand keys of a kilobyte each, all percent-encoded, take half of them."""

ERROR_BYTES: Final = 64 * 1024
"""Bytes to read of an error answer."""

FIRST_PAUSE: Final = 0.1
"""Seconds before the first repetition, as in the client. Each further pause is twice as long."""

_PASSING: Final = frozenset({408, 429, 500, 502, 503, 504})
"""The statuses of answers after which a request is repeated."""


_NO_PROXY: Final = (
    "the environment names a proxy that is not an http:// or https:// URL, which a listing needs: correct http_proxy, "
    "https_proxy or all_proxy, or name the server in no_proxy"
)


class _AnswerError(Exception):
    """The server answers with an error."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(status, text)
        self.status = status
        self.text = text


class _TooLongError(Exception):
    """The server sends more than it may."""


_FAILURES: Final = (
    trio.TooSlowError,
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.ProxyError,
    httpcore.TimeoutException,
    httpcore.UnsupportedProtocol,
    _AnswerError,
    _TooLongError,
)


_MEANINGS: Final[Sequence[tuple[type[Exception] | tuple[type[Exception], ...], str]]] = (
    (_TooLongError, f"it sent more than {ANSWER_BYTES} bytes for a page of its listing: {NO_GOOD_SERVER}"),
    (NoCredentialsError, NO_CREDENTIALS),
    ((trio.TooSlowError, httpcore.TimeoutException), NOT_IN_TIME),
    (httpcore.NetworkError, HUNG_UP),
    (httpcore.RemoteProtocolError, NO_OBJECT_STORE),
    (httpcore.UnsupportedProtocol, "its endpoint is not an http:// or https:// URL: correct it"),
)

_CAUSES: Final[Sequence[tuple[type[Exception] | tuple[type[Exception], ...], str]]] = (
    (socket.gaierror, UNKNOWN_SERVER),
    (ssl.SSLCertVerificationError, BAD_CERTIFICATE),
    ((ssl.SSLEOFError, ConnectionResetError), HUNG_UP),
    (ssl.SSLError, NO_TLS),
)
"""The reasons for a failed connection, except that nothing listens."""


@final
class S3Requests:
    """The requests to one bucket: see `open_s3_requests`, which makes it."""

    def __init__(
        self,
        client: ObjectClient,
        account: S3Account,
        threads: StoreThreads[Callable[[], Any]],
        pool: httpcore.AsyncConnectionPool,
    ) -> None:
        self._client = client
        self._limits = client.place.limits
        self._account = account
        self._threads = threads
        self._pool = pool

    async def get(self, query: str) -> bytes:
        """Return the server's answer to a GET of the bucket with this query.

        A request that fails is repeated as the client repeats its own. Being cancelled closes the connection.

        Raises:
          ReplicaError: if the server answers with an error, too late, or with more than `ANSWER_BYTES`.

        """
        url = f"{self._account.url}?{query}"
        until = trio.current_time() + min(self._limits.retry_timeout, self._limits.request_timeout)
        pause, attempts = FIRST_PAUSE, 0
        while True:
            attempts += 1
            ended = await self._attempt(url)
            if isinstance(ended, bytes):
                return ended
            if attempts > self._limits.retries or trio.current_time() >= until or not _may_pass(ended):
                raise self._client.error(_explain(ended, self._client.place.without_secrets))
            await trio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311  (no secret)
            pause *= 2

    async def _attempt(self, url: str) -> bytes | BaseException:
        """Return the answer, or the error, which must not reach the caller because it may have secrets."""
        try:
            with trio.fail_after(self._limits.request_timeout):
                # This runs in a thread, because the machine may have to be asked for its credentials.
                sign = partial(outcome.capture, self._account.sign, url)
                signed: Ended[dict[str, str]] = await self._threads.run(sign, abandon_on_cancel=True)
                return signed.error if isinstance(signed, outcome.Error) else await self._answer(url, signed.value)
        except _FAILURES as error:
            return error  # noqa: ASYNC910  (there was one before)

    async def _answer(self, url: str, headers: dict[str, str]) -> bytes:
        timeouts = {"timeout": {"connect": self._limits.connect_timeout}}
        body, limit = bytearray(), ANSWER_BYTES
        with trio.CancelScope() as scope:
            async with self._pool.stream("GET", url, headers=list(headers.items()), extensions=timeouts) as answer:
                status = answer.status
                if status != HTTPStatus.OK:
                    limit = ERROR_BYTES
                async for part in answer.aiter_stream():
                    body += part
                    if len(body) > limit:
                        scope.cancel()  # leaving the loop would leave the generators below it open
        if status != HTTPStatus.OK:
            raise _AnswerError(status, body[:limit].decode("utf-8", "replace"))
        if len(body) > limit:
            raise _TooLongError
        return bytes(body)


@asynccontextmanager
async def open_s3_requests(
    client: ObjectClient, account: S3Account, threads: StoreThreads[Callable[[], Any]]
) -> AsyncGenerator[S3Requests, None]:
    """Keep connections to a bucket for the block. Its requests are signed in these threads.

    Raises:
      ReplicaError: if the environment names a proxy that these requests can't use.

    """
    proxy = outcome.capture(_proxy, account.url)
    if isinstance(proxy, outcome.Error):
        raise client.error(_NO_PROXY)  # not from the error, whose text may have the password of the proxy
    context: ssl.SSLContext | None = None
    if account.url.startswith("https:"):
        # In a thread, because reading all certificates of the machine takes 20 ms.
        context = await threads.run(ssl.create_default_context, abandon_on_cancel=True)
    async with httpcore.AsyncConnectionPool(
        ssl_context=context,
        proxy=proxy.value,
        max_connections=client.place.limits.requests,
        keepalive_expiry=IDLE_SECONDS,
    ) as pool:
        yield S3Requests(client, account, threads, pool)


def _proxy(url: str) -> httpcore.Proxy | None:
    """Return the proxy that the environment names for a URL, as the client uses it.

    Raises:
      ValueError: if it is not the URL of an HTTP proxy.

    """
    parts, proxies = urlsplit(url), getproxies()
    found = proxies.get(parts.scheme) or proxies.get("all")
    if not found or proxy_bypass(parts.netloc, proxies):
        return None
    proxy = urlsplit(found if "://" in found else f"http://{found}")
    if proxy.scheme not in {"http", "https"}:  # httpcore speaks SOCKS only with a package that may be missing
        raise ValueError(f"{proxy.scheme} is no scheme of an HTTP proxy")
    auth = (unquote(proxy.username), unquote(proxy.password or "")) if proxy.username else None
    return httpcore.Proxy(f"{proxy.scheme}://{proxy.netloc.rpartition('@')[2]}", auth)


def _may_pass(error: BaseException) -> bool:
    """Return whether a repetition may get an answer."""
    if isinstance(error, _AnswerError):
        return error.status in _PASSING
    return isinstance(error, httpcore.NetworkError | httpcore.RemoteProtocolError | httpcore.TimeoutException)


def _explain(error: BaseException, without_secrets: Callable[[str], str]) -> str:
    """Return the meaning of an error and its remedy."""
    if isinstance(error, _AnswerError):
        return explain_answer(str(error.status), error.text, without_secrets)
    if isinstance(error, httpcore.ConnectError):
        return _explain_connection(error)
    if isinstance(error, httpcore.RemoteProtocolError) and "without" in str(error):  # a response, or its end
        return HUNG_UP
    return next((line for kinds, line in _MEANINGS if isinstance(error, kinds)), None) or explain(
        error, without_secrets
    )


def _explain_connection(error: BaseException) -> str:
    """Return the reason why the connection failed."""
    cause: BaseException | None = error
    while cause is not None:
        for kinds, line in _CAUSES:
            if isinstance(cause, kinds):
                return line
        cause = cause.__cause__ or cause.__context__
    return NOT_LISTENING

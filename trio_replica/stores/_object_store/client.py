"""The client of an object store: creating it, and turning its errors into one line."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import TYPE_CHECKING, Final, TypeAlias, final

import obstore
import outcome
from obstore.store import AzureStore, GCSStore, S3Store

from ..._errors import MissingCredentialsError, ReplicaError
from .errors import NO_CREDENTIALS, NO_GOOD_SERVER, explain
from .url import MAX_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable

    from obstore.store import ClientConfig, RetryConfig

    from .url import ObjectPlace

Client: TypeAlias = AzureStore | GCSStore | S3Store

IDLE_SECONDS: Final = 10.0
"""Seconds after which an idle connection is closed. Otherwise 16 or more stay open, even after the store is closed."""

_imported_in: Final = os.getpid()


@final
class ObjectClient:
    """The client of one place, and the errors of all requests to that place.

    Raises:
      RuntimeError: in a process that was forked from one that has used object stores.
      ValueError: if the client does not take an option.
      MissingCredentialsError: if there are no credentials.

    """

    def __init__(self, place: ObjectPlace, *, idle_seconds: float = IDLE_SECONDS) -> None:
        if os.getpid() != _imported_in:  # the client would wait forever for its own threads, which are gone
            raise RuntimeError("object stores don't work in a forked process: start the process by spawn")
        self.place = place
        made = outcome.capture(_make, place, idle_seconds)
        if isinstance(made, outcome.Error):
            problem = explain(made.error, place.without_secrets)
            kind = MissingCredentialsError if problem == NO_CREDENTIALS else ValueError
            raise kind(self.line(problem))  # the problem is with an option, whatever the client raised
        self.client: Client = made.value

    @property
    def name(self) -> str:
        """The name of the store in messages."""
        return self.place.name

    def failure(self, error: BaseException) -> ReplicaError:
        """Return the error to raise for `error`, which is `error` itself if it belongs to this library.

        An error of the client is replaced and not kept as the cause, because its text may have secrets.
        """
        if isinstance(error, ReplicaError):
            return error
        return self.error(explain(error, self.place.without_secrets))

    def error(self, text: str) -> ReplicaError:
        """Return an error of one line that names the store."""
        return ReplicaError(self.line(text))

    def line(self, text: str) -> str:
        """Return a line that names the store."""
        return f"{self.name}: {self.place.without_secrets(text)}"

    def read(self, name: str, check_size: Callable[[int], None]) -> bytes:
        """Return the content of an object. It takes no more memory than the size that was checked.

        Args:
          name: the object's name under the prefix.
          check_size: a function that is called with the size that the server announces, before the content is read. It
            raises if the size is too large.

        Raises:
          ReplicaError: if the server sends more than it announced.
          Exception: any error of `check_size` or the client.

        """
        found = obstore.get(self.client, name)
        size = found.range[1]  # `meta` also has it, but takes longer
        check_size(size)
        # The first chunk is the whole content: the stream collects until it has more than was announced, or ends.
        # Unlike `bytes()`, it then stops, even if the server goes on sending.
        data = bytes(next(found.stream(min_chunk_size=size + 1), b""))
        if len(data) > size:
            raise self.error(f"it sent more than the {size} bytes that it announced for {name}: {NO_GOOD_SERVER}")
        return data


def _make(place: ObjectPlace, idle_seconds: float) -> Client:
    limits, config = place.limits, dict(place.config)
    client_options: ClientConfig = {
        "allow_http": place.allow_http,
        "timeout": _seconds(limits.request_timeout),
        "connect_timeout": _seconds(limits.connect_timeout),
        "pool_idle_timeout": _seconds(idle_seconds),
    }
    retry_config: RetryConfig = {
        "max_retries": limits.retries,
        "retry_timeout": _seconds(min(limits.retry_timeout, limits.request_timeout)),  # a hung request is not repeated
    }
    kind: Callable[..., Client] = {"s3": S3Store, "gs": GCSStore, "az": AzureStore}[place.scheme]
    if place.scheme == "s3":
        config.setdefault("disable_bulk_delete", "true")  # some servers have no DeleteObjects
    return kind(
        place.bucket,
        prefix=place.prefix or None,
        client_options=client_options,
        retry_config=retry_config,
        **config,
    )


def _seconds(seconds: float) -> timedelta:
    return timedelta(seconds=min(seconds, MAX_SECONDS))

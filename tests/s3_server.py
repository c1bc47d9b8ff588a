"""A running server that speaks S3: its address, its keys, and a client for tests."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import urlencode

import boto3

ACCESS_KEY: Final = "AKIDTEST"
SECRET_KEY: Final = "SECRETTEST"


class S3Server:
    """A server that is running, with a user."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self._clients: dict[frozenset[tuple[str, Any]], Any] = {}

    def options(self, **options: str) -> dict[str, str]:
        """Return the options of a store that is there."""
        here = {
            "endpoint": self.endpoint,
            "allow_http": "true",
            "region": "us-east-1",
            "access_key_id": ACCESS_KEY,
            "secret_access_key": SECRET_KEY,
        }
        return here | options

    def url(self, place: str, **options: str) -> str:
        """Return the URL of the store in `place`, a bucket and a prefix."""
        return f"s3://{place}?{urlencode(self.options(**options))}"

    def client(self, **options: Any) -> Any:
        """Return another client than ours. There is one for the same options, because to make one takes 50 ms."""
        key = frozenset(options.items())
        if key not in self._clients:
            keys = {"aws_access_key_id": ACCESS_KEY, "aws_secret_access_key": SECRET_KEY}
            made = boto3.client("s3", endpoint_url=self.endpoint, region_name="us-east-1", **keys, **options)
            self._clients[key] = made
        return self._clients[key]

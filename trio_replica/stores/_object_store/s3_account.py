"""The address of an S3 bucket and the signing of requests, from the client's own options and environment variables.

The client signs only its own requests. botocore signs these, and finds the credentials of a machine.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final, final
from urllib.parse import urlsplit

import botocore.session
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from .errors import NO_CREDENTIALS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .url import ObjectPlace

DEFAULT_REGION: Final = "us-east-1"
"""The region if no region is given, as for the client."""

_MACHINE: Final = ("assume-role-with-web-identity", "container-role", "iam-role")
"""The sources that the client also uses if no credentials are given, by their names in botocore."""

_HEADERS: Final = {"User-Agent": "trio-replica"}

_ALIASES: Final = {"endpoint_url": "endpoint", "token": "session_token"}

_TRUE: Final = frozenset({"1", "true", "on", "yes", "y"})


class NoCredentialsError(Exception):
    """No credentials were given, and the machine has no credentials either."""


@final
class S3Account:
    """One bucket, and the credentials for it."""

    def __init__(self, place: ObjectPlace, environment: Mapping[str, str] = os.environ) -> None:
        given = _settings(place, environment)
        endpoint = given.get("endpoint_url_s3") or given.get("endpoint")
        self._region = given.get("region") or given.get("default_region") or DEFAULT_REGION
        self._skips_signature = given.get("skip_signature", "").lower() in _TRUE
        pays = given.get("request_payer", "").lower() in {*_TRUE, "requester"}
        self._headers = _HEADERS | ({"x-amz-request-payer": "requester"} if pays else {})
        self._credentials: Any = None
        if "access_key_id" in given and "secret_access_key" in given:
            token = given.get("session_token")
            self._credentials = Credentials(given["access_key_id"], given["secret_access_key"], token)
        is_virtual = given.get("virtual_hosted_style_request", "").lower() in _TRUE
        self.url = _bucket_url(place.bucket, endpoint, self._region, is_virtual=is_virtual)
        """The URL of the bucket."""

    def __repr__(self) -> str:
        return f"<S3Account {self.url!r}>"

    def sign(self, url: str) -> dict[str, str]:
        """Return the headers of a GET of a URL of the bucket.

        It may have to ask the machine for its credentials, so it blocks.

        Raises:
          NoCredentialsError: if there are no credentials.
          Exception: any error of botocore if the machine does not give them.

        """
        request = AWSRequest(method="GET", url=url, headers={"Host": urlsplit(url).netloc, **self._headers})
        if not self._skips_signature:
            if self._credentials is None:
                self._credentials = _of_machine()
            S3SigV4Auth(self._credentials.get_frozen_credentials(), "s3", self._region).add_auth(request)
        return {name: str(value) for name, value in request.headers.items()}


def _settings(place: ObjectPlace, environment: Mapping[str, str]) -> dict[str, str]:
    """Return all settings by one name each. An option takes precedence over a variable, as for the client."""
    variables = {name.lower(): value for name, value in environment.items() if name.startswith("AWS_")}
    settings = {}
    for name, value in (*variables.items(), *place.config.items()):
        short = name.lower().removeprefix("aws_")
        settings[_ALIASES.get(short, short)] = value
    return settings


def _bucket_url(bucket: str, endpoint: str | None, region: str, *, is_virtual: bool) -> str:
    if endpoint is not None:
        return endpoint.rstrip("/") if is_virtual else f"{endpoint.rstrip('/')}/{bucket}"
    if is_virtual:
        return f"https://{bucket}.s3.{region}.amazonaws.com"
    return f"https://s3.{region}.amazonaws.com/{bucket}"


def _of_machine() -> Any:
    """Return the credentials that the machine gets from its cloud, by way of botocore, which renews them."""
    chain = botocore.session.Session().get_component("credential_provider")
    for provider in chain.providers:
        if provider.METHOD in _MACHINE and (found := provider.load()) is not None:
            return found
    raise NoCredentialsError(NO_CREDENTIALS)

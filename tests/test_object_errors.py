"""The meaning of the client's errors. The texts are those of obstore 0.12.1, shortened."""

from __future__ import annotations

import pytest

from trio_replica.stores._object_store.errors import explain, says_missing

CREDENTIALS = "the server does not accept the credentials: correct them"
NO_CREDENTIALS = "there are no credentials: give them as options or in the environment, or skip_signature=true for none"
FORBIDDEN = "the server forbids this with these credentials: permit them to list, get, put and delete in the bucket"
ELSEWHERE = "the bucket is elsewhere: correct the region or the endpoint"
TOO_LARGE = "the server takes no blob of this size in one request"
NOT_ABLE = "the server can't do this; a store has to put an object only if there is none (If-None-Match)"
TROUBLE = "the server is in trouble: try again later"
UNANSWERED = "Error performing GET http://127.0.0.1:80/b in 5.3ms - HTTP error: error sending request"


def raised(text: str, debug: str = "") -> str:
    """Return what the client's error says."""
    return f'Generic S3 error: {text}\n\nDebug source:\nGeneric {{\n    store: "S3",\n    {debug}\n}}'


def answered(status: str, code: str = "", message: str = "") -> str:
    """Return what the client's error says of an answer."""
    body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>" if code else "Sorry"
    first = (
        f"Error performing PUT http://127.0.0.1:80/b/b%3A00 in 1ms - Server returned non-2xx status code: {status}: "
    )
    return raised(first + body, f'body: Some("{body}")')


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (answered("403 Forbidden", "SignatureDoesNotMatch"), f"{CREDENTIALS} (SignatureDoesNotMatch)"),
        (answered("403 Forbidden", "AuthorizationFailure"), f"{CREDENTIALS} (AuthorizationFailure)"),
        (answered("401 Unauthorized"), f"{CREDENTIALS} (401)"),
        (answered("403 Forbidden", "AccessDenied"), f"{FORBIDDEN} (403 AccessDenied)"),
        (answered("403 Forbidden"), f"{FORBIDDEN} (403)"),
        (
            answered("403 Forbidden", "RequestTimeTooSkewed"),
            "the clocks of this machine and of the server differ: set them (RequestTimeTooSkewed)",
        ),
        (answered("400 Bad Request", "AuthorizationHeaderMalformed"), f"{ELSEWHERE} (AuthorizationHeaderMalformed)"),
        (answered("301 Moved Permanently"), f"{ELSEWHERE} (301)"),
        (answered("400 Bad Request", "EntityTooLarge"), f"{TOO_LARGE} (EntityTooLarge)"),
        (answered("413 Payload Too Large"), f"{TOO_LARGE} (413)"),
        (answered("501 Not Implemented", "NotImplemented"), f"{NOT_ABLE} (NotImplemented)"),
        (answered("501 Not Implemented"), f"{NOT_ABLE} (501)"),
        (answered("500 Internal Server Error", "InternalError"), f"{TROUBLE} (500 InternalError)"),
        (answered("429 Too Many Requests"), f"{TROUBLE} (429)"),
        (
            answered("404 Not Found", "ContainerNotFound"),
            "there is no such bucket: create it, or correct the URL (ContainerNotFound)",
        ),
        (answered("418 I'm a teapot"), "the server answered 418: correct the endpoint, the region or the credentials"),
        (answered("400 Bad Request", "Odd", "a\n&amp;\nb"), "the server answered 400 Odd: a & b"),
        (answered("400 Bad Request", "Odd", "x" * 300), f"the server answered 400 Odd: {'x' * 200}…"),
        (
            raised(UNANSWERED, "error: InvalidCertificate(\n UnknownIssuer,\n)"),
            "the certificate of its server is not trusted: correct the endpoint or the certificate",
        ),
        (
            raised("Error performing PUT http://169.254.169.254/latest/api/token in 5ms - HTTP error: error"),
            NO_CREDENTIALS,
        ),
        (
            raised(
                "Error performing token request: Error performing GET http://metadata/computeMetadata/v1/token "
                "in 7ms - Server returned non-2xx status code: 403 Forbidden: denied"
            ),
            NO_CREDENTIALS,
        ),
        (raised("Missing SecretAccessKey", "source: MissingSecretAccessKey,"), NO_CREDENTIALS),
        (raised("Account must be specified"), "Generic S3 error: Account must be specified"),
        (
            raised(
                "Error performing list request: Error performing GET http://host/?sig=SECRET in 5ms - HTTP error: odd"
            ),
            "Generic S3 error: HTTP error: odd",
        ),
        (raised("Error performing GET REDACTED in 5.3ms - HTTP error: odd"), "Generic S3 error: HTTP error: odd"),
        (raised("Got http://host/?sig=SECRET, " + "x " * 300), f"Generic S3 error: Got, {'x ' * 300}"[:200] + "…"),
        ("", "RuntimeError"),
    ],
)
def test_a_line_says_what_it_means(text: str, line: str) -> None:
    assert explain(RuntimeError(text)) == line
    assert "SECRET" not in line


def test_what_is_missing() -> None:
    assert says_missing(FileNotFoundError(answered("404 Not Found", "NoSuchKey")))
    assert says_missing(FileNotFoundError(answered("404 Not Found", "BlobNotFound")))
    assert not says_missing(FileNotFoundError(answered("404 Not Found", "NoSuchBucket")))
    assert not says_missing(FileNotFoundError(answered("404 Not Found")))
    assert not says_missing(RuntimeError(answered("404 Not Found", "NoSuchKey")))

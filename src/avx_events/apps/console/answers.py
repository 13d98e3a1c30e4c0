"""Answers: JSON, and errors as one sentence each."""

from typing import Any, Final, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from avx_events.core.errors import (
    AvxEventsError,
    DeadLetterNotFoundError,
    PermanentError,
    RetryableError,
    StreamNotFoundError,
)

BodyT = TypeVar("BodyT")

MOST_BYTES: Final = 1_048_576
"""So much may be sent at once: what is larger is not edited in a form."""


class JsonResponse(Response):
    """JSON as msgspec writes it: structs, times and tuples included."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Return the body."""
        return msgspec.json.encode(content)


class RefusedError(Exception):
    """A request that cannot be answered as it is.

    Attributes:
        status: The status of the answer.
        code: What is wrong, for the page.
    """

    def __init__(self, status: int, problem: str, *, code: str = "refused") -> None:
        """Say to the person who asks what is wrong and what to do."""
        super().__init__(problem)
        self.status, self.code = status, code


def error_response(status: int, problem: str, *, code: str = "failed") -> Response:
    """Return an error as JSON: what is wrong, for a person, and its code, for the page."""
    return JsonResponse({"error": problem, "code": code}, status)


async def refused(_: Request, exc: Exception) -> Response:
    """Answer a request that is not acceptable."""
    assert isinstance(exc, RefusedError)  # noqa: S101 - for the type checker
    return error_response(exc.status, str(exc), code=exc.code)


async def failed(_: Request, exc: Exception) -> Response:
    """Answer where something of avx-events refused, or is away."""
    return error_response(_status_of(exc), str(exc), code=type(exc).__name__)


def _status_of(exc: Exception) -> int:
    if isinstance(exc, DeadLetterNotFoundError | StreamNotFoundError):
        return 404
    if isinstance(exc, RetryableError):
        return 503
    return 422 if isinstance(exc, PermanentError) else 400


async def unexpected(_: Request, __: Exception) -> Response:
    """Answer where something raised that is no error of avx-events, as an aggregate's ``apply``; the log has it."""
    return error_response(500, "That failed unexpectedly; the log of the console's process says of what.")


EXCEPTION_HANDLERS = {RefusedError: refused, AvxEventsError: failed, Exception: unexpected}


def missing(what: str, how: str) -> RefusedError:
    """Return the error for a page of what the console was not given, and how to give it."""
    return RefusedError(404, f"This console was given no {what}. {how}", code="not_given")


async def read_json(request: Request, kind: type[BodyT]) -> BodyT:
    """Return the body of a request.

    Raises:
        RefusedError: It is too much, or does not fit.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise RefusedError(415, "send JSON, with its content type")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MOST_BYTES:
            raise RefusedError(413, f"that is more than {MOST_BYTES:,} bytes")
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise RefusedError(422, f"that is not what was expected: {exc}") from exc


def whole_number(request: Request, name: str, *, default: int, most: int) -> int:
    """Return a query parameter that is a number from 0 to ``most``.

    Raises:
        RefusedError: It is none.
    """
    written = request.query_params.get(name)
    if written is None:
        return default
    if not (written.isascii() and written.isdigit() and len(written) <= 18 and int(written) <= most):  # noqa: PLR2004 - past any number here
        raise RefusedError(422, f"{name} must be a whole number from 0 to {most}, not {written[:40]!r}")
    return int(written)


def wanted_text(request: Request, name: str) -> str:
    """Return a query parameter that must be there.

    Raises:
        RefusedError: It is not.
    """
    value = request.query_params.get(name)
    if not value:
        raise RefusedError(422, f"say which: ?{name}=…")
    return value

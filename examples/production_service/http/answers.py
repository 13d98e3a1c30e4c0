"""Answers: JSON bodies, and for each error the status and the one sentence that the client gets."""

import logging
from collections.abc import Mapping
from typing import Final

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, ExceptionHandler, Message, Receive, Scope, Send

from avx_events import (
    AvxEventsError,
    ClosedError,
    ConcurrencyError,
    IdempotencyKeyReusedError,
    NotRunningError,
    RetryableError,
    ValidationError,
)
from examples.production_service.email_addresses import AddressHeldError
from examples.production_service.http.measuring import ERROR_TYPE
from examples.production_service.ids import NotFoundError

log = logging.getLogger(__name__)

# By class, nearest base first; an error that is not here is our own mistake.
_STATUS: Final[Mapping[type, int]] = {
    NotFoundError: 404,
    ConcurrencyError: 409,
    ValidationError: 422,
    IdempotencyKeyReusedError: 422,
    RetryableError: 503,
    ClosedError: 503,  # the service is stopping
    NotRunningError: 503,
}
_LATER: Final = frozenset({409, 503})
_LATER_S: Final = 1
_UNEXPECTED: Final = "something went wrong on our side; the log has it under the X-Correlation-ID of this answer"

_encode: Final = msgspec.json.Encoder().encode


class JsonResponse(Response):
    """A value as JSON, with a line end for those who read it in a terminal."""

    media_type = "application/json"

    def render(self, content: object) -> bytes:
        """Return ``content`` encoded."""
        return _encode(content) + b"\n"


def error_response(status: int, sentence: str, headers: Mapping[str, str] | None = None) -> Response:
    """Return ``{"error": sentence}``."""
    return JsonResponse({"error": sentence}, status, headers)


async def _answer_error(request: Request, exc: Exception) -> Response:
    request.scope[ERROR_TYPE] = type(exc).__name__
    status = next((_STATUS[base] for base in type(exc).__mro__ if base in _STATUS), None)
    if status is None:
        raise exc
    later_s = exc.free_in_s if isinstance(exc, AddressHeldError) else _LATER_S
    return error_response(status, str(exc), {"Retry-After": str(later_s)} if status in _LATER else None)


async def _answer_http_error(request: Request, exc: Exception) -> Response:
    if not isinstance(exc, HTTPException):
        raise exc
    request.scope[ERROR_TYPE] = type(exc).__name__
    headers = dict(exc.headers or {})
    if "Allow" in headers:
        headers["Allow"] = ", ".join(sorted(headers["Allow"].split(", ")))
    sentences = {
        404: f"there is nothing at {request.url.path!r}",
        405: f"{request.url.path!r} does not take {request.method}",
    }
    return error_response(exc.status_code, sentences.get(exc.status_code, exc.detail), headers)


async def _answer_nobody(request: Request, exc: Exception) -> Response:
    request.scope[ERROR_TYPE] = type(exc).__name__
    return error_response(400, "the client went away before its request was complete")


EXCEPTION_HANDLERS: Final[Mapping[type[Exception], ExceptionHandler]] = {
    AvxEventsError: _answer_error,
    HTTPException: _answer_http_error,
    ClientDisconnect: _answer_nobody,
}


class UnexpectedErrors:
    """Middleware: what nobody expected is logged, and answered with a 500 that gives nothing away."""

    def __init__(self, app: ASGIApp) -> None:
        """Stand around ``app``."""
        self._app: Final = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        is_started = False

        async def watched_send(message: Message) -> None:
            nonlocal is_started
            is_started = True
            await send(message)

        try:
            await self._app(scope, receive, watched_send)
        except Exception as exc:
            scope[ERROR_TYPE] = type(exc).__name__
            if is_started:  # too late for another answer: the server cuts the connection
                raise
            log.exception("%s %s failed", scope["method"], scope["path"])
            await error_response(500, _UNEXPECTED)(scope, receive, send)

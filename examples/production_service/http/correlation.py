"""Correlation: what belongs to one request can be told by its ids, in its answer, its log lines and its events.

| header | if it cannot be used | if it is not there |
|---|---|---|
| ``X-Request-ID`` | one is made | one is made |
| ``X-Correlation-ID`` | refused, with 400 | the trace id of ``traceparent``, or else the request id |

The correlation id goes into every event that comes of the request, and so to the last handler and its log lines.
"""

import re
from typing import Final
from uuid import uuid4

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from avx_events import context
from examples.production_service.http.answers import error_response
from examples.production_service.http.measuring import CORRELATION_ID, REQUEST_ID

HEADER: Final = "X-Correlation-ID"
REQUEST_HEADER: Final = "X-Request-ID"
TRACE_HEADER: Final = "traceparent"

_ACCEPTABLE: Final = re.compile(r"[!-~]{1,128}")  # visible ASCII: it ends in logs, events and other services
_TRACE: Final = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")


class Correlation:
    """Middleware: sets the context of what is made while a request is answered."""

    def __init__(self, app: ASGIApp) -> None:
        """Stand around ``app``."""
        self._app: Final = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        headers = Headers(scope=scope)
        given = headers.get(HEADER)
        request_id = _sane(headers.get(REQUEST_HEADER)) or str(uuid4())
        correlation_id = _sane(given) or _trace_id(headers.get(TRACE_HEADER)) or request_id
        scope[REQUEST_ID], scope[CORRELATION_ID] = request_id, correlation_id

        async def send_with_ids(message: Message) -> None:
            if message["type"] == "http.response.start":
                answered = MutableHeaders(scope=message)
                answered[HEADER], answered[REQUEST_HEADER] = correlation_id, request_id
            await send(message)

        if given is not None and _sane(given) is None:
            refusal = error_response(400, f"{HEADER} must be 1 to 128 visible ASCII characters without spaces")
            await refusal(scope, receive, send_with_ids)
            return
        with context(correlation_id=correlation_id), structlog.contextvars.bound_contextvars(request_id=request_id):
            await self._app(scope, receive, send_with_ids)


def _sane(text: str | None) -> str | None:
    return text if text is not None and _ACCEPTABLE.fullmatch(text) else None


def _trace_id(text: str | None) -> str | None:
    found = None if text is None else _TRACE.fullmatch(text)
    return None if found is None else found[1]

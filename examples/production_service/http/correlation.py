"""Correlation: the X-Correlation-ID of a request goes into every event that comes of it, and back with the answer."""

import re
from typing import Final
from uuid import uuid4

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from avx_events import context
from examples.production_service.http.answers import error_response

HEADER: Final = "X-Correlation-ID"

_ACCEPTABLE: Final = re.compile(r"[!-~]{1,128}")  # visible ASCII: it ends in logs, events and other services


class Correlation:
    """Middleware: sets the context of what is made while a request is answered. A request without an id gets one."""

    def __init__(self, app: ASGIApp) -> None:
        """Stand around ``app``."""
        self._app: Final = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        given = Headers(scope=scope).get(HEADER)
        is_acceptable = given is None or _ACCEPTABLE.fullmatch(given)
        correlation_id = given if given is not None and is_acceptable else str(uuid4())

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[HEADER] = correlation_id
            await send(message)

        if not is_acceptable:
            refusal = error_response(400, f"{HEADER} must be 1 to 128 visible ASCII characters without spaces")
            await refusal(scope, receive, send_with_id)
            return
        with context(correlation_id=correlation_id):
            await self._app(scope, receive, send_with_id)

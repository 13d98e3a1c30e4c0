"""Stopping: clients are told, so that none sends its next request on a connection that ends."""

from typing import Final

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from examples.production_service.service import Service


class Stopping:
    """Middleware: whatever is answered while the service stops says that the connection ends with it."""

    def __init__(self, app: ASGIApp, *, service: Service) -> None:
        """Stand around ``app``, which answers for ``service``."""
        self._app: Final = app
        self._service: Final = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""

        async def send_with_end(message: Message) -> None:
            if message["type"] == "http.response.start" and self._service.is_stopping:
                MutableHeaders(scope=message)["Connection"] = "close"
            await send(message)

        await self._app(scope, receive, send_with_end)

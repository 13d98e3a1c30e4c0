"""Measuring: how many requests each route answers, how, and how fast."""

from collections.abc import Iterable, Mapping
from time import perf_counter
from typing import Final

from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from examples.production_service.metrics import RequestMetrics

_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Measuring:
    """Middleware: records each request when its answer was sent. Labels are of a limited number, whatever is asked."""

    def __init__(self, app: ASGIApp, *, metrics: RequestMetrics, routes: Iterable[Route]) -> None:
        """Stand around ``app``, whose router has ``routes``."""
        self._app: Final = app
        self._metrics: Final = metrics
        self._patterns: Final[Mapping[object, str]] = {route.endpoint: route.path for route in routes}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        status = 500
        started_at = perf_counter()

        async def watched_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        self._metrics.in_progress += 1
        try:
            await self._app(scope, receive, watched_send)
        finally:
            self._metrics.in_progress -= 1
            self._metrics.record(
                route=self._patterns.get(scope.get("endpoint"), "none"),
                method=scope["method"] if scope["method"] in _METHODS else "other",
                status=status,
                seconds=perf_counter() - started_at,
            )

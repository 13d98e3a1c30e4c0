"""Measuring: how many requests each route answers, how, and how fast; counted, and reported on the bus."""

from collections.abc import Collection, Iterable, Mapping
from time import perf_counter
from typing import Final

from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from examples.production_service.http.request_metrics import RequestMetrics
from examples.production_service.reports import HttpErrorEvent, HttpRequestEvent, Reports

ERROR_TYPE: Final = "avx.error_type"
"""Where in the scope the type of an error is that was answered."""
ROUTE: Final = "avx.route"
"""Where in the scope the pattern of the route is, where there is one."""
REQUEST_ID: Final = "avx.request_id"
CORRELATION_ID: Final = "avx.correlation_id"
"""Where in the scope the ids of the request are."""

METHODS: Final[Collection[str]] = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Measuring:
    """Middleware: records each request when its answer was sent. Labels are of a limited number, whatever is asked."""

    def __init__(self, app: ASGIApp, *, metrics: RequestMetrics, reports: Reports, routes: Iterable[Route]) -> None:
        """Stand around ``app``, whose router has ``routes``."""
        self._app: Final = app
        self._metrics: Final = metrics
        self._reports: Final = reports
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

        self._metrics.in_progress.inc()
        try:
            await self._app(scope, receive, watched_send)
        finally:
            self._metrics.in_progress.dec()
            self._record(scope, status, perf_counter() - started_at)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        found = self._patterns.get(scope.get("endpoint"))
        if found is not None:
            scope[ROUTE] = found
        route = found or "none"
        method = scope["method"] if scope["method"] in METHODS else "other"
        self._metrics.record(route=route, method=method, status=status, seconds=seconds)
        figures = (method, route, status, seconds * 1_000, scope.get(REQUEST_ID, ""))
        correlation_id = scope.get(CORRELATION_ID)
        self._reports.tell(HttpRequestEvent(*figures), correlation_id=correlation_id)
        if ERROR_TYPE in scope:
            self._reports.tell(HttpErrorEvent(*figures, scope[ERROR_TYPE]), correlation_id=correlation_id)

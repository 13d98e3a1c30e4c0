"""What each process answers to those who look after it, and how it ends."""

import asyncio
import logging
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from avx_events import AvxEventsError
from avx_events.observability import SettingError, Settings, exporting
from avx_events.observability.metrics import CONTENT_TYPE, Metrics
from examples.production_service.http.answers import JsonResponse
from examples.production_service.http.server import Server
from examples.production_service.serving import open_listener, prepare

BUS_URL: Final = "AVX_EVENTS__BUS_URL"
_PROBE_TIMEOUT_S: Final = 2.0  # shorter than that of the probes

log = logging.getLogger(__name__)


def required(name: str, value: str | None) -> str:
    """Return the value of a setting that has no default.

    Raises:
        SettingError: It is not set, or empty.
    """
    if not value:
        raise SettingError(name, "is not set, and has no default", source="the environment")
    return value


def edge(*, ask: Callable[[], Awaitable[object]], metrics: Metrics) -> Starlette:
    """Return the ASGI application of a process.

    Args:
        ask: Asks what the process depends on; raises an ``AvxEventsError`` where one does not answer.
        metrics: What Prometheus reads.
    """

    async def health(_: Request) -> Response:
        return JsonResponse({"status": "ok"})

    async def ready(_: Request) -> Response:
        try:
            async with asyncio.timeout(_PROBE_TIMEOUT_S):
                await ask()
        except (AvxEventsError, TimeoutError) as exc:
            return JsonResponse({"error": str(exc) or f"no answer in {_PROBE_TIMEOUT_S:g} s"}, 503)
        return JsonResponse({"status": "ready"})

    async def show_metrics(_: Request) -> Response:
        return Response(await metrics.text(), media_type=CONTENT_TYPE)

    return Starlette(
        routes=[Route("/health", health), Route("/ready", ready), Route("/metrics", show_metrics)],
    )


async def serve(app: Starlette, settings: Settings) -> None:
    """Serve ``app`` until SIGTERM or SIGINT.

    Raises:
        SettingError: The address cannot be listened on.
    """
    server = Server(app)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, server.stop)
    with open_listener(settings) as listener:
        host, port, *_ = listener.getsockname()
        log.info("listening on http://%s:%d", host, port)
        await server.serve(sockets=[listener])


def main(run: Callable[[Settings], Coroutine[Any, Any, None]], *, name: str) -> int:
    """Run a process, and return its exit code: 0 after a signal, 2 where a setting cannot be used.

    Its spans and metrics go to where OpenTelemetry's variables say, as those of the service ``name``.
    """
    try:
        settings = Settings.load()
        prepare(settings)
        with exporting(settings, service_name=name):
            asyncio.run(run(settings))
    except AvxEventsError as exc:
        sys.stderr.write(f"error: {exc}\n")
        return 2
    return 0

"""Serving: one process that answers on a socket until it is told to stop, and then stops in good order."""

import asyncio
import logging
import math
import os
import signal
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack
from importlib.metadata import version
from pathlib import Path
from shutil import rmtree
from typing import Final, NamedTuple

from avx_events.observability import SettingError, Settings, exporting, init_tracing
from avx_events.observability.export import FLUSH_TIMEOUT_S
from examples.production_service.http.app import http_app
from examples.production_service.http.connections import DEFAULT_LIMITS
from examples.production_service.http.pages import console_of, pages_of
from examples.production_service.http.server import Server, address_of, allow_open_files, listen
from examples.production_service.reports import ServiceStarted
from examples.production_service.service import running_service
from examples.production_service.siblings import Siblings

BIND_ADDR: Final = "AVX__HTTP__BIND_ADDR"

log = logging.getLogger(__name__)


class Place(NamedTuple):
    """Which of several processes on one socket this is.

    Attributes:
        number: From 1; one that is started anew has the number of the one that ended.
        folder: Where they tell each other their figures.
        owner: A pipe whose other end is open as long as the process lives that this one works for.
    """

    number: int
    folder: Path
    owner: int


def prepare(settings: Settings) -> None:
    """Set up what is one for the whole process: logs, and how many files may be open."""
    init_tracing(settings)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    allow_open_files()


def stop_timeout_s(settings: Settings) -> int:
    """Return how many seconds a stop may take: requests, the relay, the bus, spans and metrics, the rest."""
    handlers_s = 2 * math.ceil(settings.events.drain_timeout_s)
    return DEFAULT_LIMITS.requests_timeout_s + handlers_s + math.ceil(FLUSH_TIMEOUT_S) + 5


def run(
    settings: Settings, listener: socket.socket, *, announce: Callable[[], None], place: Place | None = None
) -> None:
    """Do as ``serve`` does, and meanwhile export spans and metrics to where OpenTelemetry's variables say.

    Raises:
        SettingError: The store or the broker cannot be used, or one of these variables.
    """
    with exporting(settings):
        asyncio.run(serve(settings, listener, announce=announce, place=place))


async def serve(
    settings: Settings, listener: socket.socket, *, announce: Callable[[], None], place: Place | None = None
) -> None:
    """Serve on ``listener`` until a signal comes, or the owner is gone.

    Args:
        settings: What with.
        listener: Where; other processes may serve on it, too.
        announce: Called once requests are about to be answered.
        place: Which of several processes this is; None for the only one.

    Raises:
        SettingError: The store or the broker cannot be used.
    """
    async with AsyncExitStack() as parts:
        is_first = place is None or place.number == 1  # one of them tells of the broker's groups: that is enough
        service = await parts.enter_async_context(running_service(settings, tells_groups=is_first))
        scrape = service.metrics.text
        if place is not None:
            siblings = Siblings(place.folder, place.number, service.metrics.text)
            scrape = (await parts.enter_async_context(siblings)).text
        console = console_of(service, settings)
        if console is not None:
            await parts.enter_async_context(console)
        pages = () if console is None else pages_of(console)
        server = Server(http_app(service, scrape=scrape, pages=pages))

        def stop() -> None:
            log.info("stopping")
            service.is_stopping = True
            if console is not None:
                console.end_streams()
            server.stop()
            signal.alarm(stop_timeout_s(settings))

        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop)
        if place is not None:
            owner, folder = place.owner, place.folder

            def stop_alone() -> None:
                asyncio.get_running_loop().remove_reader(owner)
                parts.callback(rmtree, folder, ignore_errors=True)  # the owner would have done it
                if not service.is_stopping:
                    stop()

            asyncio.get_running_loop().add_reader(owner, stop_alone)
        address = address_of(listener)
        service.reports.tell(ServiceStarted(settings.events.group, version("avx-events"), address, os.getpid()))
        announce()
        await server.serve(sockets=[listener])


def open_listener(settings: Settings) -> socket.socket:
    """Return the socket that the settings ask for.

    Raises:
        SettingError: It cannot be had.
    """
    host, port = settings.http.host, settings.http.port
    try:
        return listen(host, port)
    except (OSError, UnicodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else exc
        advice = f"set {BIND_ADDR} to another, as 127.0.0.1:0 for a port that is free"
        problem = f"{host}:{port} cannot be listened on: {reason}; {advice}"
        raise SettingError(BIND_ADDR, problem, source="the settings") from exc

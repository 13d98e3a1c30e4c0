"""Runs a console by itself, on this machine unless there is a token."""

import asyncio
import socket
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack
from typing import Final

import uvicorn

from avx_events.apps.console.console import Console
from avx_events.apps.console.safety import is_loopback
from avx_events.bus.dead_letters import DeadLetterQueue
from avx_events.bus.remote.inspection import Inspector
from avx_events.core.errors import InvalidArgumentError
from avx_events.store.event_store import EventStore

_GRACE_S: Final = 2


class _Server(uvicorn.Server):
    """A server that ends the endless answers before it waits for all answers to end."""

    def __init__(self, config: uvicorn.Config, console: Console) -> None:
        super().__init__(config)
        self._console: Final = console

    async def serve_until_cancelled(self, listener: socket.socket) -> None:
        """Serve; cancelled, close the connections too, which uvicorn would leave open with nobody behind them."""
        try:
            await self.serve([listener])
        except asyncio.CancelledError:
            if self.started:
                await self.shutdown([listener])
            raise

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop."""
        self._console.end_streams()
        await super().shutdown(sockets)


async def serve(
    console: Console,
    *,
    host: str = "127.0.0.1",
    port: int = 8090,
    on_started: Callable[[str], None] | None = None,
) -> None:
    """Serve ``console`` until the process is told to stop (SIGINT or SIGTERM), or the task is cancelled.

    Args:
        console: What is served; it is entered here.
        host: The address; another one than of loopback only with a token.
        port: The port; 0 is a free one.
        on_started: Is told the URL once connections are taken.

    Raises:
        InvalidArgumentError: The address is open to others and the console has no token, or it cannot be listened at,
            as where another program has the port.
        NotRunningError: The console was entered before.
    """
    _refuse_open(host, has_token=console.needs_token)
    with _listening(host, port) as listener:
        config = uvicorn.Config(
            console, lifespan="off", log_level="warning", access_log=False, timeout_graceful_shutdown=_GRACE_S
        )
        async with console:
            if on_started is not None:
                on_started(_url_of(listener))
            await _Server(config, console).serve_until_cancelled(listener)


async def serve_urls(
    *,
    store_url: str | None = None,
    broker_url: str | None = None,
    dead_letters_url: str | None = None,
    namespace: str = "avx",
    masked_fields: Iterable[str] = (),
    token: str | None = None,
    allowed_hosts: Iterable[str] = (),
    host: str = "127.0.0.1",
    port: int = 8090,
    on_started: Callable[[str], None] | None = None,
) -> None:
    """Serve a console of what is at URLs, as ``serve`` does, without any code of the application.

    Events whose classes nobody imports are shown by their names and fields. Letters can be looked at, edited and
    removed. Those in a broker are redriven by the members of their groups that run; one in a database needs the process
    that has its handler.

    Args:
        store_url: The event store's.
        broker_url: The broker's: live events and groups.
        dead_letters_url: Of the dead letters; if not given, those of the broker, or without one those of the store.
        namespace: Of the buses at the broker.
        masked_fields: As for ``Console``.
        token: As for ``Console``.
        allowed_hosts: As for ``Console``.
        host: As for ``serve``.
        port: As for ``serve``.
        on_started: As for ``serve``.

    Raises:
        InvalidArgumentError: A value is not acceptable, or the address is open to others and there is no token.
        AvxEventsError: What is at a URL cannot be opened, as ``EventStore.connect``, ``DeadLetterQueue.connect`` and
            ``Inspector.connect`` say.
    """
    _refuse_open(host, has_token=token is not None)
    async with AsyncExitStack() as stack:
        store = None if store_url is None else await EventStore.connect(store_url, unknown="keep")
        if store is not None:
            await stack.enter_async_context(store)
        inspector = None if broker_url is None else await Inspector.connect(broker_url, namespace=namespace)
        if inspector is not None:
            await stack.enter_async_context(inspector)
        letters_url = dead_letters_url or (store_url if broker_url is None else _in_namespace(broker_url, namespace))
        queue = None if letters_url is None else await DeadLetterQueue.connect(letters_url)
        if queue is not None:
            await stack.enter_async_context(queue)
        console = Console(
            store=store,
            broker_url=broker_url,
            namespace=namespace,
            dead_letter_queue=queue,
            inspector=inspector,
            masked_fields=masked_fields,
            token=token,
            allowed_hosts=allowed_hosts,
        )
        await serve(console, host=host, port=port, on_started=on_started)


def _in_namespace(url: str, namespace: str) -> str:
    return f"{url}{'&' if '?' in url else '?'}namespace={namespace}"


def _refuse_open(host: str, *, has_token: bool) -> None:
    if not is_loopback(host) and not has_token:
        raise InvalidArgumentError("host", host, expected="an address of loopback, as 127.0.0.1, without a token")


def run(console: Console, *, host: str = "127.0.0.1", port: int = 8090) -> None:
    """Serve ``console`` from synchronous code, and say where; returns when the process is told to stop.

    Raises:
        InvalidArgumentError: As ``serve``.
    """
    asyncio.run(serve(console, host=host, port=port, on_started=_say))


def _say(url: str) -> None:
    print(f"The console is at {url}", flush=True)  # noqa: T201 - what a command says


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(128)
    except (OSError, OverflowError) as exc:
        listener.close()
        expected = f"where one can listen ({exc}; port 0 is one that is free)"
        raise InvalidArgumentError("host and port", f"{host}:{port}", expected=expected) from exc
    return listener


def _url_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

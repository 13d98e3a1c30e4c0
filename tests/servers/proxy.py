"""A way to a server that a test can cut, mend, slow down and make a black hole of."""

import asyncio
import socket
import struct
import threading
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Literal, Self, TypeAlias

from tests.servers.ports import free_port

Side: TypeAlias = Literal["client", "server"]

CHUNK_BYTES: Final = 65_536
CHUNKS: Final = 64
"""How many chunks are on their way in one direction before the sender has to wait."""

DEADLINE_S: Final = 10
RESET: Final = struct.pack("ii", 1, 0)
"""A SO_LINGER that makes a close a reset."""


class Proxy:
    """Forwards a port of 127.0.0.1 to another, as well or as badly as it is told.

    It runs on a thread and a loop of its own, so that a test uses it with or without a loop, and a blocked loop does
    not block it. Each method returns when what it says is so. ``cut``, ``hold``, ``drop_silently`` and ``delay`` are
    for all connections, those to come included, until ``mend``.

    Clients of Kafka go where the server says that it is, so a server behind a proxy has to say ``port`` of the proxy in
    its ``advertised_listeners``.
    """

    def __init__(self, target_port: int, *, port: int | None = None) -> None:
        """Choose a port for it; entering the block opens it.

        Args:
            target_port: Where the server listens on 127.0.0.1. It need not, yet.
            port: The port, where the server had to know it before; else a free one.
        """
        self.port = port or free_port()
        self.target_port = target_port
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name=f"proxy {self.port}")
        self._loop: Future[asyncio.AbstractEventLoop] = Future()
        self._is_over = asyncio.Event()
        self._traffic = _Traffic()
        self._links: set[_Link] = set()
        self._listener: socket.socket | None = None

    @property
    def connections(self) -> int:
        """How many clients are connected through it."""
        return len(self._links)

    def cut(self) -> None:
        """Reset all connections, and refuse new ones."""
        self._do(self._cut)

    def hold(self) -> None:
        """Forward nothing, and keep everything for when it is mended: a network that is down for a moment."""
        self._do(self._hold)

    def drop_silently(self) -> None:
        """Take all bytes and forward none, ever: a black hole. Mending resets the connections that lost some."""
        self._do(self._drop)

    def delay(self, seconds: float) -> None:
        """Let all bytes arrive so much later than they do without it, in each direction."""
        self._do(self._delay, seconds)

    def half_close(self, towards: Side) -> None:
        """Tell one side of each connection that the other has said its last; what it says itself still arrives."""
        self._do(self._half_close, towards)

    def mend(self) -> None:
        """Forward at once again, and take new connections."""
        self._do(self._mend)

    def __enter__(self) -> Self:
        self._thread.start()
        self._loop.result(DEADLINE_S)
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._loop.result().call_soon_threadsafe(self._is_over.set)
        self._thread.join(DEADLINE_S)

    def _do(self, deed: Callable[..., Coroutine[Any, Any, None]], *arguments: object) -> None:
        loop = self._loop.result(DEADLINE_S)
        asyncio.run_coroutine_threadsafe(deed(*arguments), loop).result(DEADLINE_S)

    async def _serve(self) -> None:
        try:
            await self._mend()
        except OSError as error:
            self._loop.set_exception(error)
            return
        async with asyncio.TaskGroup() as self._tasks:
            self._loop.set_result(asyncio.get_running_loop())
            await self._is_over.wait()
            await self._cut()

    async def _cut(self) -> None:
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None
        await self._reset(list(self._links))

    async def _hold(self) -> None:
        self._traffic.may_pass.clear()

    async def _drop(self) -> None:
        self._traffic.is_dropped = True

    async def _delay(self, seconds: float) -> None:
        self._traffic.delay_s = seconds

    async def _half_close(self, towards: Side) -> None:
        for link in list(self._links):
            await link.half_close(towards)

    async def _mend(self) -> None:
        await self._reset([link for link in self._links if link.has_lost_bytes])
        self._traffic.is_dropped = False
        self._traffic.delay_s = 0
        self._traffic.may_pass.set()
        if self._listener is None:
            self._listener = socket.create_server(("127.0.0.1", self.port))
            self._listener.settimeout(0)
            asyncio.get_running_loop().add_reader(self._listener, self._accept, self._listener)

    async def _reset(self, links: Iterable["_Link"]) -> None:
        tasks = [link.reset() for link in links]
        if tasks:
            await asyncio.wait(tasks)

    def _accept(self, listener: socket.socket) -> None:
        # Not a server of asyncio's: what that is accepting when it is closed is never closed itself.
        try:
            client, _ = listener.accept()
        except OSError:  # it has gone away again
            return
        link = _Link(client, self._traffic)
        self._links.add(link)
        link.task = self._tasks.create_task(link.run(self.target_port))
        link.task.add_done_callback(lambda _: self._forget(link))

    def _forget(self, link: "_Link") -> None:
        self._links.discard(link)
        link.end()


@dataclass
class _Traffic:
    """What becomes of the bytes of all connections."""

    delay_s: float = 0
    is_dropped: bool = False
    may_pass: asyncio.Event = field(default_factory=asyncio.Event)


class _Link:
    """The connection of one client, and its own to the server."""

    task: asyncio.Task[None]

    def __init__(self, client: socket.socket, traffic: _Traffic) -> None:
        self._client = client
        self._traffic = traffic
        self._writers: list[asyncio.StreamWriter] = []
        self._ways: dict[Side, _Way] = {}
        self._has_tried = asyncio.Event()

    @property
    def has_lost_bytes(self) -> bool:
        return any(way.has_lost_bytes for way in self._ways.values())

    async def run(self, target_port: int) -> None:
        """Forward in both directions until both sides have said their last, or one has failed."""
        try:
            await self._connect(target_port)
            async with asyncio.TaskGroup() as tasks:
                for way in self._ways.values():
                    tasks.create_task(way.run())
        except* OSError:
            self._abort()
        finally:
            self._has_tried.set()

    def reset(self) -> asyncio.Task[None]:
        """End both connections at once; return the task that ends because of it."""
        self._abort()
        self.task.cancel()
        return self.task

    async def half_close(self, towards: Side) -> None:
        await self._has_tried.wait()
        if towards in self._ways:
            self._ways[towards].shut()

    def end(self) -> None:
        """Close what is still open when the task has ended, which may have been before it began."""
        for writer in self._writers:
            writer.close()
        if not self._writers:
            self._client.close()

    async def _connect(self, target_port: int) -> None:
        from_client, to_client = await asyncio.open_connection(sock=self._client)
        self._writers.append(to_client)
        from_server, to_server = await asyncio.open_connection("127.0.0.1", target_port)
        self._writers.append(to_server)
        self._ways["server"] = _Way(from_client, to_server, self._traffic)
        self._ways["client"] = _Way(from_server, to_client, self._traffic)
        self._has_tried.set()

    def _abort(self) -> None:
        for writer in self._writers:
            if not writer.is_closing():
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            writer.transport.abort()


class _Way:
    """One direction of a link."""

    def __init__(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, traffic: _Traffic) -> None:
        self.has_lost_bytes = False
        self._source = source
        self._sink = sink
        self._traffic = traffic
        self._is_shut = False
        self._chunks: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(CHUNKS)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._take())
            tasks.create_task(self._give())

    def shut(self) -> None:
        """Let nothing more go this way; the receiver is told that the sender has said its last."""
        if not self._is_shut:
            self._is_shut = True
            self._sink.write_eof()

    async def _take(self) -> None:
        chunk = None
        while chunk != b"":
            chunk = await self._source.read(CHUNK_BYTES)
            await self._chunks.put((asyncio.get_running_loop().time() + self._traffic.delay_s, chunk))

    async def _give(self) -> None:
        chunk = None
        while chunk != b"":
            due, chunk = await self._chunks.get()
            await asyncio.sleep(due - asyncio.get_running_loop().time())
            await self._traffic.may_pass.wait()
            await self._pass_on(chunk)

    async def _pass_on(self, chunk: bytes) -> None:
        if self._traffic.is_dropped:
            self.has_lost_bytes = True
        elif not chunk:
            self.shut()
        elif not self._is_shut:
            self._sink.write(chunk)
            await self._sink.drain()

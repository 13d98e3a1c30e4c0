"""A connection to NATS that is made again when it is lost, with what listens on it."""

import asyncio
import logging
import random
import ssl
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import unquote, urlsplit
from uuid import uuid4

import nats.errors
from nats.aio.client import Client

from avx_events.core.clock import Clock
from avx_events.core.errors import InvalidArgumentError, TransportRefusedError, TransportUnavailableError
from avx_events.core.tasks import TaskScope, wake
from avx_events.distributed.nats.frames import Frames, Listener, Message, frame

log = logging.getLogger("avx_events")

_FIRST_PAUSE_S: Final = 0.02
_LONGEST_PAUSE_S: Final = 1.0
_LONGEST_PING_S: Final = 10.0
_LOOK_S: Final = 0.1
_TRIES_OF_A_SERVER: Final = 1
_REFUSALS: Final = ("authorization", "authentication", "user credentials", "nkey")


class WireError(Exception):
    """There is no connection."""


class Wire:
    """One connection, and the loop that makes it again.

    Attributes:
        name: What errors call the server: its URL without a password.
        problem: Why there is no connection, or what the server complained of last.
    """

    def __init__(self, url: str, *, timeout_s: float, client: Mapping[str, Any], clock: Clock) -> None:
        """Connect to nobody yet.

        Args:
            url: ``nats://`` or ``tls://``; several servers of one cluster stand side by side, separated by commas.
            timeout_s: How long a connection may take to be made.
            client: Options of nats-py's ``connect``: credentials, TLS, a name.
            clock: Time.

        Raises:
            InvalidArgumentError: The URL is none of NATS's.
        """
        self.name = _without_password(url)
        self.problem = "it was not reached yet"
        self._servers = _servers_of(url)
        self._must_be_tls = urlsplit(self._servers[0]).scheme == "tls"
        self._timeout_s = timeout_s
        self._options = {**_quoted_credentials(self._servers[0]), **client}
        self._clock = clock
        self._away_since = clock.monotonic()
        self._loop = asyncio.get_running_loop()
        self._client: Client | None = None
        self._frames: Frames | None = None
        self._out: list[bytes] = []
        self._max_payload = 0
        self._listeners: dict[str, tuple[Listener, str]] = {}
        self._numbers: dict[str, int] = {}  # of the subscriptions
        self._next = 0
        self._on_up: list[Callable[[], None]] = []
        self._on_down: list[Callable[[], None]] = []
        self._refusal: TransportRefusedError | InvalidArgumentError | None = None
        self._echoes = f"_INBOX.{uuid4().hex}"
        self._waiting_for_echo: deque[asyncio.Future[None]] = deque()
        self._changed: list[asyncio.Future[None]] = []
        self._tasks = TaskScope()
        self._closing = TaskScope()

    @property
    def is_connected(self) -> bool:
        """Whether what is sent now goes out."""
        return self._client is not None and self._client.is_connected

    @property
    def max_payload(self) -> int:
        """The most bytes of headers and body that the server takes in one message; 0 where it was never reached."""
        return self._max_payload

    def is_away_for(self, seconds: float) -> bool:
        """Tell whether there was no connection for so long, or longer."""
        return self._client is None and self._clock.monotonic() - self._away_since > seconds

    def watch(self, *, on_up: Callable[[], None], on_down: Callable[[], None]) -> None:
        """Have these called whenever the connection is made and lost."""
        self._on_up.append(on_up)
        self._on_down.append(on_down)

    def unwatch(self, *, on_up: Callable[[], None], on_down: Callable[[], None]) -> None:
        """Call these no more."""
        self._on_up.remove(on_up)
        self._on_down.remove(on_down)

    def listen(self, subject: str, listener: Listener, *, sharing: str = "") -> None:
        """Give what arrives on ``subject`` to ``listener`` from now on, on this connection and those after it.

        Args:
            subject: May have wildcards.
            listener: Called for each message.
            sharing: The name of those who share the messages; empty where each gets all.
        """
        self._listeners[subject] = (listener, sharing)
        if self._frames is not None:
            self._subscribe(self._frames, subject)

    async def ignore(self, subject: str) -> None:
        """Listen to ``subject`` no more, once what has arrived is with its listener."""
        self._listeners.pop(subject, None)
        number, frames = self._numbers.pop(subject, None), self._frames
        if number is None or frames is None:
            return
        self._write(b"UNSUB %d\r\n" % number)
        try:
            await self.echo()  # what is on its way comes before it
        except (WireError, TimeoutError) as exc:  # with the connection it is gone, too
            log.debug("%s: %s", subject, exc)
        finally:
            frames.listeners.pop(b"%d" % number, None)

    async def open(self) -> None:
        """Make the connection, waiting for the server as ``connected`` does.

        Raises:
            TransportUnavailableError: It did not answer.
            TransportRefusedError: It asks for credentials or for TLS, or has none to offer.
            InvalidArgumentError: An option is none of nats-py's.
        """
        self._tasks.spawn(self._run(), name="avx-events nats: connection")
        self.listen(self._echoes, self._take_echo)
        await self.connected()

    async def connected(self) -> None:
        """Wait up to ``timeout_s`` seconds for the connection.

        Raises:
            TransportUnavailableError: It did not answer.
            TransportRefusedError: It asks for credentials or for TLS, or has none to offer.
            InvalidArgumentError: An option is none of nats-py's.
        """
        if self.is_connected:
            return
        try:
            async with asyncio.timeout(self._timeout_s):
                while not self.is_connected:
                    if self._refusal is not None:
                        raise self._refusal
                    waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                    self._changed.append(waiter)
                    await waiter
        except TimeoutError as exc:
            raise TransportUnavailableError(self.name, self.problem) from exc

    def send(self, subject: str, body: bytes, *, reply: str = "", headers: Mapping[str, str] | None = None) -> None:
        """Have a message sent in this turn of the loop, in the order of the calls.

        Raises:
            WireError: There is no connection; it was not sent.
        """
        if not self.is_connected:
            raise WireError(self.problem)
        self._write(frame(subject, body, reply=reply, headers=headers))

    def write(self, messages: Sequence[bytes]) -> None:
        """Send messages as ``frame`` gives them, after what was sent before; they are lost where the connection is."""
        self._out += messages
        self._flush()

    async def echo(self) -> None:
        """Return when the server has done everything that was sent or posted, and what it sent before that is here.

        Raises:
            WireError: There is no connection.
            TimeoutError: It did not answer within ``timeout_s``.
        """
        echo: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.send(self._echoes, b"")
        self._waiting_for_echo.append(echo)
        async with asyncio.timeout(self._timeout_s):
            await echo

    def post(self, subject: str, body: bytes, *, reply: str = "", headers: Mapping[str, str] | None = None) -> None:
        """Have a message sent, as ``send`` does; it is lost where the connection is."""
        try:
            self.send(subject, body, reply=reply, headers=headers)
        except WireError as exc:
            log.debug("a message to %s is lost: %s", subject, exc)

    async def close(self) -> None:
        """Close the connection, and make it no more. Harmless when repeated."""
        self._flush()
        await self._tasks.cancel()
        await self._closing.finish()
        self._tell()

    def _write(self, frame: bytes) -> None:
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(frame)

    def _flush(self) -> None:
        out, self._out = self._out, []
        client = self._client
        if out and client is not None and client.is_connected:
            untyped: Any = client
            try:
                untyped._transport.write(b"".join(out))  # noqa: SLF001 - see decision 0025
            except (OSError, RuntimeError) as exc:  # it is lost, which nats-py has not noticed yet
                log.debug("%d messages were not sent: %s", len(out), exc)

    def _take_echo(self, message: Message) -> None:
        del message
        if self._waiting_for_echo:  # else it was lost with the connection before
            wake(self._waiting_for_echo.popleft())

    # The loop

    async def _run(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while True:
            client = Client()
            lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            try:
                if await self._connect(client, lost):
                    pause_s = _FIRST_PAUSE_S
                    self._up(client)
                    # nats-py's own tasks close it, cancel themselves at that, and then may not come to tell of it.
                    while client.is_connected and not lost.done():
                        await asyncio.wait([lost], timeout=_LOOK_S)
            finally:
                self._down(client)
                # In a task of its own, which is not cancelled with this one: half closed, it would leave its socket.
                self._closing.spawn(_close(client), name="avx-events nats: close a connection")
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                # wait_for of Python 3.11, which nats-py connects with, gives what failed in that moment instead.
                raise asyncio.CancelledError
            await asyncio.sleep(pause_s * (0.5 + random.random() / 2))  # noqa: S311 - spreads load
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)

    async def _connect(self, client: Client, lost: "asyncio.Future[None]") -> bool:
        """Tell whether the connection is made, with everything that listens on it."""

        async def on_closed() -> None:
            wake(lost)

        async def on_error(error: Exception) -> None:
            self.problem = str(error) or type(error).__name__
            if not isinstance(error, nats.errors.Error | OSError):
                log.error("NATS: %s", self.problem, exc_info=error)

        fixed: dict[str, Any] = {
            "servers": self._servers,
            "allow_reconnect": False,  # what was sent and not answered is ours to send again, in order
            "max_reconnect_attempts": _TRIES_OF_A_SERVER,
            "reconnect_time_wait": 0,
            "pending_size": 0,  # how much may be on its way is our concern
            "skip_subject_validation": True,
            "closed_cb": on_closed,
            "error_cb": on_error,
        }
        ping_s: float = min(self._timeout_s / 2, _LONGEST_PING_S)
        options: dict[str, Any] = {
            "connect_timeout": self._timeout_s,
            "ping_interval": ping_s,
            **self._options,
            **fixed,
        }
        try:
            async with asyncio.timeout(self._timeout_s):
                await client.connect(**options)
        except TypeError as exc:
            self._refuse(InvalidArgumentError("client", self._options, expected=f"options of nats-py ({exc})"))
        except (nats.errors.Error, OSError, TimeoutError) as exc:
            self._note(exc)
        else:
            if self._must_be_tls and not _has_tls(client):
                self._refuse(self._refused("it has no TLS"))
                return False
            return client.is_connected
        return False

    def _subscribe(self, frames: Frames, subject: str) -> None:
        listener, sharing = self._listeners[subject]
        self._next += 1
        self._numbers[subject] = self._next
        frames.listeners[b"%d" % self._next] = listener
        self._write(f"SUB {subject} {sharing} {self._next}\r\n".encode())

    def _note(self, error: Exception) -> None:
        text = str(error).strip() or f"no answer within {self._timeout_s:g} s"
        if isinstance(error, nats.errors.NoServersError):
            text = self.problem
        self.problem = text
        if isinstance(error, ssl.SSLError) or any(word in text.lower() for word in _REFUSALS):
            self._refuse(self._refused(text))
        self._tell()

    def _refused(self, problem: str) -> TransportRefusedError:
        remedy = (
            "give user and password in the URL, as nats://user:password@host, tls:// where it wants TLS, and "
            "tls=ssl_context where its certificate is of an authority of your own"
        )
        return TransportRefusedError(self.name, problem, remedy=remedy)

    def _refuse(self, error: TransportRefusedError | InvalidArgumentError) -> None:
        self._refusal = error
        self.problem = str(error)
        self._tell()

    def _up(self, client: Client) -> None:
        self._client, self._refusal = client, None
        self._max_payload = client.max_payload
        self._out.clear()
        self._numbers.clear()
        frames = self._frames = _taken_over(client)
        for subject in self._listeners:
            self._subscribe(frames, subject)
        for on_up in list(self._on_up):
            on_up()
        self._tell()

    def _down(self, client: Client) -> None:
        if self._client is client:
            self._client = self._frames = None
            lost, self._waiting_for_echo = self._waiting_for_echo, deque()
            for echo in lost:
                if not echo.done():
                    echo.set_exception(WireError(self.problem))
            self._away_since = self._clock.monotonic()
            log.info("the connection to %s is lost: %s", self.name, self.problem)
            for on_down in list(self._on_down):
                on_down()

    def _tell(self) -> None:
        changed, self._changed = self._changed, []
        for waiter in changed:
            wake(waiter)


def _has_tls(client: Client) -> bool:
    server = client._server_info  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    return bool(server.get("tls_required") or server.get("tls_available"))


def _taken_over(client: Client) -> Frames:
    """Have what arrives read by us; see decision 0025."""
    untyped: Any = client
    parser = untyped._ps  # noqa: SLF001
    frames = untyped._ps = Frames(parser, bytes(parser.buf))  # noqa: SLF001
    parser.reset()
    return frames


async def _close(client: Client) -> None:
    try:
        await client.close()
    except (nats.errors.Error, OSError) as exc:  # it is gone, which was wanted
        log.debug("%s", exc)
    except AssertionError as exc:  # nats-py's own, of a connection that was never made
        log.debug("%s", exc)


def _servers_of(url: str) -> list[str]:
    scheme, _, places = url.partition("://")
    servers = [f"{scheme}://{place}" for place in places.split(",")]
    for server in servers:
        try:
            parts = urlsplit(server)
            is_place = bool(parts.hostname) and parts.port != 0
        except ValueError:
            is_place = False
        if not is_place:
            raise InvalidArgumentError("url", url, expected="a NATS URL, as 'nats://localhost:4222'")
    return servers


def _quoted_credentials(server: str) -> dict[str, str]:
    """Return user and password, or token, of a URL in which they are percent-encoded: nats-py takes them literally."""
    parts = urlsplit(server)
    if "%" not in parts.netloc.rpartition("@")[0]:
        return {}
    if parts.password is None:
        return {"token": unquote(parts.username or "")}
    return {"user": unquote(parts.username or ""), "password": unquote(parts.password)}


def _without_password(url: str) -> str:
    scheme, _, places = url.partition("://")
    return f"{scheme}://{','.join(place.rpartition('@')[2] for place in places.split(','))}"

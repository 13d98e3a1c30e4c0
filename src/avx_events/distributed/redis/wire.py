"""One connection to Redis, on which commands go out in batches and their replies come back in order."""

import asyncio
import ssl
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias, cast
from urllib.parse import urlsplit

import hiredis
import msgspec
import redis.exceptions
from redis.asyncio.connection import ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from avx_events.core.errors import (
    AvxEventsError,
    InvalidArgumentError,
    TransportRefusedError,
    TransportUnavailableError,
)
from avx_events.distributed.redis.flow import Flow, Listener
from avx_events.distributed.redis.replies import Replies

Argument: TypeAlias = str | bytes | int | float
Packed: TypeAlias = bytes

# What the server may answer that says: not done now, and perhaps done later.
_NOT_NOW: Final = (
    "LOADING",
    "BUSY ",
    "TRYAGAIN",
    "CLUSTERDOWN",
    "MASTERDOWN",
    "READONLY",
    "OOM ",
    "MISCONF",
    "NOREPLICAS",
)
_REFUSED: Final = ("NOAUTH", "WRONGPASS", "NOPERM", "AUTHENTICATION")


class WireError(Exception):
    """The connection failed.

    Attributes:
        is_sent: Whether commands may have reached the server.
    """

    def __init__(self, problem: str, *, is_sent: bool) -> None:
        """Keep both."""
        super().__init__(problem)
        self.problem, self.is_sent = problem, is_sent


_pack = cast("Any", hiredis.pack_command)  # pyright: ignore[reportUnknownMemberType]  # its types are half a list


def packed(*arguments: Argument) -> Packed:
    """Return a command as it goes over the wire."""
    return cast("bytes", _pack(arguments))


class Frame(msgspec.Struct, frozen=True):
    """A command but for one argument.

    Source:
        https://redis.io/docs/latest/develop/reference/protocol-spec/, arrays of bulk strings.
    """

    head: bytes
    tail: bytes

    @classmethod
    def of(cls, before: Sequence[Argument], after: Sequence[Argument]) -> "Frame":
        """Return the frame of an argument that stands between these."""
        count = len(before) + 1 + len(after)
        return cls(b"*%d\r\n%b$" % (count, _bulks(before)), b"\r\n" + _bulks(after))

    def around(self, argument: bytes) -> Packed:
        """Return the command with ``argument`` in its place: a quarter of what ``packed`` takes."""
        return b"%b%d\r\n%b%b" % (self.head, len(argument), argument, self.tail)


def _bulks(arguments: Sequence[Argument]) -> bytes:
    return packed(*arguments).partition(b"\r\n")[2]


class Servers:
    """Where connections to one server come from.

    Attributes:
        name: What errors call the server: its URL without a password.
    """

    def __init__(self, url: str, *, timeout_s: float, client: Mapping[str, Any]) -> None:
        """Connect to nobody yet.

        Args:
            url: ``redis://``, ``rediss://`` or ``unix://``, as redis-py reads it.
            timeout_s: How long a connection may take to be made.
            client: More options of redis-py's connections.

        Raises:
            InvalidArgumentError: The URL or an option is none of redis-py's.
        """
        options = {"socket_connect_timeout": timeout_s, **client}
        # Replies are waited for in batches, with one deadline; attempts are ours, since only we know what was sent.
        fixed: dict[str, Any] = {
            "socket_timeout": None,
            "retry": Retry(NoBackoff(), 0),
            "protocol": 2,
            "parser_class": self._new_parser,
        }
        try:
            self.name = _without_password(url)
            pool: Any = ConnectionPool.from_url(url, **(options | fixed))  # pyright: ignore[reportUnknownMemberType]
            self._pool = pool
            self._pool.make_connection()
        except (ValueError, TypeError, redis.exceptions.RedisError) as exc:
            expected = f"a Redis URL, as 'redis://localhost:6379/0', and options of redis-py ({exc})"
            raise InvalidArgumentError("url", url, expected=expected) from exc

    def wire(self) -> "Wire":
        """Return a new connection, not made yet."""
        connection = self._pool.make_connection()
        return Wire(connection, self._parser, self.name)

    def _new_parser(self, socket_read_size: int) -> Replies:
        """Be what redis-py makes the parser of a new connection with; it tells nobody which one that is."""
        self._parser = Replies(socket_read_size)
        return self._parser


class Wire:
    """One connection; whoever has it uses it alone."""

    __slots__ = ("_connection", "_name", "_replies")

    def __init__(self, connection: Any, replies: Replies, name: str) -> None:
        """Wrap ``connection``, one of redis-py's, and its parser, to the server of ``name``."""
        self._connection = connection
        self._replies = replies
        self._name = name

    @property
    def is_connected(self) -> bool:
        """Whether it was made and not lost, as far as is known."""
        return bool(self._connection.is_connected)

    async def connect(self) -> None:
        """Make the connection. Harmless where it is made.

        Raises:
            WireError: The server cannot be reached, or does not answer.
            TransportRefusedError: It asks for a password or for TLS.
        """
        try:
            await self._connection.connect()
        except (redis.exceptions.AuthenticationError, redis.exceptions.NoPermissionError) as exc:
            raise self.refused(exc) from exc
        except redis.exceptions.ResponseError as exc:
            if str(exc).startswith(_REFUSED):
                raise self.refused(exc) from exc
            raise WireError(str(exc), is_sent=False) from exc
        except (TimeoutError, redis.exceptions.RedisError, OSError) as exc:
            if _is_about_tls(exc) or _is_about_tls(exc.__context__):  # redis-py names no cause
                raise self.refused(exc) from exc
            raise WireError(str(exc), is_sent=False) from exc

    def flow(self, listener: Listener) -> Flow:
        """Return the connection, which is made, as one that is written and read at once; it is not used here then.

        Raises:
            WireError: It was lost.
        """
        transport: asyncio.Transport = self._connection._writer.transport  # noqa: SLF001 - see decision 0026
        if transport.is_closing():
            problem = "the connection was closed"
            raise WireError(problem, is_sent=False)
        flow = Flow(transport, self._replies, listener)
        transport.set_protocol(flow)
        return flow

    def refused(self, error: Exception) -> TransportRefusedError:
        """Return what it means that the server asks for a password, or another one."""
        remedy = (
            "give user and password in the URL, as redis://user:password@host, rediss:// where it wants TLS, and "
            "ssl_ca_certs= where its certificate is of an authority of your own"
        )
        return TransportRefusedError(self._name, str(error), remedy=remedy)

    async def exchange(self, commands: Sequence[Packed], *, timeout_s: float | None) -> list[Any]:
        """Send ``commands``, and return their replies; an error of the server's is one of them, not raised.

        Args:
            commands: As ``packed`` gives them.
            timeout_s: Within how many seconds all replies must be there; None is for ever.

        Raises:
            WireError: The connection failed, or the time is up; it is closed then.
            TransportRefusedError: The server asks for a password; it did nothing.
        """
        connection = self._connection
        try:
            async with asyncio.timeout(timeout_s):
                await connection.send_packed_command([b"".join(commands)], check_health=False)
                return await self._replies.read(len(commands))
        except TimeoutError as exc:
            await self.close()
            raise WireError(f"no answer within {timeout_s} s", is_sent=True) from exc
        except redis.exceptions.AuthenticationError as exc:  # one of the connection's errors for redis-py
            await self.close()
            raise self.refused(exc) from exc
        except (redis.exceptions.RedisError, OSError) as exc:
            await self.close()
            raise WireError(str(exc) or type(exc).__name__, is_sent=True) from exc
        except BaseException:  # replies of this call must not be taken for those of the next one
            await self.close()
            raise

    async def send(self, command: Packed) -> None:
        """Send a command whose answer comes among what ``receive`` gives.

        Raises:
            WireError: The connection failed.
        """
        try:
            await self._connection.send_packed_command([command], check_health=False)
        except (redis.exceptions.RedisError, OSError) as exc:
            await self.close()
            raise WireError(str(exc) or type(exc).__name__, is_sent=False) from exc

    async def receive(self, quiet_s: float, *, ask: Packed) -> list[Any]:
        """Return what the server has sent by itself; wait for something, where that is nothing yet.

        After ``quiet_s`` seconds of silence ``ask`` is sent, which it must answer within as much time again; the answer
        is something, too.

        Raises:
            WireError: The connection failed, or the server did not answer.
        """
        try:
            try:
                async with asyncio.timeout(quiet_s):
                    return await self._replies.read_some()
            except TimeoutError:
                await self._connection.send_packed_command([ask], check_health=False)
            async with asyncio.timeout(quiet_s):
                return await self._replies.read_some()
        except TimeoutError as exc:
            await self.close()
            raise WireError(f"no sign of life within {2 * quiet_s:g} s", is_sent=True) from exc
        except (redis.exceptions.RedisError, OSError) as exc:
            await self.close()
            raise WireError(str(exc) or type(exc).__name__, is_sent=True) from exc

    async def close(self) -> None:
        """Close the connection. Harmless where it is closed."""
        try:
            await self._connection.disconnect(nowait=True)
        except (redis.exceptions.RedisError, OSError):  # it is gone, which was wanted
            return


def problem_of(name: str, reply: Exception) -> AvxEventsError:
    """Return what an error reply of the server means for whoever sent the command: it was not done."""
    text = str(reply)
    if isinstance(reply, _LATER) or text.startswith(_NOT_NOW):
        return TransportUnavailableError(name, text)
    if isinstance(reply, redis.exceptions.NoPermissionError | redis.exceptions.AuthenticationError):
        return TransportRefusedError(name, text, remedy="give the user of the URL the permission")
    return TransportRefusedError(name, text, remedy="see what else uses these keys, or use another namespace")


_LATER: Final = (
    redis.exceptions.BusyLoadingError,
    redis.exceptions.ReadOnlyError,
    redis.exceptions.OutOfMemoryError,
    redis.exceptions.ClusterDownError,
    redis.exceptions.MasterDownError,
    redis.exceptions.TryAgainError,
)


def _is_about_tls(error: BaseException | None) -> bool:
    """Tell whether both sides are there, and do not agree on TLS; an end in the middle is nothing but that."""
    return isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError)


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    if not (parts.hostname or parts.path):
        message = "it names no server"
        raise ValueError(message)
    place = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{place}{parts.path}"

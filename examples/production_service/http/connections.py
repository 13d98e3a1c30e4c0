"""Connections: what a client may keep the server waiting for, and who makes room where there are too many.

| the client | how long | then |
|---|---|---|
| is silent after an answer | uvicorn's own time for idle connections | closed |
| connects or was answered, and sends no whole head of a request | ``Limits.head_timeout_s`` | cut |
| does not take its answer | ``Limits.answer_timeout_s`` | cut |
| is one too many | | whoever has kept the server waiting longest is cut |

The time for a body is the reader's; see ``requests``.
"""

import asyncio
import logging
from collections.abc import Iterable
from typing import Any, Final

import h11
import msgspec
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

log = logging.getLogger(__name__)


class Limits(msgspec.Struct, frozen=True):
    """What clients may take of the server.

    Attributes:
        connections: How many there may be; where all of them are being answered, one more is answered with 503.
        head_timeout_s: How long the head of a request may take, from the connection or the last answer on, in seconds.
        answer_timeout_s: How long an answer may wait for its client to take it, in seconds.
        requests_timeout_s: How long requests that are there when the server stops may take, in whole seconds.
    """

    connections: int = 1_000
    head_timeout_s: float = 10.0
    answer_timeout_s: float = 30.0
    requests_timeout_s: int = 5


DEFAULT_LIMITS: Final = Limits()


class Config(uvicorn.Config):
    """The configuration of uvicorn, with limits that it does not know."""

    def __init__(self, app: ASGIApp, *, limits: Limits, backlog: int) -> None:
        """Serve ``app`` within ``limits``."""
        super().__init__(
            app,
            http=Connection,
            lifespan="off",
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            limit_concurrency=limits.connections,
            backlog=backlog,
            timeout_graceful_shutdown=limits.requests_timeout_s,
        )
        self.limits: Final = limits


class Connection(H11Protocol):
    """A connection that knows whether its client is late, and makes room for itself where there are too many.

    Attributes:
        between_requests_since: When it was made or its last request answered, by the loop's clock.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        """Be one of the connections of ``server_state``."""
        super().__init__(config, server_state, app_state, _loop)
        self._limits: Final = config.limits
        self.between_requests_since = 0.0
        self._stalled_since: float | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Begin to wait for a request."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)  # whatever the client does not take is told at once
        self.between_requests_since = self.loop.time()
        self._make_room()

    def on_response_complete(self) -> None:
        """Begin to wait for the next request."""
        self.between_requests_since = self.loop.time()
        super().on_response_complete()

    def pause_writing(self) -> None:
        """Begin to wait for the client to take its answer."""
        self._stalled_since = self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        """Go on: it was taken."""
        self._stalled_since = None
        super().resume_writing()

    def is_late(self, now: float) -> bool:
        """Return whether the client has taken longer than it may for the head of a request, or for an answer."""
        if self._stalled_since is not None:
            return now - self._stalled_since > self._limits.answer_timeout_s
        return self._is_between_requests and now - self.between_requests_since > self._limits.head_timeout_s

    def cut(self) -> None:
        """End it at once; what was to be sent is thrown away."""
        self.connections.discard(self)
        self.transport.abort()

    @property
    def waits_for_client(self) -> bool:
        """Whether its client is to do something: send a request, the rest of one, or take an answer."""
        is_incomplete = self._is_between_requests or self.conn.their_state is h11.SEND_BODY
        return is_incomplete or self._stalled_since is not None

    @property
    def _is_between_requests(self) -> bool:
        return self.conn.our_state not in {h11.SEND_RESPONSE, h11.SEND_BODY}

    def _make_room(self) -> None:
        if len(self.connections) < self._limits.connections:
            return
        waiting = [other for other in _ours(self.connections) if other is not self and other.waits_for_client]
        if waiting:
            min(waiting, key=lambda other: other.between_requests_since).cut()


def cut_late(connections: Iterable[object], *, now: float) -> None:
    """Cut those of ``connections`` that are late at ``now``, an instant of the loop's clock."""
    late = [connection for connection in _ours(connections) if connection.is_late(now)]
    for connection in late:
        connection.cut()
    if late:
        log.info("cut %d connections: no whole request came, or no answer was taken, in time", len(late))


def _ours(connections: Iterable[object]) -> list[Connection]:
    return [connection for connection in connections if isinstance(connection, Connection)]

"""A connection that is written and read at once: replies come in while commands go out; see decision 0026."""

import asyncio
from collections.abc import Sequence
from typing import Any, Protocol

import redis.exceptions

from avx_events.distributed.redis.replies import Replies


class Listener(Protocol):
    """Whom a connection tells what becomes of it."""

    def take(self, replies: Sequence[Any]) -> None:
        """Be given replies in the order of the commands; an error of the server's is one of them."""
        ...

    def go_on(self) -> None:
        """Write again: what was written before has gone out."""
        ...

    def lose(self, problem: str) -> None:
        """Know that it was lost, and why; replies that are missing will not come."""
        ...


class Flow(asyncio.Protocol):
    """A connection that is made, from now until it is lost or closed.

    Attributes:
        is_open: Whether it was neither lost nor closed, as far as is known.
        is_clogged: Whether the server takes less than was written.
    """

    def __init__(self, transport: asyncio.Transport, replies: Replies, listener: Listener) -> None:
        """Read ``replies`` from ``transport`` for ``listener``."""
        self.is_open = True
        self.is_clogged = False
        self._transport = transport
        self._taken = replies.taken
        self._listener = listener

    def write(self, data: bytes) -> None:
        """Send ``data``, commands as ``packed`` gives them."""
        self._transport.write(data)

    def give_up(self, problem: str) -> None:
        """Take the connection as lost, and end it. Harmless where it was."""
        if self.is_open:
            self.close()
            self._transport.abort()
            self._listener.lose(problem)

    def close(self) -> None:
        """Tell the listener nothing any more."""
        self.is_open = False

    # What asyncio calls

    def data_received(self, data: bytes) -> None:
        """Give the listener what is complete."""
        if not self.is_open:
            return
        try:
            replies = self._taken(data)
        except redis.exceptions.InvalidResponse as exc:
            self.give_up(str(exc))
        else:
            self._listener.take(replies)

    def eof_received(self) -> None:
        """Take the end of the server's side as that of the connection."""
        self.give_up("the server closed the connection")

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the listener."""
        self.give_up(str(exc or "") or "the connection was closed")

    def pause_writing(self) -> None:
        """Have nothing more written."""
        self.is_clogged = True

    def resume_writing(self) -> None:
        """Have the listener go on."""
        self.is_clogged = False
        if self.is_open:
            self._listener.go_on()

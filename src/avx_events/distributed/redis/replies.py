"""Reads the replies to many commands at once: one by one, each costs redis-py as much as the command itself."""

from functools import partial
from typing import Any, Final

import redis.exceptions
from redis.asyncio.connection import DefaultParser

_ALL: Final = 1 << 30
_Parser: Final[Any] = DefaultParser  # that of hiredis, since its package is there


class Replies(_Parser):  # type: ignore[misc]  # redis-py has it as a variable
    """The parser of one of redis-py's connections, which can do more than one reply at a time."""

    def on_connect(self, connection: Any) -> None:
        """Begin with a connection that was just made."""
        base: Any = super()
        base.on_connect(connection)
        as_bytes = False
        self._next = partial(self._reader.gets, as_bytes)
        self._nothing = self._next()  # what it says as long as no reply is complete

    def taken(self, data: bytes) -> list[Any]:
        """Return the replies that are complete with ``data``, what has come; an error of the server's is one of them.

        Raises:
            redis.exceptions.InvalidResponse: What came is no reply.
        """
        self._reader.feed(data)
        following, nothing = self._next, self._nothing
        replies: list[Any] = []
        while (reply := following()) is not nothing:
            replies.append(reply)
        return replies

    async def read(self, count: int) -> list[Any]:
        """Return the next ``count`` replies; an error of the server's is one of them, not raised.

        Raises:
            redis.exceptions.ConnectionError: The connection was lost; the server says that it takes no more, or wants
                another password.
            redis.exceptions.InvalidResponse: What came is no reply.
            OSError: The connection was lost.
        """
        replies: list[Any] = []
        while len(replies) < count:
            self._take_what_is_there(replies, count)
            if len(replies) < count:
                await self._read_more()
        return replies

    async def read_some(self) -> list[Any]:
        """Return what the server has sent, waiting for one reply at least; cancelled, it loses none.

        Raises:
            redis.exceptions.ConnectionError: As ``read`` does.
            redis.exceptions.InvalidResponse: What came is no reply.
            OSError: The connection was lost.
        """
        replies: list[Any] = []
        self._take_what_is_there(replies, _ALL)
        while not replies:
            await self._read_more()
            self._take_what_is_there(replies, _ALL)
        return replies

    def _take_what_is_there(self, replies: list[Any], most: int) -> None:
        following, nothing = self._next, self._nothing
        while len(replies) < most and (reply := following()) is not nothing:
            if isinstance(reply, redis.exceptions.ConnectionError):
                raise reply
            replies.append(reply)

    async def _read_more(self) -> None:
        if not self._connected:
            problem = "the connection was closed"
            raise redis.exceptions.ConnectionError(problem)
        await self.read_from_socket()

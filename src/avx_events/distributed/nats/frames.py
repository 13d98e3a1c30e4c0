"""Messages as they go over the wire: nats-py takes each of them through a parser, a queue and two tasks of Python.

Source:
    https://docs.nats.io/reference/reference-protocols/nats-protocol
"""

import logging
from collections.abc import Callable, Mapping
from typing import Final, Protocol, TypeAlias

import msgspec

log = logging.getLogger("avx_events")

_END: Final = b"\r\n"
_VERSION: Final = "NATS/1.0"
_HEAD: Final = b"NATS/1.0\r\n"
_NOBODY: Final = b"NATS/1.0 503"
_NONE: Final[list[bytes]] = []
_WITHOUT: Final = b"MSG "
_WITH_HEADERS: Final = b"HMSG "
_FEWEST_WORDS: Final = 4
"""``MSG``, the subject, the number of the subscription, the size; a reply's subject stands before the size."""

_LINE_BREAKS: Final = str.maketrans("\r\n", "  ")


class Message(msgspec.Struct, gc=False):
    """What arrived, as it came: most of it is never looked at.

    Attributes:
        to: Where it was published.
        back: Where its answer goes; empty where it wants none.
        data: Its body.
        block: Its headers; empty where it has none.
    """

    to: bytes
    back: bytes
    data: bytes
    block: bytes = b""

    @property
    def subject(self) -> str:
        """Where it was published, as text."""
        return self.to.decode(errors="replace")

    @property
    def reply(self) -> str:
        """Where its answer goes, as text."""
        return self.back.decode(errors="replace")

    @property
    def headers(self) -> dict[str, str] | None:
        """Its headers, read anew each time; None where it has none."""
        return headers_in(self.block) if self.block else None

    @property
    def is_for_nobody(self) -> bool:
        """Whether the server says that nobody listens where an answer was asked for."""
        return self.block.startswith(_NOBODY)


Listener: TypeAlias = Callable[[Message], None]


class Rest(Protocol):
    """The parser of what else the server says."""

    async def parse(self, data: bytes) -> None:
        """Do what ``data`` asks for."""
        ...

    def reset(self) -> None:
        """Begin anew."""
        ...


class Frames:
    """Gives messages to their listeners, in the turn in which they came, and all else to nats-py's own parser.

    Attributes:
        listeners: By the number of their subscription, as it stands in a frame.
    """

    def __init__(self, rest: Rest, left: bytes) -> None:
        """Begin with what nats-py had ``left`` over."""
        self.listeners: dict[bytes, Listener] = {}
        self._rest = rest
        self._parts = [left] if left else []
        self._size = len(left)
        self._needed = 0

    async def parse(self, data: bytes) -> None:
        """Take what came from the server."""
        self._parts.append(data)
        self._size += len(data)
        if self._size < self._needed:  # of a large message: to join its parts each time would take the square of it
            return
        buffer = data if len(self._parts) == 1 else b"".join(self._parts)
        begin = await self._take(buffer)
        left = buffer[begin:]
        self._parts = [left] if left else []
        self._size = len(left)

    def reset(self) -> None:
        """Begin anew."""
        self._parts, self._size, self._needed = [], 0, 0
        self._rest.reset()

    async def _take(self, buffer: bytes) -> int:
        """Take what is complete of ``buffer``; return where the rest begins."""
        at = self._needed = 0
        while (end := buffer.find(_END, at)) >= 0:
            has_headers, size, block_size, words = False, -1, 0, _NONE
            if buffer.startswith(_WITHOUT, at) or (has_headers := buffer.startswith(_WITH_HEADERS, at)):
                words = buffer[at:end].split()
                try:
                    size, block_size = int(words[-1]), int(words[-2]) if has_headers else 0
                except ValueError:
                    size = -1
            if not 0 <= block_size <= size or len(words) - has_headers < _FEWEST_WORDS:
                await self._rest.parse(buffer[at : end + 2])  # which says what is wrong with it, if anything is
                at = end + 2
                continue
            body = end + 2
            stop = body + size
            if stop + 2 > len(buffer):
                self._needed = stop + 2 - at
                break
            listener = self.listeners.get(words[2])
            if listener is not None:  # else nobody listens any more
                reply = words[3] if len(words) - has_headers > _FEWEST_WORDS else b""
                begin = body + block_size
                message = Message(words[1], reply, buffer[begin:stop], buffer[body:begin])
                try:
                    listener(message)
                except Exception:
                    log.exception("a message to %s is lost; this is a bug in avx-events", message.subject)
            at = stop + 2
        return at


def frame(subject: str, body: bytes, *, reply: str = "", headers: Mapping[str, str] | None = None) -> bytes:
    """Return a message as it is published."""
    to = f"{subject} {reply}" if reply else subject
    if not headers:
        return b"PUB %b %d\r\n%b\r\n" % (to.encode(), len(body), body)
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    if lines.count("\n") != len(headers) or lines.count("\r") != len(headers):
        clean = [f"{name}: {value.translate(_LINE_BREAKS)}\r\n" for name, value in headers.items()]
        lines = "".join(clean)
    block = b"%b%b\r\n" % (_HEAD, lines.encode())
    return b"HPUB %b %d %d\r\n%b%b\r\n" % (to.encode(), len(block), len(block) + len(body), block, body)


class Frame(msgspec.Struct, frozen=True):
    """A message as it is published, but for the end of its reply's subject, one header's value and its body.

    Attributes:
        subject: Where to.
        block_bytes: How many bytes its headers take, without that value.
    """

    subject: str
    block_bytes: int
    head: bytes
    middle: bytes
    tail: bytes

    @classmethod
    def of(cls, subject: str, *, reply: str, header: str, headers: Mapping[str, str]) -> "Frame":
        """Return the frame of messages to ``subject``.

        Args:
            subject: Where to.
            reply: What the subject of their reply begins with.
            header: The name of the header whose value they differ in.
            headers: Their other headers, whose values are without line breaks.
        """
        before = b"%b%b: " % (_HEAD, header.encode())
        tail = "".join(["\r\n", *[f"{name}: {value}\r\n" for name, value in headers.items()], "\r\n"]).encode()
        return cls(subject, len(before) + len(tail), f"HPUB {subject} {reply}".encode(), _END + before, tail)

    def around(self, number: int, value: bytes, body: bytes) -> bytes:
        """Return the message: a third of what ``frame`` takes.

        Args:
            number: What the subject of its reply ends with.
            value: Of its own header, without line breaks.
            body: What.
        """
        block_bytes = self.block_bytes + len(value)
        sizes = (number, block_bytes, block_bytes + len(body))
        return b"".join((self.head, b"%d %d %d" % sizes, self.middle, value, self.tail, body, _END))


def headers_in(block: bytes) -> dict[str, str]:
    """Return the headers of a message; a status of the server is ``Status`` and ``Description`` among them."""
    first, *lines = block.decode(errors="replace").split("\r\n")
    status, _, description = first.removeprefix(_VERSION).strip().partition(" ")
    headers = {"Status": status} if status else {}
    if description:
        headers["Description"] = description
    for line in lines:
        name, colon, value = line.partition(":")
        if colon:
            headers[name.strip()] = value.strip(" \t")
    return headers

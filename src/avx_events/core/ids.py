"""Event ids: UUIDv7 text (RFC 9562), unique across processes and forks, sortable by time, cheap."""

import os
import threading
import weakref
from itertools import islice, repeat
from operator import concat
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Iterator

# The last four hex digits of an id, looked up instead of formatted: formatting costs 150 ns, this 20.
# Made of pairs, since formatting all 65,536 would add 12 ms to every import, three times as much as this.
_PAIRS = [f"{n:02x}" for n in range(0x100)]
SUFFIXES = tuple([high + low for high in _PAIRS for low in _PAIRS])


class IdBlock:
    """A block of up to 65,536 ids that share a millisecond and 58 random bits.

    The hot path of a bus takes ids inline: before ``until_ns`` the next of ``unused``, and calls ``take`` where there
    is none. Not safe between threads: each bus has its own block; ``new_id`` is for everybody else.

    Source:
        RFC 9562, section 5.7, and section 6.2 method 1 for the counter in the low bits.
    """

    __slots__ = ("__weakref__", "millisecond", "until_ns", "unused")

    def __init__(self) -> None:
        """Begin spent, so that the first id renews."""
        self.millisecond = -1
        self.until_ns = 0
        self.unused: Iterator[str] = iter(())  # until_ns alone would not renew for a clock before 1970
        _blocks.add(self)

    def renew(self, now_ns: int) -> None:
        """Draw a new prefix for ``now_ns`` (Unix nanoseconds), never before one that was used already."""
        # A clock that went back, or a block used up inside one millisecond, borrows the next millisecond.
        self.millisecond = max(now_ns // 1_000_000, self.millisecond + 1)
        self.until_ns = (self.millisecond + 1) * 1_000_000
        time = f"{self.millisecond:012x}"
        noise = int.from_bytes(os.urandom(8), "big") >> 6
        variant = 0x8000 | (noise >> 32 & 0x3FFF)
        prefix = f"{time[:8]}-{time[8:]}-7{noise >> 46 & 0xFFF:03x}-{variant:04x}-{noise & 0xFFFFFFFF:08x}"
        self.unused = cast("Iterator[str]", map(concat, repeat(prefix), SUFFIXES))  # typed for any sequence

    def take(self, now_ns: int) -> str:
        """Return the next id at ``now_ns`` (Unix nanoseconds)."""
        if now_ns >= self.until_ns:
            self.renew(now_ns)
        event_id = next(self.unused, None)
        if event_id is None:
            self.renew(now_ns)
            event_id = next(self.unused)
        return event_id

    def take_many(self, now_ns: int, count: int) -> list[str]:
        """Return the next ``count`` ids at ``now_ns`` (Unix nanoseconds), ascending."""
        if now_ns >= self.until_ns:
            self.renew(now_ns)
        taken = list(islice(self.unused, count))
        while len(taken) < count:
            self.renew(now_ns)
            taken += islice(self.unused, count - len(taken))
        return taken

    def spend(self) -> None:
        """Make the next id renew: a forked child must not go on in its parent's block."""
        self.until_ns = 0
        self.unused = iter(())


_blocks: "weakref.WeakSet[IdBlock]" = weakref.WeakSet()
_shared = IdBlock()
_shared_lock = threading.Lock()


def new_id(now_ns: int) -> str:
    """Return an id at ``now_ns`` (Unix nanoseconds); safe from every thread."""
    with _shared_lock:
        return _shared.take(now_ns)


def _after_fork_in_child() -> None:
    global _shared_lock  # noqa: PLW0603 - the parent's lock may have been held at the fork
    _shared_lock = threading.Lock()
    for block in _blocks:
        block.spend()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)

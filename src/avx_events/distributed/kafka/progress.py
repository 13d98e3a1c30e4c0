"""How far one handler is in one partition, and how that is written down beside its offset in Kafka.

An offset that is committed says that everything before it is done. What is done behind it, out of order, and how often
what is not done was begun is kept in the metadata of the commit, a short text:

``1;m:2a;d:1-3,0-1;a:0-2``

| field | what it holds |
|---|---|
| ``1`` | the version of this layout |
| ``m`` | up to where events may have been given out, as a distance from the offset; left out where it is 0 |
| ``d`` | runs of events that are done: how far after the run before, or after the offset, and how many |
| ``a`` | attempts: how far after the one before, or after the offset, and how many have begun |

All numbers are hexadecimal.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

MOST_BYTES: Final = 4000
"""Brokers take 4,096 bytes of metadata unless they are set to take less."""

_VERSION: Final = "1"


class Noted(msgspec.Struct, frozen=True):
    """What a commit says.

    Attributes:
        offset: Of the first event that is not done.
        given_to: Up to where events may have been given out: those before it may have been begun.
        done: Offsets behind the first that are done all the same.
        attempts: How many attempts have begun, by offset.
    """

    offset: int
    given_to: int = 0
    done: frozenset[int] = frozenset()
    attempts: dict[int, int] = msgspec.field(default_factory=dict[int, int])


def write(noted: Noted, *, most_bytes: int = MOST_BYTES) -> str:
    """Return the metadata of a commit.

    What does not fit is left out: of what is done, the runs that are furthest behind the offset, whose events then run
    again after a crash; then attempts in the same way, which then count from 0.
    """
    offset = noted.offset
    fields = [_VERSION]
    if noted.given_to > offset:
        fields.append(f"m:{noted.given_to - offset:x}")
    attempts = sorted((at, count) for at, count in noted.attempts.items() if at >= offset and count)
    room = most_bytes - len(";".join(fields))
    written = _pairs(_distances(attempts, offset), room - len(";a:"))
    if written:
        fields.append(f"a:{written}")
        room -= len(";a:") + len(written)
    runs = _pairs(_run_distances(_runs(noted.done), offset), room - len(";d:"))
    if runs:
        fields.append(f"d:{runs}")
    return ";".join(fields)


def read(offset: int, metadata: str) -> Noted:
    """Return what a commit says; metadata that another wrote says nothing.

    Args:
        offset: That was committed.
        metadata: Beside it; it may come from anywhere, and raises nothing.
    """
    version, *fields = metadata.split(";")
    if version != _VERSION:
        return Noted(offset)
    found = {name: value for name, _, value in (field.partition(":") for field in fields)}
    try:
        given_to = offset + int(found.get("m", "0"), 16)
        done = frozenset(_done_in(found.get("d", ""), offset))
        attempts = dict(_attempts_in(found.get("a", ""), offset))
    except ValueError:
        return Noted(offset)
    return Noted(offset, given_to, done, attempts)


class Progress:
    """How far a handler is in a partition, while this member holds it.

    Attributes:
        given_to: After the last event that was given out, or past by.
        safe_to: Up to where events may be given out: those before it count as begun for whoever comes next.
    """

    __slots__ = (
        "_attempts",
        "_begun_to",
        "_done",
        "_done_before",
        "_fresh",
        "_order",
        "_unfinished",
        "given_to",
        "safe_to",
    )

    def __init__(self, noted: Noted) -> None:
        """Go on where the member before has ended."""
        self._done_before = set(noted.done)
        self._begun_to = noted.given_to
        self._attempts = dict(noted.attempts)
        self._order: deque[int] = deque()  # given out, in order; the first is not done
        self._unfinished: set[int] = set()
        self._done: set[int] = set()
        self._fresh: set[int] = set()  # given out, and given back before they began
        self.given_to = noted.offset
        self.safe_to = noted.given_to

    @property
    def offset(self) -> int:
        """The offset of the first event that is not done."""
        return self._order[0] if self._order else self.given_to

    def give(self, offset: int) -> bool:
        """Take note that an event is given out; False where it was done before, and is not to be."""
        self.given_to = offset + 1
        if offset in self._done_before:
            self._done_before.discard(offset)
            if self._order:
                self._done.add(offset)
            return False
        self._order.append(offset)
        self._unfinished.add(offset)
        return True

    def pass_to(self, offset: int) -> None:
        """Take note that there is nothing to give out before ``offset``."""
        self.given_to = max(self.given_to, offset)

    def is_again(self, offset: int) -> bool:
        """Tell whether the member before may have begun with an event."""
        return offset < self._begun_to

    def attempts(self, offset: int) -> int:
        """Return how many attempts have begun, as far as they were counted."""
        return self._attempts.get(offset, 0)

    def count(self, offset: int, attempts: int) -> bool:
        """Keep how many attempts have begun; False where that is known already, or the event is done."""
        if offset not in self._unfinished or self._attempts.get(offset, 0) == attempts:
            return False
        self._attempts[offset] = attempts
        return True

    def finish(self, offset: int) -> None:
        """Take note that an event is done, also where it will only be come by: it ran here before the lane was lost."""
        if offset >= self.given_to:
            self._done_before.add(offset)
        if offset not in self._unfinished:
            return
        self._unfinished.discard(offset)
        self._attempts.pop(offset, None)
        self._done.add(offset)
        while self._order and self._order[0] not in self._unfinished:
            self._done.discard(self._order.popleft())
        if not self._order:
            self._done.clear()

    def give_back(self, offset: int, *, has_begun: bool) -> None:
        """Take note that an event is left to whoever comes next, and whether its handler has begun."""
        if not has_begun:
            self._fresh.add(offset)

    def close(self) -> None:
        """Take note that nothing more is given out: what was, and has begun, and is not done, comes again as such."""
        begun = self._unfinished - self._fresh
        self.safe_to = max(begun, default=self.offset - 1) + 1

    def noted(self) -> Noted:
        """Return what a commit is to say now."""
        offset = self.offset
        done = frozenset(at for at in self._done if at > offset) | self._done_before
        return Noted(offset, self.safe_to, done, dict(self._attempts))


def _runs(offsets: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Give the first and the length of each run in ``offsets``."""
    first = following = -1
    for offset in sorted(offsets):
        if offset != following:
            if following != first:
                yield first, following - first
            first = offset
        following = offset + 1
    if following != first:
        yield first, following - first


def _run_distances(runs: Iterable[tuple[int, int]], offset: int) -> Iterator[tuple[int, int]]:
    for first, length in runs:
        if first >= offset:
            yield first - offset, length
            offset = first + length


def _distances(pairs: Iterable[tuple[int, int]], offset: int) -> Iterator[tuple[int, int]]:
    for at, count in pairs:
        yield at - offset, count
        offset = at


def _pairs(pairs: Iterable[tuple[int, int]], room: int) -> str:
    """Write as many of ``pairs`` as there is room for."""
    parts: list[str] = []
    for first, second in pairs:
        part = f"{first:x}-{second:x}"
        room -= len(part) + 1
        if room < -1:
            break
        parts.append(part)
    return ",".join(parts)


def _pairs_in(text: str) -> Iterator[tuple[int, int]]:
    for part in text.split(",") if text else ():
        first, _, second = part.partition("-")
        yield int(first, 16), int(second, 16)


def _done_in(text: str, offset: int) -> Iterator[int]:
    for distance, length in _pairs_in(text):
        if length > MOST_BYTES * 16:  # more than anybody has in flight: it is not ours
            raise ValueError
        first = offset + distance
        yield from range(first, first + length)
        offset = first + length


def _attempts_in(text: str, offset: int) -> Iterator[tuple[int, int]]:
    for distance, count in _pairs_in(text):
        offset += distance
        yield offset, count

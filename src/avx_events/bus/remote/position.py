"""How far a handler is in one lane, and what of it is kept in the broker."""

from itertools import islice, takewhile
from typing import Final

import msgspec

_FEW: Final = 16
"""So many open numbers are rather named than everything that follows on them looked at again."""


class Position(msgspec.Struct, omit_defaults=True, kw_only=True):
    """The value of a position's key, as JSON.

    Attributes:
        member: Who holds the lane; empty where nobody does.
        log: When the stream was made whose numbers these are.
        done: Everything up to this number is done, but for ``open``.
        open: What is not done, of the numbers up to ``done``, ascending.
        given: What is past this number was given to no handler yet.
        attempts: How many attempts have begun, of what failed or came again; 0 where it was given back unbegun.
    """

    member: str = ""
    log: str = ""
    done: int = 0
    open: list[int] = []
    given: int = 0
    attempts: dict[int, int] = {}


encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Position).decode


def decode(value: bytes) -> Position | None:
    """Return the position that is written there; None where it cannot be read."""
    try:
        return _decode(value)
    except (msgspec.DecodeError, msgspec.ValidationError):
        return None


class Progress:
    """What a member knows of a lane that it holds.

    Attributes:
        again: The numbers that are to be had before what follows on ``done``, ascending.
        done: Everything up to this number is done, but for what is unfinished.
        log: When the stream was made whose numbers these are.
        given: Past this number nothing was given to a handler, or will be before a greater one is written.
    """

    __slots__ = ("_attempts", "_done_early", "_given_before", "_taken", "_unfinished", "again", "done", "given", "log")

    def __init__(self, position: Position, *, log: str, last: int) -> None:
        """Go on from ``position``.

        Args:
            position: As it is in the broker.
            log: When the stream was made.
            last: Its last number. What comes later was given to nobody, whatever ``position`` has allowed for.
        """
        if position.log != log:  # another stream of that name: all of it is new
            position = Position(log=log)
        self.log = log
        self.done = self._taken = min(position.done, last)
        self.again = [number for number in position.open if number <= self.done]
        self.given = self._given_before = max(self.done, min(position.given, last))
        self._attempts = {number: count for number, count in position.attempts.items() if number <= last}
        # In the order in which they came, which is ascending.
        self._unfinished: dict[int, None] = dict.fromkeys(self.again)
        self._done_early: set[int] = set()

    def attempts(self, number: int) -> int | None:
        """Return how many attempts have begun with it; None where a handler may have begun and did not say so."""
        return self._attempts.get(number, None if number <= self._given_before else 0)

    def take(self, number: int) -> bool:
        """Note that it is given to the handler now; False where it is done, and is not to be given."""
        if number <= self._taken:
            return number in self._unfinished
        self._taken = number
        if number in self._done_early:
            self._done_early.remove(number)
            self.done = number
            return False
        self._unfinished[number] = None
        return True

    def pass_over(self, number: int) -> None:
        """Note that up to ``number`` there is nothing for the handler but what it was given."""
        if number <= self._taken:
            return
        self._taken = number
        if len(list(islice(takewhile(self.done.__lt__, reversed(self._unfinished)), _FEW + 1))) <= _FEW:
            self.done = number

    def count(self, number: int, attempts: int) -> None:
        """Note how many attempts have begun with it."""
        if number in self._unfinished:
            self._attempts[number] = attempts

    def give_back(self, number: int) -> None:
        """Note that no attempt has begun with it, if none was counted before."""
        self._attempts.setdefault(number, 0)

    def finish(self, number: int) -> None:
        """Note that it is done, perhaps by a handler that this member gave it to when it held the lane before."""
        if number in self._unfinished:
            del self._unfinished[number]
            self._attempts.pop(number, None)
            self.done = max(self.done, number)
        elif number > self._taken:
            self._done_early.add(number)

    def learn(self, before: "Progress") -> None:
        """Take over what this member knew when it held the lane before, where nobody has held it since."""
        for number, count in before.released().attempts.items():
            if number > self.done or number in self._unfinished:
                self._attempts.setdefault(number, count)

    def position(self, member: str) -> Position:
        """Return what is to be kept while ``member`` holds the lane."""
        return self._position(member, self.given)

    def released(self) -> Position:
        """Return what is to be kept when nobody holds the lane any more."""
        return self._position("", max(self._taken, self._given_before))

    def _position(self, member: str, given: int) -> Position:
        open_ = list(takewhile(self.done.__gt__, self._unfinished))
        return Position(
            member=member, log=self.log, done=self.done, open=open_, given=given, attempts=dict(self._attempts)
        )


def first_position(start: str, *, log: str, last: int) -> Position:
    """Return where a group that is new begins: ``latest`` or ``earliest``."""
    done = {"latest": last, "earliest": 0}[start]
    return Position(log=log, done=done, given=done)

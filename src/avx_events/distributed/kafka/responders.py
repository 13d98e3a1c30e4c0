"""Who responds to which requests, as the records of their topic say, one after the other.

| state of a responder | how it comes to it | is it asked |
|---|---|---|
| there | a sign of life that names the type | yes |
| left | a sign of life that does not name the type | no |
| late | no sign of life for as long as the last one said | no, until the next one |

Time is what the broker wrote beside each record. Whoever has read the records up to a question, its requester and its
responder too, so comes to the same answer to whether the responder was there.
"""

from collections.abc import Iterator
from typing import Final

import msgspec

from avx_events.bus.remote.ports import Address
from avx_events.core.clock import Clock

LIFE_S: Final = 5.0
"""How long a responder counts as there after its last sign of life."""

_SURE_WITHIN_S: Final = 0.5
_FRESH_FOR_S: Final = 30.0


class SignOfLife(msgspec.Struct, frozen=True):
    """What a bus says of itself.

    Attributes:
        types: Of the requests that it responds to; none where it left, or only asks.
        seconds: How long that holds from its writing on, where nothing else is said.
    """

    types: tuple[str, ...]
    seconds: float = LIFE_S


class _Heard(msgspec.Struct, frozen=True):
    number: int
    types: tuple[str, ...]
    until_ms: float


class Responders:
    """What the records say up to the one that was read last.

    Attributes:
        now_ms: When that was written, in the broker's Unix milliseconds.
    """

    def __init__(self) -> None:
        """Begin before the first record."""
        self.now_ms = 0
        self._quiet_until_ms = 0.0
        self._heard: dict[Address, _Heard] = {}
        self._turn = 0

    def pass_to(self, timestamp_ms: int) -> None:
        """Take note that another record was written then."""
        if self.now_ms and timestamp_ms - self.now_ms > LIFE_S * 1000:  # the broker was away, or nobody was there
            self._quiet_until_ms = timestamp_ms + LIFE_S * 1000
        self.now_ms = timestamp_ms

    def hear(self, address: Address, number: int, sign: SignOfLife) -> None:
        """Take a sign of life over, which was written just now.

        Args:
            address: Of who says it.
            number: Which of its records it is. One that comes after a later one says nothing any more.
            sign: What it says.
        """
        before = self._heard.get(address)
        if before is None or before.number < number:
            self._heard[address] = _Heard(number, sign.types, self.now_ms + sign.seconds * 1000)
        if self.now_ms >= self._quiet_until_ms:
            self._heard = {at: heard for at, heard in self._heard.items() if heard.until_ms > self.now_ms}

    def is_there(self, address: Address, event_type: str) -> bool:
        """Tell whether a request of ``event_type`` that was written just now is answered at ``address``."""
        heard = self._heard.get(address)
        return heard is not None and event_type in heard.types and heard.until_ms > self.now_ms

    def next(self, event_type: str) -> Address | None:
        """Return one of those who are there, each in its turn; None where nobody is."""
        there = [address for address in self._naming(event_type) if self.is_there(address, event_type)]
        if not there:
            return None
        self._turn += 1
        return there[self._turn % len(there)]

    def may_come_back(self, event_type: str) -> bool:
        """Tell whether somebody may only be late because nobody could say anything before."""
        return self.now_ms < self._quiet_until_ms and any(self._naming(event_type))

    def _naming(self, event_type: str) -> Iterator[Address]:
        return (address for address, heard in self._heard.items() if event_type in heard.types)


class BrokersTime:
    """What time it is at the broker, as records of ours tell: each was written between its sending and its answer."""

    def __init__(self, clock: Clock) -> None:
        """Know nothing yet."""
        self._clock = clock
        self._ahead_ms: float | None = None
        self._measured_at = 0.0

    @property
    def is_fresh(self) -> bool:
        """Whether it was told lately: clocks drift, and leaders change."""
        return self._clock.monotonic() - self._measured_at < _FRESH_FOR_S

    def learn(self, timestamp_ms: int, *, sent_at: float, accepted_at: float) -> None:
        """Take over when a record was written, unless it took so long that it says little; times are monotonic."""
        if self._ahead_ms is None or accepted_at - sent_at < _SURE_WITHIN_S:
            self._ahead_ms = timestamp_ms - (sent_at + accepted_at) / 2 * 1000
            self._measured_at = accepted_at

    def now_ms(self) -> float:
        """Return its time, in Unix milliseconds; 0 where nothing is known."""
        return 0 if self._ahead_ms is None else self._clock.monotonic() * 1000 + self._ahead_ms

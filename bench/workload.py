"""What every contender does in a round: the events that are published, and the loop that reads them."""

from collections.abc import AsyncIterable
from time import perf_counter

import msgspec

from avx_events import Event, Request

CAPACITY = 1024
"""How many events a subscription holds, for every contender that lets one choose."""


class UserCreated(Event, event_type="bench.user.created", aggregate_id="user_id"):
    """Ours."""

    user_id: str
    email: str
    name: str


class PlainUserCreated(msgspec.Struct, frozen=True, gc=False):
    """The same three fields for the limits, and for peers that take any object: nothing is cheaper to make."""

    user_id: str
    email: str
    name: str


class UserView(msgspec.Struct, frozen=True, gc=False):
    user_id: str
    email: str


class GetUser(Request[UserView], event_type="bench.get.user", aggregate_id="user_id"):
    """Ours."""

    user_id: str


class PlainGetUser(msgspec.Struct, frozen=True, gc=False):
    """The same field for the limits."""

    user_id: str


def per_second(count: int, started: float) -> float:
    """Return how many of ``count`` were done in a second since ``started``, a reading of ``perf_counter``."""
    return count / (perf_counter() - started)


async def read(subscriber: AsyncIterable[object], count: int) -> None:
    """Receive ``count`` events, one by one."""
    received = 0
    async for _ in subscriber:
        received += 1
        if received == count:
            return

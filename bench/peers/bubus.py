"""bubus: an event dispatched to an async handler and awaited, the fastest of its ways.

Without awaiting each one, ``dispatch`` refuses the hundredth event under way, and with its history unlimited it is
twice as slow.
"""

from time import perf_counter

from bubus import BaseEvent, EventBus  # type: ignore[import-untyped]

from bench.rounds import each_round
from bench.workload import per_second


class UserCreated(BaseEvent[None]):  # type: ignore[misc]
    user_id: str
    email: str
    name: str


@each_round
async def handled(count: int) -> float:
    received = 0

    async def count_up(_: UserCreated) -> None:
        nonlocal received
        received += 1

    bus = EventBus()
    bus.on(UserCreated, count_up)
    try:
        started = perf_counter()
        for _ in range(count):
            await bus.dispatch(UserCreated(user_id="123", email="user@example.com", name="John Doe"))
        speed = per_second(count, started)
    finally:
        await bus.stop(clear=True)
    assert received == count
    return speed

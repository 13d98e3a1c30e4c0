"""blinker: a signal whose one receiver is a coroutine function, awaited by ``send_async``."""

from time import perf_counter

from blinker import Signal

from bench.rounds import each_round
from bench.workload import PlainUserCreated, per_second


@each_round
async def handled(count: int) -> float:
    received = 0

    async def count_up(_sender: object, *, event: PlainUserCreated) -> None:  # noqa: ARG001 - the signal's signature
        nonlocal received
        received += 1

    user_created = Signal()
    user_created.connect(count_up)
    started = perf_counter()
    for _ in range(count):
        await user_created.send_async(event=PlainUserCreated("123", "user@example.com", "John Doe"))
    speed = per_second(count, started)
    assert received == count
    return speed

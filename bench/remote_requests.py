"""Requests through a broker on this machine: this process asks, another one answers; ``bench/responder.py`` is that.

Who is measured is a module with two functions: ``asking``, an ``Asking``, and ``answering``, an ``Answering`` of
``bench/responder.py``. Each has a server of its own.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib import import_module
from time import perf_counter
from typing import Final, TypeAlias

from bench.brokers import Broker, running
from bench.children import child
from bench.rounds import Comparison, Contender, Opening, Round, Target
from bench.workload import UserView, per_second

DEADLINE_S: Final = 5.0
"""How long a reply is waited for: our default."""

EMAIL: Final = "user@example.com"

Ask: TypeAlias = Callable[[str], Awaitable[UserView]]
"""Asks for the user of an id, whose reply tells the id and ``EMAIL``."""

Asking: TypeAlias = Callable[[str], AbstractAsyncContextManager[Ask]]
"""Connects to the broker at a URL."""


def answered(broker: Broker, module: str, callers: int) -> Opening:
    """Measure requests a second of so many callers, each of which awaits one reply after the other."""

    @asynccontextmanager
    async def opening(count: int) -> AsyncGenerator[Round, None]:
        asking: Asking = import_module(module).asking
        responding = child("bench.responder", module)
        async with running(broker) as url, responding(url) as responder, asking(url) as ask:
            assert await responder.line() == b"ready"

            async def measure() -> float:
                started = perf_counter()
                async with asyncio.TaskGroup() as calling:
                    for first in range(min(callers, count)):
                        calling.create_task(_call(ask, range(first, count, callers)))
                return per_second(count, started)

            yield measure

    return opening


async def _call(ask: Ask, numbers: range) -> None:
    for number in numbers:
        user_id = str(number)
        view = await ask(user_id)
        assert view.user_id == user_id


def comparison(broker: Broker, called: str, callers: int, *others: Contender, raw: str, count: int) -> Comparison:
    """Compare ours with a raw client, and with who else can do it.

    Args:
        broker: Through which.
        called: What titles call it.
        callers: How many ask at the same time.
        others: The raw client, and its peers.
        raw: The name of the raw client.
        count: Requests in a round of ours.
    """
    by = "1 caller" if callers == 1 else f"{callers} callers"
    ours = Contender("avx-events", answered(broker, "bench.remote_bus", callers), count)
    return Comparison(
        f"request and reply through {called}, 2 processes, {by}",
        "requests/s",
        (ours, *others),
        (Target(raw, at_least=0.7),),
    )

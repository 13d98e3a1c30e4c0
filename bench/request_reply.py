"""How fast is a request answered in process, with the default deadline?"""

import asyncio
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import TypeVar

from avx_events import RequestReplyBus
from bench.limits.bus import Envelope, LimitRequests
from bench.rounds import Comparison, Contender, Opening, Target, each_round, peer
from bench.workload import GetUser, PlainGetUser, UserView, per_second

RequestT = TypeVar("RequestT")


async def ask(request: Callable[[RequestT], Awaitable[UserView]], make: Callable[[str], RequestT], count: int) -> None:
    for _ in range(count):
        view = await request(make("123"))
        assert view.user_id == "123"


async def ask_from(
    callers: int, request: Callable[[RequestT], Awaitable[UserView]], make: Callable[[str], RequestT], count: int
) -> float:
    each = -(-count // callers)
    started = perf_counter()
    async with asyncio.TaskGroup() as asking:
        for _ in range(callers):
            asking.create_task(ask(request, make, each))
    return per_second(each * callers, started)


def with_avx(callers: int) -> Opening:
    @each_round
    async def measure(count: int) -> float:
        bus = RequestReplyBus()

        @bus.respond(GetUser)
        async def get_user(request: GetUser) -> UserView:
            return UserView(request.user_id, "user@example.com")

        async with bus:
            return await ask_from(callers, bus.request, GetUser, count)

    return measure


def at_the_limit(callers: int) -> Opening:
    @each_round
    async def measure(count: int) -> float:
        async def get_user(envelope: Envelope) -> UserView:
            return UserView(envelope.metadata.aggregate_id, "user@example.com")

        requests = LimitRequests(get_user)
        async with asyncio.TaskGroup() as serving:
            server = serving.create_task(requests.serve())
            speed = await ask_from(callers, requests.request, PlainGetUser, count)
            server.cancel()
        return speed

    return measure


QUEUE_LIMIT = "limit: queue and server task, no timers"
MEDIATOR = "python-cqrs, RequestMediator"

COMPARISONS = (
    Comparison(
        "request and reply in process, default deadline, 1 caller",
        "requests/s",
        (
            Contender("avx-events", with_avx(1), 30_000),
            Contender(QUEUE_LIMIT, at_the_limit(1), 20_000),
            Contender(MEDIATOR, peer("bench.peers.cqrs:asked_by_one"), 20_000, package="python-cqrs"),
            Contender(
                "python-cqrs, bootstrap() with di", peer("bench.peers.cqrs:bootstrapped"), 3_000, package="python-cqrs"
            ),
        ),
        (Target(MEDIATOR, at_least=2.0),),
    ),
    Comparison(
        "request and reply in process, default deadline, 100 callers",
        "requests/s",
        (
            Contender("avx-events", with_avx(100), 50_000),
            Contender(QUEUE_LIMIT, at_the_limit(100), 50_000),
            Contender(MEDIATOR, peer("bench.peers.cqrs:asked_by_hundred"), 20_000, package="python-cqrs"),
        ),
        (Target(QUEUE_LIMIT, at_least=0.5),),
    ),
)

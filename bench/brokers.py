"""Events through a broker on this machine: this process publishes, another one handles; ``bench/consumer.py`` is that.

Who is measured is a module with two functions: ``publishing``, a ``Publishing``, and ``handling``, a ``Handling`` of
``bench/consumer.py``. Each has a server of its own, all of one kind with the same options, so that nothing of one
waits in the way of another, or topics of its own on a server that is shared. What a round has sent is counted at the
server, and so is what it has not acknowledged.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, contextmanager
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, process_time
from typing import Final, TypeAlias

import msgspec

from bench.children import Child, child
from bench.consumer import Report
from bench.rounds import MissingError, Opening, Round
from bench.workload import per_second
from tests.servers.process import Server
from tests.servers.software import MissingServerError

TASKS: Final = 100
"""How many tasks publish at the same time, or how many events go out in one pipeline."""

_PER_SECOND: Final = 500
_ACKNOWLEDGED_WITHIN_S: Final = 5.0


class Publisher(msgspec.Struct, frozen=True):
    """How a contender publishes.

    Attributes:
        one: Publishes the order of a number, and returns when the broker has accepted it.
        many: Publishes the orders of a range, as fast as it can.
    """

    one: Callable[[int], Awaitable[object]]
    many: Callable[[range], Awaitable[object]]


Publishing: TypeAlias = Callable[[str], AbstractAsyncContextManager[Publisher]]
"""Connects to the broker at a URL."""


class Broker(msgspec.Struct, frozen=True):
    """A kind of server.

    Attributes:
        program: What has to be installed.
        server_in: Describes one that keeps what it must in a folder.
        stored: Counts the events that are in the one at a URL.
        unacknowledged: Counts those among them that a group was not given, or has not acknowledged; 0 means none,
            and more than 0 that there are some.
        is_shared: Whether contenders that are measured side by side use one server, each with topics of its own.
    """

    program: str
    server_in: Callable[[Path], Server]
    stored: Callable[[str], Awaitable[int]]
    unacknowledged: Callable[[str], Awaitable[int]]
    is_shared: bool = False


class Turn(msgspec.Struct, frozen=True):
    """What was seen of a round that was published and handled.

    Attributes:
        count: Events in it.
        wall_s: Seconds from before the first was published until the last was acknowledged.
        cpu_s: Seconds of CPU time of both processes.
        report: Of the process that handled.
    """

    count: int
    wall_s: float
    cpu_s: float
    report: Report

    @property
    def per_second(self) -> float:
        return self.count / self.wall_s

    @property
    def cpu_us(self) -> float:
        """Microseconds of CPU time for each event."""
        return self.cpu_s / self.count * 1e6


def by_tasks(one: Callable[[int], Awaitable[object]]) -> Callable[[range], Awaitable[None]]:
    """Return what publishes a range by ``TASKS`` tasks, each of which awaits one publish after the other."""

    async def publish(numbers: range) -> None:
        for number in numbers:
            await one(number)

    async def many(numbers: range) -> None:
        async with asyncio.TaskGroup() as publishing:
            for first in range(min(TASKS, len(numbers))):
                publishing.create_task(publish(numbers[first::TASKS]))

    return many


def published(broker: Broker, module: str) -> Opening:
    """Measure events a second that are accepted; nobody reads them."""

    @asynccontextmanager
    async def opening(count: int) -> AsyncGenerator[Round, None]:
        publishing: Publishing = import_module(module).publishing
        async with running(broker) as url, publishing(url) as publisher:

            async def measure() -> float:
                before = await broker.stored(url)
                started = perf_counter()
                await publisher.many(range(count))
                speed = per_second(count, started)
                assert await broker.stored(url) - before == count
                return speed

            yield measure

    return opening


def handled(broker: Broker, module: str, figure: Callable[[Turn], float]) -> Opening:
    """Measure a figure of rounds in which events are published and handled as fast as they can be."""

    async def at_full_speed(publisher: Publisher, numbers: range) -> None:
        await publisher.many(numbers)

    return _turns(broker, module, figure, at_full_speed)


def paced(broker: Broker, module: str, figure: Callable[[Turn], float]) -> Opening:
    """Measure a figure of rounds in which an event is published every 2 ms, one after the other."""

    async def at_pace(publisher: Publisher, numbers: range) -> None:
        loop = asyncio.get_running_loop()
        started = loop.time()
        for number in numbers:
            await asyncio.sleep(started + number / _PER_SECOND - loop.time())
            await publisher.one(number)

    return _turns(broker, module, figure, at_pace)


def _turns(
    broker: Broker,
    module: str,
    figure: Callable[[Turn], float],
    publish: Callable[[Publisher, range], Awaitable[None]],
) -> Opening:
    @asynccontextmanager
    async def opening(count: int) -> AsyncGenerator[Round, None]:
        publishing: Publishing = import_module(module).publishing
        consuming = child("bench.consumer", module)
        async with running(broker) as url, consuming(url) as consumer, publishing(url) as publisher:

            async def measure() -> float:
                await _begin(consumer, count)
                cpu_s, started = process_time(), perf_counter()
                await publish(publisher, range(count))
                report = await _end(consumer)
                turn = Turn(count, perf_counter() - started, process_time() - cpu_s + report.cpu_s, report)
                assert (report.handled, report.again) == (count, 0)
                await _all_acknowledged(broker, url)
                return figure(turn)

            yield measure

    return opening


async def _begin(consumer: Child, count: int) -> None:
    consumer.tell(b"%d" % count)
    assert await consumer.line() == b"ready"


async def _end(consumer: Child) -> Report:
    return msgspec.json.decode(await consumer.line(), type=Report)


async def _all_acknowledged(broker: Broker, url: str) -> None:
    """Wait until nothing is unacknowledged: a peer's last acknowledgement follows its last handler."""
    async with asyncio.timeout(_ACKNOWLEDGED_WITHIN_S):
        while await broker.unacknowledged(url):  # noqa: ASYNC110 - the server tells nobody
            await asyncio.sleep(0.01)


@asynccontextmanager
async def running(broker: Broker) -> AsyncGenerator[str, None]:
    """Run a server, or share one that runs, and give its URL.

    Raises:
        MissingError: It is not installed.
    """
    with _sharing(broker) if broker.is_shared else _server(broker) as url:
        yield url


@contextmanager
def _server(broker: Broker) -> Generator[str, None, None]:
    with TemporaryDirectory(prefix="avx-bench-") as folder:
        try:
            server = broker.server_in(Path(folder))
        except MissingServerError as exc:
            raise MissingError(broker.program) from exc
        with server:
            yield server.url


class _Shared:
    """A server, and how many use it."""

    def __init__(self, broker: Broker) -> None:
        self.users = 0
        self._running = ExitStack()
        self.url = self._running.enter_context(_server(broker))

    def end(self) -> None:
        self._running.close()


_shared: Final[dict[str, _Shared]] = {}


@contextmanager
def _sharing(broker: Broker) -> Generator[str, None, None]:
    """Give the URL of the one server; it runs from its first user to its last."""
    if broker.program not in _shared:
        _shared[broker.program] = _Shared(broker)
    shared = _shared[broker.program]
    shared.users += 1
    try:
        yield shared.url
    finally:
        shared.users -= 1
        if not shared.users:
            del _shared[broker.program]
            shared.end()

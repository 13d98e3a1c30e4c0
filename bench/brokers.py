"""Events through a broker on this machine: this process publishes, another one handles; ``bench/consumer.py`` is that.

Who is measured is a module with two functions: ``publishing``, a ``Publishing``, and ``handling``, a ``Handling`` of
``bench/consumer.py``. Each has a server of its own, all of one kind with the same options, so that nothing of one
waits in the way of another. What a round has sent is counted at the server, and so is what it has not acknowledged.
"""

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, process_time
from typing import Final, TypeAlias

import msgspec

from bench.consumer import Report
from bench.rounds import MissingError, Opening, Round
from bench.workload import per_second
from tests.servers.process import Server
from tests.servers.software import MissingServerError

TASKS: Final = 100
"""How many tasks publish at the same time, or how many events go out in one pipeline."""

_ROOT: Final = Path(__file__).parents[1]
_PER_SECOND: Final = 500
_ENDS_WITHIN_S: Final = 10.0
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
        unacknowledged: Counts those among them that a group was not given, or has not acknowledged.
    """

    program: str
    server_in: Callable[[Path], Server]
    stored: Callable[[str], Awaitable[int]]
    unacknowledged: Callable[[str], Awaitable[int]]


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
        async with _running(broker) as url, publishing(url) as publisher:

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
        async with _running(broker) as url, _consuming(module, url) as consumer, publishing(url) as publisher:

            async def measure() -> float:
                await consumer.begin(count)
                cpu_s, started = process_time(), perf_counter()
                await publish(publisher, range(count))
                report = await consumer.end()
                turn = Turn(count, perf_counter() - started, process_time() - cpu_s + report.cpu_s, report)
                assert (report.handled, report.again) == (count, 0)
                await _all_acknowledged(broker, url)
                return figure(turn)

            yield measure

    return opening


@asynccontextmanager
async def _running(broker: Broker) -> AsyncGenerator[str, None]:
    """Run a server, and give its URL.

    Raises:
        MissingError: It is not installed.
    """
    with TemporaryDirectory(prefix="avx-bench-") as folder:
        try:
            server = broker.server_in(Path(folder))
        except MissingServerError as exc:
            raise MissingError(broker.program) from exc
        with server:
            yield server.url


async def _all_acknowledged(broker: Broker, url: str) -> None:
    """Wait until nothing is unacknowledged: a peer's last acknowledgement follows its last handler."""
    async with asyncio.timeout(_ACKNOWLEDGED_WITHIN_S):
        while await broker.unacknowledged(url):  # noqa: ASYNC110 - the server tells nobody
            await asyncio.sleep(0.01)


class _Consumer:
    """The process that handles."""

    def __init__(self, process: Process) -> None:
        assert process.stdin
        assert process.stdout
        self._process = process
        self._input, self._output = process.stdin, process.stdout

    async def begin(self, count: int) -> None:
        self._input.write(b"%d\n" % count)
        assert await self._line() == b"ready\n"

    async def end(self) -> Report:
        return msgspec.json.decode(await self._line(), type=Report)

    async def close(self) -> None:
        self._input.close()
        try:
            async with asyncio.timeout(_ENDS_WITHIN_S):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()

    async def _line(self) -> bytes:
        line = await self._output.readline()
        assert line, "the process that handles has ended"
        return line


@asynccontextmanager
async def _consuming(module: str, url: str) -> AsyncGenerator[_Consumer, None]:
    command = (sys.executable, "-m", "bench.consumer", module, url)
    consumer = _Consumer(await asyncio.create_subprocess_exec(*command, cwd=_ROOT, stdin=PIPE, stdout=PIPE))
    try:
        yield consumer
    finally:
        await consumer.close()

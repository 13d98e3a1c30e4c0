"""eventsourcing on SQLite, by the event store of an application: ``put`` and ``get``.

It is synchronous, so that a program on asyncio calls it in threads, and each call commits by itself. One thread is
faster than many, which wait for each other's locks.
"""

import asyncio
import uuid
from collections.abc import AsyncGenerator, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from time import perf_counter

from eventsourcing.application import Application
from eventsourcing.domain import DomainEvent

from bench.disk import folder_on_disk
from bench.rounds import Opening, Round, each_round
from bench.workload import per_second

BATCH = 1_000


@dataclass(frozen=True)
class UserCreated(DomainEvent):
    user_id: str
    email: str
    name: str


def user_created(stream: uuid.UUID, version: int) -> UserCreated:
    return UserCreated(stream, version, datetime.now(UTC), "123", "user@example.com", "John Doe")


@contextmanager
def _application() -> Generator[Application[uuid.UUID], None, None]:
    with folder_on_disk() as folder:
        database = str(folder / "events.db")
        application = Application[uuid.UUID](
            env={"PERSISTENCE_MODULE": "eventsourcing.sqlite", "SQLITE_DBNAME": database}
        )
        try:
            yield application
        finally:
            application.close()


def _appended_in(threads: int) -> Opening:
    @each_round
    async def measure(count: int) -> float:
        loop = asyncio.get_running_loop()
        with _application() as application, ThreadPoolExecutor(threads) as executor:
            put = application.events.put

            async def append() -> None:
                await loop.run_in_executor(executor, put, [user_created(uuid.uuid4(), 1)])

            started = perf_counter()
            async with asyncio.TaskGroup() as appending:
                for _ in range(count):
                    appending.create_task(append())
            return per_second(count, started)

    return measure


appended_in_one_thread = _appended_in(1)
appended_in_16_threads = _appended_in(16)


@each_round
async def appended_on_the_loop(count: int) -> float:
    with _application() as application:
        stream = uuid.uuid4()
        started = perf_counter()
        for version in range(1, count + 1):
            application.events.put([user_created(stream, version)])
        return per_second(count, started)


@asynccontextmanager
async def replayed(count: int) -> AsyncGenerator[Round, None]:
    batches = -(-count // BATCH)
    with _application() as application:
        stream = uuid.uuid4()
        for number in range(batches):
            versions = range(number * BATCH + 1, (number + 1) * BATCH + 1)
            application.events.put([user_created(stream, version) for version in versions])

        async def measure() -> float:
            started = perf_counter()
            found = sum(1 for _ in application.events.get(stream))
            speed = per_second(found, started)
            assert found == batches * BATCH
            return speed

        yield measure

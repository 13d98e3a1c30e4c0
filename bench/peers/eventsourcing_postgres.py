"""eventsourcing on PostgreSQL, by the event store of an application, as ``bench/peers/eventsourcing.py`` on SQLite."""

import asyncio
import uuid
from collections.abc import AsyncGenerator, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from time import perf_counter
from urllib.parse import urlsplit

from eventsourcing.application import Application

from bench.peers.eventsourcing import BATCH, user_created
from bench.postgres import database
from bench.rounds import Opening, Round, each_round
from bench.workload import per_second


@contextmanager
def _application(threads: int = 1) -> Generator[Application[uuid.UUID], None, None]:
    with database() as url:
        place = urlsplit(url)
        application = Application[uuid.UUID](
            env={
                "PERSISTENCE_MODULE": "eventsourcing.postgres",
                "POSTGRES_DBNAME": place.path.removeprefix("/"),
                "POSTGRES_HOST": str(place.hostname),
                "POSTGRES_PORT": str(place.port),
                "POSTGRES_USER": str(place.username),
                "POSTGRES_PASSWORD": "none is asked for",
                "POSTGRES_POOL_SIZE": str(threads),
            }
        )
        try:
            yield application
        finally:
            application.close()


def _appended_in(threads: int) -> Opening:
    @each_round
    async def measure(count: int) -> float:
        loop = asyncio.get_running_loop()
        with _application(threads) as application, ThreadPoolExecutor(threads) as executor:
            put = application.events.put

            async def append() -> None:
                await loop.run_in_executor(executor, put, [user_created(uuid.uuid4(), 1)])

            started = perf_counter()
            async with asyncio.TaskGroup() as appending:
                for _ in range(count):
                    appending.create_task(append())
            return per_second(count, started)

    return measure


appended_in_16_threads = _appended_in(16)


@each_round
async def appended_on_the_loop(count: int) -> float:
    with _application() as application:
        stream = uuid.uuid4()
        started = perf_counter()
        for version in range(1, count + 1):
            application.events.put([user_created(stream, version)])
        return per_second(count, started)


def _replayed(*, whole_log: bool) -> Opening:
    @asynccontextmanager
    async def opened(count: int) -> AsyncGenerator[Round, None]:
        batches = -(-count // BATCH)
        with _application() as application:
            stream = uuid.uuid4()
            for number in range(batches):
                versions = range(number * BATCH + 1, (number + 1) * BATCH + 1)
                application.events.put([user_created(stream, version) for version in versions])

            async def measure() -> float:
                started = perf_counter()
                found = _count_log(application) if whole_log else sum(1 for _ in application.events.get(stream))
                speed = per_second(found, started)
                assert found == batches * BATCH
                return speed

            yield measure

    return opened


def _count_log(application: Application[uuid.UUID]) -> int:
    found = 0
    while True:
        page = application.recorder.select_notifications(start=found + 1, limit=BATCH)
        found += len([application.mapper.to_domain_event(notification) for notification in page])
        if len(page) < BATCH:
            return found


replayed_stream = _replayed(whole_log=False)
replayed_log = _replayed(whole_log=True)

"""The log of a store keeps for groups what brokers do: its contracts are the class line of its test.

A log bus publishes nothing; here its transport appends to the store what the contracts publish.
"""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from avx_events import EventBus, EventEnvelope, EventStore, LogBus
from avx_events.bus.remote.link import LinkOptions
from avx_events.bus.remote.ports import Incoming, Outgoing, Start
from avx_events.core import cloudevents
from avx_events.core.clock import SYSTEM_CLOCK
from avx_events.core.tasks import TaskScope
from avx_events.patterns.log_bus.records import decode
from avx_events.patterns.log_bus.transport import LogTransport
from avx_events.patterns.tables import execute
from avx_events.testing import (
    DeadLetterContract,
    GracefulStopContract,
    GroupContract,
    HostileBytesContract,
    InFlightContract,
    KeyOrderContract,
    TransportContract,
)


class Appending(LogTransport):
    """A log that takes what is published; it has a store of its own."""

    def __init__(self, store: EventStore, **options: Any) -> None:
        super().__init__(store, clock=SYSTEM_CLOCK, **options)
        self._appends = TaskScope()

    def submit(self, outgoing: Outgoing) -> "asyncio.Future[None]":
        envelope = cloudevents.decode(outgoing.document, max_bytes=len(outgoing.document))
        accepted: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def append() -> None:
            await self._store.append(outgoing.key.replace("\0", "NUL") or outgoing.event_id, envelope)
            if not accepted.done():
                accepted.set_result(None)

        self._appends.spawn(append(), name="append what is published")
        return accepted

    async def close(self) -> None:
        await self._appends.finish()
        await super().close()
        await self._store.close()


def decode_plainly(incoming: Incoming) -> EventEnvelope[Any]:
    """Return what was published: contracts know nothing of places in a log."""
    stored = decode(incoming)
    return EventEnvelope(stored.event, stored.metadata, stored.topic)


class OnLog:
    """Members of a group, each with a store of its own on one database."""

    @pytest.fixture(autouse=True)
    def at(self, tmp_path: Path) -> None:
        self.folder = tmp_path

    async def open(self, namespace: str) -> EventStore:
        return await EventStore.connect(f"sqlite:///{self.folder}/{namespace}.db")

    async def connect(
        self,
        namespace: str,
        *,
        group: str = "contract",
        start: Start = "latest",
        capacity: int = 1024,
        redeliver_after_s: float = 30.0,
        **options: Any,
    ) -> EventBus:
        store = await self.open(namespace)
        transport = Appending(store, group=group, start=start, lanes=16, lease_s=redeliver_after_s)
        await transport.open()
        link = LinkOptions(group=group, capacity=capacity, decode=decode_plainly)
        return LogBus(remote=(transport, link), **options)

    async def publish_raw(self, namespace: str, document: bytes) -> None:
        async with await self.open(namespace) as store:
            position = await store.last_position() + 1
            async with store.transaction() as connection:
                values = (position, "raw", 1, 0, f"raw-{position}", "avx.contract.sent", b'[0,"a"]', document)
                await execute(connection, "INSERT INTO avx_events VALUES (?, ?, ?, ?, ?, ?, ?, ?)", *values)


class TestLogBusSqlite(
    OnLog,
    GroupContract,
    HostileBytesContract,
    InFlightContract,
    TransportContract,
    KeyOrderContract,
    DeadLetterContract,
    GracefulStopContract,
):
    """A file."""


class SharedStore(EventStore):
    """A store that outlives its users."""

    async def close(self) -> None:
        pass


class TestLogBusMemory(
    OnLog,
    GroupContract,
    InFlightContract,
    KeyOrderContract,
    DeadLetterContract,
    GracefulStopContract,
):
    """A database in memory, one store for all."""

    @pytest.fixture(autouse=True)
    def stores(self) -> Iterator[None]:
        self.opened: dict[str, SharedStore] = {}
        yield
        for store in self.opened.values():
            asyncio.run(EventStore.close(store))  # its own loop has ended

    async def open(self, namespace: str) -> EventStore:
        if namespace not in self.opened:
            self.opened[namespace] = await SharedStore.connect("sqlite://")
        return self.opened[namespace]


@pytest.mark.live
class TestLogBusPostgres(
    OnLog,
    GroupContract,
    HostileBytesContract,
    InFlightContract,
    TransportContract,
    KeyOrderContract,
    DeadLetterContract,
    GracefulStopContract,
):
    """A schema of a database in PostgreSQL."""

    @pytest.fixture(autouse=True)
    def database(self, postgres_database: str) -> None:
        self.url = postgres_database
        self.schemas: dict[str, str] = {}

    async def open(self, namespace: str) -> EventStore:
        if namespace not in self.schemas:
            self.schemas[namespace] = f"store_{len(self.schemas)}"
            connection = await asyncpg.connect(self.url)
            await connection.execute(f"CREATE SCHEMA {self.schemas[namespace]}")
            await connection.close()
        return await EventStore.connect(f"{self.url}?schema={self.schemas[namespace]}&pool_size=2")

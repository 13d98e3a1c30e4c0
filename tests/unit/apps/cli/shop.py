"""An application for the tests of the command line."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from avx_events import (
    AggregateRoot,
    Connection,
    DeadLetterQueue,
    Event,
    EventBus,
    EventStore,
    Projection,
    Projector,
    handles,
)

LETTERS = "sqlite://"
seen: list[Any] = []


class Paid(Event, event_type="cli.shop.paid", aggregate_id="order_id"):
    order_id: str
    amount: int


@asynccontextmanager
async def app() -> AsyncGenerator[EventBus, None]:
    async with await DeadLetterQueue.connect(LETTERS) as queue:
        bus = EventBus(dead_letter_queue=queue)

        @bus.on(Paid, name="book", retry=None, concurrency=2)
        async def book(event: Paid) -> None:
            if event.amount < 0:
                raise ValueError("negative amount")

        yield bus


class Order(AggregateRoot):
    total: int = 0

    def apply(self, event: Any) -> None:
        self.total += event.total


class Totals(Projection, name="cli-totals", version=1, tables=("cli_totals",)):
    async def setup(self, connection: Connection) -> None:
        await connection.execute(f"CREATE TABLE {self.table('cli_totals')} (id TEXT)")

    @handles(Event)
    async def add(self, event: Event, connection: Connection) -> None:
        await connection.execute(f"INSERT INTO {self.table('cli_totals')} VALUES (?)", event.aggregate_id())  # noqa: S608 - our own name


async def project(url: str) -> None:
    async with await EventStore.connect(url) as store, Projector(store, Totals()) as projector:
        await projector.caught_up()


def look(event: object) -> None:
    seen.append(event)

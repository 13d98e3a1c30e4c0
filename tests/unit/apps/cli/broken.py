"""An application whose own code fails in every place where it is called."""

import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from avx_events import AggregateRoot, Connection, Event, EventBus, Projection, handles


def bus() -> EventBus:
    raise LookupError("no bus")


async def bus_later() -> EventBus:
    raise LookupError("no bus")


@asynccontextmanager
async def opened() -> AsyncGenerator[EventBus, None]:
    raise LookupError("no bus")
    yield EventBus()


@asynccontextmanager
async def closed() -> AsyncGenerator[EventBus, None]:
    yield EventBus()
    raise LookupError("no bus")


async def away() -> EventBus:
    return await EventBus.connect("redis://127.0.0.1:1", timeout_s=0.1)


def ends() -> EventBus:
    sys.exit("no bus")


def look(event: object) -> None:
    raise LookupError("no bus\x1b[2J\nat all")


async def look_later(event: object) -> None:
    try:
        int("one")
    except ValueError as exc:
        raise LookupError("no bus") from exc


async def publish(event: object) -> None:
    await EventBus().publish(event)


class Order(AggregateRoot):
    def apply(self, event: Any) -> None:
        raise LookupError("no bus")


class View(Projection, name="cli-broken"):
    @handles(Event)
    async def see(self, event: Event, connection: Connection) -> None:
        raise LookupError("no bus")

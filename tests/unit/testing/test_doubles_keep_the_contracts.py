"""The doubles are the real thing: they keep every contract, also while a failure is planned that is another's."""

from pathlib import Path
from typing import Any

from avx_events import DeadLetterQueue, Event, EventBus, EventStore, StoreUnavailableError
from avx_events.testing import (
    BackPressureContract,
    DeadLetterContract,
    Faults,
    GracefulStopContract,
    InProcessContract,
    KeyOrderContract,
    MockEventBus,
    MockEventStore,
    StoreContract,
    TransportContract,
)


class Elsewhere(Event, event_type="doubles.elsewhere"):
    pass


def faults_of_another() -> Faults:
    faults = Faults()
    faults.refuse(StoreUnavailableError("test://", "it is away"), Elsewhere, times=None)
    return faults


class TestMockEventBus(
    TransportContract,
    KeyOrderContract,
    DeadLetterContract,
    BackPressureContract,
    GracefulStopContract,
    InProcessContract,
):
    """With nothing planned."""

    async def connect(self, namespace: str, **options: Any) -> EventBus:
        return MockEventBus(dead_letter_queue=DeadLetterQueue(), **options)


class TestMockEventBusWithFaults(TestMockEventBus):
    """Every publish is looked at."""

    async def connect(self, namespace: str, **options: Any) -> EventBus:
        return MockEventBus(dead_letter_queue=DeadLetterQueue(), faults=faults_of_another(), **options)


class TestMockEventStore(StoreContract):
    """In memory."""

    async def connect(self, folder: Path, **options: Any) -> EventStore:
        return MockEventStore(faults=faults_of_another(), **options)


class TestMockEventStoreOnSqlite(StoreContract):
    """On a database."""

    async def connect(self, folder: Path, **options: Any) -> EventStore:
        store = await MockEventStore.connect("sqlite://", **options)
        store.faults.refuse(StoreUnavailableError("test://", "it is away"), Elsewhere, times=None)
        return store

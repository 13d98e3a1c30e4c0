"""The databases that outboxes, inboxes and relays are tested on."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from avx_events.store.event_store import EventStore
from tests.unit.patterns.outbox.buses import OwnedBus


@pytest.fixture(params=["file", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/events.db" if request.param == "file" else "sqlite://"


@pytest.fixture
async def store(url: str) -> AsyncGenerator[EventStore, None]:
    async with await EventStore.connect(url) as opened:
        yield opened


@pytest.fixture
async def bus() -> OwnedBus:
    return OwnedBus()

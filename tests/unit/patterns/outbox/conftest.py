"""The databases that outboxes, inboxes and relays are tested on."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from avx_events.store.event_store import EventStore
from tests.unit.patterns.outbox.buses import OwnedBus

SQLITE = ("file", "memory")
POSTGRESQL = pytest.param("postgresql", marks=pytest.mark.live)


def url_of(kind: str, request: pytest.FixtureRequest, folder: Path) -> str:
    if kind == "postgresql":
        url: str = request.getfixturevalue("postgres_database")
        return url
    return f"sqlite:///{folder}/events.db" if kind == "file" else "sqlite://"


@pytest.fixture(params=[*SQLITE, POSTGRESQL])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return url_of(request.param, request, tmp_path)


@pytest.fixture
async def store(url: str) -> AsyncGenerator[EventStore, None]:
    async with await EventStore.connect(url) as opened:
        yield opened


@pytest.fixture(params=SQLITE)
async def sqlite_store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[EventStore, None]:
    """Open a database whose leases go by the clock of those who ask, and not by a server's."""
    async with await EventStore.connect(url_of(request.param, request, tmp_path)) as opened:
        yield opened


@pytest.fixture
async def bus() -> OwnedBus:
    return OwnedBus()

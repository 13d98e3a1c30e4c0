"""Stores whose databases may have tables beside the events."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from avx_events.store.event_store import EventStore

POSTGRESQL = pytest.param("postgresql", marks=pytest.mark.live)


@pytest.fixture(params=["file", POSTGRESQL])
def shared_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database that several stores may open."""
    return url_of(request, tmp_path)


@pytest.fixture(params=["file", "memory", POSTGRESQL])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database for one store."""
    return url_of(request, tmp_path)


@pytest.fixture
async def store(store_url: str) -> AsyncGenerator[EventStore, None]:
    """An empty store."""
    async with await EventStore.connect(store_url) as opened:
        yield opened


@pytest.fixture
async def other_store(shared_url: str) -> AsyncGenerator[EventStore, None]:
    """A second store on one database, as another process has it."""
    async with await EventStore.connect(shared_url) as opened:
        yield opened


def url_of(request: pytest.FixtureRequest, folder: Path) -> str:
    urls = {"file": f"sqlite:///{folder}/events.db", "memory": "sqlite://"}
    url: str = urls.get(request.param) or request.getfixturevalue("postgres_database")
    return url

"""Snapshot and tail equal the full replay, at any version, whatever was saved and loaded before."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avx_events.core.errors import StreamNotFoundError
from avx_events.core.event import Event
from avx_events.patterns.aggregate import AggregateRoot
from avx_events.store.event_store import EventStore


class Moved(Event, event_type="snapshots.moved"):
    by: int


class Tagged(Event, event_type="snapshots.tagged"):
    name: str
    weight: float | None


class Cleared(Event, event_type="snapshots.cleared"):
    pass


class Walk(AggregateRoot):
    """State of many shapes, in which order and identity count."""

    place: int = 0
    path: list[int] = []  # noqa: RUF012 - each instance has its own
    tags: dict[str, float | None] = {}  # noqa: RUF012 - as above
    visited: set[int] = set()  # noqa: RUF012 - as above
    last: tuple[str, int] | None = None
    words: tuple[str, ...] = ()
    heavy: tuple[str, ...] = ()
    since: datetime = datetime(2026, 1, 1, tzinfo=UTC)

    def apply(self, event: Event) -> None:
        match event:
            case Moved(by=by):
                self.place += by
                self.path.append(self.place)
                self.visited.add(self.place)
                self.since += timedelta(days=1)
            case Tagged(name=name, weight=weight):
                self.tags[name] = weight
                self.last = (name, len(self.path))
                self.words = (*self.words, name)
                self.since = self.since.astimezone(UTC)
                self.heavy = self.words if weight else self.heavy
            case _:
                self.path, self.tags, self.last = [], {}, None
                self.since = self.since.astimezone(ZoneInfo("Europe/Berlin"))


class Length(AggregateRoot):
    """Another view of the same events, with snapshots of its own."""

    events: int = 0

    def apply(self, event: Event) -> None:
        self.events += 1


events = st.one_of(
    st.builds(Moved, st.integers(-(2**40), 2**40)),
    st.builds(Tagged, st.text(max_size=3), st.none() | st.floats(allow_nan=False, allow_infinity=False)),
    st.builds(Cleared),
)
saves = st.lists(st.lists(events, min_size=1, max_size=5), min_size=1, max_size=8)


def replayed(aggregate: type[Any], events: Sequence[Event]) -> Any:
    """Say it in Python: a new instance, and each event applied."""
    replica = aggregate("walk")
    for event in events:
        replica.apply(event)
    return replica


def state_of(walk: Walk) -> str:
    # By repr, which tells -0.0 from 0.0 and the order of a dict; equal sets may be in any order.
    return repr((walk.place, walk.path, walk.tags, sorted(walk.visited), walk.last, walk.words, walk.heavy, walk.since))


async def check_past(store: EventStore, recorded: Sequence[Event], version: int) -> None:
    """Load the aggregate as it was at ``version``, and at the instant of that version."""
    expected = recorded[:version]
    if not expected:
        with pytest.raises(StreamNotFoundError):
            await store.load(Walk, "walk", at_version=version)
        return
    stored = await store.get_events("walk")
    instant = stored[len(expected) - 1].recorded_at

    at_version = await store.load(Walk, "walk", at_version=version)
    as_of = await store.load(Walk, "walk", as_of=instant)

    assert state_of(at_version) == state_of(replayed(Walk, expected))
    assert state_of(as_of) == state_of(replayed(Walk, [one.event for one in stored if one.recorded_at <= instant]))


@pytest.mark.parametrize("url", ["memory", "sqlite://?writer=inline"])
@settings(max_examples=40)
@given(saves=saves, snapshot_every=st.none() | st.integers(1, 9), versions=st.lists(st.integers(0, 45), max_size=6))
def test_snapshot_and_tail_equal_the_full_replay(
    url: str, saves: list[list[Event]], snapshot_every: int | None, versions: list[int]
) -> None:
    async def scenario() -> None:
        options: dict[str, Any] = {"snapshot_every": snapshot_every}
        async with EventStore(**options) if url == "memory" else await EventStore.connect(url, **options) as store:
            recorded: list[Event] = []
            for batch in saves:
                saved = await store.load_or_new(Walk, "walk")
                for event in batch:
                    saved.record(event)
                await store.save(saved)
                recorded += batch

                for walk in (saved, await store.load(Walk, "walk")):
                    assert walk.version == len(recorded)
                    assert state_of(walk) == state_of(replayed(Walk, recorded))
                if len(recorded) % 2:
                    assert (await store.load(Length, "walk")).events == len(recorded)
            for version in versions:
                await check_past(store, recorded, version)

    asyncio.run(scenario())

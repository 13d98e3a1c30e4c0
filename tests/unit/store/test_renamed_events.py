"""What was recorded under a former name, at an old revision, is today's event wherever the store gives it."""

import json
from typing import Any

from avx_events.core.event import Event
from avx_events.patterns.aggregate import AggregateRoot
from avx_events.patterns.projection import Projection, Projector, handles
from avx_events.store.event_store import EventStore
from avx_events.store.memory import MemoryEngine
from avx_events.store.ports import Connection, NewRecordTuple, StoreEngine
from avx_events.testing import MockEventBus, read_back


class Stocked(Event, event_type="renamed.stocked", formerly=("renamed.delivered",), aggregate_id="shelf", revision=2):
    shelf: str
    pieces: int


@Stocked.upcast(from_revision=1)
def dozens_to_pieces(data: dict[str, Any]) -> dict[str, Any]:
    return {"shelf": data["shelf"], "pieces": 12 * data["dozens"]}


class Shelf(AggregateRoot):
    pieces: int = 0

    def apply(self, event: Event) -> None:
        if isinstance(event, Stocked):
            self.pieces += event.pieces


class Stock(Projection, name="stock"):
    async def setup(self, connection: Connection) -> None:
        await connection.execute("CREATE TABLE stock (shelf TEXT, pieces INTEGER)")

    @handles(Stocked)
    async def add(self, event: Stocked, connection: Connection) -> None:
        await connection.execute("INSERT INTO stock VALUES (?, ?)", event.shelf, event.pieces)


def delivered(number: int, dozens: int) -> NewRecordTuple:
    """Return what an earlier version of the code has recorded."""
    data = json.dumps({"shelf": "a", "dozens": dozens}).encode()
    return f"id-{number}", "renamed.delivered", b'[1,"a",1]', data


async def fill(engine: StoreEngine) -> None:
    await engine.append("a", [delivered(1, 1), delivered(2, 2)])


async def test_streams_and_the_log_give_it_as_an_event_of_today() -> None:
    engine = MemoryEngine()
    await fill(engine)
    async with EventStore(engine) as store:
        await store.append("a", Stocked("a", 5))
        stream = await store.get_events("a")
        log = [stored async for stored in store.read_all()]
        followed = [await anext(follower) for follower in [store.subscribe()] for _ in range(3)]

    assert [stored.event for stored in stream] == [Stocked("a", 12), Stocked("a", 24), Stocked("a", 5)]
    assert {(stored.metadata.event_type, stored.topic) for stored in stream} == {("renamed.stocked", "renamed.stocked")}
    assert stream == log == followed


async def test_aggregates_are_made_of_it_and_their_snapshots_too() -> None:
    engine = MemoryEngine()
    await fill(engine)
    async with EventStore(engine, snapshot_every=1) as store:
        assert [(await store.load(Shelf, "a")).pieces for _ in range(2)] == [36, 36]
        assert (store.statistics()["snapshots_taken"], store.statistics()["snapshots_used"]) == (1, 1)


def crate_class(event_type: str, *formerly: str) -> Any:
    """Return the class of one event under a name, which takes the place of the one made before."""

    class Crate(Event, event_type=event_type, formerly=formerly):
        __qualname__ = "Crate"
        number: int

    return Crate


class Crates(AggregateRoot):
    names: tuple[str, ...] = ()

    def apply(self, event: Event) -> None:
        self.names += (event.event_type,)


async def test_a_snapshot_from_before_a_new_name_is_not_used() -> None:
    async with EventStore(snapshot_every=1) as store:
        old = crate_class("renamed.crate")
        await store.append("a", old(1))
        assert [(await store.load(Crates, "a")).names for _ in range(2)] == [("renamed.crate",)] * 2

        new = crate_class("renamed.box", "renamed.crate")
        await store.append("a", new(2))

        assert [(await store.load(Crates, "a")).names for _ in range(2)] == [("renamed.box", "renamed.box")] * 2
        assert (store.statistics()["snapshots_taken"], store.statistics()["snapshots_used"]) == (2, 2)


async def test_projections_handle_it_as_an_event_of_their_class() -> None:
    store = await EventStore.connect("sqlite://")
    async with store, Projector(store, Stock()) as projector:
        await fill(store._engine)  # beneath it, as an earlier version would
        await projector.caught_up()

        assert await store.fetch("SELECT pieces FROM stock") == [(12,), (24,)]


async def test_what_was_read_can_be_published_on_as_an_event_of_today() -> None:
    engine = MemoryEngine()
    await fill(engine)
    async with EventStore(engine) as store, MockEventBus() as bus:
        subscriber = await bus.subscribe(Stocked)
        async for stored in store.read_all():
            await bus.publish(stored)

        assert bus.published_events(Stocked) == [Stocked("a", 12), Stocked("a", 24)]
        assert await subscriber.recv() == Stocked("a", 12)
        assert {envelope.metadata.event_type for envelope in bus.published_envelopes()} == {"renamed.stocked"}


def test_read_back_knows_former_names() -> None:
    assert read_back("renamed.delivered", {"shelf": "a", "dozens": 3}, revision=1) == Stocked("a", 36)

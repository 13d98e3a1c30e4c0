"""A relay publishes to every broker as it does to memory: the same ids, and the order of each key."""

from pathlib import Path
from uuid import uuid4

import pytest

from avx_events import EventBus, EventStore, Relay
from tests.unit.patterns.outbox.buses import Noted

pytestmark = [pytest.mark.live, pytest.mark.timeout(60)]

EVENTS = 400


@pytest.mark.parametrize("broker", ["redis_url", "nats_url", "kafka_url"])
async def test_what_is_in_the_log_comes_out_of_the_broker(
    broker: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    bus_url: str = request.getfixturevalue(broker)
    async with (
        await EventStore.connect(f"sqlite:///{tmp_path}/events.db") as store,
        await EventBus.connect(bus_url, namespace=f"relay-{uuid4().hex}") as bus,
    ):
        subscriber = await bus.subscribe(Noted, capacity=EVENTS)
        await store.append("s", [Noted(f"key-{number % 7}", number) for number in range(EVENTS)])
        async with Relay(store, bus, name="to-broker") as relay:
            await relay.caught_up(timeout_s=30)
            assert relay.statistics().published == EVENTS
        stored = {event.event.number: event.metadata for event in await store.get_events("s")}
        envelopes = subscriber.envelopes()
        received = [await anext(envelopes) for _ in range(EVENTS)]

    assert {envelope.event.number: envelope.metadata for envelope in received} == stored
    for key in range(7):
        numbers = [envelope.event.number for envelope in received if envelope.event.key == f"key-{key}"]
        assert numbers == list(range(key, EVENTS, 7))

"""What a scrape is answered with."""

from collections.abc import Mapping, Sequence

import httpx
import msgspec
import pytest
from prometheus_client import Counter
from prometheus_client.parser import text_string_to_metric_families

from avx_events.bus.dead_letters import DeadLetterQueue, MemoryDeadLetters
from avx_events.bus.event_bus import EventBus
from avx_events.core.errors import InvalidArgumentError, StoreUnavailableError, UnsupportedError
from avx_events.core.event import Event
from avx_events.core.policy import Discard, Retry
from avx_events.observability import Metrics
from avx_events.observability.metrics import CONTENT_TYPE
from avx_events.patterns.projection import Projection, Projector, handles
from avx_events.store.event_store import EventStore
from avx_events.store.ports import Connection

pytestmark = pytest.mark.timeout(20)


class Placed(Event, event_type="metrics.placed", aggregate_id="order_id"):
    order_id: str


class Passed(Event, event_type="metrics.passed"):
    pass


class Orders(Projection, name="orders"):
    @handles(Placed)
    async def add(self, event: Placed, connection: Connection) -> None:
        pass


async def samples(metrics: Metrics) -> dict[str, float]:
    """Return the value of each sample, by its name and the values of its labels."""
    families = text_string_to_metric_families((await metrics.text()).decode())
    return {
        "|".join([sample.name, *sample.labels.values()]): sample.value
        for family in families
        for sample in family.samples
    }


async def test_a_bus_is_told_of_by_handler() -> None:
    metrics, attempts = Metrics(), iter(range(1))
    async with EventBus(name="shop", dead_letter_queue=DeadLetterQueue()) as bus:
        metrics.add_bus(bus)

        @bus.on(Placed, name="note", retry=Retry(attempts=2, initial_s=0))
        async def note(placed: Placed) -> None:
            if placed.order_id == "bad" or (placed.order_id == "late" and next(attempts, None) is not None):
                raise KeyError
            if placed.order_id == "old":
                raise Discard

        for order_id in ("1", "2", "bad", "late", "old"):
            await bus.publish(Placed(order_id))
        await bus.settled()
        found = await samples(metrics)

    assert found["avx_events_published_total|shop|memory"] == 5
    assert found["avx_events_handled_total|shop|note"] == 3
    assert found["avx_events_retried_total|shop|note"] == 2
    assert found["avx_events_dead_lettered_total|shop|note"] == 1
    assert found["avx_events_discarded_total|shop|note"] == 1
    assert found["avx_events_dropped_total|shop|note"] == 0
    assert found["avx_events_queued|shop|note"] == found["avx_events_in_flight|shop|note"] == 0
    assert found["avx_events_dead_letters|shop"] == 1
    assert found["avx_events_publish_duration_seconds_count|shop|memory"] == 5
    assert found["avx_events_handle_duration_seconds_count|shop|note"] == 7
    assert found["avx_events_handle_duration_seconds_bucket|shop|note|1e-06"] >= 0
    assert found["avx_events_handle_duration_seconds_bucket|shop|note|+Inf"] == 7


async def test_what_waits_is_told() -> None:
    metrics = Metrics(durations=False)
    async with EventBus(name="shop") as bus:
        metrics.add_bus(bus, name="orders")
        await bus.subscribe(Placed, name="reader", capacity=2, overflow="drop_newest")
        await bus.publish_many([Placed("1"), Placed("2"), Placed("3")])
        found = await samples(metrics)

    assert found["avx_events_queued|orders|reader"] == 2
    assert found["avx_events_dropped_total|orders|reader"] == 1
    assert not [name for name in found if "duration" in name]
    assert not [name for name in found if name.startswith("avx_events_dead_letters|")]


async def test_read_models_tell_how_far_behind_they_are() -> None:
    metrics = Metrics()
    async with await EventStore.connect("sqlite://") as store, Projector(store, Orders()) as projector:
        metrics.add_projector(projector)
        await store.append("s", [Placed("1"), Placed("2")])
        await projector.caught_up()
        found = await samples(metrics)

    assert found["avx_events_projection_lag_events|orders"] == 0
    assert found["avx_events_projection_lag_seconds|orders"] == 0


class Group(msgspec.Struct, frozen=True):
    group: str
    handler: str
    lag_events: int | None
    lag_seconds: float | None


class Broker:
    async def groups(self) -> Sequence[Group]:
        return [Group("billing", "invoice", 7, 1.5), Group("billing", "thank", None, None)]


async def test_groups_tell_how_far_behind_they_are_as_far_as_it_is_known() -> None:
    metrics = Metrics()
    metrics.add_groups(Broker())

    found = await samples(metrics)

    assert found["avx_events_group_lag_events|billing|invoice"] == 7
    assert found["avx_events_group_lag_seconds|billing|invoice"] == 1.5
    assert not [name for name in found if name.endswith("|thank")]


class Away:
    async def lag_events(self) -> Mapping[str, int]:
        raise StoreUnavailableError("postgresql://db", "it is away")

    async def lag_seconds(self) -> Mapping[str, float]:
        return {"orders": 1.0}


class FullLetters(MemoryDeadLetters):
    async def count(self, *_: object, **__: object) -> int:
        raise StoreUnavailableError("postgresql://db", "it is away")


async def test_what_cannot_be_asked_for_is_left_out_and_counted() -> None:
    metrics = Metrics()
    async with EventBus(name="shop", dead_letter_queue=DeadLetterQueue(store=FullLetters(10))) as bus:
        metrics.add_bus(bus)
        metrics.add_projector(Away())
        await samples(metrics)
        found = await samples(metrics)

    assert found["avx_events_scrape_failures_total|projections"] == 2
    assert found["avx_events_scrape_failures_total|dead letters"] == 2
    assert found["avx_events_published_total|shop|memory"] == 0
    assert not [name for name in found if name.startswith(("avx_events_projection_lag", "avx_events_dead_letters|"))]


async def test_two_buses_need_two_names() -> None:
    metrics = Metrics()
    metrics.add_bus(EventBus(name="shop"))

    with pytest.raises(InvalidArgumentError, match="no other bus"):
        metrics.add_bus(EventBus(name="shop"))
    metrics.add_bus(EventBus(name="shop"), name="second")
    with pytest.raises(InvalidArgumentError, match="an EventBus or a TopicBus"):
        metrics.add_bus("shop")  # type: ignore[arg-type]

    assert "avx_events_published_total|second|memory" in await samples(metrics)


@pytest.mark.parametrize(("method", "status"), [("GET", 200), ("HEAD", 200), ("POST", 405)])
async def test_it_is_an_application_that_answers_a_scrape(method: str, status: int) -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(Metrics()), base_url="http://shop") as client:
        answer = await client.request(method, "/metrics")

    assert answer.status_code == status
    assert answer.headers["content-type"] == (CONTENT_TYPE if status == 200 else "text/plain; charset=utf-8")
    assert bool(answer.content) == (method != "HEAD")
    assert ("avx_events_published_total" in answer.text) == (method == "GET")


@pytest.mark.parametrize("kind", ["lifespan", "websocket"])
async def test_it_answers_nothing_but_http(kind: str) -> None:
    async def send(_: object) -> None:
        pytest.fail("it answered")

    with pytest.raises(UnsupportedError):
        await Metrics()({"type": kind}, None, send)


async def test_it_tells_how_long_the_last_attempts_took() -> None:
    metrics = Metrics()
    async with EventBus(name="shop") as bus:
        metrics.add_bus(bus)

        @bus.on(Placed, name="note")
        async def note(_: Placed) -> None:
            pass

        @bus.on(Passed, name="idle")
        async def idle(_: Passed) -> None:
            pass

        for number in range(600):
            await bus.publish(Placed(f"{number}"))
        await bus.settled()
        latencies = metrics.latencies()

    assert list(latencies) == ["note"]
    assert 0 < latencies["note"]["p50"] <= latencies["note"]["p95"] <= latencies["note"]["p99"] < 1


async def test_percentiles_are_those_of_the_nearest_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    instants = iter(number for taken in range(1, 101) for number in (0, taken))
    metrics = Metrics()
    async with EventBus(name="shop") as bus:
        metrics.add_bus(bus)
        deliveries = (await bus.subscribe(Placed, name="reader")).deliveries()
        await bus.publish_many([Placed(f"{number}") for number in range(100)])
        monkeypatch.setattr("avx_events.observability.metrics.perf_counter", lambda: next(instants))
        for _ in range(100):
            async with await anext(deliveries):
                pass

    assert metrics.latencies() == {"reader": {"p50": 50, "p95": 95, "p99": 99}}


async def test_metrics_of_ones_own_come_with_the_same_scrape() -> None:
    metrics = Metrics()
    orders = Counter("shop_orders", "Orders.", registry=metrics.registry)
    orders.inc(3)

    assert (await samples(metrics))["shop_orders_total"] == 3

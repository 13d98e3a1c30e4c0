"""Spans and metrics of a bus, by OpenTelemetry's conventions for messaging."""

import asyncio
import subprocess
import sys
from collections.abc import Generator
from typing import Any

import pytest
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import NoOpTracerProvider, SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from avx_events.bus.event_bus import EventBus
from avx_events.bus.request_reply import RequestReplyBus
from avx_events.bus.subscriber import Subscriber
from avx_events.bus.topic_bus import TopicBus
from avx_events.core.errors import (
    ClosedError,
    ConcurrencyError,
    InvalidArgumentError,
    NoResponderError,
    RemoteError,
    SubscriptionFullError,
)
from avx_events.core.event import Event, Request
from avx_events.core.metadata import EventEnvelope
from avx_events.core.policy import Retry
from avx_events.observability import Tracing
from avx_events.patterns.log_bus.log_bus import LogBus
from avx_events.patterns.outbox.relay import Relay
from avx_events.store.event_store import EventStore
from tests.waiting import until

pytestmark = pytest.mark.timeout(20)

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Placed(Event, event_type="tracing.placed", aggregate_id="order_id"):
    order_id: str


class Sent(Event, event_type="tracing.sent", aggregate_id="order_id"):
    order_id: str


class Watch:
    """An SDK that keeps what it is given."""

    def __init__(self) -> None:
        self._spans = InMemorySpanExporter()
        self._metrics = InMemoryMetricReader()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self._spans))
        self.meters = MeterProvider([self._metrics])

    def tracing(self, *, parent: bool = False) -> Tracing:
        return Tracing(parent=parent, tracer_provider=self.tracers, meter_provider=self.meters)

    def spans(self, name: str) -> list[ReadableSpan]:
        return [span for span in self._spans.get_finished_spans() if span.name == name]

    def points(self, name: str) -> list[Any]:
        data = self._metrics.get_metrics_data()
        assert data is not None
        return [
            point
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        ]


@pytest.fixture
def watch() -> Generator[Watch, None, None]:
    made = Watch()
    yield made
    made.tracers.shutdown()
    made.meters.shutdown()


async def received(subscriber: Subscriber[Any]) -> EventEnvelope[Any]:
    envelope = await subscriber.recv_envelope()
    assert envelope is not None
    return envelope


def attributes_of(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def id_of(span: ReadableSpan) -> int:
    return ids_of(span)[0]


def ids_of(span: ReadableSpan) -> tuple[int, int]:
    context = span.get_span_context()
    assert context is not None
    return context.span_id, context.trace_id


def parent_of(span: ReadableSpan) -> tuple[int, int] | None:
    return None if span.parent is None else (span.parent.span_id, span.parent.trace_id)


async def test_a_publish_and_an_attempt_are_spans_with_a_link_between_them(watch: Watch) -> None:
    async with EventBus() as bus:

        @bus.on(Placed, name="note")
        async def note(_: Placed) -> None:
            pass

        assert watch.tracing().observe(bus)
        metadata = await bus.publish(Placed("7"))
        await bus.settled()

    (published,), (processed,) = watch.spans("publish tracing.placed"), watch.spans("process tracing.placed")
    assert (published.kind, processed.kind) == (SpanKind.PRODUCER, SpanKind.CONSUMER)
    message = {
        "messaging.system": "avx_memory",
        "messaging.destination.name": "tracing.placed",
        "messaging.message.id": metadata.event_id,
        "messaging.message.conversation_id": metadata.correlation_id,
        "avx.event.type": "tracing.placed",
    }
    assert attributes_of(published) == message | {
        "messaging.operation.name": "publish",
        "messaging.operation.type": "send",
    }
    assert attributes_of(processed) == message | {
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.subscription.name": "note",
        "avx.attempt": 1,
    }
    assert [link.context.span_id for link in processed.links] == [id_of(published)]
    assert (published.parent, processed.parent) == (None, None)
    assert f"{id_of(published):016x}" in metadata.headers["traceparent"]


async def test_with_parent_a_chain_of_events_is_one_trace(watch: Watch) -> None:
    async with EventBus() as bus:

        @bus.on(Placed, name="note")
        async def note(placed: Placed) -> None:
            await bus.publish(Sent(placed.order_id))

        @bus.on(Sent, name="thank")
        async def thank(_: Sent) -> None:
            pass

        watch.tracing(parent=True).observe(bus)
        with watch.tracers.get_tracer("test").start_as_current_span("request") as request:
            await bus.publish(Placed("7"))
        await bus.settled()

    names = ["publish tracing.placed", "process tracing.placed", "publish tracing.sent", "process tracing.sent"]
    above = request.get_span_context()
    for name in names:
        (span,) = watch.spans(name)
        context = span.get_span_context()
        assert context is not None
        assert span.parent is not None
        assert (span.parent.span_id, context.trace_id) == (above.span_id, above.trace_id)
        assert not span.links
        above = context


async def test_each_attempt_is_a_span_and_says_what_failed(watch: Watch) -> None:
    attempts = iter(range(1))
    async with EventBus() as bus:

        @bus.on(Placed, name="note", retry=Retry(attempts=2, initial_s=0))
        async def note(_: Placed) -> None:
            if next(attempts, None) is not None:
                raise KeyError("stock")

        watch.tracing().observe(bus)
        await bus.publish(Placed("7"))
        await bus.settled()

    failed, succeeded = watch.spans("process tracing.placed")
    assert (attributes_of(failed)["avx.attempt"], attributes_of(succeeded)["avx.attempt"]) == (1, 2)
    assert attributes_of(failed)["error.type"] == "KeyError"
    assert failed.status.status_code is StatusCode.ERROR
    assert failed.status.description == "KeyError: 'stock'"
    assert [event.name for event in failed.events] == ["exception"]
    assert succeeded.status.status_code is StatusCode.UNSET
    assert "error.type" not in attributes_of(succeeded)


async def test_the_span_of_an_attempt_is_current_in_the_handler_and_in_no_other(watch: Watch) -> None:
    seen: list[int] = []
    async with EventBus() as bus:

        @bus.on(Placed, name="note", concurrency=4, key=lambda _: None)
        async def note(_: Placed) -> None:
            seen.append(trace.get_current_span().get_span_context().span_id)

        watch.tracing().observe(bus)
        await bus.publish_many([Placed(f"{number}") for number in range(8)])
        await bus.settled()
        assert trace.get_current_span() is trace.INVALID_SPAN

    assert sorted(seen) == sorted(id_of(span) for span in watch.spans("process tracing.placed"))
    assert len(set(seen)) == 8


async def test_a_batch_is_one_span_that_its_events_are_linked_to(watch: Watch) -> None:
    async with EventBus() as bus:
        subscriber = await bus.subscribe(Placed, name="reader")
        watch.tracing().observe(bus)
        await bus.publish_many([Placed("1"), Placed("2")])
        deliveries = subscriber.deliveries()
        for _ in range(2):
            async with await anext(deliveries):
                pass

    (published,) = watch.spans("publish tracing.placed")
    assert attributes_of(published)["messaging.batch.message_count"] == 2
    assert "messaging.message.id" not in attributes_of(published)
    links = [[link.context.span_id for link in span.links] for span in watch.spans("process tracing.placed")]
    assert links == [[id_of(published)]] * 2


async def test_an_envelope_that_is_published_again_keeps_where_it_came_from(watch: Watch) -> None:
    async with TopicBus() as bus:
        subscriber = await bus.subscribe("**")
        watch.tracing().observe(bus)
        await bus.publish(Placed("7"), headers={"traceparent": TRACEPARENT, "tracestate": "a=b", "other": "x"})
        envelope = await received(subscriber)
        await bus.publish_to("again", envelope)
        again = await received(subscriber)

    assert envelope.metadata.headers == again.metadata.headers
    assert again.metadata.headers == {"traceparent": TRACEPARENT, "tracestate": "a=b", "other": "x"}
    (span,) = watch.spans("publish again")
    assert [f"{link.context.span_id:016x}" for link in span.links] == ["b7ad6b7169203331"]
    assert span.links[0].context.trace_state.get("a") == "b"


@pytest.mark.parametrize("traceparent", ["", "00-zz", "00-" + "0" * 32 + "-" + "0" * 16 + "-01", "ff" * 40, "\0"])
async def test_a_header_that_is_no_context_is_nobody_s(watch: Watch, traceparent: str) -> None:
    got: list[EventEnvelope[Placed]] = []
    async with EventBus() as bus:

        @bus.on(Placed, name="note")
        async def note(_: Placed, envelope: EventEnvelope[Placed]) -> None:
            got.append(envelope)

        watch.tracing(parent=True).observe(bus)
        await bus.publish(Placed("7"), headers={"traceparent": traceparent})
        await bus.settled()

    (span,) = watch.spans("process tracing.placed")
    assert (span.parent, list(span.links)) == (None, [])
    assert got[0].metadata.headers == {"traceparent": traceparent}


async def test_a_refused_publish_is_a_span_that_failed(watch: Watch) -> None:
    async with EventBus() as bus:
        await bus.subscribe(Placed, capacity=1, overflow="raise")
        watch.tracing().observe(bus)
        await bus.publish(Placed("1"))
        with pytest.raises(SubscriptionFullError):
            await bus.publish(Placed("2"))

    accepted, refused = watch.spans("publish tracing.placed")
    assert accepted.status.status_code is StatusCode.UNSET
    assert attributes_of(refused)["error.type"] == "SubscriptionFullError"


async def test_durations_and_counts_are_metrics_of_few_attributes(watch: Watch) -> None:
    async with EventBus() as bus:

        @bus.on(Placed, name="note", retry=None)
        async def note(placed: Placed) -> None:
            if placed.order_id == "bad":
                raise KeyError

        watch.tracing().observe(bus)
        for order_id in ("1", "2", "bad"):
            await bus.publish(Placed(order_id))
        await bus.publish_many([Placed("3"), Placed("4")])
        await bus.settled()

    (published,) = watch.points("messaging.client.operation.duration")
    assert published.count == 4
    assert published.explicit_bounds[0] == 1e-6
    assert dict(published.attributes) == {
        "messaging.system": "avx_memory",
        "messaging.operation.name": "publish",
        "messaging.operation.type": "send",
        "avx.event.type": "tracing.placed",
    }
    assert [point.value for point in watch.points("messaging.client.sent.messages")] == [5]
    counts = {
        dict(point.attributes).get("error.type"): point.count for point in watch.points("messaging.process.duration")
    }
    assert counts == {None: 4, "KeyError": 1}
    assert sum(point.value for point in watch.points("messaging.client.consumed.messages")) == 5


async def test_without_an_sdk_nothing_is_observed() -> None:
    async with EventBus() as bus:
        subscriber = await bus.subscribe(Placed)
        assert not Tracing().observe(bus)
        assert not Tracing(tracer_provider=NoOpTracerProvider()).observe(bus)
        await bus.publish(Placed("7"))

        assert (await received(subscriber)).metadata.headers == {}


async def test_metrics_alone_are_enough(watch: Watch) -> None:
    async with EventBus() as bus:
        subscriber = await bus.subscribe(Placed)
        assert Tracing(meter_provider=watch.meters).observe(bus)
        await bus.publish(Placed("7"))

        assert (await received(subscriber)).metadata.headers == {}
    assert [point.value for point in watch.points("messaging.client.sent.messages")] == [1]


def test_what_is_no_bus_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="an EventBus or a TopicBus"):
        Tracing().observe("bus")  # type: ignore[arg-type]


def test_without_opentelemetry_it_is_off() -> None:
    program = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "from avx_events import EventBus\n"
        "from avx_events.observability import Tracing\n"
        "print(Tracing().observe(EventBus()))"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=20)  # noqa: S603

    assert ran.stdout == "False\n"


class GetOrder(Request[str], event_type="tracing.get-order", aggregate_id="order_id"):
    order_id: str


async def test_a_request_is_a_span_until_its_reply_and_the_responder_s_is_linked(watch: Watch) -> None:
    inside: list[int] = []
    async with RequestReplyBus() as bus:

        @bus.respond(GetOrder, name="orders")
        async def get(request: GetOrder) -> str:
            inside.append(trace.get_current_span().get_span_context().span_id)
            await asyncio.sleep(0)  # from the requester's turn into the responder's own task
            inside.append(trace.get_current_span().get_span_context().span_id)
            if request.order_id == "none":
                raise LookupError("no such order")
            return f"order {request.order_id}"

        assert watch.tracing().observe(bus)
        assert await bus.request(GetOrder("7")) == "order 7"
        with pytest.raises(RemoteError, match="no such order"):
            await bus.request(GetOrder("none"))
        assert trace.get_current_span() is trace.INVALID_SPAN

    asked, refused = watch.spans("publish tracing.get-order")
    answered, failed = watch.spans("process tracing.get-order")
    assert [link.context.span_id for link in answered.links] == [id_of(asked)]
    assert [attributes_of(span).get("error.type") for span in (asked, answered)] == [None, None]
    assert attributes_of(refused)["error.type"] == "RemoteError"
    assert attributes_of(failed)["error.type"] == "LookupError"
    assert inside == [id_of(answered)] * 2 + [id_of(failed)] * 2


async def test_many_requests_at_once_keep_their_spans_apart(watch: Watch) -> None:
    async with RequestReplyBus() as bus:

        @bus.respond(GetOrder, concurrency=4)
        async def get(request: GetOrder) -> str:
            before = trace.get_current_span()
            for _ in range(3):
                await asyncio.sleep(0)
                assert trace.get_current_span() is before
            return request.order_id

        watch.tracing(parent=True).observe(bus)
        async with asyncio.TaskGroup() as tasks:
            asking = [tasks.create_task(bus.request(GetOrder(f"{number}"))) for number in range(20)]

    assert [task.result() for task in asking] == [f"{number}" for number in range(20)]
    above = {span.parent.span_id for span in watch.spans("process tracing.get-order") if span.parent is not None}
    assert above == {id_of(span) for span in watch.spans("publish tracing.get-order")}
    assert len(above) == 20


async def test_a_request_that_nobody_answers_has_no_span(watch: Watch) -> None:
    async with RequestReplyBus() as bus:
        watch.tracing().observe(bus)
        with pytest.raises(NoResponderError):
            await bus.request(GetOrder("7"))
        assert bus.statistics().requested == 0

    assert watch.spans("publish tracing.get-order") == []


async def test_an_append_is_a_span_whose_context_is_kept_with_the_event(watch: Watch) -> None:
    async with EventStore() as store:
        assert watch.tracing().observe(store)
        with watch.tracers.get_tracer("test").start_as_current_span("request") as request:
            await store.append("order-7", [Placed("7"), Sent("7")])
        first, second = await store.get_events("order-7")

    (appended,) = watch.spans("append tracing.placed")
    assert appended.kind is SpanKind.PRODUCER
    assert parent_of(appended) == (request.get_span_context().span_id, request.get_span_context().trace_id)
    assert attributes_of(appended) == {
        "messaging.system": "avx_log",
        "messaging.operation.name": "append",
        "messaging.operation.type": "send",
        "messaging.destination.name": "tracing.placed",
        "messaging.batch.message_count": 2,
        "avx.event.type": "tracing.placed",
        "avx.stream": "order-7",
    }
    assert first.metadata.headers == second.metadata.headers
    assert f"{id_of(appended):016x}" in first.metadata.headers["traceparent"]
    (duration,) = watch.points("messaging.client.operation.duration")
    assert "avx.stream" not in duration.attributes


async def test_an_append_that_is_refused_is_a_span_that_failed(watch: Watch) -> None:
    async with EventStore() as store:
        watch.tracing().observe(store)
        await store.append("order-7", Placed("7"))
        with pytest.raises(ConcurrencyError):
            await store.append("order-7", Sent("7"), expected_version=0)

    (refused,) = watch.spans("append tracing.sent")
    assert attributes_of(refused)["error.type"] == "ConcurrencyError"


async def test_what_two_observers_are_told_of_an_append_is_what_the_first_made_of_it(watch: Watch) -> None:
    async with EventStore() as store:
        watch.tracing().observe(store)
        watch.tracing().observe(store)
        await store.append("order-7", Placed("7"))
        (stored,) = await store.get_events("order-7")

    outer, inner = sorted(watch.spans("append tracing.placed"), key=lambda span: span.start_time or 0)
    assert f"{id_of(outer):016x}" in stored.metadata.headers["traceparent"]
    assert [link.context.span_id for link in inner.links] == [id_of(outer)]


async def test_a_closed_store_is_observed_no_more(watch: Watch) -> None:
    store = EventStore()
    await store.close()

    with pytest.raises(ClosedError, match="be observed"):
        watch.tracing().observe(store)


async def test_a_handler_on_the_log_continues_the_trace_of_the_append(watch: Watch) -> None:
    async with (
        await EventStore.connect("sqlite://") as store,
        await LogBus.connect(store, group="mail", start="earliest") as bus,
    ):
        tracing = watch.tracing(parent=True)

        @bus.on(Placed, name="note")
        async def note(placed: Placed) -> None:
            await store.append("mail-7", Sent(placed.order_id))

        assert tracing.observe(store)
        assert tracing.observe(bus)
        await store.append("order-7", Placed("7"))
        await until(lambda: bus.statistics().handled)

    (appended,), (processed,) = watch.spans("append tracing.placed"), watch.spans("process tracing.placed")
    (consequence,) = watch.spans("append tracing.sent")
    assert parent_of(processed) == ids_of(appended)
    assert parent_of(consequence) == ids_of(processed)


@pytest.mark.parametrize("parent", [True, False])
async def test_what_a_relay_publishes_belongs_to_the_trace_of_the_append_or_is_linked_to_it(
    watch: Watch, *, parent: bool
) -> None:
    got: list[EventEnvelope[Placed]] = []
    async with await EventStore.connect("sqlite://") as store, EventBus() as bus:
        tracing = watch.tracing(parent=parent)

        @bus.on(Placed, name="note")
        async def note(_: Placed, envelope: EventEnvelope[Placed]) -> None:
            got.append(envelope)

        tracing.observe(store)
        tracing.observe(bus)
        await store.append("order-7", Placed("7"))
        async with Relay(store, bus, name="out") as relay:
            await relay.caught_up()
        await bus.settled()

    (appended,), (published,) = watch.spans("append tracing.placed"), watch.spans("publish tracing.placed")
    assert parent_of(published) == (ids_of(appended) if parent else None)
    assert [link.context.span_id for link in published.links] == [id_of(appended)]
    assert f"{id_of(appended):016x}" in got[0].metadata.headers["traceparent"]


async def test_nothing_is_told_of_the_classes_without(watch: Watch) -> None:
    tracing = Tracing(without=(Placed,), tracer_provider=watch.tracers, meter_provider=watch.meters)
    async with EventStore() as store, EventBus() as bus:

        @bus.on(Placed, Sent, name="note")
        async def note(_: Placed | Sent) -> None:
            pass

        tracing.observe(bus)
        tracing.observe(store)
        quiet = await bus.publish(Placed("7"))
        await bus.publish(Sent("7"))
        await bus.publish_many([Placed("8"), Sent("8")])
        await bus.settled()
        await store.append("order-7", Placed("7"))

    assert quiet.headers == {}
    for name in ("publish", "process", "append"):
        assert not watch.spans(f"{name} tracing.placed")
    assert len(watch.spans("process tracing.sent")) == 2
    (consumed,) = watch.points("messaging.client.consumed.messages")
    assert consumed.value == 2


async def test_an_append_of_nothing_is_refused_as_it_is_untraced(watch: Watch) -> None:
    async with EventStore() as store:
        watch.tracing().observe(store)
        with pytest.raises(InvalidArgumentError, match="at least one event"):
            await store.append("order-7", [])


async def test_what_nobody_records_is_passed_on_as_such(watch: Watch) -> None:
    unsampled = TraceContextTextMapPropagator().extract({"traceparent": TRACEPARENT.removesuffix("01") + "00"})
    async with EventStore() as store:
        watch.tracing(parent=True).observe(store)
        token = otel_context.attach(unsampled)
        await store.append("order-7", Placed("7"))
        otel_context.detach(token)
        (stored,) = await store.get_events("order-7")

    trace_id = TRACEPARENT.split("-")[1]
    assert not watch.spans("append tracing.placed")
    assert stored.metadata.headers["traceparent"].split("-")[1::2] == [trace_id, "00"]

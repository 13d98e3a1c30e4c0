"""What does it cost to trace a bus: where no SDK is set up, and where all spans and metrics are made?"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from time import perf_counter
from typing import Any

from avx_events import EventBus
from avx_events.observability import Tracing
from bench.rounds import Comparison, Contender, Round, Target, each_round
from bench.workload import CAPACITY, UserCreated, per_second

# As many as the bus's spans have, and of the same lengths.
PUBLISH = {
    "messaging.system": "avx_memory",
    "messaging.operation.name": "publish",
    "messaging.operation.type": "send",
    "avx.event.type": "user.created",
}
PROCESS = {
    "messaging.system": "avx_memory",
    "messaging.operation.name": "process",
    "messaging.operation.type": "process",
    "messaging.destination.subscription.name": "traced.count_up",
    "avx.event.type": "user.created",
}
MESSAGE = {
    "messaging.destination.name": "user.created",
    "messaging.message.id": "01a216ca-0a65-7f8f-8e91-26637e100000",
    "messaging.message.conversation_id": "01a216ca-0a65-7f8f-8e91-26637e100000",
}


def sdk() -> tuple[Any, Any]:
    """Return providers of the SDK that keep every span, and give them to nobody."""
    from opentelemetry.sdk.metrics import MeterProvider  # noqa: PLC0415 - it may be missing
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415

    return TracerProvider(), MeterProvider([InMemoryMetricReader()])


async def read_all_of(bus: EventBus, count: int) -> float:
    """Return how many events a second go from ``publish`` to a subscriber."""
    subscriber = await bus.subscribe(UserCreated, capacity=count)
    started = perf_counter()
    for _ in range(count):
        await bus.publish(UserCreated("123", "user@example.com", "John Doe"))
    speed = per_second(count, started)
    assert len(await subscriber.recv_many(count)) == count
    return speed


@each_round
async def untraced(count: int) -> float:
    async with EventBus() as bus:
        return await read_all_of(bus, count)


@each_round
async def off(count: int) -> float:
    async with EventBus() as bus:
        assert not Tracing().observe(bus)
        return await read_all_of(bus, count)


@asynccontextmanager
async def traced(count: int) -> AsyncGenerator[Round, None]:
    tracers, meters = sdk()

    async def measure() -> float:
        handled = 0
        bus = EventBus()
        Tracing(tracer_provider=tracers, meter_provider=meters).observe(bus)

        @bus.on(UserCreated, capacity=CAPACITY)
        async def count_up(_: UserCreated) -> None:
            nonlocal handled
            handled += 1

        async with bus:
            started = perf_counter()
            for _ in range(count):
                await bus.publish(UserCreated("123", "user@example.com", "John Doe"))
            await bus.settled()
            spent_us = (perf_counter() - started) / count * 1e6
        assert handled == count
        return spent_us

    yield measure
    tracers.shutdown()
    meters.shutdown()


@asynccontextmanager
async def by_hand(count: int) -> AsyncGenerator[Round, None]:
    """Make the same two spans and four measurements for each event, and do nothing else."""
    from opentelemetry import context as contexts  # noqa: PLC0415 - it may be missing
    from opentelemetry import trace  # noqa: PLC0415
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

    tracers, meters = sdk()
    tracer, meter = tracers.get_tracer("bench"), meters.get_meter("bench")
    published, processed = meter.create_histogram("published", unit="s"), meter.create_histogram("processed", unit="s")
    sent, consumed = meter.create_counter("sent"), meter.create_counter("consumed")
    propagator, nowhere = TraceContextTextMapPropagator(), contexts.Context()

    async def measure() -> float:
        started = perf_counter()
        for _ in range(count):
            began = perf_counter()
            span = tracer.start_span(
                "publish user.created", kind=trace.SpanKind.PRODUCER, attributes={**PUBLISH, **MESSAGE}
            )
            headers: dict[str, str] = {}
            propagator.inject(headers, trace.set_span_in_context(span))
            published.record(perf_counter() - began, PUBLISH)
            sent.add(1, PUBLISH)
            span.end()
            began = perf_counter()
            origin = trace.get_current_span(propagator.extract(headers, nowhere)).get_span_context()
            span = tracer.start_span(
                "process user.created",
                context=nowhere,
                kind=trace.SpanKind.CONSUMER,
                attributes={**PROCESS, **MESSAGE, "avx.attempt": 1},
                links=(trace.Link(origin),),
            )
            token = contexts.attach(trace.set_span_in_context(span))
            contexts.detach(token)
            processed.record(perf_counter() - began, PROCESS)
            consumed.add(1, PROCESS)
            span.end()
        return (perf_counter() - started) / count * 1e6

    yield measure
    tracers.shutdown()
    meters.shutdown()


PLAIN = "avx-events, never traced"
SDK = "limit: OpenTelemetry's SDK alone, the same two spans and four measurements"

COMPARISONS = (
    Comparison(
        "publish one by one → one subscriber, after `Tracing().observe(bus)` without an SDK",
        "events/s",
        (Contender("avx-events, tracing off", off, 100_000), Contender(PLAIN, untraced, 100_000)),
        (Target(PLAIN, at_least=0.97),),
    ),
    Comparison(
        "publish → handler, all of it traced and measured",
        "us",
        (
            Contender("avx-events, tracing on", traced, 10_000),
            Contender(SDK, by_hand, 10_000, package="opentelemetry-sdk"),
        ),
        (Target(SDK, at_most=1.5),),
    ),
)

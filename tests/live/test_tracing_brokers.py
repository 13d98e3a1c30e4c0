"""Over a broker a trace goes on in the process that handles the event, and receiving and settling are spans too."""

from typing import Any
from uuid import uuid4

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from avx_events.bus.event_bus import EventBus
from avx_events.bus.remote.ports import ContentMode
from avx_events.bus.request_reply import RequestReplyBus
from avx_events.core.event import Event, Request
from avx_events.observability import Tracing
from tests.waiting import until

pytestmark = [pytest.mark.live, pytest.mark.timeout(60)]


class Placed(Event, event_type="traced.placed", aggregate_id="order_id"):
    order_id: str


def spans_of() -> tuple[TracerProvider, InMemorySpanExporter]:
    spans, tracers = InMemorySpanExporter(), TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(spans))
    return tracers, spans


def named(spans: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    return [span for span in spans.get_finished_spans() if span.name == name]


def attributes_of(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


@pytest.mark.parametrize("mode", ["structured", "binary"])
@pytest.mark.parametrize("system", ["redis", "nats", "kafka"])
async def test_a_trace_goes_on_where_the_event_is_handled(
    request: pytest.FixtureRequest, system: str, mode: ContentMode
) -> None:
    url: str = request.getfixturevalue(f"{system}_url")
    namespace = f"traced-{uuid4().hex[:12]}"
    shop_tracers, shop_spans = spans_of()
    mail_tracers, mail_spans = spans_of()
    async with (
        await EventBus.connect(url, namespace=namespace, group="shop", content_mode=mode) as shop,
        await EventBus.connect(url, namespace=namespace, group="mail", start="earliest") as mail,
    ):
        assert Tracing(tracer_provider=shop_tracers).observe(shop)
        assert Tracing(tracer_provider=mail_tracers, parent=True).observe(mail)

        @mail.on(Placed, name="thank")
        async def thank(_: Placed) -> None:
            pass

        await mail.start()
        metadata = await shop.publish(Placed("7"))
        await until(lambda: bool(named(mail_spans, "settle thank")), timeout_s=30)

    (published,) = named(shop_spans, "publish traced.placed")
    (processed,) = named(mail_spans, "process traced.placed")
    (received,) = named(mail_spans, "receive thank")
    settled = named(mail_spans, "settle thank")[0]
    origin = published.get_span_context()
    assert origin is not None
    assert processed.parent is not None
    assert (processed.parent.span_id, processed.parent.trace_id) == (origin.span_id, origin.trace_id)
    assert [link.context.span_id for link in received.links] == [origin.span_id]
    assert attributes_of(published)["messaging.message.id"] == metadata.event_id
    assert attributes_of(processed)["messaging.message.id"] == metadata.event_id
    for span in (published, processed, received, settled):
        assert attributes_of(span)["messaging.system"] == system
    assert attributes_of(published)["messaging.consumer.group.name"] == "shop"
    for span in (received, settled):
        assert attributes_of(span)["messaging.consumer.group.name"] == "mail"
        assert attributes_of(span)["messaging.batch.message_count"] == 1


class GetOrder(Request[str], event_type="traced.get-order", aggregate_id="order_id"):
    order_id: str


@pytest.mark.parametrize("system", ["redis", "nats", "kafka"])
async def test_a_request_is_traced_to_the_process_that_answers(request: pytest.FixtureRequest, system: str) -> None:
    url: str = request.getfixturevalue(f"{system}_url")
    namespace = f"traced-{uuid4().hex[:12]}"
    asking_tracers, asking_spans = spans_of()
    answering_tracers, answering_spans = spans_of()
    async with (
        await RequestReplyBus.connect(url, namespace=namespace) as answering,
        await RequestReplyBus.connect(url, namespace=namespace) as asking,
    ):

        @answering.respond(GetOrder)
        async def get(asked: GetOrder) -> str:
            return asked.order_id

        await answering.start()
        assert Tracing(tracer_provider=asking_tracers).observe(asking)
        assert Tracing(tracer_provider=answering_tracers, parent=True).observe(answering)
        assert await asking.request(GetOrder("7"), timeout_s=20) == "7"

    (asked,) = named(asking_spans, "publish traced.get-order")
    (answered,) = named(answering_spans, "process traced.get-order")
    origin = asked.get_span_context()
    assert origin is not None
    assert answered.parent is not None
    assert answered.parent.span_id == origin.span_id
    assert attributes_of(asked)["messaging.system"] == attributes_of(answered)["messaging.system"] == system

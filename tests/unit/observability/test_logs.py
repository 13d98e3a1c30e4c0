"""Lines of the log are JSON that says where it was written and which event it is about."""

import io
import json
import logging
from collections.abc import Generator
from typing import Any

import pytest
import structlog
from opentelemetry.sdk.trace import TracerProvider

from avx_events.bus.event_bus import EventBus
from avx_events.core.event import Event
from avx_events.core.metadata import context
from avx_events.observability import Settings, init_tracing
from avx_events.observability.settings import EventsSettings

PLACE = Settings(stack="shop", layer="orders", env="test", cluster="north", events=EventsSettings(log_level="info"))


class Placed(Event, event_type="logs.placed", aggregate_id="order_id"):
    order_id: str


@pytest.fixture(autouse=True)
def _restored() -> Generator[None, None, None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.fixture
def out() -> io.StringIO:
    stream = io.StringIO()
    init_tracing(PLACE, stream=stream)
    return stream


def lines(out: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_a_line_says_where_it_was_written(out: io.StringIO) -> None:
    structlog.get_logger("shop").info("placed", order_id="7")
    logging.getLogger("other").warning("%d left", 3, extra={"stock": "low"})

    first, second = lines(out)
    place = {"stack": "shop", "layer": "orders", "env": "test", "cluster": "north"}
    assert place.items() <= first.items()
    assert place.items() <= second.items()
    assert (first["event"], first["level"], first["logger"], first["order_id"]) == ("placed", "info", "shop", "7")
    assert (second["event"], second["level"], second["stock"]) == ("3 left", "warning", "low")
    assert first["timestamp"].endswith("Z")
    assert "mesh" not in first


async def test_a_handler_s_lines_say_which_event_it_has(out: io.StringIO) -> None:
    log = structlog.get_logger("shop")
    async with EventBus() as bus:

        @bus.on(Placed)
        async def note(_: Placed) -> None:
            log.info("noted")
            logging.getLogger("plain").info("noted, too")

        with context(correlation_id="request-1", causation_id="cause-1"):
            metadata = await bus.publish(Placed("7"))
        await bus.settled()

    for line in lines(out):
        assert line["event_id"] == metadata.event_id
        assert line["event_type"] == "logs.placed"
        assert (line["correlation_id"], line["causation_id"]) == ("request-1", "cause-1")
    assert len(lines(out)) == 2


def test_a_line_outside_of_any_event_says_of_none(out: io.StringIO) -> None:
    structlog.get_logger().info("idle")
    with context(correlation_id="request-1"):
        structlog.get_logger().info("asked")

    idle, asked = lines(out)
    assert not {"event_id", "correlation_id", "causation_id"} & idle.keys()
    assert asked["correlation_id"] == "request-1"
    assert "event_id" not in asked


def test_a_line_within_a_span_says_which(out: io.StringIO) -> None:
    with TracerProvider().get_tracer("test").start_as_current_span("work") as span:
        structlog.get_logger().info("working")
    structlog.get_logger().info("done")

    working, done = lines(out)
    spans = span.get_span_context()
    assert (working["trace_id"], working["span_id"]) == (f"{spans.trace_id:032x}", f"{spans.span_id:016x}")
    assert "trace_id" not in done


def test_an_exception_is_a_part_of_its_line(out: io.StringIO) -> None:
    try:
        raise KeyError("gone")  # noqa: TRY301
    except KeyError:
        structlog.get_logger().exception("failed")

    (line,) = lines(out)
    assert line["exception"][0]["exc_type"] == "KeyError"


def test_what_is_below_the_level_is_not_written(out: io.StringIO) -> None:
    structlog.get_logger().debug("detail")
    logging.getLogger("plain").debug("detail")
    assert lines(out) == []

    init_tracing(PLACE, level="debug", stream=out)
    logging.getLogger("plain").debug("detail")
    assert lines(out)[0]["event"] == "detail"


def test_it_writes_lines_for_people_where_it_is_asked_to() -> None:
    stream = io.StringIO()
    init_tracing(PLACE, as_json=False, stream=stream)

    structlog.get_logger("shop").info("placed", order_id="7")

    assert "placed" in stream.getvalue()
    assert "order_id=7" in stream.getvalue()
    assert "\x1b" not in stream.getvalue()


def test_set_up_twice_it_writes_each_line_once(out: io.StringIO) -> None:
    init_tracing(PLACE, stream=out)
    logging.getLogger("plain").info("once")

    assert len(lines(out)) == 1


def test_what_is_no_json_is_written_as_text(out: io.StringIO) -> None:
    structlog.get_logger().info("placed", order=Placed("7"))

    assert "Placed" in lines(out)[0]["order"]

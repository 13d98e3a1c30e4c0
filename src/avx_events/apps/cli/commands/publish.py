"""``publish``: send events whose classes need not be here."""

import sys
from collections.abc import Iterator
from typing import Annotated, Any, Final

import msgspec
from cyclopts import App, Parameter

from avx_events.apps.cli.opening import kind_of, opened_bus
from avx_events.apps.cli.output import AsJson, print_json, print_line
from avx_events.core.clock import SYSTEM_CLOCK
from avx_events.core.errors import InvalidArgumentError
from avx_events.core.event import UnknownEvent
from avx_events.core.ids import new_id
from avx_events.core.metadata import EventEnvelope, EventMetadata, Headers, checked_headers
from avx_events.core.topic import check_topic

_STDIN: Final = "-"


def add_to(app: App) -> None:
    """Add the command."""
    app.command(publish)


async def publish(
    url: str,
    event_type: str,
    data: str = _STDIN,
    /,
    *,
    topic: str | None = None,
    key: str = "",
    header: Annotated[list[str] | None, Parameter(name="--header")] = None,
    revision: int = 1,
    namespace: str = "avx",
    partitions: int = 16,
    timeout_s: float = 10.0,
    json: AsJson = False,
) -> None:
    """Publish an event to a broker; its class need not be known here, and nobody checks its data but those who get it.

    Args:
        url: The broker.
        event_type: The type of the event, as 'order.placed', which is its topic too where no other is given.
        data: Its fields, as a JSON object; '-' reads them from stdin, one object a line for each event.
        topic: Where to, if not to its type.
        key: What order is kept by: the aggregate id.
        header: A header as name=value; may be given several times.
        revision: The revision of the data.
        namespace: The namespace of the buses.
        partitions: As the buses of the namespace have it.
        timeout_s: How many seconds the broker may take.
        json: Print one object a line for each event.
    """
    if kind_of(url) != "broker":
        raise InvalidArgumentError("url", url, expected="the URL of a broker, as 'redis://localhost:6379'")
    check_topic(event_type)
    to = event_type if topic is None else check_topic(topic)
    headers = _headers(header or [])
    async with opened_bus(url, namespace=namespace, partitions=partitions, timeout_s=timeout_s) as bus:
        for fields in _read(data):
            envelope = _envelope(UnknownEvent(event_type, fields, revision), to, key=key, headers=headers)
            metadata = await bus.publish(envelope)
            if json:
                print_json({"event_id": metadata.event_id, "event_type": metadata.event_type, "topic": to})
            else:
                print_line(metadata.event_id)


def _envelope(event: UnknownEvent, topic: str, *, key: str, headers: Headers) -> EventEnvelope[Any]:
    now_ns = SYSTEM_CLOCK.time_ns()
    event_id = new_id(now_ns)
    metadata = EventMetadata(event_id, event.event_type, key, now_ns // 1000, event_id, headers=headers)
    return EventEnvelope(event, metadata, topic)


def _read(data: str) -> Iterator[dict[str, Any]]:
    if data != _STDIN:
        yield _fields(data)
        return
    for line in sys.stdin:
        if line.strip():
            yield _fields(line)


def _fields(text: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeEncodeError) as exc:
        raise InvalidArgumentError("data", text, expected=f"a JSON object ({exc})") from exc


def _headers(given: list[str]) -> Headers:
    found: dict[str, str] = {}
    for header in given:
        name, separator, value = header.partition("=")
        if not separator or not name:
            raise InvalidArgumentError("header", header, expected="name=value")
        found[name] = value
    return checked_headers(found)

"""``publish``: send events whose classes need not be here."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any, Final

import msgspec
from cyclopts import App, Parameter

from avx_events.apps.cli.asking import has_terminal
from avx_events.apps.cli.opening import kind_of, opened_bus
from avx_events.apps.cli.output import AsJson, note, print_json, print_line
from avx_events.apps.cli.stdin_lines import check_stdin, lines_of_stdin
from avx_events.core.clock import SYSTEM_CLOCK
from avx_events.core.errors import InvalidArgumentError
from avx_events.core.event import UnknownEvent
from avx_events.core.ids import new_id
from avx_events.core.metadata import EventEnvelope, EventMetadata, Headers, checked_headers
from avx_events.core.topic import check_topic

_STDIN: Final = "-"
_BROKER: Final = (
    "the URL of a broker, as 'redis://localhost:6379'; what is in a store is appended by the code that decides it"
)


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

    Of several it goes on with the next once the broker has the one before. Where one is refused, those before it stay
    published; whoever reads the ids may stop to, and all are published nevertheless.

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
        raise InvalidArgumentError("url", url, expected=_BROKER)
    check_topic(event_type)
    to = event_type if topic is None else check_topic(topic)
    headers = _headers(header or [])
    given = None if data == _STDIN else _fields("data", data.encode())
    if given is None:
        check_stdin()
    opening = opened_bus(url, namespace=namespace, partitions=partitions, timeout_s=timeout_s)
    async with opening as bus, aclosing(_read(given)) as events:
        is_read = True
        async for fields in events:
            envelope = _envelope(UnknownEvent(event_type, fields, revision), to, key=key, headers=headers)
            metadata = await bus.publish(envelope)
            is_read = is_read and _is_told(metadata, to, as_json=json)


def _envelope(event: UnknownEvent, topic: str, *, key: str, headers: Headers) -> EventEnvelope[Any]:
    now_ns = SYSTEM_CLOCK.time_ns()
    event_id = new_id(now_ns)
    metadata = EventMetadata(event_id, event.event_type, key, now_ns // 1000, event_id, headers=headers)
    return EventEnvelope(event, metadata, topic)


def _is_told(metadata: EventMetadata, topic: str, *, as_json: bool) -> bool:
    """Tell of an event that was published, and return whether somebody read it."""
    try:
        if as_json:
            print_json({"event_id": metadata.event_id, "event_type": metadata.event_type, "topic": topic})
        else:
            print_line(metadata.event_id)
    except BrokenPipeError:
        return False
    return True


async def _read(given: dict[str, Any] | None) -> AsyncGenerator[dict[str, Any], None]:
    if given is not None:
        yield given
        return
    if has_terminal():
        note("one JSON object a line; Ctrl-D ends it")
    number = 0
    async for line in lines_of_stdin():
        number += 1
        yield _fields(f"event {number} of stdin", line)


def _fields(name: str, text: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise InvalidArgumentError(name, text.decode("utf-8", "replace"), expected=f"a JSON object ({exc})") from exc


def _headers(given: list[str]) -> Headers:
    found: dict[str, str] = {}
    for header in given:
        name, separator, value = header.partition("=")
        if not separator or not name:
            raise InvalidArgumentError("--header", header, expected="name=value")
        found[name] = value
    return checked_headers(found)

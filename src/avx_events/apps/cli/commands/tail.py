"""``tail``: watch events as they come."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any

from cyclopts import App, Parameter

from avx_events.apps.cli.documents import document_of, line_of
from avx_events.apps.cli.opening import kind_of, opened_bus, opened_store
from avx_events.apps.cli.output import AsJson, print_json, print_line, while_somebody_reads
from avx_events.core.arguments import whole
from avx_events.core.errors import InvalidArgumentError
from avx_events.core.metadata import EventEnvelope
from avx_events.core.topic import check_pattern, matches


def add_to(app: App) -> None:
    """Add the command."""
    app.command(tail)


async def tail(
    url: str,
    pattern: str = "**",
    /,
    *,
    types: list[str] | None = None,
    begin: Annotated[str, Parameter(name="--from")] = "now",
    count: int | None = None,
    namespace: str = "avx",
    partitions: int = 16,
    timeout_s: float = 10.0,
    json: AsJson = False,
) -> None:
    """Watch events as they come, until Ctrl-C: those of a broker, or the log of a store.

    Nobody loses an event by it: it is in no group.

    Args:
        url: The broker or the store.
        pattern: Which topics, as 'orders.*' or 'orders.**'; an event has its type as topic where it was given no other.
        types: Only events of this type; may be given several times.
        begin: Of a store: 'start' of its log, 'now', or after a position.
        count: End after so many events.
        namespace: Of a broker: the namespace of the buses.
        partitions: Of a broker: as the buses of the namespace have it.
        timeout_s: Of a broker: how many seconds it may take to answer.
        json: Print one object a line.
    """
    check_pattern(pattern)
    left = None if count is None else whole("--count", count, least=1)
    show = _print_document if json else _print_line
    if kind_of(url) == "store":
        events = _of_store(url, begin)
    elif begin == "now":
        events = _of_broker(url, pattern, namespace=namespace, partitions=partitions, timeout_s=timeout_s)
    else:
        raise InvalidArgumentError("--from", begin, expected="'now': a broker is watched from now on")
    async with while_somebody_reads(), aclosing(events):
        async for envelope in events:
            if matches(pattern, envelope.topic) and (not types or envelope.metadata.event_type in types):
                show(envelope)
                left = None if left is None else left - 1
                if left == 0:
                    return


async def _of_store(url: str, begin: str) -> AsyncGenerator[EventEnvelope[Any], None]:
    async with opened_store(url) as store:
        after = await store.last_position() if begin == "now" else _position(begin)
        async for stored in store.subscribe(after):
            yield stored


async def _of_broker(url: str, pattern: str, **options: Any) -> AsyncGenerator[EventEnvelope[Any], None]:
    async with opened_bus(url, **options) as bus, await bus.subscribe(pattern) as subscriber:
        async for envelope in subscriber.envelopes():
            yield envelope


def _position(begin: str) -> int:
    if begin == "start":
        return 0
    if not begin.isdecimal():
        raise InvalidArgumentError("--from", begin, expected="'start', 'now' or a position")
    return int(begin)


def _print_document(envelope: EventEnvelope[Any]) -> None:
    print_json(document_of(envelope))


def _print_line(envelope: EventEnvelope[Any]) -> None:
    print_line(line_of(envelope))

"""Which events of the log a reader wants, by type and by stream: from classes and names to what an engine looks for."""

from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from typing import Final, TypeAlias, cast

from avx_events.core.errors import InvalidArgumentError, InvalidTopicError
from avx_events.core.event import ANSWERED_BY_ONE, Event, recorded_types, types_alike
from avx_events.core.topic import check_topic
from avx_events.store.ports import LogFilter, RecordTuple, StoreEngine
from avx_events.store.stored_event import check_stream

WantedTypes: TypeAlias = Iterable[type | str] | type | str
"""Event classes, each with all that are derived from it, and event types by name; former names are the same types."""

_EXPECTED: Final = "event classes, or event types as text, at least one"


def log_filter(types: object, stream_prefix: object) -> LogFilter | None:
    """Return the filter for ``types``, which are ``WantedTypes`` or None, and ``stream_prefix``; None for everything.

    Raises:
        InvalidArgumentError: There is no type, one is no event's, or the prefix could not begin a stream's name.
    """
    if stream_prefix != "":
        check_stream(stream_prefix, argument="stream_prefix")
    prefix = str(stream_prefix)
    wanted = None if types is None else _names_of(types)
    if not prefix and wanted is None:
        return None
    return LogFilter(event_types=wanted, stream_prefix=prefix)


async def filtered_pages(
    engine: StoreEngine, *, after: int, until: int | None, wanted: LogFilter | None
) -> AsyncGenerator[Sequence[RecordTuple], None]:
    """Give the pages of ``engine``'s log by asking for one after the other.

    Raises:
        AvxEventsError: As ``StoreEngine.read_all``.
    """
    while until is None or after < until:
        page = await engine.read_all(after=after, wanted=wanted)
        if page.reached <= after:
            return
        after = page.reached
        yield page.records if until is None else [record for record in page.records if record[0] <= until]


def _names_of(types: object) -> tuple[str, ...] | None:
    if not isinstance(types, type | str | Iterable):
        raise InvalidArgumentError("types", types, expected=_EXPECTED)
    several: list[object] = [types] if isinstance(types, type | str) else [*cast("Iterable[object]", types)]
    names = dict.fromkeys(name for one in several for name in _names_of_one(one))
    if not several:
        raise InvalidArgumentError("types", several, expected=_EXPECTED)
    return None if Event in several else tuple(names)  # Event is all events, those of decorated classes too


def _names_of_one(wanted: object) -> Iterator[str]:
    if isinstance(wanted, str):
        try:
            yield from types_alike(check_topic(wanted))
        except InvalidTopicError as exc:
            raise InvalidArgumentError("types", wanted, expected=_EXPECTED) from exc
    elif wanted is Event:
        return
    elif isinstance(wanted, type) and "__avx_schema__" in wanted.__dict__ and not issubclass(wanted, ANSWERED_BY_ONE):
        yield from recorded_types(wanted)
    else:
        raise InvalidArgumentError("types", wanted, expected=_EXPECTED)

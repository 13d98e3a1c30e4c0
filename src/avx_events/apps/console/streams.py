"""Streams: which there are, what happened in one, and the state that each event led to."""

from collections.abc import Mapping
from typing import Any, Final, cast

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from avx_events.apps.console.answers import JsonResponse, RefusedError, missing, wanted_text, whole_number
from avx_events.apps.console.given import Given
from avx_events.apps.console.live import as_file
from avx_events.apps.console.masking import Masking
from avx_events.apps.console.turns import in_turns
from avx_events.apps.console.views import data_view, metadata_view, preview, shown_event
from avx_events.core.errors import StreamNotFoundError
from avx_events.store.aggregates import Aggregate
from avx_events.store.event_store import EventStore
from avx_events.store.history import Change, HistoryEntry
from avx_events.store.stored_event import StoredEvent

PAGE: Final = 50
LONGEST_VALUE: Final = 2_000
_MOST: Final = 2**62


class Streams:
    """The endpoints of the pages of streams."""

    def __init__(self, given: Given, masking: Masking) -> None:
        """Answer from the store of ``given``."""
        self._given: Final = given
        self._masking: Final = masking

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route("/api/streams", self.listed),
            Route("/api/stream", self.show),
            Route("/api/stream/entry", self.entry),
            Route("/api/stream/data", self.data),
        ]

    async def listed(self, request: Request) -> Response:
        """``GET /api/streams?prefix=&after=``: by name."""
        limit = whole_number(request, "limit", default=PAGE, most=500) or PAGE
        query = request.query_params
        streams = self._store().streams(query.get("prefix", ""), after=query.get("after", ""), limit=limit + 1)
        found = [info async for info in streams]
        return JsonResponse({"streams": found[:limit], "next": found[limit - 1].name if len(found) > limit else None})

    async def show(self, request: Request) -> Response:
        """``GET /api/stream?name=&after=``: how far it is, and its events after a version, the oldest first."""
        store, name = self._store(), wanted_text(request, "name")
        after = whole_number(request, "after", default=0, most=_MOST)
        version = await _version_of(store, name)
        aggregate = self._given.aggregate_of(name)
        events = await store.get_events(name, after, at_version=after + PAGE, unknown="keep")
        return JsonResponse(
            {
                "name": name,
                "version": version,
                "aggregate": None if aggregate is None else aggregate.__name__,
                "events": await in_turns(self._row, events),
                "next": after + PAGE if after + PAGE < version else None,
            }
        )

    async def entry(self, request: Request) -> Response:
        """``GET /api/stream/entry?name=&version=``: one event, the state that it led to and what it changed."""
        name, version = wanted_text(request, "name"), self._version(request)
        aggregate = self._given.aggregate_of(name)
        entries = self._store().history(
            name, aggregate=cast("Any", aggregate), after=version - 1, at_version=version, unknown="keep"
        )
        async for entry in entries:
            shown = shown_event(entry.stored, self._masking)
            download = f"/api/stream/data?{request.url.query}"
            return JsonResponse(
                {
                    "version": version,
                    "recorded_at": entry.stored.recorded_at,
                    "position": entry.stored.position,
                    **metadata_view(shown),
                    **data_view(shown.data, download=download),
                    "fields": None if aggregate is None else self._fields(aggregate, entry),
                }
            )
        raise StreamNotFoundError(name)

    async def data(self, request: Request) -> Response:
        """``GET /api/stream/data?name=&version=``: the data of one event, as a file."""
        name, version = wanted_text(request, "name"), self._version(request)
        for stored in await self._store().get_events(name, version - 1, at_version=version, unknown="keep"):
            return as_file(shown_event(stored, self._masking).data, f"{name}-v{version}")
        raise StreamNotFoundError(name)

    def _store(self) -> EventStore:
        if self._given.store is None:
            raise missing("store", "Give it store=, as await EventStore.connect(url); at a shell, its URL.")
        return self._given.store

    def _version(self, request: Request) -> int:
        version = whole_number(request, "version", default=0, most=_MOST)
        if version == 0:
            raise RefusedError(422, "version must be 1 or more")
        return version

    def _row(self, stored: StoredEvent[Any]) -> Mapping[str, Any]:
        shown = shown_event(stored, self._masking)
        return {
            "version": stored.version,
            "event_type": shown.metadata.event_type,
            "recorded_at": stored.recorded_at,
            "user_id": shown.metadata.user_id,
            "preview": preview(shown.data),
            "size": len(shown.data),
        }

    def _fields(self, aggregate: type[Aggregate], entry: HistoryEntry[Any]) -> list[Mapping[str, Any]]:
        """Return the fields of the state: what each is, and what it was where the event changed it."""
        held = aggregate.__avx_aggregate__.fields_of(entry.state)
        after = self._masking.masked(_plain(held), aggregate).value
        before = self._masking.masked(_plain(_before(entry.changes)), aggregate).value
        return [
            {
                "name": name,
                "value": _written(value),
                "before": _written(before[name]) if name in before else None,
                "is_changed": name in before,
            }
            for name, value in after.items()
        ]


async def _version_of(store: EventStore, name: str) -> int:
    async for info in store.streams(name, limit=1):  # of all names that begin so, it is the first itself
        if info.name == name:
            return info.version
    raise StreamNotFoundError(name)


def _before(changes: Mapping[str, Change]) -> Mapping[str, Any]:
    return {name: change.before for name, change in changes.items()}


def _plain(value: Mapping[str, Any]) -> Any:
    return msgspec.json.decode(msgspec.json.encode(value, enc_hook=repr))


def _written(value: Any) -> str:
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}… ({len(text):,} characters)"

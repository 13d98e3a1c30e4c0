"""Live events: a stream of frames for the page, and one event with everything."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from avx_events.apps.console.answers import JsonResponse, RefusedError, missing, wanted_text, whole_number
from avx_events.apps.console.given import Given
from avx_events.apps.console.live_feed import LiveFeed, Wanted
from avx_events.apps.console.masking import Masking
from avx_events.apps.console.turns import Turns
from avx_events.apps.console.views import ShownEvent, data_view, metadata_view, preview, shown_event
from avx_events.patterns.pause import pause

FRAME_PAUSE_S: Final = 0.1
"""Ten frames a second are more than an eye sees, and each costs the page a layout."""

BEAT_S: Final = 10.0
"""How often a stream says that it lives, where nothing happens."""

MOST_WATCHERS: Final = 64
_NO_SOURCE: Final = "This console was given no source of live events. Give it broker_url=, bus= or store=."
MOST_CORRELATED: Final = 1_000
"""So many events of one correlation are shown; of more, a page says how many there are."""

_MOST: Final = 2**53

_encode: Final = msgspec.json.Encoder().encode


class Live:
    """The endpoints of the page of live events."""

    def __init__(self, given: Given, feed: LiveFeed, masking: Masking) -> None:
        """Answer from ``feed``, and causes from the store."""
        self._given: Final = given
        self._feed: Final = feed
        self._masking: Final = masking

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route("/api/live", self.stream),
            Route("/api/live-source", self.source),
            Route("/api/live/{event_id}", self.event),
            Route("/api/live/{event_id}/data", self.data),
            Route("/api/correlated", self.correlated),
        ]

    async def source(self, _: Request) -> Response:
        """``GET /api/live-source``: where events come from, or how to give the console a source."""
        return JsonResponse({"source": self._feed.source, "how": _NO_SOURCE})

    async def stream(self, request: Request) -> Response:
        """``GET /api/live?type=&topic=&key=&text=&after=``: frames for ever, as server-sent events."""
        if not self._feed.source:
            raise RefusedError(404, _NO_SOURCE, code="not_given")
        if self._feed.watchers >= MOST_WATCHERS:
            raise RefusedError(503, f"{MOST_WATCHERS} pages look already; close one, or wait.", code="busy")
        query = request.query_params
        wanted = Wanted(**{name: query.get(name, "") for name in Wanted.__struct_fields__})
        after = 0 if query.get("run") != self._feed.run_id else whole_number(request, "after", default=0, most=_MOST)
        headers = {"X-Accel-Buffering": "no"}  # proxies that collect answers would collect this one for ever
        return StreamingResponse(self._frames(wanted, after), media_type="text/event-stream", headers=headers)

    async def _frames(self, wanted: Wanted, after: int) -> AsyncGenerator[bytes, None]:
        feed = self._feed
        feed.watchers += 1
        try:
            said = None
            while not feed.is_closed:
                seen = feed.changes.told
                frame = await feed.frame(wanted, after=after)
                state = {"run": feed.run_id, "source": feed.source, "problem": feed.problem}
                if state != said:
                    yield _sent("state", state)
                    said = state
                if frame.rows or frame.last != after:
                    yield _sent("events", frame)
                    after = frame.last
                await pause(self._given.clock, FRAME_PAUSE_S)
                if not await self._has_changed(seen):
                    yield b"event: beat\ndata: {}\n\n"
        finally:
            feed.watchers -= 1

    async def _has_changed(self, seen: int) -> bool:
        try:
            async with asyncio.timeout(BEAT_S):
                await self._feed.changes.wait(since=seen)
        except TimeoutError:
            return False
        return True

    async def event(self, request: Request) -> Response:
        """``GET /api/live/{event_id}``: its envelope and data."""
        shown = await self._kept(request)
        download = f"/api/live/{shown.metadata.event_id}/data"
        return JsonResponse({**metadata_view(shown), **data_view(shown.data, download=download)})

    async def data(self, request: Request) -> Response:
        """``GET /api/live/{event_id}/data``: all of its data, as a file."""
        shown = await self._kept(request)
        return as_file(shown.data, shown.metadata.event_id)

    async def correlated(self, request: Request) -> Response:
        """``GET /api/correlated?id=``: what happened because of what, over all streams; as a list with depths."""
        store = self._given.store
        if store is None:
            raise missing("store", "Causes and effects are read from its log: give it store=.")
        tree = await store.correlated(wanted_text(request, "id"), unknown="keep")
        events = sorted(tree.events, key=lambda event: event.stored.position)
        rows: list[Mapping[str, Any]] = []
        turns = Turns()
        left = [event for event in reversed(events) if event.cause is None]
        effects: dict[str, list[Any]] = {}
        for event in events:
            if event.cause is not None:
                effects.setdefault(event.cause.metadata.event_id, []).append(event)
        while left and len(rows) < MOST_CORRELATED:
            event = left.pop()
            left += reversed(effects.get(event.event_id, []))
            shown = shown_event(event.stored, self._masking)
            place = {"stream": event.stream, "version": event.version, "depth": event.depth}
            rows.append({**place, **metadata_view(shown), "preview": preview(shown.data)})
            await turns.rest()
        return JsonResponse({"correlation_id": tree.correlation_id, "events": rows, "count": len(events)})

    async def _kept(self, request: Request) -> ShownEvent:
        shown = await self._feed.find(request.path_params["event_id"])
        if shown is None:
            raise RefusedError(404, "That event is not kept here any more; the store has it by its stream.")
        return shown


def as_file(data: bytes, name: str) -> Response:
    """Return JSON that a browser saves."""
    safe = "".join(sign for sign in name if sign.isalnum() or sign in "-_.") or "event"
    headers = {"Content-Disposition": f'attachment; filename="{safe}.json"'}
    return Response(data, media_type="application/json", headers=headers)


def _sent(event: str, data: object) -> bytes:
    return b"event: " + event.encode() + b"\ndata: " + _encode(data) + b"\n\n"

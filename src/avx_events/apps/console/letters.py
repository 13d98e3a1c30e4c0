"""Dead letters: grouped by handler and error, looked at, given back, mended and removed."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from avx_events.apps.console.answers import JsonResponse, RefusedError, read_json, wanted_text, whole_number
from avx_events.apps.console.given import Given
from avx_events.apps.console.letter_desk import LetterDesk, Outcome
from avx_events.apps.console.live import as_file
from avx_events.apps.console.masking import Masking
from avx_events.apps.console.safety import session_of
from avx_events.apps.console.turns import in_turns
from avx_events.apps.console.views import letter_view, shown_event
from avx_events.bus.dead_letters import DeadLetter

PAGE: Final = 50
LOOKED_AT: Final = 10_000
"""So many letters are counted into groups; where there are more, the page says so."""

AT_ONCE: Final = 500
"""So many letters of a group are done with one request; the page sends the next one."""

_BATCH: Final = 200


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """The letters of one handler that failed of one kind of error.

    Attributes:
        handler: The handler.
        group: The group that it belongs to; empty where there is none.
        error_type: The error's class name.
        error: The error of the last one.
        count: How many.
        oldest: When the first died.
        newest: When the last died.
    """

    handler: str
    group: str
    error_type: str
    error: str
    count: int
    oldest: datetime
    newest: datetime


class _Count(msgspec.Struct, frozen=True):
    count: int
    oldest: datetime
    newest: DeadLetter


class Which(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which letters of a group are meant.

    Attributes:
        handler: Their handler.
        group: Its group.
        error_type: Their error.
        until: Only those that were dead by then: what came since, nobody has seen.
        after: Only those past this id: the last one of the request before.
    """

    handler: str
    error_type: str
    until: datetime
    group: str = ""
    after: str = ""


class Edited(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The data of an event as somebody wrote it, as JSON text."""

    text: str


class Letters:
    """The endpoints of the page of dead letters."""

    def __init__(self, given: Given, desk: LetterDesk, masking: Masking) -> None:
        """Answer for the queue of ``desk``."""
        self._given: Final = given
        self._desk: Final = desk
        self._masking: Final = masking

    def routes(self) -> list[Route]:
        """Return the routes."""
        one = "/api/letters/{letter_id}"
        return [
            Route("/api/letters", self.listed),
            Route("/api/letters/count", self.count),
            Route("/api/letters/groups", self.groups),
            Route("/api/letters/redrive", self.redrive_group, methods=["POST"]),
            Route("/api/letters/remove", self.remove_group, methods=["POST"]),
            Route(one, self.show),
            Route(f"{one}/data", self.data),
            Route(f"{one}/redrive", self.redrive, methods=["POST"]),
            Route(f"{one}/edit", self.edit, methods=["POST"]),
            Route(f"{one}/remove", self.remove, methods=["POST"]),
        ]

    async def groups(self, _: Request) -> Response:
        """``GET /api/letters/groups``: by handler and error, those with most letters first."""
        groups: dict[tuple[str, str, str], _Count] = {}
        looked_at, after = 0, None
        while looked_at < LOOKED_AT and (page := await self._desk.queue.list(limit=_BATCH, after=after)):
            for letter in page:
                key = (letter.handler, letter.group, letter.error_type)
                groups[key] = _counted(groups.get(key), letter)
            looked_at, after = looked_at + len(page), page[-1]
        found = sorted(await in_turns(self._group_of, groups.values()), key=lambda group: -group.count)
        return JsonResponse({"groups": found, "count": await self._desk.queue.count(), "looked_at": looked_at})

    async def count(self, _: Request) -> Response:
        """``GET /api/letters/count``: how many there are; what a page asks to know whether to look again."""
        return JsonResponse({"count": await self._desk.queue.count()})

    async def listed(self, request: Request) -> Response:
        """``GET /api/letters?handler=&error_type=&group=&after=``: those of one group, the oldest first."""
        limit = whole_number(request, "limit", default=PAGE, most=500) or PAGE
        query = request.query_params
        found = await self._letters(
            wanted_text(request, "handler"),
            wanted_text(request, "error_type"),
            group=query.get("group", ""),
            after=query.get("after", ""),
            limit=limit + 1,
        )
        views = await in_turns(self._view, found[:limit])
        return JsonResponse({"letters": views, "next": found[limit - 1].id if len(found) > limit else None})

    async def show(self, request: Request) -> Response:
        """``GET /api/letters/{letter_id}``: all of it."""
        return JsonResponse(self._view(await self._letter(request)))

    async def data(self, request: Request) -> Response:
        """``GET /api/letters/{letter_id}/data``: the data of its event, as a file."""
        letter = await self._letter(request)
        if letter.envelope is None:
            raise RefusedError(404, "Its bytes could not be read, and what is personal in them could not be hidden.")
        return as_file(shown_event(letter.envelope, self._masking).data, letter.id)

    async def redrive(self, request: Request) -> Response:
        """``POST /api/letters/{letter_id}/redrive``."""
        [outcome] = await self._desk.redrive([request.path_params["letter_id"]], operator=_operator(request))
        return JsonResponse(outcome)

    async def edit(self, request: Request) -> Response:
        """``POST /api/letters/{letter_id}/edit {"text"}``."""
        edited = await read_json(request, Edited)
        letter_id = request.path_params["letter_id"]
        return JsonResponse(await self._desk.edit(letter_id, edited.text, operator=_operator(request)))

    async def remove(self, request: Request) -> Response:
        """``POST /api/letters/{letter_id}/remove``."""
        [outcome] = await self._desk.remove([request.path_params["letter_id"]], operator=_operator(request))
        return JsonResponse(outcome)

    async def redrive_group(self, request: Request) -> Response:
        """``POST /api/letters/redrive {"handler", "error_type", "until"}``: of the group, up to 500."""
        letter_ids = await self._which(request)
        return _outcomes(await self._desk.redrive(letter_ids, operator=_operator(request)))

    async def remove_group(self, request: Request) -> Response:
        """``POST /api/letters/remove {"handler", "error_type", "until"}``: of the group, up to 500."""
        letter_ids = await self._which(request)
        return _outcomes(await self._desk.remove(letter_ids, operator=_operator(request)))

    async def _which(self, request: Request) -> Sequence[str]:
        which = await read_json(request, Which)
        if which.until.tzinfo is None:
            raise RefusedError(422, "until needs a time zone")
        found = await self._letters(
            which.handler, which.error_type, group=which.group, after=which.after, until=which.until, limit=AT_ONCE
        )
        return [letter.id for letter in found]

    async def _letters(
        self, handler: str, error_type: str, *, group: str, after: str, limit: int, until: datetime | None = None
    ) -> Sequence[DeadLetter]:
        """Return up to ``limit`` letters of a group; the queue does not know groups, so they are sorted out here."""
        found: list[DeadLetter] = []
        last: str | None = after or None
        while len(found) < limit:
            page = await self._desk.queue.list(
                handler=handler, error_type=error_type, until=until, limit=_BATCH, after=last
            )
            found += [letter for letter in page if letter.group == group]
            if len(page) < _BATCH:
                break
            last = page[-1].id
        return found[:limit]

    async def _letter(self, request: Request) -> DeadLetter:
        return await self._desk.queue.get(request.path_params["letter_id"])

    def _view(self, letter: DeadLetter) -> Mapping[str, Any]:
        deed = self._desk.deed_of(letter.id)
        return {**letter_view(letter, self._masking), "done": None if deed is None else str(deed)}

    def _group_of(self, counted: _Count) -> Group:
        newest = counted.newest
        return Group(
            handler=newest.handler,
            group=newest.group,
            error_type=newest.error_type,
            error=letter_view(newest, self._masking)["error"],
            count=counted.count,
            oldest=counted.oldest,
            newest=newest.dead_at,
        )


def _counted(before: _Count | None, letter: DeadLetter) -> _Count:
    """Return a count with ``letter``; of all letters only the newest is kept, as they may be large."""
    if before is None:
        return _Count(1, letter.dead_at, letter)
    newest = letter if letter.dead_at >= before.newest.dead_at else before.newest
    return _Count(before.count + 1, min(before.oldest, letter.dead_at), newest)


def _operator(request: Request) -> str:
    return session_of(request).operator


def _outcomes(outcomes: Sequence[Outcome]) -> Response:
    counts: dict[str, int] = {}
    for outcome in outcomes:
        counts[outcome.state] = counts.get(outcome.state, 0) + 1
    refused = next((outcome.says for outcome in outcomes if outcome.state in {"refused", "failed_again"}), "")
    after = outcomes[-1].id if len(outcomes) == AT_ONCE else None
    return JsonResponse({"counts": counts, "says": refused, "next": after})

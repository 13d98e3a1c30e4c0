"""Projections: which version is how far and how long it takes until it has caught up; paused, resumed and rebuilt."""

from collections.abc import Mapping
from typing import Any, Final, TypeAlias

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from avx_events.apps.console.answers import JsonResponse, missing, read_json
from avx_events.apps.console.given import Given
from avx_events.core.errors import TransactionError
from avx_events.patterns.projection import Projector
from avx_events.patterns.projection.overview import KnownVersion, Overview
from avx_events.patterns.projection.speed import Speed

Shown: TypeAlias = Mapping[str, Any]


class Nothing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a request whose path says all."""


class Projections:
    """The endpoints of the page of projections: of a projector of this process, or of all that a store has."""

    def __init__(self, given: Given) -> None:
        """Answer from the projector of ``given``, else from its store."""
        self._given: Final = given
        self._speeds: Final = dict[str, Speed]()

    def routes(self) -> list[Route]:
        """Return the routes."""
        one = "/api/projections/{name}"
        return [
            Route("/api/projections", self.show),
            Route(f"{one}/pause", self.pause, methods=["POST"]),
            Route(f"{one}/resume", self.resume, methods=["POST"]),
            Route(f"{one}/rebuild", self.rebuild, methods=["POST"]),
        ]

    async def show(self, _: Request) -> Response:
        """``GET /api/projections``: each with its status, and what it did in this process if it runs here."""
        source = self._source()
        shown = await _run_here(source) if isinstance(source, Projector) else await self._known(source)
        return JsonResponse({"projections": shown})

    async def pause(self, request: Request) -> Response:
        """``POST /api/projections/{name}/pause``."""
        name = await _name_in(request)
        await self._source().pause(name)
        return JsonResponse({"says": f"{name} is paused."})

    async def resume(self, request: Request) -> Response:
        """``POST /api/projections/{name}/resume``."""
        name = await _name_in(request)
        await self._source().resume(name)
        return JsonResponse({"says": f"{name} goes on."})

    async def rebuild(self, request: Request) -> Response:
        """``POST /api/projections/{name}/rebuild``."""
        name = await _name_in(request)
        await self._source().rebuild(name)
        return JsonResponse({"says": f"{name} is built again by the processes that run it."})

    def _source(self) -> Projector | Overview:
        if self._given.projector is not None:
            return self._given.projector
        if self._given.store is not None:
            return Overview(self._given.store)
        how = "Give it projector=, the Projector of this process, or store=; at a shell, the URL of the store."
        raise missing("projector and no store", how)

    async def _known(self, overview: Overview) -> list[Shown]:
        try:
            known = await overview.versions()
        except TransactionError:  # a store in memory has no tables
            return []
        newest = {each.name: each for each in known}  # of each name the last one
        read = {each.name: each.version for each in reversed(known) if each.stage == "live"}
        return [self._shown(each, read.get(each.name)) for each in newest.values()]

    def _shown(self, version: KnownVersion, read: int | None) -> Shown:
        now_s = self._given.clock.monotonic()
        speed = self._speeds.setdefault(version.name, Speed())
        rate = speed.per_second(version.position, now_s=now_s)
        speed.passes(version.position, at_s=now_s)
        left_s = version.lag_events / rate if rate else None
        return {
            "name": version.name,
            "version": version.version,
            "state": _state_of(version),
            "replaces": read if version.stage == "beside" else None,
            "position": version.position,
            "last_position": version.last_position,
            "lag_events": version.lag_events,
            "lag_seconds": version.lag_seconds,
            "events_per_second": rate,
            "seconds_left": left_s if version.lag_events else 0.0,
            "problem": "",
            "handled": None,
            "failures": None,
            "dead_lettered": version.dead_letters,
        }


async def _run_here(projector: Projector) -> list[Shown]:
    statistics = projector.statistics()
    return [
        {
            "name": name,
            **msgspec.structs.asdict(status),
            "handled": statistics[name].handled,
            "failures": statistics[name].failures,
            "dead_lettered": statistics[name].dead_lettered,
        }
        for name, status in (await projector.status()).items()
    ]


def _state_of(version: KnownVersion) -> str:
    if version.paused:
        return "paused"
    if version.is_set_aside:
        return "waiting"
    return "live" if version.stage == "live" else "building"


async def _name_in(request: Request) -> str:
    await read_json(request, Nothing)
    return str(request.path_params["name"])

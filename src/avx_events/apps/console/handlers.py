"""Handlers of this process, and groups of the broker: how much they do, and how far behind they are."""

from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from avx_events.apps.console.answers import JsonResponse, missing
from avx_events.apps.console.given import Given
from avx_events.apps.console.sampling import Sampler
from avx_events.core.errors import AvxEventsError


class Handlers:
    """The endpoint of the page of handlers and groups."""

    def __init__(self, given: Given, sampler: Sampler) -> None:
        """Answer with what ``sampler`` has seen."""
        self._given: Final = given
        self._sampler: Final = sampler

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [Route("/api/handlers", self.show)]

    async def show(self, _: Request) -> Response:
        """``GET /api/handlers``: the handlers of the bus and, where there is an inspector, the groups of the broker."""
        given = self._given
        if given.bus is None and given.inspector is None:
            how = "Give it bus=, or inspector=await Inspector.connect(url); at a shell, the URL of the broker."
            raise missing("bus and no inspector", how)
        problem = self._sampler.problem
        try:
            groups = await self._sampler.groups()
        except AvxEventsError as exc:  # the handlers of this process are there all the same
            groups, problem = [], str(exc)
        return JsonResponse(
            {
                "has_bus": given.bus is not None,
                "handlers": self._sampler.handlers(),
                "has_inspector": given.inspector is not None,
                "groups": groups,
                "problem": problem,
            }
        )

"""Projections: which version is how far, and how long it takes until it has caught up."""

from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from avx_events.apps.console.answers import JsonResponse, missing
from avx_events.apps.console.given import Given


class Projections:
    """The endpoint of the page of projections."""

    def __init__(self, given: Given) -> None:
        """Answer from the projector of ``given``."""
        self._given: Final = given

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [Route("/api/projections", self.show)]

    async def show(self, _: Request) -> Response:
        """``GET /api/projections``: each with its status and what it did in this process."""
        projector = self._given.projector
        if projector is None:
            raise missing("projector", "Give it projector=, the Projector of this process.")
        statistics = projector.statistics()
        return JsonResponse(
            {
                "projections": [
                    {
                        "name": name,
                        **msgspec.structs.asdict(status),
                        "handled": statistics[name].handled,
                        "failures": statistics[name].failures,
                        "dead_lettered": statistics[name].dead_lettered,
                    }
                    for name, status in (await projector.status()).items()
                ]
            }
        )

"""The console of the service, at ``/console``: where its extra is installed."""

from importlib.util import find_spec
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp

from avx_events.observability import Settings
from examples.production_service.service import Service
from examples.production_service.users import User
from examples.production_service.welcome import WelcomeMail

if TYPE_CHECKING:
    from avx_events.apps.console import Console

_NEEDED = ("jinja2", "starlette", "uvicorn")


def has_console() -> bool:
    """Return whether what the console needs is installed."""
    return all(find_spec(name) is not None for name in _NEEDED)


def console_of(service: Service, settings: Settings) -> "Console | None":
    """Return a console of what ``service`` has; None without the extra ``console``.

    Without a token (``AVX_EVENTS__CONSOLE_TOKEN``) it answers its own machine only.
    """
    if not has_console():
        return None
    from avx_events.apps.console import Console  # noqa: PLC0415 - it needs the extra

    return Console(
        store=service.store,
        bus=service.bus,
        broker_url=settings.events.bus_url,
        namespace=settings.events.namespace,
        projector=service.projector,
        latencies=service.metrics.latencies,
        aggregates={"user-": User, "welcome-mail-": WelcomeMail},
        token=settings.events.console_token,
    )


def pages_of(console: ASGIApp) -> list[BaseRoute]:
    """Return the routes of ``console``: all below ``/console/``, to which ``/console`` leads."""

    async def lead(_: Request) -> Response:
        return RedirectResponse("/console/")

    return [Route("/console", lead), Mount("/console", console)]

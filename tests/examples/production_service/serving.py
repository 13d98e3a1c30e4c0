"""A service in this process, and a client that needs no socket."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import httpx

from avx_events.observability import Settings
from examples.production_service.http.app import http_app
from examples.production_service.service import Service, running_service
from examples.production_service.welcome import LogMailer, Mailer
from tests.waiting import until


@asynccontextmanager
async def serving(
    store_url: str = "sqlite://", *, mailer: Mailer | None = None, **settings: str
) -> AsyncGenerator[tuple[httpx.AsyncClient, Service], None]:
    """Run a service on the store at ``store_url``, in memory if not given; ``settings`` as ``BUS_URL``."""
    environment = {"AVX_EVENTS__STORE_URL": store_url} | {
        f"AVX_EVENTS__{name}": value for name, value in settings.items()
    }
    async with running_service(Settings.load(environment), mailer=mailer or LogMailer()) as service:
        transport = httpx.ASGITransport(http_app(service), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            yield client, service


async def create_user(client: httpx.AsyncClient, email: str = "jane@example.com", name: str = "Jane") -> str:
    """Create a user, and return its id."""
    answer = await client.post("/users", json={"email": email, "name": name})
    assert answer.status_code == 201
    user_id: str = answer.json()["user_id"]
    return user_id


async def handled(service: Service) -> None:
    """Wait until handlers are done with all that is in the log now."""
    wanted = await service.store.last_position()
    if service.relay is not None:
        await service.relay.caught_up()
    await service.projector.caught_up(wanted)
    await until(lambda: service.bus.statistics().handled + service.bus.statistics().dead_lettered)
    await service.bus.settled()

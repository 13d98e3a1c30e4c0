"""A service in this process, and a client that needs no socket."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import httpx

from examples.production_service.http.app import http_app
from examples.production_service.service import Service, running_service
from examples.production_service.welcome import LogMailer, Mailer
from tests.waiting import until


@asynccontextmanager
async def serving(
    store_url: str = "sqlite://", *, mailer: Mailer | None = None
) -> AsyncGenerator[tuple[httpx.AsyncClient, Service], None]:
    """Run a service on the store at ``store_url``, in memory if not given."""
    async with running_service(store_url, mailer=mailer or LogMailer()) as service:
        transport = httpx.ASGITransport(http_app(service), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            yield client, service


async def create_user(client: httpx.AsyncClient, email: str = "jane@example.com", name: str = "Jane") -> str:
    """Create a user, and return its id."""
    answer = await client.post("/users", json={"email": email, "name": name})
    assert answer.status_code == 201
    user_id: str = answer.json()["user_id"]
    return user_id


async def relayed(service: Service) -> None:
    """Wait until handlers are done with all that is in the log now, and so the log has what they added."""
    last_position = await service.store.last_position()
    await until(lambda: service.relay.position >= last_position)

"""People in front of a console: what they ask with, and from where."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager

import httpx

from avx_events.apps.console import Console

TOKEN = "a-token-of-enough-letters"  # noqa: S105 - of no console but those of the tests


@asynccontextmanager
async def visiting(
    console: Console,
    *,
    url: str = "http://127.0.0.1:8090",
    address: str = "127.0.0.1",
    headers: Mapping[str, str] | None = None,
) -> AsyncGenerator[httpx.AsyncClient]:
    """Enter ``console``, and ask it from ``address``."""
    async with console:
        transport = httpx.ASGITransport(console, client=(address, 50_000))
        async with httpx.AsyncClient(transport=transport, base_url=url, headers=headers) as client:
            yield client


async def as_page(client: httpx.AsyncClient) -> dict[str, str]:
    """Return the headers with which a page of ours changes something."""
    form_token = (await client.get("/api/session")).json()["form_token"]
    return {"X-Form-Token": form_token, "Origin": str(client.base_url).rstrip("/")}

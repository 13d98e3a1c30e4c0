"""A client of a service on a store in memory."""

from collections.abc import AsyncGenerator

import httpx
import pytest

from tests.examples.production_service.serving import serving


@pytest.fixture
async def client() -> AsyncGenerator[httpx.AsyncClient, None]:
    async with serving() as (client, _):
        yield client

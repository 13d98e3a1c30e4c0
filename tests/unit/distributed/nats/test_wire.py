"""The connection ends when it is told to, whatever nats-py makes of that."""

import asyncio
from typing import Any

import pytest
from nats.aio.client import Client

from avx_events.bus.event_bus import EventBus
from avx_events.core.errors import TransportUnavailableError


async def test_a_cancellation_that_the_client_swallows_ends_it_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    swallowed = 0

    async def connect(_: object, **__: Any) -> None:
        nonlocal swallowed
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            swallowed += 1
            raise OSError("refused in that moment") from None

    monkeypatch.setattr(Client, "connect", connect)
    before = asyncio.all_tasks()

    with pytest.raises(TransportUnavailableError):
        await EventBus.connect("nats://127.0.0.1:1", timeout_s=0.05)

    assert swallowed > 0
    assert asyncio.all_tasks() == before

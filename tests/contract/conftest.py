"""The contracts are kept on every event loop, also one whose insides are not asyncio's."""

import asyncio

import pytest
import uvloop


@pytest.fixture(params=["asyncio", "uvloop"], autouse=True)
def event_loop_of(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the contracts, which run themselves, run on the loop of this name."""
    if request.param == "uvloop":
        monkeypatch.setattr(asyncio, "run", uvloop.run)

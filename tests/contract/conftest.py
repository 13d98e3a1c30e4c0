"""The contracts are kept on every event loop, also one whose insides are not asyncio's."""

import asyncio
from collections.abc import Coroutine

import pytest
import uvloop


@pytest.fixture(params=["asyncio", "uvloop"], autouse=True)
def event_loop_of(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the contracts, which run themselves, run on the loop of this name."""
    if request.param == "uvloop":
        monkeypatch.setattr(asyncio, "run", _run_on_uvloop)


def _run_on_uvloop(main: Coroutine[object, object, object]) -> object:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # uvloop.run() calls asyncio.run() from 3.12 on
        return runner.run(main)

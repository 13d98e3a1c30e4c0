"""The contract of stores can be failed, too: what a store leaves on the loop is found out by any test that opens it."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from avx_events import EventStore
from avx_events.core.tasks import TaskScope
from avx_events.testing import StoreContract


class Leaky(EventStore):
    """Leaves a task behind."""

    async def close(self) -> None:
        TaskScope().spawn(asyncio.sleep(60), name="left behind")
        await super().close()


class Careless(EventStore):
    """Takes no notice of an error of its own."""

    async def close(self) -> None:
        asyncio.get_running_loop().call_soon(lambda: 1 / 0)
        await super().close()


@pytest.mark.parametrize(
    ("store_class", "problem"), [(Leaky, "tasks were left behind"), (Careless, "errors that nobody took")]
)
def test_a_store_that_leaves_something_on_its_loop_fails(
    store_class: type[EventStore], problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Contract(StoreContract):
        async def connect(self, folder: Path, **options: Any) -> EventStore:
            return store_class(**options)

    monkeypatch.setattr("avx_events.testing.own_loop._TASKS_END_WITHIN_S", 0.1)

    with pytest.raises(AssertionError, match=problem):
        Contract().test_a_stream_that_is_not_there_is_empty(tmp_path)

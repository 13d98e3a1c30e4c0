"""Runs processes until it is told to finish, or killed; stops for that at one point, once, and says so.

Usage: process_worker.py STORE_URL OPTIONS
Says "ready", "active" and "at POINT"; a line on its input has it finish what is there, say "settled" and end.
"""

import asyncio
import json
import sys
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from avx_events import EventStore, Retry
from avx_events.core.metadata import EventEnvelope
from avx_events.patterns.cqrs import CallNext, Middleware, idempotency_key
from avx_events.patterns.process import ProcessRunner
from avx_events.store.ports import Connection
from tests.live.process_orders import MANAGER, Fulfilment, Pay, Placed, command_bus


def say(what: str) -> None:
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


class Points:
    """Where this worker is, and where it is to stop.

    Attributes:
        stop_at: The point; empty for none.
        step: What has just reacted, and is not committed yet.
    """

    stop_at = ""
    step = ""

    def pass_by(self, point: str) -> None:
        """Stop the whole process if this is the point."""
        if point == self.stop_at:
            say(f"at {point}")
            sys.stdin.read()

    async def reach(self, point: str) -> None:
        """Stop this task if this is the point."""
        if point == self.stop_at:
            self.stop_at = ""
            say(f"at {point}")
            await asyncio.get_running_loop().create_future()


points = Points()


class WatchedStore(EventStore):
    """A store whose worker may stop before and after the commit of a reaction."""

    def transaction(self) -> AbstractAsyncContextManager[Connection]:
        return self._watched()

    @asynccontextmanager
    async def _watched(self) -> AsyncGenerator[Connection, None]:
        async with super().transaction() as connection:
            yield connection
            step, points.step = points.step, ""
            points.pass_by(f"before the commit of the {step}")
        points.pass_by(f"after the commit of the {step}")


class WatchedFulfilment(Fulfilment, name=MANAGER):
    def placed(self, event: Placed) -> None:
        points.step = "reaction"
        super().placed(event)

    def late(self) -> None:
        points.step = "deadline"
        super().late()

    def unpaid(self, command: Pay, error: str) -> None:
        points.pass_by("in on_failure")
        points.step = "failure"
        super().unpaid(command, error)


async def stop_after_it(envelope: EventEnvelope[Any], call_next: CallNext) -> Any:
    result = await call_next(envelope)
    if isinstance(envelope.event, Pay):
        await points.reach("after the handler")
    return result


async def main(url: str, *, stop_at: str, is_idempotent: bool, attempts: int, **options: Any) -> None:
    points.stop_at = stop_at
    async with await WatchedStore.connect(url) as store:
        inner: list[Middleware] = [idempotency_key(store, timeout_s=1)] if is_idempotent else []
        bus = command_bus(store, stop_after_it, *inner, reach=points.reach)
        async with (
            ProcessRunner(store, WatchedFulfilment, commands=bus, retry=Retry(attempts=attempts), **options) as runner,
            asyncio.TaskGroup() as tasks,
        ):
            say("ready")
            telling = tasks.create_task(tell_when_active(runner))
            await asyncio.to_thread(sys.stdin.readline)
            await runner.settled(timeout_s=60)
            telling.cancel()
            say("settled")


async def tell_when_active(runner: ProcessRunner) -> None:
    while not runner.is_active:  # noqa: ASYNC110
        await asyncio.sleep(0.01)  # nothing announces that another process is not the active one any more
    say("active")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], **json.loads(sys.argv[2])))

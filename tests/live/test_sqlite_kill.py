"""Kill -9 in the middle of a thousand appends: what returned is there, nothing is torn, the rest can be repeated."""

import asyncio
import random
from pathlib import Path

import pytest

from avx_events.store.event_store import EventStore
from tests.live.histories import Attempt, Kept, violations
from tests.live.sqlite_processes import killed, log_of
from tests.live.sqlite_writer import attempt, batch_of

APPENDERS = 1_000
ROUNDS = 4


async def repeated(store: EventStore, unknown: list[Attempt]) -> list[Attempt]:
    """Append again what nobody knows the fate of."""

    async def repeat(one: Attempt) -> Attempt:
        name, appender, turn, _ = one.event_ids[0].split("-")
        return await attempt(store, one.stream, batch_of(name, int(appender), int(turn)))

    async with asyncio.TaskGroup() as tasks:
        repeats = [tasks.create_task(repeat(one)) for one in unknown]
    return [task.result() for task in repeats]


@pytest.mark.parametrize("writer", ["thread", "inline"])
async def test_after_a_kill_the_log_is_what_its_callers_were_told(tmp_path: Path, writer: str) -> None:
    url = f"sqlite:///{tmp_path}/events.db?writer={writer}"
    attempts: list[Attempt] = []
    for number in range(ROUNDS):
        after = random.randrange(1, 3 * APPENDERS)
        made = await killed(url, f"round{number}", appenders=APPENDERS, after=after)
        attempts += made
        async with await EventStore.connect(url) as store:
            assert violations(attempts, await log_of(store)) == [], f"killed after {after}"

            repeats = await repeated(store, [one for one in made if one.outcome is None])
            attempts += repeats

            assert [one for one in repeats if not isinstance(one.outcome, Kept)] == []
            assert violations(attempts, await log_of(store)) == [], f"killed after {after}, and repeated"

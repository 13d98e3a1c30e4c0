"""Kill -9 in the middle of many appends: what returned is there, nothing is torn, the rest can be repeated."""

import random

import pytest

from avx_events.store.event_store import EventStore
from tests.live.histories import Attempt, Kept, violations
from tests.live.postgres_attempts import repeated
from tests.live.sqlite_processes import killed, log_of

pytestmark = pytest.mark.live

APPENDERS = 300
ROUNDS = 3


async def test_after_a_kill_the_log_is_what_its_callers_were_told(postgres_database: str) -> None:
    attempts: list[Attempt] = []
    for number in range(ROUNDS):
        after = random.randrange(1, 3 * APPENDERS)
        made = await killed(postgres_database, f"round{number}", appenders=APPENDERS, after=after)
        attempts += made
        async with await EventStore.connect(postgres_database) as store:
            # The server may still be at what the process had sent; who appends again waits for it.
            repeats = await repeated(store, [one for one in made if one.outcome is None])
            attempts += repeats

            assert [one for one in repeats if not isinstance(one.outcome, Kept)] == []
            assert violations(attempts, await log_of(store)) == [], f"killed after {after}, and repeated"

"""Dead letters in a file that processes share and are killed over: none is lost, done twice, or claimed for ever."""

import asyncio
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from avx_events.bus.claim_leases import LEASE_S
from avx_events.bus.dead_letters import DeadLetter, DeadLetterQueue
from avx_events.core.clock import SYSTEM_CLOCK
from avx_events.core.metadata import stamp
from avx_events.testing import ManualClock
from tests.live.letters_worker import Broken
from tests.live.sqlite_processes import lines, running

ROUNDS = 4


@pytest.mark.parametrize("writer", ["thread", "inline"])
async def test_a_letter_that_was_taken_is_there_after_a_kill(tmp_path: Path, writer: str) -> None:
    url = f"sqlite:///{tmp_path}/letters.db?writer={writer}"
    taken: set[str] = set()
    for number in range(ROUNDS):
        after = len(taken) + random.randrange(1, 500)
        async with running("letters_worker", "bury", url, f"round{number}") as worker:
            async for letter_id in lines(worker, str):
                taken.add(letter_id)
                if len(taken) == after:
                    asyncio.get_running_loop().call_later(random.uniform(0, 0.02), worker.kill)

        async with await DeadLetterQueue.connect(url) as queue:
            letters = await queue.list(handler="mend", event_type="live.broken", error_type="RuntimeError")

        assert taken <= {letter.id for letter in letters}, f"killed after {after}"
        assert all(letter.error == f"RuntimeError: {letter.event.number}" for letter in letters)
        assert len({(letter.event.worker, letter.event.number) for letter in letters}) == len(letters)


def a_letter(number: int) -> DeadLetter:
    now = datetime.now(UTC)
    return DeadLetter(
        id=f"letter-{number:04}",
        handler="mend",
        reason="failed",
        error="RuntimeError",
        error_type="RuntimeError",
        attempts=1,
        first_failed_at=now,
        dead_at=now,
        envelope=stamp(Broken("a", number), clock=SYSTEM_CLOCK),
    )


async def test_processes_that_redrive_the_same_letters_do_each_of_them_once(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/letters.db"
    async with await DeadLetterQueue.connect(url) as queue, asyncio.TaskGroup() as tasks:
        for number in range(400):
            tasks.create_task(queue.add(a_letter(number)))
    handled: list[int] = []

    async def redrive(name: str) -> int | None:
        async with running("letters_worker", "redrive", url, name) as worker:
            handled.extend([number async for number in lines(worker, int)])
            return await worker.wait()

    async with asyncio.TaskGroup() as tasks:
        workers = [tasks.create_task(redrive(f"worker{number}")) for number in range(3)]

    assert [worker.result() for worker in workers] == [0, 0, 0]
    assert sorted(handled) == list(range(400))


async def test_a_letter_that_a_killed_process_had_claimed_is_free_after_its_lease(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/letters.db"
    async with await DeadLetterQueue.connect(url) as queue:
        await queue.add(a_letter(1))
        async with running("letters_worker", "hang", url, "hanging") as worker:
            assert await anext(lines(worker, str)) == "letter-0001"
            assert await queue.claim("letter-0001") is None
            worker.kill()
        assert await queue.claim("letter-0001") is None

    later = ManualClock(datetime.now(UTC) + timedelta(seconds=LEASE_S))
    async with await DeadLetterQueue.connect(url, clock=later) as queue:
        claimed = await queue.claim("letter-0001")

    assert claimed is not None
    assert claimed.event == Broken("a", 1)


async def test_a_process_that_ends_in_good_order_leaves_its_letters_free(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/letters.db"
    async with await DeadLetterQueue.connect(url) as queue:
        await queue.add(a_letter(1))
        async with running("letters_worker", "hang", url, "hanging") as worker:
            assert await anext(lines(worker, str)) == "letter-0001"
            worker.send_signal(2)  # as Ctrl-C: asyncio.run() cancels, the bus stops, and then the queue is closed
            await worker.wait()

        claimed = await queue.claim("letter-0001")

    assert claimed is not None

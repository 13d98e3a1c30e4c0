"""Workers that are killed at every step of a process, stopped past their lease, and killed at random.

Whatever happens to them, each order ends in one way, its commands come in order, and what was under way comes again.
"""

import asyncio
import json
import os
import random
import signal
import sys
from collections.abc import AsyncGenerator, Iterable
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from avx_events import EventStore, StatementError, StoreUnavailableError
from avx_events.patterns.tables import fetch
from tests.live.fulfilled import violations
from tests.live.process_orders import Cancelled, Done, Paid, Placed, Shipped

pytestmark = [pytest.mark.live, pytest.mark.timeout(120)]

ROOT: Final = Path(__file__).parents[2]
WORKER: Final = Path(__file__).with_name("process_worker.py")

LEASE_S: Final = 1.0
CONCURRENCY: Final = 4
TABLES: Final = ("avx_process_managers", "avx_processes", "avx_process_commands", "avx_process_deadlines", "avx_relays")
LONGEST_S: Final = 60.0
# Of one test. A command may be under way at each: while the claim of a key lasts that a killed worker has left.
KILLS: Final = 8
KINDS: Final = ("good", "good", "good", "declined", "silent")


class Worker:
    """A process that runs the processes of orders."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @property
    def has_ended(self) -> bool:
        return self._process.returncode is not None

    async def says(self, *lines: str) -> None:
        """Wait until it has said one of these lines."""
        assert self._process.stdout is not None
        async with asyncio.timeout(LONGEST_S):
            while (line := (await self._process.stdout.readline()).decode().strip()) not in lines:
                assert line, "it has ended"

    async def kill(self) -> None:
        self._process.kill()
        await self._process.wait()

    async def finish(self) -> None:
        """Have it carry out what is there, and end."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        await self.says("settled")
        assert await self._process.wait() == 0

    async def stop(self) -> None:
        self._process.send_signal(signal.SIGSTOP)
        # Until it stands still it may take a lock.
        await asyncio.to_thread(os.waitid, os.P_PID, self._process.pid, os.WSTOPPED | os.WNOWAIT)

    def go_on(self) -> None:
        self._process.send_signal(signal.SIGCONT)


class Scene:
    """A database, and the workers on it."""

    def __init__(self, url: str, store: EventStore) -> None:
        self.workers: list[Worker] = []
        self._url = url
        self._store = store
        self._placed = 0

    async def worker(self, *, stop_at: str = "", is_idempotent: bool = False) -> Worker:
        """Start a worker, and return when it runs."""
        options = {"stop_at": stop_at, "is_idempotent": is_idempotent}
        more = {"lease_s": LEASE_S, "concurrency": CONCURRENCY, "attempts": KILLS + 1}
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            WORKER,
            self._url,
            json.dumps(options | more),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={"PYTHONPATH": str(ROOT)},
        )
        worker = Worker(process)
        self.workers.append(worker)
        await worker.says("ready")
        return worker

    async def place(self, *kinds: str) -> None:
        """Place an order of each kind."""
        for kind in kinds:
            order_id = f"order-{self._placed}"
            self._placed += 1
            await self._store.append(order_id, Placed(order_id, kind))

    async def ended(self, count: int | None = None) -> None:
        """Wait until so many orders have ended; all that were placed if not given, or if they are fewer."""
        wanted = self._placed if count is None else min(count, self._placed)
        ends = 0
        async with asyncio.timeout(LONGEST_S):
            async for _ in self._store.subscribe(types=[Shipped, Cancelled]):
                ends += 1
                if ends >= wanted:
                    return

    async def ends(self) -> int:
        """Count the orders that have ended."""
        return len([stored async for stored in self._store.read_all(types=[Shipped, Cancelled])])

    async def stop(self, worker: Worker) -> None:
        """Let a worker stand still, at a moment in which it has no lock, for which all would wait."""
        async with asyncio.timeout(LONGEST_S):
            while True:
                await worker.stop()
                if not await self._is_locked():
                    return
                worker.go_on()

    async def _is_locked(self) -> bool:
        try:
            async with asyncio.timeout(1), self._store.transaction() as connection:
                if connection.dialect == "postgresql":
                    for table in TABLES:
                        await connection.fetch(f"SELECT 1 FROM {table} FOR UPDATE NOWAIT")  # noqa: S608 - ours
        except (TimeoutError, StatementError, StoreUnavailableError):
            return True
        return False

    async def done(self) -> list[str]:
        """Return what was done, in order."""
        return [stored.event.what async for stored in self._store.read_all(types=[Done])]

    async def judge(self, *, most_repeats: int) -> dict[str, str]:
        """Fail where this is no history that orders may have, and return how they have ended."""
        log = [stored.event async for stored in self._store.read_all()]
        async with self._store.transaction() as connection:
            processes = await fetch(connection, "SELECT id, state FROM avx_processes WHERE status = 'ended'")
            left = await fetch(connection, "SELECT process FROM avx_process_commands")
            deadlines = await fetch(connection, "SELECT process FROM avx_process_deadlines")
        statuses = {process: msgspec.msgpack.decode(state)["status"] for process, state in processes}
        found = violations(log, statuses, most_repeats=most_repeats)
        assert not found, "\n".join(found)
        assert (left, deadlines) == ([], [])
        assert len(statuses) == self._placed
        return statuses

    async def end(self) -> None:
        """Kill what still runs."""
        for worker in self.workers:
            if not worker.has_ended:
                await worker.kill()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgresql":
        return str(request.getfixturevalue("postgres_database"))
    return f"sqlite:///{tmp_path}/orders.db?busy_timeout_s=30"


@pytest.fixture
async def scene(url: str) -> AsyncGenerator[Scene, None]:
    async with await EventStore.connect(url) as store:
        made = Scene(url, store)
        yield made
        await made.end()


async def killed_at(scene: Scene, point: str, kind: str, *, is_idempotent: bool = False) -> str:
    """Kill a worker at a point of one order's process, have another one finish it, and return how it has ended."""
    first = await scene.worker(stop_at=point, is_idempotent=is_idempotent)
    await scene.place(kind)
    await first.says(f"at {point}")
    await first.kill()
    second = await scene.worker(is_idempotent=is_idempotent)
    await scene.ended()
    await second.finish()
    return (await scene.judge(most_repeats=1))["order-0"]


KIND_OF_STEP: Final = {"reaction": "good", "deadline": "silent", "failure": "declined"}
END_OF_KIND: Final = {"good": "shipped", "silent": "late", "declined": "declined"}
DONE_FOR: Final = {"good": ["pay", "ship"], "silent": ["pay", "cancel"], "declined": ["cancel"]}


@pytest.mark.parametrize("step", KIND_OF_STEP)
@pytest.mark.parametrize("when", ["before", "after"])
async def test_killed_around_the_commit_of_a_step_it_happens_once(scene: Scene, when: str, step: str) -> None:
    kind = KIND_OF_STEP[step]

    end = await killed_at(scene, f"{when} the commit of the {step}", kind)

    assert end == END_OF_KIND[kind]
    assert await scene.done() == DONE_FOR[kind]


async def test_killed_in_the_middle_of_compensation_it_compensates_once(scene: Scene) -> None:
    assert await killed_at(scene, "in on_failure", "declined") == "declined"
    assert await scene.done() == ["cancel"]


@pytest.mark.parametrize(
    ("point", "is_idempotent", "done"),
    [
        ("before the effect", False, ["pay", "ship"]),
        ("before the effect", True, ["pay", "ship"]),
        ("after the effect", False, ["pay", "pay", "ship"]),  # what the handler did by then is its own to recognise
        ("after the effect", True, ["pay", "pay", "ship"]),
        ("after the handler", True, ["pay", "ship"]),
    ],
)
async def test_killed_in_a_handler_its_command_is_carried_out_again(
    scene: Scene, point: str, done: list[str], *, is_idempotent: bool
) -> None:
    assert await killed_at(scene, point, "good", is_idempotent=is_idempotent) == "shipped"
    assert await scene.done() == done


async def test_killed_before_a_command_is_known_to_be_done_it_comes_again_without_a_key(scene: Scene) -> None:
    assert await killed_at(scene, "after the handler", "good") == "shipped"
    # The answer to the first one may have come before the second: the order of each process is that of its first ones.
    assert sorted(await scene.done()) == ["pay", "pay", "ship"]


async def test_a_worker_that_stands_still_past_its_lease_and_goes_on_disturbs_nothing(scene: Scene) -> None:
    stopped = await scene.worker()
    await stopped.says("active")
    standby = await scene.worker()
    await scene.place(*KINDS * 4)
    await scene.ended(3)
    await scene.stop(stopped)
    await standby.says("active")
    await scene.place(*KINDS)
    await scene.ended(20)
    stopped.go_on()
    await scene.place(*KINDS * 2)
    await scene.ended()
    await asyncio.gather(stopped.finish(), standby.finish())  # noqa: TID251 - both end together

    await scene.judge(most_repeats=CONCURRENCY)


@pytest.mark.parametrize("is_idempotent", [False, True])
async def test_workers_that_are_killed_at_random_end_each_order_in_one_way(
    scene: Scene, *, is_idempotent: bool
) -> None:
    chance = random.Random(7)
    workers = [await scene.worker(is_idempotent=is_idempotent) for _ in range(2)]
    for _ in range(KILLS):
        await scene.place(*chance.choices(KINDS, k=12))
        await scene.ended(chance.randrange(1, 6) + await scene.ends())
        await workers.pop(chance.randrange(2)).kill()
        workers.append(await scene.worker(is_idempotent=is_idempotent))
    await scene.ended()
    await asyncio.gather(*(worker.finish() for worker in workers))  # noqa: TID251 - both end together

    await scene.judge(most_repeats=KILLS * CONCURRENCY)


def history(*events: Any) -> Iterable[Any]:
    return [Placed("o", "good"), *events]


GOOD: Final = (Done("o", "pay"), Paid("o"), Done("o", "ship"), Shipped("o"))


@pytest.mark.parametrize(
    ("events", "status", "problem"),
    [
        (GOOD, "", "have not ended"),
        (GOOD, "declined", "a good one, has ended as declined"),
        ((*GOOD, Cancelled("o", "late")), "shipped", "with the events ['Shipped', 'Cancelled']"),
        ((Done("o", "ship"), Done("o", "pay"), Shipped("o")), "shipped", "what was done for it is ('ship', 'pay')"),
        ((Done("o", "ship"), Shipped("o")), "shipped", "what was done for it is ('ship',)"),
        ((*GOOD, Done("o", "cancel")), "shipped", "what was done for it is ('pay', 'ship', 'cancel')"),
        ((*GOOD, Done("o", "ship"), Done("o", "pay")), "shipped", "2 commands had their effect again"),
    ],
)
def test_a_history_that_cannot_be_is_found(events: tuple[Any, ...], status: str, problem: str) -> None:
    found = violations([*history(*events)], {"o": status} if status else {}, most_repeats=1)

    assert problem in found[0]


def test_a_history_with_a_repeat_may_be() -> None:
    assert violations([*history(*GOOD, Done("o", "pay"))], {"o": "shipped"}, most_repeats=1) == []

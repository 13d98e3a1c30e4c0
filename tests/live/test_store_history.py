"""Random histories of several processes on each engine: what callers were told, and saw, is what one log can explain.

A failure names the seed; ``AVX_HISTORY_SEED`` repeats it, as far as the scheduling of processes allows.
"""

import os
import random
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
import pytest

from avx_events.store.event_store import EventStore
from tests.live.histories import Attempt, Conflict, Entry, Kept, follower_violations, violations
from tests.live.history_worker import ACTORS, FILTERS, Read, Story, is_wanted, lived
from tests.live.sqlite_processes import log_of, running
from tests.waiting import until

WORKERS = 3


@pytest.fixture
def seed() -> int:
    return int(os.environ.get("AVX_HISTORY_SEED") or random.randrange(1_000_000))


async def test_a_history_in_memory_is_one_that_a_log_explains(seed: int) -> None:
    async with EventStore() as store, lived(store, "w", seed, actors=WORKERS * ACTORS) as (story, followers):
        log = await log_of(store)
        await until(lambda: all(follower.position == len(log) for follower in followers))

        judge([story], log, seed)


async def test_a_history_in_a_sqlite_file_is_one_that_a_log_explains(tmp_path: Path, seed: int) -> None:
    await judged(f"sqlite:///{tmp_path}/events.db", seed)


@pytest.mark.live
async def test_a_history_in_postgresql_is_one_that_a_log_explains(postgres_database: str, seed: int) -> None:
    await judged(postgres_database, seed)


async def judged(url: str, seed: int) -> None:
    """Let several processes write a history, and judge it."""
    async with await EventStore.connect(url) as store, AsyncExitStack() as stack:
        workers = [
            await stack.enter_async_context(running("history_worker", url, f"w{n}", seed)) for n in range(WORKERS)
        ]
        for worker in workers:
            assert worker.stdout is not None
            assert await worker.stdout.readline() == b"done\n"
        log = await log_of(store)
        outputs = [await worker.communicate(b"%d\n" % len(log)) for worker in workers]

    assert [worker.returncode for worker in workers] == [0] * WORKERS, f"seed {seed}"
    judge([msgspec.json.decode(output, type=Story) for output, _ in outputs], log, seed)


def judge(stories: Sequence[Story], log: Sequence[Entry], seed: int) -> None:
    """Fail where one log cannot explain it all."""
    attempts = [one for story in stories for one in story.attempts]
    problems = [
        *violations(attempts, log),
        *read_violations([one for story in stories for one in story.reads], attempts, log),
        *(
            f"a follower of {kind!r} {problem}"
            for kind in FILTERS
            for story in stories
            for problem in followed_to_the_end(story.followed[kind], [one for one in log if is_wanted(one, kind)])
        ),
    ]
    assert problems == [], f"seed {seed}"
    assert [entry.position for entry in log] == [*range(1, len(log) + 1)], f"seed {seed}"
    assert any(isinstance(one.outcome, Conflict) for one in attempts), f"seed {seed}"
    assert any(len(story.followed["tallied in a"]) for story in stories), f"seed {seed}"


def followed_to_the_end(seen: Sequence[Entry], log: Sequence[Entry]) -> list[str]:
    """Return what a follower that has seen all should not have seen, or misses."""
    return follower_violations(seen, log) or ([f"saw {len(seen)} of {len(log)}"] if len(seen) != len(log) else [])


def read_violations(reads: Sequence[Read], attempts: Sequence[Attempt], log: Sequence[Entry]) -> Iterator[str]:
    """Give what reads of streams should not have seen: other than a beginning of the stream, too little or too much."""
    for read in reads:
        stream = [entry.event_id for entry in log if entry.stream == read.stream]
        there, possible = set[str](), set[str]()
        for one in attempts:
            if isinstance(one.outcome, Kept) and one.ended_ns is not None and one.ended_ns < read.began_ns:
                there.update(one.event_ids)
            if one.began_ns <= read.ended_ns:
                possible.update(one.event_ids)
        if [*read.event_ids] != stream[: len(read.event_ids)]:
            yield f"a read of {read.stream} is not its beginning: {read}"
        if missing := there.intersection(stream).difference(read.event_ids):
            yield f"a read of {read.stream} misses {missing}, which had been appended"
        if early := set(read.event_ids) - possible:
            yield f"a read of {read.stream} gave {early}, which nobody had begun to append"


# The judge of reads knows bad ones


LOG = [Entry(1, "a", 1, 10, "x"), Entry(2, "b", 1, 20, "z"), Entry(3, "a", 2, 30, "y")]
ATTEMPTS = [
    Attempt("a", ("x",), 0, None, 10, Kept(1, 1)),
    Attempt("b", ("z",), 5, None, 15, Kept(1, 2)),
    Attempt("a", ("y",), 20, None, 30, Kept(2, 3)),
]


@pytest.mark.parametrize(
    ("read", "problem"),
    [
        (Read("a", 11, 15, ("x",)), ""),
        (Read("a", 25, 26, ("x",)), ""),
        (Read("a", 25, 26, ("x", "y")), ""),
        (Read("a", 5, 6, ()), ""),
        (Read("a", 11, 15, ()), "misses"),
        (Read("a", 31, 35, ("x",)), "misses"),
        (Read("a", 11, 15, ("x", "y")), "nobody had begun"),
        (Read("a", 31, 35, ("y", "x")), "not its beginning"),
        (Read("a", 31, 35, ("x", "z", "y")), "not its beginning"),
    ],
)
def test_a_read_is_judged_by_what_was_appended_before_and_during_it(read: Read, problem: str) -> None:
    found = [*read_violations([read], ATTEMPTS, LOG)]

    assert any(problem in one for one in found) if problem else found == []

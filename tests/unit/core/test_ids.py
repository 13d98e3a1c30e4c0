"""Event ids under a clock that misbehaves, threads, forks and other processes; the laws are in tests/property."""

import os
import subprocess
import sys
import threading
import time
from uuid import RFC_4122, UUID

import pytest

from avx_events.core.ids import SUFFIXES, IdBlock, new_id

MILLISECOND_NS = 1_000_000
NOW_NS = 1_795_478_400_000 * MILLISECOND_NS


def millisecond_of(event_id: str) -> int:
    return UUID(event_id).int >> 80


def test_an_id_is_a_uuid_of_version_7_with_the_time_in_front() -> None:
    event_id = new_id(time.time_ns())
    parsed = UUID(event_id)

    assert parsed.version == 7
    assert parsed.variant == RFC_4122
    assert str(parsed) == event_id
    assert millisecond_of(IdBlock().take(NOW_NS)) == NOW_NS // MILLISECOND_NS


def test_the_bits_that_are_not_fixed_are_all_used() -> None:
    ones, zeros = 0, (1 << 128) - 1
    for _ in range(400):
        value = UUID(IdBlock().take(NOW_NS)).int
        ones |= value
        zeros &= value

    random_bits = ((1 << 12) - 1) << 64 | ((1 << 46) - 1) << 16
    assert (ones & ~zeros) & random_bits == random_bits


def test_a_million_ids_are_unique_and_sorted() -> None:
    block = IdBlock()

    ids = [block.take(time.time_ns()) for _ in range(1_000_000)]

    assert len(set(ids)) == len(ids)
    assert ids == sorted(ids)


def test_more_ids_than_fit_into_one_millisecond_borrow_the_next() -> None:
    block = IdBlock()

    ids = [block.take(NOW_NS) for _ in range(2 * len(SUFFIXES) + 1)]

    assert len(set(ids)) == len(ids)
    assert ids == sorted(ids)
    assert [millisecond_of(ids[n * len(SUFFIXES)]) - millisecond_of(ids[0]) for n in range(3)] == [0, 1, 2]


def test_a_clock_that_goes_back_repeats_and_reorders_nothing() -> None:
    block = IdBlock()
    moments = [NOW_NS, NOW_NS - 10**12, NOW_NS - 1, NOW_NS + 5 * MILLISECOND_NS, NOW_NS, 0, -1, NOW_NS + 10**10]

    ids = [block.take(moment) for moment in moments for _ in range(3)]

    assert len(set(ids)) == len(ids)
    assert ids == sorted(ids)


def test_a_time_before_the_epoch_still_makes_an_id() -> None:
    assert UUID(IdBlock().take(-(10**18))).version == 7


def test_threads_share_the_ids_without_a_double() -> None:
    ids: list[list[str]] = [[] for _ in range(8)]
    started = threading.Barrier(8)

    def take(into: list[str]) -> None:
        started.wait(timeout=30)
        into.extend(new_id(NOW_NS) for _ in range(20_000))

    threads = [threading.Thread(target=take, args=(into,)) for into in ids]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)

    assert len({event_id for into in ids for event_id in into}) == 160_000
    assert all(into == sorted(into) for into in ids)


def test_two_processes_in_the_same_millisecond_make_no_double() -> None:
    program = f"from avx_events.core.ids import new_id\nfor _ in range(50_000): print(new_id({NOW_NS}))"

    runs = [
        subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)  # noqa: S603 - our program
        for _ in range(2)
    ]
    ids = [line for run in runs for line in run.communicate(timeout=60)[0].split()]

    assert len(ids) == 100_000
    assert len(set(ids)) == 100_000


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_takes_no_id_of_its_parent() -> None:
    program = f"""
import os
from avx_events.core.ids import IdBlock, new_id
block = IdBlock()
print(new_id({NOW_NS}), block.take({NOW_NS}), flush=True)
child = os.fork()
if child:
    os.waitpid(child, 0)  # one writer at a time: lines longer than a pipe's buffer would mix
for _ in range(1_000):
    print(new_id({NOW_NS}), block.take({NOW_NS}))
"""

    done = subprocess.run(  # noqa: S603 - our program
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )

    ids = done.stdout.split()
    assert len(ids) == 2 * 2_001
    assert len(set(ids)) == len(ids)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_child_forked_while_the_lock_is_held_does_not_hang() -> None:
    program = """
import os
from avx_events.core import ids
with ids._shared_lock:
    child = os.fork()
    if not child:
        ids.new_id(0)
        os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""

    done = subprocess.run(  # noqa: S603 - our program
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True
    )

    assert done.stdout.strip() == "7"


def test_many_ids_at_once_are_those_that_one_by_one_would_be() -> None:
    block = IdBlock()

    taken = block.take_many(1_000_000, 150_000)

    assert len(set(taken)) == 150_000
    assert taken == sorted(taken)
    assert block.take(1_000_000) > taken[-1]
    assert block.take_many(1_000_000, 0) == []

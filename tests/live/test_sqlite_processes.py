"""Several processes on one file: each append has one place, each follower sees all, and none can stop the others."""

import asyncio
import signal
import time
from pathlib import Path

import pytest

from avx_events.core.errors import StatementError, StoreUnavailableError
from avx_events.store.event_store import EventStore
from avx_events.store.ports import AppendResult
from tests.live.histories import Attempt, Conflict, Entry, Kept, follower_violations, violations
from tests.live.sqlite_processes import killed, lines, log_of, running
from tests.live.sqlite_writer import Counted, attempt, batch_of, envelope

APPENDERS = 8
TURNS = 6


async def written(url: str, name: str, mode: str) -> tuple[list[Attempt], int | None]:
    """Let a writer do its turns; return its attempts and its exit code."""
    async with running("sqlite_writer", url, name, APPENDERS, TURNS, mode) as writer:
        attempts = [one async for one in lines(writer, Attempt)]
        return attempts, await writer.wait()


async def seen(follower: asyncio.subprocess.Process, last_id: str) -> list[Entry]:
    """Return what a follower sees, up to the event that is called ``last_id``."""
    entries: list[Entry] = []
    async for entry in lines(follower, Entry):
        entries.append(entry)
        if entry.event_id == last_id:
            break
    return entries


async def test_writers_and_followers_of_one_file_agree_though_one_writer_is_killed(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/events.db"  # not there yet: whoever comes first makes it
    async with running("sqlite_follower", url, 0) as follower, asyncio.TaskGroup() as tasks:
        following = tasks.create_task(seen(follower, "last-0-0-0"))
        writing = [tasks.create_task(written(url, f"{mode}{n}", mode)) for mode in ("any", "expect") for n in range(2)]
        killing = tasks.create_task(killed(url, "killed", appenders=APPENDERS, after=50))
        finished = [await one for one in writing]
        attempts = [*(await killing), *(one for made, _ in finished for one in made)]

        async with await EventStore.connect(url) as store:
            attempts.append(await attempt(store, "last", [envelope("last", "last-0-0-0", 0)]))
            log, followed = await log_of(store), await following
            late = [stored async for stored in store.read_all(after=log[9].position)]

    assert [code for _, code in finished] == [0] * 4
    assert violations(attempts, log) == []
    assert follower_violations(followed, log) == []
    assert len(followed) == len(log) == len(late) + 10
    assert sum(isinstance(one.outcome, Kept) for one in attempts) >= 4 * APPENDERS * TURNS + 1
    assert any(isinstance(one.outcome, Conflict) for one in attempts)


async def test_one_batch_from_several_processes_is_appended_once(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/events.db"
    async with asyncio.TaskGroup() as tasks:
        writing = [tasks.create_task(written(url, "same", "any")) for _ in range(3)]
    attempts = [one for task in writing for one in task.result()[0]]

    async with await EventStore.connect(url) as store:
        log = await log_of(store)

    assert violations(attempts, log) == []
    assert len(attempts) == 3 * APPENDERS * TURNS
    assert len(log) == sum(len(batch_of("same", 0, turn)) for turn in range(TURNS)) * APPENDERS


@pytest.mark.parametrize("writer", ["thread", "inline"])
async def test_a_process_that_stands_still_with_the_write_lock_stops_no_reader_and_no_writer_for_long(
    tmp_path: Path, writer: str
) -> None:
    async with await EventStore.connect(f"sqlite:///{tmp_path}/events.db?writer={writer}&busy_timeout_s=0.3") as store:
        first = await store.append("a", [envelope("a", "a-1", 1)])
        repeatable = [envelope("a", "a-2", 2)]
        async with running("sqlite_holder", f"sqlite:///{tmp_path}/events.db") as holder:
            assert holder.stdout is not None
            assert await holder.stdout.readline() == b"held\n"
            holder.send_signal(signal.SIGSTOP)

            began_s = time.monotonic()
            with pytest.raises(StoreUnavailableError, match="locked; nothing was written"):
                await store.append("a", repeatable)
            with pytest.raises(StoreUnavailableError, match="locked"):
                async with store.transaction():
                    pass
            assert time.monotonic() - began_s < 5
            assert [stored.event for stored in await store.get_events("a")] == [Counted("a", 1)]

            holder.send_signal(signal.SIGCONT)
            await holder.communicate(b"")  # its standard input ends, and with it the transaction
        again = await store.append("a", repeatable, expected_version=first.version)

        assert (again, holder.returncode) == (AppendResult(2, 2), 0)


async def test_a_lock_goes_with_the_process_that_held_it(tmp_path: Path) -> None:
    async with await EventStore.connect(f"sqlite:///{tmp_path}/events.db?busy_timeout_s=20") as store:
        async with running("sqlite_holder", f"sqlite:///{tmp_path}/events.db") as holder, asyncio.TaskGroup() as tasks:
            assert holder.stdout is not None
            assert await holder.stdout.readline() == b"held\n"
            holder.send_signal(signal.SIGSTOP)
            appending = tasks.create_task(store.append("a", [envelope("a", "a-1", 1)]))
            assert await store.last_position() == 0  # by now the append waits, and nobody who reads does
            assert not appending.done()

            holder.kill()

            assert await appending == AppendResult(1, 1)
        with pytest.raises(StatementError, match="no such table: held"):  # what it had not committed is undone
            async with store.transaction() as connection:
                await connection.fetch("SELECT * FROM held")

"""Appends whose server or connection fails at any moment: each caller is told what is so, and what he cannot know."""

import asyncio
import signal
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import asyncpg
import pytest

from avx_events.core.clock import SYSTEM_CLOCK
from avx_events.core.errors import (
    AppendUnknownError,
    AvxEventsError,
    ConcurrencyError,
    StoreUnavailableError,
)
from avx_events.core.metadata import stamp
from avx_events.storage.postgres.schema import LOCK
from avx_events.store.event_store import EventStore
from avx_events.store.ports import AppendResult
from tests.live.histories import Kept, Refused, violations
from tests.live.postgres_asking import END_THE_STORES, as_user, asked, connected, through, until_answer, until_waiting
from tests.live.postgres_attempts import Load, repeated
from tests.live.sqlite_processes import log_of, running
from tests.live.sqlite_writer import Counted
from tests.servers.postgres import PostgresServer
from tests.servers.proxy import Proxy
from tests.waiting import until

pytestmark = pytest.mark.live

APPENDERS = 60


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2].partition("/")[0])


async def settled(store: EventStore, load: Load) -> None:
    """Judge what ``load`` was told against the log; what is unknown can be repeated, and is there once."""
    assert violations(load.attempts, await log_of(store)) == []
    repeats = await repeated(store, [one for one in load.attempts if one.outcome is None])
    assert [one for one in repeats if not isinstance(one.outcome, Kept)] == []
    assert violations([*load.attempts, *repeats], await log_of(store)) == []


@pytest.mark.parametrize("end", ["kill", "stop"])
async def test_a_server_that_is_soon_back_costs_no_append(postgres_server: PostgresServer, end: str) -> None:
    async with await EventStore.connect(f"{postgres_server.url}?timeout_s=30") as store:
        load = Load(store, end)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(load.run(APPENDERS))
            for _ in range(3):
                await until(load.kept_more(2 * APPENDERS), timeout_s=30)
                await asyncio.to_thread(getattr(postgres_server, end))
                await asyncio.to_thread(postgres_server.start)
            await until(load.kept_more(2 * APPENDERS), timeout_s=30)
            load.end()

        assert [one for one in load.attempts if not isinstance(one.outcome, Kept)] == []
        await settled(store, load)


async def test_a_server_that_is_away_for_longer_is_told_to_each_caller(postgres_server: PostgresServer) -> None:
    async with await EventStore.connect(f"{postgres_server.url}?timeout_s=0.5") as store:
        load = Load(store, "away")
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(load.run(APPENDERS))
            for _ in range(2):
                await until(load.kept_more(2 * APPENDERS), timeout_s=30)
                await asyncio.to_thread(postgres_server.kill)
                await until(lambda: isinstance(load.attempts[-1].outcome, Refused), timeout_s=30)
                await asyncio.to_thread(postgres_server.start)
            await until(load.kept_more(APPENDERS), timeout_s=30)
            load.end()

        assert any(isinstance(one.outcome, Refused) for one in load.attempts)
        await settled(store, load)


async def test_a_server_that_stands_still_is_told_to_each_caller(postgres_server: PostgresServer) -> None:
    async with await EventStore.connect(f"{postgres_server.url}?timeout_s=0.5") as store:
        load = Load(store, "still")
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(load.run(APPENDERS))
            await until(load.kept_more(2 * APPENDERS), timeout_s=30)
            await asyncio.to_thread(postgres_server.pause)
            await until(lambda: isinstance(load.attempts[-1].outcome, Refused), timeout_s=30)
            await asyncio.to_thread(postgres_server.resume)
            await until(load.kept_more(APPENDERS), timeout_s=30)
            load.end()

        await settled(store, load)


@pytest.mark.parametrize("fault", ["cut", "hold", "drop", "half-close", "end", "delay"])
async def test_connections_that_fail_under_load_cost_no_append(postgres_database: str, fault: str) -> None:
    with Proxy(port_of(postgres_database)) as proxy:
        url = f"{through(proxy, postgres_database)}?timeout_s=20"
        async with await EventStore.connect(url) as store, connected(postgres_database) as direct:
            load = Load(store, fault)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(load.run(APPENDERS))
                for number in range(6):
                    await until(load.kept_more(APPENDERS), timeout_s=30)
                    await fail(fault, proxy, direct, number)
                await until(load.kept_more(APPENDERS), timeout_s=30)
                load.end()

            assert [one for one in load.attempts if not isinstance(one.outcome, Kept)] == []
            await settled(store, load)


async def fail(fault: str, proxy: Proxy, direct: Any, number: int) -> None:
    match fault:
        case "cut":
            proxy.cut()
        case "hold":
            proxy.hold()
            await direct.fetchval("SELECT pg_sleep(0.05)")
        case "drop":
            proxy.drop_silently()
            await direct.fetchval("SELECT pg_sleep(0.05)")
        case "half-close":
            proxy.half_close("client" if number % 2 else "server")
        case "delay":
            proxy.delay(0.02)
            await direct.fetchval("SELECT pg_sleep(0.1)")
        case _:
            await direct.execute(END_THE_STORES)
    proxy.mend()


# One append, at one moment


class Play:
    """A store behind a proxy, a session that holds the log's lock, and one that looks on."""

    def __init__(self, store: EventStore, proxy: Proxy, holder: Any, observer: Any) -> None:
        self.store = store
        self.proxy = proxy
        self.observer = observer
        self._transaction = holder.transaction()
        self.holder = holder
        self.envelopes = [stamp(Counted("one", number), clock=SYSTEM_CLOCK) for number in range(3)]

    async def lock(self) -> None:
        """Let appends wait on the server."""
        await self._transaction.start()
        await self.holder.execute(f"SELECT {LOCK}")

    async def unlock(self) -> None:
        """Let them go on."""
        await self._transaction.commit()

    async def append(self, expected_version: int | None = None) -> AppendResult:
        """Append three events."""
        return await self.store.append("a", self.envelopes, expected_version=expected_version)

    async def versions(self) -> list[tuple[str, int]]:
        """Return what is there, whoever asks."""
        rows = await self.observer.fetch("SELECT stream, version FROM avx_events ORDER BY position")
        return [tuple(row) for row in rows]


@pytest.fixture
async def play(postgres_database: str) -> Any:
    async with AsyncExitStack() as stack:
        proxy = stack.enter_context(Proxy(port_of(postgres_database)))
        url = f"{through(proxy, postgres_database)}?timeout_s=1"
        store = await stack.enter_async_context(await EventStore.connect(url))
        holder = await stack.enter_async_context(connected(postgres_database))
        observer = await stack.enter_async_context(connected(postgres_database))
        yield Play(store, proxy, holder, observer)


THREE = [("a", 1), ("a", 2), ("a", 3)]


async def test_a_statement_that_never_arrives_is_sent_again(play: Play) -> None:
    play.proxy.half_close("server")

    assert await play.append() == AppendResult(3, 3)
    assert await play.versions() == THREE


async def test_an_answer_that_never_comes_is_found_out_on_the_next_connection(play: Play) -> None:
    async with asyncio.TaskGroup() as tasks:
        await play.lock()
        appending = tasks.create_task(play.append(0))
        await until_waiting(play.observer)

        play.proxy.half_close("client")  # it is committed, and the answer is kept from us
        await play.unlock()

    assert appending.result() == AppendResult(3, 3)
    assert await play.versions() == THREE


async def test_the_old_session_that_still_runs_the_append_and_the_new_one_append_once(play: Play) -> None:
    async with asyncio.TaskGroup() as tasks:
        await play.lock()
        appending = tasks.create_task(play.append(0))
        await until_waiting(play.observer)

        play.proxy.cut()
        play.proxy.mend()
        await until_waiting(play.observer, 2)  # the old one waits before the new one
        await play.unlock()

    assert appending.result() == AppendResult(3, 3)
    await until_answer(play.observer, "SELECT count(*) = 3 FROM avx_events")
    assert await play.store.append("a", Counted("two", 1), expected_version=3) == AppendResult(4, 4)


async def test_an_append_that_was_sent_and_not_answered_in_time_is_unknown_and_can_be_repeated(play: Play) -> None:
    await play.lock()
    with pytest.raises(AppendUnknownError, match="append the error's envelopes again") as error:
        await play.append(0)

    assert (error.value.stream, [*error.value.envelopes]) == ("a", play.envelopes)
    await play.unlock()
    again = await play.store.append("a", error.value.envelopes, expected_version=0)

    assert again == AppendResult(3, 3)
    assert await play.versions() == THREE


async def test_an_append_that_was_not_sent_is_not_there_and_said_so(play: Play) -> None:
    await play.store.append("b", Counted("b", 1))
    play.proxy.cut()

    with pytest.raises(StoreUnavailableError, match="nothing was written"):
        await play.append()
    play.proxy.mend()

    assert await play.versions() == [("b", 1)]
    assert await play.append() == AppendResult(3, 4)


async def test_a_conflict_that_cannot_be_looked_at_in_time_is_not_written(play: Play) -> None:
    await play.store.append("a", Counted("b", 1))
    await play.lock()

    with pytest.raises(StoreUnavailableError, match="no answer in time"):
        await play.append(0)  # the version is known to be another one, so it asks before it writes
    await play.unlock()

    assert await play.versions() == [("a", 1)]


@pytest.mark.parametrize("is_written", [True, False])
async def test_what_was_sent_stays_unknown_though_the_server_refuses_the_next_attempt(
    postgres_database: str, *, is_written: bool
) -> None:
    name = f"app_{postgres_database[-12:]}"
    async with AsyncExitStack() as stack:
        observer = await stack.enter_async_context(connected(postgres_database))
        await observer.execute(f"CREATE ROLE {name} LOGIN; GRANT CREATE ON SCHEMA public TO {name}")
        stack.push_async_callback(observer.execute, f"DROP OWNED BY {name}; DROP ROLE {name}")
        proxy = stack.enter_context(Proxy(port_of(postgres_database)))
        url = as_user(through(proxy, postgres_database), name)
        store = await stack.enter_async_context(await EventStore.connect(url))
        holder = await stack.enter_async_context(connected(postgres_database))
        async with asyncio.TaskGroup() as tasks, holder.transaction():
            await holder.execute(f"SELECT {LOCK}")
            appending = tasks.create_task(error_of(lambda: store.append("a", Counted("a", 1))))
            await until_waiting(observer)
            await observer.execute(f"ALTER ROLE {name} NOLOGIN")
            if not is_written:
                await observer.execute("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE NOT granted")
            proxy.cut()
            proxy.mend()
            await until(appending.done)

        assert isinstance(appending.result(), AppendUnknownError)
        assert "not permitted to log in" in str(appending.result())
        await until_answer(observer, f"SELECT count(*) = {int(is_written)} FROM avx_events")  # noqa: S608


async def error_of(call: Callable[[], Awaitable[Any]]) -> BaseException | None:
    try:
        await call()
    except AvxEventsError as error:
        return error
    return None


async def test_each_caller_of_a_group_that_a_close_cuts_off_gets_his_own_envelopes(play: Play) -> None:
    async with asyncio.TaskGroup() as tasks:
        await play.lock()
        callers = [tasks.create_task(error_of(partial(play.store.append, f"s-{n}", Counted("x", n)))) for n in range(3)]
        await until_waiting(play.observer)

        await play.store.close()

    errors = [caller.result() for caller in callers]
    assert all(isinstance(error, AppendUnknownError) for error in errors)
    assert [told_of(error) for error in errors] == [("s-0", [0]), ("s-1", [1]), ("s-2", [2])]
    await play.unlock()


def told_of(error: Any) -> tuple[str, list[int]]:
    return error.stream, [envelope.event.number for envelope in error.envelopes]


async def test_those_who_wait_while_the_server_is_away_do_not_wait_one_after_the_other(play: Play) -> None:
    await play.store.append("a", Counted("a", 0))
    play.proxy.cut()
    began_s = asyncio.get_running_loop().time()
    async with asyncio.TaskGroup() as tasks:
        callers = [
            tasks.create_task(error_of(lambda: play.store.append("b", [Counted("b", n) for n in range(600)])))
            for _ in range(6)  # each a group of its own
        ]

    took_s = asyncio.get_running_loop().time() - began_s
    assert [type(caller.result()) for caller in callers] == [StoreUnavailableError] * 6
    assert took_s < 3
    play.proxy.mend()
    assert await play.versions() == [("a", 1)]


async def test_a_process_that_stands_still_with_the_lock_stops_no_reader_and_no_writer_for_long(
    postgres_database: str,
) -> None:
    async with (
        await EventStore.connect(postgres_database) as store,
        connected(postgres_database) as observer,
        running("postgres_holder", f"{postgres_database}?timeout_s=1") as holder,
    ):
        assert holder.stdout is not None
        assert await holder.stdout.readline() == b"held\n"
        async with asyncio.timeout(8), asyncio.TaskGroup() as tasks:
            appending = tasks.create_task(store.append("a", Counted("a", 2)))
            await until_waiting(observer)
            assert await store.last_position() == 0

        assert appending.result() == AppendResult(1, 1)
        holder.send_signal(signal.SIGCONT)
        output, _ = await holder.communicate()
        # Its own time was over, too.
        assert output == b"StoreUnavailableError StoreUnavailableError; ConcurrencyError \n"
        assert await store.version_of("a") == 2


# What a role or a database may be set to


async def set_for_all(url: str, setting: str) -> None:
    await asked(url, f'ALTER DATABASE "{url.rpartition("/")[2]}" SET {setting}')


@pytest.mark.parametrize("setting", ["statement_timeout = 200", "lock_timeout = 200"])
async def test_a_time_limit_of_the_server_is_not_available_now_and_nothing_is_written(
    postgres_database: str, setting: str
) -> None:
    await set_for_all(postgres_database, setting)
    async with await EventStore.connect(postgres_database) as store, connected(postgres_database) as holder:
        await store.append("a", Counted("a", 0))
        for expected in (None, 1, 0):
            async with holder.transaction():
                await holder.execute(f"SELECT {LOCK}")
                with pytest.raises(StoreUnavailableError, match="nothing was written"):
                    await store.append("a", Counted("a", 1), expected_version=expected)
        assert await store.version_of("a") == 1
        assert await store.append("a", Counted("a", 1), expected_version=1) == AppendResult(2, 2)


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
async def test_stores_append_at_once_whatever_isolation_is_the_users_default(
    postgres_database: str, level: str
) -> None:
    await set_for_all(postgres_database, f"default_transaction_isolation = '{level}'")
    async with (
        await EventStore.connect(postgres_database) as one,
        await EventStore.connect(postgres_database) as other,
        asyncio.TaskGroup() as tasks,
    ):
        loads = [Load(store, name) for store, name in ((one, "one"), (other, "other"))]
        for load in loads:
            tasks.create_task(load.run(10))
        await until(lambda: all(load.kept >= 200 for load in loads), timeout_s=30)
        for load in loads:
            load.end()

    async with await EventStore.connect(postgres_database) as store:
        attempts = [one for load in loads for one in load.attempts]
        assert [one for one in attempts if not isinstance(one.outcome, Kept)] == []
        assert violations(attempts, await log_of(store)) == []


async def test_a_database_that_is_closed_for_writes_is_read_and_refuses_appends(postgres_database: str) -> None:
    async with await EventStore.connect(postgres_database) as store:
        await store.append("a", Counted("a", 0))
    await set_for_all(postgres_database, "default_transaction_read_only = on")

    async with await EventStore.connect(postgres_database) as store:
        assert await store.version_of("a") == 1
        for expected in (None, 0, 1):
            with pytest.raises(StoreUnavailableError, match="read-only"):
                await store.append("a", Counted("a", 1), expected_version=expected)
        with pytest.raises(StoreUnavailableError, match="read-only"):
            async with store.transaction() as connection:
                await connection.execute("CREATE TABLE noted (number int)")


async def test_where_all_connections_are_taken_appends_wait_for_one(postgres_server: PostgresServer) -> None:
    async with (
        await EventStore.connect(f"{postgres_server.url}?timeout_s=10") as patient,
        await EventStore.connect(f"{postgres_server.url}?timeout_s=0.3") as hasty,
        AsyncExitStack() as stack,
        asyncio.TaskGroup() as tasks,
    ):
        await asked(postgres_server.url, END_THE_STORES)
        taken = await all_connections(postgres_server.url)
        stack.push_async_callback(close_all, taken)

        with pytest.raises(StoreUnavailableError, match="nothing was written"):
            await hasty.append("a", Counted("a", 0))
        with pytest.raises(StoreUnavailableError):
            await hasty.last_position()
        waiting = tasks.create_task(patient.append("a", Counted("a", 1), expected_version=0))
        await close_all(taken)

        assert await waiting == AppendResult(1, 1)
        assert await hasty.last_position() == 1


async def all_connections(url: str) -> list[Any]:
    taken: list[Any] = []
    try:
        while True:
            taken.append(await asyncpg.connect(url))
    except asyncpg.TooManyConnectionsError:
        return taken


async def close_all(connections: list[Any]) -> None:
    while connections:
        connections.pop().terminate()


async def test_a_conflict_is_judged_by_the_log_though_the_connection_was_lost(play: Play) -> None:
    async with asyncio.TaskGroup() as tasks:
        await play.lock()
        appending = tasks.create_task(error_of(lambda: play.append(0)))
        await until_waiting(play.observer)
        play.proxy.hold()  # the old session goes on, and nobody hears of it
        await play.observer.execute("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE NOT granted")
        await play.holder.execute("INSERT INTO avx_events VALUES (1, 'a', 1, 1, 'other', 'live.counted', '[]', '{}')")
        play.proxy.mend()
        await play.unlock()

    error = appending.result()
    assert isinstance(error, ConcurrencyError)
    assert error.actual == 1
    assert await play.versions() == [("a", 1)]

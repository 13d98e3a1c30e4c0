"""Dead letters in PostgreSQL: processes that share them, servers that are away, places where there can be none."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from avx_events import DeadLetterQueue, EventStore
from avx_events.bus.claim_leases import LEASE_S
from avx_events.bus.dead_letters import DeadLetter
from avx_events.core.clock import SYSTEM_CLOCK
from avx_events.core.errors import (
    InvalidArgumentError,
    StoreRefusedError,
    StoreSchemaError,
    StoreUnavailableError,
    WrongLoopError,
)
from avx_events.core.metadata import stamp
from avx_events.storage.postgres.dead_letters import PostgresDeadLetters
from avx_events.storage.postgres.letter_tables import DEAD_LETTERS
from avx_events.storage.postgres.location import parse
from avx_events.storage.postgres.schema import prepare, script
from avx_events.storage.postgres.sessions import Sessions
from avx_events.testing import ManualClock
from tests.live.letters_worker import Broken
from tests.live.postgres_asking import END_THE_STORES, as_user, asked, connected, in_database, until_answer
from tests.live.sqlite_processes import lines, running
from tests.servers.ports import free_port
from tests.servers.postgres import PostgresServer

pytestmark = pytest.mark.live

AT = datetime(2026, 3, 1, tzinfo=UTC)
CLAIM = "SELECT claimed_by, claimed_until FROM avx_dead_letters WHERE id = 'letter-0001' AND claimed_by IS NOT NULL"
LATER = "UPDATE avx_dead_letters SET claimed_until = claimed_until - interval '30 seconds'"


def a_letter(number: int = 1, **changes: Any) -> DeadLetter:
    letter = DeadLetter(
        id=f"letter-{number:04}",
        handler="mend",
        reason="failed",
        error="RuntimeError",
        error_type="RuntimeError",
        attempts=1,
        first_failed_at=AT,
        dead_at=AT,
        envelope=stamp(Broken("a", number), clock=SYSTEM_CLOCK),
    )
    return msgspec.structs.replace(letter, **changes)


async def ids(queue: DeadLetterQueue, **filters: Any) -> list[str]:
    return [letter.id for letter in await queue.list(**filters)]


# Processes


@pytest.mark.parametrize("count", [1, 200])
async def test_processes_that_redrive_the_same_letters_do_each_of_them_once(postgres_database: str, count: int) -> None:
    async with await DeadLetterQueue.connect(postgres_database) as queue, asyncio.TaskGroup() as tasks:
        for number in range(count):
            tasks.create_task(queue.add(a_letter(number)))
    handled: list[int] = []

    async def redrive(name: str) -> int | None:
        async with running("letters_worker", "redrive", postgres_database, name) as worker:
            handled.extend([number async for number in lines(worker, int)])
            return await worker.wait()

    async with asyncio.TaskGroup() as tasks:
        workers = [tasks.create_task(redrive(f"worker{number}")) for number in range(2)]

    assert [worker.result() for worker in workers] == [0, 0]
    assert sorted(handled) == list(range(count))


async def test_a_letter_that_a_killed_process_had_claimed_is_free_after_its_lease(postgres_database: str) -> None:
    async with await DeadLetterQueue.connect(postgres_database) as queue:
        await queue.add(a_letter())
        async with running("letters_worker", "hang", postgres_database, "hanging") as worker:
            assert await anext(lines(worker, str)) == "letter-0001"
            assert await queue.claim("letter-0001") is None
            worker.kill()
            await worker.wait()
        assert await queue.claim("letter-0001") is None

        await asked(postgres_database, LATER)

        claimed = await queue.claim("letter-0001")
        assert claimed is not None
        assert claimed.event == Broken("a", 1)


async def test_a_process_that_ends_in_good_order_leaves_its_letters_free(postgres_database: str) -> None:
    async with await DeadLetterQueue.connect(postgres_database) as queue:
        await queue.add(a_letter())
        async with running("letters_worker", "hang", postgres_database, "hanging") as worker:
            assert await anext(lines(worker, str)) == "letter-0001"
            worker.send_signal(2)  # as Ctrl-C: asyncio.run() cancels, the bus stops, and then the queue is closed
            await worker.wait()

        assert await queue.claim("letter-0001") is not None


# Claims


async def test_the_servers_clock_says_when_a_claim_is_over(postgres_database: str) -> None:
    far_ahead = ManualClock(datetime(2100, 1, 1, tzinfo=UTC))
    async with (
        await DeadLetterQueue.connect(postgres_database) as queue,
        await DeadLetterQueue.connect(postgres_database, clock=far_ahead) as other,
    ):
        await queue.add(a_letter())
        assert await queue.claim("letter-0001")

        assert await other.claim("letter-0001") is None


async def test_a_claim_is_renewed_while_its_process_lives(postgres_database: str) -> None:
    clock = ManualClock()
    async with (
        await DeadLetterQueue.connect(postgres_database, clock=clock) as queue,
        connected(postgres_database) as connection,
    ):
        await queue.add(a_letter())
        assert await queue.claim("letter-0001")
        [(owner, first)] = await asked(postgres_database, CLAIM)
        await connection.execute("UPDATE avx_dead_letters SET claimed_until = clock_timestamp()")

        clock.advance(LEASE_S / 3)

        await until_answer(
            connection, "SELECT claimed_until > clock_timestamp() + interval '20 s' FROM avx_dead_letters"
        )
        [(still_owner, renewed)] = await asked(postgres_database, CLAIM)
        assert still_owner == owner
        assert renewed >= first


async def test_a_claim_that_another_has_made_meanwhile_is_not_renewed_and_said(
    postgres_database: str, caplog: pytest.LogCaptureFixture
) -> None:
    clock = ManualClock()
    async with (
        await DeadLetterQueue.connect(postgres_database, clock=clock) as queue,
        await DeadLetterQueue.connect(postgres_database) as other,
        asyncio.timeout(10),
    ):
        await queue.add(a_letter())
        assert await queue.claim("letter-0001")
        await asked(postgres_database, LATER)
        assert await other.claim("letter-0001")
        claim = await asked(postgres_database, CLAIM)

        clock.advance(LEASE_S / 3)
        while "claimed by another" not in caplog.text:
            await queue.count()

        assert await asked(postgres_database, CLAIM) == claim


class AnsweredTwice(Sessions):
    """Runs each write again, as it is where the connection was lost before the answer."""

    async def write_own(self, query: Callable[[Any], Awaitable[Any]]) -> Any:
        await super().write_own(query)
        return await super().write_own(query)


class AnsweredOnceTooLate(Sessions):
    """Runs each write, and fails once after that, as where the server falls silent."""

    fails_next = False

    async def write_own(self, query: Callable[[Any], Awaitable[Any]]) -> Any:
        done = await super().write_own(query)
        if self.fails_next:
            self.fails_next = False
            raise StoreUnavailableError("postgresql://here", "no answer in time")
        return done


async def letters_over(sessions: Sessions, url: str) -> DeadLetterQueue:
    connection = await sessions.open_first()
    await prepare(connection, url, DEAD_LETTERS)
    connection.terminate()
    return DeadLetterQueue(store=PostgresDeadLetters(sessions, clock=SYSTEM_CLOCK))


async def test_a_claim_whose_answer_is_lost_is_made_once_and_known(postgres_database: str) -> None:
    async with await letters_over(AnsweredTwice(parse(postgres_database)), postgres_database) as queue:
        await queue.add(a_letter())

        assert await queue.claim("letter-0001") is not None
        assert await queue.claim("letter-0001") is None
        await queue.release("letter-0001")
        assert await queue.claim("letter-0001") is not None
        await queue.add(a_letter(redrives=1))
        assert await queue.count() == 1


async def test_a_claim_that_nobody_was_told_of_is_undone(postgres_database: str) -> None:
    sessions = AnsweredOnceTooLate(parse(postgres_database))
    async with (
        await letters_over(sessions, postgres_database) as queue,
        await DeadLetterQueue.connect(postgres_database) as other,
        asyncio.timeout(10),
    ):
        await queue.add(a_letter())
        sessions.fails_next = True
        with pytest.raises(StoreUnavailableError, match="no answer in time"):
            await queue.claim("letter-0001")

        while await other.claim("letter-0001") is None:
            pass


async def test_a_claim_that_fails_leaves_the_letter_free(postgres_database: str) -> None:
    async with (
        await DeadLetterQueue.connect(f"{postgres_database}?timeout_s=0.3") as queue,
        await DeadLetterQueue.connect(postgres_database) as other,
        connected(postgres_database) as connection,
    ):
        await queue.add(a_letter())
        await connection.execute("BEGIN")
        await connection.execute("SELECT 1 FROM avx_dead_letters FOR UPDATE")
        with pytest.raises(StoreUnavailableError, match="no answer in time"):
            await queue.claim("letter-0001")

        await connection.execute("ROLLBACK")

        assert await queue.claim("letter-0001") is not None
        assert await other.claim("letter-0001") is None


# What is in the table


@pytest.mark.parametrize("document", [b"", b"null", b'{"id": "letter-0002"}', b"\xff\xfe", b"[" * 100_000])
async def test_a_document_that_is_no_letter_hides_no_other(postgres_database: str, document: bytes) -> None:
    async with await DeadLetterQueue.connect(postgres_database) as queue, connected(postgres_database) as connection:
        for number in (1, 2, 3):
            await queue.add(a_letter(number, handler="a\0\x01\x02"))
        await connection.execute("UPDATE avx_dead_letters SET letter = $1 WHERE id = 'letter-0002'", document)

        letters = await queue.list(handler="a\0\x01\x02")

        assert [letter.id for letter in letters] == ["letter-0001", "letter-0002", "letter-0003"]
        odd = letters[1]
        assert (odd.reason, odd.raw, odd.handler, odd.dead_at) == ("undecodable", document, "a\0\x01\x02", AT)
        await queue.remove(odd)
        assert await queue.count() == 2


async def test_ids_of_any_text_sort_as_they_do_here(postgres_database: str) -> None:
    texts = [
        "",
        "\0",
        "\0\0",
        "\0\x01",
        "\x01",
        "\x01\0",
        "\x01\x01",
        "\x01\x02",
        "\x02",
        "A",
        "a",
        "a\0",
        "ä",
        "\U0001f600",
    ]
    async with await DeadLetterQueue.connect(postgres_database) as queue:
        for text in reversed(texts):
            await queue.add(a_letter(id=text))

        assert await ids(queue) == sorted(texts)
        for number, text in enumerate(sorted(texts)):
            assert await ids(queue, after=text, limit=1) == sorted(texts)[number + 1 : number + 2]


async def test_names_longer_than_an_index_holds_are_kept_and_found(postgres_database: str) -> None:
    long = "".join(chr(0x4E00 + number % 7_919 * 2) for number in range(20_000))
    async with await DeadLetterQueue.connect(postgres_database) as queue:
        for number, end in enumerate("ab"):
            await queue.add(a_letter(number, handler=long + end, error_type=long + end))

        assert await ids(queue, handler=f"{long}a") == await ids(queue, error_type=f"{long}a") == ["letter-0000"]
        with pytest.raises(InvalidArgumentError, match="at most 1,000 bytes"):
            await queue.add(a_letter(id="ä" * 501))


async def test_letters_are_found_by_an_index(postgres_database: str) -> None:
    condition = "left(handler, 200) = left('mend', 200) AND handler = 'mend'"
    async with await DeadLetterQueue.connect(postgres_database):
        plan = await asked(
            postgres_database,
            "SET enable_seqscan = off",
            f"EXPLAIN SELECT id FROM avx_dead_letters WHERE {condition}",  # noqa: S608 - our own constant
        )

    assert "avx_dead_letters_handler" in f"{plan}"


async def test_a_purge_may_take_longer_than_the_server_may_be_silent(postgres_database: str) -> None:
    async with await DeadLetterQueue.connect(f"{postgres_database}?timeout_s=0.2") as queue:
        for number in range(3):
            await queue.add(a_letter(number))
        await asked(
            postgres_database,
            "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql"
            " AS 'BEGIN PERFORM pg_sleep(0.5); RETURN NULL; END'",
            "CREATE TRIGGER wait BEFORE DELETE ON avx_dead_letters EXECUTE FUNCTION wait()",
        )

        assert await queue.purge(handler="mend") == 3
        assert await queue.count() == 0


# Places


async def test_letters_stand_beside_the_events_of_their_schema(postgres_database: str) -> None:
    await asked(postgres_database, "CREATE SCHEMA tenant")
    url = f"{postgres_database}?schema=tenant"
    async with (
        await EventStore.connect(url) as store,
        await DeadLetterQueue.connect(url) as queue,
        await DeadLetterQueue.connect(postgres_database.replace("postgresql:", "postgres:")) as public,
    ):
        await store.append("a", Broken("a", 1))
        await queue.add(a_letter())

        assert (await queue.count(), await public.count(), await store.last_position()) == (1, 0, 1)
        await asked(postgres_database, "DROP SCHEMA tenant CASCADE")
        await public.add(a_letter())
        for call in (queue.purge, queue.list):
            with pytest.raises(StoreSchemaError, match="avx_dead_letters"):
                await call()
        assert await public.count() == 1


async def test_many_may_open_new_letters_at_once(postgres_database: str) -> None:
    async with asyncio.TaskGroup() as tasks:
        opening = [tasks.create_task(DeadLetterQueue.connect(postgres_database)) for _ in range(10)]

    for number, task in enumerate(opening):
        async with task.result() as queue:
            await queue.add(a_letter(number))
            assert await queue.count() == number + 1


async def test_who_may_not_make_tables_uses_those_that_were_made_by_hand(postgres_database: str) -> None:
    guest = f"guest_{postgres_database.rpartition('/')[2]}"
    url = as_user(postgres_database, guest)
    await asked(postgres_database, f"CREATE ROLE {guest} LOGIN", "REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    try:
        with pytest.raises(StoreRefusedError, match=r"python -m avx_events\.storage\.postgres"):
            await DeadLetterQueue.connect(url)

        async with connected(postgres_database) as connection:
            await connection.execute(script([DEAD_LETTERS]))
        await asked(
            postgres_database, f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {guest}"
        )
        async with await DeadLetterQueue.connect(url) as queue:
            await queue.add(a_letter())
            assert await ids(queue) == ["letter-0001"]
    finally:
        await asked(postgres_database, f"DROP OWNED BY {guest}", f"DROP ROLE {guest}")


async def test_a_newer_schema_is_refused(postgres_database: str) -> None:
    async with await DeadLetterQueue.connect(postgres_database):
        pass
    await asked(postgres_database, "UPDATE avx_schema SET version = 99 WHERE component = 'dead letters'")

    with pytest.raises(StoreSchemaError, match=r"dead letters is at version 99, newer than 1.*upgrade avx-events"):
        await DeadLetterQueue.connect(postgres_database)

    async with await EventStore.connect(postgres_database) as store:  # each component has a version of its own
        assert await store.last_position() == 0


async def test_a_table_of_our_name_that_is_not_ours_is_left_alone(postgres_database: str) -> None:
    await asked(postgres_database, "CREATE TABLE avx_dead_letters (mine int)")

    with pytest.raises(StoreSchemaError, match='"avx_dead_letters" already exists'):
        await DeadLetterQueue.connect(postgres_database)

    assert await asked(postgres_database, "SELECT mine FROM avx_dead_letters") == []


async def test_credentials_and_databases_that_are_none_are_refused(postgres_database: str) -> None:
    for url in (as_user(postgres_database, "nobody", "secret"), in_database(postgres_database, "nowhere")):
        with pytest.raises(StoreRefusedError, match="give user, password and database in the URL") as error:
            await DeadLetterQueue.connect(url)
        assert "secret" not in str(error.value)


@pytest.mark.parametrize("query", ["schema=A", "pool_size=0", "timeout_s=soon", "sslmode=maybe"])
async def test_a_url_with_a_wrong_option_is_refused(postgres_database: str, query: str) -> None:
    with pytest.raises(InvalidArgumentError):
        await DeadLetterQueue.connect(f"{postgres_database}?{query}")


async def test_a_server_that_is_not_there_is_not_available() -> None:
    with pytest.raises(StoreUnavailableError):
        await DeadLetterQueue.connect(f"postgresql://avx@127.0.0.1:{free_port()}/postgres?timeout_s=0.1")


def test_a_queue_is_used_on_its_own_loop(postgres_database: str) -> None:
    async def elsewhere(queue: DeadLetterQueue) -> None:
        with pytest.raises(WrongLoopError):
            await queue.list()
        with pytest.raises(WrongLoopError):
            await queue.close()

    async def use() -> None:
        async with await DeadLetterQueue.connect(postgres_database) as queue:
            await asyncio.to_thread(asyncio.run, elsewhere(queue))
            await queue.add(a_letter())

    asyncio.run(use())


# Servers that are away


async def test_letters_survive_a_server_that_is_killed_while_they_come(postgres_server: PostgresServer) -> None:
    taken: set[str] = set()
    async with await DeadLetterQueue.connect(postgres_server.url) as queue:
        await queue.add(a_letter(0))
        assert await queue.claim("letter-0000")
        half = asyncio.Event()

        async def add(numbers: range) -> None:
            for number in numbers:
                await queue.add(a_letter(number))
                taken.add(f"letter-{number:04}")
                if len(taken) == 100:
                    half.set()

        async with asyncio.TaskGroup() as tasks:
            for begin in range(1, 401, 50):
                tasks.create_task(add(range(begin, begin + 50)))
            await half.wait()
            await asyncio.to_thread(postgres_server.kill)
            await asyncio.to_thread(postgres_server.start)

        assert len(taken) == 400
        assert await ids(queue) == [f"letter-{number:04}" for number in range(401)]
        assert await queue.claim("letter-0000") is None
        await queue.release("letter-0000")
        assert await queue.claim("letter-0000") is not None


async def test_connections_that_were_lost_are_opened_again(postgres_database: str) -> None:
    async with await DeadLetterQueue.connect(postgres_database) as queue:
        await queue.add(a_letter())
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: queue.add(a_letter(2)),
            lambda: queue.claim("letter-0001"),
            queue.list,
            lambda: queue.list(since=AT - timedelta(days=1)),
            lambda: queue.release("letter-0001"),
            lambda: queue.get("letter-0001"),
            lambda: queue.remove("letter-0001"),
            queue.purge,
            queue.count,
        ]
        for call in calls:
            await asked(postgres_database, END_THE_STORES)
            await call()

        assert await queue.count() == 0


async def test_a_server_that_is_away_is_said_in_time_and_missed_no_longer_than_that(
    postgres_server: PostgresServer,
) -> None:
    async with await DeadLetterQueue.connect(f"{postgres_server.url}?timeout_s=0.5") as queue:
        await queue.add(a_letter())
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: queue.add(a_letter(2)),
            lambda: queue.get("letter-0001"),
            lambda: queue.claim("letter-0001"),
            lambda: queue.release("letter-0001"),
            lambda: queue.remove("letter-0001"),
            queue.list,
            queue.purge,
            queue.count,
        ]
        await asyncio.to_thread(postgres_server.stop)

        async with asyncio.timeout(10):
            outcomes = await asyncio.gather(*(call() for call in calls), return_exceptions=True)  # noqa: TID251 - a test

        assert [type(outcome) for outcome in outcomes] == [StoreUnavailableError] * len(calls)
        await asyncio.to_thread(postgres_server.start)
        assert await queue.count() == 1


async def test_a_queue_whose_server_is_away_can_be_closed(postgres_server: PostgresServer) -> None:
    queue = await DeadLetterQueue.connect(f"{postgres_server.url}?timeout_s=0.2")
    await queue.add(a_letter())
    assert await queue.claim("letter-0001")
    await asyncio.to_thread(postgres_server.stop)

    async with asyncio.timeout(5):
        await queue.close()

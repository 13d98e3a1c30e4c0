"""Where a store may be: schemas beside each other, users with few rights, and places where there can be none."""

import asyncio
import os
import sys
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from urllib.parse import urlsplit

import pytest
import trustme

from avx_events.core.errors import ConcurrencyError, StoreRefusedError, StoreSchemaError, StoreUnavailableError
from avx_events.core.event import Event
from avx_events.patterns.aggregate import AggregateRoot
from avx_events.store.event_store import EventStore
from avx_events.store.ports import AppendResult
from avx_events.testing import ManualClock
from tests.live.postgres_asking import as_user, asked, connected, in_database, until_answer
from tests.servers.ports import free_port
from tests.servers.postgres import PostgresServer

pytestmark = pytest.mark.live


class Noted(Event, event_type="places.noted"):
    number: int


async def numbers(store: EventStore) -> list[int]:
    return [stored.event.number async for stored in store.read_all()]


async def test_a_store_in_a_schema_is_not_the_one_in_public(postgres_database: str) -> None:
    await asked(postgres_database, "CREATE SCHEMA tenant")
    async with (
        await EventStore.connect(postgres_database) as public,
        await EventStore.connect(f"{postgres_database}?schema=tenant") as tenant,
    ):
        await public.append("a", Noted(1), expected_version=0)

        await tenant.append("a", [Noted(2), Noted(3)], expected_version=0)

        assert (await numbers(public), await numbers(tenant)) == ([1], [2, 3])
    assert await asked(postgres_database, "SELECT count(*) FROM tenant.avx_events") == [(2,)]


async def test_a_store_whose_schema_is_dropped_does_not_go_on_in_public(postgres_database: str) -> None:
    await asked(postgres_database, "CREATE SCHEMA tenant")
    async with (
        await EventStore.connect(postgres_database) as public,
        await EventStore.connect(f"{postgres_database}?schema=tenant") as tenant,
    ):
        await asked(postgres_database, "DROP SCHEMA tenant CASCADE")

        with pytest.raises(StoreSchemaError, match="avx_"):
            await tenant.append("a", Noted(1))
        with pytest.raises(StoreSchemaError, match="avx_"):
            await tenant.last_position()

        assert await public.last_position() == 0


async def test_queries_of_the_stores_user_find_the_tables_of_public(postgres_database: str) -> None:
    await asked(postgres_database, "CREATE SCHEMA tenant", "CREATE TABLE users AS SELECT 'ann' AS name")
    async with await EventStore.connect(f"{postgres_database}?schema=tenant") as store:
        assert await store.fetch("SELECT name FROM users") == [("ann",)]
        async with store.transaction() as connection:
            assert await connection.fetch("SELECT name FROM users, avx_snapshots") == []


async def test_a_schema_that_is_not_there_is_refused_until_it_is_made(postgres_database: str) -> None:
    with pytest.raises(StoreRefusedError, match="CREATE SCHEMA"):
        await EventStore.connect(f"{postgres_database}?schema=tenant")
    assert await asked(postgres_database, "SELECT to_regclass('public.avx_events')") == [(None,)]

    await asked(postgres_database, "CREATE SCHEMA tenant")
    async with await EventStore.connect(f"{postgres_database}?schema=tenant") as store:
        await store.append("a", Noted(1))


# Users, and what they may do


@pytest.fixture
async def user(postgres_database: str) -> AsyncGenerator[str, None]:
    """Make a role that may log in and nothing more; gives the URL with it."""
    name = f"app_{postgres_database[-12:]}"
    async with connected(postgres_database) as owner:
        await owner.execute(f"CREATE ROLE {name} LOGIN; REVOKE CREATE ON SCHEMA public FROM PUBLIC")
        yield as_user(postgres_database, name)
        await owner.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


TABLES = "avx_schema, avx_events, avx_snapshots"


def name_of(url: str) -> str:
    return str(urlsplit(url).username)


async def test_a_user_with_few_rights_is_told_what_the_owner_has_to_do_and_works_then(
    postgres_database: str, user: str
) -> None:
    with pytest.raises(StoreRefusedError, match="permission denied") as error:
        await EventStore.connect(user)
    assert "python -m avx_events.storage.postgres" in str(error.value)
    assert "SELECT, INSERT, UPDATE and DELETE" in str(error.value)

    async with connected(postgres_database) as owner:
        await owner.execute(await printed())
        with pytest.raises(StoreRefusedError, match="SELECT, INSERT, UPDATE and DELETE"):
            await EventStore.connect(user)
        await owner.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {TABLES} TO {name_of(user)}")

    await use(user)


async def printed() -> str:
    """Return what the module prints."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "avx_events.storage.postgres", stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    return output.decode()


async def use(url: str) -> None:
    async with await EventStore.connect(url, snapshot_every=1) as store:
        assert await store.append("a", [Noted(1), Noted(2)], expected_version=0) == AppendResult(2, 2)
        with pytest.raises(ConcurrencyError):
            await store.append("a", Noted(3), expected_version=0)
        assert (await store.load(Count, "a")).count == (await store.load(Count, "a")).count == 2
        assert store.statistics()["snapshots_used"] == 1
        assert (await anext(store.subscribe(after=1))).version == 2


class Count(AggregateRoot):
    count: int = 0

    def apply(self, event: Event) -> None:
        del event
        self.count += 1


async def test_a_user_who_may_read_only_reads_and_cannot_append(postgres_database: str, user: str) -> None:
    async with await EventStore.connect(postgres_database) as owner:
        await owner.append("a", Noted(1))
    await asked(postgres_database, f"GRANT SELECT ON {TABLES} TO {name_of(user)}")

    async with await EventStore.connect(user) as store:
        assert await numbers(store) == [1]
        for expected in (None, 0, 1):
            with pytest.raises(StoreRefusedError, match="permission denied"):
                await store.append("a", Noted(2), expected_version=expected)
        assert await store.last_position() == 1


async def test_a_schema_of_which_the_user_has_no_use_is_refused(postgres_database: str, user: str) -> None:
    await asked(postgres_database, "CREATE SCHEMA tenant")

    with pytest.raises(StoreRefusedError, match="USAGE"):
        await EventStore.connect(f"{user}?schema=tenant")

    async with connected(postgres_database) as owner:
        await owner.execute(f"SET search_path = tenant; GRANT USAGE ON SCHEMA tenant TO {name_of(user)}")
        with pytest.raises(StoreRefusedError, match="search_path"):
            await EventStore.connect(f"{user}?schema=tenant")
        await owner.execute(await printed())
        await owner.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {TABLES} TO {name_of(user)}")
    await use(f"{user}?schema=tenant")


async def test_a_database_that_is_not_there_is_refused_at_once(postgres_database: str) -> None:
    with pytest.raises(StoreRefusedError, match="does not exist; give user, password and database"):
        await EventStore.connect(in_database(postgres_database, "nowhere"))
    with pytest.raises(StoreRefusedError, match="does not exist; give user, password and database"):
        await EventStore.connect(as_user(postgres_database, "nobody_at_all"))


async def test_where_nothing_listens_is_not_available_and_the_password_is_not_shown() -> None:
    with pytest.raises(StoreUnavailableError) as error:
        await EventStore.connect(f"postgresql://avx:secret@127.0.0.1:{free_port()}/events?timeout_s=0.1")

    assert "secret" not in f"{error.value} {error.value.__cause__}"


@pytest.fixture
async def strict_server(postgres_server: PostgresServer) -> PostgresServer:
    """A server that takes ``app`` with a password and TLS only."""
    data = postgres_server.log.parent / "data"
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    (data / "server.crt").write_bytes(issued.cert_chain_pems[0].bytes())
    (data / "server.key").write_bytes(issued.private_key_pem.bytes())
    (data / "authority.pem").write_bytes(authority.cert_pem.bytes())
    (data / "pg_hba.conf").write_text(
        "host all avx 127.0.0.1/32 trust\nhostssl all app 127.0.0.1/32 scram-sha-256\n", encoding="ascii"
    )
    owner = data.stat()
    for file in ("server.crt", "server.key"):
        os.chown(data / file, owner.st_uid, owner.st_gid)
        (data / file).chmod(0o600)
    await asked(
        postgres_server.url,
        "CREATE ROLE app LOGIN PASSWORD 'secret'",
        "GRANT CREATE ON SCHEMA public TO app",
        "ALTER SYSTEM SET ssl = on",
        "SELECT pg_reload_conf()",
    )
    return postgres_server


async def test_a_server_that_wants_tls_and_a_password_gets_both_or_says_what_it_misses(
    strict_server: PostgresServer,
) -> None:
    url = as_user(strict_server.url, "app", "secret")
    authority = strict_server.log.parent / "data" / "authority.pem"
    async with connected(strict_server.url) as owner:
        await until_answer(owner, "SELECT current_setting('ssl') = 'on'")

    with pytest.raises(StoreRefusedError, match="sslmode=require"):
        await EventStore.connect(f"{url}?sslmode=disable")
    with pytest.raises(StoreRefusedError, match="password"):
        await EventStore.connect(as_user(strict_server.url, "app", "wrong"))
    with pytest.raises(StoreRefusedError, match="password"):
        await EventStore.connect(as_user(strict_server.url, "app"))
    with pytest.raises(StoreRefusedError, match="sslrootcert="):
        await EventStore.connect(f"{url}?sslmode=verify-full&sslrootcert={os.devnull}")
    for mode in ("prefer", "require", f"verify-full&sslrootcert={authority}"):
        async with await EventStore.connect(f"{url}?sslmode={mode}") as store:
            assert await store.fetch("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()") == [(True,)]
            await store.append("a", Noted(1))


async def test_tls_with_a_server_that_has_none_is_refused_at_once(postgres_database: str) -> None:
    async with asyncio.timeout(5):
        with pytest.raises(StoreRefusedError, match="say how to use TLS"):
            await EventStore.connect(f"{postgres_database}?sslmode=require")


# What is there already


async def test_many_processes_may_make_the_tables_at_once(postgres_database: str) -> None:
    async with asyncio.TaskGroup() as tasks:
        opened = [tasks.create_task(opened_by_another_process(postgres_database)) for _ in range(20)]

    assert {task.result() for task in opened} == {"1"}


async def opened_by_another_process(url: str) -> str:
    program = (
        "import asyncio, sys\nfrom avx_events import EventStore\n"
        "async def main():\n"
        "    async with await EventStore.connect(sys.argv[1]) as store:\n"
        "        print(await store.fetch('SELECT version FROM avx_schema') == [(1,)] and 1)\n"
        "asyncio.run(main())"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, f"{url}?timeout_s=30", stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    return output.decode().strip()


async def test_stores_that_open_an_empty_database_at_once_make_it_once(postgres_database: str) -> None:
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
        opening = [tasks.create_task(EventStore.connect(f"{postgres_database}?pool_size=1")) for _ in range(20)]
        for task in opening:
            store = await task
            stack.push_async_callback(store.close)
            await store.append("a", Noted(1))

    assert await asked(postgres_database, "SELECT max(version) FROM avx_events") == [(20,)]


async def test_a_newer_schema_is_refused_and_left_as_it_is(postgres_database: str) -> None:
    async with await EventStore.connect(postgres_database):
        await asked(postgres_database, "UPDATE avx_schema SET version = 99")

    with pytest.raises(StoreSchemaError, match="upgrade avx-events"):
        await EventStore.connect(postgres_database)

    assert await asked(postgres_database, "SELECT version FROM avx_schema") == [(99,)]


@pytest.mark.parametrize(
    "table",
    [
        "CREATE TABLE avx_events (id int)",
        "CREATE TABLE avx_snapshots (id int)",
        "CREATE VIEW avx_events AS SELECT 1 AS position",
        "CREATE TABLE avx_schema (id int)",
        "CREATE SEQUENCE avx_events_stream",
        (
            "CREATE FUNCTION avx_append_one(bigint, text, bigint, text, text, bytea, bytea) RETURNS bigint"
            " LANGUAGE sql AS 'SELECT 1::bigint'"
        ),
    ],
)
async def test_tables_of_our_names_that_are_not_ours_are_left_alone(postgres_database: str, table: str) -> None:
    await asked(postgres_database, table)

    with pytest.raises(StoreSchemaError):
        await EventStore.connect(postgres_database)

    relations = "SELECT count(*) FROM pg_class WHERE relname LIKE 'avx%' AND relkind IN ('r', 'v', 'S')"
    assert await asked(postgres_database, relations) == [(0 if "FUNCTION" in table else 1,)]
    await asked(postgres_database, "CREATE SCHEMA tenant")
    async with await EventStore.connect(f"{postgres_database}?schema=tenant") as store:  # what the error proposes
        await store.append("a", Noted(1))


async def test_tables_that_were_changed_are_refused(postgres_database: str) -> None:
    async with await EventStore.connect(postgres_database):
        await asked(postgres_database, "ALTER TABLE avx_events DROP COLUMN metadata")

    with pytest.raises(StoreSchemaError, match="not as version 1 has them"):
        await EventStore.connect(postgres_database)


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1", "EUC_JP"])
async def test_a_database_that_cannot_keep_every_text_is_refused(postgres_database: str, encoding: str) -> None:
    name = f"{postgres_database.rpartition('/')[2]}_other"
    make = f"CREATE DATABASE \"{name}\" ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
    await asked(postgres_database, make)
    try:
        with pytest.raises(StoreSchemaError, match=f"encoding is {encoding}.*ENCODING 'UTF8'"):
            await EventStore.connect(in_database(postgres_database, name))
    finally:
        await asked(postgres_database, f'DROP DATABASE "{name}" WITH (FORCE)')


async def test_instants_rise_though_the_clock_goes_back(postgres_database: str) -> None:
    ahead, behind = ManualClock(datetime(2030, 1, 1, tzinfo=UTC)), ManualClock(datetime(2020, 1, 1, tzinfo=UTC))
    async with (
        await EventStore.connect(postgres_database, clock=ahead) as quick,
        await EventStore.connect(postgres_database, clock=behind) as slow,
    ):
        appends: list[AppendResult] = []
        for store in (slow, quick, slow, slow, quick):
            appends.append(await store.append("a", [Noted(1), Noted(2)]))
            appends.append(await store.append("a", Noted(3)))
            async with asyncio.TaskGroup() as tasks:
                at_once = [tasks.create_task(store.append(stream, [Noted(4), Noted(5)])) for stream in "bcd"]
            appends += [task.result() for task in at_once]
        log = [stored async for stored in quick.read_all()]

    instants = [log[append.position - 1].recorded_us for append in appends]
    assert instants == sorted(set(instants))
    assert sorted(stored.recorded_us for stored in log) == [stored.recorded_us for stored in log]
    assert len({stored.recorded_us for stored in log}) == len(appends)  # the records of one append share theirs

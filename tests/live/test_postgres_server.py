"""The PostgreSQL server of the tests does as it is told."""

import asyncio

import asyncpg
import pytest

from tests.servers.postgres import PostgresServer

pytestmark = pytest.mark.live


async def asked(url: str, sql: str) -> object:
    connection = await asyncpg.connect(url, timeout=5)
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()


async def test_each_test_has_an_empty_database_in_utf_8(postgres_database: str) -> None:
    assert await asked(postgres_database, "SHOW server_encoding") == "UTF8"
    assert await asked(postgres_database, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == 0


async def test_what_was_committed_survives_a_kill_and_a_restart(postgres_server: PostgresServer) -> None:
    await asked(postgres_server.url, "CREATE TABLE kept (n int)")
    for again in (postgres_server.kill, postgres_server.stop):
        await asked(postgres_server.url, "INSERT INTO kept VALUES (1)")
        await asyncio.to_thread(again)
        with pytest.raises(OSError, match="Connect call failed"):
            await asked(postgres_server.url, "SELECT 1")
        await asyncio.to_thread(postgres_server.start)

    assert await asked(postgres_server.url, "SELECT count(*) FROM kept") == 2


async def test_a_server_that_is_paused_answers_when_it_goes_on(postgres_server: PostgresServer) -> None:
    connection = await asyncpg.connect(postgres_server.url)
    await asyncio.to_thread(postgres_server.pause)

    with pytest.raises(TimeoutError):
        await asyncpg.connect(postgres_server.url, timeout=0.2)
    async with asyncio.TaskGroup() as tasks:
        answer = tasks.create_task(connection.fetchval("SELECT 7"))
        await asyncio.to_thread(postgres_server.resume)

    assert await answer == 7
    await connection.close()

"""What the live tests on PostgreSQL ask a server for beside the store: statements, and URLs of other places in it."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Final
from urllib.parse import urlsplit

import asyncpg

from tests.servers.proxy import Proxy

WAITING: Final = "SELECT count(*) FROM pg_locks WHERE NOT granted AND database = {database}"
END_THE_STORES: Final = (
    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
    " WHERE application_name = 'avx-events' AND datname = current_database()"
)
"""Ends all sessions of stores in this database."""

_THIS_DATABASE: Final = "(SELECT oid FROM pg_database WHERE datname = current_database())"


@asynccontextmanager
async def connected(url: str) -> AsyncGenerator[Any, None]:
    """Give a connection of the test's own."""
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        connection.terminate()


async def asked(url: str, *statements: str) -> list[tuple[Any, ...]]:
    """Run ``statements`` one by one; return the rows of the last."""
    rows: list[Any] = []
    async with connected(url) as connection:
        for statement in statements:
            rows = await connection.fetch(statement)
    return [tuple(row) for row in rows]


async def until_answer(connection: Any, sql: str, *, timeout_s: float = 10) -> None:
    """Ask ``sql`` until the answer is true.

    Raises:
        TimeoutError: It was not within ``timeout_s`` seconds.
    """
    async with asyncio.timeout(timeout_s):
        while not await connection.fetchval(sql):
            pass


async def until_waiting(connection: Any, count: int = 1) -> None:
    """Return when so many sessions of this database wait for a lock."""
    await until_answer(connection, f"{WAITING.format(database=_THIS_DATABASE)} HAVING count(*) >= {count}")


def through(proxy: Proxy, url: str) -> str:
    """Return ``url`` by way of ``proxy``."""
    port = urlsplit(url).port
    return url.replace(f":{port}/", f":{proxy.port}/", 1)


def as_user(url: str, name: str, password: str = "") -> str:
    """Return ``url`` with another user."""
    parts = urlsplit(url)
    login = f"{name}:{password}" if password else name
    return url.replace(f"{parts.username}@", f"{login}@", 1)


def in_database(url: str, name: str) -> str:
    """Return ``url`` with another database."""
    return f"{url.rpartition('/')[0]}/{name}"

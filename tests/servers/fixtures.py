"""The servers of the tests: one of each kind for all who leave it alone, and one of its own for a test that does not.

A test shares ``redis_url``, ``nats_url`` and ``kafka_url`` with all others, so each uses names of its own there, and
``postgres_url``, where ``postgres_database`` gives it a database. A test that stops, kills or freezes its server asks
for ``redis_server``, ``nats_server``, ``kafka_server`` or ``postgres_server``.
"""

import os
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn, TypeVar

import pytest

from tests.servers.kafka import kafka_in
from tests.servers.nats import nats_in
from tests.servers.postgres import KEEP_NOTHING, PostgresServer, new_database, postgres_in
from tests.servers.process import Server
from tests.servers.redis import KEEP_EACH_WRITE, redis_in
from tests.servers.software import MissingServerError

ServerT = TypeVar("ServerT", bound=Server)


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the Redis server is that all tests share: ``AVX_REDIS_URL``, or one that starts now and keeps nothing."""
    with _shared("AVX_REDIS_URL", lambda: redis_in(tmp_path_factory.mktemp("redis"))) as url:
        yield url


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[Server]:
    """Run a Redis server for this test alone, which keeps each write that it has answered to."""
    with _running(lambda: redis_in(tmp_path / "redis", *KEEP_EACH_WRITE)) as server:
        yield server


@pytest.fixture(scope="session")
def nats_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the NATS server with JetStream is that all tests share: ``AVX_NATS_URL``, or one that starts now."""
    with _shared("AVX_NATS_URL", lambda: nats_in(tmp_path_factory.mktemp("nats"))) as url:
        yield url


@pytest.fixture
def nats_server(tmp_path: Path) -> Iterator[Server]:
    """Run a NATS server with JetStream for this test alone."""
    with _running(lambda: nats_in(tmp_path / "nats")) as server:
        yield server


@pytest.fixture(scope="session")
def kafka_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the Kafka server is that all tests share: ``AVX_KAFKA_URL``, or one that starts now, in two seconds."""
    with _shared("AVX_KAFKA_URL", lambda: kafka_in(tmp_path_factory.mktemp("kafka"))) as url:
        yield url


@pytest.fixture
def kafka_server(tmp_path: Path) -> Iterator[Server]:
    """Run a Kafka server for this test alone, which takes two seconds to start."""
    with _running(lambda: kafka_in(tmp_path / "kafka")) as server:
        yield server


@pytest.fixture(scope="session")
def postgres_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the PostgreSQL server is that all tests share: ``AVX_POSTGRES_URL``, or one that starts now."""
    with _shared("AVX_POSTGRES_URL", lambda: postgres_in(tmp_path_factory.mktemp("postgres"), *KEEP_NOTHING)) as url:
        yield url


@pytest.fixture
def postgres_database(postgres_url: str) -> Iterator[str]:
    """Make a database for this test alone on the server that all share."""
    with new_database(postgres_url) as url:
        yield url


@pytest.fixture
def postgres_server(tmp_path: Path) -> Iterator[PostgresServer]:
    """Run a PostgreSQL server for this test alone, which has on disk what it has committed."""
    with _running(lambda: postgres_in(tmp_path / "postgres")) as server:
        yield server


@contextmanager
def _shared(variable: str, describe: Callable[[], Server]) -> Generator[str]:
    if url := os.environ.get(variable):
        yield url
    else:
        with _running(describe) as server:
            yield server.url


@contextmanager
def _running(describe: Callable[[], ServerT]) -> Generator[ServerT]:
    try:
        server = describe()
    except MissingServerError as error:
        _do_without(str(error))
    with server:
        yield server


def _do_without(reason: str) -> NoReturn:
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)

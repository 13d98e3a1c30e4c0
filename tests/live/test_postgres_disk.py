"""A disk that is full: appends are refused whole until there is room, and reads go on."""

import asyncio
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from avx_events.core.errors import StoreUnavailableError
from avx_events.core.event import Event
from avx_events.store.event_store import EventStore
from tests.live.histories import Kept, Refused, violations
from tests.live.postgres_asking import asked
from tests.live.postgres_attempts import attempted, repeated
from tests.live.sqlite_processes import log_of
from tests.servers.postgres import PostgresServer

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk"),
]

REFUSALS = 40


class Filled(Event, event_type="disk.filled"):
    text: str


@pytest.fixture
def disk() -> Iterator[Path]:
    """A disk of 8 MB; unmounted after the server, which is asked for after it, has ended."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        subprocess.run(["/bin/mount", "-t", "tmpfs", "-o", "size=8m,mode=777", "tmpfs", folder], check=True)  # noqa: S603
        try:
            yield folder
        finally:
            subprocess.run(["/bin/umount", "-l", folder], check=True)  # noqa: S603


@pytest.fixture
async def small(disk: Path, postgres_server: PostgresServer) -> str:
    """Put the tables of a store on the disk, beside something that can be thrown away."""
    owner = (postgres_server.log.parent / "data").stat()
    (disk / "tables").mkdir(mode=0o700)
    os.chown(disk / "tables", owner.st_uid, owner.st_gid)
    await asked(
        postgres_server.url,
        f"CREATE TABLESPACE small LOCATION '{disk / 'tables'}'",
        "CREATE TABLE ballast TABLESPACE small AS SELECT repeat('x', 1000) FROM generate_series(1, 4000)",
    )
    return f"{postgres_server.url}?default_tablespace=small"


async def test_where_the_disk_is_full_appends_are_refused_whole_until_there_is_room(small: str) -> None:
    async with await EventStore.connect(small) as store:
        await fill(store)
        position = await store.last_position()

        turns = range(REFUSALS)
        async with asyncio.TaskGroup() as tasks:
            at_once = [tasks.create_task(attempted(store, "small", turn % 10, turn)) for turn in turns]
        attempts = [task.result() for task in at_once]
        while sum(isinstance(one.outcome, Refused) for one in attempts) < REFUSALS:
            attempts.append(await attempted(store, "small", 0, len(attempts)))

        assert {one.outcome for one in attempts if not isinstance(one.outcome, Kept)} == {
            Refused("StoreUnavailableError")
        }
        log = [entry for entry in await log_of(store) if entry.position > position]
        assert violations(attempts, log) == []

        await asked(small, "DROP TABLE ballast")
        repeats = await repeated(store, [one for one in attempts if isinstance(one.outcome, Refused)])

        assert [one for one in repeats if not isinstance(one.outcome, Kept)] == []
        log = [entry for entry in await log_of(store) if entry.position > position]
        assert violations([*attempts, *repeats], log) == []


async def fill(store: EventStore) -> None:
    """Append ever smaller events until none fits."""
    for size_bytes in (100_000, 10_000, 1_000):
        with pytest.raises(StoreUnavailableError, match=r"could not extend file.*No space left.*nothing was written"):
            await append_for_ever(store, size_bytes)


async def append_for_ever(store: EventStore, size_bytes: int) -> None:
    while True:
        await store.append("filled", Filled(os.urandom(size_bytes // 2).hex()))  # it does not compress


async def test_of_a_group_that_does_not_fit_what_fits_is_appended(small: str) -> None:
    async with await EventStore.connect(small) as store:
        with pytest.raises(StoreUnavailableError):
            await store.append("a", [Filled(os.urandom(250_000).hex()) for _ in range(12)])

        async with asyncio.TaskGroup() as tasks:
            little = [tasks.create_task(store.append(f"s-{number}", Filled("x"))) for number in range(3)]
            large = tasks.create_task(refused(store))
            little += [tasks.create_task(store.append(f"t-{number}", Filled("x"))) for number in range(3)]

        await large
        assert sorted(task.result().position for task in little) == [1, 2, 3, 4, 5, 6]
        assert await store.last_position() == 6


async def refused(store: EventStore) -> None:
    with pytest.raises(StoreUnavailableError, match="nothing was written"):
        await store.append("large", [Filled(os.urandom(250_000).hex()) for _ in range(12)])

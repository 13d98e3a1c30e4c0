"""What PRODUCTION_GUIDE.md says is so: options and their defaults, and that its backups can be restored."""

import asyncio
import inspect
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest

import avx_events
from avx_events import Connection, Event, EventStore, Projection, Projector, StoredEvent, handles
from avx_events.observability import Settings
from tests.deploy.programs import needed
from tests.docs.pages import ROOT
from tests.servers.postgres import new_database
from tests.waiting import until

GUIDE: Final = (ROOT / "PRODUCTION_GUIDE.md").read_text("utf-8")
OPTIONS: Final = re.findall(
    r"^\| `([\w.]+)` \| `(\w+)` \| (.+?) \| .+ \|$", GUIDE.partition("## Configuration")[2], re.MULTILINE
)
WRITERS: Final = 8
BEFORE: Final = 300
PASSED_OVER: Final = {"self", "clock", "remote", "client", "engine", "store", "url", "name"}
"""Parameters that no operator sets."""


class Counted(Event, event_type="guide.counted", aggregate_id="writer"):
    writer: str
    number: int


class Counts(Projection, name="counts"):
    """How many events each writer has, by SQL that every database understands."""

    async def setup(self, connection: Connection) -> None:
        await connection.execute("CREATE TABLE counts (writer TEXT PRIMARY KEY, events INTEGER NOT NULL)")

    @handles(Counted)
    async def count(self, event: Counted, connection: Connection, stored: StoredEvent[Counted]) -> None:
        if stored.version == 1:
            await connection.execute(f"INSERT INTO counts VALUES ('{event.writer}', 0)")  # noqa: S608 - our own name
        await connection.execute(
            f"UPDATE counts SET events = events + 1 WHERE writer = '{event.writer}'"  # noqa: S608 - as above
        )


class Load:
    """Writers that append until they are told to end; with each, what was acknowledged."""

    def __init__(self, store: EventStore) -> None:
        self.acknowledged = 0
        self._store = store
        self._is_over = False

    def end(self) -> None:
        self._is_over = True

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for number in range(WRITERS):
                tasks.create_task(self._write(f"writer-{number}"))

    async def _write(self, writer: str) -> None:
        number = 0
        while not self._is_over:
            number += 1
            result = await self._store.append(writer, Counted(writer, number), expected_version=number - 1)
            self.acknowledged = max(self.acknowledged, result.position)


def commands(heading: str) -> str:
    """Return the shell block that follows a heading."""
    section = GUIDE.partition(f"### {heading}\n")[2].partition("\n#")[0]
    [block] = re.findall(r"^```sh\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
    assert block
    return str(block)


async def shell(script: str, folder: Path, environment: Mapping[str, str]) -> str:
    """Run the commands of a block as a person would, and return what they print.

    Those that are not on ``PATH`` are where the tests find servers.
    """
    places = {str(Path(needed(name)).parent) for name in ("sqlite3", "pg_dump")}
    path = os.pathsep.join((os.environ["PATH"], *places))
    process = await asyncio.create_subprocess_exec(
        *("/bin/sh", "-eu", "-c", script),
        cwd=folder,
        env={**os.environ, **environment, "PATH": path},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return output.decode()


async def backed_up_under_load(url: str, heading: str, folder: Path, environment: Mapping[str, str]) -> tuple[int, int]:
    """Run the backup of the guide while writers append and a projection follows.

    Returns:
        The position that was acknowledged before the backup began, and that of the last event when it had ended.
    """
    async with await EventStore.connect(url) as store, Projector(store, Counts()):
        load = Load(store)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(load.run())
            await until(lambda: load.acknowledged > BEFORE)
            before = load.acknowledged
            await shell(commands(heading), folder, environment)
            during = load.acknowledged
            await until(lambda: load.acknowledged > during + BEFORE)
            load.end()
        return before, load.acknowledged


async def check(url: str, *, before: int, end: int) -> None:
    """Fail where what was restored is no whole log with a read model that fits it, or takes no more."""
    async with await EventStore.connect(url) as store:
        log = [stored async for stored in store.read_all()]
        counted = dict(await store.fetch("SELECT writer, events FROM counts"))
        async with Projector(store, Counts()) as projector:
            restored_at = projector.statistics()["counts"].position
            await projector.caught_up()
            caught_up = dict(await store.fetch("SELECT writer, events FROM counts"))

        assert [stored.position for stored in log] == list(range(1, len(log) + 1))
        assert before <= len(log) < end
        assert restored_at <= len(log)
        assert counted == counts([stored for stored in log if stored.position <= restored_at])
        assert caught_up == counts(log)
        assert (await store.append("writer-0", Counted("writer-0", 0), expected_version=caught_up["writer-0"])).version


def counts(log: list[StoredEvent[Any]]) -> dict[str, int]:
    """Return how many events each writer has."""
    found: dict[str, int] = {}
    for stored in log:
        found[stored.stream] = found.get(stored.stream, 0) + 1
    return found


async def test_a_sqlite_store_is_backed_up_under_load_and_restored(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/avx-events.db"

    before, end = await backed_up_under_load(url, "SQLite: back up", tmp_path, {})
    await shell(commands("SQLite: restore"), tmp_path, {})

    await check(url, before=before, end=end)


@pytest.mark.live
async def test_a_postgresql_store_is_backed_up_under_load_and_restored(
    postgres_url: str, postgres_database: str, tmp_path: Path
) -> None:
    with new_database(postgres_url) as restored:
        environment = {"STORE_URL": postgres_database, "RESTORED_URL": restored}

        before, end = await backed_up_under_load(postgres_database, "PostgreSQL: back up", tmp_path, environment)
        await shell(commands("PostgreSQL: restore"), tmp_path, environment)

        await check(restored, before=before, end=end)


def signature_of(name: str) -> dict[str, str]:
    """Return the options of a class or method, each with its default as the guide writes it."""
    found: Any = avx_events
    for part in name.split("."):
        found = getattr(found, part)
    return {
        parameter.name: written(parameter.default)
        for parameter in inspect.signature(found).parameters.values()
        if parameter.name not in PASSED_OVER and parameter.default is not parameter.empty
    }


def written(default: object) -> str:
    """Return a default as a cell of the table has it."""
    if isinstance(default, avx_events.Retry):
        return "`Retry()`"
    if isinstance(default, str):
        return f'`"{default}"`' if default else '`""`'
    return f"`{int(default)}`" if isinstance(default, float) and default.is_integer() else f"`{default}`"


def test_every_option_is_there_with_its_default() -> None:
    shown: dict[str, dict[str, str]] = {}
    for name, option, default in OPTIONS:
        shown.setdefault(name, {})[option] = default

    assert shown
    assert shown == {name: signature_of(name) for name in shown}


def test_the_settings_of_the_service_have_the_defaults_that_are_shown() -> None:
    defaults = Settings()

    assert f"| `AVX__HTTP__BIND_ADDR` | `{defaults.http.bind_addr}` |" in GUIDE
    assert f"| `AVX_EVENTS__STORE_URL` | `{defaults.events.store_url}` |" in GUIDE


def test_the_figures_of_capacity_are_those_of_the_bench() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    rows = re.findall(r"^\| (.+?) \| ([\d,.]+(?:/s| ns| µs)) \|", GUIDE.partition("## Capacity")[2], re.MULTILINE)

    assert rows
    for what, figure in rows:
        assert f"| {what} | {figure} |" in readme, what


@pytest.mark.parametrize("module", sorted(set(re.findall(r"`python -m ((?:bench|tests)[\w.]*)", GUIDE))))
def test_the_programs_that_it_names_are_there(module: str) -> None:
    place = ROOT.joinpath(*module.split("."))

    assert place.with_suffix(".py").exists() or (place / "__main__.py").exists()

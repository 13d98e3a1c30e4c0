"""What a system may refuse a process, and what a process may forget: nothing is lost, and it says what is wrong."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from avx_events.store.event_store import EventStore
from tests.live.histories import Attempt, Kept, Refused, violations
from tests.live.sqlite_processes import lines, log_of, running
from tests.live.sqlite_small_disk import REFUSALS


@pytest.mark.parametrize("writer", ["thread", "inline"])
async def test_where_files_may_not_grow_appends_are_refused_whole_until_they_may(tmp_path: Path, writer: str) -> None:
    url = f"sqlite:///{tmp_path}/events.db?writer={writer}"
    async with running("sqlite_small_disk", url, 150_001) as process:
        attempts = [one async for one in lines(process, Attempt)]
        code = await process.wait()

    async with await EventStore.connect(url) as store:
        log = await log_of(store)

    assert code == 0
    assert violations(attempts, log) == []
    assert sum(one.outcome == Refused("StoreUnavailableError") for one in attempts) == REFUSALS
    assert {one.event_ids for one in attempts} == {one.event_ids for one in attempts if isinstance(one.outcome, Kept)}


@pytest.mark.parametrize("writer", ["thread", "inline"])
async def test_a_process_that_forgets_to_close_its_store_ends_and_loses_nothing(tmp_path: Path, writer: str) -> None:
    url = f"sqlite:///{tmp_path}/events.db?writer={writer}"
    async with running("sqlite_forgetful", url) as process:
        attempts = [one async for one in lines(process, Attempt)]
        code = await process.wait()

    async with await EventStore.connect(url) as store:
        assert violations(attempts, await log_of(store)) == []

    assert (code, len(attempts)) == (0, 20)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may read, and nobody write to; those of pytest are closed to others."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o555)
        yield folder
        folder.chmod(0o700)


async def refusal_of(path: Path) -> str:
    async with running("sqlite_reader", f"sqlite:///{path}") as process:
        output, _ = await process.communicate()
        assert process.returncode == 0
        return output.decode()


async def test_a_folder_that_may_not_be_written_to_gets_no_store(open_folder: Path) -> None:
    refusal = await refusal_of(open_folder / "events.db")

    assert refusal.startswith(f"StoreUnavailableError: sqlite:///{open_folder}/events.db is not available: ")
    assert list(open_folder.iterdir()) == []  # noqa: ASYNC240 - nothing else runs


async def test_a_file_that_may_not_be_written_to_is_not_available_and_stays_as_it_is(
    tmp_path: Path, open_folder: Path
) -> None:
    async with await EventStore.connect(f"sqlite:///{tmp_path}/events.db"):
        pass
    path = kept_in(open_folder, tmp_path / "events.db")

    refusal = await refusal_of(path)

    assert refusal.startswith(f"StoreUnavailableError: sqlite:///{path} is not available: ")
    assert (list(open_folder.iterdir()), path.read_bytes()) == (  # noqa: ASYNC240 - nothing else runs
        [path],
        (tmp_path / "events.db").read_bytes(),
    )


def kept_in(folder: Path, file: Path) -> Path:
    """Copy ``file`` into a folder that may not be written to, as a file that may not be either."""
    folder.chmod(0o700)
    copy = Path(shutil.copy(file, folder))
    copy.chmod(0o444)
    folder.chmod(0o555)
    return copy

"""What an inspector says of the file of a store, and that it leaves the file and its folder as they are."""

import sqlite3
from collections.abc import Mapping
from pathlib import Path

import pytest

from avx_events import (
    DeadLetterQueue,
    Event,
    EventStore,
    Inspector,
    InvalidArgumentError,
    StoreUnavailableError,
    UnsupportedError,
)
from avx_events.storage.sqlite import durability, inspection
from avx_events.storage.sqlite.durability import File, findings_in
from avx_events.storage.sqlite.file_systems import kind_among, kind_of

SOUND = File(size=4096, wal_size=0, file_system="ext4", is_wal=True, check="ok", versions={"events": 1})


class Noticed(Event, event_type="sqlite.noticed", aggregate_id="key"):
    key: str


async def found_at(url: str) -> Mapping[str, tuple[str, str]]:
    async with await Inspector.connect(url) as inspector:
        return {finding.setting: (finding.value, finding.level) for finding in await inspector.findings()}


def found_in(file: File) -> Mapping[str, tuple[str, str]]:
    return {finding.setting: (finding.value, finding.level) for finding in findings_in(file)}


def kept(folder: Path) -> Mapping[str, tuple[int, int]]:
    return {path.name: (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.iterdir()}


async def test_a_store_that_is_open_is_sound(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/events.db"
    async with await EventStore.connect(url) as store, await DeadLetterQueue.connect(url):
        await store.append("a", [Noticed("a")])
        before = kept(tmp_path)
        found = await found_at(url)

        assert kept(tmp_path) == before
    assert found["journal_mode"] == ("wal", "ok")
    assert found["synchronous"] == ("FULL", "ok")
    assert found["quick_check"] == ("ok", "ok")
    assert (found["events"], found["dead letters"]) == (("1", "ok"), ("1", "ok"))


async def test_a_store_that_is_closed_stays_as_it_is(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/events.db"
    async with await EventStore.connect(url) as store:
        await store.append("a", [Noticed("a")])
    before = kept(tmp_path)

    found = await found_at(url)

    assert kept(tmp_path) == before
    assert list(before) == ["events.db"]
    assert (found["journal_mode"], found["quick_check"]) == (("wal", "ok"), ("ok", "ok"))


async def test_a_file_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    found = await found_at(f"sqlite:///{tmp_path}/events.db")

    assert found == {"file": ("none", "note")}
    assert kept(tmp_path) == {}


async def test_a_store_in_memory_is_a_risk() -> None:
    assert await found_at("sqlite://") == {"file": ("in memory", "risk")}


async def test_a_file_of_another_program_has_no_store_yet(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "other.db")
    connection.execute("CREATE TABLE users (id INTEGER)")
    connection.close()

    found = await found_at(f"sqlite:///{tmp_path}/other.db")

    assert found["journal_mode"] == ("rollback", "note")
    assert found["table"] == ("none", "note")


async def test_a_damaged_file_is_a_risk(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    async with await EventStore.connect(f"sqlite:///{path}") as store:
        await store.append("a", [Noticed("a" * 500) for _ in range(200)])
    contents = bytearray(path.read_bytes())
    contents[8192:16384] = b"\xff" * 8192
    path.write_bytes(contents)

    assert (await found_at(f"sqlite:///{path}"))["quick_check"][1] == "risk"


async def test_what_is_no_database_is_a_risk(tmp_path: Path) -> None:
    (tmp_path / "events.db").write_text("no database at all, whatever its name says")

    found = await found_at(f"sqlite:///{tmp_path}/events.db")

    assert found["quick_check"] == ("file is not a database", "risk")
    assert "table" not in found


async def test_a_large_file_is_not_read_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "MOST_CHECKED_BYTES", 1000)
    url = f"sqlite:///{tmp_path}/events.db"
    async with await EventStore.connect(url):
        pass

    found = await found_at(url)

    assert found["quick_check"][1] == "note"
    assert found["events"] == ("1", "ok")


async def test_a_file_that_became_a_folder_is_unavailable(tmp_path: Path) -> None:
    async with await Inspector.connect(f"sqlite:///{tmp_path}/events.db") as inspector:
        (tmp_path / "events.db").mkdir()

        with pytest.raises(StoreUnavailableError):
            await inspector.findings()


async def test_a_file_has_no_groups_and_takes_no_options_of_a_client(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/events.db"

    async with await Inspector.connect(url) as inspector:
        assert inspector.name == url
        with pytest.raises(UnsupportedError, match="a database knows of no groups"):
            await inspector.groups()
    with pytest.raises(InvalidArgumentError, match="client must be left out"):
        await Inspector.connect(url, password="secret")  # noqa: S106 - a database in a file has none


@pytest.mark.parametrize(
    ("file_system", "level"),
    [("ext4", "ok"), ("nfs4", "risk"), ("fuse.sshfs", "risk"), ("tmpfs", "risk"), ("overlay", "note"), (None, "note")],
)
def test_the_file_system_decides_whether_locks_and_files_last(file_system: str | None, level: str) -> None:
    file = File(size=1, wal_size=0, file_system=file_system, is_wal=True, check="ok", versions={})

    assert found_in(file)["file system"] == (file_system or "?", level)


def test_a_log_that_is_not_copied_is_noted() -> None:
    large = File(size=1, wal_size=100 << 20, file_system="ext4", is_wal=True, check="ok", versions={})

    assert found_in(large)["write-ahead log"] == (f"{100 << 20} bytes", "note")
    assert found_in(SOUND)["write-ahead log"] == ("0 bytes", "ok")


def test_tables_of_another_version_are_told_from_those_of_ours() -> None:
    newer = File(size=1, wal_size=0, file_system="ext4", is_wal=True, check="ok", versions={"events": 99})
    older = File(size=1, wal_size=0, file_system="ext4", is_wal=True, check="ok", versions={"events": 0})

    assert found_in(newer)["events"] == ("99", "risk")
    assert found_in(older)["events"] == ("0", "note")
    assert durability.no_file()[0].level == "note"


MOUNTS = r"""
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 27 0:27 / /home rw shared:1 master:2 - nfs4 server:/home rw
31 30 0:28 / /home/my\040disk rw - xfs /dev/vdb rw
32 27 0:29 / /srv rw - ext4 /dev/vdc rw
33 27 0:30 / /srv rw - cifs //other/srv rw
""".strip()


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/events.db", "ext4"),
        ("/home/me/events.db", "nfs4"),
        ("/home/my disk/events.db", "xfs"),
        ("/homes/events.db", "ext4"),
        ("/srv/events.db", "cifs"),
    ],
)
def test_a_path_is_on_what_was_mounted_nearest_and_last(path: str, kind: str) -> None:
    assert kind_among(MOUNTS, Path(path)) == kind


def test_where_nothing_is_mounted_nobody_knows() -> None:
    assert kind_among("", Path("/events.db")) is None
    assert kind_of(Path("/")) is None or kind_of(Path("/"))

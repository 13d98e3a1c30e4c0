"""What there is to say of a store's file: whether what was appended is safe there."""

from collections.abc import Iterator, Mapping
from typing import Final

import msgspec

from avx_events.bus.remote.inspection import Finding, Level
from avx_events.storage.sqlite.dead_letters import DEAD_LETTERS
from avx_events.storage.sqlite.file_systems import IN_MEMORY, NETWORK
from avx_events.storage.sqlite.schema import EVENTS
from avx_events.storage.versions import version_finding

MOST_CHECKED_BYTES: Final = 256 << 20
"""A larger file is not read as a whole, only to be looked at."""

_LARGE_WAL_BYTES: Final = 64 << 20  # four times what the store lets it grow to
_UNKNOWN: Final = "?"


class File(msgspec.Struct, frozen=True, kw_only=True):
    """A file as it is.

    Attributes:
        size: In bytes.
        wal_size: Of the write-ahead log beside it, in bytes.
        file_system: What kind it is on; None where nobody tells.
        is_wal: Whether it is in write-ahead mode.
        check: What SQLite says of its insides, ``ok`` where nothing is wrong; None where it was not asked.
        versions: At which version each component's tables are; None where there is no store, or nothing can be read.
    """

    size: int
    wal_size: int
    file_system: str | None
    is_wal: bool
    check: str | None
    versions: Mapping[str, int] | None


def nowhere() -> list[Finding]:
    """Return what follows from a store in memory."""
    says = "Everything is gone when the store is closed: name a file in the URL, as sqlite:///events.db."
    return [_found("risk", "file", "in memory", says)]


def no_file() -> list[Finding]:
    """Return what follows from a file that is not there."""
    return [_found("note", "file", "none", "No store has used this file yet: there are no events.")]


def findings_in(file: File) -> list[Finding]:
    """Return what follows from a file and where it is."""
    return [
        _file_system(file.file_system),
        _journal(is_wal=file.is_wal),
        _found("ok", "synchronous", "FULL", "As the store opens it: an append that returned is on disk."),
        _wal(file.wal_size),
        _check(file),
        *_tables(file),
    ]


def _file_system(kind: str | None) -> Finding:
    if kind is None:
        says = "This machine does not tell. It must not be another machine's disk: SQLite cannot rely on its locks."
        return _found("note", "file system", _UNKNOWN, says)
    if kind in NETWORK:
        says = "It is another machine's disk: SQLite cannot rely on its locks, and the file may be damaged. Move it."
        return _found("risk", "file system", kind, says)
    if kind in IN_MEMORY:
        return _found("risk", "file system", kind, "It is in memory: everything is gone when the machine stops.")
    if kind == "overlay":
        says = "It looks like the inside of a container: where it has no volume, everything is gone with the container."
        return _found("note", "file system", kind, says)
    return _found("ok", "file system", kind, "It is a disk of this machine, as far as it tells.")


def _journal(*, is_wal: bool) -> Finding:
    if is_wal:
        return _found("ok", "journal_mode", "wal", "Readers and the writer do not wait for each other.")
    says = "Nothing is lost by it; the store puts the file into write-ahead mode when it opens it."
    return _found("note", "journal_mode", "rollback", says)


def _wal(size: int) -> Finding:
    if size > _LARGE_WAL_BYTES:
        says = (
            "It is not copied into the file: a reader that never ends, or a process that stands still, holds it back, "
            "and it grows until the disk is full. Nothing is lost by it."
        )
        return _found("note", "write-ahead log", f"{size} bytes", says)
    return _found("ok", "write-ahead log", f"{size} bytes", "It is copied into the file as it should be.")


def _check(file: File) -> Finding:
    if file.check is None:
        says = f"Files of more than {MOST_CHECKED_BYTES >> 20} MiB are not read as a whole; run PRAGMA quick_check."
        return _found("note", "quick_check", f"not done, {file.size} bytes", says)
    if file.check == "ok":
        return _found("ok", "quick_check", "ok", "SQLite finds nothing damaged.")
    return _found("risk", "quick_check", file.check, "The file is damaged, or no database: bring back a backup.")


def _tables(file: File) -> Iterator[Finding]:
    if file.versions is None:
        if file.check in {None, "ok"}:
            says = "No store has used this file yet: there are no events."
            yield _about("avx_schema", "note", "table", "none", says)
        return
    for tables in (EVENTS, DEAD_LETTERS):
        if tables.component in file.versions:
            yield version_finding(tables.component, file.versions[tables.component], newest=len(tables.migrations))


def _found(level: Level, setting: str, value: str, says: str) -> Finding:
    return _about("file", level, setting, value, says)


def _about(subject: str, level: Level, setting: str, value: str, says: str) -> Finding:
    return Finding(level=level, subject=subject, setting=setting, value=value, says=says)

"""What the settings of PostgreSQL mean for events that were appended."""

from collections.abc import Iterator, Mapping
from typing import Final

import msgspec

from avx_events.bus.remote.inspection import Finding, Level
from avx_events.storage.postgres.letter_tables import DEAD_LETTERS
from avx_events.storage.postgres.schema import EVENTS
from avx_events.storage.versions import version_finding

SETTINGS: Final = (
    "server_version_num",
    "server_version",
    "server_encoding",
    "fsync",
    "synchronous_commit",
    "full_page_writes",
    "wal_level",
    "synchronous_standby_names",
    "archive_mode",
    "data_checksums",
    "default_transaction_read_only",
)
"""What the server is asked for."""

_OLDEST: Final = 130_000
_UNKNOWN: Final = "?"
_REMOTE: Final = frozenset({"on", "remote_write", "remote_apply"})


class Database(msgspec.Struct, frozen=True):
    """A database as it is.

    Attributes:
        settings: Of a session of the store's user; those that it may not see are missing.
        is_standby: Whether it follows another server.
        versions: At which version each component's tables are; None where there is no store.
    """

    settings: Mapping[str, str]
    is_standby: bool
    versions: Mapping[str, int] | None


def findings_in(database: Database) -> list[Finding]:
    """Return what follows from the settings of a database, and from what is in it."""
    settings = database.settings
    return [
        *_server(settings, is_standby=database.is_standby),
        *_disk(settings),
        *_commits(settings),
        *_copies(settings),
        *_tables(database.versions),
    ]


def _server(settings: Mapping[str, str], *, is_standby: bool) -> Iterator[Finding]:
    version = settings.get("server_version", _UNKNOWN)
    if int(settings.get("server_version_num", _OLDEST)) < _OLDEST:
        yield _found("risk", "version", version, "The store needs PostgreSQL 13 or newer.")
    else:
        yield _found("ok", "version", version, "The store works with it.")
    if settings.get("server_encoding", "UTF8") != "UTF8":
        says = "It cannot keep every text, and the store refuses it: make a database with ENCODING 'UTF8'."
        yield _found("risk", "server_encoding", settings["server_encoding"], says)
    if is_standby:
        yield _found("risk", "in_recovery", "yes", "A standby only reads: let stores connect to the primary.")
    elif settings.get("default_transaction_read_only") == "on":
        says = "Transactions only read: nothing can be appended until it is off."
        yield _found("risk", "default_transaction_read_only", "on", says)


def _disk(settings: Mapping[str, str]) -> Iterator[Finding]:
    fsync = settings.get("fsync", _UNKNOWN)
    if fsync == "off":
        says = "After a crash of the machine any part of the database may be gone or damaged, old events as well."
        yield _found("risk", "fsync", fsync, says)
    else:
        yield _found("ok", "fsync", fsync, "What is committed is on the disk, as far as the disk itself says so.")
    if settings.get("full_page_writes") == "off":
        says = (
            "A power cut in the midst of a write may damage pages that were good, unless the file system prevents it."
        )
        yield _found("risk", "full_page_writes", "off", says)
    elif "full_page_writes" in settings:
        says = "Pages that were half written at a power cut are mended."
        yield _found("ok", "full_page_writes", settings["full_page_writes"], says)
    if settings.get("data_checksums") == "off":
        says = "A page that the disk has damaged is read as if it were good."
        yield _found("note", "data_checksums", "off", says)
    elif "data_checksums" in settings:
        says = "A page that the disk has damaged is an error, and not read as if it were good."
        yield _found("ok", "data_checksums", settings["data_checksums"], says)


def _commits(settings: Mapping[str, str]) -> Iterator[Finding]:
    wait = settings.get("synchronous_commit", _UNKNOWN)
    standbys = settings.get("synchronous_standby_names")
    if wait == "off":
        says = (
            "Appends that returned may be gone after a crash of the server: those of the last 0.6 s, unless it is set."
        )
        yield _found("risk", "synchronous_commit", wait, says)
    else:
        yield _found("ok", "synchronous_commit", wait, "An append that returned is on the disk of this server.")
    if standbys is None:
        return
    if not standbys:
        says = "No standby is waited for: a failover loses what it had not got, and a lost disk what no backup has."
        yield _found("note", "synchronous_standby_names", "none", says)
    elif wait in _REMOTE:
        says = "An append that returned is on a standby, too: a failover to that one loses nothing."
        yield _found("ok", "synchronous_standby_names", standbys, says)
    else:
        says = f"Standbys are named, and with synchronous_commit={wait} none is waited for."
        yield _found("note", "synchronous_standby_names", standbys, says)


def _copies(settings: Mapping[str, str]) -> Iterator[Finding]:
    level = settings.get("wal_level", _UNKNOWN)
    if level == "minimal":
        says = "Neither a standby nor an archive can follow: if the disk is lost, so is all since the last backup."
        yield _found("note", "wal_level", level, says)
        return
    yield _found("ok", "wal_level", level, "Standbys and archives can follow.")
    archive = settings.get("archive_mode")
    if archive == "off":
        says = "Nothing is archived: from a backup the database comes back as it was when that was made, not later."
        yield _found("note", "archive_mode", archive, says)
    elif archive is not None:
        says = "What is written is archived, so that a backup can be brought forward, as far as the archive works."
        yield _found("ok", "archive_mode", archive, says)


def _tables(versions: Mapping[str, int] | None) -> Iterator[Finding]:
    if versions is None:
        says = "No store has used this database and schema yet: there are no events."
        yield Finding(level="note", subject="avx_schema", setting="table", value="none", says=says)
        return
    for tables in (EVENTS, DEAD_LETTERS):
        if tables.component in versions:
            yield version_finding(tables.component, versions[tables.component], newest=len(tables.migrations))


def _found(level: Level, setting: str, value: str, says: str) -> Finding:
    return Finding(level=level, subject="server", setting=setting, value=value, says=says)

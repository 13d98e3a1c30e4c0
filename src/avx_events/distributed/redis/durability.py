"""What the settings of a Redis server mean for events; docs/explanation/brokers.md has the same as a table."""

from collections.abc import Iterator, Mapping
from typing import Final, TypeAlias

from avx_events.bus.remote.inspection import Finding, Level

Texts: TypeAlias = Mapping[str, str]

SETTINGS: Final = (
    "appendonly",
    "appendfsync",
    "save",
    "maxmemory",
    "maxmemory-policy",
    "min-replicas-to-write",
    "min-replicas-max-lag",
)
"""What ``CONFIG GET`` is asked for."""

_OLDEST: Final = 7
_UNKNOWN: Final = "?"

_FSYNCS: Final[Mapping[str, tuple[Level, str]]] = {
    "always": ("ok", "Nothing is lost, also after a power cut: Redis answers when an event is on disk."),
    "everysec": (
        "note",
        "After a power cut the last second may be gone, or two where the disk is slow; after a kill, hardly anything.",
    ),
    "no": (
        "risk",
        "After a power cut what the operating system had not written yet is gone: with Linux half a minute of events.",
    ),
}


def findings_in(settings: Texts | None, info: Texts) -> list[Finding]:
    """Return what follows from the settings of a server.

    Args:
        settings: What ``CONFIG GET`` gave; None where this user may not ask.
        info: What ``INFO`` gave, by field; empty where this user may not ask.
    """
    found = [_version(info)]
    if settings is None:
        says = "This user may not ask for settings: what depends on them is not known. Allow +config|get to see it."
        found.append(_server("note", "CONFIG GET", _UNKNOWN, says))
    if not info:
        says = "This user may not ask for INFO: replicas, failed writes and what else it tells are not known."
        found.append(_server("note", "INFO", _UNKNOWN, says))
    found += _persistence(settings or {}, info)
    found += _memory(settings or {}, info)
    found += _replicas(settings or {}, info)
    found += _troubles(info)
    return found


def _version(info: Texts) -> Finding:
    version = info.get("redis_version", _UNKNOWN)
    major = version.partition(".")[0]
    if not major.isdecimal():
        return _server("note", "version", version, "Which version this is, is not known; buses need Redis 7.")
    if int(major) < _OLDEST:
        return _server("risk", "version", version, "Buses need Redis 7 or newer, and do not work with this one.")
    return _server("ok", "version", version, "Buses work with it.")


def _persistence(settings: Texts, info: Texts) -> Iterator[Finding]:
    is_appending = settings.get("appendonly") or {"1": "yes", "0": "no"}.get(info.get("aof_enabled", ""))
    if is_appending == "no":
        says = "What was accepted since the last snapshot is gone whenever Redis is killed: use appendonly yes."
        yield _server("risk", "appendonly", "no", says)
        yield from _snapshots(settings)
        return
    if is_appending == "yes":
        yield _server("ok", "appendonly", "yes", "Events are written to a file as they are accepted.")
    fsync = settings.get("appendfsync", _UNKNOWN)
    if fsync in _FSYNCS and is_appending == "yes":
        level, says = _FSYNCS[fsync]
        yield _server(level, "appendfsync", fsync, says)


def _snapshots(settings: Texts) -> Iterator[Finding]:
    save = settings.get("save")
    if save is None:
        return
    if save:
        says = "Snapshots alone keep events: what came after the last one, minutes or an hour, is gone at a restart."
    else:
        says = "Nothing is ever written: all events, groups and dead letters are gone at each restart."
    yield _server("risk", "save", save or '""', says)


def _memory(settings: Texts, info: Texts) -> Iterator[Finding]:
    most = settings.get("maxmemory") or info.get("maxmemory")
    policy = settings.get("maxmemory-policy") or info.get("maxmemory_policy")
    if most is None or policy is None:
        return
    if policy.startswith("allkeys-"):
        limit = "as soon as memory is full" if most != "0" else "as soon as somebody sets maxmemory"
        says = f"Whole lanes, with thousands of events, are deleted {limit}, and nobody is told: use noeviction."
        yield _server("risk" if most != "0" else "note", "maxmemory-policy", policy, says)
    elif policy == "noeviction":
        says = "A full Redis deletes nothing: it refuses publishers, who get a TransportUnavailableError."
        yield _server("ok", "maxmemory-policy", policy, says)
    else:
        says = "Only keys that expire are deleted, and none of those that matter here does."
        yield _server("ok", "maxmemory-policy", policy, says)
    if most == "0":
        says = "There is no limit: where events fill the machine's memory, the operating system may kill Redis."
        yield _server("note", "maxmemory", most, says)


def _replicas(settings: Texts, info: Texts) -> Iterator[Finding]:
    if info.get("role") == "slave":
        yield _server("risk", "role", "replica", "It refuses to write: let buses connect to the primary.")
    if info.get("cluster_enabled") == "1":
        yield _server("risk", "cluster-enabled", "yes", "A Redis Cluster is not supported: scripts use several keys.")
    count = info.get("connected_slaves")
    if info.get("role") != "master" or count is None:
        return
    if count == "0":
        says = "There is no replica: who loses this server's disk loses all events, and while it is away all wait."
        yield _server("note", "replicas", count, says)
        return
    says = "Redis replicates after it has answered: a failover loses what had not reached the replica."
    yield _server("note", "replicas", count, says)
    least, lag_s = settings.get("min-replicas-to-write"), settings.get("min-replicas-max-lag", "10")
    if least == "0" or lag_s == "0":
        says = (
            "A primary that was cut off from its replicas goes on accepting events, and they are lost when another "
            "takes its place: use min-replicas-to-write 1."
        )
        yield _server("risk", "min-replicas-to-write", least or _UNKNOWN, says)
    elif least is not None:
        says = f"A primary that has lost touch with its replicas refuses to write within {lag_s} s."
        yield _server("ok", "min-replicas-to-write", least, says)


def _troubles(info: Texts) -> Iterator[Finding]:
    if info.get("loading") == "1":
        says = "Redis loads its data and refuses everybody until that is done; nothing is lost by it."
        yield _server("note", "loading", "1", says)
    if info.get("aof_enabled") == "1" and info.get("aof_last_write_status", "ok") != "ok":
        says = "The last write to the append-only file failed, and Redis refuses publishers until one succeeds."
        yield _server("risk", "aof_last_write_status", info["aof_last_write_status"], says)
    if info.get("aof_last_bgrewrite_status", "ok") != "ok":
        says = "The append-only file could not be rewritten: it grows until the disk is full. See the log of Redis."
        yield _server("risk", "aof_last_bgrewrite_status", info["aof_last_bgrewrite_status"], says)
    if info.get("aof_enabled") == "0" and info.get("rdb_last_bgsave_status", "ok") != "ok":
        says = "The last snapshot failed: what came since the one before is kept in memory alone."
        yield _server("risk", "rdb_last_bgsave_status", info["rdb_last_bgsave_status"], says)


def _server(level: Level, setting: str, value: str, says: str) -> Finding:
    return Finding(level=level, subject="server", setting=setting, value=value, says=says)

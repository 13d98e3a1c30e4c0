"""What the settings of NATS JetStream mean for events; docs/explanation/brokers.md has the same as a table."""

from collections.abc import Iterator
from typing import Final

from avx_events.bus.remote.inspection import Finding, Level
from avx_events.distributed.nats.jetstream import Account, StreamConfig

_NS: Final = 1_000_000_000
_SHORTEST_WINDOW_S: Final = 10.0
_NO_LIMIT: Final = (0, -1)
_UNKNOWN: Final = "?"


def no_jetstream() -> Finding:
    """Return that JetStream does not answer on a server that does."""
    says = "Buses do not work there: it is not enabled, with the option -js, or has no leader now."
    return _found("risk", "server", "jetstream", "no answer", says)


def no_log(name: str) -> Finding:
    """Return that there is no log."""
    says = "No bus has used this namespace yet: there are no events, and no groups."
    return _found("note", name, "stream", "none", says)


def findings_of_account(account: Account) -> list[Finding]:
    """Return what follows from what the account says, and what it does not say."""
    says = (
        "A client cannot see it. Unless the server's configuration says otherwise, up to two minutes of events may be "
        "gone after a power cut; with sync_interval: always none are."
    )
    return [
        _found("ok", "server", "jetstream", "enabled", "The server keeps streams."),
        _found("note", "server", "sync_interval", _UNKNOWN, says),
        _storage_limit(account),
    ]


def findings_of_log(name: str, config: StreamConfig) -> list[Finding]:
    """Return what follows from the settings of the log, which may delete what is old."""
    return [*_kept(name, config), *_age(name, config), *_limits(name, config, level="note"), _window(name, config)]


def findings_of_other(name: str, config: StreamConfig) -> list[Finding]:
    """Return what follows from the settings of a stream of positions or dead letters, which must delete nothing."""
    found = _kept(name, config)
    if config.max_age not in _NO_LIMIT:
        says = "Positions or dead letters that are older are deleted: leave it out."
        found.append(_found("risk", name, "max_age", f"{config.max_age / _NS:g} s", says))
    return [*found, *_limits(name, config, level="risk")]


def _storage_limit(account: Account) -> Finding:
    most = account.limits.max_storage
    if most in _NO_LIMIT:
        says = "The account has no limit of its own; a server whose disk is full refuses publishers, and loses nothing."
        return _found("ok", "account", "max_storage", "none", says)
    says = f"{account.storage} bytes of it are used; when it is full publishers are refused, and nothing is lost."
    return _found("ok", "account", "max_storage", str(most), says)


def _kept(name: str, config: StreamConfig) -> list[Finding]:
    return [_storage(name, config), _replicas(name, config), *_retention(name, config)]


def _storage(name: str, config: StreamConfig) -> Finding:
    if config.storage == "memory":
        return _found("risk", name, "storage", "memory", "Everything in it is gone at each restart of the server.")
    says = "After a kill of the server nothing is gone; after a power cut what it had not synced."
    return _found("ok", name, "storage", config.storage, says)


def _replicas(name: str, config: StreamConfig) -> Finding:
    replicas = str(config.num_replicas)
    if config.num_replicas == 1:
        says = "One server has it: while that one is away all wait, and if its disk is lost everything is."
        return _found("note", name, "num_replicas", replicas, says)
    says = "It outlives the loss of less than half of these servers; in memory of most of them it counts as accepted."
    return _found("ok", name, "num_replicas", replicas, says)


def _retention(name: str, config: StreamConfig) -> Iterator[Finding]:
    if config.retention != "limits":
        says = "Messages are deleted when somebody acknowledged them, though others have not seen them: use limits."
        yield _found("risk", name, "retention", config.retention, says)


def _age(name: str, config: StreamConfig) -> Iterator[Finding]:
    if config.max_age in _NO_LIMIT:
        says = "Nothing is deleted because of its age: the stream grows until another limit, or the disk, is full."
        yield _found("note", name, "max_age", "none", says)
    else:
        says = "What is older is deleted, handled or not: a group that is away for longer loses it."
        yield _found("note", name, "max_age", f"{config.max_age / _NS:g} s", says)


def _limits(name: str, config: StreamConfig, *, level: Level) -> Iterator[Finding]:
    """Give what follows from limits, where there are any; ``level`` is how bad it is that the oldest is deleted."""
    for setting, limit in {"max_msgs": config.max_msgs, "max_bytes": config.max_bytes}.items():
        if limit in _NO_LIMIT:
            continue
        if config.discard == "new":
            says = "A full stream refuses what comes, with a TransportUnavailableError; nothing is lost."
            yield _found("ok", name, setting, str(limit), says)
        else:
            says = "A full stream deletes the oldest, handled or not, to make room (discard: old)."
            yield _found(level, name, setting, str(limit), says)


def _window(name: str, config: StreamConfig) -> Finding:
    window_s = config.duplicate_window / _NS
    if window_s < _SHORTEST_WINDOW_S:
        says = "Less than the 10 s that a bus sends again after a lost connection: such an event may be kept twice."
        return _found("note", name, "duplicate_window", f"{window_s:g} s", says)
    says = "What is published again with its envelope within this time is kept once."
    return _found("ok", name, "duplicate_window", f"{window_s:g} s", says)


def _found(level: Level, subject: str, setting: str, value: str, says: str) -> Finding:
    return Finding(level=level, subject=subject, setting=setting, value=value, says=says)

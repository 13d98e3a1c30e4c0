"""What the settings of Kafka mean for events; docs/explanation/brokers.md has the same as a table."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, TypeAlias

import msgspec

from avx_events.bus.remote.inspection import Finding, Level
from avx_events.distributed.kafka.requests import Copies

Settings: TypeAlias = Mapping[str, str]
Rule: TypeAlias = Callable[[str, Settings], Iterable[Finding]]

OFFSETS: Final = "__consumer_offsets"

_FEW_BROKERS: Final = 3
_NO_LIMIT: Final = "-1"
_NEVER: Final = str(2**63 - 1)
_MS_IN_A_MINUTE: Final = 60_000
_UNKNOWN: Final = "?"


class Topic(msgspec.Struct, frozen=True):
    """A topic as it is.

    Attributes:
        name: What it is called.
        copies: Where its partitions are.
        settings: What it is set to; None where this user may not know.
    """

    name: str
    copies: Sequence[Copies]
    settings: Settings | None


def no_log(name: str) -> Finding:
    """Return that there is no log."""
    says = "No bus has used this namespace yet: there are no events, and no groups."
    return _found("note", name, "topic", "none", says)


def findings_of_cluster(brokers: int) -> list[Finding]:
    """Return what follows from how many brokers there are."""
    if brokers >= _FEW_BROKERS:
        says = "Topics can have three replicas, and outlive one broker without a pause."
        return [_found("ok", "cluster", "brokers", str(brokers), says)]
    says = "A Kafka for events has three: with fewer, what is on a broker that is lost is lost, or all wait for it."
    return [_found("note", "cluster", "brokers", str(brokers), says)]


def findings_of_log(topic: Topic) -> list[Finding]:
    """Return what follows from the settings of the log."""
    return [*_kept(topic), *_set(topic, _policy_of_log, _retention, _timestamps)]


def findings_of_letters(topic: Topic) -> list[Finding]:
    """Return what follows from the settings of the dead letters."""
    return [*_kept(topic), *_set(topic, _policy_of_letters)]


def findings_of_offsets(topic: Topic, broker: Settings | None, log: Topic) -> list[Finding]:
    """Return what follows from how Kafka keeps where groups are.

    Args:
        topic: Kafka's own topic of offsets.
        broker: The settings of a broker; None where this user may not know.
        log: Whose offsets they are.
    """
    found = [*_replicas(topic), *_in_sync(topic)]
    minutes = (broker or {}).get("offsets.retention.minutes")
    if minutes is None:
        says = "This user may not see it: for how long a group without members is remembered is not known."
        return [*found, _found("note", "cluster", "offsets.retention.minutes", _UNKNOWN, says)]
    kept_ms = (log.settings or {}).get("retention.ms")
    if kept_ms is not None and (kept_ms == _NO_LIMIT or int(kept_ms) > int(minutes) * _MS_IN_A_MINUTE):
        says = (
            "Events are kept for longer: a group that has no member for this time is new when it comes back, and with "
            'start="latest" passes by what was published meanwhile.'
        )
        return [*found, _found("note", "cluster", "offsets.retention.minutes", minutes, says)]
    says = "A group without members is remembered for as long as events are kept."
    return [*found, _found("ok", "cluster", "offsets.retention.minutes", minutes, says)]


def _kept(topic: Topic) -> list[Finding]:
    """Return what decides whether what was accepted is there after a broker was lost."""
    found = [*_replicas(topic), *_in_sync(topic)]
    if topic.settings is None:
        says = "This user may not see settings: what else can be lost is not known. Allow DescribeConfigs to see it."
        return [*found, _found("note", topic.name, "settings", _UNKNOWN, says)]
    return [*found, *_least_in_sync(topic, topic.settings), *_election(topic, topic.settings), *_flush(topic)]


def _replicas(topic: Topic) -> Iterator[Finding]:
    least = min((len(copies.replicas) for copies in topic.copies), default=0)
    if least == 1:
        says = "One broker has it: while that one is away all wait, and if its disk is lost everything is."
        yield _found("note", topic.name, "replication.factor", "1", says)
    else:
        says = "So many brokers have it, and another one takes over where its leader is lost."
        yield _found("ok", topic.name, "replication.factor", str(least), says)


def _in_sync(topic: Topic) -> Iterator[Finding]:
    behind = sum(len(copies.in_sync) < len(copies.replicas) for copies in topic.copies)
    leaderless = sum(copies.leader < 0 for copies in topic.copies)
    if leaderless:
        says = "They have no leader now: nothing is read or written there until a broker comes back."
        yield _found("risk", topic.name, "partitions without a leader", str(leaderless), says)
    if behind:
        says = "A replica of them is away or far behind: they outlive fewer losses than they are made for."
        yield _found("risk", topic.name, "partitions out of sync", str(behind), says)


def _least_in_sync(topic: Topic, settings: Settings) -> Iterator[Finding]:
    least = settings.get("min.insync.replicas")
    replicas = min((len(copies.replicas) for copies in topic.copies), default=0)
    if least is None or (least == "1" and replicas <= 1):
        return
    level: Level = "ok"
    says = "An event is accepted when so many brokers have it; where fewer are in sync, Kafka refuses publishers."
    if least == "1":
        level = "risk"
        says = "What is accepted while one replica alone is in sync is gone if that one is lost: use 2."
    elif int(least) > replicas:
        level = "risk"
        says = "There are not so many replicas: nothing can be published."
    elif int(least) == replicas:
        level = "note"
        says = "As many as there are replicas: nothing accepted is lost, and nobody can publish while one is away."
    yield _found(level, topic.name, "min.insync.replicas", least, says)


def _election(topic: Topic, settings: Settings) -> Iterator[Finding]:
    setting = "unclean.leader.election.enable"
    if settings.get(setting) == "true":
        says = "A replica that is far behind may become the leader: what it did not have is lost."
        yield _found("risk", topic.name, setting, "true", says)
    elif settings.get(setting) == "false":
        yield _found("ok", topic.name, setting, "false", "Only a replica that has everything becomes the leader.")


def _flush(topic: Topic) -> Iterator[Finding]:
    settings = topic.settings or {}
    messages, ms = settings.get("flush.messages", _NEVER), settings.get("flush.ms", _NEVER)
    if messages == "1":
        says = "Nothing is lost, also after a power cut: Kafka answers when an event is on disk."
        yield _found("ok", topic.name, "flush.messages", messages, says)
    elif ms != _NEVER:
        says = "So many milliseconds of events may be gone where all replicas lose power at once."
        yield _found("note", topic.name, "flush.ms", ms, says)
    else:
        says = (
            "The operating system decides when events are on disk: where all replicas lose power at once, with Linux "
            "half a minute of them may be gone. After a kill of Kafka alone, nothing."
        )
        yield _found("note", topic.name, "flush.messages", "none" if messages == _NEVER else messages, says)


def _set(topic: Topic, *rules: Rule) -> list[Finding]:
    settings = topic.settings or {}
    return [finding for rule in rules for finding in rule(topic.name, settings)]


def _policy_of_log(name: str, settings: Settings) -> Iterator[Finding]:
    policy = settings.get("cleanup.policy")
    if policy is not None and "compact" in policy:
        says = "All events of a key but the last one are deleted, once Kafka gets to it: use delete."
        yield _found("risk", name, "cleanup.policy", policy, says)
    elif policy is not None:
        yield _found("ok", name, "cleanup.policy", policy, "Only what is past its time is deleted.")


def _policy_of_letters(name: str, settings: Settings) -> Iterator[Finding]:
    policy = settings.get("cleanup.policy")
    if policy == "compact":
        yield _found("ok", name, "cleanup.policy", policy, "Dead letters stay until somebody removes them.")
    elif policy is not None:
        yield _found("risk", name, "cleanup.policy", policy, "Dead letters vanish with their age: use compact.")


def _retention(name: str, settings: Settings) -> Iterator[Finding]:
    for setting in ("retention.ms", "retention.bytes"):
        limit = settings.get(setting)
        if limit is not None and limit != _NO_LIMIT:
            says = "What is past it is deleted, handled or not: a group that is away for longer loses it."
            yield _found("note", name, setting, limit, says)
    if settings.get("retention.ms") == _NO_LIMIT and settings.get("retention.bytes") == _NO_LIMIT:
        says = "Nothing is ever deleted: the log grows until the disk is full."
        yield _found("note", name, "retention.ms", _NO_LIMIT, says)


def _timestamps(name: str, settings: Settings) -> Iterator[Finding]:
    kind = settings.get("message.timestamp.type")
    if kind == "CreateTime":
        says = "A publisher's clock tells the age of its events: one that is slow has them deleted too early."
        yield _found("note", name, "message.timestamp.type", kind, says)
    elif kind is not None:
        yield _found("ok", name, "message.timestamp.type", kind, "The broker's clock tells the age of events.")


def _found(level: Level, subject: str, setting: str, value: str, says: str) -> Finding:
    return Finding(level=level, subject=subject, setting=setting, value=value, says=says)

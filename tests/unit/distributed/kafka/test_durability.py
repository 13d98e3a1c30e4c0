"""What follows from the settings of clusters that the tests have none of: several brokers, some of them away."""

from collections.abc import Mapping, Sequence

import pytest

from avx_events import Finding
from avx_events.distributed.kafka.durability import (
    OFFSETS,
    Topic,
    findings_of_cluster,
    findings_of_letters,
    findings_of_log,
    findings_of_offsets,
)
from avx_events.distributed.kafka.requests import Copies

SOUND = Copies(leader=1, replicas=(1, 2, 3), in_sync=(1, 2, 3))
SAFE = {"min.insync.replicas": "2", "unclean.leader.election.enable": "false", "cleanup.policy": "delete"}


def found(findings: Sequence[Finding]) -> Mapping[str, tuple[str, str]]:
    return {finding.setting: (finding.value, finding.level) for finding in findings}


def a_log(*copies: Copies, **settings: str) -> Topic:
    given = {name.replace("_", "."): value for name, value in settings.items()}
    return Topic("avx.log", copies or (SOUND,), SAFE | given)


@pytest.mark.parametrize(("brokers", "level"), [(1, "note"), (2, "note"), (3, "ok"), (9, "ok")])
def test_three_brokers_are_enough(brokers: int, level: str) -> None:
    assert found(findings_of_cluster(brokers)) == {"brokers": (str(brokers), level)}


@pytest.mark.parametrize(
    ("replicas", "least", "level"),
    [(3, "1", "risk"), (3, "2", "ok"), (3, "3", "note"), (3, "4", "risk"), (2, "2", "note")],
)
def test_how_many_must_be_in_sync_depends_on_how_many_there_are(replicas: int, least: str, level: str) -> None:
    nodes = tuple(range(replicas))

    log = a_log(Copies(0, nodes, nodes), min_insync_replicas=least)

    assert found(findings_of_log(log))["min.insync.replicas"] == (least, level)


def test_one_replica_alone_is_not_told_twice() -> None:
    findings = found(findings_of_log(a_log(Copies(1, (1,), (1,)), min_insync_replicas="1")))

    assert findings["replication.factor"] == ("1", "note")
    assert "min.insync.replicas" not in findings


def test_the_partition_with_the_fewest_replicas_counts_and_those_that_are_behind_are_counted() -> None:
    behind, leaderless = Copies(1, (1, 2), (1,)), Copies(-1, (1, 2, 3), ())

    findings = found(findings_of_log(a_log(SOUND, behind, leaderless)))

    assert findings["replication.factor"] == ("2", "ok")
    assert findings["partitions out of sync"] == ("2", "risk")
    assert findings["partitions without a leader"] == ("1", "risk")


def test_all_in_sync_is_nothing_to_tell() -> None:
    assert not [finding for finding in findings_of_log(a_log()) if finding.setting.startswith("partitions")]


@pytest.mark.parametrize(
    ("settings", "setting", "expected"),
    [
        ({"flush_messages": "1"}, "flush.messages", ("1", "ok")),
        ({"flush_messages": "1000"}, "flush.messages", ("1000", "note")),
        ({"flush_ms": "200"}, "flush.ms", ("200", "note")),
        ({"cleanup_policy": "compact,delete"}, "cleanup.policy", ("compact,delete", "risk")),
        ({"retention_bytes": "1000", "retention_ms": "-1"}, "retention.bytes", ("1000", "note")),
        ({"message_timestamp_type": "CreateTime"}, "message.timestamp.type", ("CreateTime", "note")),
    ],
)
def test_the_log_is_as_its_settings_say(settings: dict[str, str], setting: str, expected: tuple[str, str]) -> None:
    assert found(findings_of_log(a_log(**settings)))[setting] == expected


def test_settings_that_a_user_may_not_see_are_not_guessed() -> None:
    findings = found(findings_of_log(Topic("avx.log", [SOUND], None)))

    assert findings == {"replication.factor": ("3", "ok"), "settings": ("?", "note")}


@pytest.mark.parametrize(("policy", "level"), [("compact", "ok"), ("delete", "risk"), ("compact,delete", "risk")])
def test_dead_letters_stay_only_where_their_topic_is_compacted(policy: str, level: str) -> None:
    letters = Topic("avx.letters", [SOUND], {"cleanup.policy": policy})

    assert found(findings_of_letters(letters))["cleanup.policy"] == (policy, level)


@pytest.mark.parametrize(
    ("retention_ms", "minutes", "level"),
    [("604800000", "10080", "ok"), ("604800001", "10080", "note"), ("-1", "10080", "note"), ("1000", "10080", "ok")],
)
def test_groups_must_be_remembered_for_as_long_as_events(retention_ms: str, minutes: str, level: str) -> None:
    log = a_log(retention_ms=retention_ms)

    findings = findings_of_offsets(Topic(OFFSETS, [SOUND], None), {"offsets.retention.minutes": minutes}, log)

    assert found(findings)["offsets.retention.minutes"] == (minutes, level)


def test_how_long_groups_are_remembered_may_be_hidden() -> None:
    findings = findings_of_offsets(Topic(OFFSETS, [SOUND], None), None, a_log())

    assert found(findings)["offsets.retention.minutes"] == ("?", "note")

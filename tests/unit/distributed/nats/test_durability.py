"""What follows from settings of JetStream's streams."""

from collections.abc import Mapping, Sequence

import pytest

from avx_events import Finding
from avx_events.distributed.nats.durability import findings_of_account, findings_of_log, findings_of_other
from avx_events.distributed.nats.jetstream import Account, AccountLimits, StreamConfig

NS = 1_000_000_000


def found(findings: Sequence[Finding]) -> Mapping[str, tuple[str, str]]:
    return {finding.setting: (finding.value, finding.level) for finding in findings}


def test_replicas_of_a_log_outlive_one_of_its_servers() -> None:
    assert found(findings_of_log("avx", StreamConfig(num_replicas=3)))["num_replicas"] == ("3", "ok")


def test_a_log_may_delete_what_is_old_and_positions_and_letters_may_not() -> None:
    config = StreamConfig(max_age=60 * NS, max_msgs=100, max_bytes=1000)

    log, letters = found(findings_of_log("avx", config)), found(findings_of_other("avx-letters", config))

    assert (log["max_age"], letters["max_age"]) == (("60 s", "note"), ("60 s", "risk"))
    assert (log["max_msgs"], letters["max_msgs"]) == (("100", "note"), ("100", "risk"))
    assert (log["max_bytes"], letters["max_bytes"]) == (("1000", "note"), ("1000", "risk"))


def test_a_full_stream_that_refuses_loses_nothing() -> None:
    assert found(findings_of_log("avx", StreamConfig(max_msgs=100, discard="new")))["max_msgs"] == ("100", "ok")


@pytest.mark.parametrize("retention", ["workqueue", "interest"])
def test_a_stream_that_deletes_what_one_has_acknowledged_is_a_risk(retention: str) -> None:
    assert found(findings_of_log("avx", StreamConfig(retention=retention)))["retention"] == (retention, "risk")


def test_a_limit_of_the_account_refuses_and_loses_nothing() -> None:
    limited = found(findings_of_account(Account(storage=10, limits=AccountLimits(max_storage=1000))))

    assert limited["max_storage"] == ("1000", "ok")
    assert found(findings_of_account(Account()))["max_storage"] == ("none", "ok")

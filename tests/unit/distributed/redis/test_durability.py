"""What follows from settings and states of Redis that are not easily brought about."""

from collections.abc import Mapping, Sequence

import pytest

from avx_events import Finding
from avx_events.distributed.redis.durability import findings_in

SAFE = {
    "appendonly": "yes",
    "appendfsync": "always",
    "save": "",
    "maxmemory": "1000000",
    "maxmemory-policy": "noeviction",
    "min-replicas-to-write": "1",
    "min-replicas-max-lag": "10",
}
INFO = {"redis_version": "7.2.4", "role": "master", "connected_slaves": "1", "aof_enabled": "1"}


def found(findings: Sequence[Finding]) -> Mapping[str, tuple[str, str]]:
    return {finding.setting: (finding.value, finding.level) for finding in findings}


def test_a_server_that_is_set_up_well_is_no_risk() -> None:
    findings = findings_in(SAFE, INFO)

    assert {finding.level for finding in findings} == {"ok", "note"}
    assert [finding.setting for finding in findings if finding.level == "note"] == ["replicas"]


@pytest.mark.parametrize(
    ("settings", "setting", "expected"),
    [
        ({"maxmemory": "0", "maxmemory-policy": "allkeys-lfu"}, "maxmemory-policy", ("allkeys-lfu", "note")),
        ({"maxmemory": "0"}, "maxmemory", ("0", "note")),
        ({"maxmemory-policy": "volatile-ttl"}, "maxmemory-policy", ("volatile-ttl", "ok")),
        ({"min-replicas-max-lag": "0"}, "min-replicas-to-write", ("1", "risk")),
    ],
)
def test_a_setting_decides(settings: dict[str, str], setting: str, expected: tuple[str, str]) -> None:
    assert found(findings_in(SAFE | settings, INFO))[setting] == expected


@pytest.mark.parametrize(
    ("info", "setting", "expected"),
    [
        ({"redis_version": "6.2.1"}, "version", ("6.2.1", "risk")),
        ({"cluster_enabled": "1"}, "cluster-enabled", ("yes", "risk")),
        ({"loading": "1"}, "loading", ("1", "note")),
        ({"aof_last_write_status": "err"}, "aof_last_write_status", ("err", "risk")),
        ({"aof_last_bgrewrite_status": "err"}, "aof_last_bgrewrite_status", ("err", "risk")),
        ({"aof_enabled": "0", "rdb_last_bgsave_status": "err"}, "rdb_last_bgsave_status", ("err", "risk")),
    ],
)
def test_a_state_is_told(info: dict[str, str], setting: str, expected: tuple[str, str]) -> None:
    assert found(findings_in(SAFE, INFO | info))[setting] == expected


def test_what_nobody_tells_is_not_guessed() -> None:
    assert found(findings_in(None, {})) == {
        "version": ("?", "note"),
        "CONFIG GET": ("?", "note"),
        "INFO": ("?", "note"),
    }

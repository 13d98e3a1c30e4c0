"""How an inspector finds what looks, and what it refuses."""

import sys
from typing import Any

import pytest

from avx_events import ClosedError, Inspector, InvalidArgumentError, MissingExtraError, UnknownSchemeError
from avx_events.bus.remote.inspection import Finding, GroupStatus

FOUND = Finding(level="ok", subject="server", setting="version", value="7", says="Buses work with it.")
GROUP = GroupStatus(group="billing", handler="invoice", members=(), lag_events=1, lag_seconds=0.5, in_flight=None)


class Looking:
    """What looks at nothing, and tells how often it was closed."""

    name = "nowhere://"
    closed = 0

    async def groups(self) -> list[GroupStatus]:
        return [GROUP]

    async def findings(self) -> list[Finding]:
        return [FOUND]

    async def close(self) -> None:
        self.closed += 1


async def test_an_inspector_tells_what_is_seen_and_closes_what_looks() -> None:
    looking = Looking()

    async with Inspector(looking) as inspector:
        assert inspector.name == "nowhere://"
        assert (await inspector.groups(), await inspector.findings()) == ([GROUP], [FOUND])

    assert looking.closed == 1
    with pytest.raises(ClosedError, match="the inspector is closed: cannot tell of groups"):
        await inspector.groups()


async def test_a_scheme_that_nothing_serves_is_named_with_those_that_are_served() -> None:
    with pytest.raises(UnknownSchemeError, match="redis://") as caught:
        await Inspector.connect("rabbit://localhost")

    assert {"redis", "nats", "kafka", "postgresql", "sqlite"} <= set(caught.value.installed)


@pytest.mark.parametrize(
    ("url", "options", "name"),
    [
        ("localhost:6379", {}, "url"),
        (6379, {}, "url"),
        ("redis://localhost", {"namespace": "no dots."}, "namespace"),
        ("redis://localhost", {"timeout_s": 0}, "timeout_s"),
        ("redis://", {}, "url"),
        ("redis://localhost", {"colour": "red"}, "url"),
        ("kafka://localhost", {"colour": "red"}, "url"),
    ],
)
async def test_what_nobody_could_look_at_is_refused(url: str, options: dict[str, Any], name: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        await Inspector.connect(url, **options)

    assert caught.value.name == name


@pytest.mark.parametrize(
    ("url", "library", "extra"),
    [
        ("redis://localhost", "redis", "redis"),
        ("nats://localhost", "nats", "nats"),
        ("kafka://localhost", "kafka", "kafka"),
    ],
)
async def test_a_client_library_that_is_missing_is_named_by_its_extra(
    url: str, library: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, f"avx_events.distributed.{library}.inspection", None)

    with pytest.raises(MissingExtraError) as caught:
        await Inspector.connect(url)

    assert f"Inspector.connect needs the {extra} extra" in str(caught.value)

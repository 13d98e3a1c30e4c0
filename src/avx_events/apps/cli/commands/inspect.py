"""``groups`` and ``doctor``: what a broker or database says of itself."""

import msgspec
from cyclopts import App

from avx_events.apps.cli.opening import refuse_missing_file
from avx_events.apps.cli.output import AsJson, Document, print_json, print_rows
from avx_events.bus.remote.inspection import GroupStatus, Inspector

_GROUPS = ("group", "handler", "members", "lanes", "lag_events", "lag_seconds", "in_flight")
_FINDINGS = ("level", "subject", "setting", "value", "says")


def add_to(app: App) -> None:
    """Add the commands."""
    app.command(groups)
    app.command(doctor)


async def groups(url: str, /, *, namespace: str = "avx", timeout_s: float = 5.0, json: AsJson = False) -> None:
    """List the handlers of all groups: who runs each, and how far it is behind.

    Args:
        url: The broker.
        namespace: The namespace of the buses.
        timeout_s: How many seconds the broker may take.
        json: Print one object a line.
    """
    async with await Inspector.connect(url, namespace=namespace, timeout_s=timeout_s) as inspector:
        found = await inspector.groups()
    if json:
        for group in found:
            print_json(group)
        return
    print_rows(_GROUPS, map(_row, found), as_json=False, nothing="no groups")


async def doctor(url: str, /, *, namespace: str = "avx", timeout_s: float = 5.0, json: AsJson = False) -> int:
    """Say what can be lost at a broker or database as it is set up now; exit code 1 where there is a risk.

    Nothing is changed by it.

    Args:
        url: The broker or store.
        namespace: Of a broker: the namespace of the buses.
        timeout_s: How many seconds it may take to answer.
        json: Print one object a line.
    """
    refuse_missing_file(url)
    async with await Inspector.connect(url, namespace=namespace, timeout_s=timeout_s) as inspector:
        findings = await inspector.findings()
    rows = [msgspec.structs.asdict(finding) for finding in findings]
    print_rows(_FINDINGS, rows, as_json=json, nothing="nothing was found")
    return 1 if any(finding.level == "risk" for finding in findings) else 0


def _row(group: GroupStatus) -> Document:
    lanes = sorted(lane for member in group.members for lane in member.lanes)
    return msgspec.structs.asdict(group) | {"members": len(group.members), "lanes": len(lanes)}

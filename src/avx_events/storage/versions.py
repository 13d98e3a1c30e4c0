"""What the version of a component's tables says to who looks at a database."""

from avx_events.bus.remote.inspection import Finding, Level


def version_finding(component: str, version: int, *, newest: int) -> Finding:
    """Return what it means that the tables of ``component`` are at ``version``, where this program knows ``newest``."""
    level: Level = "ok"
    says = "It is the version of this program."
    if version > newest:
        level = "risk"
        says = f"This program knows {newest} and refuses it: upgrade avx-events."
    elif version < newest:
        level = "note"
        says = f"The next program that opens it brings it to version {newest}."
    return Finding(level=level, subject="avx_schema", setting=component, value=str(version), says=says)

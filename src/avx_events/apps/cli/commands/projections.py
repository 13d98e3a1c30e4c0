"""``projections``: how far the read models of a store are."""

from contextlib import aclosing
from datetime import UTC, datetime

from cyclopts import App

from avx_events.apps.cli.opening import opened_store
from avx_events.apps.cli.output import AsJson, Document, print_fields, print_rows
from avx_events.core.errors import InvalidArgumentError
from avx_events.store.event_store import EventStore

_COLUMNS = ("name", "version", "stage", "position", "lag_events", "lag_seconds")
# Where no projector was ever entered there is no table of theirs.
_IS_THERE = "SELECT version FROM avx_schema WHERE component = 'projections'"
_ALL = "SELECT name, version, position, stage FROM avx_projections ORDER BY name, version"
_LETTERS = "SELECT name, version, count(*) FROM avx_projection_letters GROUP BY name, version"


def add_to(app: App) -> None:
    """Add the commands."""
    group = App(name="projections", help="See how far the read models of a store are.")
    group.command(list_projections, name="list")
    group.command(status)
    app.command(group)


async def list_projections(url: str, /, *, json: AsJson = False) -> None:
    """List the projections of a store: each version, its stage, and how far it is behind the log.

    A version is 'building' until it has come to the end of the log for the first time, 'beside' while it is built next
    to the one that is read, then 'live'.

    Args:
        url: The store.
        json: Print one object a line.
    """
    async with opened_store(url) as store:
        documents = await _projections(store)
    print_rows(_COLUMNS, documents, as_json=json, nothing="no projections")


async def status(url: str, name: str, /, *, json: AsJson = False) -> int:
    """Show how far one projection is; exit code 1 where none of its versions is live.

    Args:
        url: The store.
        name: The projection's name.
        json: Print one document for each version.
    """
    async with opened_store(url) as store:
        known = await _projections(store)
    found = [document for document in known if document["name"] == name]
    if not found:
        names = ", ".join(sorted({document["name"] for document in known})) or "none"
        raise InvalidArgumentError("name", name, expected=f"the name of a projection of this store; there are: {names}")
    for document in found:
        print_fields(document, as_json=json)
    return 0 if any(document["stage"] == "live" for document in found) else 1


async def _projections(store: EventStore) -> list[Document]:
    if await store.fetch_one(_IS_THERE) is None:
        return []
    last = await store.last_position()
    letters = {(name, version): count for name, version, count in await store.fetch(_LETTERS)}
    rows = await store.fetch(_ALL)
    return [
        {
            "name": name,
            "version": version,
            "stage": stage,
            "position": position,
            "last_position": last,
            "lag_events": max(last - position, 0),
            "lag_seconds": await _age_after(store, position),
            "dead_letters": letters.get((name, version), 0),
        }
        for name, version, position, stage in rows
    ]


async def _age_after(store: EventStore, position: int) -> float:
    """Return for how many seconds there has been an event after ``position``; 0.0 where there is none."""
    async with aclosing(store.read_all(after=position)) as events:
        stored = await anext(events, None)
    return 0.0 if stored is None else max((datetime.now(UTC) - stored.recorded_at).total_seconds(), 0.0)

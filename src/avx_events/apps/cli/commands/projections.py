"""``projections``: how far the read models of a store are, and whether they go on."""

from contextlib import aclosing
from datetime import UTC, datetime

from cyclopts import App

from avx_events.apps.cli.opening import opened_store
from avx_events.apps.cli.output import AsJson, Document, print_fields, print_line, print_rows
from avx_events.core.errors import InvalidArgumentError
from avx_events.patterns.projection.checkpoints import MIGRATIONS, set_paused
from avx_events.patterns.tables import prepare
from avx_events.store.event_store import EventStore

_COLUMNS = ("name", "version", "stage", "paused", "position", "lag_events", "lag_seconds")
# Where no projector was ever entered there is no table of theirs.
_IS_THERE = "SELECT version FROM avx_schema WHERE component = 'projections'"
_ALL = "SELECT name, version, position, stage, {paused} FROM avx_projections ORDER BY name, version"
_KNOWS_PAUSES = 3
_LETTERS = "SELECT name, version, count(*) FROM avx_projection_letters GROUP BY name, version"


def add_to(app: App) -> None:
    """Add the commands."""
    group = App(name="projections", help="See how far the read models of a store are, pause and resume them.")
    group.command(list_projections, name="list")
    group.command(status)
    group.command(pause)
    group.command(resume)
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
        raise _unknown(name, {document["name"] for document in known})
    for document in found:
        print_fields(document, as_json=json)
    return 0 if any(document["stage"] == "live" for document in found) else 1


async def pause(url: str, name: str, /) -> None:
    """Pause a projection: no projector of any process handles events for it until it is resumed, across restarts too.

    A transaction that has begun is finished first. Its tables are read as they are; the log goes on.

    Args:
        url: The store.
        name: The projection's name.
    """
    await _set_paused(url, name, is_paused=True)
    print_line(f"paused {name}")


async def resume(url: str, name: str, /) -> None:
    """Let a projection that was paused go on where it is; running projectors do so within a second.

    Args:
        url: The store.
        name: The projection's name.
    """
    await _set_paused(url, name, is_paused=False)
    print_line(f"resumed {name}")


async def _set_paused(url: str, name: str, *, is_paused: bool) -> None:
    async with opened_store(url) as store:
        names = {document["name"] for document in await _projections(store)}
        if name not in names:
            raise _unknown(name, names)
        async with store.transaction() as connection:
            await prepare(connection, "projections", MIGRATIONS)
            await set_paused(connection, name, is_paused=is_paused)


def _unknown(name: str, names: set[str]) -> InvalidArgumentError:
    known = ", ".join(sorted(names)) or "none"
    return InvalidArgumentError("name", name, expected=f"the name of a projection of this store; there are: {known}")


async def _projections(store: EventStore) -> list[Document]:
    schema = await store.fetch_one(_IS_THERE)
    if schema is None:
        return []
    paused = "paused" if schema[0] >= _KNOWS_PAUSES else "0"  # looking brings no table forward
    last = await store.last_position()
    letters = {(name, version): count for name, version, count in await store.fetch(_LETTERS)}
    rows = await store.fetch(_ALL.format(paused=paused))
    return [
        {
            "name": name,
            "version": version,
            "stage": stage,
            "paused": bool(is_paused),
            "position": position,
            "last_position": last,
            "lag_events": max(last - position, 0),
            "lag_seconds": await _age_after(store, position),
            "dead_letters": letters.get((name, version), 0),
        }
        for name, version, position, stage, is_paused in rows
    ]


async def _age_after(store: EventStore, position: int) -> float:
    """Return for how many seconds there has been an event after ``position``; 0.0 where there is none."""
    async with aclosing(store.read_all(after=position)) as events:
        stored = await anext(events, None)
    return 0.0 if stored is None else max((datetime.now(UTC) - stored.recorded_at).total_seconds(), 0.0)

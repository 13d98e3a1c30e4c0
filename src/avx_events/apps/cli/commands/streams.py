"""``streams`` and ``show``: which streams a store has, and what is in one."""

from contextlib import nullcontext
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec
from cyclopts import App

from avx_events.apps.cli.application import aggregate_class
from avx_events.apps.cli.application_code import application_code
from avx_events.apps.cli.documents import document_of, instant
from avx_events.apps.cli.opening import opened_store
from avx_events.apps.cli.output import AsJson, note, print_json, print_line, print_rows
from avx_events.core.errors import InvalidArgumentError

if TYPE_CHECKING:
    from avx_events.store.event_store import EventStore
    from avx_events.store.history import HistoryEntry

_COLUMNS = ("name", "version", "last_position", "last_recorded_at")


def add_to(app: App) -> None:
    """Add the commands."""
    app.command(streams)
    app.command(show)


async def streams(
    url: str, prefix: str = "", /, *, after: str = "", limit: int | None = None, json: AsJson = False
) -> None:
    """List the streams of a store by name, each with its version, and the place and instant of its last event.

    Args:
        url: The store.
        prefix: What the names begin with.
        after: Begin after this name.
        limit: At most so many.
        json: Print one object a line.
    """
    async with opened_store(url) as store:
        found = store.streams(prefix, after=after, limit=limit)
        if json:  # as they come, however many there are
            async for stream in found:
                print_json(stream)
            return
        documents = [msgspec.structs.asdict(stream) async for stream in found]
    print_rows(_COLUMNS, documents, as_json=False, nothing="no streams")


async def show(
    url: str,
    stream: str,
    /,
    *,
    at_version: int | None = None,
    as_of: str | None = None,
    aggregate: str | None = None,
    json: AsJson = False,
) -> None:
    """Show the history of a stream: what happened, who did it, when and why.

    Args:
        url: The store.
        stream: The name of the stream.
        at_version: The last version wanted.
        as_of: The last instant wanted, as 2026-01-31T12:00:00Z.
        aggregate: A class, as 'shop.orders:Order': show what each event changed in it.
        json: Print one object a line.
    """
    until = instant("--as-of", as_of)
    if at_version is not None and until is not None:
        raise InvalidArgumentError("--as-of", as_of, expected="left out where there is --at-version")
    chosen = None if aggregate is None else aggregate_class(aggregate)
    async with opened_store(url) as store:
        last = 0
        history: Any = store.history(stream, aggregate=chosen, at_version=at_version, as_of=until)
        with nullcontext() if aggregate is None else application_code(aggregate):
            async for entry in history:
                last = entry.version
                if json:
                    print_json(_document(entry))
                else:
                    print_line(str(entry))
        if last == 0 or last < (at_version or 0):
            await _say_what_is_there(store, stream, until)


async def _say_what_is_there(store: "EventStore", stream: str, until: datetime | None) -> None:
    """Say why there is less than was asked for.

    Raises:
        InvalidArgumentError: There is no such stream.
    """
    newest = await store.version_of(stream)
    if not newest:
        expected = "the name of a stream of this store ('avx-events streams URL' lists them)"
        raise InvalidArgumentError("stream", stream, expected=expected)
    if until is None:
        note(f"stream {stream} is at version {newest}")
        return
    async for first in store.read_stream(stream, until_version=1):
        note(f"stream {stream} began at {first.recorded_at.isoformat()}")


def _document(entry: "HistoryEntry[Any]") -> dict[str, Any]:
    document = document_of(entry.stored)
    if entry.state is None:
        return document
    changes = {name: {"before": change.before, "after": change.after} for name, change in entry.changes.items()}
    return document | {"state": _plain(entry.state), "changes": _plain(changes)}


def _plain(value: object) -> object:
    return msgspec.to_builtins(value, enc_hook=repr)

"""``replay``: a range of the log once more, without an effect on what is live."""

from contextlib import AsyncExitStack
from typing import Any

import msgspec
from cyclopts import App

from avx_events.apps.cli.application import is_class_of, loaded
from avx_events.apps.cli.application_code import application_code
from avx_events.apps.cli.documents import instant
from avx_events.apps.cli.opening import opened_store
from avx_events.apps.cli.output import AsJson, print_fields, progress
from avx_events.core.errors import InvalidArgumentError
from avx_events.patterns.projection import Projection
from avx_events.patterns.replay import replay as replay_log
from avx_events.store.event_store import EventStore


def add_to(app: App) -> None:
    """Add the command."""
    app.command(replay)


async def replay(
    url: str,
    /,
    *,
    into: str,
    scratch: str = "sqlite://",
    after: int = 0,
    until: int | None = None,
    as_of: str | None = None,
    types: list[str] | None = None,
    stream_prefix: str = "",
    speed: float | None = None,
    json: AsJson = False,
) -> None:
    """Give a range of the log to a handler or a projection once more; nothing that is live is touched.

    What the code would publish, append or dispatch is an error. A projection makes its tables in a scratch store.

    Args:
        url: The store.
        into: A function that takes an event, or a Projection class, as 'shop.views:OrderTotals'.
        scratch: Where a projection makes its tables: a new store, in memory if not given, which is gone then.
        after: Begin after this position.
        until: The last position wanted.
        as_of: The last instant wanted, as 2026-01-31T12:00:00Z.
        types: Only events of this type; may be given several times.
        stream_prefix: Only streams whose names begin so.
        speed: How many times as fast as it was recorded; as fast as it goes if not given.
        json: Print one document.
    """
    target = _target(into)
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(opened_store(url))
        aside = await stack.enter_async_context(await EventStore.connect(scratch)) if _is_projection(target) else None
        end = await store.last_position()
        end = end if until is None else min(end, until)
        reached = after
        with application_code(into), progress("replaying", max(end - after, 0)) as step:

            def go_on(position: int) -> None:
                nonlocal reached
                step(position - reached)
                reached = position

            report = await replay_log(
                store,
                target,
                into=aside,
                after=after,
                until=until,
                as_of=instant("as-of", as_of),
                types=types or None,
                stream_prefix=stream_prefix,
                speed=speed,
                on_progress=go_on,
            )
    print_fields(msgspec.structs.asdict(report), as_json=json)


def _target(place: str) -> Any:
    found = loaded("--into", place)
    if is_class_of(Projection, found):
        with application_code(place):
            found = found()
    if not callable(found) and not _is_projection(found):
        raise InvalidArgumentError("--into", place, expected="the place of a function, or of a Projection class")
    return found


def _is_projection(target: object) -> bool:
    return isinstance(target, Projection)

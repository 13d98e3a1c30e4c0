"""``projections``: how far the read models of a store are, and whether they go on or are built anew."""

import asyncio

import msgspec
from cyclopts import App

from avx_events.apps.cli.asking import Yes, is_confirmed
from avx_events.apps.cli.opening import opened_store
from avx_events.apps.cli.output import AsJson, note, print_fields, print_line, print_rows, progress
from avx_events.core import arguments
from avx_events.patterns.projection.overview import Overview

_COLUMNS = ("name", "version", "stage", "paused", "position", "lag_events", "lag_seconds")
_LOOK_S = 0.1
_DONE, _FAILED = 0, 1


def add_to(app: App) -> None:
    """Add the commands."""
    group = App(name="projections", help="See how far the read models of a store are; pause, resume and rebuild them.")
    group.command(list_projections, name="list")
    for command in (status, pause, resume, rebuild):
        group.command(command)
    app.command(group)


async def list_projections(url: str, /, *, json: AsJson = False) -> None:
    """List the projections of a store: each version, its stage, and how far it is behind the log.

    A version is 'building' until it has come to the end of the log for the first time, 'beside' while it is built next
    to the one that is read, then 'live'. Version 0 is one that is to be built anew, as it was: what is read until then.

    Args:
        url: The store.
        json: Print one object a line.
    """
    async with opened_store(url) as store:
        documents = [msgspec.structs.asdict(each) for each in await Overview(store).versions()]
    print_rows(_COLUMNS, documents, as_json=json, nothing="no projections")


async def status(url: str, name: str, /, *, json: AsJson = False) -> int:
    """Show how far one projection is; exit code 1 where none of its versions is live.

    Args:
        url: The store.
        name: The projection's name.
        json: Print one document for each version.
    """
    async with opened_store(url) as store:
        found = await Overview(store).of(name)
    for each in found:
        print_fields(msgspec.structs.asdict(each), as_json=json)
    return _DONE if any(each.stage == "live" for each in found) else _FAILED


async def pause(url: str, name: str, /) -> None:
    """Pause a projection: no projector of any process handles events for it until it is resumed, across restarts too.

    A transaction that has begun is finished first. Its tables are read as they are; the log goes on.

    Args:
        url: The store.
        name: The projection's name.
    """
    async with opened_store(url) as store:
        await Overview(store).pause(name)
    print_line(f"paused {name}")


async def resume(url: str, name: str, /) -> None:
    """Let a projection that was paused go on where it is; running projectors do so within a second.

    Args:
        url: The store.
        name: The projection's name.
    """
    async with opened_store(url) as store:
        await Overview(store).resume(name)
    print_line(f"resumed {name}")


async def rebuild(
    url: str, name: str, /, *, wait: bool = False, timeout_s: float | None = None, yes: Yes = False
) -> int:
    """Build a projection again, from the first event, by the processes that run it; they begin within a second.

    What is read stays as it was until all is built, and takes no new events meanwhile. A projection that does not name
    its tables is built in place: it is incomplete until then. Where no process runs it, the next one that starts does.

    Args:
        url: The store.
        name: The projection's name.
        wait: Return when it is built and live; Ctrl-C ends the waiting, not the building.
        timeout_s: With --wait, the longest wait in seconds, after which the exit code is 1; for ever if not given.
        yes: Do not ask.
    """
    if timeout_s is not None:
        arguments.seconds("--timeout-s", timeout_s)
    async with opened_store(url) as store:
        overview = Overview(store)
        before = (await overview.of(name))[-1]
        if not is_confirmed(f"Build the projection {name} again, from the first event?", yes=yes):
            return _FAILED
        await overview.rebuild(name)
        if not wait:
            print_line(f"{name} is to be rebuilt")
            return _DONE
        try:
            async with asyncio.timeout(timeout_s):
                await _built(overview, name, least=max(before.version, 1))
        except TimeoutError:
            now = (await overview.of(name))[-1]
            where = "nobody has begun" if now.is_set_aside else f"at position {now.position} of {now.last_position}"
            note(f"{name} is not rebuilt after {timeout_s:g} s: {where}; it is once a process that runs it has done so")
            return _FAILED
    print_line(f"rebuilt {name}")
    return _DONE


async def _built(overview: Overview, name: str, *, least: int) -> None:
    """Wait until version ``least`` of a projection, or a later one, is live."""
    found = (await overview.of(name))[-1]
    if found.version < least:
        note(f"waiting for a process that runs {name}")
    with progress("rebuilding", found.last_position) as step:
        done = 0
        while found.version < least or found.stage != "live":
            await asyncio.sleep(_LOOK_S)
            found = (await overview.of(name))[-1]
            reached = found.position if found.version >= least else done
            step(max(reached - done, 0))
            done = max(done, reached)

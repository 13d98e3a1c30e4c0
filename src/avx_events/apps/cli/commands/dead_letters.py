"""``dead-letters``: look at what handlers could not process, mend it, give it back, or forget it."""

from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from cyclopts import App

from avx_events.apps.cli.application import Application, opened_application
from avx_events.apps.cli.asking import Yes, edited, is_confirmed
from avx_events.apps.cli.documents import data_of, document_of, instant
from avx_events.apps.cli.opening import opened_letters
from avx_events.apps.cli.output import (
    AsJson,
    Document,
    note,
    print_fields,
    print_json,
    print_line,
    print_rows,
    progress,
)
from avx_events.bus.dead_letters import DeadLetter, DeadLetterQueue
from avx_events.core.codec import decode_data
from avx_events.core.errors import (
    AvxEventsError,
    DeadLetterNotFoundError,
    InvalidArgumentError,
    NoDeadLetterQueueError,
    NoHandlerError,
)
from avx_events.core.event import UnknownEvent, schema_of
from avx_events.patterns.projection import Projector

_PAGE = 500
_GROUPS = ("handler", "group", "error_type", "letters", "oldest", "newest", "example")
_LETTERS = ("id", "handler", "event_type", "reason", "error", "attempts", "redrives", "dead_at")
_DONE, _FAILED = 0, 1


def add_to(app: App) -> None:
    """Add the commands."""
    group = App(name="dead-letters", help="Look at dead letters, mend them, give them back, or forget them.")
    for command in (list_letters, show, redrive, edit, remove, purge):
        group.command(command, name="list" if command is list_letters else None)
    app.command(group)


async def list_letters(
    url: str,
    /,
    *,
    each: bool = False,
    handler: str | None = None,
    event_type: str | None = None,
    error_type: str | None = None,
    since: str | None = None,
    until: str | None = None,
    json: AsJson = False,
) -> None:
    """List dead letters, those of one handler and one error together.

    Args:
        url: Where they are: a broker, as redis://localhost:6379?namespace=avx, or a database.
        each: List each letter by itself.
        handler: Only of this handler.
        event_type: Only with an event of this type.
        error_type: Only whose last error was of this class.
        since: Only dead at this instant or later, as 2026-01-31T12:00:00Z.
        until: Only dead at this instant or earlier.
        json: Print one object a line.
    """
    wanted = _wanted(handler, event_type, error_type, since, until)
    async with opened_letters(url) as queue:
        if each:
            documents = [_document(letter) async for letter in _letters(queue, wanted)]
            print_rows(_LETTERS, documents, as_json=json, nothing="no dead letters")
            return
        groups: dict[tuple[str, str, str], Document] = {}
        async for letter in _letters(queue, wanted):
            _count(groups, letter)
    rows = sorted(groups.values(), key=lambda row: -row["letters"])
    print_rows(_GROUPS, rows, as_json=json, nothing="no dead letters")


async def show(url: str, letter_id: str, /, *, json: AsJson = False) -> None:
    """Show all that a dead letter says: the event, the error and where it came from.

    Args:
        url: Where it is.
        letter_id: Its id.
        json: Print one document.
    """
    async with opened_letters(url) as queue:
        letter = await queue.get(letter_id)
    envelope = None if letter.envelope is None else document_of(letter.envelope)
    raw = None if letter.raw is None else letter.raw.decode("utf-8", "backslashreplace")
    document = _document(letter) | {"raw": raw, "traceback": letter.traceback}
    if json:
        print_fields(document | {"event": envelope}, as_json=True)
    else:
        print_fields((envelope or {}) | document, as_json=False)


async def redrive(
    url: str,
    letter_ids: list[str] | None = None,
    /,
    *,
    app: str | None = None,
    handler: str | None = None,
    event_type: str | None = None,
    error_type: str | None = None,
    since: str | None = None,
    until: str | None = None,
    yes: Yes = False,
    json: AsJson = False,
) -> int:
    """Give dead letters back to the handlers that failed, in this process; they leave when the handler succeeds.

    A letter that somebody else gives back at the same time is left to them. A bus in a group of a broker does its part
    of the group's other work meanwhile.

    Args:
        url: Where they are.
        letter_ids: Which letters; those that the filters leave, if none is given.
        app: The application's bus or projector, as 'shop.app:bus'; the handlers run here, with its code.
        handler: Only of this handler.
        event_type: Only with an event of this type.
        error_type: Only whose last error was of this class.
        since: Only dead at this instant or later.
        until: Only dead at this instant or earlier.
        yes: Do not ask.
        json: Print one object a line: what became of each.
    """
    if app is None:
        expected = (
            "given, as 'shop.app:bus': a letter is handled by the code of its handler, which only the application has"
        )
        raise InvalidArgumentError("--app", app, expected=expected)
    wanted = _wanted(handler, event_type, error_type, since, until)
    async with opened_letters(url) as queue:
        chosen = [*(letter_ids or [])] or [letter.id async for letter in _letters(queue, wanted)]
        if not chosen:
            note("no dead letters")
            return _DONE
        if not is_confirmed(f"Give {len(chosen)} dead letters back to their handlers?", yes=yes):
            return _FAILED
        async with opened_application(app, runs=True) as application:
            outcomes = await _redrive(queue, application, chosen, as_json=json)
    if not json:
        print_line(", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items())))
    return _DONE if set(outcomes) <= {"redriven", "claimed by another"} else _FAILED


async def edit(
    url: str, letter_id: str, /, *, data: str | None = None, app: str | None = None, json: AsJson = False
) -> int:
    """Change the data of a dead letter's event, which keeps its id and metadata; then give it back, or leave it there.

    While it is edited nobody else can give it back.

    Args:
        url: Where it is.
        letter_id: Its id.
        data: The new fields, as a JSON object; if not given, $EDITOR is opened on those that there are.
        app: The application, as 'shop.app:bus': the data must fit its event class, and it is given back at once.
        json: Print one object: what became of it.
    """
    async with opened_letters(url) as queue:
        letter = await queue.get(letter_id)
        if letter.envelope is None:
            raise InvalidArgumentError("letter", letter_id, expected="one whose event could be decoded")
        if app is None:
            await _edit(queue, letter, data)
            _tell(letter_id, "edited", as_json=json)
            return _DONE
        async with opened_application(app, runs=True) as application:
            await _edit(queue, letter, data)
            outcomes = await _redrive(queue, application, [letter_id], as_json=json)
    if not json:
        print_line(", ".join(outcomes))
    return _DONE if set(outcomes) == {"redriven"} else _FAILED


async def remove(url: str, letter_ids: list[str], /, *, yes: Yes = False) -> int:
    """Forget dead letters: their events are not handled.

    Args:
        url: Where they are.
        letter_ids: Which.
        yes: Do not ask.
    """
    async with opened_letters(url) as queue:
        if not is_confirmed(f"Forget {len(letter_ids)} dead letters?", yes=yes):
            return _FAILED
        for letter_id in letter_ids:
            await queue.remove(letter_id)
            print_line(f"removed {letter_id}")
    return _DONE


async def purge(
    url: str,
    /,
    *,
    handler: str | None = None,
    event_type: str | None = None,
    error_type: str | None = None,
    since: str | None = None,
    until: str | None = None,
    yes: Yes = False,
) -> int:
    """Forget all dead letters that the filters leave; all there are, without filters.

    Args:
        url: Where they are.
        handler: Only of this handler.
        event_type: Only with an event of this type.
        error_type: Only whose last error was of this class.
        since: Only dead at this instant or later.
        until: Only dead at this instant or earlier.
        yes: Do not ask.
    """
    wanted = _wanted(handler, event_type, error_type, since, until)
    async with opened_letters(url) as queue:
        which = "the dead letters that match" if any(wanted.values()) else "all dead letters"
        if not is_confirmed(f"Forget {which} at this place?", yes=yes):
            return _FAILED
        print_line(f"removed {await queue.purge(**wanted)}")
    return _DONE


async def _letters(queue: DeadLetterQueue, wanted: dict[str, Any]) -> AsyncIterator[DeadLetter]:
    last: DeadLetter | None = None
    while page := await queue.list(**wanted, after=last, limit=_PAGE):
        for letter in page:
            yield letter
        last = page[-1]


async def _redrive(
    queue: DeadLetterQueue, application: Application, chosen: list[str], *, as_json: bool
) -> Counter[str]:
    outcomes: Counter[str] = Counter()
    with progress("redriving", len(chosen)) as step:
        for letter_id in chosen:
            outcome = await _redrive_one(await queue.get(letter_id), application)
            outcomes[outcome] += 1
            if as_json:
                print_json({"id": letter_id, "outcome": outcome})
            step()
    return outcomes


async def _redrive_one(letter: DeadLetter, application: Application) -> str:
    if isinstance(application, Projector):
        try:
            is_done = await application.redrive(letter)
        except (AvxEventsError, OSError):
            raise
        except Exception:  # noqa: BLE001 - the projector has kept it in the letter
            return "failed again"
        return "redriven" if is_done else "needed no redrive"
    try:
        if not await application.republish(letter.id):
            return "claimed by another"
    except NoDeadLetterQueueError as exc:
        expected = "a bus that has these dead letters: EventBus(dead_letter_queue=await DeadLetterQueue.connect(url))"
        raise InvalidArgumentError("--app", "a bus without dead letters", expected=expected) from exc
    except NoHandlerError:
        return f"without a handler ({letter.handler})"
    await application.settled()
    try:
        await application.dead_letter_queue.get(letter.id)
    except DeadLetterNotFoundError:
        return "redriven"
    return "failed again"


async def _edit(queue: DeadLetterQueue, letter: DeadLetter, data: str | None) -> None:
    if letter.envelope is None:
        return
    before = msgspec.json.format(bytes(data_of(letter.envelope)), indent=2).decode()
    claimed = await queue.claim(letter.id)
    if claimed is None:
        raise InvalidArgumentError("letter", letter.id, expected="one that nobody else gives back or edits now")
    try:
        text = edited(before) if data is None else data
        metadata = letter.envelope.metadata
        event = decode_data(metadata.event_type, text.encode(), revision=_revision(letter), keep_unknown=True)
        await queue.add(
            msgspec.structs.replace(claimed, envelope=msgspec.structs.replace(letter.envelope, event=event))
        )
    finally:
        await queue.release(letter.id)


def _revision(letter: DeadLetter) -> int:
    event: object = letter.event
    return event.revision if isinstance(event, UnknownEvent) else schema_of(event).revision


def _tell(letter_id: str, outcome: str, *, as_json: bool) -> None:
    if as_json:
        print_json({"id": letter_id, "outcome": outcome})
    else:
        print_line(f"{outcome} {letter_id}")


def _wanted(
    handler: str | None, event_type: str | None, error_type: str | None, since: str | None, until: str | None
) -> dict[str, Any]:
    return {
        "handler": handler,
        "event_type": event_type,
        "error_type": error_type,
        "since": instant("since", since),
        "until": instant("until", until),
    }


def _count(groups: dict[tuple[str, str, str], Document], letter: DeadLetter) -> None:
    key = (letter.handler, letter.group, letter.error_type)
    row = groups.setdefault(
        key,
        {
            "handler": letter.handler,
            "group": letter.group,
            "error_type": letter.error_type,
            "letters": 0,
            "oldest": letter.dead_at,
            "newest": letter.dead_at,
            "example": letter.id,
        },
    )
    row["letters"] += 1
    row["oldest"], row["newest"] = min(row["oldest"], letter.dead_at), max(row["newest"], letter.dead_at)


def _document(letter: DeadLetter) -> Document:
    return {
        "id": letter.id,
        "handler": letter.handler,
        "group": letter.group,
        "event_type": letter.event_type,
        "reason": letter.reason,
        "error": letter.error,
        "error_type": letter.error_type,
        "attempts": letter.attempts,
        "redrives": letter.redrives,
        "first_failed_at": letter.first_failed_at,
        "dead_at": letter.dead_at,
    }

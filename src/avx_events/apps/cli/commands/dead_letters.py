"""``dead-letters``: look at what handlers could not process, mend it, give it back, or forget it."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from typing import Any, Final

import msgspec
from cyclopts import App, Parameter

from avx_events.apps.cli.application import opened_application
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
)
from avx_events.apps.cli.redrives import by_application, by_members
from avx_events.apps.mending import with_data
from avx_events.bus.dead_letters import DeadLetter, DeadLetterQueue
from avx_events.core.arguments import seconds
from avx_events.core.errors import InvalidArgumentError, UsageError

_PAGE = 500
_GROUPS = ("handler", "group", "error_type", "letters", "oldest", "newest", "example")
_LETTERS = ("id", "handler", "event_type", "reason", "error", "attempts", "redrives", "dead_at")
_DONE, _FAILED = 0, 1
_ANSWERS_WITHIN_S: Final = 15.0
_WITH_THE_CODE: Final = (
    "give --app, as 'shop.app:bus': a letter is handled by the code of its handler, which only the application has; "
    "members that run can be asked where letters are in a broker"
)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Filters:
    """Which letters are meant: those that match all that is given.

    Attributes:
        handler: Only of this handler.
        event_type: Only with an event of this type.
        error_type: Only whose last error was of this class.
        since: Only dead at this instant or later, as 2026-01-31T12:00:00Z.
        until: Only dead at this instant or earlier.
    """

    handler: str | None = None
    event_type: str | None = None
    error_type: str | None = None
    since: str | None = None
    until: str | None = None

    def wanted(self) -> dict[str, Any]:
        """Return the filters as a queue takes them.

        Raises:
            InvalidArgumentError: An instant is none.
        """
        return asdict(self) | {"since": instant("since", self.since), "until": instant("until", self.until)}


_ALL: Final = Filters()


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
    filters: Filters = _ALL,
    json: AsJson = False,
) -> None:
    """List dead letters, those of one handler and one error together.

    Args:
        url: Where they are: a broker, as redis://localhost:6379?namespace=avx, or a database.
        each: List each letter by itself.
        filters: Which.
        json: Print one object a line.
    """
    wanted = filters.wanted()
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
    document = _document(letter)
    rest: Document = {"raw": raw, "traceback": letter.traceback}
    if json:
        print_fields(document | rest | {"event": envelope}, as_json=True)
    else:
        print_fields({"letter_id": document.pop("id")} | document | (envelope or {}) | rest, as_json=False)


async def redrive(
    url: str,
    letter_ids: list[str] | None = None,
    /,
    *,
    app: str | None = None,
    filters: Filters = _ALL,
    timeout_s: float = _ANSWERS_WITHIN_S,
    yes: Yes = False,
    json: AsJson = False,
) -> int:
    """Give dead letters back to the handlers that failed; they leave when the handler succeeds.

    Letters in a broker go to the members of their group that run now; with --app the handlers run in this process. A
    letter that somebody else gives back at the same time is left to them. A bus in a group of a broker, as --app, does
    its part of the group's other work meanwhile.

    Args:
        url: Where they are.
        letter_ids: Which letters; those that the filters leave, if none is given.
        app: The application's bus or projector, as 'shop.app:bus'; the handlers run here, with its code.
        filters: Which.
        timeout_s: How many seconds to wait for members until the next letter is done.
        yes: Do not ask.
        json: Print one object a line: what became of each.
    """
    seconds("--timeout-s", timeout_s)
    wanted = filters.wanted()
    async with opened_letters(url) as queue:
        if app is None and not queue.reaches_members:
            raise UsageError(_WITH_THE_CODE)
        chosen = [*(letter_ids or [])] or [letter.id async for letter in _letters(queue, wanted)]
        if not chosen:
            note("no dead letters")
            return _DONE
        if not is_confirmed(f"Give {len(chosen)} dead letters back to their handlers?", yes=yes):
            return _FAILED
        if app is None:
            outcomes = await by_members(queue, chosen, timeout_s=timeout_s, as_json=json)
        else:
            async with opened_application(app, runs=True) as application:
                outcomes = await by_application(queue, application, chosen, as_json=json)
    if not json:
        print_line(", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items())))
    # One that a filter found and that is gone since was redriven or removed by somebody else.
    fine = {"redriven", "claimed by another"} if letter_ids else {"redriven", "claimed by another", "not there"}
    return _DONE if set(outcomes) <= fine else _FAILED


async def edit(
    url: str,
    letter_id: str,
    /,
    *,
    data: str | None = None,
    app: str | None = None,
    leave: bool = False,
    timeout_s: float = _ANSWERS_WITHIN_S,
    json: AsJson = False,
) -> int:
    """Change the data of a dead letter's event, which keeps its id and metadata; then give it back, as redrive does.

    While it is edited nobody else can give it back. In a database, or of a bus without a group, it is left there edited
    unless --app is given.

    Args:
        url: Where it is.
        letter_id: Its id.
        data: The new fields, as a JSON object; if not given, $EDITOR is opened on those that there are.
        app: The application, as 'shop.app:bus': the data must fit its event class, and the handler runs here.
        leave: Do not give it back.
        timeout_s: How many seconds to wait for a member that has the handler.
        json: Print one object: what became of it.
    """
    seconds("--timeout-s", timeout_s)
    async with opened_letters(url) as queue:
        letter = await queue.get(letter_id)
        if letter.envelope is None:
            raise InvalidArgumentError("letter", letter_id, expected="one whose event could be decoded")
        async with AsyncExitStack() as stack:
            application = None
            if app is not None:
                application = await stack.enter_async_context(opened_application(app, runs=not leave))
            await _edit(queue, letter, data)
            if leave or (application is None and not (queue.reaches_members and letter.group)):
                _tell(letter_id, "edited", as_json=json)
                return _DONE
            if application is None:
                outcomes = await by_members(queue, [letter_id], timeout_s=timeout_s, as_json=json)
            else:
                outcomes = await by_application(queue, application, [letter_id], as_json=json)
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
    filters: Filters = _ALL,
    yes: Yes = False,
) -> int:
    """Forget all dead letters that the filters leave; all there are, without filters.

    Args:
        url: Where they are.
        filters: Which.
        yes: Do not ask.
    """
    wanted = filters.wanted()
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


async def _edit(queue: DeadLetterQueue, letter: DeadLetter, data: str | None) -> None:
    if letter.envelope is None:
        return
    before = msgspec.json.format(bytes(data_of(letter.envelope)), indent=2).decode()
    claimed = await queue.claim(letter.id)
    if claimed is None:
        raise InvalidArgumentError("letter", letter.id, expected="one that nobody else gives back or edits now")
    try:
        text = await edited(before) if data is None else data
        await queue.add(msgspec.structs.replace(claimed, envelope=with_data(letter.envelope, text.encode())))
    finally:
        await queue.release(letter.id)


def _tell(letter_id: str, outcome: str, *, as_json: bool) -> None:
    if as_json:
        print_json({"id": letter_id, "outcome": outcome})
    else:
        print_line(f"{outcome} {letter_id}")


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

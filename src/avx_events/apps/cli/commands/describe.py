"""``describe``, ``explain`` and ``asyncapi``: what an application publishes and handles."""

from pathlib import Path
from typing import Any

import msgspec
from cyclopts import App

from avx_events.apps.cli.application import opened_application
from avx_events.apps.cli.asyncapi import breaking_changes, document_for
from avx_events.apps.cli.output import AsJson, Document, print_document, print_fields, print_line, print_rows
from avx_events.apps.cli.registry import EventInfo, HandlerInfo, events, handlers_of
from avx_events.core.errors import InvalidArgumentError
from avx_events.core.event import current_type

_EVENTS = ("event_type", "event_class", "key", "revision", "handlers")
_HANDLERS = ("name", "takes", "group", "attempts", "concurrency", "timeout_s", "dead_letters")


def add_to(app: App) -> None:
    """Add the commands."""
    app.command(describe)
    app.command(explain)
    app.command(asyncapi)


async def describe(app: str, /, *, json: AsJson = False) -> None:
    """Tell what an application publishes and handles: its event classes, and the handlers of its bus.

    Args:
        app: Its bus or projector, as 'shop.app:bus'; its handlers are not run.
        json: Print one document.
    """
    known, handlers = await _looked_at(app)
    described = [_described(event, handlers) for event in known]
    if json:
        print_document({"application": app, "events": described, "handlers": handlers})
        return
    print_rows(_EVENTS, described, as_json=False, nothing="no event classes")
    print_line("")
    rows = [msgspec.structs.asdict(handler) for handler in handlers]
    print_rows(_HANDLERS, rows, as_json=False, nothing="no handlers")


async def explain(event_type: str, /, *, app: str, json: AsJson = False) -> None:
    """Explain where an event goes, and why: its class, key and topic, who handles it, and what follows a failure.

    Args:
        event_type: The type of the event, as 'order.placed'.
        app: The application's bus or projector, as 'shop.app:bus'.
        json: Print one document.
    """
    known, handlers = await _looked_at(app)
    wanted = current_type(event_type)
    event = next((event for event in known if event.event_type == wanted), None)
    if event is None:
        expected = "a type whose class the application imports ('avx-events describe APP' lists them)"
        raise InvalidArgumentError("event_type", event_type, expected=expected)
    document = msgspec.structs.asdict(event) | {"topic": wanted}
    mine = [handler for handler in handlers if handler.gets(wanted)]
    if json:
        print_document(document | {"handlers": mine})
        return
    sentences = [_sentence(handler) for handler in mine] or ["nobody: no handler of this application takes it"]
    print_fields(document | {"handled_by": sentences}, as_json=False)


async def asyncapi(app: str, /, *, title: str | None = None, version: str = "1.0.0", check: Path | None = None) -> int:
    """Print the AsyncAPI 3.0 document of an application: channels, messages and the JSON Schema of their data.

    Every event class that the application imports is one that it may send; what its handlers take it receives.

    Args:
        app: Its bus or projector, as 'shop.app:bus'; its handlers are not run.
        title: Of the document; the application's name if not given.
        version: Of the document.
        check: A document that was saved: print which changes since then break others, and exit with 1 if there are any.
    """
    known, handlers = await _looked_at(app)
    document = document_for(known, handlers, title=title or app, version=version)
    if check is None:
        print_document(document)
        return 0
    changes = breaking_changes(_saved(check), document)
    for change in changes:
        print_line(change)
    return 1 if changes else 0


async def _looked_at(app: str) -> tuple[list[EventInfo], list[HandlerInfo]]:
    async with opened_application(app, runs=False) as application:
        return events(), handlers_of(application)


def _described(event: EventInfo, handlers: list[HandlerInfo]) -> Document:
    names = [handler.name for handler in handlers if handler.gets(event.event_type)]
    return msgspec.structs.asdict(event) | {"handlers": names}


def _sentence(handler: HandlerInfo) -> str:
    takes = ", ".join(handler.takes)
    group = f" in group {handler.group!r}" if handler.group else ""
    limit = "" if handler.timeout_s is None else f", {handler.timeout_s:g} s each"
    end = "a dead letter" if handler.dead_letters else "a line in the log: there is no dead letter queue"
    return (
        f"{handler.name}{group}, as it takes {takes}: {handler.concurrency} at once, in order by {handler.key}; "
        f"up to {handler.attempts} attempts{limit}, then {end}"
    )


def _saved(path: Path) -> dict[str, Any]:
    try:
        document = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (OSError, UnicodeDecodeError, msgspec.DecodeError) as exc:
        raise InvalidArgumentError("--check", str(path), expected=f"an AsyncAPI document ({exc})") from exc
    if "asyncapi" not in document:  # what is another file would have nothing that could break
        raise InvalidArgumentError("--check", str(path), expected="an AsyncAPI document, with a version in 'asyncapi'")
    return document

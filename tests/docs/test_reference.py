"""The page of all names is made of the docstrings: ``python -m tests.docs.test_reference`` writes it again."""

import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

import avx_events
from tests.docs.pages import ROOT

PAGE: Final = ROOT / "docs" / "reference" / "names.md"

INTRODUCTION: Final = """\
# All names of avx_events

What `from avx_events import ...` finds, each with the first line of what it says of itself. `help(avx_events.EventBus)`
says the rest: what the arguments mean, and every error. This page is made of the docstrings, and a test compares them.
"""

# Headings in the order of the page, and where their names come from.
PLACES: Final = {
    "Messages": ("core.event", "core.metadata"),
    "Buses": (
        "bus.event_bus",
        "bus.topic_bus",
        "patterns.log_bus.log_bus",
        "bus.request_reply",
        "bus.responders",
        "bus.subscriber",
        "bus.deliveries",
        "bus.registered_handler",
        "bus.statistics",
    ),
    "Failed attempts": ("core.policy", "bus.dead_letters"),
    "What a server says of itself": ("bus.remote.inspection",),
    "Store": (
        "store.event_store",
        "store.stored_event",
        "store.streams",
        "store.ports",
        "store.history",
        "store.causal_tree",
        "patterns.aggregate",
    ),
    "Commands and queries": (
        "patterns.cqrs.buses",
        "patterns.cqrs.handlers",
        "patterns.cqrs.middleware",
        "patterns.cqrs.idempotency",
    ),
    "Read models": ("patterns.projection.projection", "patterns.projection.projector", "patterns.projection.status"),
    "From a database to a bus": (
        "patterns.outbox.outbox",
        "patterns.outbox.outbox_relay",
        "patterns.outbox.relay",
        "patterns.outbox.inbox",
        "patterns.outbox.tables",
    ),
    "Processes": (
        "patterns.process.process_manager",
        "patterns.process.definition",
        "patterns.process.runner",
    ),
    "Replay": ("patterns.replay", "patterns.replay_players"),
    "Time": ("core.clock",),
}
BRANCHES: Final = (avx_events.UsageError, avx_events.RetryableError, avx_events.PermanentError)

SHOWN_DEFAULTS: Final = (bool, int, float, str, type(None))
# Nobody calls these classes, so how is of no interest.
MADE_BY_US: Final = (
    avx_events.BrokerDeadLetterStore,
    avx_events.Clock,
    avx_events.Connection,
    avx_events.DeadLetterStore,
    avx_events.Delivery,
    avx_events.Listener,
    avx_events.Reply,
    avx_events.Subscriber,
)
# Public for other modules of the package, not for its users.
OURS: Final = {
    "DeadLetterQueue.add",
    "DeadLetterQueue.claim",
    "DeadLetterQueue.release",
    "Listener.ask",
    "Listener.begin_stop",
    "Listener.finish_stop",
    "Listener.is_drained",
    "Listener.is_settled",
    "Listener.load",
    "Listener.needs_start",
    "Listener.start",
    "Listener.waiting",
    "Projection.attach",
    "Projection.detach",
    "Projection.effects_of",
    "dispatcher",
    "handles_nothing",
    "is_waited_for",
    "item",
    "open_deliveries",
    "owner",
    "resolve",
    "wanted_types",
}


def reference() -> str:
    """Return the page as it should be."""
    values = [getattr(avx_events, name) for name in avx_events.__all__]
    parts = [INTRODUCTION]
    for heading, places in PLACES.items():
        modules = [f"avx_events.{place}" for place in places]
        found = sorted((value for value in values if value.__module__ in modules), key=lambda v: _place(v, modules))
        parts += [f"## {heading}\n", *[_entry(value) for value in found]]
    parts.append("## Errors\n\nAll derive from `AvxEventsError`, in three branches.\n")
    for branch in BRANCHES:
        below = [value for value in values if inspect.isclass(value) and issubclass(value, branch) and value != branch]
        rows = [f"| `{error.__name__}` | {_summary(error)} |" for error in below]
        parts.append(_table(f"### `{branch.__name__}`\n\n{_summary(branch)}\n", rows))
    return "\n".join(parts)


def _place(value: Any, modules: list[str]) -> tuple[int, int]:
    return modules.index(value.__module__), inspect.getsourcelines(value)[1]


def _entry(value: Any) -> str:
    if not inspect.isclass(value):
        return f"### `{value.__name__}{_signature(value)}`\n\n{_summary(value)}\n"
    fields = getattr(value, "__struct_fields__", ())
    constructor = None if value in MADE_BY_US else vars(value).get("__init__")
    signature = "" if constructor is None else _signature(constructor)
    introduction = f"### `{value.__name__}{signature}`\n\n{_summary(value)}\n"
    if fields:
        introduction += f"\nFields: {', '.join(f'`{field}`' for field in fields)}.\n"
    return _table(introduction, _rows(value))


def _table(introduction: str, rows: Iterable[str]) -> str:
    lines = list(rows)
    return "\n".join([introduction, "| | |", "|---|---|", *lines, ""]) if lines else introduction


def _rows(value: type) -> Iterator[str]:
    for name in _public(value):
        member = getattr(value, name)
        if isinstance(member, property):
            yield f"| `{name}` | {_summary(member)} |"
        elif inspect.isroutine(member):
            yield f"| `{name}{_signature(member)}` | {_summary(member)} |"


def _public(value: type) -> list[str]:
    """Return the public names of a class, those of its own first, in the order in which they are written."""
    ours = [base for base in value.__mro__ if base.__module__.startswith("avx_events")]
    names = dict.fromkeys(name for base in ours for name in vars(base) if not name.startswith("_"))
    return [name for name in names if not {name, f"{value.__name__}.{name}"} & OURS]


def _signature(function: Callable[..., Any]) -> str:
    parameters = [
        parameter.replace(annotation=inspect.Parameter.empty, default=_shown(parameter.default))
        for parameter in inspect.signature(function).parameters.values()
        if parameter.name != "self"
    ]
    return str(inspect.Signature(parameters))


def _shown(default: object) -> object:
    says_something = default is inspect.Parameter.empty or isinstance(default, SHOWN_DEFAULTS)
    return default if says_something else _Dots()


class _Dots:
    def __repr__(self) -> str:
        return "..."


def _summary(value: object) -> str:
    text = inspect.getdoc(value) or ""
    return re.sub("``", "`", text.partition("\n\n")[0].replace("\n", " "))


def test_the_page_of_all_names_says_what_the_docstrings_say() -> None:
    assert PAGE.read_text("utf-8") == reference(), "write it again: python -m tests.docs.test_reference"


def test_every_everyday_name_has_its_place_on_the_page() -> None:
    page = PAGE.read_text("utf-8")

    assert [name for name in avx_events.__all__ if not re.search(rf"`{name}\b", page)] == []


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(reference(), "utf-8")

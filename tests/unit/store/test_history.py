"""What an auditor is told of a stream: who did what, when and why, and what it changed."""

from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from avx_events import (
    AggregateRoot,
    Change,
    ClosedError,
    Event,
    EventStore,
    InvalidArgumentError,
    UnknownEvent,
    UnknownEventTypeError,
    context,
)
from avx_events.core.metadata import EventEnvelope, stamp
from avx_events.testing import ManualClock

if TYPE_CHECKING:
    from avx_events.store.history import HistoryEntry

START = datetime(2026, 1, 1, tzinfo=UTC)


class Opened(Event, event_type="history.opened", aggregate_id="account"):
    account: str


class Paid(Event, event_type="history.paid", aggregate_id="account"):
    account: str
    amount: int


class Tagged(Event, event_type="history.tagged", aggregate_id="account"):
    account: str
    tag: str


class Rated(Event, event_type="history.rated"):
    rate: str


class Account(AggregateRoot):
    balance: int = 0
    tags: list[str] = []  # noqa: RUF012 - each instance has its own
    rate: float | int = 1

    def apply(self, event: Event) -> None:
        match event:
            case Paid(amount=amount):
                self.balance += amount
            case Tagged(tag=tag):
                self.tags.append(tag)
            case Rated(rate=rate):
                self.rate = float(rate)
            case _:
                pass


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(START)


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, clock: ManualClock) -> AsyncGenerator[EventStore, None]:
    """Four events of one account, a minute between any two, by three users."""
    is_memory = request.param == "memory"
    async with EventStore(clock=clock) if is_memory else await EventStore.connect("sqlite://", clock=clock) as opened:
        await opened.append("other", Opened("other"))
        with context(user_id="ada"):
            await opened.append("a-1", Opened("a-1"))
        clock.advance(60)
        with context(user_id="bob", correlation_id="request-7", causation_id="command-9"):
            await opened.append("a-1", Paid("a-1", 5))
        clock.advance(60)
        with context(user_id="ada"):
            await opened.append("a-1", stamp(Tagged("a-1", "vip"), clock=clock, headers={"reason": "she asked"}))
        clock.advance(60)
        await opened.append("a-1", Opened("a-1"))
        yield opened


async def versions(store: EventStore, **options: Any) -> list[int]:
    return [entry.version async for entry in store.history("a-1", **options)]


async def test_an_entry_says_who_did_what_when_and_why(store: EventStore) -> None:
    entries = [entry async for entry in store.history("a-1")]
    paid = entries[1]

    assert [stored async for stored in store.read_stream("a-1")] == [entry.stored for entry in entries]
    assert (paid.event, paid.event_type, paid.user_id) == (Paid("a-1", 5), "history.paid", "bob")
    assert (paid.stream, paid.version, paid.position) == ("a-1", 2, 3)
    assert (paid.time, paid.recorded_at) == (START + timedelta(minutes=1), START + timedelta(minutes=1))
    assert (paid.correlation_id, paid.causation_id) == ("request-7", "command-9")
    assert (paid.event_id, paid.state, paid.changes) == (paid.stored.metadata.event_id, None, {})
    assert dict(entries[2].headers) == {"reason": "she asked"}
    assert (entries[3].user_id, entries[3].causation_id) == (None, None)


async def test_a_history_is_bounded_by_versions_instants_and_users(store: EventStore) -> None:
    minute = timedelta(minutes=1)

    assert await versions(store, after=1, at_version=3) == [2, 3]
    assert await versions(store, since=START + minute) == [2, 3, 4]
    assert await versions(store, since=START + minute + timedelta.resolution) == [3, 4]
    assert await versions(store, as_of=START + minute) == [1, 2]
    assert await versions(store, as_of=START + minute - timedelta.resolution) == [1]
    assert await versions(store, since=START + minute, as_of=START + 2 * minute) == [2, 3]
    assert await versions(store, user_id="ada") == [1, 3]
    assert await versions(store, user_id="ada", since=START + minute) == [3]
    assert await versions(store, user_id="eve") == []
    assert await versions(store, after=3, since=START) == [4]
    assert await versions(store, since=START - minute) == [1, 2, 3, 4]
    assert await versions(store, since=START + 9 * minute) == []
    assert [entry async for entry in store.history("nothing")] == []


async def test_with_an_aggregate_each_entry_has_its_state_and_what_it_changed(store: EventStore) -> None:
    entries = [entry async for entry in store.history("a-1", aggregate=Account)]

    for entry in entries:
        assert entry.state == await store.load(Account, "a-1", at_version=entry.version)
    assert [entry.changes for entry in entries] == [
        {},
        {"balance": Change(0, 5)},
        {"tags": Change([], ["vip"])},
        {},
    ]


async def test_bounds_and_users_leave_the_states_as_they_were(store: EventStore) -> None:
    minute = timedelta(minutes=1)
    every = [entry async for entry in store.history("a-1", aggregate=Account)]

    assert [entry async for entry in store.history("a-1", aggregate=Account, after=2)] == every[2:]
    assert [entry async for entry in store.history("a-1", aggregate=Account, since=START + minute)] == every[1:]
    assert [entry async for entry in store.history("a-1", aggregate=Account, at_version=2)] == every[:2]
    assert [entry async for entry in store.history("a-1", aggregate=Account, user_id="ada")] == every[::2][:2]


async def test_what_a_reader_does_with_an_entry_touches_no_other(store: EventStore) -> None:
    await store.append("a-1", [Tagged("a-1", "late"), Tagged("a-1", "later")])
    seen: list[HistoryEntry[Account]] = []

    async for entry in store.history("a-1", aggregate=Account):
        seen.append(entry)
        entry.state.tags.append("mine")
        if "tags" in entry.changes:
            entry.changes["tags"].after.append("mine")

    assert [change for entry in seen for change in entry.changes.items()][1:] == [
        ("tags", Change([], ["vip", "mine"])),
        ("tags", Change(["vip"], ["vip", "late", "mine"])),
        ("tags", Change(["vip", "late"], ["vip", "late", "later", "mine"])),
    ]
    assert (await store.load(Account, "a-1")).tags == ["vip", "late", "later"]


async def test_a_value_of_another_type_is_a_change_and_nan_again_is_none(store: EventStore) -> None:
    await store.append("rated", [Rated("1"), Rated("1"), Rated("nan"), Rated("nan")])

    changes = [entry.changes async for entry in store.history("rated", aggregate=Account)]

    assert [[*change] for change in changes] == [["rate"], [], ["rate"], []]
    assert type(changes[0]["rate"].before) is int


async def test_an_entry_prints_as_one_line_in_columns(store: EventStore) -> None:
    lines = [str(entry) async for entry in store.history("a-1")]

    assert (
        "\n".join(lines)
        == """\
2026-01-01 00:00:00.000Z  v1      history.opened            ada               Opened(account='a-1')
2026-01-01 00:01:00.000Z  v2      history.paid              bob               Paid(account='a-1', amount=5)  \
(because of command-9, in request-7)
2026-01-01 00:02:00.000Z  v3      history.tagged            ada               Tagged(account='a-1', tag='vip')  \
(reason='she asked')
2026-01-01 00:03:00.000Z  v4      history.opened            -                 Opened(account='a-1')"""
    )


async def test_with_an_aggregate_the_line_shows_what_changed(store: EventStore) -> None:
    lines = [
        str(entry).partition("bob")[2] or str(entry)[70:] async for entry in store.history("a-1", aggregate=Account)
    ]

    assert [line.strip() for line in lines] == [
        "no change",
        "balance: 0 → 5  (because of command-9, in request-7)",
        "tags: [] → ['vip']  (reason='she asked')",
        "no change",
    ]


async def test_a_line_is_one_line_whatever_is_in_it(store: EventStore, clock: ManualClock) -> None:
    with context(user_id="eve\n2026-01-01  v9  forged\x1b[2J", correlation_id="c\r\n"):
        envelope = stamp(Tagged("a-1", "x\n" * 10_000), clock=clock, headers={"a\n": "b\n"})
        await store.append("a-1", envelope)

    [line] = [str(entry) async for entry in store.history("a-1", after=4)]

    assert line.isprintable()
    assert len(line) < 500
    assert r"eve\n2026-01-01  v9  forged\x1b[2J" in line


async def test_an_unknown_event_is_an_error_or_kept(store: EventStore, clock: ManualClock) -> None:
    known = stamp(Opened("a-1"), clock=clock)
    unknown = UnknownEvent("history.never", {}, 1)
    envelope = stamp(EventEnvelope(known.event, known.metadata, "t"), clock=clock)
    metadata = type(known.metadata)("id-1", "history.never", "", 1, "id-1")
    await store.append("a-1", EventEnvelope(unknown, metadata, envelope.topic))

    with pytest.raises(UnknownEventTypeError, match=r"history\.never"):
        await versions(store)
    kept = [entry.event async for entry in store.history("a-1", after=4, unknown="keep")]
    with_state = [entry.changes async for entry in store.history("a-1", aggregate=Account, after=4, unknown="keep")]

    lines = [str(entry) async for entry in store.history("a-1", after=4, unknown="keep")]

    assert kept == [unknown]
    assert lines[0].split()[-1] == "{}"  # of one without a class, its data
    assert with_state == [{}]


async def test_what_cannot_be_asked_is_refused_at_once(store: EventStore) -> None:
    wrong: list[tuple[str, Any]] = [
        ("stream must be text", {"stream": ""}),
        ("after must be a whole number", {"after": -1}),
        ("at_version must be a whole number", {"at_version": 1.5}),
        ("since must be a datetime with a time zone", {"since": datetime(2026, 1, 1)}),  # noqa: DTZ001 - it has none
        ("as_of must be a datetime with a time zone", {"as_of": "today"}),
        ("user_id must be text", {"user_id": 7}),
        ("user_id must be text", {"user_id": " "}),
        ("aggregate must be a class derived from AggregateRoot", {"aggregate": Opened}),
        ("unknown must be 'raise' or 'keep'", {"unknown": "drop"}),
    ]

    for problem, options in wrong:
        given: Any = {"stream": "a-1"} | options
        with pytest.raises(InvalidArgumentError, match=problem):
            store.history(**given)


async def test_a_history_of_a_closed_store_cannot_be_read(store: EventStore) -> None:
    await store.close()

    with pytest.raises(ClosedError):
        await versions(store)

"""The past once more: in order, at any speed, and without an effect on what is live."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from avx_events import (
    AggregateRoot,
    ClosedError,
    Command,
    CommandBus,
    Connection,
    DeadLetterQueue,
    Discard,
    Event,
    EventBus,
    EventEnvelope,
    EventMetadata,
    EventStore,
    HandlerDefinitionError,
    InvalidArgumentError,
    Projection,
    Projector,
    Query,
    QueryBus,
    ReplayedMessageError,
    Request,
    RequestReplyBus,
    StatementError,
    StoredEvent,
    TopicBus,
    TransactionError,
    UnknownEvent,
    UnknownEventTypeError,
    context,
    current_context,
    handles,
    is_replaying,
    replay,
    replayed,
)
from avx_events.core.clock import SYSTEM_CLOCK
from avx_events.core.metadata import MessageContext, stamp
from avx_events.testing import ManualClock

START = datetime(2026, 1, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


class Counted(Event, event_type="replay.counted", aggregate_id="name"):
    name: str
    number: int


class Passed(Event, event_type="replay.passed"):
    pass


class Followed(Event, event_type="replay.followed"):
    pass


class DoIt(Command[None], event_type="replay.do.it"):
    pass


class AskIt(Query[int], event_type="replay.ask.it"):
    pass


class WhatIsIt(Request[int], event_type="replay.what.is.it"):
    pass


class Counter(AggregateRoot):
    count: int = 0

    def apply(self, event: Event) -> None:
        self.count += isinstance(event, Counted)


class Counts(Projection, name="replay-counts"):
    """Counts in a table; what a test asks for happens before an event is counted."""

    def __init__(self, before: Callable[[Counted], Any] | None = None) -> None:
        self.before = before

    async def setup(self, connection: Connection) -> None:
        await connection.execute("DROP TABLE IF EXISTS replay_counts")
        await connection.execute("CREATE TABLE replay_counts (name TEXT PRIMARY KEY, total INTEGER NOT NULL)")

    @handles(Counted)
    async def count(self, event: Counted, connection: Connection) -> None:
        await connection.execute(
            "INSERT INTO replay_counts VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET total = total + excluded.total",
            event.name,
            event.number,
        )
        if self.before is not None and (waited := self.before(event)) is not None:
            await waited


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(START)


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, clock: ManualClock) -> AsyncGenerator[EventStore, None]:
    """Five events, a minute between any two: 1, 2, a Passed, 4 in another stream, and 5."""
    is_memory = request.param == "memory"
    async with EventStore(clock=clock) if is_memory else await EventStore.connect("sqlite://", clock=clock) as opened:
        for stream, event in [
            ("a-1", Counted("one", 1)),
            ("a-1", Counted("two", 2)),
            ("a-1", Passed()),
            ("b-1", Counted("one", 4)),
            ("a-2", Counted("two", 5)),
        ]:
            with context(user_id="ada", correlation_id="request-7", causation_id="command-9"):
                await opened.append(stream, event)
            clock.advance(60)
        yield opened


async def totals(scratch: EventStore) -> dict[str, int]:
    return dict(await scratch.fetch("SELECT name, total FROM replay_counts"))


# Handlers


async def test_a_handler_is_given_the_range_in_order(store: EventStore) -> None:
    for options, expected in [
        ({}, [1, 2, 3, 4, 5]),
        ({"after": 2}, [3, 4, 5]),
        ({"until": 2}, [1, 2]),
        ({"after": 1, "until": 4}, [2, 3, 4]),
        ({"until": 99}, [1, 2, 3, 4, 5]),
        ({"as_of": START + MINUTE}, [1, 2]),
        ({"types": Counted}, [1, 2, 4, 5]),
        ({"types": [Passed]}, [3]),
        ({"stream_prefix": "a-"}, [1, 2, 3, 5]),
        ({"after": 5}, []),
        ({"until": 0}, []),
    ]:
        seen: list[int] = []
        given: Any = options

        async def look(event: Event, stored: StoredEvent[Any], seen: list[int] = seen) -> None:
            assert event is stored.event
            seen.append(stored.position)

        report = await replay(store, look, **given)

        assert seen == expected
        assert report.events == len(expected)
        assert (report.first_position, report.last_position) == ((expected or [0])[0], (expected or [0])[-1])


async def nothing(_: Event) -> None:
    pass


async def test_who_asks_is_told_of_each_event_that_was_given(store: EventStore) -> None:
    of_a_handler, of_a_projection = list[int](), list[int]()
    async with await EventStore.connect("sqlite://") as scratch:
        await replay(store, nothing, after=1, on_progress=of_a_handler.append)
        await replay(store, Counts(), into=scratch, until=4, on_progress=of_a_projection.append)

    assert (of_a_handler, of_a_projection) == ([2, 3, 4, 5], [1, 2, 3, 4])


async def test_a_plain_function_runs_in_a_thread_and_sees_the_same(store: EventStore) -> None:
    seen: list[tuple[Any, bool, bool, str | None]] = []

    def look(event: Event) -> None:
        is_elsewhere = threading.current_thread() is not threading.main_thread()
        seen.append((event, is_elsewhere, is_replaying(), current_context().user_id))

    await replay(store, look, types=Counted, until=2)

    assert seen == [(Counted("one", 1), True, True, "ada"), (Counted("two", 2), True, True, "ada")]


async def test_a_handler_sees_the_context_of_its_event_as_it_does_live(store: EventStore) -> None:
    seen: list[MessageContext] = []
    [first] = await store.get_events("b-1")

    async def look(event: Event) -> None:
        assert is_replaying()
        seen.append(current_context())
        with context(user_id="bob"):
            seen.append(current_context())

    await replay(store, look, stream_prefix="b-")

    event_id = first.metadata.event_id
    assert seen == [MessageContext("request-7", event_id, "ada"), MessageContext("request-7", event_id, "bob")]
    assert (is_replaying(), current_context()) == (False, MessageContext())


async def test_what_a_handler_raises_ends_the_replay_and_says_where(store: EventStore) -> None:
    seen: list[int] = []

    async def fail(event: Event, stored: StoredEvent[Any]) -> None:
        seen.append(stored.position)
        if stored.position == 4:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        await replay(store, fail)

    assert seen == [1, 2, 3, 4]
    assert caught.value.__notes__ == ["while the event in stream 'b-1' at version 1, position 4 was replayed"]
    assert (is_replaying(), current_context()) == (False, MessageContext())


async def test_what_a_handler_discards_is_passed_over_and_counted(store: EventStore) -> None:
    async def pick(event: Event) -> None:
        if not isinstance(event, Counted):
            raise Discard("no count")

    report = await replay(store, pick)

    assert (report.events, report.discarded, report.last_position) == (4, 1, 5)


async def test_an_event_that_cannot_be_read_ends_the_replay_behind_those_before_it(store: EventStore) -> None:
    seen: list[object] = []

    async def look(event: object) -> None:
        seen.append(event)

    await append_unknown(store)
    await store.append("a-1", Counted("late", 7))

    with pytest.raises(UnknownEventTypeError):
        await replay(store, look, after=4)
    assert seen == [Counted("two", 5)]
    await replay(store, look, after=5, unknown="keep")
    assert seen == [Counted("two", 5), UnknownEvent("replay.never", {}, 1), Counted("late", 7)]


async def append_unknown(store: EventStore) -> None:
    await store.append("a-1", unknown_envelope())


def unknown_envelope() -> EventEnvelope[Any]:
    metadata = EventMetadata("id-of-it", "replay.never", "", 1, "id-of-it")
    return EventEnvelope(UnknownEvent("replay.never", {}, 1), metadata, "replay.never")


# Side effects


class Live:
    """What is live around a handler."""

    def __init__(self, store: EventStore) -> None:
        self.store = store
        self.bus = EventBus(dead_letter_queue=DeadLetterQueue())
        self.topics = TopicBus()
        self.requests = RequestReplyBus()
        self.commands, self.queries = CommandBus(), QueryBus()
        self.reached: list[str] = []
        self.commands.handler(self.do_it)
        self.queries.handler(self.ask_it)
        self.requests.respond(WhatIsIt)(self.what_is_it)

    async def do_it(self, command: DoIt) -> None:
        self.reached.append("command")

    async def ask_it(self, query: AskIt) -> int:
        self.reached.append("query")
        return 1

    async def what_is_it(self, request: WhatIsIt) -> int:
        self.reached.append("request")
        return 1


Effect: TypeAlias = Callable[[Live, StoredEvent[Any]], Awaitable[object]]


async def nowait(live: Live, stored: StoredEvent[Any]) -> None:
    live.bus.publish_nowait(Followed())


async def in_a_thread(live: Live, stored: StoredEvent[Any]) -> None:
    await asyncio.to_thread(lambda: live.bus.publish_threadsafe(Followed()).result(5))


async def in_a_task(live: Live, stored: StoredEvent[Any]) -> None:
    tasks = asyncio.TaskGroup()
    try:
        async with tasks:
            tasks.create_task(live.bus.publish(Followed()))
    except* ReplayedMessageError as group:
        raise group.exceptions[0] from None


async def in_a_context(live: Live, stored: StoredEvent[Any]) -> None:
    with context(user_id="bob", correlation_id="mine", causation_id="mine"):
        await live.bus.publish(Followed())


async def save(live: Live, stored: StoredEvent[Any]) -> None:
    counter = Counter("counter-1")
    counter.record(Counted("one", 1))
    await live.store.save(counter)


async def write(live: Live, stored: StoredEvent[Any]) -> None:
    async with live.store.transaction():
        pass


EFFECTS: list[Effect] = [
    lambda live, stored: live.bus.publish(Followed()),
    lambda live, stored: live.bus.publish(Followed(), headers={"a": "b"}),
    lambda live, stored: live.bus.publish(stored),
    lambda live, stored: live.bus.publish(stamp_of_another()),
    lambda live, stored: live.bus.publish_many([Followed(), Followed()]),
    lambda live, stored: live.bus.publish_many([stored]),
    lambda live, stored: live.bus.republish("letter"),
    lambda live, stored: live.topics.publish(Followed()),
    lambda live, stored: live.topics.publish_to("a.b", stored),
    lambda live, stored: live.requests.request(WhatIsIt()),
    lambda live, stored: live.commands.dispatch(DoIt()),
    lambda live, stored: live.queries.ask(AskIt()),
    lambda live, stored: live.store.append("a-1", Followed()),
    lambda live, stored: live.store.append("a-1", [Followed(), Followed()]),
    lambda live, stored: live.store.append("a-1", stored),
    lambda live, stored: live.store.append("a-1", unknown_envelope()),
    nowait,
    in_a_thread,
    in_a_task,
    in_a_context,
    save,
    write,
]


def stamp_of_another() -> EventEnvelope[Any]:
    """An envelope that is made elsewhere, as by a thread that knows of no replay."""
    made: list[EventEnvelope[Any]] = []
    thread = threading.Thread(target=lambda: made.append(stamp(Followed(), clock=SYSTEM_CLOCK)))
    thread.start()
    thread.join()
    return made[0]


@pytest.mark.parametrize("effect", EFFECTS)
async def test_what_would_reach_others_is_refused(store: EventStore, effect: Effect) -> None:
    live = Live(store)

    async def handle(event: Event, stored: StoredEvent[Any]) -> None:
        await effect(live, stored)

    async with live.bus, live.topics, live.requests:
        everything = await live.bus.subscribe(Event)
        with pytest.raises(ReplayedMessageError, match=r"is_replaying\(\)"):
            await replay(store, handle, until=1)

        await live.bus.publish(Passed())
        assert [type(event) for event in await everything.recv_many()] == [Passed]
    assert (live.reached, live.topics.statistics().published, await store.last_position()) == ([], 0, 5)


async def test_what_a_handler_reads_is_there(store: EventStore) -> None:
    counts: list[int] = []

    async def look(event: Event, stored: StoredEvent[Any]) -> None:
        counts.append((await store.load(Counter, stored.stream)).count)

    await replay(store, look, until=1)

    assert counts == [2]


async def test_side_effects_that_are_allowed_have_the_event_as_their_cause(store: EventStore) -> None:
    async with EventBus() as bus:
        followed = await bus.subscribe(Followed)

        async def follow(event: Event) -> None:
            assert is_replaying()
            await bus.publish(Followed())
            await store.append("a-1", Passed())

        report = await replay(store, follow, stream_prefix="a-1", allow_side_effects=True)

        assert report.events == 3  # and not what it appended itself
        [cause, *_] = await store.get_events("a-1")
        metadata = (await anext(followed.envelopes())).metadata
    assert (metadata.causation_id, metadata.correlation_id, metadata.user_id) == (
        cause.metadata.event_id,
        "request-7",
        "ada",
    )
    assert await store.version_of("a-1") == 6


# Pace


async def to_the_next_event(clock: ManualClock) -> None:
    """Let the replay come to its next pause, and end that."""
    await clock.planned()
    clock.advance(clock.pauses_s[0])


async def test_the_gaps_are_those_of_the_past_divided_by_the_speed(store: EventStore, clock: ManualClock) -> None:
    seen: list[tuple[int, float]] = []
    began_at = clock.monotonic()

    async def look(event: Event, stored: StoredEvent[Any]) -> None:
        seen.append((stored.position, clock.monotonic() - began_at))

    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(replay(store, look, until=4, speed=10, clock=clock))
        for _ in range(3):
            await to_the_next_event(clock)

    assert [position for position, _ in seen] == [1, 2, 3, 4]
    assert [at_s for _, at_s in seen] == pytest.approx([0, 6, 12, 18], abs=1e-5)
    assert running.result().duration_s == pytest.approx(18)


async def test_who_is_late_makes_up_for_it(store: EventStore, clock: ManualClock) -> None:
    seen: list[int] = []

    async def dawdle(event: Event, stored: StoredEvent[Any]) -> None:
        seen.append(stored.position)
        if stored.position == 1:
            clock.advance(150)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(replay(store, dawdle, until=4, speed=1, clock=clock))
        await clock.planned()
        assert seen == [1, 2, 3]
        assert clock.pauses_s == pytest.approx([30])
        await to_the_next_event(clock)

    assert seen == [1, 2, 3, 4]


async def test_no_more_events_than_wanted_in_a_second(store: EventStore, clock: ManualClock) -> None:
    seen: list[float] = []
    began_at = clock.monotonic()

    async def look(event: Event) -> None:
        seen.append(clock.monotonic() - began_at)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(replay(store, look, events_per_s=4, clock=clock))
        for _ in range(4):
            await to_the_next_event(clock)

    assert seen == pytest.approx([0, 0.25, 0.5, 0.75, 1.0], abs=1e-5)


async def test_speed_and_limit_hold_together(store: EventStore, clock: ManualClock) -> None:
    seen: list[float] = []
    began_at = clock.monotonic()

    async def look(event: Event) -> None:
        seen.append(clock.monotonic() - began_at)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(replay(store, look, until=3, speed=60, events_per_s=0.5, clock=clock))
        for _ in range(2):
            await to_the_next_event(clock)

    assert seen == pytest.approx([0, 2, 4], abs=1e-5)


async def test_a_replay_that_is_cancelled_leaves_nothing_behind(store: EventStore, clock: ManualClock) -> None:
    async def look(event: Event) -> None:
        pass

    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(replay(store, look, speed=1, clock=clock))
        await clock.planned()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    assert clock.pauses_s == []


async def test_a_handler_that_never_waits_leaves_the_loop_its_turns(store: EventStore) -> None:
    await store.append("many", [Counted("many", 0)] * 30_000)
    turns = 0

    async def take_turns() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    async def look(event: Event) -> None:
        pass

    async with asyncio.TaskGroup() as tasks:
        other = tasks.create_task(take_turns())
        await replay(store, look)
        other.cancel()

    assert turns >= 2


# Projections


async def test_a_read_model_is_made_as_it_was_without_a_look_at_the_live_one(store: EventStore) -> None:
    async with replayed(store, Counts(), as_of=START + MINUTE) as scratch:
        assert await totals(scratch) == {"one": 1, "two": 2}
    async with replayed(store, Counts(), stream_prefix="a-", types=Counted, after=1, unknown="keep") as scratch:
        assert await totals(scratch) == {"two": 7}
    async with replayed(store, Counts(), until=4) as scratch:
        assert await totals(scratch) == {"one": 5, "two": 2}

    with pytest.raises(ClosedError):
        await totals(scratch)


async def test_the_live_tables_and_checkpoint_stay_as_they_are(tmp_path: Path) -> None:
    async with await EventStore.connect(f"sqlite:///{tmp_path}/live.db") as store:
        await store.append("a", [Counted("one", 1), Counted("one", 2)])
        async with Projector(store, Counts()) as projector:
            await projector.caught_up()
            before = await store.fetch("SELECT name, version, position FROM avx_projections")

            async with replayed(store, Counts(), until=1) as scratch:
                await store.append("a", Counted("one", 4))
                await projector.caught_up()

                assert (await totals(scratch), await totals(store)) == ({"one": 1}, {"one": 7})
        assert before == [("replay-counts", 1, 2)]
        assert await store.fetch("SELECT name, version, position FROM avx_projections") == [("replay-counts", 1, 3)]


async def test_a_scratch_store_can_be_used_again(store: EventStore) -> None:
    async with await EventStore.connect("sqlite://") as scratch:
        first = await replay(store, Counts(), into=scratch, until=1)
        again = await replay(store, Counts(), into=scratch)

        assert (first.events, again.events, again.last_position) == (1, 4, 5)
        assert await totals(scratch) == {"one": 5, "two": 7}


async def test_many_events_share_transactions(store: EventStore) -> None:
    await store.append("many", [Counted("many", 1)] * 1_200)

    async with await EventStore.connect("sqlite://") as scratch:
        report = await replay(store, Counts(), into=scratch, stream_prefix="many")

        assert (report.events, await totals(scratch)) == (1_200, {"many": 1_200})


async def test_a_database_that_is_live_is_no_scratch_store(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/live.db"
    async with await EventStore.connect(url) as store, await EventStore.connect(url) as same:
        for into in (store, None, "sqlite://"):
            with pytest.raises(InvalidArgumentError, match="into must be a store"):
                await replay(store, Counts(), into=into)  # type: ignore[arg-type]
        async with Projector(store, Counts()):
            pass
        with pytest.raises(InvalidArgumentError, match="never used by a projector"):
            await replay(EventStore(), Counts(), into=same)
    async with await EventStore.connect(f"sqlite:///{tmp_path}/other.db") as other:
        await other.append("a", Passed())
        with pytest.raises(InvalidArgumentError, match="without events"):
            await replay(EventStore(), Counts(), into=other)
    with pytest.raises(TransactionError, match="in memory"):
        await replay(EventStore(), Counts(), into=EventStore())


async def test_a_projection_that_fails_ends_the_replay_and_keeps_what_was_before(store: EventStore) -> None:
    def fail_at_4(event: Counted) -> None:
        if event.number == 4:
            raise ZeroDivisionError

    async with await EventStore.connect("sqlite://") as scratch:
        with pytest.raises(ZeroDivisionError) as caught:
            await replay(store, Counts(fail_at_4), into=scratch)

        assert await totals(scratch) == {"one": 1, "two": 2}
    assert caught.value.__notes__ == ["while the event in stream 'b-1' at version 1, position 4 was replayed"]


async def test_what_fails_once_in_a_transaction_is_not_lost(store: EventStore) -> None:
    failures = [ZeroDivisionError()]

    def fail_once(event: Counted) -> None:
        if failures:
            raise failures.pop()

    async with await EventStore.connect("sqlite://") as scratch:
        report = await replay(store, Counts(fail_once), into=scratch)

        assert (report.events, await totals(scratch)) == (4, {"one": 5, "two": 7})


async def test_a_replay_that_is_interrupted_handles_nothing_more(store: EventStore) -> None:
    seen: list[Counted] = []
    is_waiting = asyncio.Event()

    async def wait(event: Counted) -> None:
        seen.append(event)
        is_waiting.set()
        await asyncio.Event().wait()

    async with await EventStore.connect("sqlite://") as scratch, asyncio.TaskGroup() as tasks:
        running = tasks.create_task(replay(store, Counts(wait), into=scratch))
        await is_waiting.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

        assert (seen, await totals(scratch)) == ([Counted("one", 1)], {})


async def test_a_statement_that_fails_ends_the_replay(store: EventStore) -> None:
    class Careless(Projection, name="replay-careless"):
        @handles(Counted)
        async def add(self, event: Counted, connection: Connection) -> None:
            await connection.execute("INSERT INTO nowhere VALUES (1)")

    with pytest.raises(StatementError, match="nowhere"):
        async with replayed(store, Careless()):
            pass


async def test_what_was_read_before_an_event_that_cannot_be_is_kept(store: EventStore) -> None:
    await append_unknown(store)

    async with await EventStore.connect("sqlite://") as scratch:
        with pytest.raises(UnknownEventTypeError):
            await replay(store, Counts(), into=scratch)

        assert await totals(scratch) == {"one": 5, "two": 7}


async def test_a_method_that_discards_is_undone_and_the_others_are_not(store: EventStore) -> None:
    class Both(Counts, name="replay-both"):
        @handles(Counted)
        async def count_all(self, event: Counted, connection: Connection) -> None:
            await Counts.count(self, Counted("all", event.number), connection)

    def discard_2(event: Counted) -> None:
        if event == Counted("two", 2):
            raise Discard("not this one")

    async with await EventStore.connect("sqlite://") as scratch:
        report = await replay(store, Both(discard_2), into=scratch)

        assert await totals(scratch) == {"one": 5, "two": 5, "all": 12}
        assert (report.events, report.discarded) == (4, 1)


async def test_an_event_that_all_methods_discard_is_not_counted(store: EventStore) -> None:
    def discard(event: Counted) -> None:
        raise Discard("none")

    async with await EventStore.connect("sqlite://") as scratch:
        report = await replay(store, Counts(discard), into=scratch)

        assert (report.events, report.discarded, await totals(scratch)) == (0, 4, {})


async def test_a_projection_reaches_nothing_live_either(store: EventStore) -> None:
    async with EventBus() as bus:
        with pytest.raises(ReplayedMessageError):
            async with replayed(store, Counts(lambda event: bus.publish(Followed()))):
                pass
        assert bus.statistics().published == 0


async def test_a_projection_is_up_to_date_whenever_the_replay_waits(store: EventStore, clock: ManualClock) -> None:
    seen: list[dict[str, int]] = []

    async with await EventStore.connect("sqlite://") as scratch, asyncio.TaskGroup() as tasks:
        running = tasks.create_task(replay(store, Counts(), into=scratch, until=2, speed=1, clock=clock))
        await clock.planned()
        seen.append(await totals(scratch))
        await to_the_next_event(clock)
        await running
        seen.append(await totals(scratch))

    assert seen == [{"one": 1}, {"one": 1, "two": 2}]


# Bad input


async def test_what_cannot_be_replayed_is_refused(store: EventStore) -> None:
    async def look(event: Event) -> None:
        pass

    def too_many(event: Event, stored: object, more: object) -> None:
        pass

    class Idle(Projection, name="replay-idle"):
        pass

    wrong: list[tuple[Any, Any, str]] = [
        (look, {"after": -1}, "after must be"),
        (look, {"until": "5"}, "until must be"),
        (look, {"until": -1}, "until must be"),
        (look, {"as_of": datetime(2026, 1, 1)}, "as_of must be"),  # noqa: DTZ001 - it has no time zone
        (look, {"types": []}, "types must be"),
        (look, {"stream_prefix": 7}, "stream_prefix must be"),
        (look, {"unknown": "drop"}, "unknown must be"),
        (look, {"into": store}, "into must be left out"),
        (Counts, {}, "target must be a handler, or an object"),
        (None, {}, "target must be"),
        (Idle(), {}, "target must be a projection with a method"),
    ]
    for rate in (0, -1, float("inf"), float("nan"), "fast", True):
        wrong += [(look, {"speed": rate}, "speed must be"), (look, {"events_per_s": rate}, "events_per_s must be")]

    for target, options, problem in wrong:
        with pytest.raises(InvalidArgumentError, match=problem):
            await replay(store, target, **options)
    with pytest.raises(HandlerDefinitionError, match="too_many"):
        await replay(store, too_many)


async def test_a_closed_store_cannot_be_replayed(store: EventStore) -> None:
    await store.close()

    with pytest.raises(ClosedError):
        await replay(store, print)

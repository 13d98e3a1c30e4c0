"""Every event ends in exactly one way, in the order of its key, whatever fails, waits, hangs or is cancelled.

What a handler does with each attempt is drawn in advance, so that what must become of each event is known; the history
of what was done is then judged by functions that know nothing of the bus.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Final, Literal, NamedTuple, TypeAlias

from hypothesis import given, settings
from hypothesis import strategies as st

from avx_events import DeadLetterQueue, Discard, Event, EventBus, Reject, Retry, RetryAfter
from avx_events.bus.dead_letters import DeadLetter
from avx_events.bus.statistics import BusStatistics
from avx_events.bus.subscriber import Subscriber
from avx_events.testing import ManualClock
from tests.waiting import until

Act: TypeAlias = Literal["succeed", "fail", "discard", "reject", "later", "hang", "swallow"]
End: TypeAlias = Literal["handled", "discarded", "rejected", "failed"]

TIMEOUT_S: Final = 10.0
PATIENCE_TURNS: Final = 5_000
SELDOM: Final[tuple[Act, ...]] = ("discard", "reject", "later", "hang", "swallow")


class Scripted(Event, event_type="history.scripted", aggregate_id="key"):
    key: str
    number: int


class Part(NamedTuple):
    """What happens to one event: an act for each attempt, success after the last, and how long each takes."""

    key: str
    acts: tuple[Act, ...]
    turns: int = 0


class Entry(NamedTuple):
    """One line of the history: an attempt began, or ended in some way."""

    number: int
    is_begin: bool
    how: str = ""


@dataclass
class Play:
    """The handler of all events: does what the script says and writes down what it did."""

    parts: Sequence[Part]
    history: list[Entry] = field(default_factory=list[Entry])
    release: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def events(self) -> list[Scripted]:
        return [Scripted(part.key, number) for number, part in enumerate(self.parts)]

    async def perform(self, event: Scripted, attempt: int) -> None:
        part = self.parts[event.number]
        self.history.append(Entry(event.number, is_begin=True))
        how = "interrupted"
        try:
            for _ in range(part.turns):
                await asyncio.sleep(0)
            act = next(islice(part.acts, attempt - 1, None), "succeed")
            if act in {"hang", "swallow"}:
                how = act
                await asyncio.Event().wait()
            how = act
            raise_for(act)
        except asyncio.CancelledError:
            if how != "swallow":
                raise
            self.history.append(Entry(event.number, is_begin=False, how=how))
            await self.release.wait()
        finally:
            if how != "swallow":
                self.history.append(Entry(event.number, is_begin=False, how=how))


def raise_for(act: str) -> None:
    match act:
        case "fail":
            raise RuntimeError
        case "discard":
            raise Discard
        case "reject":
            raise Reject
        case "later":
            raise RetryAfter(3)
        case _:
            return


# What must be true


def fate(part: Part, retry: Retry) -> tuple[End, int]:
    """Return how an event ends, and after how many attempts."""
    finals: dict[Act, End] = {"succeed": "handled", "discard": "discarded", "reject": "rejected"}
    for attempt in range(1, retry.attempts + 1):
        act = next(islice(part.acts, attempt - 1, None), "succeed")
        if act in finals:
            return finals[act], attempt
    return "failed", retry.attempts


def out_of_order(history: Sequence[Entry], parts: Sequence[Part]) -> list[Entry]:
    """Return the attempts that began while another of their key ran, or after a later event of their key."""
    running: Counter[str] = Counter()
    latest: defaultdict[str, int] = defaultdict(lambda: -1)
    wrong: list[Entry] = []
    for entry in history:
        key = parts[entry.number].key
        if not key:
            continue
        if entry.is_begin:
            if running[key] or entry.number < latest[key]:
                wrong.append(entry)
            latest[key] = max(latest[key], entry.number)
        running[key] += 1 if entry.is_begin else -1
    return wrong


def most_at_once(history: Iterable[Entry]) -> int:
    running = most = 0
    for entry in history:
        running += 1 if entry.is_begin else -1
        most = max(most, running)
    return most


def attempts_of(history: Iterable[Entry]) -> Counter[int]:
    """Count the attempts that ran to an end of their own, for each event."""
    return Counter(entry.number for entry in history if not entry.is_begin and entry.how != "interrupted")


def ends_of(history: Sequence[Entry], letters: Sequence[DeadLetter]) -> dict[int, list[str]]:
    """Return how each event ended; more than one end is one too many."""
    ends: defaultdict[int, list[str]] = defaultdict(list)
    for entry in history:
        if entry.how in {"succeed", "discard"}:
            ends[entry.number].append("handled" if entry.how == "succeed" else "discarded")
    for letter in letters:
        assert letter.envelope is not None
        ends[letter.envelope.event.number].append(letter.reason)
    return ends


def adds_up(statistics: BusStatistics) -> bool:
    ended = statistics.handled + statistics.discarded + statistics.dead_lettered
    return statistics.published == statistics.delivered == ended + statistics.queued + statistics.in_flight


def test_the_judges_find_what_is_wrong() -> None:
    parts = [Part("a", ()), Part("a", ()), Part("", ())]
    first, second, free = (Entry(number, is_begin=True) for number in range(3))
    end_first, end_second = (Entry(number, is_begin=False, how="succeed") for number in range(2))

    assert out_of_order([first, end_first, second, end_second], parts) == []
    assert out_of_order([first, free, free, end_first, second], parts) == []
    assert out_of_order([first, second, end_first, end_second], parts) == [second]
    assert out_of_order([second, end_second, first, end_first], parts) == [first]
    assert most_at_once([first, free, end_first, second, end_second]) == 2
    assert ends_of([first, end_first, first, end_first], []) == {0: ["handled", "handled"]}
    assert fate(Part("a", ("fail", "later")), Retry(attempts=3)) == ("handled", 3)
    assert fate(Part("a", ("fail", "later")), Retry(attempts=2)) == ("failed", 2)
    assert fate(Part("a", ("fail", "reject")), Retry(attempts=9)) == ("rejected", 2)


# What is played


def parts_of(*seldom: Act) -> st.SearchStrategy[list[Part]]:
    acts = st.one_of(st.sampled_from(["succeed", "fail"]), st.sampled_from([*seldom, "fail"]))
    part = st.builds(
        Part, st.sampled_from(["a", "a", "b", ""]), st.lists(acts, max_size=4).map(tuple), st.integers(0, 2)
    )
    return st.lists(part, min_size=1, max_size=12)


retries = st.builds(Retry, attempts=st.integers(1, 4), initial_s=st.sampled_from([0.0, 1.0]), max_s=st.just(5.0))
pauses = st.lists(st.integers(0, 8), min_size=1, max_size=6)


async def publish_in_parts(bus: EventBus, events: Sequence[Scripted], pauses: Sequence[int]) -> None:
    """Publish a few at a time, with so many turns of the loop in between."""
    size = len(events) // len(pauses) + 1
    for begin, pause in zip(range(0, len(events), size), pauses, strict=False):
        for _ in range(pause):
            await asyncio.sleep(0)
        await bus.publish_many(events[begin : begin + size])


async def pass_time_until_done(task: "asyncio.Task[None]", clock: ManualClock) -> None:
    """Move the clock to what comes next, whenever nothing else happens, until ``task`` is done."""
    for turn in range(PATIENCE_TURNS):
        if task.done():
            return
        await asyncio.sleep(0)
        if turn % 20 == 19 and clock.pauses_s:
            clock.advance(clock.pauses_s[0])
    task.cancel()
    assert task.done(), "nothing comes of it any more"


def bus_of(clock: ManualClock, *, drain_timeout_s: float = 10.0) -> EventBus:
    return EventBus(dead_letter_queue=DeadLetterQueue(), clock=clock, drain_timeout_s=drain_timeout_s)


@settings(max_examples=150)
@given(parts=parts_of(*SELDOM), retry=retries, concurrency=st.integers(1, 4), pauses=pauses)
def test_every_event_of_a_handler_ends_once_as_it_must_and_in_order(
    parts: list[Part], retry: Retry, concurrency: int, pauses: list[int]
) -> None:
    async def scenario() -> None:
        clock = ManualClock()
        bus, play = bus_of(clock), Play(parts)
        tried: Counter[int] = Counter()

        @bus.on(Scripted, retry=retry, concurrency=concurrency, timeout_s=TIMEOUT_S)
        async def handler(event: Scripted) -> None:
            tried[event.number] += 1
            await play.perform(event, tried[event.number])

        async with bus, asyncio.TaskGroup() as tasks:
            await publish_in_parts(bus, play.events, pauses)
            await pass_time_until_done(tasks.create_task(bus.settled()), clock)
            statistics, letters = bus.statistics(), await bus.dead_letter_queue.list()
            play.release.set()

        fates = [fate(part, retry) for part in parts]
        assert ends_of(play.history, letters) == {number: [end] for number, (end, _) in enumerate(fates)}
        assert tried == {number: attempts for number, (_, attempts) in enumerate(fates)}
        assert out_of_order(play.history, parts) == []
        assert most_at_once(play.history) <= concurrency
        assert adds_up(statistics)
        assert statistics.retried == sum(attempts - 1 for _, attempts in fates)

    asyncio.run(scenario())


@settings(max_examples=100)
@given(
    parts=parts_of("discard", "reject", "later"),
    retry=retries,
    interruptions=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 6)), max_size=10),
    pauses=pauses,
)
def test_every_event_of_delivery_blocks_ends_once_as_it_must_whoever_is_cancelled(
    parts: list[Part], retry: Retry, interruptions: list[tuple[int, int]], pauses: list[int]
) -> None:
    async def scenario() -> None:
        clock = ManualClock()
        bus, play = bus_of(clock), Play(parts)
        subscriber = await bus.subscribe(Scripted, retry=retry)

        async def read() -> None:
            async for delivery in subscriber.deliveries():
                async with delivery as event:
                    await play.perform(event, delivery.attempt)

        async with asyncio.TaskGroup() as tasks:
            readers = [tasks.create_task(read()) for _ in range(3)]
            tasks.create_task(publish_in_parts(bus, play.events, pauses))
            for place, turns in interruptions:
                for _ in range(turns):
                    await asyncio.sleep(0)
                readers[place].cancel()
                readers[place] = tasks.create_task(read())
            await pass_time_until_done(tasks.create_task(all_read(bus, subscriber, len(parts))), clock)
            statistics, letters = bus.statistics(), await bus.dead_letter_queue.list()
            await bus.close()

        fates = [fate(part, retry) for part in parts]
        assert ends_of(play.history, letters) == {number: [end] for number, (end, _) in enumerate(fates)}
        assert attempts_of(play.history) == {number: attempts for number, (_, attempts) in enumerate(fates)}
        assert out_of_order(play.history, parts) == []
        assert adds_up(statistics)

    asyncio.run(scenario())


async def all_read(bus: EventBus, subscriber: Subscriber[Scripted], count: int) -> None:
    await until(lambda: bus.statistics().published == count and not subscriber.statistics().queued)
    await bus.settled()


@settings(max_examples=100)
@given(
    parts=parts_of("discard", "reject", "later"),
    retry=retries,
    concurrency=st.integers(1, 3),
    turns_before_close=st.integers(0, 15),
    stuck=st.sets(st.integers(0, 11), max_size=2),
)
def test_every_event_ends_once_however_early_the_bus_is_closed(
    parts: list[Part], retry: Retry, concurrency: int, turns_before_close: int, stuck: set[int]
) -> None:
    parts = [part._replace(acts=("hang",)) if number in stuck else part for number, part in enumerate(parts)]

    async def scenario() -> None:
        clock = ManualClock()
        bus, play = bus_of(clock, drain_timeout_s=4.0), Play(parts)
        tried: Counter[int] = Counter()

        @bus.on(Scripted, retry=retry, concurrency=concurrency)
        async def handler(event: Scripted) -> None:
            tried[event.number] += 1
            await play.perform(event, tried[event.number])

        await bus.start()
        await bus.publish_many(play.events)
        for _ in range(turns_before_close):
            await asyncio.sleep(0)
        async with asyncio.TaskGroup() as tasks:
            await pass_time_until_done(tasks.create_task(bus.close()), clock)

        ends = ends_of(play.history, await bus.dead_letter_queue.list())
        assert sorted(ends) == list(range(len(parts)))
        assert all(len(end) == 1 for end in ends.values())
        for number, (end, attempts) in enumerate(fate(part, retry) for part in parts):
            assert ends[number] in ([end], ["stopped"])
            assert tried[number] <= attempts
        assert out_of_order(play.history, parts) == []
        assert adds_up(bus.statistics())
        assert bus.statistics().queued == bus.statistics().in_flight == 0

    asyncio.run(scenario())

"""Whatever is done to a store, in any order, it answers as a list would: in memory, in a file, and opened again."""

import asyncio
import tempfile
from collections.abc import Awaitable, Sequence
from typing import Any, ClassVar, TypeVar

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from avx_events.core.clock import SystemClock
from avx_events.core.errors import AvxEventsError, ConcurrencyError, DuplicateEventIdError, StreamNotFoundError
from avx_events.core.event import Event
from avx_events.core.metadata import EventEnvelope, EventMetadata
from avx_events.patterns.aggregate import AggregateRoot
from avx_events.store.event_store import EventStore
from avx_events.store.ports import AppendResult
from avx_events.store.stored_event import StoredEvent

ResultT = TypeVar("ResultT")

STREAMS = ("a", "b", "ä")


class Put(Event, event_type="model.put"):
    number: int


class Numbers(AggregateRoot):
    numbers: list[int] = []  # noqa: RUF012 - each instance has its own

    def apply(self, event: Event) -> None:
        if isinstance(event, Put):
            self.numbers.append(event.number)


# Few events, so that batches meet what is in the log already: all of it, a part of it, in another order or stream.
batches = st.lists(st.integers(0, 40), min_size=1, max_size=4, unique=True)
offsets = st.sampled_from([None, None, 0, 0, -1, 1, 5])


class Row(msgspec.Struct, frozen=True):
    """What the model keeps of an event, whose number is also its id."""

    stream: str
    version: int
    number: int


class Model:
    """The log as a list, and the laws of an append in their simplest form."""

    def __init__(self) -> None:
        self.log: list[Row] = []
        self.appends = 0

    def stream(self, stream: str) -> list[Row]:
        return [row for row in self.log if row.stream == stream]

    def append(self, stream: str, batch: Sequence[int], expected: int | None) -> int | type[AvxEventsError]:
        """Append and return the version, or return which error it is."""
        known = {row.number: row for row in self.log}
        found = [known[number] for number in batch if number in known]
        if any(row.stream != stream for row in found):
            return DuplicateEventIdError
        version = len(self.stream(stream))
        if len(found) == len(batch):
            return max(row.version for row in found)
        if found or expected not in {None, version}:
            return ConcurrencyError
        self.log += [Row(stream, version + place, number) for place, number in enumerate(batch, start=1)]
        self.appends += 1
        return version + len(batch)


class SetClock(SystemClock):
    """Shows what it is set to, as the clock of a machine does whose time is put right."""

    def __init__(self) -> None:
        self.now_s = 1_700_000_000

    def time_ns(self) -> int:
        return self.now_s * 1_000_000_000


class StoreMachine(RuleBasedStateMachine):
    """Does the same to a store and to the model. The subclasses say which store."""

    url: ClassVar[str] = ""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory()
        self.clock = SetClock()
        self.model = Model()
        self.kept: list[tuple[str, list[int]]] = []
        self.seen: list[StoredEvent[Any]] = []

    def run(self, call: Awaitable[ResultT]) -> ResultT:
        async def within_deadline() -> ResultT:
            async with asyncio.timeout(20):
                return await call

        return self.runner.run(within_deadline())

    async def open(self) -> EventStore:
        if not self.url:
            return EventStore(snapshot_every=2, clock=self.clock)
        return await EventStore.connect(self.url.format(folder=self.folder.name), snapshot_every=2, clock=self.clock)

    async def log(self) -> list[StoredEvent[Any]]:
        return [stored async for stored in self.store.read_all()]

    @initialize()
    def begin(self) -> None:
        self.store = self.run(self.open())
        self.follower = self.store.subscribe()

    @rule(stream=st.sampled_from(STREAMS), batch=batches, offset=offsets)
    def append(self, stream: str, batch: list[int], offset: int | None) -> None:
        self.check_append(stream, batch, offset)

    @rule(pick=st.integers(0, 50), ids=st.slices(3), more=st.just([]) | batches, offset=offsets)
    def append_again(self, pick: int, ids: slice, more: list[int], offset: int | None) -> None:
        if self.kept:
            stream, batch = self.kept[pick % len(self.kept)]
            again = list(dict.fromkeys([*batch[ids], *more])) or batch
            self.check_append(stream, again, offset)

    def check_append(self, stream: str, batch: list[int], offset: int | None) -> None:
        expected = None if offset is None else max(0, len(self.model.stream(stream)) + offset)
        outcome = self.model.append(stream, batch, expected)

        result = self.run(self.appended(stream, batch, expected))

        assert (result.version if isinstance(result, AppendResult) else type(result)) == outcome
        if isinstance(result, AppendResult):
            assert result.position == self.position_of(stream, result.version)
            self.kept.append((stream, batch))

    @rule(stream=st.sampled_from(STREAMS), appends=st.lists(batches, min_size=2, max_size=5))
    def append_at_once(self, stream: str, appends: list[list[int]]) -> None:
        outcomes = [self.model.append(stream, batch, None) for batch in appends]

        results = self.run(self.together(stream, appends))

        assert [one.version if isinstance(one, AppendResult) else type(one) for one in results] == outcomes

    async def together(self, stream: str, appends: list[list[int]]) -> list[AppendResult | AvxEventsError]:
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(self.appended(stream, batch)) for batch in appends]
        return [task.result() for task in running]

    async def appended(
        self, stream: str, batch: list[int], expected: int | None = None
    ) -> AppendResult | AvxEventsError:
        try:
            return await self.store.append(stream, envelopes(batch), expected_version=expected)
        except AvxEventsError as error:
            return error

    @rule(stream=st.sampled_from(STREAMS), after=st.integers(0, 12), until=st.none() | st.integers(0, 12))
    def read_a_range(self, stream: str, after: int, until: int | None) -> None:
        async def read() -> list[StoredEvent[Any]]:
            return [one async for one in self.store.read_stream(stream, after=after, until_version=until)]

        assert rows(self.run(read())) == self.model.stream(stream)[after:until]
        assert rows(self.run(self.store.get_events(stream, after))) == self.model.stream(stream)[after:]

    @rule(stream=st.sampled_from(STREAMS), pick=st.integers(0, 50), shift_us=st.integers(-1, 1))
    def travel_in_time(self, stream: str, pick: int, shift_us: int) -> None:
        log = self.run(self.log())
        if not log:
            return
        at = log[pick % len(log)]
        instant = msgspec.structs.replace(at, recorded_us=at.recorded_us + shift_us).recorded_at

        async def read() -> list[StoredEvent[Any]]:
            return [one async for one in self.store.read_stream(stream, as_of=instant)]

        recorded = [one for one in log if one.stream == stream and one.recorded_us <= at.recorded_us + shift_us]
        assert self.run(read()) == recorded
        self.check_load(stream, recorded, as_of=instant)

    @rule(stream=st.sampled_from(STREAMS), version=st.none() | st.integers(0, 12))
    def load(self, stream: str, version: int | None) -> None:
        log = [one for one in self.run(self.log()) if one.stream == stream]
        self.check_load(stream, log[:version], at_version=version)

    def check_load(self, stream: str, events: list[StoredEvent[Any]], **bounds: Any) -> None:
        try:
            loaded = self.run(self.store.load(Numbers, stream, **bounds))
        except StreamNotFoundError:
            assert events == []
        else:
            assert (loaded.version, loaded.numbers) == (len(events), [one.event.number for one in events])

    @rule(after=st.integers(0, 20))
    def read_the_log_from_a_position(self, after: int) -> None:
        log = self.run(self.log())

        async def read() -> list[StoredEvent[Any]]:
            return [one async for one in self.store.read_all(after=after)]

        assert self.run(read()) == [one for one in log if one.position > after]

    @rule(by_s=st.integers(-1_000, 1_000))
    def set_the_clock(self, by_s: int) -> None:
        self.clock.now_s += by_s

    @rule()
    def follow(self) -> None:
        while len(self.seen) < len(self.model.log):
            self.seen.append(self.run(anext(self.follower)))

        assert self.seen == self.run(self.log())

    @rule()
    def open_again(self) -> None:
        before = self.run(self.log())
        if not self.url:
            return
        self.run(self.store.close())
        self.store = self.run(self.open())
        self.follower = self.store.subscribe(after=self.follower.position)

        assert self.run(self.log()) == before

    @invariant()
    def the_log_is_the_model(self) -> None:
        if not hasattr(self, "store"):
            return
        log = self.run(self.log())
        positions, instants = [one.position for one in log], [one.recorded_us for one in log]
        assert rows(log) == self.model.log
        assert positions == sorted(set(positions))
        assert instants == sorted(instants)
        assert len(set(instants)) == self.model.appends
        assert self.run(self.store.last_position()) == (positions[-1] if positions else 0)
        for stream in STREAMS:
            assert self.run(self.store.version_of(stream)) == len(self.model.stream(stream))

    def position_of(self, stream: str, version: int) -> int:
        [place] = [one.position for one in self.run(self.log()) if (one.stream, one.version) == (stream, version)]
        return place

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.run(self.store.close())
        self.runner.close()
        self.folder.cleanup()


def envelopes(batch: Sequence[int]) -> list[EventEnvelope[Any]]:
    return [
        EventEnvelope(Put(number), EventMetadata(f"id-{number}", "model.put", "", 1, f"id-{number}"), "model.put")
        for number in batch
    ]


def rows(log: Sequence[StoredEvent[Any]]) -> list[Row]:
    assert [one.metadata.event_id for one in log] == [f"id-{one.event.number}" for one in log]
    return [Row(one.stream, one.version, one.event.number) for one in log]


class MemoryMachine(StoreMachine):
    """Lists."""


class FileMachine(StoreMachine):
    """A file, written by a thread."""

    url = "sqlite:///{folder}/events.db?writer=thread"


class InlineMachine(StoreMachine):
    """A file, written on the loop."""

    url = "sqlite:///{folder}/events.db?writer=inline"


TestMemory = MemoryMachine.TestCase
TestFile = FileMachine.TestCase
TestInline = InlineMachine.TestCase

TestMemory.settings = settings(max_examples=60, stateful_step_count=25)
TestFile.settings = settings(max_examples=12, stateful_step_count=25)
TestInline.settings = settings(max_examples=12, stateful_step_count=25)

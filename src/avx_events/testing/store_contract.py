"""What every engine of the event store promises, as a pytest class that anybody can run on an engine of their own."""

# ruff: noqa: D102, PLR2004, S101 - tests: a name is its docstring, expected values stand in place, assert speaks

import asyncio
import copy
from collections.abc import Callable, Coroutine, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest

from avx_events.core.clock import SYSTEM_CLOCK
from avx_events.core.errors import (
    AvxEventsError,
    ClosedError,
    ConcurrencyError,
    DecodeError,
    DuplicateEventIdError,
    EncodeError,
    EventTooLargeError,
    InvalidArgumentError,
    NotAnEventError,
    StreamNotFoundError,
    UnknownEventTypeError,
)
from avx_events.core.event import Command, Event, UnknownEvent
from avx_events.core.metadata import EventEnvelope, EventMetadata, context, stamp
from avx_events.patterns.aggregate import AggregateRoot
from avx_events.store.event_store import EventStore
from avx_events.store.ports import PAGE_EVENTS, STRETCH_EVENTS, AppendResult
from avx_events.store.stored_event import StoredEvent
from avx_events.store.streams import StreamInfo
from avx_events.store.subscription import StoreSubscription
from avx_events.testing.own_loop import interrupted, on_its_own_loop
from avx_events.testing.renamed import NEW_TYPE, guest_arrived, guest_came


class Deposited(Event, event_type="avx.contract.deposited", aggregate_id="account_id"):
    """Money came in; the event of most tests."""

    account_id: str
    amount: int
    note: str = ""
    rate: float = 0.0


class Withdrawn(Event, event_type="avx.contract.withdrawn", aggregate_id="account_id"):
    """Money went out."""

    account_id: str
    amount: int


class Account(AggregateRoot):
    """What deposits and withdrawals make."""

    balance: int = 0
    amounts: list[int] = []  # noqa: RUF012 - each instance has its own

    def apply(self, event: Event) -> None:
        match event:
            case Deposited(amount=amount):
                self.balance += amount
                self.amounts.append(amount)
            case Withdrawn(amount=amount):
                self.balance -= amount
                self.amounts.append(-amount)
            case _:
                pass


class Tally(AggregateRoot):
    """Another view of the same events."""

    count: int = 0

    def apply(self, event: Event) -> None:
        del event
        self.count += 1


class Close(Command[None], event_type="avx.contract.close"):
    """A command, which is no event."""


class StoreContract:
    """The promises of ``StoreEngine`` and of the store on top of it, one test each.

    Derive a class whose name begins with ``Test``, say how a store is opened, and let pytest find it::

        class TestMyEngine(StoreContract):
            url = "mine://{folder}/events"

    Where a URL is not enough, override ``connect``. Each test opens its stores in a folder of its own, and finds them
    empty. It has an event loop of its own and 30 seconds, and fails where it leaves a task behind. Engines that keep
    events on disk or on a server derive from ``DurableStoreContract``.

    Attributes:
        url: The URL of a store; ``{folder}`` stands for the folder. Empty for memory.
    """

    url: ClassVar[str] = ""

    async def connect(self, folder: Path, **options: Any) -> EventStore:
        """Open the store of ``folder``, with the options of ``EventStore.connect``."""
        if not self.url:
            return EventStore(**options)
        return await EventStore.connect(self.url.format(folder=folder), **options)

    # Append

    @on_its_own_loop
    async def test_an_append_gives_versions_and_positions_from_1(self, tmp_path: Path) -> None:
        async with await self.connect(tmp_path) as store:
            first = await store.append("a", [Deposited("a", 1), Deposited("a", 2)])
            second = await store.append("b", Deposited("b", 3))

            assert (first, second) == (AppendResult(2, 2), AppendResult(1, 3))
            assert [place(stored) for stored in await store.get_events("a")] == [("a", 1, 1), ("a", 2, 2)]
            assert [stored.event async for stored in store.read_all()] == [
                Deposited("a", 1),
                Deposited("a", 2),
                Deposited("b", 3),
            ]

    @on_its_own_loop
    async def test_an_event_and_its_metadata_come_back_as_they_were(self, tmp_path: Path) -> None:
        async with await self.connect(tmp_path) as store:
            with context(correlation_id="request-7", user_id="user-3", causation_id="cause-1"):
                inside = stamp(
                    Deposited("ä-\U0001f600", 2**63 - 1, "x\0y"), clock=SYSTEM_CLOCK, headers={"tenant": "é"}
                )
            chosen = stamp(Deposited("b", -(2**63)), clock=SYSTEM_CLOCK, topic="bank.deposits")

            await store.append("s", [inside, chosen])
            read = await store.get_events("s")

            assert [(stored.event, stored.metadata, stored.topic) for stored in read] == [
                (envelope.event, envelope.metadata, envelope.topic) for envelope in (inside, chosen)
            ]

    @on_its_own_loop
    async def test_an_event_is_stamped_in_the_context_it_is_appended_in(self, tmp_path: Path) -> None:
        async with await self.connect(tmp_path) as store:
            with context(correlation_id="request-7", user_id="user-3", causation_id="cause-1"):
                await store.append("a", Deposited("a", 1))
            [stored] = await store.get_events("a")

            metadata = stored.metadata
            assert (metadata.correlation_id, metadata.user_id, metadata.causation_id) == (
                "request-7",
                "user-3",
                "cause-1",
            )
            assert (metadata.aggregate_id, stored.topic) == ("a", "avx.contract.deposited")

    @on_its_own_loop
    async def test_an_append_is_whole_or_absent(self, tmp_path: Path) -> None:
        async with await self.connect(tmp_path) as store:
            for unfit in (Deposited("a", "many"), "no event", Close()):  # type: ignore[arg-type]
                with pytest.raises((EncodeError, NotAnEventError)):
                    await store.append("a", [Deposited("a", 1), unfit])
            await store.append("a", Deposited("a", 1))
            with pytest.raises(ConcurrencyError):
                await store.append("a", [Deposited("a", 2), Deposited("a", 3)], expected_version=0)

            assert await amounts(store) == [1]

    @on_its_own_loop
    async def test_an_expected_version_that_does_not_hold_appends_nothing(self, tmp_path: Path) -> None:
        async with await self.connect(tmp_path) as store:
            await store.append("a", [Deposited("a", 1), Deposited("a", 2)], expected_version=0)

            for expected in (0, 1, 3, 2**63 - 1):
                with pytest.raises(ConcurrencyError) as caught:
                    await store.append("a", Deposited("a", 9), expected_version=expected)
                assert (caught.value.stream, caught.value.expected, caught.value.actual) == ("a", expected, 2)
            result = await store.append("a", Deposited("a", 3), expected_version=2)

            assert result == AppendResult(3, 3)
            assert await amounts(store) == [1, 2, 3]

    @on_its_own_loop
    async def test_of_appends_that_expect_one_version_one_wins(self, tmp_path: Path) -> None:
        async with await self.connect(tmp_path) as store:
            outcomes = await together(
                [store.append("a", Deposited("a", number), expected_version=0) for number in range(20)]
            )

            won = [outcome for outcome in outcomes if isinstance(outcome, AppendResult)]
            lost = [outcome for outcome in outcomes if isinstance(outcome, ConcurrencyError)]
            assert (won, len(lost)) == ([AppendResult(1, 1)], 19)
            assert {(error.expected, error.actual) for error in lost} == {(0, 1)}
            assert len(await store.get_events("a")) == 1

    @on_its_own_loop
    async def test_concurrent_appends_are_all_there_without_gap(self, tmp_path: Path) -> None:
        async with await self.connect(tmp_path) as store:
            outcomes = await together(
                [store.append(f"s-{number % 7}", [Deposited("s", number)] * 3) for number in range(200)]
            )

            log = [stored async for stored in store.read_all()]
            results = [outcome for outcome in outcomes if isinstance(outcome, AppendResult)]
            assert len({result.position for result in results}) == 200
            assert sorted(await amounts(store)) == sorted([*range(200)] * 3)
            assert_in_order(log)

    # Repeats

    @on_its_own_loop
    async def test_appending_the_same_envelopes_again_gives_the_first_result(self, tmp_path: Path) -> None:
        async with await self.connect(tmp_path) as store:
            envelopes = stamped(1, 2)
            first = await store.append("a", envelopes, expected_version=0)
            await store.append("a", Deposited("a", 3))

            for expected in (None, 0, 2, 3, 99):
                assert await store.append("a", envelopes, expected_version=expected) == first
            assert await store.append("a", envelopes[:1]) == AppendResult(1, 1)
            assert await amounts(store) == [1, 2, 3]

    @on_its_own_loop
    async def test_repeats_that_run_at_once_append_once(self, tmp_path: Path) -> None:
        async with await self.connect(tmp_path) as store:
            envelopes = stamped(1, 2)

            outcomes = await together([store.append("a", envelopes, expected_version=0) for _ in range(20)])

            assert outcomes == [AppendResult(2, 2)] * 20
            assert await amounts(store) == [1, 2]

    @on_its_own_loop
    async def test_a_part_of_the_ids_being_there_is_a_conflict(self, tmp_path: Path) -> None:
        async with await self.connect(tmp_path) as store:
            envelopes = stamped(1, 2, 3)
            await store.append("a", envelopes[:2])

            for expected in (None, 0, 2):
                with pytest.raises(ConcurrencyError) as caught:
                    await store.append("a", envelopes, expected_version=expected)
                assert caught.value.actual == 2
            with pytest.raises(ConcurrencyError):
                await store.append("a", [envelopes[2], envelopes[0]])

            assert await amounts(store) == [1, 2]

    @on_its_own_loop
    async def test_an_id_of_another_stream_is_refused(self, tmp_path: Path) -> None:
        async with await self.connect(tmp_path) as store:
            envelopes = stamped(1, 2)
            await store.append("a", envelopes[:1])

            for batch in (envelopes, envelopes[:1]):
                with pytest.raises(DuplicateEventIdError) as caught:
                    await store.append("b", batch)
                assert (caught.value.existing, caught.value.stream) == ("a", "b")

            assert await amounts(store) == [1]

    @on_its_own_loop
    async def test_a_member_that_fails_does_not_take_its_neighbours_with_it(self, tmp_path: Path) -> None:
        async with await self.connect(tmp_path) as store:
            envelopes = stamped(1, 2)
            await store.append("a", envelopes)

            outcomes = await together(
                [
                    store.append("b", Deposited("b", 3)),
                    store.append("a", envelopes),
                    store.append("b", envelopes),
                    store.append("c", Deposited("c", 4), expected_version=7),
                    store.append("b", Deposited("b", 5)),
                ]
            )

            assert [type(outcome) for outcome in outcomes] == [
                AppendResult,
                AppendResult,
                DuplicateEventIdError,
                ConcurrencyError,
                AppendResult,
            ]
            assert outcomes[1] == AppendResult(2, 2)
            assert sorted(await amounts(store)) == [1, 2, 3, 5]

    @on_its_own_loop
    async def test_a_cancelled_append_can_be_repeated(self, tmp_path: Path) -> None:
        async with await self.connect(tmp_path) as store:
            for turns in range(30):
                envelopes = stamped(turns, turns)
                await interrupted(store.append(f"s-{turns}", envelopes, expected_version=0), after_turns=turns)

                result = await store.append(f"s-{turns}", envelopes, expected_version=0)

                assert result.version == 2
                assert [stored.event.amount for stored in await store.get_events(f"s-{turns}")] == [turns, turns]
            assert_in_order([stored async for stored in store.read_all()])

    @on_its_own_loop
    async def test_a_stored_event_that_is_appended_again_changes_nothing(self, tmp_path: Path) -> None:
        async with await self.connect(tmp_path) as store:
            await store.append("a", Deposited("a", 1))
            stored = await store.get_events("a")

            assert await store.append("a", stored) == AppendResult(1, 1)
            assert await amounts(store) == [1]

    # Reading

    @on_its_own_loop
    async def test_a_stream_that_is_not_there_is_empty(self, tmp_path: Path) -> None:
        async with await self.connect(tmp_path) as store:
            assert await store.get_events("a") == []
            assert [stored async for stored in store.read_stream("a", after=7)] == []
            assert [stored async for stored in store.read_all()] == []
            assert (await store.version_of("a"), await store.last_position()) == (0, 0)

    @on_its_own_loop
    async def test_reads_go_on_over_their_pages(self, tmp_path: Path) -> None:
        async with await self.connect(tmp_path) as store:
            for count in (PAGE_EVENTS, 1, PAGE_EVENTS, PAGE_EVENTS - 1):
                await store.append("long", [Deposited("long", number) for number in range(count)])
                await store.append("other", Deposited("other", -1))

            long = await store.get_events("long")
            log = [stored async for stored in store.read_all()]

            assert [stored.version for stored in long] == [*range(1, 3 * PAGE_EVENTS + 1)]
            assert [stored async for stored in store.read_stream("long")] == long
            assert len(log) == 3 * PAGE_EVENTS + 4
            assert_in_order(log)
            assert [stored async for stored in store.read_all(after=PAGE_EVENTS)] == log[PAGE_EVENTS:]
            assert await store.get_events("long", PAGE_EVENTS) == long[PAGE_EVENTS:]
            assert (await store.version_of("long"), await store.last_position()) == (3 * PAGE_EVENTS, len(log))

    @on_its_own_loop
    async def test_time_travel_by_version_and_by_instant_includes_its_end(self, tmp_path: Path) -> None:
        async with await self.connect(tmp_path) as store:
            for number in range(1, 4):
                await store.append("a", [Deposited("a", number), Deposited("a", -number)])
            log = await store.get_events("a")

            for stored in log:
                at_version = [one async for one in store.read_stream("a", at_version=stored.version)]
                until_version = [one async for one in store.read_stream("a", until_version=stored.version)]
                as_of = [one async for one in store.read_stream("a", as_of=stored.recorded_at)]
                before = [one async for one in store.read_stream("a", as_of=stored.recorded_at - timedelta.resolution)]

                assert at_version == until_version == log[: stored.version]
                assert await store.get_events("a", at_version=stored.version) == at_version
                assert await store.get_events("a", as_of=stored.recorded_at) == as_of
                assert await store.get_events("a", 1, at_version=stored.version) == at_version[1:]
                assert as_of == [one for one in log if one.recorded_us <= stored.recorded_us]
                assert before == [one for one in log if one.recorded_us < stored.recorded_us]
            assert [one async for one in store.read_stream("a", at_version=0)] == []
            assert [one async for one in store.read_stream("a", at_version=99)] == log
            with pytest.raises(InvalidArgumentError, match="the older name"):
                await anext(store.read_stream("a", at_version=1, until_version=1))
            assert [one async for one in store.read_stream("a", as_of=datetime.min.replace(tzinfo=UTC))] == []
            assert [one async for one in store.read_stream("a", as_of=datetime.max.replace(tzinfo=UTC))] == log

    @on_its_own_loop
    async def test_the_position_at_an_instant_is_that_of_the_newest_event_by_then(self, tmp_path: Path) -> None:
        async with await self.connect(tmp_path) as store:
            assert await store.last_position(as_of=datetime.now(UTC)) == 0
            for number in range(1, 8):
                await store.append(f"s-{number % 3}", [Deposited("a", number)] * number)
            log = [stored async for stored in store.read_all()]

            for stored in log:
                then = await store.last_position(as_of=stored.recorded_at)
                before = await store.last_position(as_of=stored.recorded_at - timedelta.resolution)

                assert then == max(one.position for one in log if one.recorded_us <= stored.recorded_us)
                assert before == max((one.position for one in log if one.recorded_us < stored.recorded_us), default=0)
                assert [one async for one in store.read_all(as_of=stored.recorded_at)] == log[:then]
            assert await store.last_position(as_of=datetime.max.replace(tzinfo=UTC)) == len(log)
            with pytest.raises(InvalidArgumentError, match="time zone"):
                await store.last_position(as_of=datetime(2024, 1, 1))  # noqa: DTZ001 - that is what is refused

    @on_its_own_loop
    async def test_each_append_is_recorded_later_than_the_one_before(self, tmp_path: Path) -> None:
        async with await self.connect(tmp_path) as store:
            await together([store.append(f"s-{number}", [Deposited("a", number)] * 2) for number in range(50)])
            log = [stored async for stored in store.read_all()]

            instants = [stored.recorded_us for stored in log]
            assert instants[::2] == instants[1::2]
            assert instants[::2] == sorted(set(instants))
            assert abs(log[0].recorded_at - datetime.now(UTC)) < timedelta(minutes=5)

    @on_its_own_loop
    async def test_an_unknown_type_is_an_error_that_names_it_or_is_kept(self, tmp_path: Path) -> None:
        async with await self.connect(tmp_path) as store:
            unknown = UnknownEvent("avx.contract.never.defined", {"a": [1, None, "x"]}, 3)
            known, other = stamped(1, 2)
            metadata = replaced(other, event_type="avx.contract.never.defined")
            await store.append("a", [known, EventEnvelope(unknown, metadata, "some.topic")])

            with pytest.raises(UnknownEventTypeError, match=r"avx\.contract\.never\.defined"):
                await store.get_events("a")
            seen: list[object] = []
            with pytest.raises(UnknownEventTypeError):
                seen += [stored.event async for stored in store.read_all()]
            kept = await store.get_events("a", unknown="keep")

            assert [stored.event for stored in kept] == [Deposited("a", 1), unknown]
            assert (kept[1].topic, kept[1].metadata.event_type) == ("some.topic", "avx.contract.never.defined")
            assert await store.append("a", kept) == AppendResult(2, 2)
        folder = tmp_path / "copy"
        folder.mkdir()
        async with await self.connect(folder, unknown="keep") as keeping:
            await keeping.append("copy", kept)

            assert [stored.event async for stored in keeping.read_all()] == [Deposited("a", 1), unknown]

    @on_its_own_loop
    async def test_data_of_an_older_revision_is_upcast(self, tmp_path: Path) -> None:
        async with await self.connect(tmp_path) as store:
            older = renamed(revision=1)
            await store.append("a", older("Ada Lovelace"))
            newer = renamed(revision=2)

            [stored] = await store.get_events("a")

            assert stored.event == newer("Ada", "Lovelace")

    @on_its_own_loop
    async def test_events_of_an_old_name_and_revision_are_those_of_their_class_today(self, tmp_path: Path) -> None:
        async with await self.connect(tmp_path) as store, EventStore() as other:
            old = guest_came()
            await store.append("a", [old("7", "Ada Lovelace"), stamp(old("7", ""), clock=SYSTEM_CLOCK, topic="a.b")])
            new = guest_arrived()
            await store.append("a", new("8", "Alan", "Turing"))

            log = [stored async for stored in store.read_all()]

            events = [new("7", "Ada", "Lovelace"), new("7", "", ""), new("8", "Alan", "Turing")]
            assert [stored.event for stored in log] == events
            assert [stored.metadata.event_type for stored in log] == [NEW_TYPE] * 3
            assert [stored.topic for stored in log] == [NEW_TYPE, "a.b", NEW_TYPE]
            assert await store.get_events("a") == await take(store.subscribe(), 3) == log
            assert (await store.append("a", log[:2])).version == 2  # it has them, whatever they were called
            await other.append("b", log)
            assert [stored.event for stored in await other.get_events("b")] == events

    @on_its_own_loop
    async def test_data_that_no_longer_fits_is_an_error_that_says_where(self, tmp_path: Path) -> None:
        async with await self.connect(tmp_path) as store:
            await store.append("a", Deposited("a", 1))
            older = renamed(revision=1)
            await store.append("a", older("Ada Lovelace"))
            newest = renamed(revision=3)

            reader = store.read_stream("a")
            assert (await anext(reader)).event == Deposited("a", 1)
            with pytest.raises(DecodeError) as caught:
                await anext(reader)

            assert newest.event_type == "avx.contract.renamed"  # while it is held, it is the class of the type
            assert "stream 'a' at version 2" in "".join(caught.value.__notes__)

    # Following

    @on_its_own_loop
    async def test_a_follower_catches_up_and_goes_on_live(self, tmp_path: Path) -> None:
        async with await self.connect(tmp_path) as store, asyncio.TaskGroup() as tasks:
            await store.append("a", [Deposited("a", number) for number in range(PAGE_EVENTS + 3)])
            whole, tail = store.subscribe(), store.subscribe(after=2)
            readers = [
                tasks.create_task(take(whole, PAGE_EVENTS + 5)),
                tasks.create_task(take(tail, PAGE_EVENTS + 3)),
            ]
            await store.append("a", [Deposited("a", -1), Deposited("a", -2)])

            log = await store.get_events("a")
            assert [await reader for reader in readers] == [log, log[2:]]
            assert (whole.position, tail.position) == (PAGE_EVENTS + 5, PAGE_EVENTS + 5)

    @on_its_own_loop
    async def test_a_follower_under_concurrent_appends_sees_each_event_once(self, tmp_path: Path) -> None:
        async with await self.connect(tmp_path) as store, asyncio.TaskGroup() as tasks:
            appenders, appends = 30, 20

            async def append_many(number: int) -> None:
                for turn in range(appends):
                    await store.append(f"s-{number % 5}", Deposited("s", turn))

            appending = [tasks.create_task(append_many(number)) for number in range(appenders)]
            first = store.subscribe()
            readers: list[asyncio.Task[list[StoredEvent[Any]]]] = []
            for _ in range(appenders):  # a follower each few events: each has the seam between old and new elsewhere
                await take(first, appends // 2)
                after = await store.last_position()
                readers.append(tasks.create_task(take(store.subscribe(after=after), appenders * appends - after)))
            for task in appending:
                await task

            log = [stored async for stored in store.read_all()]
            assert len(log) == appenders * appends
            assert_in_order(log)
            for reader in readers:
                seen = await reader
                assert seen == log[len(log) - len(seen) :]

    @on_its_own_loop
    async def test_a_step_of_a_follower_that_was_cancelled_can_be_repeated(self, tmp_path: Path) -> None:
        async with await self.connect(tmp_path) as store:
            follower = store.subscribe()
            seen: list[StoredEvent[Any]] = []
            for turns in range(30):
                await store.append("a", Deposited("a", turns))
                seen += await interrupted(take(follower, 1), after_turns=turns) or []

            while len(seen) < 30:
                seen += await take(follower, 1)

            assert seen == await store.get_events("a")

    @on_its_own_loop
    async def test_a_follower_goes_on_after_an_error(self, tmp_path: Path) -> None:
        async with await self.connect(tmp_path) as store:
            older = renamed(revision=1)
            await store.append("a", [Deposited("a", 1), older("Ada Lovelace"), Deposited("a", 2)])
            newest = renamed(revision=3)
            follower = store.subscribe()

            assert [stored.version for stored in await take(follower, 1)] == [1]
            for _ in range(2):
                with pytest.raises(DecodeError):
                    await anext(follower)
            del newest
            newer = renamed(revision=2)

            assert [stored.event for stored in await take(follower, 2)] == [newer("Ada", "Lovelace"), Deposited("a", 2)]

    @on_its_own_loop
    async def test_followers_end_when_the_store_closes(self, tmp_path: Path) -> None:
        store = await self.connect(tmp_path)
        await store.append("a", Deposited("a", 1))
        waiting, idle = store.subscribe(), store.subscribe()
        has_begun = asyncio.Event()

        async def read_to_the_end() -> int:
            await anext(waiting)
            has_begun.set()
            return len([stored async for stored in waiting])

        async with asyncio.TaskGroup() as tasks:
            reader = tasks.create_task(read_to_the_end())
            await has_begun.wait()
            await store.close()

            assert await reader == 0
        assert [stored async for stored in idle] == []

    # Filters

    @on_its_own_loop
    async def test_a_reader_gets_the_types_and_streams_it_asks_for(self, tmp_path: Path) -> None:
        async with await self.connect(tmp_path) as store:
            await store.append("user-1", [Deposited("a", 1), Withdrawn("a", 2)])
            await store.append("users", Withdrawn("a", 3))
            await store.append("user-%", Deposited("a", 4))
            await store.append("User-2", Deposited("a", 5))
            log = [stored async for stored in store.read_all()]

            for wanted, expected in [
                ({"types": Deposited}, [1, 4, 5]),
                ({"types": (Withdrawn, Deposited)}, [1, 2, 3, 4, 5]),
                ({"types": "avx.contract.withdrawn"}, [2, 3]),
                ({"types": ["avx.contract.never"]}, []),
                ({"types": Event}, [1, 2, 3, 4, 5]),
                ({"stream_prefix": "user-"}, [1, 2, 4]),
                ({"stream_prefix": "user-%"}, [4]),
                ({"stream_prefix": "user_"}, []),
                ({"stream_prefix": "user-", "types": [Withdrawn]}, [2]),
                ({"until": 3}, [1, 2, 3]),
                ({"until": 0}, []),
                ({"after": 1, "until": 4, "types": Deposited}, [4]),
                ({"as_of": log[2].recorded_at}, [1, 2, 3]),
                ({"as_of": log[2].recorded_at - timedelta.resolution, "types": Withdrawn}, [2]),
                ({"as_of": log[0].recorded_at - timedelta.resolution}, []),
            ]:
                options: Any = wanted
                assert [stored.event.amount async for stored in store.read_all(**options)] == expected

    @on_its_own_loop
    async def test_a_filter_goes_on_over_pages_and_stretches(self, tmp_path: Path) -> None:
        async with await self.connect(tmp_path) as store:
            for _ in range(2):
                await store.append("rare", Withdrawn("rare", 0))
                await store.append("many", [Deposited("many", number) for number in range(STRETCH_EVENTS + 1)])

            rare = [stored async for stored in store.read_all(types=Withdrawn)]
            many = [stored.position async for stored in store.read_all(stream_prefix="many")]
            follower = store.subscribe(types=[Withdrawn])
            seen = await take(follower, 2)

            assert [stored.position for stored in rare] == [1, STRETCH_EVENTS + 3]
            assert many == [*range(2, STRETCH_EVENTS + 3), *range(STRETCH_EVENTS + 4, 2 * STRETCH_EVENTS + 5)]
            assert seen == rare

    @on_its_own_loop
    async def test_a_follower_with_a_filter_passes_over_the_rest(self, tmp_path: Path) -> None:
        async with await self.connect(tmp_path) as store, asyncio.TaskGroup() as tasks:
            follower = store.subscribe(types=Withdrawn)
            reader = tasks.create_task(take(follower, 3))
            for number in range(3):
                await store.append("a", [Deposited("a", number)] * 3)
                await store.append("a", Withdrawn("a", number))

            assert [stored.event.amount for stored in await reader] == [0, 1, 2]
            waiting = tasks.create_task(take(follower, 1))
            await store.append("a", Deposited("a", 9))
            while follower.position < 13:  # noqa: ASYNC110 - only a step of the reader moves it
                await asyncio.sleep(0)
            await store.append("a", Withdrawn("a", 9))
            assert [stored.position for stored in await waiting] == [14]

    @on_its_own_loop
    async def test_what_is_not_wanted_need_not_be_known(self, tmp_path: Path) -> None:
        async with await self.connect(tmp_path) as store:
            known, other = stamped(1, 2)
            unknown = UnknownEvent("avx.contract.never.defined", {}, 1)
            metadata = replaced(other, event_type="avx.contract.never.defined")
            await store.append("a", [EventEnvelope(unknown, metadata, "some.topic"), known])

            assert [stored.event async for stored in store.read_all(types=Deposited)] == [Deposited("a", 1)]
            assert [stored.event for stored in await take(store.subscribe(types=Deposited), 1)] == [Deposited("a", 1)]

    @on_its_own_loop
    async def test_a_filter_that_can_find_nothing_is_refused(self, tmp_path: Path) -> None:
        async with await self.connect(tmp_path) as store:
            wrong: list[Any] = [[], 7, [7], Close, [Deposited, Close], object, "a..b", ["*"]]
            for types in wrong:
                with pytest.raises(InvalidArgumentError, match="types must be event classes"):
                    await anext(store.read_all(types=types))
                with pytest.raises(InvalidArgumentError, match="types must be event classes"):
                    store.subscribe(types=types)
            for prefix in (7, None, "a\0", "x" * 1025):
                with pytest.raises(InvalidArgumentError, match="stream_prefix must be text"):
                    store.subscribe(stream_prefix=prefix)  # type: ignore[arg-type]

    # Streams

    @on_its_own_loop
    async def test_streams_are_given_by_name_with_the_place_of_their_last_event(self, tmp_path: Path) -> None:
        async with await self.connect(tmp_path) as store:
            assert [stream async for stream in store.streams()] == []

            await store.append("b", [Deposited("b", 1), Deposited("b", 2)])
            await store.append("a", Deposited("a", 3))
            await store.append("b", Deposited("b", 4))
            last = {stored.stream: stored async for stored in store.read_all()}

            assert [stream async for stream in store.streams()] == [
                StreamInfo("a", 1, 3, last["a"].recorded_at),
                StreamInfo("b", 3, 4, last["b"].recorded_at),
            ]

    @on_its_own_loop
    async def test_streams_are_found_by_prefix_whatever_their_names(self, tmp_path: Path) -> None:
        highest = chr(0x10FFFF)
        names = [
            "a",
            "A",
            "a%",
            "a_b",
            "a'b",
            'a"',
            "a\\",
            "ab",
            "ä",
            "a\u0308",
            "\uffff",
            "\U0001f600",
            " a",
            "b",
            "%",
        ]
        names += [
            highest,
            highest * 2,
            "a" + highest,
            "a" + highest + "b",
            "x" * 1024,
            "order-1",
            "order-10",
            "order-2",
        ]
        async with await self.connect(tmp_path) as store:
            for name in names:
                await store.append(name, Deposited(name, 1))

            for prefix in ["", *names, "order-", "x", "never", "\ue000"]:
                expected = sorted(name for name in names if name.startswith(prefix))
                assert [stream.name async for stream in store.streams(prefix)] == expected

                for after in ["a", "order-10", highest, "never"]:
                    rest = [name for name in expected if name > after]
                    assert [stream.name async for stream in store.streams(prefix, after=after)] == rest
                    assert [stream.name async for stream in store.streams(prefix, after=after, limit=2)] == rest[:2]

    @on_its_own_loop
    async def test_streams_go_on_over_their_pages(self, tmp_path: Path) -> None:
        names = [f"s-{number:05}" for number in range(PAGE_EVENTS + 2)]
        async with await self.connect(tmp_path) as store:
            async with asyncio.TaskGroup() as tasks:
                for name in names:
                    tasks.create_task(appended(store, name))

            assert [stream.name async for stream in store.streams()] == names
            assert [stream.name async for stream in store.streams(limit=PAGE_EVENTS + 1)] == names[:-1]
            assert [stream.name async for stream in store.streams("s-", limit=PAGE_EVENTS)] == names[:-2]

    @on_its_own_loop
    async def test_streams_that_could_not_be_there_are_refused(self, tmp_path: Path) -> None:
        async with await self.connect(tmp_path) as store:
            wrong: list[Any] = [7, None, "a\0", "x" * 1025, "\ud800"]
            for name in wrong:
                with pytest.raises(InvalidArgumentError, match="prefix must be text"):
                    await anext(store.streams(name))
                with pytest.raises(InvalidArgumentError, match="after must be text"):
                    await anext(store.streams(after=name))
            for limit in (0, -1, 1.0, "1", True):
                with pytest.raises(InvalidArgumentError, match="limit"):
                    await anext(store.streams(limit=limit))  # type: ignore[arg-type]
        with pytest.raises(ClosedError):
            await anext(store.streams())

    # Aggregates

    @on_its_own_loop
    async def test_an_aggregate_is_saved_and_loaded(self, tmp_path: Path) -> None:
        async with await self.connect(tmp_path) as store:
            account = Account("a")
            account.record(Deposited("a", 5))
            account.record(Withdrawn("a", 2))

            result = await store.save(account)
            loaded = await store.load(Account, "a")

            assert result == AppendResult(2, 2)
            assert loaded == account
            assert (loaded.id, loaded.version, loaded.balance, loaded.amounts) == ("a", 2, 3, [5, -2])
            assert (account.uncommitted, loaded.uncommitted) == ((), ())
            assert await store.save(loaded) == AppendResult(2, 0)
            loaded.record(Deposited("a", 1))
            assert await store.save(loaded) == AppendResult(3, 3)

    @on_its_own_loop
    async def test_an_aggregate_that_is_not_there_is_an_error_or_a_new_one(self, tmp_path: Path) -> None:
        async with await self.connect(tmp_path, snapshot_every=1) as store:
            with pytest.raises(StreamNotFoundError, match="'a'"):
                await store.load(Account, "a")
            account = await store.load_or_new(Account, "a")
            assert account == Account("a")
            account.record(Deposited("a", 1))
            await store.save(account)

            [stored] = await store.get_events("a")
            with pytest.raises(StreamNotFoundError):
                await store.load(Account, "a", at_version=0)
            with pytest.raises(StreamNotFoundError):
                await store.load(Account, "a", as_of=stored.recorded_at - timedelta.resolution)
            assert await store.load_or_new(Account, "a") == account
            assert await store.load_or_new(Account, "a", at_version=1) == account
            assert await store.load_or_new(Account, "a", at_version=0) == Account("a")
            before = stored.recorded_at - timedelta.resolution
            assert await store.load_or_new(Account, "a", as_of=before) == Account("a")

    @on_its_own_loop
    async def test_of_two_that_save_one_aggregate_the_second_keeps_its_events(self, tmp_path: Path) -> None:
        async with await self.connect(tmp_path) as store:
            one, two = Account("a"), Account("a")
            one.record(Deposited("a", 1))
            two.record(Deposited("a", 2))
            await store.save(one)

            for _ in range(2):
                with pytest.raises(ConcurrencyError) as caught:
                    await store.save(two)
                assert (caught.value.expected, caught.value.actual) == (0, 1)

            assert (two.uncommitted, two.version) == ((Deposited("a", 2),), 1)
            assert await amounts(store) == [1]

    @on_its_own_loop
    async def test_a_cancelled_save_can_be_repeated(self, tmp_path: Path) -> None:
        async with await self.connect(tmp_path) as store:
            for turns in range(30):
                account = Account(f"s-{turns}")
                account.record(Deposited("a", turns))
                await interrupted(store.save(account), after_turns=turns)

                await store.save(account)

                assert (account.uncommitted, account.version) == ((), 1)
                assert await store.load(Account, f"s-{turns}") == account
            assert sorted(await amounts(store)) == [*range(30)]

    @on_its_own_loop
    async def test_saves_of_one_aggregate_at_once_append_each_event_once(self, tmp_path: Path) -> None:
        async with await self.connect(tmp_path) as store:
            account = Account("a")
            account.record(Deposited("a", 1))
            account.record(Deposited("a", 2))

            outcomes = await together([store.save(account) for _ in range(5)])

            assert AppendResult(2, 2) in outcomes
            assert account.uncommitted == ()
            assert await store.load(Account, "a") == account
            assert await amounts(store) == [1, 2]

    @on_its_own_loop
    async def test_snapshots_never_change_what_a_load_returns(self, tmp_path: Path) -> None:
        async with await self.connect(tmp_path, snapshot_every=3) as store:
            account, states = Account("a"), [copy.deepcopy(Account("a"))]
            for number in range(1, 21):
                account.record(Deposited("a", number) if number % 3 else Withdrawn("a", number))
                await store.save(account)
                states.append(copy.deepcopy(account))
                assert await store.load(Account, "a") == account

                for stored in await store.get_events("a"):
                    assert await store.load(Account, "a", at_version=stored.version) == states[stored.version]
                    assert await store.load(Account, "a", as_of=stored.recorded_at) == states[stored.version]
            assert await store.load(Account, "a", at_version=99) == account

            statistics = store.statistics()
            assert statistics["snapshots_taken"] == 6
            assert int(statistics["snapshots_used"]) > 20

    @on_its_own_loop
    async def test_each_class_has_a_snapshot_of_its_own(self, tmp_path: Path) -> None:
        async with await self.connect(tmp_path, snapshot_every=2) as store:
            await store.append("a", [Deposited("a", 1), Deposited("a", 2)])
            await store.append("b", [Deposited("b", 3), Deposited("b", 4)])

            for _ in range(3):
                assert (await store.load(Account, "a")).amounts == [1, 2]
                assert (await store.load(Account, "b")).amounts == [3, 4]
                assert (await store.load(Tally, "a")).count == 2

            statistics = store.statistics()
            assert (statistics["snapshots_taken"], statistics["snapshots_used"]) == (3, 6)

    # Audit

    @on_its_own_loop
    async def test_a_history_is_what_the_stream_says(self, tmp_path: Path) -> None:
        async with await self.connect(tmp_path) as store:
            for number in range(1, 6):
                with context(user_id=f"user-{number % 2}"):
                    await store.append("a", [Deposited("a", number), Withdrawn("a", 1)])
                    await store.append("b", Deposited("b", number))
            log = await store.get_events("a")

            entries = [entry async for entry in store.history("a", aggregate=Account)]

            assert [entry.stored for entry in entries] == log
            assert [entry.state for entry in entries] == [
                await store.load(Account, "a", at_version=stored.version) for stored in log
            ]
            assert entries[-1].changes["amounts"].after == [*entries[-1].changes["amounts"].before, -1]
            mine = [entry.version async for entry in store.history("a", user_id="user-1")]
            assert mine == [1, 2, 5, 6, 9, 10]
            for stored in log:
                since = [entry.stored async for entry in store.history("a", since=stored.recorded_at)]
                as_of = [entry.stored async for entry in store.history("a", as_of=stored.recorded_at)]
                assert since == [one for one in log if one.recorded_us >= stored.recorded_us]
                assert as_of == [one for one in log if one.recorded_us <= stored.recorded_us]

    @on_its_own_loop
    async def test_a_chain_of_causes_is_found_over_all_streams(self, tmp_path: Path) -> None:
        async with await self.connect(tmp_path) as store:
            await store.append("a", Deposited("a", 1))
            [cause] = await store.get_events("a")
            for number in range(2, 5):
                await store.append("noise", [Deposited("noise", 0)] * PAGE_EVENTS)
                inherited = cause.metadata
                with context(correlation_id=inherited.correlation_id, causation_id=inherited.event_id):
                    await store.append(f"a-{number}", Deposited("a", number))
                [cause] = await store.get_events(f"a-{number}")

            tree = await store.correlated(cause.metadata.correlation_id)
            part = await store.correlated(cause.metadata.correlation_id, since=tree.events[2].recorded_at)

            assert [(event.event.amount, event.depth) for event in tree] == [(1, 0), (2, 1), (3, 2), (4, 3)]
            assert [event.cause for event in tree] == [None, *(event.stored for event in tree.events[:-1])]
            assert [event.event.amount for event in part] == [3, 4]

    # Life cycle

    @on_its_own_loop
    async def test_a_store_can_be_closed_twice_and_refuses_to_work_then(self, tmp_path: Path) -> None:
        store = await self.connect(tmp_path)
        await store.append("a", Deposited("a", 1))

        async with asyncio.TaskGroup() as tasks:
            for _ in range(3):
                tasks.create_task(store.close())
        await store.close()

        uses = [
            store.append("a", Deposited("a", 1)),
            store.get_events("a"),
            store.version_of("a"),
            store.last_position(),
            anext(store.read_stream("a")),
            anext(store.read_all()),
            anext(store.history("a")),
            store.correlated("a"),
        ]
        for use in uses:
            with pytest.raises(ClosedError, match="event store is closed"):
                await use
        with pytest.raises(ClosedError):
            store.subscribe()

    @on_its_own_loop
    async def test_what_was_accepted_before_the_close_is_written(self, tmp_path: Path) -> None:
        store = await self.connect(tmp_path)

        async with asyncio.TaskGroup() as tasks:
            appends = [tasks.create_task(store.append("a", Deposited("a", number))) for number in range(50)]
            await asyncio.sleep(0)
            await store.close()

            assert [(await append).version for append in appends] == [*range(1, 51)]

    # Bad input

    @on_its_own_loop
    async def test_a_stream_has_a_name_that_every_engine_can_keep(self, tmp_path: Path) -> None:
        async with await self.connect(tmp_path) as store:
            for name in ("", None, 7, b"a", "a\0b", "\ud800", "x" * 1025):
                for use in (store.append(name, Deposited("a", 1)), store.get_events(name), store.version_of(name)):  # type: ignore[arg-type]
                    with pytest.raises(InvalidArgumentError, match="stream must be text"):
                        await use
            assert await store.last_position() == 0

    @on_its_own_loop
    async def test_a_stream_name_is_only_a_name(self, tmp_path: Path) -> None:
        names = ["'; DROP TABLE avx_events; --", '"', "%", "_", "a ", " a", "A", "a", "ä", "a\u0308", "x" * 1024, "\n"]
        async with await self.connect(tmp_path) as store:
            for number, name in enumerate(names):
                await store.append(name, Deposited(name, number))

            for number, name in enumerate(names):
                assert [stored.event for stored in await store.get_events(name)] == [Deposited(name, number)]

    @on_its_own_loop
    async def test_numbers_that_cannot_be_places_are_refused(self, tmp_path: Path) -> None:
        async with await self.connect(tmp_path) as store:
            await store.append("a", Deposited("a", 1))
            for number in (-1, 1.0, "1", True, 2**63):
                uses: list[Callable[[Any], Any]] = [
                    lambda wrong: store.append("a", Deposited("a", 2), expected_version=wrong),
                    lambda wrong: store.get_events("a", wrong),
                    lambda wrong: anext(store.read_stream("a", after=wrong)),
                    lambda wrong: store.get_events("a", at_version=wrong),
                    lambda wrong: anext(store.read_stream("a", at_version=wrong)),
                    lambda wrong: anext(store.read_stream("a", until_version=wrong)),
                    lambda wrong: anext(store.read_all(after=wrong)),
                ]
                for use in uses:
                    with pytest.raises(InvalidArgumentError):
                        await use(number)
                with pytest.raises(InvalidArgumentError):
                    store.subscribe(after=number)  # type: ignore[arg-type]
            for instant in (datetime(2024, 1, 1), "2024-01-01", 0):  # noqa: DTZ001 - that is what is refused
                with pytest.raises(InvalidArgumentError, match="time zone"):
                    await anext(store.read_stream("a", as_of=instant))  # type: ignore[arg-type]
            with pytest.raises(InvalidArgumentError, match="'raise' or 'keep'"):
                await store.get_events("a", unknown="ignore")  # type: ignore[arg-type]
            assert await store.get_events("a", 2**63 - 1) == []
            assert await amounts(store) == [1]

    @on_its_own_loop
    async def test_what_cannot_be_an_event_of_the_log_is_refused(self, tmp_path: Path) -> None:
        wrong: list[Any] = [None, 7, "text", [Deposited], Deposited, Close(), {}, [], stamped(1) * 2]
        wrong += [{Deposited("a", 1)}, frozenset({Deposited("a", 1)})]  # they have no order
        async with await self.connect(tmp_path) as store:
            for events in wrong:
                with pytest.raises((InvalidArgumentError, NotAnEventError)):
                    await store.append("a", events)
            for rate in (float("nan"), float("inf")):
                with pytest.raises(EncodeError):
                    await store.append("a", Deposited("a", 1, rate=rate))
            for text in ("\ud800", 7):
                with pytest.raises(EncodeError):
                    await store.append("a", Deposited("a", 1, text))  # type: ignore[arg-type]
            with pytest.raises(EventTooLargeError, match="max_event_bytes=1,048,576"):
                await store.append("a", Deposited("a", 1, "x" * 10_000_000))

            assert await store.last_position() == 0

    @on_its_own_loop
    async def test_metadata_that_would_not_read_back_is_refused(self, tmp_path: Path) -> None:
        async with await self.connect(tmp_path) as store:
            envelope = stamp(Deposited("a", 1), clock=SYSTEM_CLOCK)
            for wrong in (
                {"event_id": ""},
                {"event_id": "a\0b"},
                {"event_id": "\ud800"},
                {"event_id": 7},
                {"event_type": "another.type"},
                {"timestamp": 2**63},
                {"timestamp": "now"},
                {"user_id": "\ud800"},
                {"correlation_id": 7},
                {"headers": {"name": 7}},
            ):
                with pytest.raises(EncodeError):
                    await store.append("a", EventEnvelope(envelope.event, replaced(envelope, **wrong), "topic"))

            assert await store.last_position() == 0

    @on_its_own_loop
    async def test_an_event_may_be_as_large_as_the_store_is_told(self, tmp_path: Path) -> None:
        async with await self.connect(tmp_path, max_event_bytes=11_000_000) as store:
            large = Deposited("a", 1, "x" * 10_000_000)
            await store.append("a", large)

            assert [stored.event for stored in await store.get_events("a")] == [large]


class DurableStoreContract(StoreContract):
    """What engines promise besides whose events outlive the process, and are shared by several stores at once."""

    @on_its_own_loop
    async def test_a_store_that_is_opened_again_has_its_events(self, tmp_path: Path) -> None:
        envelopes = stamped(1, 2)
        async with await self.connect(tmp_path) as store:
            first = await store.append("a", envelopes)
            log = await store.get_events("a")

        async with await self.connect(tmp_path) as again:
            assert await again.get_events("a") == log
            assert await again.append("a", envelopes, expected_version=0) == first
            assert await again.append("a", Deposited("a", 3), expected_version=2) == AppendResult(3, 3)
            assert (await again.get_events("a"))[-1].recorded_us > log[-1].recorded_us

    @on_its_own_loop
    async def test_two_stores_on_one_log_agree(self, tmp_path: Path) -> None:
        async with await self.connect(tmp_path) as one, await self.connect(tmp_path) as two:
            for number in range(10):
                await one.append("a", Deposited("a", number), expected_version=2 * number)
                with pytest.raises(ConcurrencyError):
                    await two.append("a", Deposited("a", number), expected_version=2 * number)
                await two.append("a", Deposited("a", number), expected_version=2 * number + 1)
            await together(
                [store.append("b", Deposited("b", number)) for number in range(50) for store in (one, two)],
            )

            log = [stored async for stored in one.read_all()]
            assert log == [stored async for stored in two.read_all()]
            assert len(log) == 120
            assert_in_order(log)

    @on_its_own_loop
    async def test_a_follower_sees_what_another_store_appends(self, tmp_path: Path) -> None:
        async with (
            await self.connect(tmp_path) as mine,
            await self.connect(tmp_path) as other,
            asyncio.TaskGroup() as tasks,
        ):
            reader = tasks.create_task(take(mine.subscribe(), 40))
            for number in range(20):
                await other.append("a", Deposited("a", number))
                await mine.append("a", Deposited("a", number))
            seen = await reader

            assert seen == [stored async for stored in other.read_all()]
            await other.append("a", Deposited("a", 99))
            assert [stored.event for stored in await take(mine.subscribe(after=40), 1)] == [Deposited("a", 99)]


def renamed(*, revision: int) -> Any:
    """Return the class of one event type as it is at ``revision``, which takes the place of the one made before."""
    return _with_one_name() if revision == 1 else _with_two_names(revision)


def _with_one_name() -> type[Event]:
    class Renamed(Event, event_type="avx.contract.renamed"):
        __qualname__ = "Renamed"  # a class made again, as by a reload, is no second one of its type
        name: str

    return Renamed


def _with_two_names(revision: int) -> type[Event]:
    class Renamed(Event, event_type="avx.contract.renamed", revision=revision):
        __qualname__ = "Renamed"
        first: str
        last: str

    def split(data: dict[str, Any]) -> dict[str, Any]:
        first, _, last = data["name"].partition(" ")
        return {"first": first, "last": last}

    Renamed.upcast(from_revision=1)(split)
    return Renamed


async def appended(store: EventStore, stream: str) -> AppendResult:
    """Append one event to ``stream``."""
    return await store.append(stream, Deposited(stream, 1))


def stamped(*amounts: int) -> list[EventEnvelope[Any]]:
    """Return a deposit of each amount, in an envelope of its own."""
    return [stamp(Deposited("a", amount), clock=SYSTEM_CLOCK) for amount in amounts]


def replaced(envelope: EventEnvelope[Any], **changes: Any) -> EventMetadata:
    """Return the metadata of ``envelope`` with ``changes``."""
    return msgspec.structs.replace(envelope.metadata, **changes)


def place(stored: StoredEvent[Any]) -> tuple[str, int, int]:
    """Return stream, version and position."""
    return stored.stream, stored.version, stored.position


async def amounts(store: EventStore) -> list[int]:
    """Return the amount of each deposit of the log, in order."""
    return [stored.event.amount async for stored in store.read_all()]


def assert_in_order(log: Sequence[StoredEvent[Any]]) -> None:
    """Check a whole log: positions and instants rise, and each stream's versions are 1, 2, 3, without a gap."""
    versions: dict[str, int] = {}
    for stored in log:
        assert stored.version == versions.get(stored.stream, 0) + 1
        versions[stored.stream] = stored.version
    positions = [stored.position for stored in log]
    assert positions == sorted(set(positions))
    instants = [stored.recorded_us for stored in log]
    assert instants == sorted(instants)


async def together(calls: Iterable[Coroutine[Any, Any, AppendResult]]) -> list[AppendResult | AvxEventsError]:
    """Run ``calls`` at once; return what each gave or raised, in order."""

    async def outcome(call: Coroutine[Any, Any, AppendResult]) -> AppendResult | AvxEventsError:
        try:
            return await call
        except AvxEventsError as error:
            return error

    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(outcome(call)) for call in calls]
    return [task.result() for task in running]


async def take(follower: StoreSubscription, count: int) -> list[StoredEvent[Any]]:
    """Return the next ``count`` events."""
    return [await anext(follower) for _ in range(count)]

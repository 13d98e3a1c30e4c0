"""What transports promise of handlers: order by key, dead letters, back pressure, and an end in good order."""

# ruff: noqa: ARG001, D102, PLR2004, S101 - tests: a name is its docstring, expected values stand in place, assert speaks;
# handlers take what they are given

import asyncio
from collections import Counter, defaultdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from avx_events.bus.event_bus import EventBus
from avx_events.core.errors import ClosedError, HandlerWaitError, SubscriptionFullError
from avx_events.core.policy import Discard, Reject, Retry, RetryAfter
from avx_events.testing.bus_contract import (
    AT_ONCE,
    BusContract,
    Collected,
    Other,
    Sent,
    letters_of,
    numbers_by_key,
    until,
)
from avx_events.testing.own_loop import on_its_own_loop

if TYPE_CHECKING:
    from avx_events.bus.dead_letters import DeadLetter


class KeyOrderContract(BusContract):
    """Events of one key are handled in order, one at a time, whatever happens to the others."""

    @on_its_own_loop
    async def test_events_of_16_keys_run_in_order_each_with_concurrency_8_and_failures(self) -> None:
        bus = await self.bus()
        running: Counter[str] = Counter()
        attempts: Counter[Sent] = Counter()
        overlaps: list[Sent] = []
        most = 0
        handled: Collected[Sent] = Collected()

        @bus.on(Sent, concurrency=8, retry=AT_ONCE)
        async def handler(event: Sent) -> None:
            nonlocal most
            running[event.key] += 1
            if running[event.key] > 1:
                overlaps.append(event)
            most = max(most, running.total())
            await asyncio.sleep(0)
            running[event.key] -= 1
            attempts[event] += 1
            if event.number % 7 == 0 and attempts[event] < 3:
                raise RuntimeError
            handled.add(event)

        async with bus:
            await bus.publish_many(Sent(f"key-{key}", number) for number in range(50) for key in range(16))
            by_key = numbers_by_key(await handled.have(16 * 50))

        assert len(by_key) == 16
        assert all(numbers == list(range(50)) for numbers in by_key.values())
        assert not overlaps
        assert 2 <= most <= 8

    @pytest.mark.parametrize("concurrency", [1, 4])
    @on_its_own_loop
    async def test_waiting_for_a_retry_holds_back_its_key_and_no_other(self, concurrency: int) -> None:
        bus = await self.bus()
        handled: Collected[Sent] = Collected()

        @bus.on(Sent, concurrency=concurrency, retry=Retry(attempts=10_000, initial_s=0.001, max_s=0.001))
        async def handler(event: Sent) -> None:
            if event == Sent("a", 0) and len(handled) < 20:
                raise RuntimeError("not before all others")
            handled.add(event)

        async with bus:
            await bus.publish_many(Sent(key, number) for number in range(10) for key in ("a", "b", "c"))
            seen = await handled.have(30)

        assert {event.key for event in seen[:20]} == {"b", "c"}
        assert numbers_by_key(seen) == {key: list(range(10)) for key in ("a", "b", "c")}

    @on_its_own_loop
    async def test_events_without_a_key_do_not_wait_for_each_other(self) -> None:
        bus = await self.bus()
        all_in = asyncio.Barrier(4)
        handled: Collected[int] = Collected()

        @bus.on(Other, concurrency=4)
        async def meets_three_others(event: Other) -> None:
            await all_in.wait()
            handled.add(event.number)

        async with bus:
            await bus.publish_many(Other(number) for number in range(8))

            assert sorted(await handled.have(8)) == list(range(8))

    @on_its_own_loop
    async def test_deliveries_of_one_key_never_overlap_among_several_readers(self) -> None:
        async with await self.bus() as bus:
            subscriber = await bus.subscribe(Sent, retry=AT_ONCE)
            running: Counter[str] = Counter()
            overlaps: list[Sent] = []
            failed: set[Sent] = set()
            handled: Collected[Sent] = Collected()

            async def read() -> None:
                async for delivery in subscriber.deliveries():
                    async with delivery as event:
                        running[event.key] += 1
                        if running[event.key] > 1:
                            overlaps.append(event)
                        await asyncio.sleep(0)
                        running[event.key] -= 1
                        if event.number % 5 == 0 and event not in failed:
                            failed.add(event)
                            raise RuntimeError
                        handled.add(event)

            async with asyncio.TaskGroup() as tasks:
                for _ in range(4):
                    tasks.create_task(read())
                await bus.publish_many(Sent(f"key-{key}", number) for number in range(20) for key in range(8))
                by_key = numbers_by_key(await handled.have(160))
                await bus.close()

            assert all(numbers == list(range(20)) for numbers in by_key.values())
            assert not overlaps


class OwnKeyContract(BusContract):
    """A handler may keep order by another key than the publisher's."""

    @on_its_own_loop
    async def test_a_handler_may_choose_another_key(self) -> None:
        bus = await self.bus()
        handled: Collected[int] = Collected()
        odd_may_go = asyncio.Event()

        def oddness(event: Sent) -> str:
            return "odd" if event.number % 2 else "even"

        @bus.on(Sent, concurrency=2, key=oddness)
        async def handler(event: Sent) -> None:
            if event.number % 2:
                await odd_may_go.wait()
            handled.add(event.number)

        async with bus:
            await bus.publish_many(Sent("a", number) for number in range(10))
            even = list(await handled.have(5))
            odd_may_go.set()
            seen = await handled.have(10)

        assert even == [0, 2, 4, 6, 8]
        assert seen[5:] == [1, 3, 5, 7, 9]


class DeadLetterContract(BusContract):
    """What a handler cannot process is kept, and can be given back to it."""

    @on_its_own_loop
    async def test_what_fails_for_good_is_kept_with_everything_about_it(self) -> None:
        bus = await self.bus()
        began = datetime.now(UTC)

        @bus.on(Sent, retry=AT_ONCE, name="mail")
        async def broken(event: Sent) -> None:
            raise KeyError(event.key)

        async with bus:
            metadata = await bus.publish(Sent("a", 7), headers={"trace": "1"})
            (letter,) = await letters_of(bus, 1)

        assert letter.envelope is not None
        assert (letter.envelope.event, letter.envelope.metadata) == (Sent("a", 7), metadata)
        assert (letter.handler, letter.reason, letter.attempts, letter.redrives) == ("mail", "failed", 3, 0)
        assert (letter.error, letter.error_type) == ("KeyError: 'a'", "KeyError")
        assert "raise KeyError(event.key)" in letter.traceback
        assert began <= letter.first_failed_at <= letter.dead_at <= datetime.now(UTC)

    @pytest.mark.parametrize("concurrency", [1, 4])
    @on_its_own_loop
    async def test_a_poison_event_does_not_stop_its_lane(self, concurrency: int) -> None:
        bus = await self.bus()
        handled: Collected[int] = Collected()

        @bus.on(Sent, retry=AT_ONCE, concurrency=concurrency)
        async def handler(event: Sent) -> None:
            if event.number % 3 == 1:
                raise RuntimeError("poison")
            handled.add(event.number)

        async with bus:
            await bus.publish_many(Sent("a", number) for number in range(9))
            seen = await handled.have(6)
            letters = await letters_of(bus, 3)

        assert seen == [0, 2, 3, 5, 6, 8]
        assert [letter.envelope.event.number for letter in letters if letter.envelope] == [1, 4, 7]

    @on_its_own_loop
    async def test_a_handler_says_what_becomes_of_an_event(self) -> None:
        bus = await self.bus()
        attempts: Collected[str] = Collected()

        @bus.on(Sent, retry=AT_ONCE)
        async def handler(event: Sent) -> None:
            attempts.add(event.key)
            if event.key == "reject":
                raise Reject("never")
            if event.key == "discard":
                raise Discard("not mine")
            if event.key == "later":
                raise RetryAfter(0.001)

        async with bus:
            await bus.publish_many(Sent(key) for key in ("reject", "discard", "later", "good"))
            letters = await letters_of(bus, 2)
            seen = Counter(await attempts.have(6))

        assert seen == Counter({"reject": 1, "discard": 1, "later": 3, "good": 1})
        assert {(letter.reason, letter.attempts) for letter in letters} == {("rejected", 1), ("failed", 3)}

    @on_its_own_loop
    async def test_an_attempt_that_takes_too_long_has_failed(self) -> None:
        bus = await self.bus()
        handled: Collected[int] = Collected()

        @bus.on(Sent, retry=None, timeout_s=0.05)
        async def hangs_once(event: Sent) -> None:
            if event.number == 0:
                await asyncio.Event().wait()
            handled.add(event.number)

        async with bus:
            await bus.publish_many([Sent("a", 0), Sent("a", 1)])
            (letter,) = await letters_of(bus, 1)

            assert letter.error_type == "HandlerTimeoutError"
            assert await handled.have(1) == [1]

    @on_its_own_loop
    async def test_a_redrive_goes_to_the_handler_that_failed_and_the_letter_leaves_when_it_succeeds(self) -> None:
        bus = await self.bus()
        is_mended = False
        calls: Collected[str] = Collected()

        @bus.on(Sent, retry=None)
        async def broken(event: Sent) -> None:
            calls.add("broken")
            if not is_mended:
                raise RuntimeError

        @bus.on(Sent)
        async def sibling(event: Sent) -> None:
            calls.add("sibling")

        async with bus:
            await bus.publish(Sent("a"))
            (letter,) = await letters_of(bus, 1)
            await calls.have(2)
            is_mended = True

            assert await bus.republish(letter)
            await letters_of(bus, 0)

        assert Counter(calls.values) == Counter({"broken": 2, "sibling": 1})

    @on_its_own_loop
    async def test_a_redrive_that_fails_leaves_the_same_letter_updated(self) -> None:
        bus = await self.bus()

        @bus.on(Sent, retry=AT_ONCE)
        async def broken(event: Sent) -> None:
            raise RuntimeError

        async with bus:
            await bus.publish(Sent("a"))
            (first,) = await letters_of(bus, 1)
            assert await bus.republish(first.id)

            async def is_updated() -> bool:
                return (await bus.dead_letter_queue.get(first.id)).redrives == 1

            await until(is_updated)
            (second,) = await bus.dead_letter_queue.list()

        assert (second.id, second.attempts, second.redrives) == (first.id, 6, 1)
        assert (second.first_failed_at, second.envelope) == (first.first_failed_at, first.envelope)
        assert second.dead_at > first.dead_at

    @on_its_own_loop
    async def test_a_letter_that_is_being_redriven_is_not_redriven_twice(self) -> None:
        bus = await self.bus()
        is_mended = False
        may_go = asyncio.Event()
        calls: Collected[Sent] = Collected()

        @bus.on(Sent, retry=None)
        async def broken(event: Sent) -> None:
            calls.add(event)
            if not is_mended:
                raise RuntimeError
            await may_go.wait()

        async with bus:
            await bus.publish(Sent("a"))
            (letter,) = await letters_of(bus, 1)
            is_mended = True
            first = await bus.republish(letter)
            await calls.have(2)
            second = await bus.republish(letter)
            may_go.set()
            await letters_of(bus, 0)

        assert (first, second) == (True, False)
        assert len(calls) == 2

    @on_its_own_loop
    async def test_a_delivery_block_that_fails_for_good_leaves_a_letter_that_comes_back_to_its_subscriber(self) -> None:
        async with await self.bus() as bus:
            subscriber = await bus.subscribe(Sent, retry=None, name="reader")
            await bus.publish_many([Sent("a", 1), Sent("a", 2)])
            deliveries = subscriber.deliveries()

            async with await anext(deliveries):
                raise RuntimeError
            async with await anext(deliveries) as event:
                assert event == Sent("a", 2)
            (letter,) = await letters_of(bus, 1)
            assert letter.handler == "reader"
            assert await bus.republish(letter)
            async with await anext(deliveries) as event:
                assert event == Sent("a", 1)

            await letters_of(bus, 0)


class BackPressureContract(BusContract):
    """A publisher waits for the slowest consumer; nothing is lost, nothing grows, and no cycle deadlocks."""

    @on_its_own_loop
    async def test_a_publisher_waits_for_a_slow_reader_and_nothing_is_lost(self) -> None:
        async with await self.bus() as bus:
            subscriber = await bus.subscribe(Sent, capacity=4)
            published = 0

            async def publish() -> None:
                nonlocal published
                for number in range(200):
                    await bus.publish(Sent("a", number))
                    published += 1

            ahead: list[int] = []
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(publish())
                for number in range(200):
                    event = await subscriber.recv()
                    assert event == Sent("a", number)
                    ahead.append(published - number)
                    await asyncio.sleep(0)

            assert max(ahead) <= 6

    @on_its_own_loop
    async def test_a_publisher_waits_for_a_slow_handler(self) -> None:
        bus = await self.bus()
        may_go = asyncio.Event()
        handled: Collected[int] = Collected()
        published: Collected[int] = Collected()

        @bus.on(Sent, capacity=4)
        async def slow(event: Sent) -> None:
            await may_go.wait()
            handled.add(event.number)

        async def publish() -> None:
            for number in range(50):
                await bus.publish(Sent("a", number))
                published.add(number)

        async with bus, asyncio.TaskGroup() as tasks:
            tasks.create_task(publish())
            await published.have(4)
            for _ in range(20):
                await asyncio.sleep(0)
            assert len(published) <= 5
            may_go.set()

            assert await handled.have(50) == list(range(50))

    @on_its_own_loop
    async def test_publishers_that_wait_are_served_first_come_first_served(self) -> None:
        async with await self.bus() as bus:
            subscriber = await bus.subscribe(Sent, capacity=1)

            async with asyncio.TaskGroup() as tasks:
                for number in range(20):
                    tasks.create_task(bus.publish(Sent("a", number)))
                    await asyncio.sleep(0)
                seen = [await subscriber.recv() for _ in range(20)]

            assert seen == [Sent("a", number) for number in range(20)]

    @on_its_own_loop
    async def test_a_publisher_that_is_cancelled_while_it_waits_reaches_nobody(self) -> None:
        async with await self.bus() as bus:
            free, full = await bus.subscribe(Sent), await bus.subscribe(Sent, capacity=1)
            await bus.publish(Sent("a", 1))

            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await bus.publish(Sent("a", 2))
            assert await full.recv() == Sent("a", 1)
            await bus.publish(Sent("a", 3))

            assert [await free.recv() for _ in range(2)] == [Sent("a", 1), Sent("a", 3)]
            assert await full.recv() == Sent("a", 3)

    @on_its_own_loop
    async def test_a_close_frees_the_publishers_that_wait(self) -> None:
        bus = await self.bus()
        await bus.subscribe(Sent, capacity=1)
        await bus.publish(Sent("a", 1))

        async with asyncio.TaskGroup() as tasks:
            waiting = [tasks.create_task(_refused(bus, Sent("a", number))) for number in range(10)]
            await asyncio.sleep(0)
            await bus.close()

        assert all(task.result() for task in waiting)

    @on_its_own_loop
    async def test_handlers_that_publish_in_a_cycle_do_not_deadlock(self) -> None:
        bus = await self.bus()
        handled: Collected[int] = Collected()

        @bus.on(Sent, capacity=1)
        async def doubles(event: Sent) -> None:
            if event.number < 6:
                await bus.publish(Other(event.number + 1))
                await bus.publish(Other(event.number + 1))
            handled.add(event.number)

        @bus.on(Other, capacity=1)
        async def answers(event: Other) -> None:
            await bus.publish(Sent("a", event.number))

        async with bus:
            await bus.publish(Sent("a", 0))

            assert Counter(await handled.have(2**7 - 1)) == Counter({depth: 2**depth for depth in range(7)})

    @on_its_own_loop
    async def test_what_does_not_fit_is_dropped_or_refused_where_the_subscriber_says_so(self) -> None:
        async with await self.bus() as bus:
            oldest = await bus.subscribe(Sent, capacity=2, overflow="drop_oldest")
            newest = await bus.subscribe(Sent, capacity=2, overflow="drop_newest")
            for number in range(4):
                await bus.publish(Sent("a", number))
            refusing = await bus.subscribe(Sent, capacity=1, overflow="raise")
            await bus.publish(Sent("a", 4))
            with pytest.raises(SubscriptionFullError):
                await bus.publish(Sent("a", 5))

            assert await oldest.recv_many() == [Sent("a", 3), Sent("a", 4)]
            assert await newest.recv_many() == [Sent("a", 0), Sent("a", 1)]
            assert await refusing.recv_many() == [Sent("a", 4)]
            assert (oldest.statistics().dropped, newest.statistics().dropped) == (3, 3)


class GracefulStopContract(BusContract):
    """A close lets what runs finish, for a while, and runs nothing twice."""

    @on_its_own_loop
    async def test_a_close_waits_for_handlers_that_run_and_refuses_what_comes_from_outside(self) -> None:
        bus = await self.bus()
        started, may_go = asyncio.Event(), asyncio.Event()
        handled: list[int] = []

        @bus.on(Sent)
        async def slow(event: Sent) -> None:
            started.set()
            await may_go.wait()
            await asyncio.sleep(0.02)  # its work takes a while
            await bus.publish(Other(event.number))
            handled.append(event.number)

        async with asyncio.TaskGroup() as tasks:
            await bus.start()
            await bus.publish(Sent("a", 1))
            await started.wait()
            closing = tasks.create_task(bus.close())
            await asyncio.sleep(0)
            with pytest.raises(ClosedError):
                await bus.publish(Sent("a", 2))
            assert not closing.done()
            may_go.set()

        assert handled == [1]

    @on_its_own_loop
    async def test_a_close_cancels_what_does_not_finish_in_time(self) -> None:
        bus = await self.bus(drain_timeout_s=0.05)
        started, cancelled = asyncio.Event(), asyncio.Event()

        @bus.on(Sent)
        async def hangs(event: Sent) -> None:
            started.set()
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()

        await bus.start()
        await bus.publish(Sent("a"))
        await started.wait()
        async with asyncio.timeout(5):
            await bus.close()

        assert cancelled.is_set()

    @on_its_own_loop
    async def test_no_handler_runs_twice_because_of_a_close(self) -> None:
        bus = await self.bus()
        handled: defaultdict[str, list[int]] = defaultdict(list)
        first = asyncio.Event()

        @bus.on(Sent, concurrency=4)
        async def handler(event: Sent) -> None:
            handled[event.key].append(event.number)
            first.set()
            await asyncio.sleep(0)

        async with bus:
            await bus.publish_many(Sent(f"key-{number % 8}", number) for number in range(200))
            await first.wait()

        assert all(numbers == sorted(set(numbers)) for numbers in handled.values())

    @on_its_own_loop
    async def test_a_handler_cannot_close_or_settle_its_own_bus(self) -> None:
        bus = await self.bus()
        refused: Collected[str] = Collected()

        @bus.on(Sent)
        async def handler(event: Sent) -> None:
            for wait in (bus.close, bus.settled):
                try:
                    await wait()
                except HandlerWaitError as exc:
                    refused.add(exc.action)

        async with bus:
            await bus.publish(Sent("a"))

            assert await refused.have(2) == ["close", "settle"]


class InProcessContract(BusContract):
    """What only a bus without a broker can promise: what was published is there at once, and a close handles it all."""

    @on_its_own_loop
    async def test_settled_waits_for_what_was_published_and_for_what_handlers_publish(self) -> None:
        bus = await self.bus()
        handled: list[int] = []

        @bus.on(Sent, retry=AT_ONCE)
        async def fails_once(event: Sent) -> None:
            handled.append(event.number)
            if handled.count(event.number) == 1:
                raise RuntimeError
            if event.number < 5:
                await bus.publish(Sent("b", event.number + 5))

        async with bus:
            await bus.publish_many(Sent("a", number) for number in range(5))
            await bus.settled()

            assert Counter(handled) == Counter(dict.fromkeys(range(10), 2))

    @on_its_own_loop
    async def test_publish_nowait_delivers_at_once_or_is_refused(self) -> None:
        async with await self.bus() as bus:
            subscriber = await bus.subscribe(Sent, capacity=2)

            bus.publish_nowait(Sent("a", 1))
            bus.publish_nowait(Sent("a", 2))
            with pytest.raises(SubscriptionFullError):
                bus.publish_nowait(Sent("a", 3))

            assert await subscriber.recv_many() == [Sent("a", 1), Sent("a", 2)]

    @on_its_own_loop
    async def test_a_close_handles_what_is_queued_and_readers_get_what_was_accepted(self) -> None:
        bus = await self.bus()
        handled: list[int] = []
        subscriber = await bus.subscribe(Sent)

        @bus.on(Sent, retry=AT_ONCE)
        async def handler(event: Sent) -> None:
            if event.number % 10 == 0 and event.number not in handled:
                handled.append(event.number)
                raise RuntimeError
            await asyncio.sleep(0)
            handled.append(event.number)

        async with bus:
            await bus.publish_many(Sent("a", number) for number in range(100))

        assert sorted(set(handled)) == list(range(100))
        assert [event async for event in subscriber] == [Sent("a", number) for number in range(100)]

    @on_its_own_loop
    async def test_what_is_not_done_when_the_time_is_up_is_a_dead_letter_and_nothing_is_lost(self) -> None:
        bus = await self.bus(drain_timeout_s=0.05)
        queue: Any = bus.dead_letter_queue

        @bus.on(Sent, retry=Retry(initial_s=1000, max_s=1000), concurrency=2)
        async def handler(event: Sent) -> None:
            if event.key == "hangs":
                await asyncio.Event().wait()
            raise RuntimeError

        async with bus:
            await bus.publish_many([*(Sent("hangs", number) for number in range(3)), Sent("waits for a retry", 3)])

        letters: list[DeadLetter] = await queue.list()
        assert {letter.reason for letter in letters} == {"stopped"}
        assert sorted(letter.envelope.event.number for letter in letters if letter.envelope) == [0, 1, 2, 3]


async def _refused(bus: EventBus, event: Sent) -> bool:
    try:
        await bus.publish(event)
    except ClosedError:
        return True
    return False

"""What a transport promises to groups: members that share the work, and lose none of it when they come and go."""

# ruff: noqa: D102, PLR2004, S101 - tests: a name is its docstring, expected values stand in place, assert speaks

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Final

import pytest

from avx_events.bus.event_bus import EventBus
from avx_events.core.errors import NoHandlerError, UnsupportedError
from avx_events.core.policy import Retry
from avx_events.testing.bus_contract import (
    AT_ONCE,
    BusContract,
    Collected,
    Other,
    Sent,
    SentOn,
    letters_of,
    new_namespace,
    numbers_by_key,
    until,
)
from avx_events.testing.own_loop import on_its_own_loop

if TYPE_CHECKING:
    from avx_events.bus.dead_letters import DeadLetter

_KEYS: Final = 16


class GroupContract(BusContract):
    """Each event is handled by one member of each group, at least once, in order by key.

    ``connect`` is given the options ``group``, ``start`` and ``redeliver_after_s`` of ``EventBus.connect``.
    """

    async def member(self, namespace: str, group: str = "billing", **options: Any) -> EventBus:
        """Return a member of a group."""
        return await self.connect(namespace, group=group, **options)

    # Who gets what

    @on_its_own_loop
    async def test_5000_events_of_50_publishers_are_each_handled_by_one_of_10_members(self) -> None:
        namespace = new_namespace()
        handled: Collected[Sent] = Collected()
        async with AsyncExitStack() as members:
            for _ in range(10):
                member = await self.member(namespace)
                _collect(member, handled)
                await members.enter_async_context(member)
            publisher = await members.enter_async_context(await self.connect(namespace))

            async with asyncio.TaskGroup() as tasks:
                for number in range(50):
                    tasks.create_task(_publish(publisher, f"publisher-{number}", 100))

            seen = numbers_by_key(await handled.have(5000))
        assert len(handled) == 5000
        assert seen == {f"publisher-{number}": list(range(100)) for number in range(50)}

    @on_its_own_loop
    async def test_every_group_gets_every_event(self) -> None:
        namespace = new_namespace()
        billing, shipping = Collected[Sent](), Collected[Sent]()
        async with AsyncExitStack() as members:
            for group, handled in (("billing", billing), ("billing", billing), ("shipping", shipping)):
                member = await self.member(namespace, group)
                _collect(member, handled)
                await members.enter_async_context(member)
            publisher = await members.enter_async_context(await self.connect(namespace))

            await _publish(publisher, "a", 50)
            await _publish(publisher, "b", 50)

            await billing.have(100)
            await shipping.have(100)
        expected = {"a": list(range(50)), "b": list(range(50))}
        assert numbers_by_key(billing.values) == numbers_by_key(shipping.values) == expected

    @on_its_own_loop
    async def test_every_handler_of_a_group_gets_every_event_and_none_reruns_for_another(self) -> None:
        member = await self.member(new_namespace())
        steady, shaky = Collected[int](), Collected[int]()

        @member.on(Sent)
        async def succeeds(event: Sent) -> None:
            steady.add(event.number)

        @member.on(Sent, retry=AT_ONCE)
        async def fails_once(event: Sent) -> None:
            shaky.add(event.number)
            if shaky.values.count(event.number) == 1:
                raise RuntimeError

        async with member:
            await _publish(member, "a", 10)
            await shaky.have(20)
            await steady.have(10)

        assert steady.values == list(range(10))
        assert Counter(shaky.values) == Counter(dict.fromkeys(range(10), 2))

    @on_its_own_loop
    async def test_a_handler_gets_what_it_subscribed_to_and_nothing_else_holds_it_up(self) -> None:
        member = await self.member(new_namespace())
        handled: Collected[Sent] = Collected()
        _collect(member, handled, SentOn)

        async with member:
            for number in range(200):
                await member.publish_many([Other(number), Sent("a", number), SentOn("a", number)])

            assert await handled.have(200) == [SentOn("a", number) for number in range(200)]

    @on_its_own_loop
    async def test_readers_in_a_group_share_its_events(self) -> None:
        namespace = new_namespace()
        async with await self.member(namespace) as one, await self.member(namespace) as other:
            read: Collected[Sent] = Collected()
            subscribers = [await member.subscribe(Sent, name="reader") for member in (one, other)]

            async with asyncio.TaskGroup() as tasks:
                readers = [tasks.create_task(_read_into(read, subscriber)) for subscriber in subscribers]
                await one.publish_many(Sent(f"key-{number % _KEYS}", number) for number in range(400))
                await read.have(400)
                for reader in readers:
                    reader.cancel()

        assert sorted(event.number for event in read.values) == list(range(400))

    # Where a group begins, and where it goes on

    @on_its_own_loop
    async def test_a_new_group_begins_with_what_is_published_from_now_on(self) -> None:
        namespace = new_namespace()
        async with await self.connect(namespace) as publisher:
            await _publish(publisher, "a", 5)
            handled: Collected[Sent] = Collected()
            late = await self.member(namespace, start="latest")
            _collect(late, handled)
            async with late:
                await publisher.publish(Sent("a", 5))

                assert [event.number for event in await handled.have(1)] == [5]

    @on_its_own_loop
    async def test_a_new_group_can_begin_with_the_first_event_that_is_kept(self) -> None:
        namespace = new_namespace()
        async with await self.connect(namespace) as publisher:
            await _publish(publisher, "a", 5)
            handled: Collected[Sent] = Collected()
            late = await self.member(namespace, start="earliest")
            _collect(late, handled)
            async with late:
                await publisher.publish(Sent("a", 5))

                assert [event.number for event in await handled.have(6)] == list(range(6))

    @pytest.mark.parametrize("start", ["latest", "earliest"])
    @on_its_own_loop
    async def test_a_group_goes_on_where_it_was(self, start: str) -> None:
        namespace = new_namespace()
        handled: Collected[Sent] = Collected()
        async with await self.connect(namespace) as publisher:
            for first in (0, 10, 20):
                member = await self.member(namespace, start=start)
                _collect(member, handled)
                async with member:
                    await publisher.publish_many(Sent("a", number) for number in range(first, first + 5))
                    await handled.have(first + 5)
                # Nobody runs, and what is published is kept.
                await publisher.publish_many(Sent("a", number) for number in range(first + 5, first + 10))

        assert [event.number for event in handled.values] == list(range(25))

    # Order, and members that come and go

    @on_its_own_loop
    async def test_keys_keep_their_order_while_members_join_and_leave(self) -> None:
        namespace = new_namespace()
        handled: Collected[Sent] = Collected()
        count = 25
        async with AsyncExitStack() as members, await self.connect(namespace) as publisher:
            first = await self.member(namespace)
            _collect(first, handled, concurrency=8)
            await members.enter_async_context(first)
            for round_number in range(4):
                passing = await self.member(namespace)
                _collect(passing, handled, concurrency=8)
                async with passing:
                    numbers = range(round_number * count, (round_number + 1) * count)
                    await publisher.publish_many(Sent(f"key-{key}", n) for n in numbers for key in range(_KEYS))
                    await handled.have(_KEYS * count * round_number + _KEYS * count // 2)
            seen = numbers_by_key(await handled.have(_KEYS * count * 4))

        assert seen == {f"key-{key}": list(range(count * 4)) for key in range(_KEYS)}

    @on_its_own_loop
    async def test_a_member_that_leaves_finishes_what_runs_and_leaves_the_rest(self) -> None:
        namespace = new_namespace()
        handled: Collected[Sent] = Collected()
        leaving, started = await self.member(namespace), asyncio.Event()

        @leaving.on(Sent, name="handler")
        async def takes_a_while(event: Sent) -> None:
            started.set()
            await asyncio.sleep(0.02)  # its work takes a while
            handled.add(event)

        async with leaving:
            await leaving.publish_many(Sent("a", number) for number in range(20))
            await started.wait()
        assert len(handled) < 20
        following = await self.member(namespace)
        _collect(following, handled)
        async with following:
            seen = await handled.have(20)

        assert [event.number for event in seen] == list(range(20))

    @on_its_own_loop
    async def test_a_slow_handler_keeps_its_claim(self) -> None:
        namespace = new_namespace()
        started: Collected[int] = Collected()
        finished: Collected[int] = Collected()
        async with AsyncExitStack() as members:
            for _ in range(2):
                member = await self.member(namespace, redeliver_after_s=0.5)

                @member.on(Sent, name="slow")
                async def slow(event: Sent) -> None:
                    started.add(event.number)
                    await asyncio.sleep(2)  # four times as long as the work of a dead member would wait
                    finished.add(event.number)

                await members.enter_async_context(member)
            publisher = await members.enter_async_context(await self.connect(namespace))
            await publisher.publish_many(Sent(f"key-{number}", number) for number in range(2))

            await finished.have(2)

        assert sorted(started.values) == [0, 1]

    # Failures

    @on_its_own_loop
    async def test_what_a_reader_did_not_acknowledge_comes_again(self) -> None:
        namespace = new_namespace()

        async def fail_at_the_second() -> None:
            async with await self.member(namespace) as failing:
                subscriber = await failing.subscribe(Sent, name="reader")
                await failing.publish_many(Sent("a", number) for number in range(5))
                assert await subscriber.recv() == Sent("a", 0)
                assert await subscriber.recv() == Sent("a", 1)
                raise RuntimeError

        with pytest.raises(RuntimeError):
            await fail_at_the_second()
        async with await self.member(namespace) as following:
            subscriber = await following.subscribe(Sent, name="reader")

            assert [(await subscriber.recv()) for _ in range(4)] == [Sent("a", number) for number in range(1, 5)]

    @on_its_own_loop
    async def test_what_a_reader_has_read_is_done_when_it_closes_in_good_order(self) -> None:
        namespace = new_namespace()
        async with await self.member(namespace) as first:
            subscriber = await first.subscribe(Sent, name="reader")
            await first.publish_many(Sent("a", number) for number in range(3))
            assert await subscriber.recv() == Sent("a", 0)
            await subscriber.close()
            again = await first.subscribe(Sent, name="reader")
            assert await again.recv() == Sent("a", 1)
        async with await self.member(namespace) as following:
            subscriber = await following.subscribe(Sent, name="reader")

            assert await subscriber.recv() == Sent("a", 2)

    @on_its_own_loop
    async def test_attempts_are_counted_across_members(self) -> None:
        namespace = new_namespace()
        attempts: Collected[str] = Collected()
        letters: list[DeadLetter] = []
        for begun, name in enumerate(("first", "second", "third")):
            member = await self.member(namespace, drain_timeout_s=1)

            @member.on(Sent, name="fails", retry=Retry(attempts=3, initial_s=0.001 if name == "third" else 60))
            async def fails(event: Sent, name: str = name) -> None:
                del event
                attempts.add(name)
                raise RuntimeError

            async with member:
                if name == "first":
                    await member.publish(Sent("a"))
                await attempts.have(begun + 1)  # it may have been handled before its publish returned
                if name == "third":
                    letters = await letters_of(member, 1)

        assert attempts.values == ["first", "second", "third"]
        assert [(letter.handler, letter.attempts) for letter in letters] == [("fails", 3)]

    @on_its_own_loop
    async def test_dead_letters_are_seen_by_every_member_and_redriven_by_any(self) -> None:
        namespace = new_namespace()
        is_mended = False
        handled: Collected[Sent] = Collected()
        letters: list[DeadLetter] = []
        async with AsyncExitStack() as members:
            buses: list[EventBus] = []
            for _ in range(2):
                member = await self.member(namespace)

                @member.on(Sent, name="handler", retry=None)
                async def handler(event: Sent) -> None:
                    if not is_mended:
                        raise RuntimeError
                    handled.add(event)

                buses.append(await members.enter_async_context(member))
            await buses[0].publish(Sent("a", 7))
            for bus in buses:
                letters = await letters_of(bus, 1)
            is_mended = True

            assert await buses[1].republish(letters[0])
            assert await handled.have(1) == [Sent("a", 7)]
            for bus in buses:
                await letters_of(bus, 0)

    @on_its_own_loop
    async def test_a_dead_letter_is_its_groups_own_whatever_handlers_of_others_are_called(self) -> None:
        namespace = new_namespace()
        handled: Collected[Sent] = Collected()
        async with AsyncExitStack() as members:
            failing, other = await self.member(namespace, "billing"), await self.member(namespace, "shipping")
            _collect(other, handled)

            @failing.on(Sent, name="handler", retry=None)
            async def handler(event: Sent) -> None:
                raise RuntimeError(event.number)

            for bus in (failing, other):
                await members.enter_async_context(bus)
            await failing.publish(Sent("a", 7))
            (letter,) = await letters_of(other, 1)
            await handled.have(1)

            assert (letter.handler, letter.group) == ("handler", "billing")
            with pytest.raises(NoHandlerError, match="handler of group 'billing'"):
                await other.republish(letter)
            assert await failing.republish(letter)
            await letters_of(failing, 1)

        assert handled.values == [Sent("a", 7)]

    # What cannot be promised

    @on_its_own_loop
    async def test_what_a_group_cannot_do_is_refused_where_it_is_asked_for(self) -> None:
        member = await self.member(new_namespace())

        for overflow in ("drop_oldest", "drop_newest", "raise"):
            policy: Any = overflow
            with pytest.raises(UnsupportedError):
                await member.subscribe(Sent, overflow=policy)
            with pytest.raises(UnsupportedError):
                member.on(Sent, overflow=policy)(_ignore)
        await member.close()


class InFlightContract(BusContract):
    """A member of a group has no more events than it may; the broker keeps the rest, for it and for others."""

    @on_its_own_loop
    async def test_a_slow_member_has_no_more_than_its_capacity_and_leaves_the_rest_to_others(self) -> None:
        namespace = new_namespace()
        may_go = asyncio.Event()
        handled: Collected[Sent] = Collected()
        slow, publisher = await self.connect(namespace, group="billing", capacity=8), await self.connect(namespace)

        @slow.on(Sent, name="handler", concurrency=2)
        async def handler(event: Sent) -> None:
            await may_go.wait()
            handled.add(event)

        async with publisher:
            async with slow:
                await publisher.publish_many(Sent(f"key-{number}", number) for number in range(200))

                async def is_full() -> bool:
                    counts = slow.statistics()
                    assert counts.queued + counts.in_flight <= 8
                    return counts.in_flight == 2

                await until(is_full)
                for _ in range(20):
                    await is_full()
                    await asyncio.sleep(0)
                may_go.set()
                await handled.have(20)
            other = await self.connect(namespace, group="billing")
            _collect(other, handled, concurrency=8)
            async with other:
                seen = await handled.have(200)

        assert sorted(event.number for event in seen) == list(range(200))


class HostileBytesContract(BusContract):
    """Whatever others write to where events are: it ends as a dead letter, and what comes after it is handled.

    ``publish_raw`` writes bytes where the events of a namespace are, all of one key.
    """

    async def publish_raw(self, namespace: str, document: bytes) -> None:
        """Write ``document`` as it is, where a handler of the namespace gets it in the lane of key ``a``."""
        raise NotImplementedError

    @pytest.mark.parametrize(
        "document",
        [b"", b"\x00\xff", b"{", b"null", b"[]", b'{"specversion":"1.0"}', b'{"a":' * 2000],
        ids=["empty", "binary", "cut off", "null", "a list", "half an event", "nested deeply"],
    )
    @on_its_own_loop
    async def test_bytes_that_are_no_event_become_a_dead_letter_and_stop_nothing(self, document: bytes) -> None:
        namespace = new_namespace()
        member = await self.connect(namespace, group="billing")
        handled: Collected[Sent] = Collected()
        _collect(member, handled)
        async with member:
            await member.publish(Sent("a", 1))
            await self.publish_raw(namespace, document)
            await member.publish(Sent("a", 2))

            assert [event.number for event in await handled.have(2)] == [1, 2]
            (letter,) = await letters_of(member, 1)

        assert (letter.reason, letter.handler, letter.envelope) == ("undecodable", "handler", None)
        assert letter.raw is not None
        assert document in letter.raw


def _collect(bus: EventBus, handled: Collected[Sent], event_class: type[Sent] = Sent, *, concurrency: int = 1) -> None:
    @bus.on(event_class, name="handler", concurrency=concurrency)
    async def handler(event: Sent) -> None:
        await asyncio.sleep(0)
        handled.add(event)


async def _ignore(event: Sent) -> None:
    del event


async def _publish(bus: EventBus, key: str, count: int) -> None:
    for number in range(count):
        await bus.publish(Sent(key, number))


async def _read_into(read: Collected[Sent], subscriber: Any) -> None:
    async for event in subscriber:
        read.add(event)

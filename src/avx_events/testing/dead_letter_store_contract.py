"""What every store of dead letters promises, as pytest classes that anybody can run on a store of their own."""

# ruff: noqa: D102, PLR2004, S101 - tests: a name is its docstring, expected values stand in place, assert speaks

import asyncio
import math
from datetime import UTC, datetime, timedelta, timezone
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

import msgspec
import pytest

from avx_events.bus.claim_leases import LEASE_S
from avx_events.bus.dead_letters import DeadLetter, DeadLetterQueue
from avx_events.bus.event_bus import EventBus
from avx_events.core.clock import SYSTEM_CLOCK
from avx_events.core.errors import ClosedError, DeadLetterNotFoundError
from avx_events.core.event import Event, UnknownEvent
from avx_events.core.metadata import EventEnvelope, EventMetadata, context, stamp
from avx_events.testing.clock import ManualClock
from avx_events.testing.own_loop import interrupted, on_its_own_loop
from avx_events.testing.renamed import NEW_TYPE, OLD_TYPE, guest_arrived, guest_came

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class Dropped(Event, event_type="avx.contract.dropped", aggregate_id="place"):
    """Something fell; the event of most tests."""

    place: str
    number: int = 0
    weight: float = 1.0


class Spilled(Event, event_type="avx.contract.spilled", aggregate_id="place"):
    """Another kind of event."""

    place: str
    number: int = 0


_AT: Final = datetime(2026, 3, 1, 12, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_FILTERS: Final[dict[str, Any]] = {
    "handler": "mop",
    "event_type": "avx.contract.dropped",
    "error_type": "KeyError",
    "since": _AT,
    "until": _AT + timedelta(minutes=30),
}


def a_letter(number: int, **changes: Any) -> DeadLetter:
    """Return a letter whose id sorts as ``number``."""
    letter = DeadLetter(
        id=f"letter-{number:04}",
        handler="mop",
        reason="failed",
        error="KeyError: 'bucket'",
        error_type="KeyError",
        attempts=5,
        first_failed_at=_AT - timedelta(hours=1),
        dead_at=_AT,
        envelope=stamp(Dropped("hall", number), clock=SYSTEM_CLOCK),
    )
    return msgspec.structs.replace(letter, **changes)


async def ids(queue: DeadLetterQueue, **filters: Any) -> list[str]:
    """Return the ids of what is found."""
    return [letter.id for letter in await queue.list(**filters)]


class DeadLetterStoreContract:
    """The promises of ``DeadLetterStore`` and of the queue on top of it, one test each.

    Derive a class whose name begins with ``Test``, say how a queue is opened, and let pytest find it::

        class TestMyLetters(DeadLetterStoreContract):
            url = "mine://{folder}/letters"

    Where a URL is not enough, override ``connect``. Each test opens its queues in a folder of its own, and finds them
    empty. It has an event loop of its own and 30 seconds, and fails where it leaves a task behind. Stores that keep
    letters outside of the process derive from ``DurableDeadLetterStoreContract``.

    Attributes:
        url: The URL of a queue; ``{folder}`` stands for the folder. Empty for memory.
    """

    url: ClassVar[str] = ""

    async def connect(self, folder: Path, **options: Any) -> DeadLetterQueue:
        """Open the queue of ``folder``, with the options of ``DeadLetterQueue.connect``."""
        if not self.url:
            return DeadLetterQueue()
        return await DeadLetterQueue.connect(self.url.format(folder=folder), **options)

    # Keeping

    @on_its_own_loop
    async def test_a_letter_comes_back_as_it_was(self, tmp_path: Path) -> None:
        async with await self.connect(tmp_path) as queue:
            with context(correlation_id="request-7", user_id="jane", causation_id="cause-1"):
                envelope = stamp(
                    Dropped("ä-\U0001f600\0", 2**63 - 1), clock=SYSTEM_CLOCK, headers={"tenant": "é"}, topic="floor.wet"
                )
            letter = a_letter(
                1, envelope=envelope, reason="rejected", traceback="Traceback ...", redrives=3, error="K: \0 ✓\n"
            )
            await queue.add(letter)

            assert await queue.get(letter.id) == letter
            assert await queue.list() == [letter]

    @on_its_own_loop
    async def test_bytes_that_could_not_be_decoded_come_back_as_they_were(self, tmp_path: Path) -> None:
        async with await self.connect(tmp_path) as queue:
            for number, raw in enumerate((b"", b"\xff\x00{", b"[" * 10_000)):
                letter = a_letter(number, envelope=None, raw=raw, reason="undecodable", attempts=0)
                await queue.add(letter)

                assert await queue.get(letter.id) == letter

    @on_its_own_loop
    async def test_an_event_that_no_class_has_is_kept(self, tmp_path: Path) -> None:
        async with await self.connect(tmp_path) as queue:
            unknown = UnknownEvent("avx.contract.gone", {"a": [1, None]}, 2)
            metadata = EventMetadata("e", "avx.contract.gone", "hall", 0, "e")
            letter = a_letter(1, envelope=EventEnvelope(unknown, metadata, "avx.contract.gone"))
            await queue.add(letter)

            assert await queue.list(event_type="avx.contract.gone") == [letter]

    @on_its_own_loop
    async def test_a_letter_is_kept_whatever_its_event_is(self, tmp_path: Path) -> None:
        async with await self.connect(tmp_path) as queue:
            odd = [Dropped("hall", weight=math.nan), Dropped("\udc80"), Dropped("hall", 2**70), Dropped("h" * 2**21)]
            for number, event in enumerate(odd):
                await queue.add(a_letter(number, envelope=stamp(event, clock=SYSTEM_CLOCK), error="OSError: \udcff"))

            letters = await queue.list(event_type="avx.contract.dropped")

            assert [letter.handler for letter in letters] == ["mop"] * len(odd)
            assert all(letter.error.startswith("OSError: ") for letter in letters)
            assert [letter.envelope is not None or bool(letter.raw) for letter in letters] == [True] * len(odd)
            assert letters[-1].event == odd[-1]

    @on_its_own_loop
    async def test_a_letter_that_is_added_again_is_replaced(self, tmp_path: Path) -> None:
        async with await self.connect(tmp_path) as queue:
            for number in range(3):
                await queue.add(a_letter(number))
            again = a_letter(
                1, handler="other", error_type="OSError", dead_at=_AT + timedelta(days=1), envelope=None, raw=b"x"
            )
            await queue.add(again)

            assert await ids(queue) == ["letter-0000", "letter-0001", "letter-0002"]
            assert await queue.get(again.id) == again
            assert await ids(queue, handler="mop") == await ids(queue, error_type="KeyError")
            assert await queue.list(since=again.dead_at) == [again]
            assert await queue.count() == 3

    @on_its_own_loop
    async def test_letters_that_are_added_at_the_same_time_are_all_kept(self, tmp_path: Path) -> None:
        async with await self.connect(tmp_path) as queue:
            async with asyncio.TaskGroup() as tasks:
                for number in range(300):
                    tasks.create_task(queue.add(a_letter(number)))

            assert await ids(queue) == [f"letter-{number:04}" for number in range(300)]
            assert await queue.count() == 300

    @on_its_own_loop
    async def test_an_addition_that_is_cancelled_is_whole_or_absent_and_can_be_repeated(self, tmp_path: Path) -> None:
        async with await self.connect(tmp_path) as queue:
            for turns in range(12):
                letter = a_letter(turns)
                await interrupted(queue.add(letter), after_turns=turns)

                assert await queue.list(after=f"letter-{turns - 1:04}") in ([], [letter])
                await queue.add(letter)
                assert await queue.get(letter.id) == letter

    # Finding

    @on_its_own_loop
    async def test_filters_find_what_passes_all_of_them_and_a_purge_takes_it(self, tmp_path: Path) -> None:
        async with await self.connect(tmp_path) as queue:
            passed = [
                set(names)
                for count in range(6)
                for names in combinations(_FILTERS, count)
                if {"since", "until"} & {*names}
            ]
            letters = [_with_properties(number, names) for number, names in enumerate(passed)]
            for count in range(len(_FILTERS) + 1):
                for names in combinations(_FILTERS, count):
                    filters = {name: _FILTERS[name] for name in names}
                    for letter in letters:
                        await queue.add(letter)
                    expected = [letter for letter, own in zip(letters, passed, strict=True) if {*names} <= own]

                    assert await queue.list(**filters) == expected
                    assert await queue.purge(**filters) == len(expected)
                    assert await queue.list() == [letter for letter in letters if letter not in expected]

    @on_its_own_loop
    async def test_instants_are_inclusive_to_the_microsecond_in_any_time_zone(self, tmp_path: Path) -> None:
        async with await self.connect(tmp_path) as queue:
            for number, offset in enumerate((-_MICROSECOND, timedelta(0), _MICROSECOND)):
                await queue.add(a_letter(number, dead_at=_AT + offset))
            in_tokyo = _AT.astimezone(timezone(timedelta(hours=9)))

            assert await ids(queue, since=_AT) == await ids(queue, since=in_tokyo) == ["letter-0001", "letter-0002"]
            assert await ids(queue, until=_AT) == await ids(queue, until=in_tokyo) == ["letter-0000", "letter-0001"]
            assert await ids(queue, since=_AT, until=_AT) == ["letter-0001"]
            assert await ids(queue, since=datetime.max.replace(tzinfo=UTC)) == []
            assert len(await ids(queue, since=datetime.min.replace(tzinfo=UTC))) == 3

    @on_its_own_loop
    async def test_a_filter_of_any_text_finds_what_has_it(self, tmp_path: Path) -> None:
        async with await self.connect(tmp_path) as queue:
            for number, handler in enumerate(("a", "A", "a\0b", "a'; --", "ä", "%", "a ")):
                await queue.add(a_letter(number, handler=handler))

                assert await ids(queue, handler=handler) == [f"letter-{number:04}"]
            assert await ids(queue, handler="\ud800") == []

    @on_its_own_loop
    async def test_letters_come_in_the_order_of_their_ids_whole_or_in_pages(self, tmp_path: Path) -> None:
        async with await self.connect(tmp_path) as queue:
            for number in reversed(range(250)):
                await queue.add(a_letter(number, handler="mop" if number % 2 else "other"))
            expected = [f"letter-{number:04}" for number in range(250)]

            assert await ids(queue) == expected
            assert await ids(queue, limit=7) == expected[:7]
            assert await ids(queue, limit=1000, handler="mop") == expected[1::2]
            assert await ids(queue, after=expected[199], limit=20) == expected[200:220]
            assert await ids(queue, after=expected[100], handler="mop") == expected[101::2]
            assert await ids(queue, after=expected[-1]) == []

    @on_its_own_loop
    async def test_pages_go_on_after_letters_that_are_gone(self, tmp_path: Path) -> None:
        async with await self.connect(tmp_path) as queue:
            for number in range(25):
                await queue.add(a_letter(number))
            seen: list[str] = []
            last: DeadLetter | None = None
            while page := await queue.list(after=last, limit=10):
                for letter in page:
                    await queue.remove(letter)
                seen += [letter.id for letter in page]
                last = page[-1]

            assert seen == [f"letter-{number:04}" for number in range(25)]
            assert await queue.count() == 0

    @on_its_own_loop
    async def test_what_is_not_there_is_said_or_harmless(self, tmp_path: Path) -> None:
        async with await self.connect(tmp_path) as queue:
            for missing in ("letter-0001", "", "\ud800", "\0"):
                for call in (queue.get(missing), queue.remove(missing), queue.claim(missing)):
                    with pytest.raises(DeadLetterNotFoundError):
                        await call
                await queue.resolve(missing)
                await queue.release(missing)
            await queue.add(a_letter(1))
            await queue.remove(a_letter(1))
            with pytest.raises(DeadLetterNotFoundError, match="letter-0001"):
                await queue.remove("letter-0001")

            assert (await queue.list(), await queue.purge(), await queue.count()) == ([], 0, 0)

    # Claiming

    @on_its_own_loop
    async def test_of_many_claims_one_is_given(self, tmp_path: Path) -> None:
        async with await self.connect(tmp_path) as queue:
            letter = a_letter(1)
            await queue.add(letter)
            async with asyncio.TaskGroup() as tasks:
                claims = [tasks.create_task(queue.claim(letter.id)) for _ in range(20)]

            assert [claim.result() for claim in claims if claim.result() is not None] == [letter]
            assert await queue.list() == [letter]

    @on_its_own_loop
    async def test_a_claim_ends_when_it_is_released_or_its_letter_is_replaced_or_gone(self, tmp_path: Path) -> None:
        async with await self.connect(tmp_path) as queue:
            letter, later = a_letter(1), a_letter(1, redrives=1)
            await queue.add(letter)
            assert await queue.claim(letter.id) == letter
            await queue.release(letter.id)
            assert await queue.claim(letter.id) == letter
            await queue.add(later)
            assert await queue.claim(letter.id) == later
            assert await queue.claim(letter.id) is None
            for end in (queue.resolve(letter.id), queue.remove(letter.id), queue.purge()):
                await end
                with pytest.raises(DeadLetterNotFoundError):
                    await queue.claim(letter.id)
                await queue.add(letter)
                assert await queue.claim(letter.id) == letter

    @on_its_own_loop
    async def test_a_claim_that_is_cancelled_leaves_the_letter_free(self, tmp_path: Path) -> None:
        async with await self.connect(tmp_path) as queue:
            letter = a_letter(1)
            await queue.add(letter)
            for turns in range(12):
                if await interrupted(queue.claim(letter.id), after_turns=turns) is None:
                    assert await queue.claim(letter.id) == letter, f"cancelled after {turns} turns"
                await queue.release(letter.id)

    # With a bus

    @on_its_own_loop
    async def test_a_letter_leaves_when_its_redrive_succeeds_and_is_the_same_when_that_fails(
        self, tmp_path: Path
    ) -> None:
        async with await self.connect(tmp_path) as queue:
            bus = EventBus(dead_letter_queue=queue)
            failures = [RuntimeError("first"), OSError("second")]

            @bus.on(Dropped, name="mop", retry=None)
            async def mop(event: Dropped) -> None:
                del event
                if failures:
                    raise failures.pop(0)

            async with bus:
                metadata = await bus.publish(Dropped("hall", 7))
                await bus.settled()
                [first] = await queue.list()
                assert await bus.republish(first)
                await bus.settled()
                [second] = await queue.list()
                assert await bus.republish(second.id)
                await bus.settled()

                assert await queue.list() == []
            assert first.envelope == EventEnvelope(Dropped("hall", 7), metadata, "avx.contract.dropped")
            assert (first.error, second.error) == ("RuntimeError: first", "OSError: second")
            assert "RuntimeError: first" in first.traceback
            assert (second.id, second.attempts, second.redrives) == (first.id, 2, 1)
            assert (second.envelope, second.first_failed_at) == (first.envelope, first.first_failed_at)

    @on_its_own_loop
    async def test_a_bus_leaves_its_queue_open(self, tmp_path: Path) -> None:
        async with await self.connect(tmp_path) as queue:
            async with EventBus(dead_letter_queue=queue):
                pass
            await queue.add(a_letter(1))

            assert await queue.count() == 1

    # Closing

    @on_its_own_loop
    async def test_a_closed_queue_refuses_everything_and_can_be_closed_again(self, tmp_path: Path) -> None:
        queue = await self.connect(tmp_path)
        await queue.add(a_letter(1))
        await queue.close()
        await queue.close()

        calls: list[Callable[[], Awaitable[object]]] = [
            queue.list,
            queue.count,
            queue.purge,
            lambda: queue.add(a_letter(1)),
            lambda: queue.get("letter-0001"),
            lambda: queue.remove("letter-0001"),
            lambda: queue.claim("letter-0001"),
            lambda: queue.release("letter-0001"),
            lambda: queue.resolve("letter-0001"),
        ]
        for call in calls:
            with pytest.raises(ClosedError, match="the dead letter queue is closed"):
                await call()


class DurableDeadLetterStoreContract(DeadLetterStoreContract):
    """What a store promises beyond that if it keeps letters outside of the process, for several of them.

    Attributes:
        lease_s: How long the claim of a process that died lasts at the most.
    """

    lease_s: ClassVar[float] = LEASE_S

    @on_its_own_loop
    async def test_letters_are_there_when_the_queue_is_opened_again(self, tmp_path: Path) -> None:
        letters = [a_letter(number) for number in range(5)]
        async with await self.connect(tmp_path) as queue:
            for letter in letters:
                await queue.add(letter)
            await queue.remove(letters[0])
        async with await self.connect(tmp_path) as queue:
            assert await queue.list() == letters[1:]
            assert await queue.count() == 4

    @on_its_own_loop
    async def test_letters_of_an_old_name_and_revision_are_found_and_read_as_those_of_today(
        self, tmp_path: Path
    ) -> None:
        old, new = guest_came(), guest_arrived()
        events = [old("7", "Ada Lovelace"), new("8", "Alan", "Turing"), old("9", "Grace Hopper")]
        async with await self.connect(tmp_path) as queue:
            for number, event in enumerate(events):
                await queue.add(a_letter(number, envelope=stamp(event, clock=SYSTEM_CLOCK)))
            await queue.add(a_letter(3))
        async with await self.connect(tmp_path) as queue:
            letters = await queue.list(event_type=NEW_TYPE)

            assert [letter.event for letter in letters] == [
                new("7", "Ada", "Lovelace"),
                new("8", "Alan", "Turing"),
                new("9", "Grace", "Hopper"),
            ]
            assert {letter.event_type for letter in letters} == {NEW_TYPE}
            assert await queue.list(event_type=OLD_TYPE) == letters
            assert await queue.list(event_type=NEW_TYPE, limit=2) == letters[:2]
            assert await queue.list(event_type=NEW_TYPE, after=letters[0], limit=1) == letters[1:2]
            assert await queue.purge(event_type=NEW_TYPE) == 3
            assert await ids(queue) == ["letter-0003"]

    @on_its_own_loop
    async def test_two_queues_see_what_the_other_does(self, tmp_path: Path) -> None:
        async with await self.connect(tmp_path) as first, await self.connect(tmp_path) as second:
            await first.add(a_letter(1))
            assert await second.get("letter-0001") == a_letter(1, envelope=(await first.get("letter-0001")).envelope)
            await second.remove("letter-0001")
            assert await first.list() == []

    @on_its_own_loop
    async def test_of_the_claims_of_two_queues_one_is_given(self, tmp_path: Path) -> None:
        async with await self.connect(tmp_path) as first, await self.connect(tmp_path) as second:
            for number in range(20):
                await first.add(a_letter(number))
            async with asyncio.TaskGroup() as tasks:
                claims = [
                    tasks.create_task(queue.claim(f"letter-{number:04}"))
                    for number in range(20)
                    for queue in (first, second)
                ]

            given = [letter.id for claim in claims if (letter := claim.result()) is not None]
            assert sorted(given) == [f"letter-{number:04}" for number in range(20)]

    @on_its_own_loop
    async def test_only_the_one_who_has_claimed_a_letter_frees_it(self, tmp_path: Path) -> None:
        async with await self.connect(tmp_path) as first, await self.connect(tmp_path) as second:
            letter = a_letter(1)
            await first.add(letter)
            assert await first.claim(letter.id)
            await second.release(letter.id)
            assert await second.claim(letter.id) is None
            await first.release(letter.id)
            assert await second.claim(letter.id) == letter
            await second.add(letter)
            assert await first.claim(letter.id) == letter

    @on_its_own_loop
    async def test_a_queue_that_is_closed_has_claimed_nothing_any_more(self, tmp_path: Path) -> None:
        async with await self.connect(tmp_path) as other:
            async with await self.connect(tmp_path) as queue:
                await queue.add(a_letter(1))
                assert await queue.claim("letter-0001")

            assert await other.claim("letter-0001")

    @on_its_own_loop
    async def test_a_claim_that_nobody_renews_ends_and_not_before(self, tmp_path: Path) -> None:
        standing, clock = ManualClock(), ManualClock()
        async with (
            await self.connect(tmp_path, clock=standing) as dead,
            await self.connect(tmp_path, clock=clock) as other,
        ):
            await dead.add(a_letter(1))
            assert await dead.claim("letter-0001")
            clock.advance(self.lease_s - 0.001)
            assert await other.claim("letter-0001") is None
            clock.advance(0.001)
            assert await other.claim("letter-0001") is not None

            # It was not dead after all. What it does now does not take the letter away from who has it.
            await dead.add(a_letter(1, redrives=1))
            await dead.release("letter-0001")
            assert (await other.get("letter-0001")).redrives == 1
            assert await dead.claim("letter-0001") is None


def _with_properties(number: int, names: set[str]) -> DeadLetter:
    outside = _AT - _MICROSECOND if "until" in names else _FILTERS["until"] + _MICROSECOND
    event_class = Dropped if "event_type" in names else Spilled
    return a_letter(
        number,
        handler="mop" if "handler" in names else "other",
        error_type="KeyError" if "error_type" in names else "ValueError",
        envelope=stamp(event_class("hall", number), clock=SYSTEM_CLOCK),
        dead_at=_AT if {"since", "until"} <= names else outside,
    )

"""The dead letter queue: what is found, kept, evicted, given back and removed, also several of these at once."""

import asyncio
import logging
from datetime import UTC, datetime, timedelta, timezone
from itertools import combinations, pairwise
from typing import Any, Final

import msgspec
import pytest

from avx_events import DeadLetterQueue, Event, EventBus, EventEnvelope, Reject, Retry, RetryAfter
from avx_events.bus.dead_letters import DeadLetter, MemoryDeadLetters
from avx_events.core.clock import SYSTEM_CLOCK
from avx_events.core.errors import (
    ClosedError,
    DeadLetterNotFoundError,
    InvalidArgumentError,
    NoHandlerError,
)
from avx_events.core.metadata import stamp
from avx_events.testing import ManualClock
from tests.waiting import until


class Lost(Event, event_type="dead_letters.lost", aggregate_id="key"):
    key: str
    number: int = 0


class LostToo(Event, event_type="dead_letters.lost.too", aggregate_id="key"):
    key: str
    number: int = 0


BEGAN: Final = datetime(2026, 3, 1, 12, tzinfo=UTC)
MICROSECOND: Final = timedelta(microseconds=1)


def a_letter(
    number: int,
    *,
    handler: str = "mail",
    event_class: type[Lost | LostToo] = Lost,
    error_type: str = "KeyError",
    dead_at: datetime = BEGAN,
) -> DeadLetter:
    envelope: EventEnvelope[Any] = stamp(event_class("a", number), clock=SYSTEM_CLOCK)
    return DeadLetter(
        id=f"letter-{number:02}",
        handler=handler,
        reason="failed",
        error=f"{error_type}: no",
        error_type=error_type,
        attempts=1,
        first_failed_at=dead_at,
        dead_at=dead_at,
        envelope=envelope,
    )


async def ids(queue: DeadLetterQueue, **filters: Any) -> list[str]:
    return [letter.id for letter in await queue.list(**filters)]


# Finding


FILTERS: Final[dict[str, Any]] = {
    "handler": "mail",
    "event_type": "dead_letters.lost",
    "error_type": "KeyError",
    "since": BEGAN,
    "until": BEGAN + timedelta(minutes=30),
}


async def a_queue_of_all_kinds() -> tuple[DeadLetterQueue, list[set[str]]]:
    """Return a queue with one letter for each set of filters that it passes, and those sets in its order."""
    queue = DeadLetterQueue()
    passed = [
        set(names) for count in range(6) for names in combinations(FILTERS, count) if {"since", "until"} & {*names}
    ]
    for number, names in enumerate(passed):
        outside = BEGAN - MICROSECOND if "until" in names else FILTERS["until"] + MICROSECOND
        await queue.add(
            a_letter(
                number,
                handler="mail" if "handler" in names else "other",
                event_class=Lost if "event_type" in names else LostToo,
                error_type="KeyError" if "error_type" in names else "ValueError",
                dead_at=BEGAN if {"since", "until"} <= names else outside,
            )
        )
    return queue, passed


async def test_filters_find_what_passes_all_of_them() -> None:
    queue, passed = await a_queue_of_all_kinds()

    for count in range(len(FILTERS) + 1):
        for names in combinations(FILTERS, count):
            expected = [f"letter-{number:02}" for number, own in enumerate(passed) if {*names} <= own]
            assert await ids(queue, **{name: FILTERS[name] for name in names}) == expected


async def test_purge_takes_what_list_would_find() -> None:
    for names in (["handler"], ["event_type", "error_type"], ["since", "until"], list(FILTERS), []):
        queue, passed = await a_queue_of_all_kinds()
        filters = {name: FILTERS[name] for name in names}
        found = await ids(queue, **filters)

        assert await queue.purge(**filters) == len(found) > 0

        assert await ids(queue, **filters) == []
        assert await queue.count() == len(passed) - len(found)


async def test_instants_are_inclusive_to_the_microsecond_in_any_time_zone() -> None:
    queue = DeadLetterQueue()
    for number, offset in enumerate((-MICROSECOND, timedelta(0), MICROSECOND)):
        await queue.add(a_letter(number, dead_at=BEGAN + offset))
    in_tokyo = BEGAN.astimezone(timezone(timedelta(hours=9)))

    assert await ids(queue, since=BEGAN) == await ids(queue, since=in_tokyo) == ["letter-01", "letter-02"]
    assert await ids(queue, until=BEGAN) == await ids(queue, until=in_tokyo) == ["letter-00", "letter-01"]
    assert await ids(queue, since=BEGAN, until=BEGAN) == ["letter-01"]
    assert await ids(queue, since=BEGAN + MICROSECOND, until=BEGAN) == []


async def test_letters_come_oldest_first_and_no_more_than_the_limit() -> None:
    queue = DeadLetterQueue()
    for number in range(5):
        await queue.add(a_letter(number))

    assert await ids(queue, limit=2) == ["letter-00", "letter-01"]
    assert await ids(queue, limit=99) == [f"letter-{number:02}" for number in range(5)]


async def test_a_page_goes_on_after_a_letter_that_is_gone() -> None:
    queue = DeadLetterQueue()
    for number in (3, 0, 4, 1, 2):
        await queue.add(a_letter(number, handler="mail" if number % 2 else "other"))

    (first, second) = await queue.list(limit=2)
    await queue.remove(first)
    await queue.remove(second)

    assert await ids(queue, after=second, limit=2) == ["letter-02", "letter-03"]
    assert await ids(queue, after="letter-01", handler="mail") == ["letter-03"]
    assert await ids(queue, after="letter-04") == []
    with pytest.raises(InvalidArgumentError, match="letter"):
        await queue.list(after=3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # the mistake


async def test_a_letter_without_an_envelope_is_found_by_the_type_that_its_bytes_say() -> None:
    queue = DeadLetterQueue()
    for number, raw in enumerate([b'{"type":"dead_letters.lost"}', b'{"type":3}', b'{"type":', b"[" * 100_000, None]):
        await queue.add(msgspec.structs.replace(a_letter(number), envelope=None, raw=raw))

    assert await ids(queue, event_type="dead_letters.lost") == ["letter-00"]
    assert await queue.purge(event_type="dead_letters.lost") == 1


async def test_what_cannot_be_a_filter_is_refused() -> None:
    queue = DeadLetterQueue()
    wrong_instants: list[Any] = [datetime(2026, 3, 1, 12), "2026-03-01", 3]  # noqa: DTZ001 - without a zone, on purpose

    for name in ("since", "until"):
        for wrong in wrong_instants:
            with pytest.raises(InvalidArgumentError, match=name):
                await queue.list(**{name: wrong})
            with pytest.raises(InvalidArgumentError, match=name):
                await queue.purge(**{name: wrong})
    wrong_limits: list[Any] = [0, -1, 1.5, True, "3"]
    for wrong in wrong_limits:
        with pytest.raises(InvalidArgumentError, match="limit"):
            await queue.list(limit=wrong)


async def test_a_letter_that_is_not_there_is_an_error_that_names_it() -> None:
    queue = DeadLetterQueue()
    letter = a_letter(1)

    for call in (queue.get(letter.id), queue.remove(letter), queue.remove(letter.id), queue.claim(letter.id)):
        with pytest.raises(DeadLetterNotFoundError, match=letter.id):
            await call


# Keeping


@pytest.mark.parametrize("wrong", [0, -1, 1.5, True, None, "10"])
def test_a_capacity_outside_its_range_is_refused(wrong: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="capacity"):
        DeadLetterQueue(capacity=wrong)


async def test_when_it_is_full_the_oldest_goes_and_is_counted_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    queue = DeadLetterQueue(capacity=2)

    with caplog.at_level(logging.ERROR, "avx_events"):
        for number in range(5):
            await queue.add(a_letter(number, handler=f"handler-{number}"))

    assert await ids(queue) == ["letter-03", "letter-04"]
    assert (queue.evicted, await queue.count()) == (3, 2)
    for number in range(3):
        assert f"letter-{number:02} of handler-{number}: KeyError: no" in caplog.text
    assert "letter-03" not in caplog.text


async def test_a_letter_that_is_added_again_is_replaced_and_evicts_nobody() -> None:
    queue = DeadLetterQueue(capacity=2)
    for number in (0, 1, 0, 1):
        await queue.add(a_letter(number))

    await queue.add(a_letter(0, error_type="OSError"))

    assert (queue.evicted, await queue.count()) == (0, 2)
    assert (await queue.get("letter-00")).error_type == "OSError"


async def test_an_evicted_letter_that_was_being_redriven_comes_back_if_it_fails_again() -> None:
    queue = DeadLetterQueue(capacity=1)
    bus = EventBus(dead_letter_queue=queue, clock=ManualClock())
    may_fail = asyncio.Event()

    @bus.on(Lost, retry=None)
    async def handler(event: Lost) -> None:
        if event.number == 1 and await queue.count():
            await may_fail.wait()
        raise RuntimeError

    async with asyncio.timeout(5), bus:
        await bus.publish(Lost("a", 1))
        await bus.settled()
        (first,) = await queue.list()
        assert await bus.republish(first)
        await until(lambda: bus.statistics().in_flight)
        await queue.add(a_letter(2))
        may_fail.set()
        await bus.settled()

    (left,) = await queue.list()
    assert (left.id, left.redrives) == (first.id, 1)
    assert queue.evicted == 2


# Giving back


def a_bus(queue: DeadLetterQueue | None = None, *, clock: ManualClock | None = None) -> EventBus:
    return EventBus(dead_letter_queue=queue or DeadLetterQueue(), clock=clock or ManualClock(), drain_timeout_s=1)


async def test_of_many_redrives_at_once_one_is_done() -> None:
    bus = a_bus()
    is_broken = True
    handled: list[int] = []

    @bus.on(Lost, retry=None)
    async def handler(event: Lost) -> None:
        await asyncio.sleep(0)
        if is_broken:
            raise RuntimeError
        handled.append(event.number)

    async with asyncio.timeout(5), bus:
        await bus.publish_many([Lost("a", 1), Lost("a", 2)])
        await bus.settled()
        letters = await bus.dead_letter_queue.list()
        is_broken = False
        async with asyncio.TaskGroup() as tasks:
            redrives = [tasks.create_task(bus.republish(letter)) for letter in letters * 5]
        await bus.settled()

    assert sum(redrive.result() for redrive in redrives) == 2
    assert handled == [1, 2]
    assert await bus.dead_letter_queue.count() == 0


async def test_each_failed_redrive_updates_the_same_letter_and_the_last_one_ends_it() -> None:
    clock = ManualClock()
    bus = a_bus(clock=clock)
    attempts: list[int] = []

    @bus.on(Lost, retry=Retry(attempts=2, initial_s=0, max_s=0))
    async def handler(event: Lost) -> None:
        attempts.append(event.number)
        if len(attempts) < 7:
            raise RuntimeError(str(len(attempts)))

    async def handle_all() -> None:
        async with asyncio.TaskGroup() as tasks:
            settling = tasks.create_task(bus.settled())
            while not settling.done():
                await asyncio.sleep(0)
                clock.advance(0)

    seen: list[DeadLetter] = []
    async with asyncio.timeout(5), bus:
        await bus.publish(Lost("a", 1))
        await handle_all()
        while letters := await bus.dead_letter_queue.list():
            seen += letters
            clock.advance(60)
            assert await bus.republish(letters[0])
            await handle_all()

    assert [(letter.attempts, letter.redrives, letter.error) for letter in seen] == [
        (2, 0, "RuntimeError: 2"),
        (4, 1, "RuntimeError: 4"),
        (6, 2, "RuntimeError: 6"),
    ]
    assert len({(letter.id, letter.first_failed_at) for letter in seen}) == 1
    assert all(later.dead_at - earlier.dead_at == timedelta(seconds=60) for earlier, later in pairwise(seen))
    assert len(attempts) == 7


async def test_a_redrive_is_of_the_letter_as_it_is_then() -> None:
    queue = DeadLetterQueue()
    await queue.add(a_letter(1))
    await queue.add(a_letter(1, error_type="OSError"))

    claimed = await queue.claim("letter-01")

    assert claimed is not None
    assert claimed.error_type == "OSError"
    assert await queue.claim("letter-01") is None
    await queue.add(claimed)
    assert await queue.claim("letter-01") == claimed


@pytest.mark.parametrize("failure", [OSError, asyncio.CancelledError])
async def test_a_redrive_whose_letter_cannot_be_had_leaves_it_free(failure: type[BaseException]) -> None:
    class Failing(MemoryDeadLetters):
        async def get(self, letter_id: str) -> DeadLetter | None:
            if failures:
                raise failures.pop()
            return await super().get(letter_id)

    failures = [failure()]
    queue = DeadLetterQueue(store=Failing(10))
    await queue.add(a_letter(1))

    with pytest.raises(failure):
        await queue.claim("letter-01")

    assert await queue.claim("letter-01") == await queue.get("letter-01")


async def test_a_letter_that_is_purged_is_claimed_no_more() -> None:
    queue = DeadLetterQueue()
    await queue.add(a_letter(1))
    await queue.claim("letter-01")
    await queue.purge()

    with pytest.raises(DeadLetterNotFoundError):
        await queue.claim("letter-01")
    await queue.add(a_letter(1))
    assert await queue.claim("letter-01")


async def test_a_redrive_keeps_the_order_of_its_key() -> None:
    bus = a_bus()
    is_broken, may_go = True, asyncio.Event()
    handled: list[int] = []

    @bus.on(Lost, retry=None, concurrency=4)
    async def handler(event: Lost) -> None:
        if is_broken:
            raise RuntimeError
        await may_go.wait()
        handled.append(event.number)

    async with asyncio.timeout(5), bus:
        await bus.publish(Lost("a", 1))
        await bus.settled()
        is_broken = False
        await bus.publish_many([Lost("a", 2), Lost("a", 3), Lost("b", 4)])
        await until(lambda: bus.statistics().in_flight == 2)
        (letter,) = await bus.dead_letter_queue.list()
        assert await bus.republish(letter)
        for _ in range(10):
            await asyncio.sleep(0)
        assert bus.statistics().in_flight == 2
        may_go.set()
        await bus.settled()

    assert [number for number in handled if number != 4] == [2, 3, 1]


async def test_a_redrive_that_comes_in_between_leaves_the_pause_of_a_retry_as_long_as_it_was() -> None:
    clock = ManualClock()
    bus = a_bus(clock=clock)
    may_fail = asyncio.Event()
    attempts: list[int] = []

    @bus.on(Lost, retry=Retry(attempts=2))
    async def handler(event: Lost) -> None:
        attempts.append(event.number)
        if attempts == [1]:
            raise Reject
        if attempts == [1, 2]:
            await may_fail.wait()
            raise RetryAfter(1000)

    async with asyncio.timeout(5), bus:
        await bus.publish(Lost("a", 1))
        await bus.settled()
        (letter,) = await bus.dead_letter_queue.list()
        await bus.publish(Lost("a", 2))
        await until(lambda: attempts == [1, 2])
        assert await bus.republish(letter)
        may_fail.set()
        await clock.planned()
        assert (attempts, clock.pauses_s) == ([1, 2, 1], [1000])
        clock.advance(1000)
        await bus.settled()

    assert attempts == [1, 2, 1, 2]


async def test_a_redriven_event_is_the_one_that_failed_with_its_metadata() -> None:
    bus = a_bus()
    seen: list[EventEnvelope[Lost]] = []

    @bus.on(Lost, retry=None)
    async def handler(event: Lost, envelope: EventEnvelope[Lost]) -> None:
        seen.append(envelope)
        if len(seen) == 1:
            raise RuntimeError

    async with bus:
        metadata = await bus.publish(Lost("a", 1), headers={"h": "1"})
        await bus.settled()
        (letter,) = await bus.dead_letter_queue.list()
        await bus.republish(letter.id)

    assert seen[0] is seen[1]
    assert seen[1].metadata is metadata


async def test_a_letter_goes_to_its_handler_on_any_bus_that_has_one_of_that_name() -> None:
    queue = DeadLetterQueue()
    first, second, third = a_bus(queue), a_bus(queue), a_bus(queue)
    handled: list[str] = []

    async def broken(event: Lost) -> None:
        raise RuntimeError

    async def mended(event: Lost) -> None:
        handled.append(event.key)

    first.on(Lost, name="mail", retry=None)(broken)
    second.on(Lost, name="mail", retry=None)(mended)
    third.on(Lost, name="other", retry=None)(mended)
    async with first, second, third:
        await first.publish(Lost("a"))
        await first.settled()
        (letter,) = await queue.list(handler="mail")

        with pytest.raises(NoHandlerError, match=r"mail.*other"):
            await third.republish(letter)
        assert await second.republish(letter)
        await second.settled()
        with pytest.raises(DeadLetterNotFoundError):
            await first.republish(letter)

    assert handled == ["a"]


async def test_letters_of_a_subscriber_that_was_closed_stay_and_say_so() -> None:
    bus = a_bus()
    subscriber = await bus.subscribe(Lost, name="reader", retry=None)
    await bus.publish(Lost("a"))
    async with await anext(subscriber.deliveries()):
        raise RuntimeError
    await subscriber.close()
    (letter,) = await bus.dead_letter_queue.list()

    with pytest.raises(NoHandlerError, match="reader"):
        await bus.republish(letter)
    again = await bus.subscribe(Lost, name="reader", retry=None)
    assert await bus.republish(letter)
    async with await anext(again.deliveries()):
        pass

    assert await bus.dead_letter_queue.count() == 0


async def test_a_letter_whose_subscriber_is_closed_while_it_comes_back_can_be_redriven_again() -> None:
    bus = a_bus()
    closed = await bus.subscribe(Lost, name="reader", retry=None)
    await bus.publish(Lost("a"))
    async with await anext(closed.deliveries()):
        raise RuntimeError
    (letter,) = await bus.dead_letter_queue.list()

    async def redrive_in_vain() -> None:
        with pytest.raises(NoHandlerError, match="reader"):
            await bus.republish(letter)

    async with asyncio.timeout(5):
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(redrive_in_vain())
            await asyncio.sleep(0)
            await closed.close()
        again = await bus.subscribe(Lost, name="reader", retry=None)
        assert await bus.republish(letter)
        async with await anext(again.deliveries()):
            pass

    assert await bus.dead_letter_queue.count() == 0


async def test_what_could_not_be_decoded_cannot_be_given_back() -> None:
    bus = a_bus()

    @bus.on(Lost, name="mail")
    async def handler(event: Lost) -> None:
        pass

    now = datetime.now(UTC)
    letter = DeadLetter(
        id="raw",
        handler="mail",
        reason="undecodable",
        error="DecodeError: no JSON",
        error_type="DecodeError",
        attempts=0,
        first_failed_at=now,
        dead_at=now,
        raw=b"\xff\x00",
    )
    await bus.dead_letter_queue.add(letter)
    async with bus:
        with pytest.raises(InvalidArgumentError, match="undecodable"):
            await bus.republish(letter)

    assert await bus.dead_letter_queue.list(event_type="dead_letters.lost") == []
    assert await bus.dead_letter_queue.get("raw") == letter


@pytest.mark.parametrize("succeeds", [False, True])
async def test_a_letter_that_is_purged_while_it_is_redriven_comes_back_only_if_it_fails_again(
    *, succeeds: bool
) -> None:
    bus = a_bus()
    attempts = 0
    may_end = asyncio.Event()

    @bus.on(Lost, retry=None)
    async def handler(event: Lost) -> None:
        nonlocal attempts
        attempts += 1
        if attempts == 2:
            await may_end.wait()
        if attempts == 1 or not succeeds:
            raise RuntimeError

    async with asyncio.timeout(5), bus:
        await bus.publish(Lost("a"))
        await bus.settled()
        (letter,) = await bus.dead_letter_queue.list()
        assert await bus.republish(letter)
        await until(lambda: attempts == 2)
        assert await bus.dead_letter_queue.purge() == 1
        may_end.set()
        await bus.settled()

    assert await ids(bus.dead_letter_queue) == ([] if succeeds else [letter.id])


@pytest.mark.parametrize("is_running", [False, True])
async def test_a_redrive_that_a_close_cuts_short_leaves_the_letter_as_it_was(*, is_running: bool) -> None:
    clock = ManualClock()
    queue = DeadLetterQueue()
    bus = a_bus(queue, clock=clock)
    is_broken = True

    @bus.on(Lost, retry=None, name="mail")
    async def handler(event: Lost) -> None:
        if is_broken:
            raise RuntimeError
        await asyncio.Event().wait()

    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        await bus.start()
        await bus.publish(Lost("a", 1))
        await bus.settled()
        (letter,) = await queue.list()
        is_broken = False
        if not is_running:
            await bus.publish(Lost("a", 0))  # which is in the way of the redrive
            await until(lambda: bus.statistics().in_flight)
        assert await bus.republish(letter)
        await until(lambda: bus.statistics().in_flight)
        tasks.create_task(bus.close())
        await clock.planned()
        clock.advance(1)

    assert await queue.get(letter.id) == letter
    assert await queue.claim(letter.id) == letter


async def test_a_letter_that_a_slow_store_gives_to_a_bus_that_closes_can_be_redriven_elsewhere() -> None:
    asked, may_answer = asyncio.Event(), asyncio.Event()

    class Slow(MemoryDeadLetters):
        async def claim(self, letter_id: str) -> bool:
            is_claimed = await super().claim(letter_id)
            asked.set()
            await may_answer.wait()
            return is_claimed

    queue = DeadLetterQueue(store=Slow(10))
    bus = a_bus(queue)

    @bus.on(Lost, retry=None)
    async def handler(event: Lost) -> None:
        raise RuntimeError

    async def redrive_in_vain() -> None:
        with pytest.raises(ClosedError):
            await bus.republish(letter)

    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        await bus.start()
        await bus.publish(Lost("a"))
        await bus.settled()
        (letter,) = await queue.list()
        tasks.create_task(redrive_in_vain())
        await asked.wait()
        tasks.create_task(bus.close())
        await asyncio.sleep(0)
        may_answer.set()

    assert await queue.claim(letter.id) == letter


async def test_a_handler_may_redrive_while_its_bus_closes_and_others_may_not() -> None:
    bus = a_bus()
    may_go = asyncio.Event()
    handled: list[int] = []

    @bus.on(Lost, retry=None, name="mail")
    async def handler(event: Lost) -> None:
        if not may_go.is_set():
            raise RuntimeError
        handled.append(event.number)

    @bus.on(LostToo)
    async def redrives(event: LostToo) -> None:
        await may_go.wait()
        for letter in await bus.dead_letter_queue.list():
            assert await bus.republish(letter)

    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        await bus.start()
        await bus.publish(Lost("a", 1))
        await bus.settled()
        await bus.publish(LostToo("a"))
        await until(lambda: bus.statistics().in_flight)
        closing = tasks.create_task(bus.close())
        await asyncio.sleep(0)
        (letter,) = await bus.dead_letter_queue.list()
        with pytest.raises(ClosedError):
            await bus.republish(letter)
        assert not closing.done()
        may_go.set()

    assert handled == [1]
    assert await bus.dead_letter_queue.count() == 0


@pytest.mark.parametrize("wrong", [5, None, object()])
async def test_what_is_no_letter_is_neither_redriven_nor_removed(wrong: Any) -> None:
    async with EventBus(dead_letter_queue=DeadLetterQueue()) as bus:
        with pytest.raises(InvalidArgumentError, match="letter"):
            await bus.republish(wrong)
        with pytest.raises(InvalidArgumentError, match="letter"):
            await bus.dead_letter_queue.remove(wrong)


@pytest.mark.parametrize("wrong", [{"event_type": Lost}, {"error_type": ValueError}, {"handler": print}])
async def test_a_filter_that_can_match_nothing_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgumentError, match=next(iter(wrong))):
        await DeadLetterQueue().list(**wrong)
    with pytest.raises(InvalidArgumentError, match=next(iter(wrong))):
        await DeadLetterQueue().purge(**wrong)

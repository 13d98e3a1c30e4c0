"""Members that are asked to redrive a dead letter, and queues that ask them."""

import logging
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from avx_events import DeadLetter, DeadLetterQueue, Event, EventBus, UnsupportedError
from avx_events.bus.dead_letters import MemoryDeadLetters
from avx_events.bus.remote.redrives import RedriveRequest, decode_redrive, encode_redrive
from avx_events.core.clock import SYSTEM_CLOCK
from avx_events.core.errors import DeadLetterNotFoundError, InvalidArgumentError
from avx_events.core.metadata import stamp
from tests.unit.bus.remote.broker import FakeBroker, Letters, bus_on
from tests.waiting import until


class Billed(Event, event_type="redrive.billed"):
    number: int


def a_letter(**known: Any) -> DeadLetter:
    at = datetime(2026, 1, 31, tzinfo=UTC)
    given: dict[str, Any] = {
        "id": "letter",
        "group": "billing",
        "envelope": stamp(Billed(1), clock=SYSTEM_CLOCK),
        **known,
    }
    return DeadLetter(
        handler="bill",
        reason="failed",
        error="E",
        error_type="E",
        attempts=1,
        first_failed_at=at,
        dead_at=at,
        **given,
    )


class Asking(MemoryDeadLetters):
    """Remembers for which letters it was to ask."""

    def __init__(self) -> None:
        super().__init__(100)
        self.asked: list[DeadLetter] = []

    async def ask_for_redrive(self, letter: DeadLetter) -> None:
        self.asked.append(letter)


class Overtaken(Letters):
    """Has somebody else redrive a letter, who fails, between the look at it and its claim."""

    async def claim(self, letter_id: str) -> bool:
        letter = await self.get(letter_id)
        assert letter is not None
        await self.put(msgspec.structs.replace(letter, redrives=letter.redrives + 1))
        return await super().claim(letter_id)


def billing(broker: FakeBroker, handled: list[int], **options: Any) -> EventBus:
    bus = bus_on(broker, **options)

    @bus.on(Billed, name="bill", retry=None)
    async def bill(event: Billed) -> None:
        handled.append(event.number)

    return bus


def asks(broker: FakeBroker, request: RedriveRequest) -> None:
    on_redrive = broker.sources["bill"].consumer.on_redrive
    assert on_redrive is not None
    on_redrive(request)


async def test_a_queue_in_no_broker_says_who_can_redrive() -> None:
    queue = DeadLetterQueue()
    await queue.add(a_letter())

    assert not queue.reaches_members
    with pytest.raises(UnsupportedError, match="republish"):
        await queue.ask_for_redrive("letter")


async def test_a_queue_asks_for_a_letter_as_it_is_now() -> None:
    queue = DeadLetterQueue(store=(store := Asking()))
    before = a_letter()
    await queue.add(a_letter(redrives=3))

    asked = await queue.ask_for_redrive(before)

    assert queue.reaches_members
    assert store.asked == [asked]
    assert asked.redrives == 3


async def test_nobody_is_asked_for_what_no_member_can_do() -> None:
    queue = DeadLetterQueue(store=(store := Asking()))
    await queue.add(a_letter(id="alone", group=""))
    await queue.add(a_letter(id="unread", envelope=None, raw=b"?"))

    with pytest.raises(UnsupportedError, match="without a group"):
        await queue.ask_for_redrive("alone")
    with pytest.raises(InvalidArgumentError, match="undecodable"):
        await queue.ask_for_redrive("unread")
    with pytest.raises(DeadLetterNotFoundError):
        await queue.ask_for_redrive("gone")

    assert store.asked == []


async def test_a_member_redrives_a_letter_that_is_as_it_was_when_that_was_asked() -> None:
    broker, handled = FakeBroker(), list[int]()
    async with billing(broker, handled) as bus:
        await bus.dead_letter_queue.add(a_letter(id="old", envelope=stamp(Billed(1), clock=SYSTEM_CLOCK), redrives=1))
        await bus.dead_letter_queue.add(a_letter(id="new", envelope=stamp(Billed(2), clock=SYSTEM_CLOCK), redrives=1))

        asks(broker, RedriveRequest("old", redrives=0))
        asks(broker, RedriveRequest("new", redrives=1))
        await until(lambda: handled)
        await bus.settled()
        left = await bus.dead_letter_queue.list()

    assert handled == [2]
    assert [letter.id for letter in left] == ["old"]


async def test_a_letter_that_failed_again_in_the_moment_of_its_claim_is_left_alone_and_free() -> None:
    broker, handled = FakeBroker(), list[int]()
    broker.letters = Overtaken()
    async with billing(broker, handled) as bus:
        await bus.dead_letter_queue.add(a_letter())

        is_redriven = await bus.republish("letter")
        asks(broker, RedriveRequest("letter", redrives=1))
        await until(lambda: not bus._engine._asked)
        await bus.settled()
        [left] = await bus.dead_letter_queue.list()
        is_free = await MemoryDeadLetters.claim(broker.letters, "letter")

    assert (is_redriven, handled, left.redrives, is_free) == (False, [], 2, True)


async def test_a_member_that_cannot_do_what_it_is_asked_says_so_and_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    broker, handled = FakeBroker(), list[int]()
    caplog.set_level(logging.INFO, "avx_events")
    async with billing(broker, handled) as bus:
        await bus.dead_letter_queue.add(a_letter())

        asks(broker, RedriveRequest("gone"))
        asks(broker, RedriveRequest("letter"))
        await until(lambda: handled)
        await until(lambda: "gone" in caplog.text)
        await bus.settled()

    assert handled == [1]


async def test_a_flood_of_requests_is_not_answered_past_a_bound() -> None:
    broker, handled = FakeBroker(), list[int]()
    async with billing(broker, handled) as bus:
        for number in range(5000):
            asks(broker, RedriveRequest(f"gone-{number}"))

        assert len(bus._engine._asked) == 1000
        await until(lambda: not bus._engine._asked)


async def test_only_members_of_groups_with_a_queue_are_asked() -> None:
    listened = FakeBroker()
    async with billing(listened, [], group=None):
        assert listened.sources["bill"].consumer.on_redrive is None


def test_a_request_says_which_letter_and_how_often_it_was_redriven() -> None:
    assert decode_redrive(encode_redrive(a_letter(redrives=2))) == RedriveRequest("letter", redrives=2)
    assert encode_redrive(a_letter()) == b'{"letter":"letter"}'


@pytest.mark.parametrize("document", [b"", b"\xff", b"[]", b"{}", b'{"letter":7}', b'{"letter":' * 2000])
def test_what_is_no_request_is_none(document: bytes) -> None:
    assert decode_redrive(document) is None

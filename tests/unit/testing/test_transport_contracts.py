"""The contracts of transports can be failed: a bus that breaks a promise is found out by the test of that promise."""

import asyncio
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from avx_events import Event, EventBus, EventMetadata
from avx_events.bus.dead_letters import DeadLetter, DeadLetterQueue
from avx_events.bus.request_reply import RequestReplyBus
from avx_events.bus.topic_bus import TopicBus
from avx_events.core.codec import decode_data, encode_data
from avx_events.core.errors import ClosedError, NoResponderError
from avx_events.core.metadata import stamp
from avx_events.core.tasks import TaskScope
from avx_events.store.stored_event import is_envelope
from avx_events.testing import (
    BackPressureContract,
    DeadLetterContract,
    GracefulStopContract,
    KeyOrderContract,
    RequestReplyContract,
    TopicContract,
    TransportContract,
)
from avx_events.testing.bus_contract import BusContract
from avx_events.testing.own_loop import on_its_own_loop
from avx_events.testing.transport_contract import PAYLOADS


class Lossy(EventBus):
    """Loses an event in a thousand."""

    __slots__ = ("_count_down",)

    async def publish(self, event: object, headers: Mapping[str, str] | None = None) -> EventMetadata:
        self._count_down = getattr(self, "_count_down", 1000) - 1
        if self._count_down:
            return await super().publish(event, headers)
        return await EventBus().publish(event, headers)


class Forgetful(EventBus):
    """Does not carry headers."""

    async def publish(self, event: object, headers: Mapping[str, str] | None = None) -> EventMetadata:
        metadata = await super().publish(event)
        return msgspec.structs.replace(metadata, headers=headers or {})


class Restamping(EventBus):
    """Gives an envelope that is published again new metadata."""

    async def publish(self, event: object, headers: Mapping[str, str] | None = None) -> EventMetadata:
        inner: object = event.event if is_envelope(event) else event
        return await super().publish(inner, headers)


class Leaky(EventBus):
    """Leaves a task behind."""

    async def close(self) -> None:
        TaskScope().spawn(asyncio.sleep(60), name="left behind")
        await super().close()


class Patient(EventBus):
    """Retries without end, in line."""

    def __init__(self, **options: Any) -> None:
        options.update(drain_timeout_s=0.01)
        super().__init__(**options)

    def on(self, *event_classes: type, **options: Any) -> Any:
        def register(function: Any) -> Any:
            async def for_ever(event: Event) -> None:
                is_done = False
                while not is_done:
                    try:
                        await function(event)
                        is_done = True
                    except Exception:  # noqa: BLE001 - this is what is wrong with it
                        await asyncio.sleep(0.001)

            return super(Patient, self).on(*event_classes, **options)(for_ever)

        return register


class Broadcasting(EventBus):
    """Gives a dead letter to everybody."""

    async def republish(self, letter: DeadLetter | str) -> bool:
        await super().republish(letter)
        assert isinstance(letter, DeadLetter)
        assert letter.envelope is not None
        await self.publish(letter.envelope)
        return True


class Unbounded(EventBus):
    """Never lets a publisher wait."""

    async def subscribe(self, *event_classes: type[Any], **options: Any) -> Any:
        options.update(capacity=1_000_000)
        return await super().subscribe(*event_classes, **options)

    def on(self, *event_classes: type, **options: Any) -> Any:
        options.update(capacity=1_000_000)
        return super().on(*event_classes, **options)


class Unordered(EventBus):
    """Does not keep keys apart."""

    def on(self, *event_classes: type, **options: Any) -> Any:
        options.update(key=self._none)
        return super().on(*event_classes, **options)

    @staticmethod
    def _none(event: object) -> None:
        """Give no key."""


class Hasty(EventBus):
    """Does not wait for its handlers when it closes."""

    def __init__(self, **options: Any) -> None:
        options.update(drain_timeout_s=0.001)
        super().__init__(**options)


class Deaf(EventBus):
    """Says that it took what it did not take, once closed."""

    async def publish(self, event: object, headers: Mapping[str, str] | None = None) -> EventMetadata:
        try:
            return await super().publish(event, headers)
        except ClosedError:
            return stamp(event, clock=self._engine.life.clock).metadata


class Twofold(TopicBus):
    """Delivers what is published to its type a second time."""

    async def publish_to(self, topic: str, event: object, *, headers: Mapping[str, str] | None = None) -> EventMetadata:
        await super().publish(event)
        return await super().publish_to(topic, event, headers=headers)


class Mixed(RequestReplyBus):
    """Gives a caller the reply of another."""

    __slots__ = ("_last",)

    async def request(self, request: Any, **options: Any) -> Any:
        reply, last = await super().request(request, **options), getattr(self, "_last", None)
        self._last = reply
        return reply if last is None else last


class Silent(RequestReplyBus):
    """Waits for the deadline where nobody answers."""

    async def request(self, request: Any, **options: Any) -> Any:
        try:
            return await super().request(request, **options)
        except NoResponderError:
            await asyncio.sleep(60)


FAILED = (AssertionError, TimeoutError, BaseExceptionGroup, pytest.fail.Exception)
BROKEN: list[tuple[type[EventBus], type[BusContract], str]] = [
    (Lossy, TransportContract, "test_5000_events_of_50_publishers_reach_every_subscriber_once_and_in_order"),
    (Forgetful, TransportContract, "test_headers_and_context_arrive_as_they_were_sent"),
    (Restamping, TransportContract, "test_an_envelope_that_is_published_again_keeps_its_metadata"),
    (Leaky, TransportContract, "test_closing_twice_or_by_many_at_once_is_harmless"),
    (Deaf, TransportContract, "test_a_closed_bus_refuses_everything"),
    (Deaf, BackPressureContract, "test_a_close_frees_the_publishers_that_wait"),
    (Unordered, KeyOrderContract, "test_events_of_16_keys_run_in_order_each_with_concurrency_8_and_failures"),
    (Patient, DeadLetterContract, "test_what_fails_for_good_is_kept_with_everything_about_it"),
    (
        Broadcasting,
        DeadLetterContract,
        "test_a_redrive_goes_to_the_handler_that_failed_and_the_letter_leaves_when_it_succeeds",
    ),
    (Unbounded, BackPressureContract, "test_a_publisher_waits_for_a_slow_reader_and_nothing_is_lost"),
    (Unbounded, BackPressureContract, "test_a_publisher_waits_for_a_slow_handler"),
    (Hasty, GracefulStopContract, "test_a_close_waits_for_handlers_that_run_and_refuses_what_comes_from_outside"),
]


BROKEN_OTHERS: list[tuple[type[Any], type[Any], str]] = [
    (Twofold, TopicContract, "test_a_pattern_selects_the_topics_that_it_should_and_no_others"),
    (Twofold, TopicContract, "test_an_event_that_is_published_without_a_topic_goes_to_its_type"),
    (Mixed, RequestReplyContract, "test_each_of_100_callers_gets_its_own_replies"),
    (Silent, RequestReplyContract, "test_without_a_responder_the_requester_is_told_at_once"),
]


def contract_of(bus_class: type[EventBus], contract: type[BusContract]) -> BusContract:
    class Contract(contract):  # type: ignore[misc, valid-type]
        async def connect(self, namespace: str, **options: Any) -> EventBus:
            return bus_class(dead_letter_queue=DeadLetterQueue(), **options)

    made: BusContract = Contract()
    return made


def be_impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("avx_events.testing.own_loop.DEADLINE_S", 0.3)
    monkeypatch.setattr("avx_events.testing.own_loop._TASKS_END_WITHIN_S", 0.1)


@pytest.mark.parametrize(("bus_class", "contract", "name"), BROKEN)
def test_a_bus_that_breaks_a_promise_fails_the_test_of_it(
    bus_class: type[EventBus], contract: type[BusContract], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    getattr(contract_of(EventBus, contract), name)()
    be_impatient(monkeypatch)

    with pytest.raises(FAILED):
        getattr(contract_of(bus_class, contract), name)()


@pytest.mark.parametrize(("bus_class", "contract", "name"), BROKEN_OTHERS)
def test_a_bus_of_topics_or_requests_that_breaks_a_promise_does_so_too(
    bus_class: type[Any], contract: type[Any], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Contract(contract):  # type: ignore[misc]
        async def connect_topics(self, namespace: str, **options: Any) -> Any:
            return bus_class(**options)

        connect_requests = connect_topics

    be_impatient(monkeypatch)

    with pytest.raises(FAILED):
        getattr(Contract(), name)()


@pytest.mark.parametrize("payload", PAYLOADS)
def test_every_payload_can_be_carried_as_json(payload: str) -> None:
    event = PAYLOADS[payload]

    assert decode_data(event.event_type, encode_data(event)) == event


def test_an_error_that_nobody_took_fails_a_test() -> None:
    async def forgets_a_failed_future() -> None:
        asyncio.get_running_loop().call_soon(lambda: 1 / 0)
        await asyncio.sleep(0)

    with pytest.raises(AssertionError, match="nobody took"):
        on_its_own_loop(forgets_a_failed_future)()


def test_a_test_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("avx_events.testing.own_loop.DEADLINE_S", 0.01)

    with pytest.raises(TimeoutError):
        on_its_own_loop(asyncio.Event().wait)()  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def test_a_contract_needs_to_be_told_how_a_bus_is_connected() -> None:
    with pytest.raises(NotImplementedError):
        await TransportContract().bus()

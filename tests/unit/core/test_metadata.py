"""Envelopes, their headers, and what new messages inherit."""

import asyncio
import copy
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec
import pytest

from avx_events.core.clock import SYSTEM_CLOCK, SystemClock
from avx_events.core.errors import InvalidArgumentError, NotAnEventError
from avx_events.core.event import Event, UnknownEvent
from avx_events.core.metadata import (
    NO_HEADERS,
    EventEnvelope,
    EventMetadata,
    Headers,
    MessageContext,
    checked_headers,
    context,
    current_context,
    current_message,
    readdressed,
    stamp,
)


class Noted(Event, event_type="metadata.noted", aggregate_id="key"):
    """An event with a key."""

    key: str = "k"


class StoppedClock(SystemClock):
    """A clock that stands at one millisecond and 999 nanoseconds after the epoch."""

    time_ns = staticmethod(lambda: 1_000_999)


# Stamping


def test_the_first_of_a_chain_is_its_own_correlation_and_has_no_cause() -> None:
    envelope = stamp(Noted("k-1"), clock=StoppedClock())
    metadata = envelope.metadata

    assert envelope.topic == metadata.event_type == "metadata.noted"
    assert metadata.aggregate_id == "k-1"
    assert metadata.timestamp == 1_000
    assert metadata.time == datetime(1970, 1, 1, 0, 0, 0, 1_000, tzinfo=UTC)
    assert metadata.correlation_id == metadata.event_id
    assert UUID(metadata.event_id).version == 7
    assert metadata.causation_id is None
    assert metadata.user_id is None
    assert metadata.headers is NO_HEADERS


def test_a_topic_of_its_own_does_not_change_the_event_type() -> None:
    envelope = stamp(Noted(), clock=SYSTEM_CLOCK, topic="notes.eu")

    assert envelope.topic == "notes.eu"
    assert envelope.metadata.event_type == "metadata.noted"


def test_an_envelope_keeps_its_metadata() -> None:
    envelope = stamp(Noted(), clock=SYSTEM_CLOCK)

    with context(correlation_id="other", user_id="other"):
        again = stamp(envelope, clock=SYSTEM_CLOCK)
        moved = stamp(envelope, clock=SYSTEM_CLOCK, topic="elsewhere")

    assert again is envelope
    assert moved == EventEnvelope(envelope.event, envelope.metadata, "elsewhere")


def test_an_envelope_cannot_be_given_other_headers() -> None:
    envelope = stamp(Noted(), clock=SYSTEM_CLOCK, headers={"a": "1"})

    with pytest.raises(InvalidArgumentError, match="has its own"):
        stamp(envelope, clock=SYSTEM_CLOCK, headers={"a": "2"})


def test_an_event_that_no_class_has_is_passed_on_in_its_envelope_and_not_stamped() -> None:
    envelope = EventEnvelope(UnknownEvent("a", {}), stamp(Noted(), clock=SYSTEM_CLOCK).metadata, "a")

    assert readdressed(envelope, headers=None, topic=None) is envelope
    with pytest.raises(NotAnEventError):
        stamp(UnknownEvent("a", {}), clock=SYSTEM_CLOCK)


@pytest.mark.parametrize("value", [object(), 3, None, {"key": "k"}, object])
def test_what_is_no_event_is_not_stamped(value: object) -> None:
    with pytest.raises(NotAnEventError):
        stamp(value, clock=SYSTEM_CLOCK)
    with pytest.raises(NotAnEventError):
        readdressed(EventEnvelope(value, stamp(Noted(), clock=SYSTEM_CLOCK).metadata, "a"), headers=None, topic=None)


def test_a_class_in_place_of_an_event_is_refused_with_what_to_write() -> None:
    with pytest.raises(NotAnEventError, match=r"Noted is a class; give an instance of it, Noted\(\.\.\.\)"):
        stamp(Noted, clock=SYSTEM_CLOCK)


def test_years_before_the_epoch_have_a_time() -> None:
    metadata = EventMetadata("i", "t", "", -1, "i")

    assert metadata.time == datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)
    assert metadata.headers is NO_HEADERS


# Headers


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("__setitem__", ("a", "2")),
        ("__delitem__", ("a",)),
        ("clear", ()),
        ("pop", ("a",)),
        ("popitem", ()),
        ("setdefault", ("b", "1")),
        ("update", ({"b": "1"},)),
        ("__ior__", ({"b": "1"},)),
    ],
)
def test_headers_refuse_every_change(method: str, arguments: tuple[object, ...]) -> None:
    headers = stamp(Noted(), clock=SYSTEM_CLOCK, headers={"a": "1"}).metadata.headers

    with pytest.raises(TypeError, match="cannot be changed"):
        getattr(headers, method)(*arguments)

    assert headers == {"a": "1"}


def test_headers_are_a_copy_of_what_was_given() -> None:
    given = {"a": "1"}

    envelope = stamp(Noted(), clock=SYSTEM_CLOCK, headers=given)
    given["a"] = "2"

    assert envelope.metadata.headers == {"a": "1"}
    assert dict(envelope.metadata.headers) | {"b": "2"} == {"a": "1", "b": "2"}


def test_envelopes_can_be_copied_deeply_and_replaced() -> None:
    envelope = stamp(Noted(), clock=SYSTEM_CLOCK, headers={"a": "1"})

    deep = copy.deepcopy(envelope)
    headers = copy.copy(envelope.metadata.headers)

    assert deep == envelope
    assert isinstance(deep.metadata.headers, Headers)
    assert headers == {"a": "1"}
    assert msgspec.structs.replace(envelope, topic="b").metadata is envelope.metadata


@pytest.mark.parametrize("headers", [{}, None])
def test_no_headers_are_always_the_same_object(headers: Any) -> None:
    assert checked_headers(headers) is NO_HEADERS


@pytest.mark.parametrize("headers", [{"a": 1}, {1: "a"}, {"": "a"}, {"a": None}, [("a", "1")], "text", 7])
def test_headers_are_a_mapping_of_text_to_text(headers: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="mapping of text to text"):
        stamp(Noted(), clock=SYSTEM_CLOCK, headers=headers)


# Context


def test_a_message_made_while_another_is_handled_inherits_from_it() -> None:
    first = stamp(Noted(), clock=SYSTEM_CLOCK).metadata
    handled = msgspec.structs.replace(first, user_id="u")

    token = current_message.set(handled)
    try:
        second = stamp(Noted(), clock=SYSTEM_CLOCK).metadata
    finally:
        current_message.reset(token)

    assert second.correlation_id == first.event_id
    assert second.causation_id == first.event_id
    assert second.user_id == "u"
    assert second.event_id != first.event_id


def test_a_context_gives_ids_inside_and_takes_them_back() -> None:
    with context(correlation_id="c", user_id="u", causation_id="x"):
        inside = stamp(Noted(), clock=SYSTEM_CLOCK).metadata
    outside = stamp(Noted(), clock=SYSTEM_CLOCK).metadata

    assert (inside.correlation_id, inside.causation_id, inside.user_id) == ("c", "x", "u")
    assert (outside.correlation_id, outside.causation_id, outside.user_id) == (outside.event_id, None, None)


def test_an_inner_context_keeps_what_it_is_not_given() -> None:
    with context(correlation_id="c", user_id="u"), context(user_id="v"):
        assert current_context() == MessageContext("c", None, "v")
        with context(correlation_id=""):
            assert current_context() == MessageContext("", None, "v")


def test_a_context_without_a_correlation_begins_a_chain() -> None:
    with context(user_id="u"):
        metadata = stamp(Noted(), clock=SYSTEM_CLOCK).metadata

    assert metadata.correlation_id == metadata.event_id
    assert metadata.user_id == "u"


def test_a_context_ends_with_its_block_whatever_is_raised() -> None:
    with pytest.raises(KeyError), context(user_id="u"):
        raise KeyError

    assert current_context() == MessageContext()


def test_contexts_of_concurrent_tasks_do_not_mix() -> None:
    async def stamped(user: str, entered: asyncio.Barrier) -> EventMetadata:
        with context(user_id=user):
            await entered.wait()
            return await asyncio.to_thread(lambda: stamp(Noted(), clock=SYSTEM_CLOCK).metadata)

    async def both() -> list[str | None]:
        entered = asyncio.Barrier(2)
        async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(stamped(user, entered)) for user in ("a", "b")]
        return [task.result().user_id for task in running]

    assert asyncio.run(both()) == ["a", "b"]


def test_a_context_follows_into_a_thread_that_is_given_it_and_into_no_other() -> None:
    with context(user_id="u"), ThreadPoolExecutor(1) as threads:
        with_it = threads.submit(copy_context().run, current_context).result(timeout=10)
        without = threads.submit(current_context).result(timeout=10)

    assert with_it.user_id == "u"
    assert without == MessageContext()

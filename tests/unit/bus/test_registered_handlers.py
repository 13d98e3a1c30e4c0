"""A bus tells of its handlers as they were registered, whether it runs or not."""

from collections.abc import Hashable

import pytest

from avx_events import DuplicateHandlerError, Event, EventBus, RegisteredHandler, Retry, TopicBus


class Listed(Event, event_type="registered.listed", aggregate_id="key"):
    key: str


class Other(Event, event_type="registered.other"):
    pass


async def ignore(event: Event) -> None:
    del event


def first_letter(event: Listed) -> Hashable:
    return event.key[:1]


def test_a_new_bus_has_no_handlers() -> None:
    assert EventBus().handlers() == []


async def test_handlers_are_listed_by_name_as_they_were_registered() -> None:
    bus, retry = EventBus(), Retry(attempts=7)
    bus.on(Listed, Other, name="second", retry=None)(ignore)
    bus.on(Listed, name="first", retry=retry, concurrency=4, timeout_s=2.5, key=first_letter)(ignore)
    await bus.subscribe(Listed, name="a reader is no handler")

    first, second = bus.handlers()

    assert first == RegisteredHandler(
        name="first", takes=(Listed,), retry=retry, concurrency=4, timeout_s=2.5, key=first_letter
    )
    assert second == RegisteredHandler(name="second", takes=(Listed, Other))
    assert second.retry.attempts == 1


async def test_of_a_topic_bus_the_patterns_are_listed_also_when_it_is_closed() -> None:
    async with TopicBus() as bus:
        bus.on("orders.**", "users.*")(ignore)

    (handler,) = bus.handlers()

    assert (handler.name, handler.takes) == ("ignore", ("orders.**", "users.*"))


def test_a_handler_that_was_refused_is_not_listed() -> None:
    bus = EventBus()
    bus.on(Listed, name="one")(ignore)

    with pytest.raises(DuplicateHandlerError):
        bus.on(Other, name="one")(ignore)

    assert [handler.takes for handler in bus.handlers()] == [(Listed,)]

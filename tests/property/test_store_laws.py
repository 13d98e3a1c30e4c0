"""What is appended is read and followed in one order, and the past is what it was."""

import asyncio
from collections.abc import Coroutine
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avx_events.core.event import Event
from avx_events.store.event_store import EventStore
from avx_events.store.stored_event import StoredEvent

STORES = ["memory", "sqlite://?writer=thread", "sqlite://?writer=inline"]


class Told(Event, event_type="laws.told", aggregate_id="teller"):
    teller: str
    number: int


# A stream and a number of events; some take more than a page together.
appends = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([1, 2, 3, 180])), max_size=12)


async def connect(url: str) -> EventStore:
    return EventStore() if url == "memory" else await EventStore.connect(url)


def run(scenario: Coroutine[Any, Any, None]) -> None:
    async def within_deadline() -> None:
        async with asyncio.timeout(20):
            await scenario

    asyncio.run(within_deadline())


async def followed(store: EventStore, after: int, count: int) -> list[StoredEvent[Any]]:
    follower = store.subscribe(after=after)
    return [await anext(follower) for _ in range(count)]


@pytest.mark.parametrize("url", STORES)
@settings(max_examples=15)
@given(appends=appends, after=st.integers(0, 700))
def test_append_order_is_read_order_is_follow_order(url: str, appends: list[tuple[str, int]], after: int) -> None:
    async def scenario() -> None:
        async with await connect(url) as store, asyncio.TaskGroup() as tasks:
            total = sum(count for _, count in appends)
            following = tasks.create_task(followed(store, after, max(0, total - after)))
            told: list[Event] = []
            for stream, count in appends:
                batch = [Told(stream, len(told) + number) for number in range(count)]
                await store.append(stream, batch)
                told += batch

            log = [stored async for stored in store.read_all()]

            assert [stored.event for stored in log] == told
            assert await following == log[after:]
            for stream in "abc":
                assert await store.get_events(stream) == [stored for stored in log if stored.stream == stream]

    run(scenario())


@pytest.mark.parametrize("url", STORES)
@settings(max_examples=15)
@given(appends=appends)
def test_appends_made_at_once_are_each_whole_and_in_one_order_for_everybody(
    url: str, appends: list[tuple[str, int]]
) -> None:
    async def scenario() -> None:
        async with await connect(url) as store:
            async with asyncio.TaskGroup() as tasks:
                total = sum(count for _, count in appends)
                following = [tasks.create_task(followed(store, 0, total)) for _ in range(2)]
                for number, (stream, count) in enumerate(appends):
                    tasks.create_task(store.append(stream, [Told(stream, number)] * count))
            log = [stored async for stored in store.read_all()]

            assert [one.result() for one in following] == [log, log]
            numbers: list[int] = [stored.event.number for stored in log]
            order = list(dict.fromkeys(numbers))
            assert sorted(order) == [*range(len(appends))]
            assert numbers == [number for number in order for _ in range(appends[number][1])]

    run(scenario())


@pytest.mark.parametrize("url", STORES)
@settings(max_examples=15)
@given(appends=appends.filter(bool), pick=st.integers(0, 700))
def test_the_past_is_the_prefix_whatever_came_later(url: str, appends: list[tuple[str, int]], pick: int) -> None:
    async def scenario() -> None:
        async with await connect(url) as store:
            pasts: list[list[StoredEvent[Any]]] = [[]]
            for _, count in appends:
                await store.append("a", [Told("a", number) for number in range(count)])
                pasts.append(await store.get_events("a"))
            past, now = pasts[1 + pick % len(appends)], pasts[-1]
            at = past[-1]

            until_version = [one async for one in store.read_stream("a", until_version=at.version)]
            as_of = [one async for one in store.read_stream("a", as_of=at.recorded_at)]
            before = [one async for one in store.read_stream("a", as_of=at.recorded_at - timedelta.resolution)]

            assert until_version == as_of == past == now[: len(past)]
            assert before == pasts[pick % len(appends)]

    run(scenario())

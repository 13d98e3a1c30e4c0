"""Live events: frames that are never too many, one event with everything, causes and effects."""

import asyncio
import json
from typing import Any

import httpx
import pytest

from avx_events import Event, EventBus, EventStore, LogBus, TopicBus, context
from avx_events.apps.console import Console
from avx_events.apps.console.live import MOST_CORRELATED, MOST_WATCHERS
from avx_events.apps.console.live_feed import KEPT_EVENTS, MOST_IN_FRAME, UNSEEN
from avx_events.core.event import Personal
from avx_events.testing import ManualClock
from tests.unit.apps.console.visitors import visiting
from tests.waiting import until


class Seen(Event, event_type="console.seen", aggregate_id="key"):
    key: str
    text: str = ""
    email: Personal[str] = ""


async def frames(client: httpx.AsyncClient, console: Console, clock: ManualClock, **query: Any) -> list[dict[str, Any]]:
    """Return the frames that a page gets at once."""
    async with asyncio.TaskGroup() as tasks:
        asking = tasks.create_task(client.get("/api/live", params=query))
        await clock.planned(2)  # the sampler of handlers, and the frame
        console.end_streams()
        clock.advance(1)
    texts = [part.partition("data: ")[2] for part in asking.result().text.split("\n\n") if "event: events" in part]
    return [json.loads(text) for text in texts]


def is_later(clock: ManualClock) -> bool:
    clock.advance(0.1)
    return True


async def has_seen(console: Console, count: int) -> None:
    await until(lambda: console._feed._count == count)


async def test_what_is_published_is_in_a_frame_oldest_first_and_masked() -> None:
    clock = ManualClock()
    async with TopicBus() as bus, visiting(console := Console(bus=bus, clock=clock)) as client:
        await until(lambda: bus.statistics().subscriptions)
        await bus.publish(Seen("1", "<b>one</b>", "ada@example.com"))
        await bus.publish_to("some.topic", Seen("2"))
        await has_seen(console, 2)
        [frame] = await frames(client, console, clock)

    assert [(row["n"], row["key"], row["topic"]) for row in frame["rows"]] == [
        (1, "1", "console.seen"),
        (2, "2", "some.topic"),
    ]
    assert "ada@example.com" not in str(frame)
    assert "<b>one</b>" in frame["rows"][0]["preview"]


@pytest.mark.parametrize(
    ("query", "keys"),
    [
        ({"key": "B1"}, ["b1"]),
        ({"text": "needle"}, ["a2"]),
        ({"type": "SEEN", "topic": "special"}, ["c"]),
        ({"type": "other"}, []),
        ({"text": "ada@example.com"}, []),
    ],
)
async def test_only_what_is_wanted_is_sent(query: dict[str, str], keys: list[str]) -> None:
    clock = ManualClock()
    async with TopicBus() as bus, visiting(console := Console(bus=bus, clock=clock)) as client:
        await until(lambda: bus.statistics().subscriptions)
        await bus.publish_many([Seen("a1", email="ada@example.com"), Seen("b1"), Seen("a2", "x" * 999 + "NEEDLE")])
        await bus.publish_to("a.special.one", Seen("c"))
        await has_seen(console, 4)
        found = await frames(client, console, clock, **query)

    assert [row["key"] for frame in found for row in frame["rows"]] == keys


async def test_of_a_flood_a_page_gets_the_newest_and_is_told_what_it_missed() -> None:
    clock = ManualClock()
    async with EventBus() as bus, visiting(console := Console(bus=bus, clock=clock)) as client:
        await until(lambda: bus.statistics().subscriptions)
        console._feed.watchers = 1
        for start in range(0, KEPT_EVENTS + 100, 100):
            await bus.publish_many([Seen(str(start + number)) for number in range(100)])
            await has_seen(console, start + 100)
        [frame] = await frames(client, console, clock)

    assert len(frame["rows"]) == MOST_IN_FRAME
    assert frame["rows"][-1]["key"] == str(KEPT_EVENTS + 99)
    assert frame["missed"] == KEPT_EVENTS - MOST_IN_FRAME


async def test_while_nobody_looks_the_last_events_are_kept_as_they_came() -> None:
    clock = ManualClock()
    async with TopicBus() as bus, visiting(console := Console(bus=bus, clock=clock)) as client:
        await until(lambda: bus.statistics().subscriptions)
        await bus.publish_many([Seen(str(number)) for number in range(UNSEEN + 50)])
        await has_seen(console, UNSEEN + 50)
        untouched = len(console._feed._kept)
        [frame] = await frames(client, console, clock)

    assert untouched == 0
    assert [row["key"] for row in frame["rows"]] == [str(number) for number in range(50, UNSEEN + 50)]
    assert (frame["last"], frame["missed"]) == (UNSEEN + 50, 0)


async def test_a_page_that_comes_again_gets_what_it_did_not_see() -> None:
    clock = ManualClock()
    async with TopicBus() as bus, visiting(console := Console(bus=bus, clock=clock)) as client:
        await until(lambda: bus.statistics().subscriptions)
        await bus.publish_many([Seen(str(number)) for number in range(5)])
        await has_seen(console, 5)
        run = console._feed.run_id
        [frame] = await frames(client, console, clock, run=run, after=3)

    assert [row["key"] for row in frame["rows"]] == ["3", "4"]


async def test_the_log_of_the_store_is_live_where_there_is_no_bus() -> None:
    async with EventStore() as store, visiting(console := Console(store=store)) as client:
        await store.append("old-1", [Seen("before")])
        await until(lambda: console._feed._position is not None)
        await store.append("seen-1", [Seen("1", "data", "ada@example.com")])
        await has_seen(console, 1)
        [stored] = await store.get_events("seen-1")
        event_id = stored.metadata.event_id
        view = (await client.get(f"/api/live/{event_id}")).json()
        gone = await client.get("/api/live/nothing")

    data = json.loads(view["text"])
    assert (view["event_type"], data["text"], data["email"]) == ("console.seen", "data", "••••••")
    assert gone.status_code == 404


async def test_a_big_event_is_cut_and_can_be_downloaded() -> None:
    big = "é" * 2_500_000
    async with TopicBus() as bus, visiting(console := Console(bus=bus)) as client:
        await until(lambda: bus.statistics().subscriptions)
        published = await bus.publish(Seen("1", big, "ada@example.com"))
        await has_seen(console, 1)
        view = await client.get(f"/api/live/{published.event_id}")
        whole = await client.get(view.json()["download"])

    assert view.json()["size_bytes"] > 5_000_000
    assert len(view.content) < 300_000
    assert whole.headers["content-disposition"] == f'attachment; filename="{published.event_id}.json"'
    assert whole.json()["text"] == big
    assert whole.json()["email"] == "••••••"


async def test_big_events_do_not_fill_the_memory() -> None:
    async with TopicBus() as bus, visiting(console := Console(bus=bus)):
        await until(lambda: bus.statistics().subscriptions)
        console._feed.watchers = 1
        for number in range(12):
            await bus.publish(Seen(str(number), "x" * 5_000_000))
            await has_seen(console, number + 1)
        kept = len(console._feed._kept)

    assert 1 <= kept < 10


async def test_big_events_that_nobody_looks_at_do_not_fill_the_memory_either() -> None:
    clock = ManualClock()
    async with TopicBus() as bus, visiting(console := Console(bus=bus, clock=clock)) as client:
        await until(lambda: bus.statistics().subscriptions)
        for number in range(8):
            await bus.publish(Seen(str(number), "x" * 5_000_000))
        await has_seen(console, 8)
        [frame] = await frames(client, console, clock)

    assert [row["key"] for row in frame["rows"]] == ["5", "6", "7"]
    assert frame["last"] == 8


async def test_an_event_that_cannot_be_read_does_not_end_the_events_of_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with await EventStore.connect("sqlite://") as store:
        await store.append("s", [Seen("1"), Seen("2"), Seen("3")])
        async with store.transaction() as connection:
            await connection.execute("UPDATE avx_events SET data = '{}' WHERE position = 2")
        console = Console(store=store)
        console._feed._position = 0
        async with visiting(console):
            await has_seen(console, 2)
            problem = console._feed.problem

    assert problem == ""
    assert "does not show the event at position 2: 'console.seen' cannot be decoded" in caplog.text


async def test_what_an_event_caused_is_a_tree_over_all_streams() -> None:
    async with EventStore() as store, visiting(Console(store=store)) as client:
        await store.append("a-1", [Seen("cause")])
        [cause] = await store.get_events("a-1")
        with context(correlation_id=cause.metadata.correlation_id, causation_id=cause.metadata.event_id):
            await store.append("b-1", [Seen("effect", email="ada@example.com")])
        tree = await client.get("/api/correlated", params={"id": cause.metadata.correlation_id})

    assert [(row["stream"], row["depth"]) for row in tree.json()["events"]] == [("a-1", 0), ("b-1", 1)]
    assert "ada@example.com" not in tree.text


async def test_of_very_many_events_of_one_correlation_the_first_are_shown() -> None:
    async with EventStore() as store, visiting(Console(store=store)) as client:
        with context(correlation_id="many"):
            await store.append("a-1", [Seen(str(number)) for number in range(MOST_CORRELATED + 5)])
        tree = (await client.get("/api/correlated", params={"id": "many"})).json()

    assert (len(tree["events"]), tree["count"]) == (MOST_CORRELATED, MOST_CORRELATED + 5)


async def test_a_console_without_a_source_says_how_to_give_it_one() -> None:
    async with visiting(Console()) as client:
        answer = await client.get("/api/live")
        causes = await client.get("/api/correlated?id=1")

    assert answer.status_code == causes.status_code == 404
    assert "broker_url=" in answer.json()["error"]
    assert "store=" in causes.json()["error"]


async def test_a_broker_that_is_away_is_said_to_be() -> None:
    clock = ManualClock()
    console = Console(broker_url="redis://127.0.0.1:1", clock=clock)
    async with visiting(console):
        await until(lambda: is_later(clock) and console._feed.problem)

    assert "127.0.0.1:1" in console._feed.problem


class Subscribed(Event, event_type="console.subscribed", aggregate_id="email"):
    email: Personal[str]


async def test_a_key_that_is_personal_is_hidden_as_well() -> None:
    async with TopicBus() as bus, visiting(console := Console(bus=bus)) as client:
        await until(lambda: bus.statistics().subscriptions)
        published = await bus.publish(Subscribed("ada@example.com"))
        await has_seen(console, 1)
        view = await client.get(f"/api/live/{published.event_id}")

    assert view.json()["aggregate_id"] == "••••••"
    assert "ada@example.com" not in view.text


async def test_no_more_look_than_can_be_served() -> None:
    async with TopicBus() as bus, visiting(console := Console(bus=bus)) as client:
        console._feed.watchers = MOST_WATCHERS
        answer = await client.get("/api/live")

    assert (answer.status_code, answer.json()["code"]) == (503, "busy")


async def test_the_events_of_a_group_are_left_to_its_handlers_and_come_from_the_log() -> None:
    async with (
        await EventStore.connect("sqlite://") as store,
        await LogBus.connect(store, group="shop") as bus,
        visiting(console := Console(store=store, bus=bus)),
    ):
        await until(lambda: console._feed._position is not None)
        await store.append("a-1", [Seen("first")])
        await has_seen(console, 1)

    assert console._feed.source == "the log of the store"
    assert bus.system == "log"

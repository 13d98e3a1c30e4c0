"""Handlers over time, groups, and projections."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import httpx
import pytest

from avx_events import Connection, DeadLetterQueue, Event, EventBus, EventStore, Projection, Projector, handles
from avx_events.apps.console import Console
from avx_events.apps.console.sampling import KEPT
from avx_events.bus.remote.inspection import Finding, GroupStatus, Inspector, MemberStatus
from avx_events.testing import ManualClock
from tests.unit.apps.console.visitors import as_page, visiting


class Ticked(Event, event_type="console.ticked"):
    number: int


class OneGroup:
    """A broker with one group, which is asked and counts how often."""

    name = "a broker of the tests"

    def __init__(self) -> None:
        self.asked = 0

    async def groups(self) -> Sequence[GroupStatus]:
        self.asked += 1
        member = MemberStatus(name="m", lanes=(0, 1), in_flight=1, idle_s=0.5)
        return [
            GroupStatus(
                group="shop", handler="email", members=(member,), lag_events=self.asked, lag_seconds=1.0, in_flight=1
            )
        ]

    async def findings(self) -> Sequence[Finding]:
        return []

    async def close(self) -> None:
        pass


async def test_rates_queues_and_latencies_are_lines_over_time() -> None:
    clock = ManualClock()
    bus = EventBus(clock=clock)

    @bus.on(Ticked, name="tick")
    async def tick(_: Ticked) -> None: ...

    console = Console(bus=bus, clock=clock, latencies=lambda: {"tick": {"p50": 0.25}, "other": {"p50": 1.0}})
    async with bus, visiting(console) as client:
        for handled in (3, 0, 5):
            await clock.planned()
            await bus.publish_many([Ticked(number) for number in range(handled)])
            await bus.settled()
            clock.advance(1)
        await asyncio.sleep(0)
        answer = (await client.get("/api/handlers")).json()

    [handler] = answer["handlers"]
    assert (handler["name"], handler["counts"]["handled"]) == ("tick", 8)
    assert handler["rate"] == [3.0, 0.0, 5.0]
    assert handler["latency"] == {"p50": [0.25] * 4}
    assert handler["queued"] == [0] * 4


async def test_a_function_of_latencies_that_raises_takes_nothing_else_away() -> None:
    def latencies() -> dict[str, dict[str, float]]:
        raise LookupError("nothing measured")

    bus = EventBus()
    console = Console(bus=bus, latencies=latencies)
    async with bus, visiting(console) as client, await bus.subscribe(Ticked, name="reader"):
        console._sampler.look()
        answer = (await client.get("/api/handlers")).json()

    assert answer["problem"] == "latencies() raised LookupError: nothing measured"
    assert [handler["name"] for handler in answer["handlers"]] == ["reader"]


async def test_what_is_kept_is_bounded_and_a_handler_that_has_gone_is_forgotten() -> None:
    clock = ManualClock()
    async with EventBus(clock=clock) as bus, visiting(console := Console(bus=bus, clock=clock)) as client:
        async with await bus.subscribe(Ticked, name="reader"):
            for _ in range(KEPT + 50):
                console._sampler.look()
            [during] = (await client.get("/api/handlers")).json()["handlers"]
        console._sampler.look()
        after = (await client.get("/api/handlers")).json()["handlers"]

    assert (during["name"], len(during["queued"])) == ("reader", KEPT)
    assert after == []


async def test_a_broker_is_asked_for_its_groups_only_when_somebody_looks_and_not_by_each() -> None:
    clock, groups = ManualClock(), OneGroup()
    async with visiting(Console(inspector=Inspector(groups), clock=clock)) as client:
        clock.advance(10)
        unasked = groups.asked
        for _ in range(5):
            await client.get("/api/handlers")
        clock.advance(2)
        answer = (await client.get("/api/handlers")).json()

    assert (unasked, groups.asked) == (0, 2)
    [group] = answer["groups"]
    assert (group["group"], group["lags"], group["members"][0]["lanes"]) == ("shop", [1, 2], [0, 1])


class Ticks(Projection, name="ticks", version=3):
    async def setup(self, connection: Connection) -> None:
        await connection.execute("CREATE TABLE IF NOT EXISTS ticks (number INTEGER)")

    @handles(Ticked)
    async def add(self, event: Ticked, connection: Connection) -> None:
        await connection.execute("INSERT INTO ticks VALUES (?)", event.number)


async def test_projections_say_how_far_they_are(tmp_path: Path) -> None:
    async with (
        await EventStore.connect(f"sqlite:///{tmp_path / 'ticks.db'}") as store,
        Projector(store, Ticks()) as projector,
        visiting(Console(projector=projector)) as client,
    ):
        await store.append("ticks", [Ticked(number) for number in range(4)])
        await projector.caught_up()
        answer = (await client.get("/api/projections")).json()

    [projection] = answer["projections"]
    assert (projection["name"], projection["version"], projection["state"]) == ("ticks", 3, "live")
    assert (projection["position"], projection["lag_events"], projection["handled"]) == (4, 0, 4)


async def acted(client: httpx.AsyncClient, verb: str, name: str = "ticks") -> httpx.Response:
    return await client.post(f"/api/projections/{name}/{verb}", headers=await as_page(client), json={})


async def test_a_projection_is_paused_and_resumed(tmp_path: Path) -> None:
    async with (
        await EventStore.connect(f"sqlite:///{tmp_path / 'ticks.db'}") as store,
        Projector(store, Ticks()) as projector,
        visiting(Console(projector=projector)) as client,
    ):
        await projector.caught_up()
        paused = await acted(client, "pause")
        [while_paused] = (await client.get("/api/projections")).json()["projections"]
        resumed = await acted(client, "resume")
        [after] = (await client.get("/api/projections")).json()["projections"]
        unknown = await acted(client, "pause", "tick")

    assert (paused.json(), while_paused["state"]) == ({"says": "ticks is paused."}, "paused")
    assert (resumed.json(), after["state"]) == ({"says": "ticks goes on."}, "live")
    assert (unknown.status_code, "'ticks', not 'tick'" in unknown.json()["error"]) == (400, True)


@pytest.mark.parametrize("verb", ["pause", "resume", "rebuild"])
async def test_what_changes_a_projection_is_taken_from_our_own_pages_only(tmp_path: Path, verb: str) -> None:
    async with (
        await EventStore.connect(f"sqlite:///{tmp_path / 'ticks.db'}") as store,
        visiting(Console(store=store)) as client,
    ):
        answer = await client.post(f"/api/projections/ticks/{verb}", json={})

    assert answer.status_code == 403


async def test_the_projections_of_a_store_are_seen_and_rebuilt_without_their_code(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'ticks.db'}"
    async with await EventStore.connect(url) as store:
        await store.append("ticks", [Ticked(number) for number in range(4)])
        async with Projector(store, Ticks()) as projector:
            await projector.caught_up()
        await store.append("ticks", [Ticked(4)])
        clock = ManualClock()
        async with visiting(Console(store=store, clock=clock)) as client:
            [behind] = (await client.get("/api/projections")).json()["projections"]
            rebuilt = await acted(client, "rebuild")
            [waiting] = (await client.get("/api/projections")).json()["projections"]
            async with Projector(store, Ticks()) as projector:
                await projector.caught_up()
                clock.advance(1)
                [live] = (await client.get("/api/projections")).json()["projections"]

    assert (behind["version"], behind["state"], behind["lag_events"]) == (3, "live", 1)
    assert (behind["handled"], behind["failures"], behind["dead_lettered"]) == (None, None, 0)
    assert rebuilt.json()["says"] == "ticks is built again by the processes that run it."
    assert (waiting["version"], waiting["state"]) == (0, "waiting")
    assert (live["version"], live["state"], live["lag_events"]) == (3, "live", 0)


async def test_a_store_in_memory_has_no_projections() -> None:
    async with EventStore() as store, visiting(Console(store=store)) as client:
        assert (await client.get("/api/projections")).json() == {"projections": []}


class Fussy(Projection, name="fussy", version=1):
    problem: Exception | None = None

    @handles(Ticked)
    async def add(self, event: Ticked, connection: Connection) -> None:
        if self.problem is not None:
            raise self.problem


async def test_the_letter_of_a_projection_goes_back_to_it(tmp_path: Path) -> None:
    fussy, queue = Fussy(), DeadLetterQueue()
    async with (
        await EventStore.connect(f"sqlite:///{tmp_path / 'ticks.db'}") as store,
        Projector(store, fussy, dead_letter_queue=queue, retry=None) as projector,
        visiting(Console(projector=projector, dead_letter_queue=queue)) as client,
    ):
        await projector.caught_up()
        fussy.problem = ArithmeticError("no")
        position = (await store.append("ticks", [Ticked(1)])).position
        await projector.caught_up(position)
        [letter] = await queue.list()
        page = await as_page(client)
        path = f"/api/letters/{letter.id}/redrive"
        again = (await client.post(path, headers=page)).json()
        fussy.problem = None
        handled = (await client.post(path, headers=page)).json()
        left = await queue.count()

    assert (again["state"], handled["state"], left) == ("failed_again", "handled", 0)
    assert "ArithmeticError: no" in again["says"]


async def test_what_was_not_given_is_said_with_how_to_give_it() -> None:
    async with visiting(Console()) as client:
        answers = [(await client.get(path)).json() for path in ("/api/handlers", "/api/projections")]

    assert "bus=" in answers[0]["error"]
    assert "projector=" in answers[1]["error"]

"""What an inspector tells of the groups of a broker, on every broker; and that looking leaves nothing behind."""

import asyncio
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any, ClassVar, Final
from uuid import uuid4

import nats
import pytest
from nats.js.errors import NotFoundError

from avx_events import ClosedError, Event, EventBus, GroupStatus, Inspector, TransportUnavailableError
from avx_events.testing.own_loop import on_its_own_loop
from tests.docs.brokers import kept_in_kafka, kept_in_redis
from tests.live.fault_suite import Scene
from tests.live.group_member import Numbered

pytestmark = pytest.mark.live

LANES: Final = 4
KEYS: Final = [f"key-{number}" for number in range(40)]  # which are in all lanes
LOOKS_AGAIN_S: Final = 0.02


class Ordered(Event, event_type="inspection.ordered", aggregate_id="key"):
    key: str


async def seen(
    inspector: Inspector, wanted: Callable[[Sequence[GroupStatus]], object], *, timeout_s: float = 20
) -> Sequence[GroupStatus]:
    """Look until what is there is ``wanted``; say what was there where that does not come."""
    groups: Sequence[GroupStatus] = ()
    try:
        async with asyncio.timeout(timeout_s):
            while not wanted(groups := await inspector.groups()):  # noqa: ASYNC110 - only the broker knows
                await asyncio.sleep(LOOKS_AGAIN_S)
    except TimeoutError:
        pytest.fail(f"{groups}")
    return groups


def shared_by(count: int) -> Callable[[Sequence[GroupStatus]], bool]:
    """Return whether all lanes of each handler are held, by so many members that have some."""

    def is_shared(groups: Sequence[GroupStatus]) -> bool:
        held = [[member.lanes for member in group.members if member.lanes] for group in groups]
        return bool(groups) and all(len(lanes) == count and sum(map(len, lanes)) == LANES for lanes in held)

    return is_shared


class InspectionContract:
    """What an inspector of a broker promises.

    Attributes:
        nowhere: A URL where nobody answers.
        dead_after_s: How long the work of a dead member waits, at least.
    """

    url: str
    nowhere: ClassVar[str]
    dead_after_s: ClassVar[float] = 1.0

    @pytest.fixture(autouse=True)
    def in_a_namespace_of_its_own(self) -> None:
        self.namespace = f"inspection-{uuid4().hex}"

    def kept(self) -> list[str]:
        """Return what the broker has of the namespace."""
        raise NotImplementedError

    async def bus(self, group: str | None = None, **options: Any) -> EventBus:
        return await EventBus.connect(self.url, namespace=self.namespace, group=group, partitions=LANES, **options)

    async def inspector(self) -> Inspector:
        return await Inspector.connect(self.url, namespace=self.namespace)

    @on_its_own_loop
    async def test_a_group_shows_its_members_with_their_lanes_and_a_backlog_that_shrinks_to_nothing(self) -> None:
        gate = asyncio.Event()

        async def invoice(event: Ordered) -> None:
            del event
            await gate.wait()

        async with AsyncExitStack() as stack:
            inspector = await stack.enter_async_context(await self.inspector())
            publisher = await stack.enter_async_context(await self.bus())
            for _ in range(2):
                bus = await self.bus("billing", capacity=4)
                bus.on(Ordered, name="invoice", concurrency=4)(invoice)
                await stack.enter_async_context(bus)
            stack.callback(gate.set)
            await seen(inspector, shared_by(2))
            await publisher.publish_many([Ordered(key) for key in KEYS])
            (behind,) = await seen(inspector, lambda groups: groups[0].lag_events == len(KEYS))
            gate.set()
            (done,) = await seen(inspector, lambda groups: groups[0].lag_events == 0)

        assert (behind.group, behind.handler) == ("billing", "invoice")
        assert sorted(lane for member in behind.members for lane in member.lanes) == list(range(LANES))
        assert [member.name for member in behind.members] == sorted({member.name for member in behind.members})
        assert behind.lag_seconds is not None
        assert 0 <= behind.lag_seconds < 20
        assert (done.lag_seconds, done.in_flight) == (0.0, 0)

    @on_its_own_loop
    async def test_a_backlog_grows_older_while_nobody_handles_it(self) -> None:
        async with await self.inspector() as inspector:
            bus = await self.bus("billing")
            bus.on(Ordered, name="invoice")(_ignore)
            async with bus:
                await seen(inspector, shared_by(1))
            async with await self.bus() as publisher:
                await publisher.publish(Ordered("key-1"))
                first, *_ = await inspector.groups()
                older, *_ = await seen(inspector, lambda groups: (groups[0].lag_seconds or 0) > 0.1)

        assert (first.members, first.lag_events, older.lag_events) == ((), 1, 1)
        assert (first.lag_seconds or 0) < (older.lag_seconds or 0)

    @on_its_own_loop
    async def test_each_handler_has_a_backlog_of_its_own(self) -> None:
        gate = asyncio.Event()

        async def slow(event: Ordered) -> None:
            del event
            await gate.wait()

        async with AsyncExitStack() as stack:
            inspector = await stack.enter_async_context(await self.inspector())
            publisher = await stack.enter_async_context(await self.bus())
            for group, handlers in {"billing": {"a.fast one": _ignore, "slow": slow}, "x": {"other": _ignore}}.items():
                bus = await self.bus(group)
                for name, handler in handlers.items():
                    bus.on(Ordered, name=name)(handler)
                await stack.enter_async_context(bus)
            stack.callback(gate.set)
            await seen(inspector, shared_by(1))
            await publisher.publish_many([Ordered(key) for key in KEYS])
            groups = await seen(inspector, lambda groups: [group.lag_events for group in groups] == [0, len(KEYS), 0])

        assert [(group.group, group.handler) for group in groups] == [
            ("billing", "a.fast one"),
            ("billing", "slow"),
            ("x", "other"),
        ]

    @on_its_own_loop
    async def test_a_group_that_began_in_the_middle_is_behind_by_what_came_after(self) -> None:
        async with AsyncExitStack() as stack:
            inspector = await stack.enter_async_context(await self.inspector())
            publisher = await stack.enter_async_context(await self.bus())
            await publisher.publish_many([Ordered(key) for key in KEYS])
            late = await self.bus("late")
            late.on(Ordered, name="handler")(_ignore)
            async with late:
                await seen(inspector, shared_by(1))
            await publisher.publish_many([Ordered(key) for key in KEYS * 8])
            (group,) = await inspector.groups()

        assert group.lag_events == len(KEYS) * 8

    @on_its_own_loop
    async def test_the_lanes_of_a_member_that_was_killed_go_to_the_other(self, tmp_path: Path) -> None:
        scene = Scene(self.url, tmp_path, {"redeliver_after_s": self.dead_after_s, "partitions": LANES, "work_s": 60})
        scene.namespace = self.namespace
        try:
            async with await self.inspector() as inspector, await self.bus() as publisher:
                killed, _ = await scene.member(), await scene.member()
                await seen(inspector, shared_by(2))
                await publisher.publish_many([Numbered("p", number, key) for number, key in enumerate(KEYS)])
                killed.send(signal.SIGKILL)
                (group,) = await seen(inspector, shared_by(1))
        finally:
            await scene.end()

        assert group.lag_events == len(KEYS)
        assert [len(member.lanes) for member in group.members if member.lanes] == [LANES]

    @on_its_own_loop
    async def test_where_nothing_is_there_are_no_groups_and_looking_makes_none(self) -> None:
        async with await self.inspector() as inspector:
            groups, findings = await inspector.groups(), await inspector.findings()

        assert list(groups) == []
        assert "No bus has used this namespace yet" in findings[-1].says
        assert self.kept() == []

    @on_its_own_loop
    async def test_looking_leaves_nothing_behind(self) -> None:
        async with await self.inspector() as inspector:
            bus = await self.bus("billing")
            bus.on(Ordered, name="handler")(_ignore)
            async with bus:
                await seen(inspector, shared_by(1))
            async with await self.bus() as publisher:
                await publisher.publish_many([Ordered(key) for key in KEYS])
            before = self.kept()
            (group,) = await inspector.groups()
            await inspector.findings()

        assert group.lag_events == len(KEYS)
        assert before
        assert self.kept() == before

    @on_its_own_loop
    async def test_a_server_that_is_away_is_said_within_the_time(self) -> None:
        with pytest.raises(TransportUnavailableError) as caught:
            async with asyncio.timeout(5):
                await Inspector.connect(self.nowhere, timeout_s=0.2)

        assert caught.value.broker == self.nowhere

    @on_its_own_loop
    async def test_an_inspector_that_is_closed_looks_no_more(self) -> None:
        inspector = await self.inspector()
        await inspector.close()
        await inspector.close()

        with pytest.raises(ClosedError, match="the inspector is closed"):
            await inspector.groups()
        with pytest.raises(ClosedError, match="the inspector is closed"):
            await inspector.findings()


async def _ignore(event: Ordered) -> None:
    del event


def _kept_in_nats(url: str, namespace: str) -> list[str]:
    """Return the streams of a namespace and the consumers of its log, of which one that counts must not stay."""

    async def found() -> list[str]:
        client: Any = await nats.connect(url)  # pyright: ignore[reportUnknownMemberType]
        jetstream = client.jetstream()
        there: list[str] = []
        try:
            for stream in (namespace, f"KV_{namespace}-groups", f"{namespace}-letters", f"{namespace}-parts"):
                with suppress(NotFoundError):
                    there.append((await jetstream.stream_info(stream)).config.name)
            if namespace in there:
                there += [info.name for info in await jetstream.consumers_info(namespace)]
        finally:
            await client.close()
        return there

    with ThreadPoolExecutor(1) as thread:  # whether a loop runs here or not
        return thread.submit(lambda: asyncio.run(found())).result()


class TestRedis(InspectionContract):
    nowhere = "redis://127.0.0.1:1"

    @pytest.fixture(autouse=True)
    def at(self, redis_url: str) -> None:
        self.url = redis_url

    def kept(self) -> list[str]:
        return sorted(kept_in_redis(self.url, self.namespace))


class TestNats(InspectionContract):
    nowhere = "nats://127.0.0.1:1"

    @pytest.fixture(autouse=True)
    def at(self, nats_url: str) -> None:
        self.url = nats_url

    def kept(self) -> list[str]:
        return sorted(_kept_in_nats(self.url, self.namespace))


class TestKafka(InspectionContract):
    nowhere = "kafka://127.0.0.1:1"
    dead_after_s = 6.0  # no less

    @pytest.fixture(autouse=True)
    def at(self, kafka_url: str) -> None:
        self.url = kafka_url

    def kept(self) -> list[str]:
        return sorted(kept_in_kafka(self.url, self.namespace))

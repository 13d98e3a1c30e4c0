"""What a broker's bus is put through: kills, stalls, restarts and cut connections, judged by what was published."""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar, Final, Protocol
from uuid import uuid4

import pytest

from avx_events import EventBus, PublishUnknownError, TransportUnavailableError
from tests.live.deliveries import Event, Outcome, Step, Steps, unfinished, violations
from tests.live.group_member import Numbered
from tests.servers.process import Server
from tests.servers.proxy import Proxy

PROGRAM: Final = Path(__file__).with_name("group_member.py")
ROOT: Final = Path(__file__).parents[2]

CAPACITY: Final = 64
PUBLISHERS: Final = 4
KEYS: Final = 12


class Publisher(Protocol):
    """What publishes: a bus, or what stands for one."""

    async def publish(self, event: object, /) -> object:
        """Publish ``event``."""
        ...


class Member:
    """A process of the group."""

    def __init__(self, process: asyncio.subprocess.Process, name: str) -> None:
        self.process = process
        self.name = name

    def send(self, signal_number: signal.Signals) -> None:
        """Send a signal."""
        self.process.send_signal(signal_number)

    async def end(self, *, timeout_s: float = 30) -> int:
        """Wait until it has ended, and return its code."""
        async with asyncio.timeout(timeout_s):
            return await self.process.wait()


class Scene:
    """A namespace of a broker, publishers in this process, members in others, and what they all did.

    Attributes:
        program: What a member runs.
    """

    program: ClassVar = PROGRAM

    def __init__(self, url: str, folder: Path, options: dict[str, Any]) -> None:
        self.url = url
        self.namespace = f"faults-{uuid4().hex}"
        self.path = folder / f"{self.namespace}.steps"
        self.steps = Steps(self.path)
        self.options = options
        self.outcomes: dict[Event, Outcome] = {}
        self.members: list[Member] = []

    async def member(self, *, url: str | None = None, **options: Any) -> Member:
        """Start a member and wait until it is ready."""
        name = f"member-{len(self.members)}"
        given = json.dumps({"capacity": CAPACITY, **self.options, **options})
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, self.program, url or self.url, self.namespace, self.path, name, given),
            stdout=asyncio.subprocess.PIPE,
            env={"PYTHONPATH": str(ROOT)},
        )
        member = Member(process, name)
        self.members.append(member)
        assert process.stdout is not None
        async with asyncio.timeout(30):
            line = await process.stdout.readline()
        assert line in {b"ready\n", b""}  # one that is killed at once may not get so far
        return member

    async def publish(self, bus: Publisher, count: int, *, first: int = 0) -> None:
        """Publish ``count`` events from each publisher, one after the other, and record what each is told."""
        async with asyncio.TaskGroup() as tasks:
            for publisher in range(PUBLISHERS):
                tasks.create_task(self._publish(bus, f"publisher-{publisher}", range(first, first + count)))

    async def _publish(self, bus: Publisher, publisher: str, numbers: range) -> None:
        for number in numbers:
            event = Numbered(publisher, number, f"{publisher}-{number % KEYS}")
            self.outcomes[publisher, number] = "unknown"
            try:
                await bus.publish(event)
            except TransportUnavailableError:
                self.outcomes[publisher, number] = "refused"
            except PublishUnknownError:
                continue
            else:
                self.outcomes[publisher, number] = "accepted"

    async def until(self, condition: Callable[[list[Step]], object], *, timeout_s: float = 60) -> None:
        """Wait until what members have written down fulfils ``condition``."""
        async with asyncio.timeout(timeout_s):
            while not condition(self.steps.read()):  # noqa: ASYNC110
                await asyncio.sleep(0.02)  # another process writes the file

    async def all_handled(self) -> None:
        """Wait until everything that was accepted is handled; say what is lost where that does not come."""
        try:
            await self.until(lambda steps: not unfinished(self.outcomes, steps))
        except TimeoutError:
            pytest.fail("\n".join(violations(self.outcomes, self.steps.read(), most_repeats=0)))

    def judge(self, *, most_repeats: int) -> None:
        """Fail where the history is none that the contract allows."""
        found = violations(self.outcomes, self.steps.read(), most_repeats=most_repeats)
        assert not found, "\n".join(found)

    async def end(self) -> None:
        """Kill the members that still run."""
        for member in self.members:
            if member.process.returncode is None:
                member.send(signal.SIGKILL)
                await member.end()


def begun(count: int) -> Callable[[list[Step]], bool]:
    """Return a condition: so many handlers have begun."""
    return lambda steps: sum(step.what == "began" for step in steps) >= count


class FaultSuite:
    """The tests; a broker's class says how its server starts."""

    options: ClassVar[dict[str, Any]] = {"redeliver_after_s": 1.0, "timeout_s": 10.0}
    stall_s: ClassVar[float] = 3.0
    """How long a member stands still, to have lost its work for sure."""

    @pytest.fixture
    def server(self) -> Server:
        """Return a server of this test alone."""
        raise NotImplementedError

    def proxy(self, server: Server) -> Proxy:
        """Return a way to ``server``, which a test spoils."""
        return Proxy(server.port)

    @asynccontextmanager
    async def scene(self, url: str, folder: Path) -> AsyncGenerator[tuple[Scene, EventBus]]:
        """Give a scene and a publisher's bus."""
        scene = Scene(url, folder, self.options)
        async with AsyncExitStack() as stack:
            stack.push_async_callback(scene.end)
            bus = await EventBus.connect(url, namespace=scene.namespace, **self.options)
            await stack.enter_async_context(bus)
            yield scene, bus

    async def test_a_member_that_is_killed_in_the_middle_of_its_work_loses_nothing(
        self, server: Server, tmp_path: Path
    ) -> None:
        async with self.scene(server.url, tmp_path) as (scene, bus):
            killed, _ = await scene.member(), await scene.member()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(scene.publish(bus, 500))
                await scene.until(begun(400))
                killed.send(signal.SIGKILL)
                await killed.end()
            await scene.all_handled()

        scene.judge(most_repeats=CAPACITY)

    async def test_a_member_that_stands_still_past_its_claim_comes_back_and_nothing_is_lost(
        self, server: Server, tmp_path: Path
    ) -> None:
        async with self.scene(server.url, tmp_path) as (scene, bus):
            stalled, _ = await scene.member(), await scene.member()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(scene.publish(bus, 500))
                await scene.until(begun(300))
                stalled.send(signal.SIGSTOP)
                await asyncio.sleep(self.stall_s)  # what is tested is that this much time goes by
                stalled.send(signal.SIGCONT)
            await scene.publish(bus, 100, first=500)
            await scene.all_handled()

        scene.judge(most_repeats=CAPACITY)

    @pytest.mark.parametrize("share", [1 / 3, 1 / 2])
    async def test_a_broker_that_is_restarted_loses_nothing_and_everybody_goes_on(
        self, server: Server, tmp_path: Path, share: float
    ) -> None:
        count = 400
        async with self.scene(server.url, tmp_path) as (scene, bus):
            await scene.member()
            await scene.member()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(scene.publish(bus, count))
                await scene.until(begun(int(PUBLISHERS * count * share)))
                await asyncio.to_thread(server.kill)
                await asyncio.to_thread(server.start)
            await scene.publish(bus, 50, first=count)
            await scene.all_handled()

        accepted = [event for event, outcome in scene.outcomes.items() if outcome == "accepted"]
        assert {(f"publisher-{number}", count + 49) for number in range(PUBLISHERS)} <= set(accepted)
        scene.judge(most_repeats=2 * CAPACITY)

    @pytest.mark.parametrize("fault", ["cut", "half-close", "drop", "delay"])
    async def test_a_member_whose_connection_fails_goes_on_when_it_works_again(
        self, server: Server, tmp_path: Path, fault: str
    ) -> None:
        with self.proxy(server) as proxy:
            async with self.scene(server.url, tmp_path) as (scene, bus):
                await scene.member(url=server.url.replace(str(server.port), str(proxy.port)))
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(scene.publish(bus, 300))
                    await scene.until(begun(200))
                    assert proxy.connections  # else the fault is nobody's
                    await asyncio.to_thread(_FAULTS[fault], proxy)
                    await asyncio.sleep(self.stall_s)  # what is tested is that this much time goes by
                    await asyncio.to_thread(proxy.mend)
                await scene.all_handled()

        scene.judge(most_repeats=2 * CAPACITY)

    @pytest.mark.parametrize("fault", ["cut", "half-close", "drop", "delay"])
    async def test_a_publisher_whose_connection_fails_is_told_and_goes_on_when_it_works_again(
        self, server: Server, tmp_path: Path, fault: str
    ) -> None:
        with self.proxy(server) as proxy:
            url = server.url.replace(str(server.port), str(proxy.port))
            async with self.scene(url, tmp_path) as (scene, bus):
                await scene.member(url=server.url)
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(scene.publish(bus, 300))
                    await scene.until(begun(200))
                    assert proxy.connections  # else the fault is nobody's
                    await asyncio.to_thread(_FAULTS[fault], proxy)
                    await asyncio.sleep(1)  # what is tested is that this much time goes by
                    await asyncio.to_thread(proxy.mend)
                await scene.publish(bus, 20, first=300)
                await scene.all_handled()

        last = {number: scene.outcomes[f"publisher-{number}", 319] for number in range(PUBLISHERS)}
        assert last == dict.fromkeys(range(PUBLISHERS), "accepted")
        scene.judge(most_repeats=0)

    async def test_members_that_are_told_to_stop_under_load_finish_and_run_nothing_twice(
        self, server: Server, tmp_path: Path
    ) -> None:
        async with self.scene(server.url, tmp_path) as (scene, bus):
            await scene.member()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(scene.publish(bus, 500))
                for count in (200, 500, 800):
                    leaving = await scene.member()
                    await scene.until(begun(count))
                    leaving.send(signal.SIGTERM)
                    assert await leaving.end() == 0
            await scene.all_handled()

        scene.judge(most_repeats=0)

    async def test_a_slow_member_holds_no_more_than_it_may_and_the_broker_keeps_the_rest(
        self, server: Server, tmp_path: Path
    ) -> None:
        async with self.scene(server.url, tmp_path) as (scene, bus):
            slow = await scene.member(work_s=0.05, concurrency=2, capacity=8)
            await scene.publish(bus, 250)
            await scene.until(begun(20))
            slow.send(signal.SIGKILL)
            await slow.end()
            await scene.member()
            await scene.all_handled()

        scene.judge(most_repeats=8)

    async def test_an_event_that_kills_its_process_is_a_dead_letter_after_its_attempts_and_stops_nothing(
        self, server: Server, tmp_path: Path
    ) -> None:
        async with self.scene(server.url, tmp_path) as (scene, bus):
            await scene.publish(bus, 20)
            deadly = ("publisher-0", 7)
            kills = 0
            member = await scene.member(deadly=deadly, attempts=3)
            while await self._is_killed(member, bus):
                kills += 1
                member = await scene.member(deadly=deadly, attempts=3)
            (letter,) = await bus.dead_letter_queue.list()
            others = set(scene.outcomes) - {deadly}
            await scene.until(lambda steps: others <= {step.event for step in steps if step.what == "ended"})

        assert (letter.error_type, letter.attempts, letter.event.number) == ("HandlerKilledError", 3, 7)
        assert kills == sum(step.event == deadly for step in scene.steps.read()) == 3

    async def _is_killed(self, member: Member, bus: EventBus) -> bool:
        """Wait until a member has ended, or there is a dead letter."""
        async with asyncio.timeout(60):
            while member.process.returncode is None and not await bus.dead_letter_queue.count():  # noqa: ASYNC110
                await asyncio.sleep(0.02)  # nothing announces a dead letter
        return member.process.returncode is not None


_FAULTS: Final[dict[str, Callable[[Proxy], None]]] = {
    "cut": Proxy.cut,
    "half-close": lambda proxy: proxy.half_close("client"),
    "drop": Proxy.drop_silently,
    "delay": lambda proxy: proxy.delay(0.05),
}

"""Breaks servers and processes on purpose, and prints what it cost: ``python -m tests.deploy.drills``.

Each drill runs on a server of its own, which it starts. PRODUCTION_GUIDE.md has what one machine showed. What is lost,
out of order or done more often than it may be ends it with an error.
"""

import asyncio
import contextlib
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

from avx_events import Event, EventBus, EventStore, StoreUnavailableError
from tests.live.deliveries import Step
from tests.live.fault_suite import CAPACITY, PUBLISHERS, Scene, begun
from tests.live.histories import Kept, violations
from tests.live.postgres_attempts import Load, repeated
from tests.live.sqlite_processes import log_of
from tests.servers.kafka import kafka_in
from tests.servers.nats import nats_in
from tests.servers.postgres import postgres_in
from tests.servers.process import Server
from tests.servers.redis import KEEP_EACH_WRITE, redis_in
from tests.waiting import until

BROKERS: Final[dict[str, Callable[[Path], Server]]] = {
    "Redis": lambda folder: redis_in(folder, *KEEP_EACH_WRITE),
    "NATS": nats_in,
    "Kafka": kafka_in,
}
REDELIVER_AFTER_S: Final = 6.0  # Kafka takes no less
EACH: Final = 1_000  # events of each publisher
APPENDERS: Final = 100
DISK_BYTES: Final = 2_000_000


class Filled(Event, event_type="drills.filled"):
    text: str


@asynccontextmanager
async def group_on(server: Server, folder: Path) -> AsyncGenerator[tuple[Scene, EventBus]]:
    """Give a scene and a publisher's bus, and kill what is left of it."""
    options: dict[str, Any] = {"redeliver_after_s": REDELIVER_AFTER_S}
    scene = Scene(server.url, folder, options)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(scene.end)
        bus = await EventBus.connect(server.url, namespace=scene.namespace, **options)
        yield scene, await stack.enter_async_context(bus)


async def kill_a_member(server: Server, folder: Path) -> str:
    """Kill one of two members under load; its work is done by the other."""
    async with group_on(server, folder) as (scene, bus):
        killed, _ = await scene.member(), await scene.member()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(scene.publish(bus, EACH))
            await scene.until(begun(PUBLISHERS * EACH // 2))
            killed.send(signal.SIGKILL)
            killed_at = time.monotonic()
        await scene.all_handled()
        took_s = time.monotonic() - killed_at
        scene.judge(most_repeats=CAPACITY)
        return f"all handled {took_s:.1f} s after the kill; {repeats(scene.steps.read())} events twice; {told(scene)}"


async def restart_the_broker(server: Server, folder: Path) -> str:
    """Kill the broker under load, and start it again after a second."""
    async with group_on(server, folder) as (scene, bus):
        await scene.member()
        await scene.member()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(scene.publish(bus, EACH))
            await scene.until(begun(PUBLISHERS * EACH // 2))
            await asyncio.to_thread(server.kill)
            await asyncio.sleep(1)  # it is away for so long
            await asyncio.to_thread(server.start)
            started_at, before = time.monotonic(), len(scene.steps.read())
            await scene.until(lambda steps: len(steps) > before + 2 * CAPACITY)
            again_s = time.monotonic() - started_at
        await scene.all_handled()
        scene.judge(most_repeats=2 * CAPACITY)
        twice = repeats(scene.steps.read())
        return f"handlers go on {again_s:.1f} s after it answers; {twice} events twice; {told(scene)}"


async def kill_postgres(folder: Path) -> str:
    """Kill PostgreSQL under a hundred appenders, and start it again."""
    with postgres_in(folder) as server:
        async with await EventStore.connect(server.url) as store:
            load = Load(store, "drill")
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(load.run(APPENDERS))
                await until(load.kept_more(2_000), timeout_s=60)
                killed_at = time.monotonic()
                await asyncio.to_thread(server.kill)
                more = load.kept_more(APPENDERS)
                await asyncio.to_thread(server.start)
                away_s = time.monotonic() - killed_at
                await until(more, timeout_s=60)
                still_s = time.monotonic() - killed_at
                load.end()
            unknown = [one for one in load.attempts if not isinstance(one.outcome, Kept)]
            attempts = [*load.attempts, *await repeated(store, unknown)]
            found = violations(attempts, await log_of(store))
            assert found == [], found
        return (
            f"it was away for {away_s:.1f} s, {APPENDERS} appends had returned after {still_s:.1f} s; "
            f"of {load.kept} that returned 0 are lost, {len(unknown)} failed"
        )


async def fill_the_disk(folder: Path) -> str:
    """Let no file grow any more, as on a full disk, and then again."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write past the limit is an error then
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    refused, kept, said = 0, 0, ""
    async with await EventStore.connect(f"sqlite:///{folder}/events.db") as store:
        resource.setrlimit(resource.RLIMIT_FSIZE, (DISK_BYTES, most))
        while refused < APPENDERS:
            try:
                await store.append("stream", Filled("x" * 1_000))
                kept += 1
            except StoreUnavailableError as error:
                refused, said = refused + 1, str(error)
        read = len(await store.get_events("stream"))
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        started_at = time.monotonic()
        await store.append("stream", Filled("there is room"))
        again_s = time.monotonic() - started_at
        assert read == kept
    after = f"{again_s * 1000:.0f} ms for the first one after"
    return f"{kept} kept, then {refused} refused whole, reads go on; {after}; each was told: {said}"


def repeats(steps: list[Step]) -> int:
    """Return how many events were begun more than once."""
    counts = Counter(step.event for step in steps if step.what == "began")
    return counts.total() - len(counts)


def told(scene: Scene) -> str:
    """Return what publishers were told."""
    counts = Counter(scene.outcomes.values())
    return f"{counts['accepted']} accepted, {counts['refused']} refused, {counts['unknown']} unknown, 0 lost"


async def main() -> None:
    """Run every drill, and print a line for each."""
    for name, describe in BROKERS.items():
        for what, drill in (("a member is killed", kill_a_member), ("the broker is killed", restart_the_broker)):
            with tempfile.TemporaryDirectory() as folder, describe(Path(folder) / "server") as server:
                sys.stdout.write(f"{name}, {what}: {await drill(server, Path(folder))}\n")
                sys.stdout.flush()
    for what, alone in (("PostgreSQL is killed", kill_postgres), ("SQLite, the disk is full", fill_the_disk)):
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            sys.stdout.write(f"{what}: {await alone(Path(folder))}\n")


if __name__ == "__main__":
    asyncio.run(main())

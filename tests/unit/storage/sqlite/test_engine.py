"""A store whose file, loop or process is not what it was when it was opened says so, and leaves nothing behind."""

import asyncio
import gc
import os
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from avx_events.core.errors import StoreSchemaError, StoreUnavailableError, UsageError, WrongLoopError
from avx_events.core.event import Event
from avx_events.patterns.projection import Projection, Projector, handles
from avx_events.storage.sqlite.engine import connect as open_engine
from avx_events.store.event_store import EventStore
from avx_events.store.ports import PAGE_EVENTS, Connection, SnapshotRecord
from tests.waiting import until

pytestmark = pytest.mark.timeout(30)

PAGE_BYTES = 4096
TABLE_LEAF = 0x0D


class Noted(Event, event_type="engine.noted"):
    number: int
    text: str = "x" * 100


class Numbers(Projection, name="numbers"):
    @handles(Noted)
    async def note(self, event: Noted, connection: Connection) -> None: ...


# The file


@pytest.mark.parametrize("writer", ["thread", "inline"])
async def test_an_append_to_a_file_that_was_removed_is_refused(tmp_path: Path, writer: str) -> None:
    path = tmp_path / "events.db"
    async with await EventStore.connect(f"sqlite:///{path}?writer={writer}") as store:
        await store.append("a", Noted(1))
        path.rename(tmp_path / "moved.db")
        for events in ([Noted(2)], [Noted(2), Noted(3)]):
            with pytest.raises(StoreUnavailableError, match="removed, or another put in its place"):
                await store.append("a", events)

        (tmp_path / "moved.db").rename(path)
        assert (await store.append("a", Noted(2), expected_version=1)).version == 2


@pytest.mark.parametrize("writer", ["thread", "inline"])
async def test_a_transaction_on_a_file_that_was_removed_is_refused(tmp_path: Path, writer: str) -> None:
    path = tmp_path / "events.db"
    async with await EventStore.connect(f"sqlite:///{path}?writer={writer}") as store:
        async with store.transaction() as connection:
            await connection.execute("CREATE TABLE seen (number INTEGER)")
        path.rename(tmp_path / "moved.db")
        has_begun = False

        with pytest.raises(StoreUnavailableError, match="removed, or another put in its place"):
            async with store.transaction():
                has_begun = True

        assert not has_begun
        (tmp_path / "moved.db").rename(path)
        async with store.transaction() as connection:
            await connection.execute("INSERT INTO seen VALUES (1)")


@pytest.mark.parametrize("writer", ["thread", "inline"])
async def test_a_transaction_whose_file_is_replaced_meanwhile_is_not_committed(tmp_path: Path, writer: str) -> None:
    path = tmp_path / "events.db"
    async with await EventStore.connect(f"sqlite:///{path}?writer={writer}") as store:

        async def replace_it_meanwhile() -> None:
            async with store.transaction() as connection:
                await connection.execute("CREATE TABLE seen (number INTEGER)")
                path.rename(tmp_path / "moved.db")
                path.touch()

        with pytest.raises(StoreUnavailableError, match="removed, or another put in its place"):
            await replace_it_meanwhile()

        (tmp_path / "moved.db").rename(path)
        assert await store.fetch("SELECT name FROM sqlite_master WHERE name = 'seen'") == []
        assert (await store.append("a", Noted(1))).version == 1


async def test_a_projection_does_not_go_on_in_a_file_that_was_removed(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    async with await EventStore.connect(f"sqlite:///{path}") as store:
        await store.append("a", Noted(1))
        path.rename(tmp_path / "moved.db")

        with pytest.raises(StoreUnavailableError, match="removed, or another put in its place"):
            async with Projector(store, Numbers()):
                pass


async def test_a_snapshot_is_not_kept_in_a_file_that_was_removed(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    engine = await open_engine(f"sqlite:///{path}")
    try:
        path.rename(tmp_path / "moved.db")
        with pytest.raises(StoreUnavailableError, match="removed, or another put in its place"):
            await engine.put_snapshot(SnapshotRecord("a", "kind", "fingerprint", 1, 1, b"{}"))
    finally:
        await engine.close()


@pytest.mark.parametrize("read", ["read_all", "get_events", "subscribe", "fetch"])
@pytest.mark.parametrize("place", ["another", "none"])
async def test_what_is_in_another_file_is_not_read_as_the_stores_own(tmp_path: Path, read: str, place: str) -> None:
    path = tmp_path / "events.db"
    async with await EventStore.connect(f"sqlite:///{path}") as store:
        await store.append("a", Noted(1))
        move(path, tmp_path / "moved.db")
        if place == "another":
            async with await EventStore.connect(f"sqlite:///{path}") as other:
                await other.append("a", [Noted(2), Noted(3)])

        with pytest.raises(StoreUnavailableError, match="removed, or another put in its place"):
            await read_to_the_end(store, read)

        move(tmp_path / "moved.db", path)
        assert [stored.event for stored in await store.get_events("a")] == [Noted(1)]


@pytest.mark.parametrize("read", ["read_all", "get_events", "subscribe"])
async def test_a_file_whose_pages_repeat_is_not_read_for_ever(tmp_path: Path, read: str) -> None:
    path = tmp_path / "events.db"
    async with await EventStore.connect(f"sqlite:///{path}") as store:
        await store.append("a", [Noted(number) for number in range(2 * PAGE_EVENTS)])
    repeat_the_first_leaf(path)

    async with await EventStore.connect(f"sqlite:///{path}") as store:
        with pytest.raises(StoreSchemaError, match=r"damaged|malformed"):
            await read_to_the_end(store, read)


async def test_who_follows_a_log_is_told_when_its_file_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    async with await EventStore.connect(f"sqlite:///{path}?poll_s=0.001") as store:
        await store.append("a", Noted(1))
        subscription = store.subscribe()
        await anext(subscription)

        path.unlink()

        with pytest.raises(StoreUnavailableError, match="removed, or another put in its place"):
            await anext(subscription)
        await store.close()
        with pytest.raises(StopAsyncIteration):
            await anext(subscription)


def move(path: Path, to: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).replace(to.with_name(to.name + suffix))


async def read_to_the_end(store: EventStore, read: str) -> None:
    if read == "get_events":
        await store.get_events("a")
    elif read == "fetch":
        await store.fetch("SELECT count(*) FROM avx_events")
    else:
        async for _ in store.read_all() if read == "read_all" else store.subscribe():
            pass


def repeat_the_first_leaf(path: Path) -> None:
    data = path.read_bytes()
    pages = [data[start : start + PAGE_BYTES] for start in range(0, len(data), PAGE_BYTES)]
    leaves = [page for page in pages[1:] if page[0] == TABLE_LEAF and b"engine.noted" in page]
    path.write_bytes(b"".join(leaves[0] if page in leaves else page for page in pages))


async def test_a_schema_that_is_no_text_is_a_schema_error(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    async with await EventStore.connect(f"sqlite:///{path}"):
        pass
    path.write_bytes(path.read_bytes().replace(b"avx_eventsavx_events", b"avx_even\xbb\xbbavx_events", 1))

    with pytest.raises(StoreSchemaError):
        await EventStore.connect(f"sqlite:///{path}")


async def test_a_connect_that_is_cancelled_at_any_turn_leaves_no_file_open(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/events.db"
    async with asyncio.TaskGroup() as tasks:
        for turns in range(20):
            connecting = tasks.create_task(EventStore.connect(url))
            for _ in range(turns):
                await asyncio.sleep(0)
            connecting.cancel()
            with suppress(asyncio.CancelledError):
                await (await connecting).close()

    await until(lambda: open_files(tmp_path) == [])


def open_files(folder: Path) -> list[str]:
    links: list[str] = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            links.append(str(descriptor.readlink()))
    return [link for link in links if link.startswith(str(folder))]


# The loop


@pytest.mark.parametrize("url", ["", "sqlite:///{folder}/events.db?writer=thread", "sqlite://?writer=inline"])
async def test_a_close_from_another_loop_is_refused_and_closes_nothing(tmp_path: Path, url: str) -> None:
    store = await EventStore.connect(url.format(folder=tmp_path)) if url else EventStore()
    async with store:
        await store.append("a", Noted(1))

        def close_elsewhere() -> None:
            with pytest.raises(WrongLoopError):
                asyncio.run(store.close())

        await asyncio.to_thread(close_elsewhere)

        assert (await store.append("a", Noted(2))).version == 2
        store.subscribe()


def test_the_threads_of_a_store_end_with_its_loop(tmp_path: Path) -> None:
    before = set(threading.enumerate())

    async def forget_to_close() -> None:
        store = await EventStore.connect(f"sqlite:///{tmp_path}/events.db?writer=thread")
        await store.append("a", Noted(1))
        await store.get_events("a")

    asyncio.run(forget_to_close())
    for thread in set(threading.enumerate()) - before:
        thread.join(10)

    assert set(threading.enumerate()) == before
    gc.collect()  # a connection that reads is a cycle, of sqlite3's making
    assert open_files(tmp_path) == []


# The process


@pytest.mark.parametrize("writer", ["thread", "inline"])
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # that is what is tested, from Python 3.12 on
async def test_a_forked_child_is_refused(tmp_path: Path, writer: str) -> None:
    async with await EventStore.connect(f"sqlite:///{tmp_path}/events.db?writer={writer}") as store:
        await store.append("a", Noted(1))
        await store.get_events("a")

        child = os.fork()
        if child == 0:
            os._exit(asyncio.run(refused_calls(store)))

        _, status = await asyncio.to_thread(os.waitpid, child, 0)
        assert os.waitstatus_to_exitcode(status) == 6
        assert (await store.append("a", Noted(2))).version == 2


async def refused_calls(store: EventStore) -> int:
    calls = [
        store.append("a", Noted(2)),
        store.get_events("a"),
        store.last_position(),
        store.fetch("SELECT 1"),
        store.transaction,
        store.close(),
    ]
    refused = 0
    for call in calls:
        try:
            async with asyncio.timeout(5):
                await (call if asyncio.iscoroutine(call) else begin(store))
        except UsageError:
            refused += 1
    return refused


async def begin(store: EventStore) -> None:
    async with store.transaction():
        pass

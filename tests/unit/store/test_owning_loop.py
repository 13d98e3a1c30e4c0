"""A store belongs to one loop: others are refused, and when that loop is gone nothing of the store is left running."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from avx_events.core.errors import AvxEventsError, ClosedError, WrongLoopError
from avx_events.core.event import Event
from avx_events.patterns.aggregate import AggregateRoot
from avx_events.store.event_store import EventStore
from avx_events.store.ports import AppendResult
from tests.unit.store.cuts import open_files

DATABASES = [
    "sqlite:///{folder}/events.db?writer=thread",
    "sqlite:///{folder}/events.db?writer=inline",
    "sqlite://?writer=thread",
    "sqlite://?writer=inline",
]
STORES = ["memory", *DATABASES]


class Seen(Event, event_type="owning.seen"):
    number: int


class Sight(AggregateRoot):
    count: int = 0

    def apply(self, event: Event) -> None:
        self.count += 1


async def connect(url: str, folder: Path) -> EventStore:
    return EventStore() if url == "memory" else await EventStore.connect(url.format(folder=folder))


async def save(store: EventStore) -> AppendResult:
    sight = Sight("b")
    sight.record(Seen(1))
    return await store.save(sight)


async def follow(store: EventStore) -> None:
    await anext(store.subscribe())


async def begin(store: EventStore) -> None:
    async with store.transaction():
        pass


USES: list[Callable[[EventStore], Awaitable[Any]]] = [
    lambda store: store.append("a", Seen(2)),
    lambda store: store.get_events("a"),
    lambda store: anext(store.read_stream("a")),
    lambda store: anext(store.read_all()),
    lambda store: store.load(Sight, "a"),
    lambda store: store.load_or_new(Sight, "a"),
    lambda store: store.version_of("a"),
    lambda store: store.last_position(),
    save,
]


async def errors_of(store: EventStore, uses: list[Callable[[EventStore], Awaitable[Any]]]) -> list[type]:
    raised: list[type] = []
    for use in uses:
        try:
            await use(store)
        except AvxEventsError as error:
            raised.append(type(error))
    return raised


@pytest.mark.parametrize("url", STORES)
async def test_another_thread_with_a_loop_of_its_own_is_refused(tmp_path: Path, url: str) -> None:
    uses = [*USES, follow] if url == "memory" else [*USES, follow, begin]
    async with await connect(url, tmp_path) as store:
        await store.append("a", Seen(1))

        raised = await asyncio.to_thread(lambda: asyncio.run(errors_of(store, uses)))

        assert raised == [WrongLoopError] * len(uses)
        assert await store.append("a", Seen(2), expected_version=1) == AppendResult(2, 2)


@pytest.mark.parametrize(
    "method",
    [
        *[EventStore.append, EventStore.get_events, EventStore.read_stream, EventStore.read_all, EventStore.load],
        *[EventStore.save, EventStore.subscribe, EventStore.last_position, EventStore.version_of],
        *[EventStore.transaction, EventStore.fetch, EventStore.fetch_one],
    ],
)
def test_what_is_raised_of_a_wrong_loop_or_a_damaged_file_is_documented(method: Callable[..., object]) -> None:
    text = method.__doc__ or ""

    assert "WrongLoopError:" in text
    assert "StoreSchemaError:" in text


@pytest.mark.parametrize("url", DATABASES)
def test_the_next_loop_is_refused_and_may_close_it(tmp_path: Path, url: str) -> None:
    before = set(threading.enumerate())

    async def open_only() -> EventStore:
        store = await connect(url, tmp_path)
        await store.append("a", Seen(1))
        await store.get_events("a")
        return store

    async def use(store: EventStore) -> None:
        assert await errors_of(store, [*USES, begin]) == [WrongLoopError] * (len(USES) + 1)
        await store.close()
        assert await errors_of(store, [*USES, begin]) == [ClosedError] * (len(USES) + 1)

    store = asyncio.run(open_only())
    asyncio.run(use(store))

    assert set(threading.enumerate()) == before
    assert open_files(tmp_path) == []


def test_a_store_in_memory_goes_on_in_the_next_loop() -> None:
    store = EventStore()

    async def use(number: int) -> None:
        follower = store.subscribe(after=number - 1)
        async with asyncio.TaskGroup() as tasks:
            following = tasks.create_task(anext(follower))
            await store.append("a", Seen(number), expected_version=number - 1)
        assert following.result().event == Seen(number)

    for number in (1, 2, 3):
        asyncio.run(use(number))


@pytest.mark.parametrize("url", STORES)
async def test_a_store_that_is_left_by_an_error_is_closed(tmp_path: Path, url: str) -> None:
    before = set(threading.enumerate())
    store = await connect(url, tmp_path)

    async def leave() -> None:
        async with store:
            await store.append("a", Seen(1))
            raise LookupError

    with pytest.raises(LookupError):
        await leave()

    assert await errors_of(store, USES) == [ClosedError] * len(USES)
    await asyncio.get_running_loop().shutdown_default_executor()  # whose threads are the loop's own
    assert set(threading.enumerate()) <= before
    assert open_files(tmp_path) == []


@pytest.mark.parametrize("url", DATABASES)
async def test_a_transaction_that_is_open_when_the_store_closes_is_undone(tmp_path: Path, url: str) -> None:
    store = await connect(url, tmp_path)

    async def close_in_the_middle() -> None:
        async with store.transaction() as connection:
            await connection.execute("CREATE TABLE late (at TEXT)")
            await store.close()
            await connection.execute("INSERT INTO late VALUES ('now')")

    with pytest.raises(ClosedError):
        await close_in_the_middle()

    if "{folder}" in url:
        async with await connect(url, tmp_path) as again, again.transaction() as connection:
            assert await connection.fetch("SELECT name FROM sqlite_master WHERE name = 'late'") == []


def test_a_store_in_memory_appends_though_a_follower_of_an_ended_loop_still_waits() -> None:
    store = EventStore()
    loops = [asyncio.new_event_loop() for _ in range(2)]

    async def follow() -> None:
        async for _ in store.subscribe():
            pass

    following = loops[0].create_task(follow())
    loops[0].run_until_complete(store.append("a", Seen(1)))
    loops[0].run_until_complete(asyncio.sleep(0))
    loops[0].close()

    appended = loops[1].run_until_complete(store.append("a", Seen(2)))
    loops[1].close()

    following._log_destroy_pending = False  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]  # its loop is closed: it can never end
    assert (appended.version, following.done()) == (2, False)

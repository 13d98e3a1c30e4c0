"""What a handler has done after the commit: once, where it is live, and never while history is replayed."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import pytest

from avx_events.bus.dead_letters import DeadLetterQueue
from avx_events.core.clock import SYSTEM_CLOCK
from avx_events.core.errors import InvalidArgumentError, NotRunningError, ProjectionFailedError
from avx_events.core.event import Event
from avx_events.core.metadata import stamp
from avx_events.core.policy import Discard, Retry
from avx_events.patterns.projection import Projection, Projector, handles
from avx_events.patterns.tables import execute
from avx_events.store.event_store import EventStore
from avx_events.store.ports import Connection
from tests.waiting import until

pytestmark = pytest.mark.timeout(20)

NO_PAUSE = Retry(attempts=3, initial_s=0, max_s=0)


class Joined(Event, event_type="after.joined", aggregate_id="name"):
    name: str


Tell: TypeAlias = Callable[[str], Awaitable[object]]
Fail: TypeAlias = Callable[[Joined], None]


class Members(Projection, name="members", tables=("members",)):
    """Tells of each member after the commit, and what is in the table by then."""

    def __init__(self, store: EventStore) -> None:
        self.store = store
        self.told: list[str] = []
        self.replayed: list[tuple[str, bool]] = []
        self.fail: Fail = lambda event: None
        self.action: Tell = self.tell

    async def setup(self, connection: Connection) -> None:
        await connection.execute(f"CREATE TABLE {self.table('members')} (name TEXT)")

    @handles(Joined)
    async def add(self, event: Joined, connection: Connection) -> None:
        self.replayed.append((event.name, self.is_replaying))
        self.after_commit(lambda: self.action(event.name))
        await execute(connection, f"INSERT INTO {self.table('members')} VALUES (?)", event.name)  # noqa: S608
        self.fail(event)

    async def tell(self, name: str) -> None:
        found = await self.store.fetch("SELECT name FROM members")
        assert (name,) in found
        self.told.append(name)


class MembersTwo(Members, version=2):
    pass


async def join(store: EventStore, *names: str) -> int:
    return (await store.append("s", [Joined(name) for name in names])).position


async def told(members: Members, *names: str) -> None:
    await until(lambda: members.told == [*names])


async def test_it_is_done_after_the_commit_in_the_order_of_the_log(store: EventStore) -> None:
    members = Members(store)
    async with Projector(store, members) as projector:
        await projector.caught_up(await join(store, "a", "b", "c"))
        await told(members, "a", "b", "c")

    assert members.replayed == [("a", False), ("b", False), ("c", False)]


async def test_it_is_not_done_for_what_was_there_before_the_version(store: EventStore) -> None:
    members = Members(store)
    await join(store, "a", "b")
    async with Projector(store, members) as projector:
        await projector.caught_up()
        await projector.caught_up(await join(store, "c"))
        await told(members, "c")

    assert members.replayed == [("a", True), ("b", True), ("c", False)]


async def test_what_came_while_nobody_ran_is_no_history(store: EventStore) -> None:
    members = Members(store)
    async with Projector(store, members) as projector:
        await projector.caught_up(await join(store, "a"))
        await told(members, "a")
    await join(store, "b")
    async with Projector(store, members) as projector:
        await projector.caught_up()
        await told(members, "a", "b")


async def test_a_version_that_is_built_beside_another_does_nothing_before_it_is_read(shared_url: str) -> None:
    async with await EventStore.connect(shared_url) as store, await EventStore.connect(shared_url) as other:
        old, new = Members(store), MembersTwo(store)
        gate = asyncio.Event()
        await join(store, "a")

        async with Projector(store, old) as old_projector:
            await old_projector.caught_up()
            await old_projector.caught_up(await join(store, "b"))
            async with Projector(other, new) as new_projector:
                await new_projector.caught_up()
                gate.set()
                await new_projector.caught_up(await join(store, "c"))
                await told(new, "c")

        assert old.told == ["b"]
        assert new.replayed == [("a", True), ("b", True), ("c", False)]


async def test_what_was_undone_is_not_told(store: EventStore) -> None:
    members, failures = Members(store), [KeyError(), KeyError()]

    def fail(event: Joined) -> None:
        if event.name == "b" and failures:
            raise failures.pop()

    members.fail = fail
    async with Projector(store, members, retry=NO_PAUSE) as projector:
        await projector.caught_up(await join(store, "a", "b", "c"))
        await told(members, "a", "b", "c")


async def test_an_event_that_is_discarded_or_becomes_a_letter_is_not_told_until_it_is_redriven(
    store: EventStore,
) -> None:
    members, queue = Members(store), DeadLetterQueue()

    def fail(event: Joined) -> None:
        if event.name in {"b", "c"}:
            raise Discard if event.name == "b" else LookupError

    members.fail = fail
    async with Projector(store, members, retry=None, dead_letter_queue=queue) as projector:
        await projector.caught_up(await join(store, "a", "b", "c", "d"))
        await told(members, "a", "d")

        members.fail = lambda event: None
        [letter] = await queue.list()
        assert await projector.redrive(letter)
        assert members.told == ["a", "d", "c"]


async def test_one_that_fails_is_logged_and_nothing_else_happens(
    store: EventStore, caplog: pytest.LogCaptureFixture
) -> None:
    members = Members(store)

    async def fail(name: str) -> None:
        if name == "a":
            raise ConnectionError("away")
        await members.tell(name)

    members.action = fail
    async with Projector(store, members) as projector:
        await projector.caught_up(await join(store, "a", "b"))
        await told(members, "b")
        statistics = projector.statistics()["members"]

    assert (statistics.state, statistics.failed_actions, statistics.failures) == ("following", 1, 0)
    [error] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "what was to follow the commit of 'after.joined' failed and is not repeated" in error.getMessage()
    assert error.exc_info is not None


async def test_one_that_never_ends_is_ended(store: EventStore) -> None:
    members = Members(store)
    members.action = lambda name: asyncio.Event().wait()
    async with Projector(store, members, timeout_s=0.2) as projector:
        await projector.caught_up(await join(store, "a"))
        await until(lambda: projector.statistics()["members"].failed_actions == 1)


async def test_who_waits_for_the_position_does_not_wait_for_what_follows(store: EventStore) -> None:
    members, gate = Members(store), asyncio.Event()
    members.action = lambda name: gate.wait()
    async with Projector(store, members) as projector:
        await projector.caught_up(await join(store, "a"))


async def test_what_it_makes_has_the_event_as_its_cause(store: EventStore) -> None:
    members, causes = Members(store), list[str | None]()

    async def note(name: str) -> None:
        causes.append(stamp(Joined("again"), clock=SYSTEM_CLOCK).metadata.causation_id)

    members.action = note
    async with Projector(store, members) as projector:
        await projector.caught_up(await join(store, "a", "b"))
        await until(lambda: len(causes) == 2)

    assert causes == [stored.metadata.event_id for stored in await store.get_events("s")]


async def test_it_is_asked_for_in_handlers_only(store: EventStore) -> None:
    members = Members(store)
    with pytest.raises(NotRunningError, match="outside of a handler"):
        members.after_commit(lambda: members.tell("a"))
    assert not members.is_replaying

    late = list[Callable[[], None]]()
    members.fail = lambda event: late.append(lambda: members.after_commit(lambda: members.tell("b")))

    async def too_late(name: str) -> None:
        late[0]()

    members.action = too_late
    async with Projector(store, members) as projector:
        await projector.caught_up(await join(store, "a"))
        await until(lambda: projector.statistics()["members"].failed_actions == 1)


async def test_what_cannot_be_called_is_refused(store: EventStore) -> None:
    class Wrong(Members, name="wrong"):
        @handles(Joined)
        async def add(self, event: Joined, connection: Connection) -> None:
            wrong: Any = self.tell("a").close()
            self.after_commit(wrong)

    async with Projector(store, Wrong(store)) as projector:
        with pytest.raises(ProjectionFailedError, match="a function without parameters") as raised:
            await projector.caught_up(await join(store, "a"))

    assert isinstance(raised.value.__cause__, InvalidArgumentError)

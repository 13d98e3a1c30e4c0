"""The events of a consumer group's member: from the partitions that it has, with what was not done before first."""

import asyncio
import logging
from collections.abc import Iterable, Sequence
from itertools import count
from typing import Any, Final

from avx_events.bus.remote.ports import Consumer, Incoming, Lane, Withdrawal
from avx_events.core.clock import Clock
from avx_events.core.errors import AvxEventsError, TransportUnavailableError
from avx_events.core.tasks import TaskScope
from avx_events.distributed.kafka import requests
from avx_events.distributed.kafka.cluster import Cluster
from avx_events.distributed.kafka.codes import NO_MEMBER, AnsweredError, Code
from avx_events.distributed.kafka.membership import Membership
from avx_events.distributed.kafka.messages import incoming_of
from avx_events.distributed.kafka.progress import MOST_BYTES, Noted, Progress, read, write
from avx_events.distributed.kafka.reader import Reader
from avx_events.distributed.kafka.redrives import Redrives
from avx_events.distributed.kafka.requests import Record
from avx_events.distributed.kafka.wire import Request, WireError

log = logging.getLogger("avx_events")

# Events are given out up to a mark that the broker knows: the mark is set so many times further than needed now.
_MARKS_AHEAD: Final = 4
_LEAST_METADATA_BYTES: Final = 64
_LAST_WORD_WITHIN_S: Final = 1.0
_PAUSE_S: Final = 1.0


class Holding:
    """A partition that this member has.

    Attributes:
        lane: As the bus knows it.
        progress: How far it is.
        safe_to: Up to where the broker knows that events may have been given out.
    """

    __slots__ = ("lane", "progress", "safe_to")

    def __init__(self, lane: Lane, noted: Noted) -> None:
        """Go on where the member before has ended."""
        self.lane = lane
        self.progress = Progress(noted)
        self.safe_to = noted.given_to


class GroupSource:
    """What a bus reads of one handler's consumer group."""

    def __init__(
        self,
        cluster: Cluster,
        consumer: Consumer,
        *,
        topic: str,
        name: str,
        session_s: float,
        heartbeat_s: float,
        clock: Clock,
        withdrawal: Withdrawal,
        redrives: Redrives,
    ) -> None:
        """Begin with no partitions; ``start`` joins the group.

        Args:
            cluster: Where the log is.
            consumer: Whose events.
            topic: The log.
            name: Of the consumer group.
            session_s: How long the work of a dead member waits.
            heartbeat_s: How often this one gives a sign of life.
            clock: Time.
            withdrawal: Told when a partition moves to another member.
            redrives: Tells who asks to have the handler's dead letters redriven.
        """
        self._cluster = cluster
        self._consumer = consumer
        self._topic = topic
        self.name = name
        self._withdrawal = withdrawal
        self._redrives = redrives
        self._reader = Reader(cluster, topic, on_gap=self._leap, what=f"avx-events kafka: {name}")
        self._membership = Membership(
            cluster, name, topic, self, session_s=session_s, heartbeat_s=heartbeat_s, clock=clock
        )
        self._held: dict[int, Holding] = {}
        self._leaving: dict[int, Holding] = {}
        self._assigned: dict[int, int] = {}  # partition -> which time it was assigned
        self._times = count()
        self._held_until = 0.0
        self._given: dict[int, set[int]] = {}  # out here, and neither done nor dropped
        self._known: dict[int, Noted] = {}  # of partitions that were held before
        self._created: frozenset[int] = frozenset()
        self._dirty: set[int] = set()
        self._writing = asyncio.Lock()
        self._most_bytes = MOST_BYTES
        self._tasks = TaskScope()

    # Beginning and end

    async def create(self) -> None:
        """Have the consumer group in the broker, with a position in each partition; one that is there keeps its own.

        Raises:
            TransportUnavailableError: The cluster is away.
            TransportRefusedError: It refuses.
        """
        at = {"latest": requests.LATEST, "earliest": requests.EARLIEST}[self._consumer.start]
        partitions = self._cluster.leaders(self._topic).keys()
        # Before it is known whether another member has made the group: what is published after that one has, is not
        # passed by here.
        begins_at = await self._cluster.offsets(self._topic, partitions, at)
        new = await self._without_position(partitions)
        if new:
            commits = {partition: (begins_at[partition], "") for partition in new}
            await self._cluster.until_done(lambda: self._create(commits))
        self._created = frozenset(partitions)
        if self._consumer.on_redrive is not None:
            await self._redrives.listen(self.name, self._consumer.on_redrive)

    async def _without_position(self, partitions: Iterable[int]) -> list[int]:
        asked = requests.committed(self.name, self._topic, partitions)
        found = await self._cluster.until_done(lambda: self._commits(asked))
        return [partition for partition in partitions if found.get(partition, _NO_COMMIT)[0] == requests.NO_OFFSET]

    async def _commits(self, asked: Request) -> dict[int, tuple[int, str]]:
        return requests.commits_of(await self._ask(asked))

    async def _create(self, commits: dict[int, tuple[int, str]]) -> None:
        request = requests.commit(self.name, self._topic, commits, generation=requests.NO_GENERATION, member_id="")
        for code in requests.commit_codes(await self._ask(request)).values():
            if code in NO_MEMBER:  # it has members by now, who have made the positions
                return
            if code:
                self._membership.note(code)
                raise AnsweredError(code)

    async def _ask(self, request: Request) -> Any:
        try:
            return await self._membership.ask(request)
        except AnsweredError as exc:
            self._membership.note(exc.code)
            raise

    def start(self) -> None:
        """Join the group."""
        self._membership.start()
        self._tasks.spawn(self._look_for_partitions(), name=f"avx-events kafka: {self.name}: look for partitions")

    async def close(self) -> None:
        """Leave the group."""
        self._redrives.ignore(self.name)
        await self._membership.stop()  # first, since it begins with what it is given
        await self._tasks.cancel()
        await self._reader.close()
        for partition, holding in self._held.items():
            holding.progress.close()
            if holding.progress.safe_to != holding.safe_to:
                self._dirty.add(partition)
        if self._dirty and self._membership.is_stable:
            try:
                async with asyncio.timeout(_LAST_WORD_WITHIN_S):
                    await self._write_once()
            except (WireError, AnsweredError, TimeoutError, AvxEventsError) as exc:
                log.warning("%s may count attempts that were not made: %s", self.name, exc)
        await self._membership.leave()

    async def _look_for_partitions(self) -> None:
        known = set(self._created)
        while True:
            known |= await self._cluster.new_partitions(self._topic, known)
            self._membership.join_again()

    # What this member has

    def claims(self) -> Iterable[int]:
        """Return what this member has, or still works on."""
        return sorted(self._assigned.keys() | self._leaving.keys())

    def assigned(self, partitions: frozenset[int]) -> None:
        """Have these partitions from now on."""
        for partition in self._assigned.keys() - partitions:
            del self._assigned[partition]
        for partition in self._held.keys() - partitions:
            self._leave(partition)
        new = partitions - self._assigned.keys()
        for partition in new:
            self._assigned[partition] = next(self._times)
        self._begin(new - self._leaving.keys())

    def renewed(self, until: float) -> None:
        """Have what this member has until then, in monotonic seconds."""
        self._held_until = until
        for holding in (*self._held.values(), *self._leaving.values()):
            holding.lane.held_until = until

    def lost(self) -> None:
        """Have nothing any more."""
        self._assigned.clear()
        self._reader.drop(list(self._held))
        for partition, holding in (self._held | self._leaving).items():
            self._known[partition] = holding.progress.noted()
            self._withdrawal.lose(holding.lane)
        self._held.clear()
        self._leaving.clear()

    def _begin(self, partitions: Iterable[int]) -> None:
        times = {partition: self._assigned[partition] for partition in partitions}
        if times:
            self._tasks.spawn(self._begin_with(times), name=f"avx-events kafka: {self.name}: begin")

    async def _begin_with(self, times: dict[int, int]) -> None:
        commits = await self._positions(times)
        begun = [partition for partition, time in times.items() if self._assigned.get(partition) == time]
        for partition in begun:
            noted = self._noted(partition, *commits.get(partition, _NO_COMMIT))
            self._held[partition] = Holding(Lane(partition, held_until=self._held_until), noted)
        self._reader.hold({partition: self._held[partition].progress.given_to for partition in begun})

    async def _positions(self, partitions: Iterable[int]) -> dict[int, tuple[int, str]]:
        asked = requests.committed(self.name, self._topic, partitions)
        while True:
            try:
                return await self._cluster.until_done(lambda: self._commits(asked))
            except AvxEventsError as exc:
                log.warning("%s waits to begin: %s", self.name, exc)
                await asyncio.sleep(_PAUSE_S)

    def _noted(self, partition: int, offset: int, metadata: str) -> Noted:
        if offset != requests.NO_OFFSET:
            return read(offset, metadata)
        known = self._known.get(partition, Noted(0))
        if partition in self._created:
            log.error(
                "the position of %s in partition %d is gone from Kafka; it goes on at offset %d",
                self.name,
                partition,
                known.offset,
            )
        return known

    def _leave(self, partition: int) -> None:
        holding = self._leaving[partition] = self._held.pop(partition)
        self._reader.drop([partition])
        self._tasks.spawn(self._finish(partition, holding), name=f"avx-events kafka: {self.name}: give up a partition")

    async def _finish(self, partition: int, holding: Holding) -> None:
        """Let what runs of a partition come to its end, and then let another member have it."""
        await self._withdrawal.give_up(holding.lane)
        if self._leaving.get(partition) is not holding:
            return
        holding.progress.close()
        try:
            await self._write({partition})
        except AvxEventsError as exc:
            log.warning("%s may count attempts that were not made: %s", self.name, exc)
        if self._leaving.get(partition) is not holding:
            return
        del self._leaving[partition]
        self._known[partition] = holding.progress.noted()
        if partition in self._assigned:
            self._begin([partition])
        else:
            self._membership.join_again()

    def _leap(self, partition: int, lost: int, first: int) -> None:
        if first > lost:
            log.error(
                "%s lost %d events of partition %d: they were gone from Kafka before they were handled",
                self.name,
                first - lost,
                partition,
            )
            if partition in self._held:
                self._held[partition].progress.pass_to(first)
                self._dirty.add(partition)
            return
        log.error("partition %d of %s was made anew; %s begins with it at %d", partition, self._topic, self.name, first)
        holding = self._held.get(partition)
        if holding is not None:
            self._withdrawal.lose(holding.lane)
            self._given.pop(partition, None)
            self._held[partition] = Holding(Lane(partition, held_until=self._held_until), Noted(first))
            self._dirty.add(partition)

    # Events

    async def fetch(self, most: int) -> Sequence[Incoming]:
        """Wait for records and return up to ``most``; see ``Source``."""
        if not self._reader.there(1):
            await self._reader.wait()
        records = self._reader.there(most)
        if any(self._is_unsafe(partition, record) for partition, record in records):
            try:
                await self._make_safe(records)
            except TransportUnavailableError as exc:
                log.warning("%s waits: %s", self.name, exc)
                return []
        received: list[Incoming] = []
        taken = 0
        for partition, record in self._reader.there(most):
            if self._is_unsafe(partition, record):  # it was read while we waited
                break
            taken += 1
            incoming = self._received(partition, record)
            if incoming is not None:
                received.append(incoming)
        self._reader.take(taken)
        return received

    async def acknowledge(self, done: Sequence[Incoming]) -> None:
        """Commit what is done; see ``Source``."""
        changed: set[int] = set()
        for incoming in done:
            partition, offset = incoming.receipt
            self._given.get(partition, set[int]()).discard(offset)
            holding = self._holding(partition)
            if holding is not None:
                holding.progress.finish(offset)
                changed.add(partition)
        await self._write(changed)

    async def count_attempts(self, incoming: Incoming, attempts: int) -> None:
        """Keep the number of attempts; see ``Source``."""
        partition, offset = incoming.receipt
        holding = self._holding(partition)
        if holding is not None and holding.progress.count(offset, attempts):
            await self._write({partition})

    def give_back(self, incoming: Incoming, *, has_begun: bool) -> None:
        """Know it no more; see ``Source``."""
        partition, offset = incoming.receipt
        self._given.get(partition, set[int]()).discard(offset)
        holding = self._holding(partition)
        if holding is not None:
            holding.progress.give_back(offset, has_begun=has_begun)

    def _holding(self, partition: int) -> Holding | None:
        return self._held.get(partition) or self._leaving.get(partition)

    def _is_unsafe(self, partition: int, record: Record) -> bool:
        holding = self._held.get(partition)
        return holding is not None and record.offset >= holding.safe_to

    async def _make_safe(self, records: list[tuple[int, Record]]) -> None:
        """Have the broker know that these may have been begun, and some more."""
        ends: dict[int, int] = {}
        counts: dict[int, int] = {}
        for partition, record in records:
            ends[partition] = record.offset + 1
            counts[partition] = counts.get(partition, 0) + 1
        for partition, end in ends.items():
            holding = self._held.get(partition)
            if holding is not None and holding.safe_to < end:
                holding.progress.safe_to = end + _MARKS_AHEAD * counts[partition]
                self._dirty.add(partition)
        await self._write(set(ends))

    def _received(self, partition: int, record: Record) -> Incoming | None:
        holding = self._held.get(partition)
        if holding is None:
            return None
        given = self._given.setdefault(partition, set())
        progress, offset = holding.progress, record.offset
        if not progress.give(offset) or offset in given:  # or it is here: the lane came back while a handler still runs
            return None
        given.add(offset)
        incoming = incoming_of(holding.lane, (partition, offset), record)
        incoming.attempts = progress.attempts(offset)
        incoming.is_redelivered = progress.is_again(offset)
        return incoming

    # Positions

    async def _write(self, changed: set[int]) -> None:
        """Have the broker know how far these partitions are; those who ask meanwhile are served together.

        Raises:
            TransportUnavailableError: The cluster is away.
            TransportRefusedError: It refuses.
        """
        self._dirty |= changed
        async with self._writing:
            if changed & self._dirty:
                await self._cluster.until_done(self._write_once)

    async def _write_once(self) -> None:
        """Commit what has changed.

        Raises:
            AnsweredError: The group is being shared out, or the coordinator moves.
            WireError: It is away.
            TransportRefusedError: It refuses.
        """
        await self._membership.stable()
        dirty, self._dirty = self._dirty, set()
        notes = {
            partition: holding.progress.noted()
            for partition in dirty
            if (holding := self._holding(partition)) is not None
        }
        if not notes:
            return
        commits = {
            partition: (noted.offset, write(noted, most_bytes=self._most_bytes)) for partition, noted in notes.items()
        }
        request = requests.commit(
            self.name,
            self._topic,
            commits,
            generation=self._membership.generation,
            member_id=self._membership.member_id,
        )
        try:
            codes = requests.commit_codes(await self._ask(request))
        except BaseException:
            self._dirty |= dirty
            raise
        self._committed(notes, codes)

    def _committed(self, notes: dict[int, Noted], codes: dict[int, int]) -> None:
        problem: int = Code.NONE
        for partition, noted in notes.items():
            code = codes.get(partition, Code.NETWORK_EXCEPTION)
            holding = self._holding(partition)
            if code:
                problem = code
                self._dirty.add(partition)
            elif holding is not None:
                holding.safe_to = max(holding.safe_to, noted.given_to)
        if problem == Code.OFFSET_METADATA_TOO_LARGE and self._most_bytes > _LEAST_METADATA_BYTES:
            self._most_bytes //= 2
            problem = Code.REBALANCE_IN_PROGRESS
        if problem in NO_MEMBER or problem == Code.REBALANCE_IN_PROGRESS:
            self._membership.note(problem)
            problem = Code.COORDINATOR_LOAD_IN_PROGRESS  # it comes to that in the end: the same may succeed later
        if problem:
            self._membership.note(problem)
            raise AnsweredError(problem)


_NO_COMMIT: Final = (requests.NO_OFFSET, "")

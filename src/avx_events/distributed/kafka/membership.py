"""Being a member of a consumer group: which partitions this member has, and until when.

| state | what happens |
|---|---|
| joining | waits for the other members to say what they have, and for the leader to share the partitions out |
| stable | sends signs of life; joins again when the group calls for it, or when this member has given something up |
| lost | the group does not know the member any more, or has not answered for as long as it may: nothing is its own |

What this member has stays its own while it joins again, so that a rebalance stops only what moves.
"""

import asyncio
import logging
from collections.abc import Iterable
from typing import Any, Final, Protocol

from avx_events.core.clock import Clock
from avx_events.core.errors import AvxEventsError, TransportRefusedError
from avx_events.core.tasks import Changes, TaskScope
from avx_events.distributed.kafka import requests
from avx_events.distributed.kafka.cluster import FIRST_PAUSE_S, Cluster, pause_after, wait_about
from avx_events.distributed.kafka.codes import NO_MEMBER, WRONG_COORDINATOR, AnsweredError, Code, check
from avx_events.distributed.kafka.requests import Joined
from avx_events.distributed.kafka.sharing import PROTOCOL, Claim, read_claim, shares, write_claim
from avx_events.distributed.kafka.wire import Connection, Place, Request, WireError

log = logging.getLogger("avx_events")

SHORTEST_SESSION_S: Final = 6.0
LONGEST_SESSION_S: Final = 1800.0
"""What brokers allow unless they are set to allow less or more."""

_SHORTEST_REBALANCE_S: Final = 10.0
_REFUSED_PAUSE_S: Final = 5.0
_LEAVES_WITHIN_S: Final = 1.0


class Holder(Protocol):
    """Who has the partitions."""

    def claims(self) -> Iterable[int]:
        """Return what this member has, or still works on."""
        ...

    def assigned(self, partitions: frozenset[int]) -> None:
        """Have these from now on, and give up all others."""
        ...

    def renewed(self, until: float) -> None:
        """Have what this member has until then, in monotonic seconds, unless told otherwise."""
        ...

    def lost(self) -> None:
        """Have nothing any more: others may have it already."""
        ...


class Membership:
    """One member of one consumer group.

    Attributes:
        generation: Of the group, as the member knows it.
        member_id: What the group calls the member; empty before it has joined.
    """

    def __init__(
        self,
        cluster: Cluster,
        consumer: str,
        topic: str,
        holder: Holder,
        *,
        session_s: float,
        heartbeat_s: float,
        clock: Clock,
    ) -> None:
        """Be no member yet; ``start`` joins.

        Args:
            cluster: Where the group is.
            consumer: What the group is called.
            topic: What its members share.
            holder: Who has this member's share.
            session_s: How long the group waits for a sign of life, as far as the broker allows it.
            heartbeat_s: How often it gets one.
            clock: Time.
        """
        self._cluster = cluster
        self._consumer = consumer
        self._topic = topic
        self._holder = holder
        self._session_s = session_s
        self._heartbeat_s = heartbeat_s
        self._clock = clock
        self.generation = requests.NO_GENERATION
        self.member_id = ""
        self._coordinator: int | None = None
        self._connection: Connection | None = None
        self._connected_to: Place | None = None
        self._is_joining = True
        self._held_until = 0.0
        self._must_join = asyncio.Event()
        self._changes = Changes()
        self._tasks = TaskScope()
        self._introducing = TaskScope()

    @property
    def is_stable(self) -> bool:
        """Whether the member knows its share."""
        return not self._is_joining

    def start(self) -> None:
        """Join, and stay."""
        self._must_join.set()
        self._tasks.spawn(self._run(), name=f"avx-events kafka: member of {self._consumer}")
        self._tasks.spawn(self._beat(), name=f"avx-events kafka: signs of life to {self._consumer}")

    def join_again(self) -> None:
        """Tell the group that this member has less than before."""
        self._must_join.set()

    async def stable(self) -> None:
        """Wait until the member knows its share."""
        while self._is_joining:
            await self._changes.wait()

    async def ask(self, request: Request) -> Any:
        """Return the coordinator's answer to what is answered at once.

        Raises:
            WireError: It is away.
            AnsweredError: There is none now.
            TransportRefusedError: This user may not know.
        """
        if self._coordinator is None:
            answer = await self._cluster.ask_anybody(requests.find_coordinator(self._consumer))
            self._coordinator, _ = requests.coordinator_of(answer)
        try:
            return await self._cluster.ask(self._coordinator, request)
        except WireError:
            self._coordinator = None
            raise

    def note(self, code: int) -> None:
        """Take note of what the coordinator answered to another request of the member."""
        if code in WRONG_COORDINATOR:
            self._coordinator = None
        elif code == Code.UNKNOWN_MEMBER_ID and not self._is_joining:
            self._lose()

    async def stop(self) -> None:
        """Give no more signs of life, and take over nothing more; the group waits for ``leave``."""
        await self._tasks.cancel()
        await self._introducing.finish(grace_s=_LEAVES_WITHIN_S)

    async def leave(self) -> None:
        """Leave the group, so that others need not wait for this member, once it was stopped."""
        if self._connection is not None:
            await self._connection.close()
        if self.member_id and self._coordinator is not None:
            try:
                async with asyncio.timeout(_LEAVES_WITHIN_S):
                    await self.ask(requests.leave(self._consumer, self.member_id))
            except (WireError, AnsweredError, TimeoutError, AvxEventsError) as exc:
                log.warning("%s waits for this member until its time is up: %s", self._consumer, exc)

    # Joining

    async def _run(self) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            await self._must_join.wait()
            self._must_join.clear()
            self._is_joining = True
            try:
                await self._join()
            except TransportRefusedError as exc:
                log.error("%s cannot be joined: %s", self._consumer, exc)  # noqa: TRY400 - it says what to do
                self._must_join.set()
                await asyncio.sleep(_REFUSED_PAUSE_S)
            except (WireError, AnsweredError, AvxEventsError) as exc:
                log.debug("%s is not joined yet: %s", self._consumer, exc)
                self._must_join.set()
                await wait_about(pause_s)
                pause_s = pause_after(pause_s)
                await self._refresh(exc)
            else:
                pause_s = FIRST_PAUSE_S
                self._is_joining = False
                self._changes.tell()

    async def _refresh(self, problem: Exception) -> None:
        if isinstance(problem, AnsweredError) and problem.code not in WRONG_COORDINATOR:
            return
        self._coordinator = None
        try:
            await self._cluster.refresh()
        except (WireError, AvxEventsError) as exc:
            log.debug("%s is away: %s", self._cluster.name, exc)

    async def _join(self) -> None:
        """Join once, and take over what this member is given."""
        connection = await self._own_connection()
        answer = await self._let_in(connection)
        self.member_id, self.generation = answer.member_id, answer.generation
        request = requests.sync(
            self._consumer,
            self.member_id,
            generation=self.generation,
            topic=self._topic,
            shares=self._shares(answer) if answer.is_leader else {},
        )
        sent_at = self._clock.monotonic()
        try:
            share = requests.share_of(await connection.ask(request), self._topic)
        except AnsweredError as exc:
            if exc.code in NO_MEMBER:
                self._forgotten(exc.code)
            raise
        self._renew(sent_at)
        self._holder.assigned(share)

    async def _let_in(self, connection: Connection) -> Joined:
        while True:
            if self.member_id:
                answer = await self._ask_to_join(connection)
            else:
                answer = await self._introduce(connection)
            if answer.code == Code.MEMBER_ID_REQUIRED:
                self.member_id = answer.member_id
            elif answer.code in NO_MEMBER:
                self._forgotten(answer.code)
            elif answer.code == Code.INVALID_SESSION_TIMEOUT and self._has_other_session():
                continue
            elif (
                answer.code and not AnsweredError(answer.code).is_for_now and answer.code != Code.REBALANCE_IN_PROGRESS
            ):
                raise self._cluster.refused(answer.code)
            else:
                check(answer.code)
                return answer

    async def _introduce(self, connection: Connection) -> Joined:
        """Ask for an id, and wait for it whatever happens: the group waits for whoever got one, until it leaves."""
        answered: asyncio.Future[Joined] = asyncio.get_running_loop().create_future()

        async def ask() -> None:
            try:
                answer = await self._ask_to_join(connection)
            except (WireError, AvxEventsError) as exc:
                if not answered.cancelled():
                    answered.set_exception(exc)
                return
            self.member_id = answer.member_id
            if not answered.cancelled():
                answered.set_result(answer)

        self._introducing.spawn(ask(), name=f"avx-events kafka: be known to {self._consumer}")
        return await answered

    async def _ask_to_join(self, connection: Connection) -> Joined:
        claim = Claim(self.generation, tuple(self._holder.claims()))
        request = requests.join(
            self._consumer,
            self.member_id,
            protocol=PROTOCOL,
            topic=self._topic,
            claims=write_claim(claim),
            session_s=self._session_s,
            rebalance_s=self._rebalance_s,
        )
        return requests.joined(await connection.ask(request))

    def _has_other_session(self) -> bool:
        """Take the session timeout that is nearest to what was asked for, among those that brokers allow."""
        allowed = min(max(self._session_s, SHORTEST_SESSION_S), LONGEST_SESSION_S)
        is_other = allowed != self._session_s
        if is_other:
            log.info("%s waits %g s for a dead member, not %g", self._consumer, allowed, self._session_s)
            self._session_s = allowed
        return is_other

    def _shares(self, answer: Joined) -> dict[str, frozenset[int]]:
        claims = {member: read_claim(data) for member, data in answer.members.items()}
        return shares(self._cluster.leaders(self._topic), claims)

    async def _own_connection(self) -> Connection:
        """Return the connection on which the group lets the member wait."""
        if self._coordinator is None:
            answer = await self._cluster.ask_anybody(requests.find_coordinator(self._consumer))
            self._coordinator, _ = requests.coordinator_of(answer)
        place = self._cluster.place_of(self._coordinator)
        connection = self._connection
        if connection is not None and connection.is_connected and self._connected_to == place:
            return connection
        if connection is not None:
            await connection.close()
        timeout_s = self._rebalance_s + self._cluster.timeout_s
        self._connection = await self._cluster.connect(place, timeout_s=timeout_s)
        self._connected_to = place
        return self._connection

    @property
    def _rebalance_s(self) -> float:
        return max(self._session_s, _SHORTEST_REBALANCE_S)

    # Staying

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self._heartbeat_s)
            if not self.member_id or self.generation == requests.NO_GENERATION:
                continue
            try:
                await self._beat_once()
            except (WireError, AnsweredError, TimeoutError, AvxEventsError) as exc:
                log.debug("%s got no sign of life: %s", self._consumer, exc)
            if self._clock.monotonic() >= self._held_until and not self._is_joining:
                log.warning("%s got no sign of life for too long: others may have its partitions now", self._consumer)
                self._lose()

    async def _beat_once(self) -> None:
        sent_at, generation = self._clock.monotonic(), self.generation
        request = requests.heartbeat(self._consumer, self.member_id, generation=generation)
        async with asyncio.timeout(self._session_s):
            code = (await self.ask(request)).error_code
        if code in {Code.NONE, Code.REBALANCE_IN_PROGRESS}:
            self._renew(sent_at)
        if self._is_joining or generation != self.generation:
            return
        if code == Code.REBALANCE_IN_PROGRESS:
            self._must_join.set()
        elif code in NO_MEMBER:
            self._forgotten(code)
            self._is_joining = True
            self._must_join.set()
        else:
            self.note(code)

    def _renew(self, sent_at: float) -> None:
        self._held_until = max(self._held_until, sent_at + self._session_s)
        self._holder.renewed(self._held_until)

    def _lose(self) -> None:
        self._is_joining = True
        self.generation = requests.NO_GENERATION
        self._holder.lost()
        self._must_join.set()

    def _forgotten(self, code: int) -> None:
        """Be new to the group, which does not know this member any more."""
        if self.generation != requests.NO_GENERATION:
            log.warning("%s: %s; what this member had may have gone to others", self._consumer, AnsweredError(code))
        if code == Code.UNKNOWN_MEMBER_ID:
            self.member_id = ""
        self.generation = requests.NO_GENERATION
        self._holder.lost()

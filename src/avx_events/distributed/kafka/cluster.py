"""A cluster of brokers: who leads what, and a connection to each for whatever is answered at once."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, TypeVar

from avx_events.core.clock import Clock
from avx_events.core.errors import AvxEventsError, TransportRefusedError, TransportUnavailableError
from avx_events.distributed.kafka import requests
from avx_events.distributed.kafka.codes import AnsweredError, Code, check, described
from avx_events.distributed.kafka.requests import ClusterState
from avx_events.distributed.kafka.wire import Connection, Place, Request, Servers, WireError

log = logging.getLogger("avx_events")

AnswerT = TypeVar("AnswerT")

FIRST_PAUSE_S: Final = 0.02
LONGEST_PAUSE_S: Final = 1.0

_REPLICAS: Final = 3
_LOOKS_FOR_PARTITIONS_EVERY_S: Final = 10.0


def pause_after(pause_s: float) -> float:
    """Return how long to wait the next time, after ``pause_s`` was in vain."""
    return min(pause_s * 2, LONGEST_PAUSE_S)


async def wait_about(pause_s: float) -> None:
    """Wait about so long: those who wait for the same do not come back at once."""
    await asyncio.sleep(pause_s * (0.5 + random.random() / 2))  # noqa: S311 - spreads load


class Cluster:
    """What one bus knows of its cluster; connections for anything that takes long are the caller's own.

    Attributes:
        on_change: Called when what is known may have changed, whoever asked.
    """

    def __init__(self, servers: Servers, *, timeout_s: float, clock: Clock) -> None:
        """Know nothing yet; ``refresh`` asks.

        Args:
            servers: Who is asked first.
            timeout_s: How many seconds the cluster may be away before a call fails.
            clock: Time.
        """
        self.servers = servers
        self.timeout_s = timeout_s
        self._clock = clock
        self._state = ClusterState({}, -1, {}, {})
        self.on_change: set[Callable[[], None]] = set()
        self._topics: set[str] = set()
        self._plans: dict[str, tuple[int, dict[str, object]]] = {}
        self._connections: dict[Place, Connection] = {}
        self._connecting: dict[Place, asyncio.Lock] = {}
        self._refreshing: asyncio.Lock = asyncio.Lock()
        self._refreshed = 0
        self._is_closed = False

    @property
    def name(self) -> str:
        """What errors call it."""
        return self.servers.name

    # Who is who

    def leaders(self, topic: str) -> dict[int, int]:
        """Return the leader of each partition of ``topic``, -1 where there is none; nothing where nothing is known."""
        return self._state.leaders.get(topic, {})

    def place_of(self, node: int) -> Place:
        """Return where a broker is.

        Raises:
            WireError: Nobody knows.
        """
        try:
            return self._state.brokers[node]
        except KeyError as exc:
            raise WireError(f"broker {node} is not known", is_sent=False) from exc

    @property
    def brokers(self) -> int:
        """How many there are."""
        return len(self._state.brokers)

    @property
    def nodes(self) -> list[int]:
        """Which they are, ascending."""
        return sorted(self._state.brokers)

    async def refresh(self, topic: str | None = None) -> None:
        """Ask anew who leads what, of ``topic`` and those that were asked for before.

        Raises:
            WireError: No broker answers.
            TransportRefusedError: One refuses.
        """
        if topic is not None:
            self._topics.add(topic)
        before = self._refreshed
        async with self._refreshing:
            if topic is not None or before == self._refreshed:  # else somebody else has asked while we waited
                await self._refresh()

    async def _refresh(self) -> None:
        asked = requests.metadata(sorted(self._topics))
        known = list(self._state.brokers.values())
        random.shuffle(known)
        problem: WireError | None = None
        for place in dict.fromkeys([*known, *self.servers.places]):
            try:
                answer = await self.ask_at(place, asked)
            except WireError as exc:
                problem = exc
                continue
            state = requests.state_of(answer)
            if state.brokers:
                self._state = state
                self._refreshed += 1
                for look in list(self.on_change):
                    look()
                return
        raise problem or WireError("no broker knows of any", is_sent=False)

    # Asking

    async def ask(self, node: int, request: Request) -> Any:
        """Return the answer of a broker to what is answered at once.

        Raises:
            WireError: It is away.
            TransportRefusedError: It refuses to talk.
        """
        return await self.ask_at(self.place_of(node), request)

    async def ask_anybody(self, request: Request) -> Any:
        """Return the answer of any broker.

        Raises:
            WireError: All are away.
            TransportRefusedError: One refuses to talk.
        """
        if not self._state.brokers:
            await self.refresh()
        return await self.ask(random.choice(list(self._state.brokers)), request)  # noqa: S311 - spreads load

    async def ask_controller(self, request: Request) -> Any:
        """Return the answer of the broker that makes topics.

        Raises:
            WireError: It is away.
            TransportRefusedError: It refuses to talk.
        """
        return await self.ask(self._state.controller, request)

    async def ask_at(self, place: Place, request: Request) -> Any:
        """Return the answer of the broker at ``place``.

        Raises:
            WireError: It is away.
            TransportRefusedError: It refuses to talk.
        """
        async with self._connecting.setdefault(place, asyncio.Lock()):
            connection = self._connections.get(place)
            if connection is None or not connection.is_connected:
                connection = self._connections[place] = await self.connect(place)
        return await connection.ask(request)

    async def connect(self, place: Place, *, timeout_s: float | None = None) -> Connection:
        """Return a new connection, which is the caller's to close.

        Raises:
            WireError: The broker is away.
            TransportRefusedError: It refuses to talk.
        """
        if self._is_closed:
            raise WireError("it was closed", is_sent=False)
        return await self.servers.connect(place, timeout_s=self.timeout_s if timeout_s is None else timeout_s)

    async def until_done(self, attempt: Callable[[], Awaitable[AnswerT]]) -> AnswerT:
        """Return what ``attempt`` gives, which is called again until the cluster has been away for ``timeout_s``.

        Raises:
            TransportUnavailableError: It was.
            TransportRefusedError: It refuses.
        """
        deadline = self._clock.monotonic() + self.timeout_s
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                async with asyncio.timeout(max(deadline - self._clock.monotonic(), 0.001)):
                    return await attempt()
            except (WireError, AnsweredError, TimeoutError) as exc:
                problem = str(exc) or f"no answer within {self.timeout_s:g} s"
                if isinstance(exc, AnsweredError) and not exc.is_for_now:
                    raise self.refused(exc.code) from exc
                if self._clock.monotonic() + pause_s >= deadline:
                    raise TransportUnavailableError(self.name, problem) from exc
            await wait_about(pause_s)
            pause_s = pause_after(pause_s)
            try:
                async with asyncio.timeout(self.timeout_s):
                    await self.refresh()
            except (WireError, TimeoutError) as exc:
                log.debug("%s is away: %s", self.name, exc)

    def refused(self, code: int) -> TransportRefusedError:
        """Return the error of a cluster that will not do what it was asked."""
        remedy = "give the user of the URL the permission, or see what else uses these names"
        return TransportRefusedError(self.name, described(code), remedy=remedy)

    # Topics

    async def has_topic(self, topic: str) -> bool:
        """Tell whether there is such a topic, and remember its leaders.

        Raises:
            TransportUnavailableError: The cluster is away.
            TransportRefusedError: It refuses.
        """
        await self.until_done(lambda: self.refresh(topic))
        problem = self._state.problems.get(topic, Code.NONE)
        if problem and not AnsweredError(problem).is_for_now:
            remedy = "allow the user of the URL to describe, read and write it, and to make it where it is not there"
            raise TransportRefusedError(self.name, f"topic {topic!r}: {described(problem)}", remedy=remedy)
        return bool(self.leaders(topic))

    def plan_topic(self, topic: str, *, partitions: int, settings: dict[str, object]) -> None:
        """Say how a topic is to be made where it is not there."""
        self._plans[topic] = (partitions, settings)

    async def have_topic(self, topic: str) -> None:
        """Have a topic that was planned, which others may make at the same time.

        Raises:
            TransportUnavailableError: The cluster is away.
            TransportRefusedError: It is not there, and not to be made by this user.
        """
        if await self.has_topic(topic):
            return
        partitions, settings = self._plans[topic]
        replicas = min(_REPLICAS, self.brokers)
        asked = requests.create_topic(
            topic, partitions=partitions, replicas=replicas, settings=settings, timeout_s=self.timeout_s
        )

        async def attempt() -> None:
            code, message = requests.created_code(await self.ask_controller(asked))
            if code == Code.TOPIC_ALREADY_EXISTS:
                return
            if code and not AnsweredError(code).is_for_now:
                problem = f"topic {topic!r} is not there and cannot be made: {message or described(code)}"
                remedy = f"make it, with {partitions} partitions or as many as it is to have, or allow this user to"
                raise TransportRefusedError(self.name, problem, remedy=remedy)
            check(code)

        await self.until_done(attempt)
        await self.until_done(lambda: self._see(topic))

    async def new_partitions(self, topic: str, known: Iterable[int]) -> set[int]:
        """Wait until ``topic`` has partitions that are not ``known``, and return these."""
        known = set(known)
        while True:
            await asyncio.sleep(_LOOKS_FOR_PARTITIONS_EVERY_S)
            try:
                await self.refresh(topic)
            except (WireError, AvxEventsError) as exc:
                log.debug("%s does not tell of new partitions: %s", self.name, exc)
            new = self.leaders(topic).keys() - known
            if new:
                return new

    async def _see(self, topic: str) -> None:
        await self.refresh(topic)
        leaders = self.leaders(topic)
        if not leaders or -1 in leaders.values():
            raise AnsweredError(Code.LEADER_NOT_AVAILABLE)

    async def offsets(self, topic: str, partitions: Iterable[int], at: int) -> dict[int, int]:
        """Return the first or the next offset of ``partitions``: ``requests.EARLIEST`` or ``LATEST``.

        Raises:
            TransportUnavailableError: The cluster is away.
            TransportRefusedError: It refuses.
        """
        found: dict[int, int] = {}
        wanted = set(partitions)

        async def attempt() -> None:
            by_node: dict[int, list[int]] = {}
            for partition in sorted(wanted - found.keys()):
                by_node.setdefault(self.leaders(topic).get(partition, -1), []).append(partition)
            for node, asked in by_node.items():
                answer = await self.ask(node, requests.list_offsets(topic, asked, at))
                for partition, (code, offset) in requests.listed(answer).items():
                    check(code)
                    found[partition] = offset

        await self.until_done(attempt)
        return found

    async def close(self) -> None:
        """Leave no connection."""
        self._is_closed = True
        connections, self._connections = self._connections, {}
        for connection in connections.values():
            await connection.close()

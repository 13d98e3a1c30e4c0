"""Looks at a namespace in Kafka and at the settings of its topics, and changes nothing.

Nobody is asked who coordinates a group, since a broker makes its topic of offsets to answer that: each is asked which
groups it keeps.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, TypeVar
from urllib.parse import unquote

import msgspec

from avx_events.bus.remote.inspection import Finding, GroupStatus, MemberStatus
from avx_events.bus.remote.ports import TransportOptions
from avx_events.core.clock import Clock
from avx_events.distributed.kafka import durability, progress, requests
from avx_events.distributed.kafka.cluster import Cluster
from avx_events.distributed.kafka.codes import Code, check
from avx_events.distributed.kafka.durability import OFFSETS, Settings, Topic
from avx_events.distributed.kafka.names import Names
from avx_events.distributed.kafka.progress import Noted
from avx_events.distributed.kafka.requests import Copies, Fetched, Record
from avx_events.distributed.kafka.wire import Request, Servers

AnswerT = TypeVar("AnswerT")

_ONE_BATCH_BYTES: Final = 1
_WAIT_S: Final = 0.001
_PIECES: Final = 3  # the namespace, the group, the handler, which alone may have dots
_REFUSED: Final = frozenset({29, 31})  # https://kafka.apache.org/protocol.html#protocol_error_codes: authorization


class Log(msgspec.Struct, frozen=True):
    """The log as it is now: the first offset that is kept and the next one, by partition."""

    first: Mapping[int, int]
    end: Mapping[int, int]


class KafkaInspection:
    """One look at a namespace, over connections of its own."""

    def __init__(self, url: str, options: TransportOptions, *, clock: Clock) -> None:
        """Connect to nobody yet; ``open`` does.

        Raises:
            InvalidArgumentError: The URL or an option is none of Kafka's.
        """
        self._cluster = Cluster(Servers(url, options.client), timeout_s=options.timeout_s, clock=clock)
        self._namespace = options.namespace
        self._names = Names(options.namespace)
        self._clock = clock

    @property
    def name(self) -> str:
        """What errors call the cluster."""
        return self._cluster.name

    async def open(self) -> None:
        """Reach the cluster.

        Raises:
            TransportUnavailableError: It does not answer.
            TransportRefusedError: It asks for other credentials.
        """
        await self._cluster.until_done(self._cluster.refresh)

    async def groups(self) -> Sequence[GroupStatus]:
        """Return the handlers of all groups; see ``Inspection``."""
        topic = self._names.log
        if not await self._cluster.has_topic(topic):
            return []
        partitions = sorted(self._cluster.leaders(topic))
        log = Log(
            first=await self._cluster.offsets(topic, partitions, requests.EARLIEST),
            end=await self._cluster.offsets(topic, partitions, requests.LATEST),
        )
        coordinators = await self._coordinators()
        return [await self._status(consumer, coordinators[consumer], log) for consumer in sorted(coordinators)]

    async def findings(self) -> Sequence[Finding]:
        """Return what the settings of the topics mean; see ``Inspection``."""
        names = (self._names.log, self._names.letters, OFFSETS)
        copies = await self._copies(names)
        found = durability.findings_of_cluster(self._cluster.brokers)
        topics = {name: Topic(name, copies[name], await self._settings_of(name)) for name in names if copies.get(name)}
        log, letters, offsets = (topics.get(name) for name in names)
        if log is None:
            return [*found, durability.no_log(self._names.log)]
        found += durability.findings_of_log(log)
        if letters is not None:
            found += durability.findings_of_letters(letters)
        if offsets is not None:
            found += durability.findings_of_offsets(offsets, await self._settings_of_a_broker(), log)
        return found

    async def close(self) -> None:
        """Leave no connection."""
        await self._cluster.close()

    async def _copies(self, topics: Sequence[str]) -> dict[str, list[Copies]]:
        asked = requests.metadata(topics)

        async def attempt() -> dict[str, list[Copies]]:
            return requests.copies_of(await self._cluster.ask_anybody(asked))

        return await self._cluster.until_done(attempt)

    async def _settings_of(self, topic: str) -> Settings | None:
        asked = requests.topic_settings(topic)

        async def attempt() -> Settings | None:
            return _settings_in(await self._cluster.ask_anybody(asked))

        return await self._cluster.until_done(attempt)

    async def _settings_of_a_broker(self) -> Settings | None:
        async def attempt() -> Settings | None:
            node = self._cluster.nodes[0]
            return _settings_in(await self._cluster.ask(node, requests.broker_settings(node)))

        return await self._cluster.until_done(attempt)

    async def _coordinators(self) -> dict[str, int]:
        """Return the consumer groups of the namespace, and which broker keeps each."""

        async def attempt() -> dict[str, int]:
            found: dict[str, int] = {}
            for node in self._cluster.nodes:
                names = requests.listed_groups(await self._cluster.ask(node, requests.list_groups()))
                found |= {name: node for name in names if self._is_ours(name)}
            return found

        return await self._cluster.until_done(attempt)

    def _is_ours(self, consumer: str) -> bool:
        pieces = consumer.split(".", _PIECES - 1)
        return len(pieces) == _PIECES and pieces[0] == self._namespace

    async def _status(self, consumer: str, coordinator: int, log: Log) -> GroupStatus:
        topic = self._names.log
        shares_in = partial(requests.shares_in, topic=topic)
        shares = await self._answered(coordinator, requests.describe_group(consumer), shares_in)
        asked = requests.committed(consumer, topic, log.end)
        commits = await self._answered(coordinator, asked, requests.commits_of)
        _, group, handler = consumer.split(".", _PIECES - 1)
        notes = {partition: place_of(commits.get(partition), log, partition) for partition in log.end}
        behind = {partition: count_behind(noted, log.end[partition]) for partition, noted in notes.items()}
        total = sum(behind.values())
        return GroupStatus(
            group=unquote(group),
            handler=unquote(handler),
            members=tuple(
                MemberStatus(name=member, lanes=tuple(sorted(lanes)), in_flight=None, idle_s=None)
                for member, lanes in sorted(shares.items())
            ),
            lag_events=total,
            lag_seconds=max([0.0, *[await self._age_s(at, notes[at].offset) for at, count in behind.items() if count]]),
            in_flight=None if total else 0,
        )

    async def _age_s(self, partition: int, offset: int) -> float:
        """Return how many seconds ago what is at ``offset`` was written, by the clock of this machine."""
        asked = requests.fetch(self._names.log, {partition: offset}, wait_s=_WAIT_S, most_bytes=_ONE_BATCH_BYTES)

        async def attempt() -> list[Record]:
            leader = self._cluster.leaders(self._names.log).get(partition, -1)
            return _records_in(requests.fetched(await self._cluster.ask(leader, asked))[partition])

        records = await self._cluster.until_done(attempt)
        written_ms = next((record.timestamp_ms for record in records if record.offset >= offset), None)
        return 0.0 if written_ms is None else max(self._clock.time_ns() / 1e9 - written_ms / 1000, 0.0)

    async def _answered(self, node: int, asked: Request, read: Callable[[Any], AnswerT]) -> AnswerT:
        """Return what a broker's answer says, which is asked again as long as it is not there.

        Raises:
            TransportUnavailableError: The cluster is away.
            TransportRefusedError: It refuses.
        """

        async def attempt() -> AnswerT:
            return read(await self._cluster.ask(node, asked))

        return await self._cluster.until_done(attempt)


async def connect(url: str, options: TransportOptions, *, clock: Clock) -> KafkaInspection:
    """Return what has reached its cluster.

    Raises:
        InvalidArgumentError: The URL or an option is none of Kafka's.
        TransportUnavailableError: The cluster does not answer.
        TransportRefusedError: It asks for other credentials.
    """
    inspection = KafkaInspection(url, options, clock=clock)
    try:
        await inspection.open()
    except BaseException:
        await inspection.close()
        raise
    return inspection


def place_of(commit: tuple[int, str] | None, log: Log, partition: int) -> Noted:
    """Return how far a handler is in a partition, with what has been deleted since left out."""
    first, end = log.first[partition], log.end[partition]
    offset, text = commit or (requests.NO_OFFSET, "")
    if not first <= offset <= end:  # it is new, or deleted up to there, or made anew: what is kept is before it
        return Noted(first)
    return progress.read(offset, text)


def count_behind(noted: Noted, end: int) -> int:
    """Return how many events are not done; the marks of other publishers' transactions count as such."""
    return end - noted.offset - sum(noted.offset <= offset < end for offset in noted.done)


def _records_in(fetched: Fetched) -> list[Record]:
    if fetched.code == Code.OFFSET_OUT_OF_RANGE:  # deleted meanwhile
        return []
    check(fetched.code)
    return [record for _, records in requests.records_in(fetched.data) for record in records]


def _settings_in(answer: Any) -> Settings | None:
    """Return settings; None where this user may not know them."""
    code = requests.settings_code(answer)
    if code in _REFUSED:
        return None
    check(code)
    return requests.settings_of(answer)

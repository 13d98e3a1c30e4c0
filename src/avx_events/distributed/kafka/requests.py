"""What brokers are asked, and what their answers say."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias

import msgspec

from avx_events.distributed.kafka import aiokafka_modules as api
from avx_events.distributed.kafka.codes import AnsweredError, Code, check
from avx_events.distributed.kafka.wire import Place, Request

Headers: TypeAlias = Sequence[tuple[str, bytes | None]]

LATEST: Final = -1
EARLIEST: Final = -2
NO_OFFSET: Final = -1
NO_GENERATION: Final = -1

_NO_LIMIT: Final = 2**31 - 1
_MAGIC: Final = 2
_TOPIC_RESOURCE: Final = 2
_BROKER_RESOURCE: Final = 4
_GROUP: Final = 0
_ALL_REPLICAS: Final = -1


class Record(msgspec.Struct, frozen=True, gc=False):
    """What is kept in a partition.

    Attributes:
        offset: Its place there.
        timestamp_ms: When it was written, in Unix milliseconds: by the clock that its topic says.
        key: What the partition was chosen by.
        value: None is a tombstone.
        headers: Beside it.
    """

    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers


class Fetched(msgspec.Struct, frozen=True):
    """What a partition had from an offset on.

    Attributes:
        code: Why it had nothing, or 0.
        end: The offset of what is written next.
        start: The first offset that is kept.
        data: Batches of records, the last one perhaps cut off.
    """

    code: int
    end: int
    start: int
    data: bytes


class ClusterState(msgspec.Struct, frozen=True):
    """What a broker knows of its cluster.

    Attributes:
        brokers: Where each is.
        controller: Which of them makes topics.
        leaders: Of each partition of the topics that were asked for; -1 where there is none now.
        problems: Why a topic that was asked for is not told of.
    """

    brokers: dict[int, Place]
    controller: int
    leaders: dict[str, dict[int, int]]
    problems: dict[str, int]


class Copies(msgspec.Struct, frozen=True):
    """Where a partition is.

    Attributes:
        leader: The broker that leads it; -1 where there is none now.
        replicas: All brokers that are to have it.
        in_sync: Those of them that have all of it.
    """

    leader: int
    replicas: tuple[int, ...]
    in_sync: tuple[int, ...]


class Joined(msgspec.Struct, frozen=True):
    """How a group answers to one that joins.

    Attributes:
        code: Why it did not let it in, or 0.
        member_id: What it calls the member.
        generation: Which time round this is.
        is_leader: Whether the member has to share the partitions out.
        members: What each member said of itself; only the leader is told.
    """

    code: int
    member_id: str
    generation: int
    is_leader: bool
    members: dict[str, bytes]


def metadata(topics: Sequence[str]) -> Request:
    """Ask for the state of the cluster and of ``topics``, which are not made."""
    return api.metadata.MetadataRequest(list(topics), allow_auto_topic_creation=False)


def state_of(answer: Any) -> ClusterState:
    """Return what an answer to ``metadata`` says."""
    brokers = {node: (host, port) for node, host, port, *_ in answer.brokers}
    leaders = {
        name: {partition: leader for _, partition, leader, *_ in partitions}
        for code, name, _, partitions in answer.topics
        if code in {Code.NONE, Code.LEADER_NOT_AVAILABLE}
    }
    problems = {name: code for code, name, *_ in answer.topics if code}
    return ClusterState(brokers, answer.controller_id, leaders, problems)


def copies_of(answer: Any) -> dict[str, list[Copies]]:
    """Return where the partitions of each topic are that an answer to ``metadata`` knows."""
    return {
        name: [Copies(leader, tuple(replicas), tuple(in_sync)) for _, _, leader, replicas, in_sync, *_ in partitions]
        for code, name, _, partitions in answer.topics
        if code in {Code.NONE, Code.LEADER_NOT_AVAILABLE}
    }


def create_topic(
    topic: str, *, partitions: int, replicas: int, settings: Mapping[str, object], timeout_s: float
) -> Request:
    """Ask the controller to make ``topic``."""
    texts = [(name, str(value)) for name, value in settings.items()]
    return api.admin.CreateTopicsRequest([(topic, partitions, replicas, [], texts)], int(timeout_s * 1000), False)  # noqa: FBT003


def created_code(answer: Any) -> tuple[int, str]:
    """Return why a topic was not made, or 0, and in the broker's words."""
    ((_, code, message),) = answer.topic_errors
    return code, message or ""


def topic_settings(topic: str) -> Request:
    """Ask for the settings of ``topic``."""
    return api.admin.DescribeConfigsRequest([(_TOPIC_RESOURCE, topic, None)])


def broker_settings(node: int) -> Request:
    """Ask a broker for its own settings."""
    return api.admin.DescribeConfigsRequest([(_BROKER_RESOURCE, str(node), None)])


def settings_code(answer: Any) -> int:
    """Return why a broker does not tell settings, or 0."""
    ((code, *_),) = answer.resources
    return int(code)


def settings_of(answer: Any) -> dict[str, str]:
    """Return the settings that an answer to ``topic_settings`` or ``broker_settings`` gives."""
    return {name: value for resource in answer.resources for name, value, *_ in resource[4]}


# Publishing


def new_producer() -> Request:
    """Ask for an id under which batches are numbered."""
    return api.transaction.InitProducerIdRequest(None, 0)


def producer_of(answer: Any) -> tuple[int, int]:
    """Return the id and its epoch.

    Raises:
        AnsweredError: There is none.
    """
    check(answer.error_code)
    return answer.producer_id, answer.producer_epoch


def batch(
    records: Iterable[tuple[bytes | None, bytes | None, Headers]], *, producer: tuple[int, int], sequence: int
) -> bytes:
    """Return records as they go into a partition.

    Args:
        records: Key, value and headers of each.
        producer: Its id and epoch.
        sequence: The number of the first of them in this partition, for this producer.
    """
    producer_id, epoch = producer
    builder = api.BatchBuilder(_MAGIC, 0, 0, producer_id, epoch, sequence, _NO_LIMIT)
    for number, (key, value, headers) in enumerate(records):
        builder.append(number, None, key, value, list(headers))
    return bytes(builder.build())


def produce(batches: Mapping[tuple[str, int], bytes], *, timeout_s: float) -> Request:
    """Ask a broker to keep one batch for each partition, and to answer when all its replicas have them."""
    return api.produce.ProduceRequest(None, _ALL_REPLICAS, int(timeout_s * 1000), _by_topic(batches.items()))


def produced_codes(answer: Any) -> dict[tuple[str, int], int]:
    """Return for each partition why its batch was not kept, or 0."""
    return {(topic, partition): code for topic, partitions in answer.topics for partition, code, *_ in partitions}


# Reading


def fetch(topic: str, offsets: Mapping[int, int], *, wait_s: float, most_bytes: int) -> Request:
    """Ask for what the partitions of ``topic`` have from ``offsets`` on, within ``wait_s`` where they have nothing."""
    partitions = [(partition, offset, most_bytes) for partition, offset in offsets.items()]
    return api.fetch.FetchRequest(int(wait_s * 1000), 1, most_bytes, 0, [(topic, partitions)])


def fetched(answer: Any) -> dict[int, Fetched]:
    """Return what each partition had.

    Raises:
        AnsweredError: The request itself is refused.
    """
    check(answer.error_code)
    found: dict[int, Fetched] = {}
    for _, partitions in answer.topics:
        for partition, code, end, _, start, *_, data in partitions:
            found[partition] = Fetched(code, end, start, data or b"")
    return found


def records_in(data: bytes) -> Iterator[tuple[int, list[Record]]]:
    """Give the batches in ``data``: the offset after each, and its records, which may begin before what was asked for.

    What is cut off at the end is left out, and so are the marks of transactions.

    Raises:
        AnsweredError: A batch is damaged, or packed in a way that is not known here.
    """
    batches = api.Batches(data)
    while batches.has_next():
        found = batches.next_batch()
        if found.is_control_batch:
            yield found.next_offset, []
            continue
        try:
            records = [
                Record(record.offset, record.timestamp, record.key, record.value, record.headers) for record in found
            ]
        except (api.errors.KafkaError, ValueError) as exc:
            raise AnsweredError(Code.CORRUPT_MESSAGE, str(exc)) from exc
        yield found.next_offset, records


def list_offsets(topic: str, partitions: Iterable[int], at: int) -> Request:
    """Ask for the first or the next offset of partitions: ``EARLIEST`` or ``LATEST``."""
    return api.offset.OffsetRequest(-1, 0, [(topic, [(partition, at) for partition in partitions])])


def listed(answer: Any) -> dict[int, tuple[int, int]]:
    """Return a code and an offset for each partition."""
    return {partition: (code, offset) for _, partitions in answer.topics for partition, code, _, offset in partitions}


# Groups


def find_coordinator(consumer: str) -> Request:
    """Ask which broker keeps the consumer group."""
    return api.coordination.FindCoordinatorRequest(consumer, _GROUP)


def coordinator_of(answer: Any) -> tuple[int, Place]:
    """Return which broker it is, and where.

    Raises:
        AnsweredError: There is none.
    """
    check(answer.error_code)
    return answer.coordinator_id, (answer.host, answer.port)


def committed(consumer: str, topic: str, partitions: Iterable[int]) -> Request:
    """Ask how far a consumer group is."""
    return api.commit.OffsetFetchRequest(consumer, [(topic, list(partitions))])


def commits_of(answer: Any) -> dict[int, tuple[int, str]]:
    """Return the offset and the metadata of each partition; ``NO_OFFSET`` where the group has none.

    Raises:
        AnsweredError: It is not told.
    """
    check(answer.error_code)
    found: dict[int, tuple[int, str]] = {}
    for _, partitions in answer.topics:
        for partition, offset, text, code in partitions:
            if code != Code.UNKNOWN_TOPIC_OR_PARTITION:
                check(code)
            found[partition] = (offset, text or "")
    return found


def commit(
    consumer: str, topic: str, commits: Mapping[int, tuple[int, str]], *, generation: int, member_id: str
) -> Request:
    """Ask to keep how far a consumer group is: an offset and metadata for each partition."""
    partitions = [(partition, offset, text) for partition, (offset, text) in commits.items()]
    return api.commit.OffsetCommitRequest(consumer, generation, member_id, -1, [(topic, partitions)])


def commit_codes(answer: Any) -> dict[int, int]:
    """Return for each partition why it was not kept, or 0."""
    return {partition: code for _, partitions in answer.topics for partition, code in partitions}


def join(
    consumer: str, member_id: str, *, protocol: str, topic: str, claims: bytes, session_s: float, rebalance_s: float
) -> Request:
    """Ask to be a member of a consumer group, or to go on as one with other claims."""
    described = api.consumer.METADATA(0, [topic], claims).encode()
    return api.group.JoinGroupRequest(
        consumer,
        int(session_s * 1000),
        int(rebalance_s * 1000),
        member_id,
        None,
        api.consumer.PROTOCOL_TYPE,
        [(protocol, described)],
    )


def joined(answer: Any) -> Joined:
    """Return how the group answered."""
    members = {member[0]: api.consumer.METADATA.decode(member[-1]).user_data or b"" for member in answer.members}
    is_leader = bool(answer.member_id) and answer.leader_id == answer.member_id
    return Joined(answer.error_code, answer.member_id, answer.generation_id, is_leader, members)


def sync(consumer: str, member_id: str, *, generation: int, topic: str, shares: Mapping[str, Iterable[int]]) -> Request:
    """Ask for the member's share of the partitions; the leader says the shares of all."""
    encoded = [
        (member, api.consumer.ASSIGNMENT(0, [(topic, sorted(partitions))], b"").encode())
        for member, partitions in shares.items()
    ]
    return api.group.SyncGroupRequest(consumer, generation, member_id, None, encoded)


def share_of(answer: Any, topic: str) -> frozenset[int]:
    """Return the partitions of ``topic`` in a member's share.

    Raises:
        AnsweredError: It got none, and has to join again.
    """
    check(answer.error_code)
    return _partitions_in(answer.member_assignment, topic)


def list_groups() -> Request:
    """Ask a broker which consumer groups it keeps."""
    return api.admin.ListGroupsRequest()


def listed_groups(answer: Any) -> list[str]:
    """Return what they are called.

    Raises:
        AnsweredError: It is not told.
    """
    check(answer.error_code)
    return [name for name, *_ in answer.groups]


def describe_group(consumer: str) -> Request:
    """Ask who the members of a consumer group are; aiokafka can read of one alone."""
    return api.admin.DescribeGroupsRequest([consumer])


def shares_in(answer: Any, topic: str) -> dict[str, frozenset[int]]:
    """Return the partitions of ``topic`` in each member's share; none while they are being shared out.

    Raises:
        AnsweredError: It is not told.
    """
    ((code, _, _, kind, _, members),) = answer.groups
    check(code)
    is_read = kind == api.consumer.PROTOCOL_TYPE  # other programs have groups of their own kind
    return {member: _partitions_in(assignment if is_read else b"", topic) for member, *_, assignment in members}


def heartbeat(consumer: str, member_id: str, *, generation: int) -> Request:
    """Ask to stay a member."""
    return api.group.HeartbeatRequest(consumer, generation, member_id)


def leave(consumer: str, member_id: str) -> Request:
    """Ask to be a member no more."""
    return api.group.LeaveGroupRequest(consumer, member_id)


def _partitions_in(assignment: bytes, topic: str) -> frozenset[int]:
    if not assignment:
        return frozenset()
    assigned = api.consumer.ASSIGNMENT.decode(assignment).assignment
    return frozenset(partition for name, partitions in assigned if name == topic for partition in partitions)


def _by_topic(items: Iterable[tuple[tuple[str, int], bytes]]) -> list[tuple[str, list[tuple[int, bytes]]]]:
    found: dict[str, list[tuple[int, bytes]]] = {}
    for (topic, partition), value in items:
        found.setdefault(topic, []).append((partition, value))
    return list(found.items())

"""What the entry points of brokers name: each imports its client library when it is first used."""

from avx_events.bus.dead_letters import DeadLetterStore
from avx_events.bus.remote.inspection import Inspection
from avx_events.bus.remote.ports import Transport, TransportOptions
from avx_events.core.clock import Clock
from avx_events.core.errors import MissingExtraError


async def redis(url: str, options: TransportOptions, *, clock: Clock) -> Transport:
    """Return a transport on Redis Streams.

    Raises:
        MissingExtraError: The client library is not installed.
        InvalidArgumentError: The URL is none of Redis's.
        TransportUnavailableError: The server does not answer.
        TransportRefusedError: It asks for a password, or the namespace has another layout.
        PartitionsMismatchError: The namespace has another number of lanes.
    """
    try:
        from avx_events.distributed.redis.transport import connect  # noqa: PLC0415 - an extra
    except ImportError as exc:
        raise MissingExtraError("RedisEventBus", "redis") from exc
    return await connect(url, options, clock=clock)


async def redis_dead_letters(url: str, *, clock: Clock) -> DeadLetterStore:
    """Return the dead letters of a namespace in Redis: ``?namespace=avx`` of the URL.

    Raises:
        MissingExtraError: The client library is not installed.
        InvalidArgumentError: The URL is none of Redis's, or an option none that a bus could have.
        TransportUnavailableError: The server does not answer.
        TransportRefusedError: It asks for a password, or the namespace has another layout.
    """
    try:
        from avx_events.distributed.redis.dead_letters import connect  # noqa: PLC0415 - an extra
    except ImportError as exc:
        raise MissingExtraError("DeadLetterQueue.connect", "redis") from exc
    return await connect(url, clock=clock)


async def nats(url: str, options: TransportOptions, *, clock: Clock) -> Transport:
    """Return a transport on NATS JetStream.

    Raises:
        MissingExtraError: The client library is not installed.
        InvalidArgumentError: The URL is none of NATS's.
        TransportUnavailableError: The server does not answer.
        TransportRefusedError: It asks for credentials, or the namespace has another layout.
        PartitionsMismatchError: The namespace has another number of lanes.
    """
    try:
        from avx_events.distributed.nats.transport import connect  # noqa: PLC0415 - an extra
    except ImportError as exc:
        raise MissingExtraError("NatsEventBus", "nats") from exc
    return await connect(url, options, clock=clock)


async def nats_dead_letters(url: str, *, clock: Clock) -> DeadLetterStore:
    """Return the dead letters of a namespace in NATS: ``?namespace=avx`` of the URL.

    Raises:
        MissingExtraError: The client library is not installed.
        InvalidArgumentError: The URL is none of NATS's, or an option none that a bus could have.
        TransportUnavailableError: The server does not answer.
        TransportRefusedError: It asks for credentials.
    """
    try:
        from avx_events.distributed.nats.dead_letters import connect  # noqa: PLC0415 - an extra
    except ImportError as exc:
        raise MissingExtraError("DeadLetterQueue.connect", "nats") from exc
    return await connect(url, clock=clock)


async def kafka(url: str, options: TransportOptions, *, clock: Clock) -> Transport:
    """Return a transport on Kafka.

    Raises:
        MissingExtraError: The client library is not installed.
        InvalidArgumentError: The URL or an option is none of Kafka's.
        TransportUnavailableError: The cluster does not answer.
        TransportRefusedError: It asks for other credentials, or a topic is not there and may not be made.
    """
    try:
        from avx_events.distributed.kafka.transport import connect  # noqa: PLC0415 - an extra
    except ImportError as exc:
        raise MissingExtraError("KafkaEventBus", "kafka") from exc
    return await connect(url, options, clock=clock)


async def kafka_dead_letters(url: str, *, clock: Clock) -> DeadLetterStore:
    """Return the dead letters of a namespace in Kafka: ``?namespace=avx`` of the URL.

    Raises:
        MissingExtraError: The client library is not installed.
        InvalidArgumentError: The URL is none of Kafka's, or an option none that a bus could have.
        TransportUnavailableError: The cluster does not answer.
        TransportRefusedError: It asks for other credentials.
    """
    try:
        from avx_events.distributed.kafka.dead_letters import connect  # noqa: PLC0415 - an extra
    except ImportError as exc:
        raise MissingExtraError("DeadLetterQueue.connect", "kafka") from exc
    return await connect(url, clock=clock)


async def redis_inspection(url: str, options: TransportOptions, *, clock: Clock) -> Inspection:
    """Look at a namespace in Redis, and at the settings of its server.

    Raises:
        MissingExtraError: The client library is not installed.
        InvalidArgumentError: The URL or an option is none of Redis's.
        TransportUnavailableError: The server does not answer.
        TransportRefusedError: It asks for other credentials.
    """
    try:
        from avx_events.distributed.redis.inspection import connect  # noqa: PLC0415 - an extra
    except ImportError as exc:
        raise MissingExtraError("Inspector.connect", "redis") from exc
    return await connect(url, options, clock=clock)


async def nats_inspection(url: str, options: TransportOptions, *, clock: Clock) -> Inspection:
    """Look at a namespace in NATS, and at the settings of its server.

    Raises:
        MissingExtraError: The client library is not installed.
        InvalidArgumentError: The URL or an option is none of NATS's.
        TransportUnavailableError: The server does not answer.
        TransportRefusedError: It asks for other credentials.
    """
    try:
        from avx_events.distributed.nats.inspection import connect  # noqa: PLC0415 - an extra
    except ImportError as exc:
        raise MissingExtraError("Inspector.connect", "nats") from exc
    return await connect(url, options, clock=clock)


async def kafka_inspection(url: str, options: TransportOptions, *, clock: Clock) -> Inspection:
    """Look at a namespace in Kafka, and at the settings of its cluster.

    Raises:
        MissingExtraError: The client library is not installed.
        InvalidArgumentError: The URL or an option is none of Kafka's.
        TransportUnavailableError: The cluster does not answer.
        TransportRefusedError: It asks for other credentials.
    """
    try:
        from avx_events.distributed.kafka.inspection import connect  # noqa: PLC0415 - an extra
    except ImportError as exc:
        raise MissingExtraError("Inspector.connect", "kafka") from exc
    return await connect(url, options, clock=clock)

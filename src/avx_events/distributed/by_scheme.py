"""What the entry points of transports name: each imports its client library when it is first used."""

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

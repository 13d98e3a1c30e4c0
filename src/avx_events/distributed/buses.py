"""The connected event buses, by the name of their broker."""

from typing import Any, Self

from avx_events.bus.event_bus import EventBus
from avx_events.core.errors import InvalidArgumentError


class RedisEventBus(EventBus):
    """An event bus on Redis Streams; ``await RedisEventBus.connect("redis://localhost:6379", group="billing")``."""

    __slots__ = ()

    @classmethod
    async def connect(cls, url: str, **options: Any) -> Self:
        """Return a bus that has reached its Redis; see ``EventBus.connect`` for the options and errors.

        Args:
            url: ``redis://``, ``rediss://`` (TLS) or ``unix://``, as redis-py reads it.
            options: Those of ``EventBus.connect``.
        """
        _check_scheme(url, "redis", "rediss", "unix")
        return await super().connect(url, **options)


class NatsEventBus(EventBus):
    """An event bus on NATS JetStream; ``await NatsEventBus.connect("nats://localhost:4222", group="billing")``."""

    __slots__ = ()

    @classmethod
    async def connect(cls, url: str, **options: Any) -> Self:
        """Return a bus that has reached its NATS; see ``EventBus.connect`` for the options and errors.

        Args:
            url: ``nats://`` or ``tls://``; more servers of one cluster follow the first, separated by commas.
            options: Those of ``EventBus.connect``.
        """
        _check_scheme(url, "nats", "tls")
        return await super().connect(url, **options)


class KafkaEventBus(EventBus):
    """An event bus on Apache Kafka; ``await KafkaEventBus.connect("kafka://localhost:9092", group="billing")``."""

    __slots__ = ()

    @classmethod
    async def connect(cls, url: str, **options: Any) -> Self:
        """Return a bus that has reached its cluster; see ``EventBus.connect`` for the options and errors.

        Args:
            url: ``kafka://`` or ``kafkas://`` (TLS), with one or several hosts: ``kafka://one:9092,two:9092``.
            options: Those of ``EventBus.connect``.
        """
        _check_scheme(url, "kafka", "kafkas")
        return await super().connect(url, **options)


def _check_scheme(url: object, *schemes: str) -> None:
    if not (isinstance(url, str) and url.partition("://")[0].lower() in schemes):
        raise InvalidArgumentError("url", url, expected=f"a {schemes[0]}:// URL")

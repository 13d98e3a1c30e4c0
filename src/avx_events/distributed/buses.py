"""The connected event buses, by the name of their broker: ``EventBus`` that connects to no other."""

from typing import ClassVar

from avx_events.bus.event_bus import EventBus


class RedisEventBus(EventBus):
    """An event bus on Redis Streams; ``await RedisEventBus.connect("redis://localhost:6379", group="billing")``.

    URLs are ``redis://``, ``rediss://`` (TLS) or ``unix://``, as redis-py reads them.
    """

    __slots__ = ()

    schemes: ClassVar = ("redis", "rediss", "unix")


class NatsEventBus(EventBus):
    """An event bus on NATS JetStream; ``await NatsEventBus.connect("nats://localhost:4222", group="billing")``.

    URLs are ``nats://`` or ``tls://``; more servers of one cluster follow the first, separated by commas.
    """

    __slots__ = ()

    schemes: ClassVar = ("nats", "tls")


class KafkaEventBus(EventBus):
    """An event bus on Apache Kafka; ``await KafkaEventBus.connect("kafka://localhost:9092", group="billing")``.

    URLs are ``kafka://`` or ``kafkas://`` (TLS), with one or several hosts: ``kafka://one:9092,two:9092``.
    """

    __slots__ = ()

    schemes: ClassVar = ("kafka", "kafkas")

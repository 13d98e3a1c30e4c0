"""Buses on brokers: the same buses as in memory, connected to Redis, NATS or Kafka."""

from avx_events.distributed.buses import KafkaEventBus, NatsEventBus, RedisEventBus

__all__ = ["KafkaEventBus", "NatsEventBus", "RedisEventBus"]

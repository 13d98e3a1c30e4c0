"""Events over Redis Streams; the only place that imports the Redis client."""

"""Events over NATS JetStream; the only place that imports the NATS client."""

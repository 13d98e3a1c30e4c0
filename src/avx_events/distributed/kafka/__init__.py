"""Events over Apache Kafka; the only place that imports the Kafka client."""

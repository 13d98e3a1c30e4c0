"""A Kafka server: one node that is broker and controller (KRaft)."""

import socket
import struct
from pathlib import Path
from typing import Final

from tests.servers.kafka_jars import kafka_command, lay_empty_storage, write_properties
from tests.servers.ports import free_port
from tests.servers.process import Server

METADATA_OF_NO_TOPIC: Final = struct.pack(">hhihi?", 3, 4, 1, -1, 0, False)  # noqa: FBT003 - a field
"""Version 4, correlation id 1, no client id, no topics, which are not to be made.

Source:
    https://kafka.apache.org/protocol.html#The_Messages_Metadata
"""


def kafka_in(folder: Path, *, port: int | None = None, **settings: object) -> Server:
    """Describe a Kafka server that keeps its topics in ``folder``.

    Args:
        folder: Where it keeps everything.
        port: Where it listens, which one behind a proxy has to know; else a free one.
        settings: Those of Kafka, with ``_`` for each dot in their names.

    Raises:
        MissingServerError: Kafka's jars or Java are not on this machine.
    """
    port = port or free_port()
    config = folder / "server.properties"
    command = kafka_command("kafka.Kafka", config)
    lay_empty_storage(folder / "data")
    given = {name.replace("_", "."): value for name, value in settings.items()}
    write_properties(config, {**properties(port, free_port()), "log.dirs": folder / "data", **given})
    return Server(command, url=f"kafka://127.0.0.1:{port}", port=port, folder=folder, is_ready=_knows_a_broker)


def properties(port: int, controller_port: int) -> dict[str, object]:
    """Return the settings of a node that is alone, and has no time to lose."""
    alone: dict[str, object] = {
        f"{log}.{setting}": 1
        for log in ("transaction.state.log", "share.coordinator.state.topic")
        for setting in ("num.partitions", "replication.factor", "min.isr")
    }
    return alone | {
        "process.roles": "broker,controller",
        "node.id": 1,
        "controller.quorum.voters": f"1@127.0.0.1:{controller_port}",
        "controller.listener.names": "CONTROLLER",
        "listeners": f"PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}",
        "offsets.topic.num.partitions": 1,
        "offsets.topic.replication.factor": 1,
        "group.initial.rebalance.delay.ms": 0,
        # A server that was killed serves nobody before the session of its former life is over: 9 s by default.
        "broker.session.timeout.ms": 2000,
        "broker.heartbeat.interval.ms": 200,
    }


def _knows_a_broker(connection: socket.socket) -> bool:
    connection.sendall(struct.pack(">i", len(METADATA_OF_NO_TOPIC)) + METADATA_OF_NO_TOPIC)
    with connection.makefile("rb") as answers:
        answer = answers.read(16)
    if len(answer) < 16:
        return False
    _, correlation_id, _, brokers = struct.unpack(">iiii", answer)
    return (correlation_id, brokers) == (1, 1)

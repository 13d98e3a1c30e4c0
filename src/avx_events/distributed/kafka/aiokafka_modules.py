"""The modules of aiokafka that we use; it says nothing of their types."""

from importlib import import_module
from typing import Any, Final

conn: Final[Any] = import_module("aiokafka.conn")
errors: Final[Any] = import_module("aiokafka.errors")
helpers: Final[Any] = import_module("aiokafka.helpers")

admin: Final[Any] = import_module("aiokafka.protocol.admin")
commit: Final[Any] = import_module("aiokafka.protocol.commit")
coordination: Final[Any] = import_module("aiokafka.protocol.coordination")
fetch: Final[Any] = import_module("aiokafka.protocol.fetch")
group: Final[Any] = import_module("aiokafka.protocol.group")
metadata: Final[Any] = import_module("aiokafka.protocol.metadata")
offset: Final[Any] = import_module("aiokafka.protocol.offset")
produce: Final[Any] = import_module("aiokafka.protocol.produce")
transaction: Final[Any] = import_module("aiokafka.protocol.transaction")
consumer: Final[Any] = import_module("aiokafka.coordinator.protocol").ConsumerProtocol

BatchBuilder: Final[Any] = import_module("aiokafka.record.default_records").DefaultRecordBatchBuilder
Batches: Final[Any] = import_module("aiokafka.record.memory_records").MemoryRecords

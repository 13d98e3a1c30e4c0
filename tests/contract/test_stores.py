"""Every engine of the event store keeps what the contract promises."""

from avx_events.testing.store_contract import DurableStoreContract, StoreContract


class TestMemory(StoreContract):
    """Lists."""


class TestSqliteFile(DurableStoreContract):
    """A file, written by a thread."""

    url = "sqlite:///{folder}/events.db?writer=thread"


class TestSqliteFileInline(DurableStoreContract):
    """A file, written on the loop."""

    url = "sqlite:///{folder}/events.db?writer=inline"


class TestSqliteMemory(StoreContract):
    """A database in memory."""

    url = "sqlite://"


class TestSqliteMemoryInline(StoreContract):
    """A database in memory, written on the loop."""

    url = "sqlite://?writer=inline"

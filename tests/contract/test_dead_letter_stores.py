"""Every store of dead letters keeps what the contract promises."""

from avx_events.testing import DeadLetterStoreContract, DurableDeadLetterStoreContract


class TestMemory(DeadLetterStoreContract):
    """A dict."""


class TestSqliteFile(DurableDeadLetterStoreContract):
    """A file, written by a thread."""

    url = "sqlite:///{folder}/letters.db?writer=thread"


class TestSqliteFileInline(DurableDeadLetterStoreContract):
    """A file, written on the loop."""

    url = "sqlite:///{folder}/letters.db?writer=inline"


class TestSqliteMemory(DeadLetterStoreContract):
    """A database in memory."""

    url = "sqlite://"


class TestSqliteMemoryInline(DeadLetterStoreContract):
    """A database in memory, written on the loop."""

    url = "sqlite://?writer=inline"

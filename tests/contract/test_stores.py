"""Every engine of the event store keeps what the contract promises."""

from avx_events.testing.store_contract import StoreContract


class TestMemory(StoreContract):
    """Lists."""

"""What helps to test code that uses this package, and engines that it is to run on.

Nothing is imported before it is asked for: the contract suites need pytest, and nothing else here does.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from avx_events.testing.clock import ManualClock
    from avx_events.testing.content_mode_contract import ContentModeContract
    from avx_events.testing.dead_letter_store_contract import DeadLetterStoreContract, DurableDeadLetterStoreContract
    from avx_events.testing.evolution import EventsReport, Finding, check_events, evolution_test, record_events
    from avx_events.testing.faults import Faults
    from avx_events.testing.group_contract import GroupContract, HostileBytesContract, InFlightContract
    from avx_events.testing.handler_contracts import (
        BackPressureContract,
        DeadLetterContract,
        GracefulStopContract,
        InProcessContract,
        KeyOrderContract,
        OwnKeyContract,
    )
    from avx_events.testing.mock_bus import MockEventBus
    from avx_events.testing.mock_store import MockEventStore
    from avx_events.testing.process_scenarios import process_scenario
    from avx_events.testing.redrive_contract import RedriveRequestContract
    from avx_events.testing.request_contract import RequestReplyContract, SharedRequestContract
    from avx_events.testing.scenarios import command_scenario, projection_scenario, read_back, scenario
    from avx_events.testing.store_check import StoreReport, UnreadableEvents, check_store
    from avx_events.testing.store_contract import DurableStoreContract, StoreContract
    from avx_events.testing.topic_contract import TopicContract
    from avx_events.testing.transport_contract import TransportContract

__all__ = [
    "BackPressureContract",
    "ContentModeContract",
    "DeadLetterContract",
    "DeadLetterStoreContract",
    "DurableDeadLetterStoreContract",
    "DurableStoreContract",
    "EventsReport",
    "Faults",
    "Finding",
    "GracefulStopContract",
    "GroupContract",
    "HostileBytesContract",
    "InFlightContract",
    "InProcessContract",
    "KeyOrderContract",
    "ManualClock",
    "MockEventBus",
    "MockEventStore",
    "OwnKeyContract",
    "RedriveRequestContract",
    "RequestReplyContract",
    "SharedRequestContract",
    "StoreContract",
    "StoreReport",
    "TopicContract",
    "TransportContract",
    "UnreadableEvents",
    "check_events",
    "check_store",
    "command_scenario",
    "evolution_test",
    "process_scenario",
    "projection_scenario",
    "read_back",
    "record_events",
    "scenario",
]

_MODULES: Final = {
    "BackPressureContract": "handler_contracts",
    "ContentModeContract": "content_mode_contract",
    "DeadLetterContract": "handler_contracts",
    "DeadLetterStoreContract": "dead_letter_store_contract",
    "DurableDeadLetterStoreContract": "dead_letter_store_contract",
    "DurableStoreContract": "store_contract",
    "EventsReport": "evolution",
    "Faults": "faults",
    "Finding": "evolution",
    "GracefulStopContract": "handler_contracts",
    "GroupContract": "group_contract",
    "HostileBytesContract": "group_contract",
    "InFlightContract": "group_contract",
    "InProcessContract": "handler_contracts",
    "KeyOrderContract": "handler_contracts",
    "ManualClock": "clock",
    "MockEventBus": "mock_bus",
    "MockEventStore": "mock_store",
    "OwnKeyContract": "handler_contracts",
    "RedriveRequestContract": "redrive_contract",
    "RequestReplyContract": "request_contract",
    "SharedRequestContract": "request_contract",
    "StoreContract": "store_contract",
    "StoreReport": "store_check",
    "TopicContract": "topic_contract",
    "TransportContract": "transport_contract",
    "UnreadableEvents": "store_check",
    "check_events": "evolution",
    "check_store": "store_check",
    "command_scenario": "scenarios",
    "evolution_test": "evolution",
    "process_scenario": "process_scenarios",
    "projection_scenario": "scenarios",
    "read_back": "scenarios",
    "record_events": "evolution",
    "scenario": "scenarios",
}


def __getattr__(name: str) -> object:
    """Import the module that has ``name``, once."""
    if name not in _MODULES:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    value: object = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""The event that goes through brokers: its four fields are 200 bytes of JSON, whatever a library adds to them."""

from time import perf_counter_ns
from typing import Final

import msgspec

from avx_events import Event

KEYS: Final = tuple(f"order-{number:04}" for number in range(1_000))
NOTE: Final = (
    "Leave it with the neighbours, who are at home until six; their bell does not ring, so knock, "
    "and mind the dog in the yard."
)
"""What is left to 200 bytes, with a number of five digits and a clock of fourteen."""


class OrderPlaced(Event, event_type="bench.order.placed", aggregate_id="order_id"):
    """Ours."""

    number: int
    order_id: str
    sent_at_ns: int
    note: str


class PlainOrderPlaced(msgspec.Struct, frozen=True, gc=False):
    """The same four fields for raw clients: nothing is cheaper to make, to write and to read."""

    number: int
    order_id: str
    sent_at_ns: int
    note: str


def order(number: int) -> tuple[int, str, int, str]:
    """Return the fields of an order that is placed now, by a clock that all processes of a machine share."""
    return number, KEYS[number % len(KEYS)], perf_counter_ns(), NOTE

"""Judges what became of orders: the log of what was done, against the processes that are kept."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final

from tests.live.process_orders import Cancelled, Done, Placed, Shipped

_IN_ORDER: Final = {"shipped": ("pay", "ship"), "late": ("pay", "cancel"), "declined": ("cancel",)}
"""What is done for an order that ends so; one whose payment did not come in time may not have been asked for it."""
_MAY_END: Final = {"good": {"shipped", "late"}, "silent": {"late"}, "declined": {"declined", "late"}}


def violations(log: Sequence[Any], statuses: Mapping[str, str], *, most_repeats: int) -> list[str]:
    """Return what cannot be, in words; empty for a history that orders may have.

    Args:
        log: All events of the store in order.
        statuses: The status in the state of each process that has ended, by order.
        most_repeats: How many commands may have been carried out again: those that ran when something was killed.
    """
    orders = {event.order_id: event.kind for event in log if isinstance(event, Placed)}
    done = [event for event in log if isinstance(event, Done)]
    return [
        *_lost(orders, statuses),
        *(each for order, kind in orders.items() for each in _wrong(order, kind, statuses.get(order, ""), log, done)),
        *_repeated(done, most_repeats),
    ]


def _lost(orders: Collection[str], statuses: Mapping[str, str]) -> Iterator[str]:
    lost = sorted(set(orders) - set(statuses))
    if lost:
        yield f"{len(lost)} of {len(orders)} orders have not ended: {lost[:5]}"


def _wrong(order: str, kind: str, status: str, log: Sequence[Any], done: Sequence[Done]) -> Iterator[str]:
    if status and status not in _MAY_END[kind]:
        yield f"{order}, a {kind} one, has ended as {status}"
    ends = [type(event).__name__ for event in log if isinstance(event, Shipped | Cancelled) and event.order_id == order]
    if status and ends != ["Shipped" if status == "shipped" else "Cancelled"]:
        yield f"{order} has ended as {status}, with the events {ends}"
    firsts = tuple(dict.fromkeys(event.what for event in done if event.order_id == order))
    expected = _IN_ORDER.get(status, firsts)
    if firsts != expected and not (status == "late" and firsts == expected[1:]):
        yield f"{order} has ended as {status}, and what was done for it is {firsts}"


def _repeated(done: Sequence[Done], most: int) -> Iterator[str]:
    repeats = Counter((event.order_id, event.what) for event in done)
    count = repeats.total() - len(repeats)
    if count > most:
        yield f"{count} commands had their effect again, where {most} may have been under way: {repeats.most_common(3)}"

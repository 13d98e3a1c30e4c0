"""What FastStream sends, whatever the broker: pydantic models; its msgspec serializer is no faster."""

from pydantic import BaseModel

from bench.orders import order


class OrderPlaced(BaseModel):
    number: int
    order_id: str
    sent_at_ns: int
    note: str


def order_placed(number: int) -> OrderPlaced:
    number, order_id, sent_at_ns, note = order(number)
    return OrderPlaced(number=number, order_id=order_id, sent_at_ns=sent_at_ns, note=note)


async def nothing_more() -> None:
    """Return at once: all but the last events are acknowledged before the next ones are handled."""

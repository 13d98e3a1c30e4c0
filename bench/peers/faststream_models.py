"""What FastStream sends, whatever the broker: pydantic models; its msgspec serializer is no faster."""

from pydantic import BaseModel

from bench.orders import order
from bench.workload import UserView


class OrderPlaced(BaseModel):
    number: int
    order_id: str
    sent_at_ns: int
    note: str


class GetUser(BaseModel):
    user_id: str


class User(BaseModel):
    user_id: str
    email: str


def order_placed(number: int) -> OrderPlaced:
    number, order_id, sent_at_ns, note = order(number)
    return OrderPlaced(number=number, order_id=order_id, sent_at_ns=sent_at_ns, note=note)


def user_view(decoded: object) -> UserView:
    """Return what the others return of a reply."""
    user = User.model_validate(decoded)
    return UserView(user.user_id, user.email)


async def nothing_more() -> None:
    """Return at once: all but the last events are acknowledged before the next ones are handled."""

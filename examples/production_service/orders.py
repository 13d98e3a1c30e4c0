"""Orders: what can happen to one, and what one is."""

from avx_events import AggregateRoot, Event


class OrderPlaced(Event, event_type="shop.order.placed", aggregate_id="order_id"):
    """A user ordered. Money is kept in whole cents: a float cannot hold ten cents."""

    order_id: str
    user_id: str
    total_cents: int


class Order(AggregateRoot):
    """An order; its id is the name of its stream, ``order-…``."""

    user_id: str = ""
    total_cents: int = 0

    @property
    def is_placed(self) -> bool:
        """Whether it is there at all."""
        return bool(self.user_id)

    def place(self, *, user_id: str, total_cents: int) -> None:
        """Become an order of ``user_id``."""
        self.record(OrderPlaced(self.id, user_id, total_cents))

    def apply(self, event: Event) -> None:
        """Change as ``event`` says."""
        match event:
            case OrderPlaced(user_id=user_id, total_cents=total_cents):
                self.user_id, self.total_cents = user_id, total_cents
            case _:
                pass

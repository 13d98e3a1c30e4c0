"""Publish and subscribe in one process: handlers, pull subscribers, and what an envelope knows.

    python examples/basic_pubsub.py

A shop tells itself what happens: users register and place orders, orders are paid and shipped.
"""

import asyncio

from avx_events import Event, EventBus, EventEnvelope, context


class UserRegistered(Event, aggregate_id="user_id"):  # its event type is "user.registered", from the class name
    user_id: str
    email: str


class OrderEvent(Event, aggregate_id="order_id"):  # a family: who subscribes to it gets all that derive from it
    order_id: str


class OrderPlaced(OrderEvent):
    total: float


class OrderPaid(OrderEvent):
    amount: float


class OrderShipped(OrderEvent):
    carrier: str


bus = EventBus()


# Handlers: the bus runs them, from "async with bus" to its end.
@bus.on(UserRegistered)
async def welcome(user: UserRegistered) -> None:
    print(f"  welcome: a mail to {user.email}")


@bus.on(OrderPlaced)
async def take_payment(order: OrderPlaced, envelope: EventEnvelope[OrderPlaced]) -> None:
    print(f"  take_payment: {order.total:.2f} from {envelope.metadata.user_id}")
    await bus.publish(OrderPaid(order.order_id, order.total))


@bus.on(OrderPaid)
def hand_to_carrier(order: OrderPaid) -> None:  # a plain function runs in a thread, and may block
    print(f"  hand_to_carrier: {order.order_id}")
    bus.publish_threadsafe(OrderShipped(order.order_id, "DHL")).result(timeout=5)


async def main() -> None:
    # Pull subscribers: you read them, when you please. What comes in the meantime waits for you.
    users = await bus.subscribe(UserRegistered)
    orders = await bus.subscribe(OrderEvent)
    everything = await bus.subscribe(Event)

    async with bus:
        print("Ada registers and places an order, and the bus runs the handlers:")
        await bus.publish(UserRegistered("ada", "ada@example.com"))
        await bus.settled()  # until every event, and all that handlers published because of it, is handled
        with context(user_id="ada"):  # at the edge of your program: on whose behalf everything inside happens
            await bus.publish(OrderPlaced("order-1", 25.00), headers={"voucher": "SPRING"})
        await bus.settled()

        print("\nrecv() gives the next event:")
        print(f"  {await users.recv()}")
        print("\nrecv_many() gives all that are there, here of the order's family:")
        for event in await orders.recv_many(limit=100):
            print(f"  {event}")

    # The bus is closed. What was published before can still be read, and then the loop ends.
    print("\nWhat the envelopes know, though nobody passed it on:")
    print(f"  {'event':<16} {'key':<8} {'for':<4} {'because of':<13} {'chain began with':<17} headers")
    type_of: dict[str | None, str] = {None: "-"}
    async for envelope in everything.envelopes():
        known = envelope.metadata
        type_of[known.event_id] = known.event_type
        print(
            f"  {known.event_type:<16} {known.aggregate_id:<8} {known.user_id or '-':<4}"
            f" {type_of[known.causation_id]:<13} {type_of[known.correlation_id]:<17} {dict(known.headers) or '-'}"
        )

    counts = bus.statistics()
    print(f"\n{counts.published} events published, {counts.handled} handled, {counts.dropped} dropped")


if __name__ == "__main__":
    asyncio.run(main())

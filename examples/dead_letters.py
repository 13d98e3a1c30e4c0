"""When a handler fails: retry that ends, a dead letter that says why, and a redrive to the handler that failed.

    python examples/dead_letters.py

A shop books a carrier for each parcel, and the carrier has a bad day.
"""

import asyncio
import logging
import sys

from avx_events import DeadLetterQueue, Discard, Event, EventBus, Reject, Retry, RetryAfter, Subscriber


class ParcelPacked(Event, aggregate_id="order_id"):
    order_id: str
    parcel: str


class ParcelReturned(Event, aggregate_id="order_id"):
    order_id: str
    refund: float


# What the carrier answers for a parcel, call by call; then it accepts.
NO_ANSWER = ConnectionError("the carrier does not answer")
CARRIER: dict[str, list[Exception]] = {
    "shoes": [NO_ANSWER, NO_ANSWER],  # passes soon: tried again, after pauses that grow
    "lamp": [RetryAfter(0.02, "too many calls, come back in 20 ms")],  # the handler knows when
    "gift": [Discard("the order was cancelled")],  # of no use any more: dropped
    "bike": [Reject("more than 30 kg")],  # can never succeed: a dead letter at once
    "book": [NO_ANSWER, NO_ANSWER, NO_ANSWER],  # lasts: a dead letter when the attempts are used up
}

RETRY = Retry(attempts=3, initial_s=0.01)
bus = EventBus(dead_letter_queue=DeadLetterQueue())
invoices: list[str] = []


# The parcels of one order come one after the other; those of up to eight orders at the same time.
@bus.on(ParcelPacked, name="carrier", retry=RETRY, concurrency=8)
async def book_carrier(packed: ParcelPacked) -> None:
    if answers := CARRIER.get(packed.parcel):
        error = answers.pop(0)
        print(f"  {packed.order_id} {packed.parcel}: {type(error).__name__}: {error}")
        raise error
    print(f"  {packed.order_id} {packed.parcel}: booked")


# A sibling never notices: each handler has a queue, attempts and dead letters of its own.
@bus.on(ParcelPacked, name="invoice")
async def write_invoice(packed: ParcelPacked) -> None:
    invoices.append(packed.parcel)


# A loop of your own is as safe: an exception in the block is a failed attempt, and the loop goes on.
async def pay_back(returns: Subscriber[ParcelReturned]) -> None:
    async for delivery in returns.deliveries():
        async with delivery as returned:
            print(f"  {returned.order_id}: attempt {delivery.attempt} to pay {returned.refund:.2f} back")
            if delivery.attempt == 1:
                raise ConnectionError("the bank does not answer")


async def tell(title: str, *events: Event) -> None:
    print(f"\n{title}")
    await bus.publish_many(events)
    await bus.settled()


async def main() -> None:
    logging.basicConfig(stream=sys.stdout, format="  log: %(message)s")
    returns = await bus.subscribe(ParcelReturned, name="refund", retry=RETRY)
    async with asyncio.TaskGroup() as tasks, bus:  # the bus ends first, and with it the loop in the task
        tasks.create_task(pay_back(returns))

        await tell("A failed attempt is repeated after a pause:", ParcelPacked("order-1", "shoes"))
        await tell(
            "While the lamp waits, the bulb of the same order waits behind it, and the soap does not:",
            ParcelPacked("order-2", "lamp"),
            ParcelPacked("order-2", "bulb"),
            ParcelPacked("order-3", "soap"),
        )
        await tell("A handler may give an event up:", ParcelPacked("order-4", "gift"), ParcelPacked("order-5", "bike"))
        await tell("Attempts end:", ParcelPacked("order-6", "book"))
        await tell("The same in a loop of your own:", ParcelReturned("order-7", 19.90))

        print("\nThe dead letters:")
        for letter in await bus.dead_letter_queue.list():
            event = letter.envelope.event if letter.envelope else letter.raw  # bytes of which no event could be made
            print(f"  {letter.handler}, {letter.reason} at attempt {letter.attempts}: {letter.error}\n    {event!r}")

        print("\nThe carrier is back: what it did not answer is given back to its handler, and to nobody else:")
        for letter in await bus.dead_letter_queue.list(handler="carrier", error_type="ConnectionError"):
            await bus.republish(letter)
        await bus.settled()
        print(f"  invoices for the book: {invoices.count('book')}")

        removed = await bus.dead_letter_queue.purge(error_type="Reject")
        print(f"\n{removed} letter that will never succeed removed, {await bus.dead_letter_queue.count()} left")


if __name__ == "__main__":
    asyncio.run(main())

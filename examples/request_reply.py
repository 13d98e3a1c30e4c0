"""Ask and be answered: typed replies, two ways to answer, and what can go wrong.

    python examples/request_reply.py

A shop asks its two warehouses what is in stock, and its buyer what it costs.
"""

import asyncio

import msgspec

from avx_events import (
    EventEnvelope,
    NoResponderError,
    RemoteError,
    Request,
    RequestReplyBus,
    RequestTimeoutError,
    context,
)


class Stock(msgspec.Struct):
    warehouse: str
    count: int


class CountStock(Request[Stock]):  # in brackets the type of the reply
    item: str


class GetPrice(Request[float]):
    item: str


class BookCarrier(Request[str]):
    item: str


SHELVES = {"lamp": 3, "shoes": 12}
PRICES = {"lamp": 25.00, "shoes": 80.00}
bus = RequestReplyBus()


# Responders: the bus runs them, and what they return is the reply. Several for one request share the work.
@bus.respond(CountStock)
async def hamburg(request: CountStock) -> Stock:
    return Stock("Hamburg", SHELVES[request.item])


@bus.respond(CountStock)
def oslo(request: CountStock, envelope: EventEnvelope[CountStock]) -> Stock:  # in a thread, and may block
    print(f"  Oslo counts {request.item} for {envelope.metadata.user_id}")
    return Stock("Oslo", SHELVES[request.item])


async def main() -> None:
    prices = await bus.listen(GetPrice)
    shop_gave_up = asyncio.Event()

    async def quote_prices() -> None:  # a listener: a loop of your own, which replies when it pleases
        async for request, reply in prices:
            if request.item not in PRICES:
                await shop_gave_up.wait()  # the buyer has to ask around
                print(f"  The buyer replies at last. Does anybody wait for it? {reply.is_awaited}")
            await reply.send(PRICES.get(request.item, 9.99))

    async with asyncio.TaskGroup() as tasks, bus:  # the bus ends first, and with it the loop in the task
        tasks.create_task(quote_prices())

        print("Each request goes to one of those who can answer it:")
        with context(user_id="ada"):
            for item in ("lamp", "shoes"):
                stock = await bus.request(CountStock(item))  # type checkers know that it is a Stock
                print(f"  {stock.warehouse}: {stock.count} x {item}")

        print("\nA listener answers the same way:")
        price = await bus.request(GetPrice("lamp"), timeout_s=2)
        print(f"  a lamp costs {price:.2f}")

        print("\nNobody is there to answer:")
        try:
            await bus.request(BookCarrier("lamp"))
        except NoResponderError as exc:
            print(f"  NoResponderError: {exc}")

        print("\nThe responder raises:")
        try:
            await bus.request(CountStock("unicorn"))
        except RemoteError as exc:
            print(f"  RemoteError of type {exc.error_type}, {exc.message}")

        print("\nThe reply comes too late:")
        try:
            await bus.request(GetPrice("unicorn"), timeout_s=0.05)
        except RequestTimeoutError as exc:
            print(f"  RequestTimeoutError: {exc}")
        shop_gave_up.set()

    counts = bus.statistics()
    print(f"\n{counts.requested} requests: {counts.replied} replied, {counts.failed} failed,", end=" ")
    print(f"{counts.timed_out} timed out; {counts.late_replies} reply came too late and was dropped")


if __name__ == "__main__":
    asyncio.run(main())

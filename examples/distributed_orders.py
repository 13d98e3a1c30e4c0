"""Three services in processes of their own, over one broker: groups, retry, dead letters, requests, order by key.

    python examples/distributed_orders.py [URL]

The script starts the services (payments twice: two members of one group), plays their customer, and stops them. Without
a URL it takes the first broker that is up on its usual port of this machine. All names that it uses there begin with a
namespace of its own, which it removes in the end.
"""

import asyncio
import logging
import sys
from asyncio.subprocess import PIPE, Process
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from functools import partial
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import msgspec

from avx_events import AvxEventsError, DeadLetter, Event, EventBus, Request, RequestReplyBus, Retry, Subscriber

USUAL_PLACES = ("redis://127.0.0.1:6379", "nats://127.0.0.1:4222", "kafka://127.0.0.1:9092")
PATIENCE_S = 30


# What the services say to each other. They share these classes, and nothing else.


class OrderEvent(Event, aggregate_id="order_id"):  # events of one order keep their order, whichever member has them
    order_id: str


class OrderBilled(OrderEvent):
    what: str
    amount: float


class OrderProgress(OrderEvent):
    """A family: who subscribes to it gets all that derive from it."""


class PaymentFailed(OrderProgress):
    what: str
    why: str


class OrderPaid(OrderProgress):
    what: str
    by: str


class OrderSent(OrderProgress):
    country: str


class Receipt(msgspec.Struct):
    order_id: str
    total: float


class PlaceOrder(Request[Receipt]):
    item: str
    country: str


class CountryOf(Request[str], aggregate_id="order_id"):
    order_id: str


class OpenRoute(Request[int]):
    country: str


# The services. Each runs until it is told to stop; then it finishes what it has begun, and leaves the rest to others.


async def orders(url: str, namespace: str) -> None:
    bus = await EventBus.connect(url, group="orders", namespace=namespace)
    requests = await RequestReplyBus.connect(url, namespace=namespace)
    prices = {"lamp": 25.00, "shoes": 80.00, "trident": 300.00}
    countries: dict[str, str] = {}
    placed: Counter[str] = Counter()

    @requests.respond(PlaceOrder)
    async def place_order(request: PlaceOrder) -> Receipt:
        placed[request.item] += 1
        order_id = f"{request.item}-{placed[request.item]}"
        countries[order_id] = request.country
        goods, postage = OrderBilled(order_id, "goods", prices[request.item]), OrderBilled(order_id, "postage", 5.00)
        await bus.publish_many([goods, postage])
        return Receipt(order_id, goods.amount + postage.amount)

    @requests.respond(CountryOf)
    async def country_of(request: CountryOf) -> str:
        return countries[request.order_id]

    async with bus, requests:  # requests ends first: no new orders, and the bus sends those that there are
        await told_to_stop()


async def payments(url: str, namespace: str, *, member: str) -> None:
    bus = await EventBus.connect(url, group="payments", namespace=namespace)
    failures = {("shoes-1", "goods"): "the bank does not answer"}

    # Each order is one member's. While its first bill waits for a retry, so does the second, and other orders go on.
    @bus.on(OrderBilled, name="charge", retry=Retry(attempts=3, initial_s=0.1), concurrency=8)
    async def charge(bill: OrderBilled) -> None:
        if why := failures.pop((bill.order_id, bill.what), None):
            await bus.publish(PaymentFailed(bill.order_id, bill.what, why))
            raise ConnectionError(why)
        await bus.publish(OrderPaid(bill.order_id, bill.what, by=member))

    async with bus:
        await told_to_stop()


async def shipping(url: str, namespace: str) -> None:
    bus = await EventBus.connect(url, group="shipping", namespace=namespace)
    requests = await RequestReplyBus.connect(url, namespace=namespace)
    routes = {"Norway", "Peru"}

    @bus.on(OrderPaid, name="send", retry=Retry(attempts=2, initial_s=0.01), concurrency=8)
    async def send(paid: OrderPaid) -> None:
        if paid.what != "postage":  # which is billed last, so it is paid last, and is here last
            return
        country = await requests.request(CountryOf(paid.order_id))  # answered in the process of the orders
        if country not in routes:
            raise LookupError(f"no ship goes to {country}")
        await bus.publish(OrderSent(paid.order_id, country))

    @requests.respond(OpenRoute)
    async def open_route(request: OpenRoute) -> int:
        routes.add(request.country)
        letters = await bus.dead_letter_queue.list(handler="send", error_type="LookupError")
        return sum([await bus.republish(letter) for letter in letters])  # to this handler, and to nobody else

    async with requests, bus:  # the bus ends first: its handler asks
        await told_to_stop()


SERVICES: dict[str, Callable[[str, str], Coroutine[Any, Any, None]]] = {
    "orders": orders,
    "payments-1": partial(payments, member="payments-1"),
    "payments-2": partial(payments, member="payments-2"),
    "shipping": shipping,
}


async def told_to_stop() -> None:
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)  # it ends when the script closes it, and however the script ends


# The customer, who also listens to what becomes of the orders.


class Journal:
    """What has happened to each order, in the order in which it happened."""

    def __init__(self) -> None:
        self._of: dict[str, list[OrderProgress]] = defaultdict(list)
        self._news = asyncio.Condition()

    async def keep(self, progress: Subscriber[OrderProgress]) -> None:
        async for event in progress:
            async with self._news:
                self._of[event.order_id].append(event)
                self._news.notify_all()

    async def have_sent(self, order_ids: Iterable[str]) -> None:
        async with asyncio.timeout(PATIENCE_S), self._news:
            for order_id in order_ids:
                await self._news.wait_for(partial(self._is_sent, order_id))

    def _is_sent(self, order_id: str) -> bool:
        return any(isinstance(event, OrderSent) for event in self._of[order_id])

    def told(self, order_id: str) -> str:
        return ", ".join(map(_told, self._of[order_id]))

    def payers(self) -> set[str]:
        return {event.by for events in self._of.values() for event in events if isinstance(event, OrderPaid)}


def _told(event: OrderProgress) -> str:
    match event:
        case PaymentFailed(what=what, why=why):
            return f"{what} not paid ({why})"
        case OrderPaid(what=what):
            return f"{what} paid"
        case OrderSent(country=country):
            return f"sent to {country}"
        case _:
            return repr(event)


async def play(bus: EventBus, requests: RequestReplyBus, journal: Journal) -> None:
    print("\nPayments has two members. Lamps are ordered until each of them has been paid for some:")
    lamps: list[str] = []
    while len(journal.payers()) < 2:
        few = [(await requests.request(PlaceOrder("lamp", "Peru"))).order_id for _ in range(8)]
        await journal.have_sent(few)
        lamps += few
    print(f"  {' and '.join(sorted(journal.payers()))} were paid; each lamp:")
    for way in {journal.told(lamp) for lamp in lamps}:
        print(f"  {way}")

    print("\nTwo more orders. A receipt is the reply of the orders service:")
    shoes = await requests.request(PlaceOrder("shoes", "Norway"))
    trident = await requests.request(PlaceOrder("trident", "Atlantis"))
    for receipt in (shoes, trident):
        print(f"  {receipt.order_id}: {receipt.total:.2f}")

    print("\nA payment that fails is tried again. The next one of the same order waits behind it:")
    await journal.have_sent([shoes.order_id])
    print(f"  {shoes.order_id}: {journal.told(shoes.order_id)}")

    print("\nShipping has given one event up. It is a dead letter, which everybody on the broker can look at:")
    [letter] = await letters_when_there_are(1, bus)
    print(f"  {letter.event_type} of {letter.event.order_id}, for the handler {letter.handler!r}")
    print(f"  {letter.reason} at attempt {letter.attempts}: {letter.error}")

    print("\nShipping opens the route, and gives the letter back to its handler:")
    print(f"  {await requests.request(OpenRoute('Atlantis'))} redriven")
    await journal.have_sent([trident.order_id])
    print(f"  {trident.order_id}: {journal.told(trident.order_id)}")
    print(f"  {len(await letters_when_there_are(0, bus))} dead letters left")


async def letters_when_there_are(count: int, bus: EventBus) -> list[DeadLetter]:
    async with asyncio.timeout(PATIENCE_S):
        while await bus.dead_letter_queue.count() != count:  # noqa: ASYNC110 - nothing tells of dead letters
            await asyncio.sleep(0.02)
    return await bus.dead_letter_queue.list()


# The processes, and the broker.


async def main(url: str) -> None:
    namespace = f"example-{uuid4().hex}"
    try:
        # Without a group: it hears everything from now on.
        bus = await EventBus.connect(url, namespace=namespace, timeout_s=5)
        requests = await RequestReplyBus.connect(url, namespace=namespace)
    except AvxEventsError as exc:
        sys.exit(str(exc))
    journal = Journal()
    try:
        async with asyncio.TaskGroup() as tasks, requests, bus:  # the bus ends, and with it the loop in the task
            tasks.create_task(journal.keep(await bus.subscribe(OrderProgress)))
            async with services(url, namespace):
                await play(bus, requests, journal)
    finally:
        await remove(url, namespace)


@asynccontextmanager
async def services(url: str, namespace: str) -> AsyncGenerator[None]:
    processes: dict[str, Process] = {}
    try:
        for name in SERVICES:
            command = (sys.executable, __file__, "--service", name, url, namespace)
            processes[name] = await asyncio.create_subprocess_exec(
                *command, stdin=PIPE, stdout=PIPE, start_new_session=True
            )
        for process in processes.values():
            await ready(process)
        print(f"Over {url.rpartition('@')[2]}: {', '.join(processes)}, each in a process of its own.")
        yield
        print("\nAll stop in good order, those first that give work to others:")
    finally:
        for name, process in processes.items():
            print(f"  {name} has ended with code {await ended(process)}")


async def ready(process: Process) -> None:
    line = b"" if process.stdout is None else await asyncio.wait_for(process.stdout.readline(), PATIENCE_S)
    if line != b"ready\n":
        sys.exit("a service did not start")


async def ended(process: Process) -> int | None:
    try:
        async with asyncio.timeout(PATIENCE_S):
            await process.communicate(b"")  # closes its standard input
    except TimeoutError:
        process.kill()
        await process.wait()
    return process.returncode


async def first_that_is_up() -> str:
    installed = {entry.name for entry in entry_points(group="avx_events.transports")}
    places = [url for url in USUAL_PLACES if urlsplit(url).scheme in installed]
    for url in places:
        if await answers(urlsplit(url).hostname, urlsplit(url).port):
            return url
    sys.exit(f"no broker is up at {' or '.join(places)}; start one, or say where one is: python {sys.argv[0]} URL")


async def answers(host: str | None, port: int | None) -> bool:
    try:
        async with asyncio.timeout(1):
            _, writer = await asyncio.open_connection(host, port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    await writer.wait_closed()
    return True


async def remove(url: str, namespace: str) -> None:
    match urlsplit(url).scheme:
        case "redis" | "rediss" | "unix":
            await remove_from_redis(url, namespace)
        case "nats" | "tls":
            await remove_from_nats(url, namespace)
        case "kafka":
            await remove_from_kafka(url, namespace)
        case other:
            print(f"what begins with {namespace} is left in {other}")


async def remove_from_redis(url: str, namespace: str) -> None:
    async with import_module("redis.asyncio").Redis.from_url(url) as redis:  # as the broker is, so is its client
        await redis.delete(*[key async for key in redis.scan_iter(f"{namespace}:*")])


async def remove_from_nats(url: str, namespace: str) -> None:
    client: Any = await import_module("nats").connect(url)
    streams = client.jetstream()
    for stream in await streams.streams_info():
        if stream.config.name.removeprefix("KV_").startswith(namespace):  # a bucket is a stream, too
            await streams.delete_stream(stream.config.name)
    await client.close()


async def remove_from_kafka(url: str, namespace: str) -> None:
    admin: Any = import_module("aiokafka.admin").AIOKafkaAdminClient(bootstrap_servers=urlsplit(url).netloc)
    await admin.start()
    await admin.delete_topics([topic for topic in await admin.list_topics() if topic.startswith(f"{namespace}.")])
    await admin.close()  # where its groups are, Kafka forgets with the topic


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR)  # what is retried, and what becomes a dead letter, is shown here
    match sys.argv[1:]:
        case ["--service", service, at, within]:
            asyncio.run(SERVICES[service](at, within))
        case ["--help" | "-h"]:
            print(__doc__)
        case [at]:
            asyncio.run(main(at))
        case _:
            asyncio.run(main(asyncio.run(first_that_is_up())))

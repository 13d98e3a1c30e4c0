"""Events by topic: a pattern says who reads what, and a policy what a full reader means for its publishers.

    python examples/topic_routing.py

Sensors publish what they measure to topics such as "berlin.kitchen.temperature".
"""

import asyncio

from avx_events import Event, EventEnvelope, InvalidTopicError, SubscriptionFullError, TopicBus


class Measured(Event, aggregate_id="sensor"):
    sensor: str
    value: float


TOPICS = [
    "measured",
    "berlin.alarm",
    "berlin.kitchen.temperature",
    "berlin.kitchen.humidity",
    "oslo.cellar.east.alarm",
]
PATTERNS = {
    "berlin.alarm": "this very topic",
    "berlin.*.temperature": "* is one segment",
    "*.*.*": "three segments",
    "berlin.**": "** is any number of them: all of berlin",
    "**.alarm": "all alarms",
    "**.cellar.**": "all cellars",
    "*": "alone it is everything, and so is **",
}


async def show_patterns() -> None:
    bus = TopicBus()
    subscribers = {pattern: await bus.subscribe(pattern) for pattern in PATTERNS}
    await bus.publish(Measured("s-1", 20.5))  # without a topic it goes to its event type, "measured"
    for topic in TOPICS[1:]:
        await bus.publish_to(topic, Measured("s-1", 20.5))
    await bus.close()

    for number, topic in enumerate(TOPICS, start=1):
        print(f"  {number} {topic}")
    print(f"\n  {'pattern':<20}  1 2 3 4 5")
    for pattern, subscriber in subscribers.items():
        selected = [envelope.topic async for envelope in subscriber.envelopes()]
        marks = " ".join("x" if topic in selected else "-" for topic in TOPICS)
        print(f"  {pattern:<20}  {marks}  {PATTERNS[pattern]}")


async def show_a_handler() -> None:
    bus = TopicBus()

    @bus.on("**.alarm", "**.temperature")
    async def watch(measured: Measured, envelope: EventEnvelope[Measured]) -> None:
        print(f"  {envelope.topic}: {measured.value}")

    async with bus:
        await bus.publish_to("oslo.cellar.east.alarm", Measured("s-2", 1.0))
        await bus.publish_to("oslo.cellar.temperature", Measured("s-3", -4.0))
        await bus.settled()


async def show_overflow() -> None:
    bus = TopicBus()
    readings = [Measured("s-1", 20.0 + number) for number in range(5)]
    archive = await bus.subscribe("room.*", capacity=2)  # overflow="wait": nothing is lost, the publisher waits
    display = await bus.subscribe("room.*", capacity=2, overflow="drop_oldest")  # the newest matter

    async def measure() -> None:
        for reading in readings:
            await bus.publish_to("room.temperature", reading)
            print(f"  {reading.value} is in")
        await bus.close()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(measure())
        async for event in archive:
            print(f"      {event} is read")
    print(f"  the display dropped {display.statistics().dropped}, and shows:")
    async for event in display:
        print(f"      {event}")


async def show_refusals() -> None:
    bus = TopicBus()
    meter = await bus.subscribe("meter", name="meter", capacity=1, overflow="raise")  # the publisher must know
    await bus.publish_to("meter", Measured("s-4", 1.0))
    try:
        await bus.publish_to("meter", Measured("s-4", 2.0))
    except SubscriptionFullError as exc:
        print(f"  {exc}")
    print(f"  the meter has {await meter.recv_many()}")
    for pattern in ("berlin..alarm", "temp*", "berlin.***"):
        try:
            await bus.subscribe(pattern)
        except InvalidTopicError as exc:
            print(f"  {exc}")


async def main() -> None:
    print("What the patterns select:")
    await show_patterns()
    print("\nA handler, which is told the topic by the envelope:")
    await show_a_handler()
    print("\nFive readings, for an archive that needs all and a display that needs the newest; each holds two:")
    await show_overflow()
    print("\nWhat is refused, and why:")
    await show_refusals()


if __name__ == "__main__":
    asyncio.run(main())

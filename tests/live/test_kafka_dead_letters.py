"""Dead letters in Kafka: what others left there, those of a bus seen from outside, and clusters that are away."""

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from confluent_kafka import Producer

from avx_events import DeadLetterQueue, Event, EventBus
from avx_events.core.errors import InvalidArgumentError, TransportUnavailableError
from avx_events.distributed.kafka.names import Names
from avx_events.testing.bus_contract import letters_of
from avx_events.testing.dead_letter_store_contract import a_letter
from tests.servers.ports import free_port

pytestmark = pytest.mark.live


class Cracked(Event, event_type="kafka.cracked", aggregate_id="cup"):
    """The event of the tests below."""

    cup: str


@pytest.fixture
def namespace() -> str:
    return f"live-{uuid4().hex}"


@pytest.fixture
def url(kafka_url: str, namespace: str) -> str:
    return f"{kafka_url}?namespace={namespace}"


def write(kafka_url: str, namespace: str, key: str, value: bytes) -> None:
    """Write into the letters' topic, as another program does."""
    producer = Producer({"bootstrap.servers": kafka_url.removeprefix("kafka://")})
    producer.produce(Names(namespace).letters, value, key)
    assert producer.flush(10) == 0


@pytest.mark.parametrize("document", [b"", b"null", b'{"id": "letter-0002"}', b"\xff\xfe", b"[" * 100_000])
async def test_a_document_that_is_no_letter_hides_no_other(
    kafka_url: str, url: str, namespace: str, document: bytes
) -> None:
    async with await DeadLetterQueue.connect(url) as queue:
        for number in (1, 2, 3):
            await queue.add(a_letter(number))
        write(kafka_url, namespace, "letter:letter-0002", document)

        letters = await queue.list()

        assert [letter.id for letter in letters] == ["letter-0001", "letter-0002", "letter-0003"]
        odd = letters[1]
        assert (odd.reason, odd.raw) == ("undecodable", document)
        assert datetime.now(UTC) - odd.dead_at < timedelta(minutes=1)
        assert await queue.get("letter-0002") == odd
        await queue.remove(odd)
        assert await queue.count() == 2


@pytest.mark.parametrize("claim", [b"", b"null", b'{"holder": 7}', b"[" * 100_000, b'{"holder": "me", "seconds": 0}'])
async def test_a_claim_that_is_none_claims_nothing(kafka_url: str, url: str, namespace: str, claim: bytes) -> None:
    async with await DeadLetterQueue.connect(url) as queue:
        await queue.add(a_letter(1))
        write(kafka_url, namespace, "claim:letter-0001", claim)

        assert await queue.claim("letter-0001") is not None


async def test_the_letters_of_a_bus_are_seen_from_outside(kafka_url: str, url: str, namespace: str) -> None:
    bus = await EventBus.connect(kafka_url, namespace=namespace, partitions=1)
    is_broken = True

    @bus.on(Cracked, name="glue", retry=None)
    async def glue(event: Cracked) -> None:
        if is_broken:
            raise LookupError(event.cup)

    async with bus, await DeadLetterQueue.connect(url) as outside:
        await bus.publish(Cracked("blue"))
        [letter] = await letters_of(bus, 1)

        assert await outside.list() == [letter]
        assert await outside.claim(letter.id) == letter
        assert not await bus.republish(letter)  # it is being redriven
        await outside.release(letter.id)
        is_broken = False
        assert await bus.republish(letter)
        await bus.settled()
        assert await outside.count() == 0


async def test_a_cluster_that_is_away_is_said_within_the_time() -> None:
    with pytest.raises(TransportUnavailableError):
        await DeadLetterQueue.connect(f"kafka://127.0.0.1:{free_port()}?timeout_s=0.2")


@pytest.mark.parametrize("query", ["timeout_s=soon", "timeout_s=0", "namespace=a.b", "capacity=3"])
async def test_an_option_that_is_none_is_refused(query: str) -> None:
    with pytest.raises(InvalidArgumentError):
        await DeadLetterQueue.connect(f"kafka://127.0.0.1:9092?{query}")

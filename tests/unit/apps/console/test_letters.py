"""Dead letters: grouped, given back once, mended without being seen, removed, and everybody told what happened."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import httpx
import msgspec
import pytest
from pydantic import BaseModel

from avx_events import DeadLetterQueue, Event, EventBus, UnknownEvent, event
from avx_events.apps.console import Console
from avx_events.core.event import Personal
from tests.unit.apps.console.visitors import TOKEN, as_page, visiting

HANDLER = "email_receipt"


class Bought(Event, event_type="console.bought", aggregate_id="order_id"):
    order_id: str
    email: Personal[str]
    total: int


class Shop:
    """A bus whose handler fails for as long as it is told to."""

    def __init__(self) -> None:
        self.bus = EventBus(dead_letter_queue=DeadLetterQueue())
        self.handled: list[Bought] = []
        self.problem: Exception | None = ValueError("no mail to ada@example.com")
        self.gate = asyncio.Event()
        self.gate.set()
        self.bus.on(Bought, name=HANDLER, retry=None)(self._email)

    async def _email(self, event: Bought) -> None:
        await self.gate.wait()
        if self.problem is not None and event.total < 100:
            raise self.problem
        self.handled.append(event)

    async def ids(self) -> list[str]:
        return [letter.id for letter in await self.bus.dead_letter_queue.list()]


@asynccontextmanager
async def shop_and_page(letters: int = 1) -> AsyncGenerator[tuple[Shop, httpx.AsyncClient]]:
    shop = Shop()
    async with shop.bus, visiting(Console(bus=shop.bus)) as client:
        for number in range(letters):
            await shop.bus.publish(Bought(f"o-{number}", "ada@example.com", number))
        await shop.bus.settled()
        client.headers.update(await as_page(client))
        yield shop, client


async def test_letters_are_grouped_by_handler_and_error() -> None:
    async with shop_and_page(letters=3) as (shop, client):
        shop.problem = KeyError("other")
        await shop.bus.publish(Bought("o-9", "ada@example.com", 9))
        await shop.bus.settled()
        answer = (await client.get("/api/letters/groups")).json()

    assert answer["count"] == 4
    found = [(group["handler"], group["error_type"], group["count"]) for group in answer["groups"]]
    assert found == [(HANDLER, "ValueError", 3), (HANDLER, "KeyError", 1)]


async def test_what_is_personal_is_in_no_answer_not_even_in_its_error() -> None:
    async with shop_and_page() as (shop, client):
        [letter_id] = await shop.ids()
        paths = ("/groups", f"?handler={HANDLER}&error_type=ValueError", f"/{letter_id}", f"/{letter_id}/data")
        answers = [await client.get(f"/api/letters{path}") for path in paths]

    assert [answer.status_code for answer in answers] == [200] * 4
    assert "ada@example.com" not in "".join(answer.text for answer in answers)
    assert "no mail to ••••••" in answers[2].json()["error"]


async def test_a_letter_that_is_handled_now_leaves_the_queue() -> None:
    async with shop_and_page() as (shop, client):
        shop.problem = None
        [letter_id] = await shop.ids()
        outcome = (await client.post(f"/api/letters/{letter_id}/redrive")).json()
        left = await shop.ids()

    assert (outcome["state"], left) == ("handled", [])
    assert HANDLER in outcome["says"]
    assert [event.order_id for event in shop.handled] == ["o-0"]


async def test_a_letter_that_fails_again_is_said_to_and_stays() -> None:
    async with shop_and_page() as (shop, client):
        [letter_id] = await shop.ids()
        outcome = (await client.post(f"/api/letters/{letter_id}/redrive")).json()
        [again] = await shop.bus.dead_letter_queue.list()

    assert outcome["state"] == "failed_again"
    assert "ada@example.com" not in outcome["says"]
    assert (again.id, again.redrives) == (letter_id, 1)


async def test_of_two_who_redrive_one_letter_one_does_and_the_other_is_told_who_was_first() -> None:
    shop = Shop()
    async with shop.bus, visiting(Console(bus=shop.bus, token=TOKEN)) as client:
        await shop.bus.publish(Bought("o-0", "ada@example.com", 0))
        await shop.bus.settled()
        shop.problem = None
        [letter_id] = await shop.ids()
        path = f"/api/letters/{letter_id}/redrive"
        ada, bob = ({"Authorization": f"Bearer {TOKEN}", "X-Operator": name} for name in ("Ada", "Bob"))
        async with asyncio.TaskGroup() as tasks:
            shop.gate.clear()
            asking = [tasks.create_task(client.post(path, headers=headers)) for headers in (ada, bob)]
            second = await asking[1]
            shop.gate.set()
        first = asking[0].result()
        third = await client.post(path, headers=bob)

    assert first.json()["state"] == "handled"
    assert second.json()["state"] == "taken"
    assert "Ada" in second.json()["says"]
    assert third.json()["state"] == "gone"
    assert third.json()["says"].startswith("Ada redrove it at ")
    assert len(shop.handled) == 1


async def test_of_two_consoles_on_one_queue_one_redrives() -> None:
    shop = Shop()
    async with (
        shop.bus,
        visiting(Console(bus=shop.bus)) as one,
        visiting(Console(bus=shop.bus)) as other,
    ):
        await shop.bus.publish(Bought("o-0", "ada@example.com", 0))
        await shop.bus.settled()
        shop.problem = None
        [letter_id] = await shop.ids()
        for client in (one, other):
            client.headers.update(await as_page(client))
        shop.gate.clear()
        async with asyncio.TaskGroup() as tasks:
            asking = [tasks.create_task(client.post(f"/api/letters/{letter_id}/redrive")) for client in (one, other)]
            await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
            shop.gate.set()
        states = sorted(task.result().json()["state"] for task in asking)

    assert states == ["handled", "taken"]
    assert len(shop.handled) == 1


async def test_an_edited_letter_keeps_what_was_hidden_and_its_ids() -> None:
    async with shop_and_page() as (shop, client):
        [before] = await shop.bus.dead_letter_queue.list()
        shown = (await client.get(f"/api/letters/{before.id}")).json()["text"]
        text = shown.replace('"total": 0', '"total": 100')
        edited = (await client.post(f"/api/letters/{before.id}/edit", json={"text": text})).json()
        redriven = (await client.post(f"/api/letters/{before.id}/redrive")).json()

    assert (edited["state"], redriven["state"]) == ("edited", "handled")
    assert shop.handled == [Bought("o-0", "ada@example.com", 100)]
    assert "ada@example.com" not in shown


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "no JSON object"),
        ("[1]", "no JSON object"),
        ('{"order_id": "o-0", "email": "••••••", "total": "many"}', "total"),
        ('{"order_id": "••••••", "email": "••••••", "total": 1}', "nothing was hidden"),
        ('{"email": "••••••", "total": 1}', "order_id"),
    ],
)
async def test_data_that_does_not_fit_is_refused_and_nothing_is_changed(text: str, problem: str) -> None:
    async with shop_and_page() as (shop, client):
        [before] = await shop.bus.dead_letter_queue.list()
        answer = await client.post(f"/api/letters/{before.id}/edit", json={"text": text})
        [after] = await shop.bus.dead_letter_queue.list()
        shop.problem = None
        redriven = (await client.post(f"/api/letters/{before.id}/redrive")).json()

    assert answer.status_code == 422
    assert problem in answer.json()["error"]
    assert after == before
    assert redriven["state"] == "handled"


@event("console.modelled", aggregate_id="order_id")
class Modelled(BaseModel):
    order_id: str
    email: Personal[str]
    total: int


async def test_what_a_model_says_of_data_that_does_not_fit_shows_nothing_hidden() -> None:
    async with shop_and_page(letters=0) as (shop, client):
        bus = shop.bus

        async def refuse(_: Modelled) -> None:
            raise LookupError

        bus.on(Modelled, name="model", retry=None)(refuse)
        await bus.publish(Modelled(order_id="o-1", email="ada@example.com", total=1))
        await bus.settled()
        [letter] = await bus.dead_letter_queue.list()
        shown = (await client.get(f"/api/letters/{letter.id}")).json()["text"]
        answers = [
            await client.post(f"/api/letters/{letter.id}/edit", json={"text": text})
            for text in ('{"email": "••••••"}', shown.replace("1}", '"x"}').replace(": 1", ': "x"'))
        ]

    assert "ada@" not in shown
    assert [answer.status_code for answer in answers] == [422, 422]
    assert "order_id: Field required" in answers[0].json()["error"]
    assert "total: " in answers[1].json()["error"]
    assert "ada@" not in answers[0].text + answers[1].text


async def test_large_numbers_are_edited_without_being_rounded() -> None:
    async with shop_and_page(letters=0) as (shop, client):
        await shop.bus.publish(Bought("o-1", "ada@example.com", -(2**60) - 1))
        await shop.bus.settled()
        [letter] = await shop.bus.dead_letter_queue.list()
        shown = (await client.get(f"/api/letters/{letter.id}")).json()["text"]
        await client.post(f"/api/letters/{letter.id}/edit", json={"text": shown})
        [after] = await shop.bus.dead_letter_queue.list()

    assert after.event.total == -(2**60) - 1


async def test_an_event_of_a_type_unknown_here_is_edited_by_name() -> None:
    queue = DeadLetterQueue()
    async with shop_and_page() as (shop, _):
        [letter] = await shop.bus.dead_letter_queue.list()
    assert letter.envelope is not None
    unknown = UnknownEvent("console.elsewhere", {"email": "ada@example.com", "n": 1})
    metadata = msgspec.structs.replace(letter.envelope.metadata, event_type=unknown.event_type)
    envelope = msgspec.structs.replace(letter.envelope, event=unknown, metadata=metadata)
    await queue.add(msgspec.structs.replace(letter, envelope=envelope))

    async with visiting(Console(dead_letter_queue=queue, masked_fields=["email"])) as client:
        client.headers.update(await as_page(client))
        text = (await client.get(f"/api/letters/{letter.id}")).json()["text"]
        edited = await client.post(f"/api/letters/{letter.id}/edit", json={"text": text.replace("1", "2")})
        redriven = (await client.post(f"/api/letters/{letter.id}/redrive")).json()
        [after] = await queue.list()

    assert "no class" in edited.json()["says"]
    assert json.loads(text) == {"email": "••••••", "n": 1}
    assert after.event.data == {"email": "ada@example.com", "n": 2}
    assert redriven["state"] == "refused"
    assert "Give the console the bus" in redriven["says"]


async def test_a_letter_is_removed_once() -> None:
    async with shop_and_page() as (shop, client):
        [letter_id] = await shop.ids()
        outcomes = [(await client.post(f"/api/letters/{letter_id}/remove")).json() for _ in range(2)]
        left = await shop.ids()

    assert [outcome["state"] for outcome in outcomes] == ["removed", "gone"]
    assert "removed it at" in outcomes[1]["says"]
    assert left == []


async def test_a_letter_that_is_being_redriven_is_not_removed_under_its_handler() -> None:
    async with shop_and_page() as (shop, client):
        shop.gate.clear()
        [letter_id] = await shop.ids()
        assert await shop.bus.republish(letter_id)
        removed = (await client.post(f"/api/letters/{letter_id}/remove")).json()
        shop.gate.set()
        await shop.bus.settled()
        left = await shop.ids()

    assert removed["state"] == "taken"
    assert left == [letter_id]


async def test_a_whole_group_is_redriven_and_counted() -> None:
    async with shop_and_page(letters=5) as (shop, client):
        shop.problem = None
        [group] = (await client.get("/api/letters/groups")).json()["groups"]
        which = {"handler": HANDLER, "error_type": "ValueError", "until": group["newest"]}
        answer = (await client.post("/api/letters/redrive", json=which)).json()
        left = await shop.ids()

    assert answer == {"counts": {"handled": 5}, "says": "", "next": None}
    assert left == []


async def test_of_a_group_only_what_somebody_has_seen_is_removed() -> None:
    async with shop_and_page(letters=2) as (shop, client):
        [group] = (await client.get("/api/letters/groups")).json()["groups"]
        await shop.bus.publish(Bought("later", "ada@example.com", 1))
        await shop.bus.settled()
        which = {"handler": HANDLER, "error_type": "ValueError", "until": group["newest"]}
        answer = (await client.post("/api/letters/remove", json=which)).json()
        [left] = await shop.bus.dead_letter_queue.list()

    assert answer["counts"] == {"removed": 2}
    assert left.event.order_id == "later"


async def test_a_group_is_counted_over_several_pages_of_the_queue() -> None:
    async with shop_and_page(letters=0) as (shop, client):
        await shop.bus.publish_many([Bought(f"o-{number}", "ada@example.com", 0) for number in range(450)])
        await shop.bus.settled()
        [group] = (await client.get("/api/letters/groups")).json()["groups"]
        count = (await client.get("/api/letters/count")).json()
        which = {"handler": HANDLER, "error_type": "ValueError", "until": group["newest"]}
        answer = (await client.post("/api/letters/remove", json=which)).json()

    assert group["count"] == count["count"] == 450
    assert group["oldest"] < group["newest"]
    assert answer["counts"] == {"removed": 450}


async def test_letters_come_in_pages() -> None:
    async with shop_and_page(letters=7) as (_, client):
        query = {"handler": HANDLER, "error_type": "ValueError", "limit": "3"}
        keys: list[list[str]] = []
        after = ""
        for _ in range(3):
            page = (await client.get("/api/letters", params=query | {"after": after})).json()
            keys.append([letter["metadata"]["aggregate_id"] for letter in page["letters"]])
            after = page["next"]

    assert keys == [["o-0", "o-1", "o-2"], ["o-3", "o-4", "o-5"], ["o-6"]]
    assert after is None


@pytest.mark.parametrize("body", ["{", "{}", '{"handler": 1}', '{"handler": "h", "error_type": "e", "until": "2026"}'])
async def test_a_request_that_does_not_fit_is_refused(body: str) -> None:
    async with shop_and_page() as (shop, client):
        as_json = {"Content-Type": "application/json"}
        answer = await client.post("/api/letters/remove", content=body, headers=as_json)
        as_form = await client.post("/api/letters/remove", content=body)
        left = await shop.ids()

    assert (answer.status_code, as_form.status_code, len(left)) == (422, 415, 1)


@pytest.mark.parametrize("action", ["redrive", "edit", "remove"])
async def test_nothing_is_done_without_the_token_of_the_page(action: str) -> None:
    async with shop_and_page() as (shop, client):
        del client.headers["X-Form-Token"]
        [letter_id] = await shop.ids()
        answer = await client.post(f"/api/letters/{letter_id}/{action}", json={"text": "{}"})
        [letter] = await shop.bus.dead_letter_queue.list()

    assert (answer.status_code, letter.redrives) == (403, 0)


async def test_without_a_queue_the_page_says_how_to_give_one() -> None:
    async with visiting(Console()) as client:
        answer = await client.get("/api/letters/groups")

    assert "dead_letter_queue=" in answer.json()["error"]

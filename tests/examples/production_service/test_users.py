"""Users over HTTP."""

import asyncio
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from examples.production_service.email_addresses import EmailAddresses
from tests.examples.production_service.serving import create_user, serving


async def test_a_new_user_is_in_the_read_model_when_the_answer_comes(client: httpx.AsyncClient) -> None:
    created = await client.post("/users", json={"email": "jane@example.com", "name": "Jane"})
    user_id = created.json()["user_id"]
    shown = await client.get(f"/users/{user_id}")

    assert (created.status_code, created.json()) == (201, {"user_id": user_id})
    assert created.headers["location"] == f"/users/{user_id}"
    assert shown.status_code == 200
    assert shown.json() == {"user_id": user_id, "email": "jane@example.com", "name": "Jane", "version": 1}


async def test_a_changed_address_shows_at_once(client: httpx.AsyncClient) -> None:
    user_id = await create_user(client)

    changed = await client.patch(f"/users/{user_id}", json={"email": "jane@example.org"})
    shown = await client.get(f"/users/{user_id}")

    assert changed.status_code == 200
    assert changed.json() == shown.json()
    assert (shown.json()["email"], shown.json()["version"]) == ("jane@example.org", 2)


async def test_a_change_to_the_same_address_is_no_event(client: httpx.AsyncClient) -> None:
    user_id = await create_user(client, "jane@example.com")

    changed = await client.patch(f"/users/{user_id}", json={"email": "jane@example.com"})

    assert (changed.status_code, changed.json()["version"]) == (200, 1)


async def test_another_spelling_of_the_own_address_may_be_taken(client: httpx.AsyncClient) -> None:
    user_id = await create_user(client, "jane@example.com")

    changed = await client.patch(f"/users/{user_id}", json={"email": "Jane@Example.com"})

    assert (changed.status_code, changed.json()["email"]) == (200, "Jane@Example.com")


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ({"email": "not an address", "name": "Jane"}, "email must be an address"),
        ({"email": "", "name": "Jane"}, "email must be an address"),
        ({"email": "jane@example", "name": "Jane"}, "email must be an address"),
        ({"email": "jane@@example.com", "name": "Jane"}, "email must be an address"),
        ({"email": " jane@example.com", "name": "Jane"}, "email must be an address"),
        ({"email": "jane\x00@example.com", "name": "Jane"}, "email must be an address"),
        ({"email": f"{'j' * 250}@example.com", "name": "Jane"}, "email must be an address"),
        ({"email": "\ufdfa" * 240 + "@example.com", "name": "Jane"}, "email must be an address"),
        ({"email": "jane@example.com", "name": " "}, "name must be 1 to 200"),
        ({"email": "jane@example.com", "name": "J" * 201}, "name must be 1 to 200"),
        ({"email": "jane@example.com", "name": "Jane\nDoe"}, "name must be 1 to 200"),
        ({"email": 1, "name": "Jane"}, "Expected `str`, got `int` - at `$.email`"),
        ({"email": "jane@example.com", "name": None}, "Expected `str`, got `null` - at `$.name`"),
        ({"email": "jane@example.com"}, "missing required field `name`"),
        ({"email": "jane@example.com", "name": "Jane", "admin": True}, "unknown field `admin`"),
        (["jane@example.com", "Jane"], "Expected `object`, got `array`"),
    ],
)
async def test_what_is_no_user_is_refused_with_a_sentence(
    client: httpx.AsyncClient, body: object, problem: str
) -> None:
    refused = await client.post("/users", json=body)
    everybody = await client.get("/users")

    assert refused.status_code == 422
    assert list(refused.json()) == ["error"]
    assert problem in refused.json()["error"]
    assert everybody.json() == []


async def test_all_that_is_wrong_is_said_at_once(client: httpx.AsyncClient) -> None:
    refused = await client.post("/users", json={"email": "?", "name": ""})

    assert "email must" in refused.json()["error"]
    assert "name must" in refused.json()["error"]


@pytest.mark.parametrize("email", ["jane@example.com", "JANE@example.com", "\uff4aane@example.com"])
async def test_an_address_belongs_to_one_user_whatever_its_spelling(client: httpx.AsyncClient, email: str) -> None:
    await create_user(client, "jane@example.com")
    other = await create_user(client, "john@example.com", "John")

    created = await client.post("/users", json={"email": email, "name": "Jane"})
    changed = await client.patch(f"/users/{other}", json={"email": email})

    for refused in (created, changed):
        assert refused.status_code == 422
        assert refused.json()["error"] == f"email {email!r} is taken"


async def test_of_many_who_want_an_address_at_once_one_gets_it(client: httpx.AsyncClient) -> None:
    wanted = [{"email": "jane@example.com", "name": f"Jane {number}"} for number in range(20)]

    async with asyncio.TaskGroup() as clients:
        requests = [clients.create_task(client.post("/users", json=body)) for body in wanted]
    everybody = await client.get("/users")

    statuses = [request.result().status_code for request in requests]
    assert statuses.count(201) == 1
    assert set(statuses) <= {201, 409, 422}  # 409: whoever was first is not done yet
    assert [user["email"] for user in everybody.json()] == ["jane@example.com"]


async def test_an_address_that_a_request_left_reserved_when_it_ended_is_told_as_free_later() -> None:
    nobody = "user-00000000-0000-0000-0000-00000000000a"
    async with serving() as (client, service):
        await EmailAddresses(service.store).reserve("jane@example.com", user_id=nobody)
        jane = await create_user(client, "jane@example.org")

        created = await client.post("/users", json={"email": "jane@example.com", "name": "Jane"})
        changed = await client.patch(f"/users/{jane}", json={"email": "jane@example.com"})

    for refused in (created, changed):
        assert refused.status_code == 409
        assert 25 <= int(refused.headers["retry-after"]) <= 30
        assert f"try again in {refused.headers['retry-after']} s" in refused.json()["error"]


async def test_changes_that_meet_are_decided_again_one_after_the_other(client: httpx.AsyncClient) -> None:
    user_id = await create_user(client)
    wanted = [f"jane-{number}@example.com" for number in range(3)]

    async with asyncio.TaskGroup() as clients:
        changes = [clients.create_task(client.patch(f"/users/{user_id}", json={"email": email})) for email in wanted]
    history = (await client.get(f"/users/{user_id}/history")).json()

    assert [change.result().status_code for change in changes] == [200, 200, 200]
    assert {event["data"]["new_email"] for event in history[1:]} == set(wanted)


async def test_an_address_that_was_given_up_is_free_at_once(client: httpx.AsyncClient) -> None:
    user_id = await create_user(client, "jane@example.com")
    await client.patch(f"/users/{user_id}", json={"email": "jane@example.org"})

    created = await client.post("/users", json={"email": "jane@example.com", "name": "Another Jane"})

    assert created.status_code == 201


async def test_the_past_is_shown_at_a_version(client: httpx.AsyncClient) -> None:
    user_id = await create_user(client, "jane@example.com")
    await client.patch(f"/users/{user_id}", json={"email": "jane@example.org"})

    emails = [(await client.get(f"/users/{user_id}?at_version={version}")).json()["email"] for version in (1, 2)]
    future = await client.get(f"/users/{user_id}?at_version=3")

    assert emails == ["jane@example.com", "jane@example.org"]
    assert (future.status_code, future.json()) == (404, {"error": f"there is no version 3 of user {user_id!r}"})


@pytest.mark.parametrize("at_version", ["0", "-1", "1.0", "one", "", "\u0661", "9" * 30])
async def test_a_version_that_is_none_is_refused(client: httpx.AsyncClient, at_version: str) -> None:
    user_id = await create_user(client)

    refused = await client.get(f"/users/{user_id}", params={"at_version": at_version})

    assert refused.status_code == 422
    assert refused.json()["error"].startswith("at_version must be a whole number from 1")


async def test_the_history_has_each_event_with_its_time_and_data(client: httpx.AsyncClient) -> None:
    user_id = await create_user(client, "jane@example.com", "Jane")
    await client.patch(f"/users/{user_id}", json={"email": "jane@example.org"})

    history = (await client.get(f"/users/{user_id}/history")).json()

    times = [datetime.fromisoformat(event.pop("timestamp")) for event in history]
    assert datetime.now(UTC) - timedelta(minutes=1) < times[0] <= times[1] <= datetime.now(UTC)
    assert history == [
        {
            "version": 1,
            "event_type": "shop.user.created",
            "data": {"user_id": user_id, "email": "jane@example.com", "name": "Jane"},
        },
        {
            "version": 2,
            "event_type": "shop.user.email_changed",
            "data": {"user_id": user_id, "new_email": "jane@example.org"},
        },
    ]


@pytest.mark.parametrize(
    "user_id",
    [
        "user-01a2138a-372b-7c33-b71e-ef50c6380000",
        "order-01a2138a-372b-7c33-b71e-ef50c6380000",
        "email-jane@example.com",
        "user-",
        "%00",
        "%ff",
        "u" * 5_000,
        "' OR 1=1 --",
    ],
)
@pytest.mark.parametrize("path", ["/users/{}", "/users/{}?at_version=1", "/users/{}/history"])
async def test_an_unknown_user_is_not_found(client: httpx.AsyncClient, path: str, user_id: str) -> None:
    await create_user(client, "jane@example.com")

    shown = await client.get(path.format(user_id))
    changed = await client.patch(f"/users/{user_id}", json={"email": "new@example.com"})

    for answer in (shown, changed):
        assert answer.status_code == 404
        assert answer.json()["error"].startswith("there is no user")


async def test_users_are_listed_in_pages_in_the_order_in_which_they_came(client: httpx.AsyncClient) -> None:
    ids = [await create_user(client, f"user-{number}@example.com", f"User {number}") for number in range(5)]

    pages: list[list[str]] = []
    path: str | None = "/users?limit=2"
    while path is not None:
        page = await client.get(path)
        pages.append([user["user_id"] for user in page.json()])
        path = page.links["next"]["url"] if "next" in page.links else None

    assert pages == [ids[:2], ids[2:4], ids[4:]]


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ("limit=0", "limit must be a whole number from 1 to 1,000"),
        ("limit=1001", "limit must be a whole number from 1 to 1,000"),
        ("limit=ten", "limit must be a whole number from 1 to 1,000"),
        ("limit=", "limit must be a whole number from 1 to 1,000"),
        ("after=nobody", "after must be the user_id of a user, not 'nobody'"),
        ("after=", "after must be the user_id of a user, not ''"),
    ],
)
async def test_paging_that_makes_no_sense_is_refused(client: httpx.AsyncClient, query: str, problem: str) -> None:
    refused = await client.get(f"/users?{query}")

    assert (refused.status_code, refused.json()) == (422, {"error": problem})

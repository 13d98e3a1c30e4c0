"""Orders over HTTP."""

import httpx
import pytest

from tests.examples.production_service.serving import create_user


async def test_an_order_of_a_user_is_there_when_the_answer_comes(client: httpx.AsyncClient) -> None:
    user_id = await create_user(client)

    placed = await client.post("/orders", json={"user_id": user_id, "total": 0.1})
    order_id = placed.json()["order_id"]
    shown = await client.get(f"/orders/{order_id}")

    assert (placed.status_code, placed.json()) == (201, {"order_id": order_id})
    assert placed.headers["location"] == f"/orders/{order_id}"
    assert shown.json() == {"order_id": order_id, "user_id": user_id, "total": 0.1, "version": 1}


async def test_an_order_for_nobody_is_refused(client: httpx.AsyncClient) -> None:
    refused = await client.post("/orders", json={"user_id": "nobody", "total": 1})

    assert (refused.status_code, refused.json()) == (422, {"error": "user_id 'nobody' is no user"})


@pytest.mark.parametrize("total", ["0", "-1", "0.001", "1e400", "10000000.01", '"1"', "true", "null", "[]"])
async def test_a_total_that_is_no_amount_is_refused(client: httpx.AsyncClient, total: str) -> None:
    user_id = await create_user(client)

    refused = await client.post("/orders", content=f'{{"user_id": "{user_id}", "total": {total}}}')

    assert refused.status_code == 422
    assert "total" in refused.json()["error"]


@pytest.mark.parametrize("order_id", ["order-01a2138a-372b-7c33-b71e-ef50c6380000", "none", "%00"])
async def test_an_unknown_order_is_not_found(client: httpx.AsyncClient, order_id: str) -> None:
    answer = await client.get(f"/orders/{order_id}")

    assert answer.status_code == 404
    assert answer.json()["error"].startswith("there is no order")

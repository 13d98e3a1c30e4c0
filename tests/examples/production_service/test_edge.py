"""What all routes have in common: bodies, methods, correlation, idempotency, and errors that nobody expected."""

from collections.abc import AsyncGenerator

import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from examples.production_service.http.answers import UnexpectedErrors
from examples.production_service.http.correlation import Correlation
from examples.production_service.http.requests import MAX_BODY_BYTES
from tests.examples.production_service.serving import create_user, handled, serving


async def chunks(size_bytes: int) -> AsyncGenerator[bytes, None]:
    """Give a body of so many bytes in pieces, so that no Content-Length says how many."""
    for _ in range(0, size_bytes, 65_536):
        yield b" " * 65_536


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"email=jane@example.com",
        b'{"email": NaN, "name": "Jane"}',
        b'{"email": "\\ud800", "name": "Jane"}',
        b'{"email": "\xff", "name": "Jane"}',
        b'{"email": "jane@example.com", "name": "Jane"} {}',
        b'\xef\xbb\xbf{"email": "jane@example.com", "name": "Jane"}',
    ],
)
async def test_a_body_that_is_no_json_is_refused_with_a_sentence(client: httpx.AsyncClient, body: bytes) -> None:
    refused = await client.post("/users", content=body)

    assert refused.status_code == 400
    assert refused.json()["error"].startswith("the body is no JSON: ")


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b'{"email": "jane@example.com", "name": "\\ud800"}', "a text in it has half of a surrogate pair"),
        (b'{"email": "jane@example.com", "name": "\\udc00\\ud800"}', "a text in it has half of a surrogate pair"),
        (b'{"\\ud800": "jane@example.com"}', "a text in it has half of a surrogate pair"),
        (b'{"email": "jane@example.com", "name": "\\ud800', "Input data was truncated"),
        (b'{"email": "jane@example.com", "name": "Jane"', "Input data was truncated"),
        (b'{"email": NaN, "name": "Jane"}', "JSON is malformed: invalid character (byte 10)"),
        (b'\xef\xbb\xbf{"email": "jane@example.com", "name": "Jane"}', "JSON is malformed: invalid character (byte 0)"),
    ],
)
async def test_what_is_said_of_a_body_that_is_no_json_is_true(
    client: httpx.AsyncClient, body: bytes, problem: str
) -> None:
    refused = await client.post("/users", content=body)

    assert refused.status_code == 400
    assert refused.json()["error"].startswith(f"the body is no JSON: {problem}")


async def test_a_body_of_brackets_without_end_is_refused(client: httpx.AsyncClient) -> None:
    refused = await client.post("/users", content=b'{"email":' + b"[" * 100_000)

    assert refused.status_code == 422


@pytest.mark.parametrize("body", [b" " * (MAX_BODY_BYTES + 1), chunks(MAX_BODY_BYTES + 1), chunks(20 * MAX_BODY_BYTES)])
async def test_a_body_that_is_too_large_is_refused(
    client: httpx.AsyncClient, body: bytes | AsyncGenerator[bytes, None]
) -> None:
    refused = await client.post("/users", content=body)

    assert refused.status_code == 413
    assert refused.json() == {"error": "the body is larger than 1,048,576 bytes"}


async def test_a_body_of_the_largest_size_is_read(client: httpx.AsyncClient) -> None:
    body = b'{"email": "jane@example.com", "name": "Jane"}'

    created = await client.post("/users", content=body + b" " * (MAX_BODY_BYTES - len(body)))

    assert created.status_code == 201


async def test_a_method_that_a_path_does_not_take_is_told_which_it_takes(client: httpx.AsyncClient) -> None:
    refused = await client.delete("/users")

    assert (refused.status_code, refused.json()) == (405, {"error": "'/users' does not take DELETE"})
    assert refused.headers["allow"] == "GET, HEAD, POST"


async def test_a_path_that_is_not_there_is_not_found(client: httpx.AsyncClient) -> None:
    answer = await client.get("/nothing/here")

    assert (answer.status_code, answer.json()) == (404, {"error": "there is nothing at '/nothing/here'"})


@pytest.mark.parametrize("path", ["/users/", "/users//history", "/health/", "//users"])
async def test_a_path_that_is_almost_there_is_not_found_and_leads_nowhere_else(
    client: httpx.AsyncClient, path: str
) -> None:
    answer = await client.get(f"http://service{path}", headers={"Host": "evil.example"})

    assert (answer.status_code, answer.json()) == (404, {"error": f"there is nothing at {path!r}"})
    assert "location" not in answer.headers


@pytest.mark.parametrize(
    ("method", "path", "problem"),
    [
        ("GET", "/users?offset=3", "GET '/users' takes no query parameter 'offset', only after and limit"),
        ("HEAD", "/users?Limit=3", ""),
        ("GET", "/users?limit=3&limit=4", "limit may be given once"),
        ("GET", "/users?as_of", "GET '/users' takes no query parameter 'as_of', only after and limit"),
        ("POST", "/users?limit=3", "POST '/users' takes no query parameter 'limit'"),
        ("GET", "/users/nobody?as_of=1", "GET '/users/nobody' takes no query parameter 'as_of', only at_version"),
        ("PATCH", "/users/nobody?at_version=1", "PATCH '/users/nobody' takes no query parameter 'at_version'"),
        ("GET", "/users/nobody/history?limit=1", "GET '/users/nobody/history' takes no query parameter 'limit'"),
        ("GET", "/health?now=1", "GET '/health' takes no query parameter 'now'"),
    ],
)
async def test_a_query_parameter_that_is_none_is_refused(
    client: httpx.AsyncClient, method: str, path: str, problem: str
) -> None:
    refused = await client.request(method, path, json={"email": "jane@example.com", "name": "Jane"})

    assert refused.status_code == 422
    assert method == "HEAD" or refused.json() == {"error": problem}


async def test_head_is_get_without_a_body(client: httpx.AsyncClient) -> None:
    user_id = await create_user(client)

    answer = await client.head(f"/users/{user_id}")

    assert (answer.status_code, answer.content) == (200, b"")


async def test_a_correlation_id_goes_into_all_events_and_comes_back() -> None:
    async with serving() as (client, service):
        created = await client.post(
            "/users", json={"email": "jane@example.com", "name": "Jane"}, headers={"X-Correlation-ID": "trace-7"}
        )
        await handled(service)
        log = [stored async for stored in service.store.read_all()]

    assert created.headers["x-correlation-id"] == "trace-7"
    assert {stored.metadata.event_type: stored.metadata.correlation_id for stored in log} == {
        "shop.email.reserved": "trace-7",
        "shop.user.created": "trace-7",
        "shop.welcome_mail.sent": "trace-7",
    }


async def test_a_request_id_comes_back_and_is_the_correlation_id_where_there_is_no_other(
    client: httpx.AsyncClient,
) -> None:
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    trace = {"traceparent": f"00-{trace_id}-00f067aa0ba902b7-01"}
    alone = await client.get("/health", headers={"X-Request-ID": "request-7"})
    traced = await client.get("/health", headers={"X-Request-ID": "request-7", **trace})
    told = await client.get("/health", headers={"X-Request-ID": "request-7", "X-Correlation-ID": "trace-7", **trace})

    assert [answer.headers["x-request-id"] for answer in (alone, traced, told)] == ["request-7"] * 3
    assert [answer.headers["x-correlation-id"] for answer in (alone, traced, told)] == [
        "request-7",
        trace_id,
        "trace-7",
    ]


@pytest.mark.parametrize("given", ["", "two words", "x" * 129])
async def test_a_request_id_that_cannot_be_passed_on_is_replaced(client: httpx.AsyncClient, given: str) -> None:
    answer = await client.get("/health", headers={"X-Request-ID": given})

    assert answer.status_code == 200
    assert len(answer.headers["x-request-id"]) == 36


@pytest.mark.parametrize("given", ["", "4bf9", f"00-{'0' * 32}-00f067aa0ba902b7-01", f"ff-{'a' * 32}-{'b' * 16}-01"])
async def test_a_trace_that_is_none_is_as_if_it_were_not_there(client: httpx.AsyncClient, given: str) -> None:
    answer = await client.get("/health", headers={"X-Request-ID": "request-7", "traceparent": given})

    assert answer.headers["x-correlation-id"] == "request-7"


async def test_each_request_without_a_correlation_id_gets_its_own(client: httpx.AsyncClient) -> None:
    first, second = await client.get("/health"), await client.get("/nothing")

    assert first.headers["x-correlation-id"] != second.headers["x-correlation-id"]


@pytest.mark.parametrize("given", ["", "two words", "x" * 129, "tab\there", "ünï"])
async def test_a_correlation_id_that_cannot_be_passed_on_is_refused(client: httpx.AsyncClient, given: str) -> None:
    refused = await client.get("/health", headers={b"X-Correlation-ID": given.encode()})

    assert refused.status_code == 400
    assert refused.json()["error"].startswith("X-Correlation-ID must be 1 to 128")
    assert refused.headers["x-correlation-id"] != given


async def test_a_request_that_comes_again_with_its_key_has_its_effect_once(client: httpx.AsyncClient) -> None:
    body, key = {"email": "jane@example.com", "name": "Jane"}, {"Idempotency-Key": "5f3c"}

    first = await client.post("/users", json=body, headers=key)
    again = await client.post("/users", json=body, headers=key)
    other = await client.post("/users", json={**body, "name": "John"}, headers=key)
    everybody = await client.get("/users")

    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json() == again.json()
    assert other.status_code == 422
    assert "5f3c" in other.json()["error"]
    assert len(everybody.json()) == 1


async def test_a_request_that_was_refused_may_come_again_with_its_key(client: httpx.AsyncClient) -> None:
    key = {"Idempotency-Key": "5f3c"}
    jane = await create_user(client, "jane@example.com")

    refused = await client.post("/users", json={"email": "jane@example.com", "name": "John"}, headers=key)
    await client.patch(f"/users/{jane}", json={"email": "jane@example.org"})
    accepted = await client.post("/users", json={"email": "jane@example.com", "name": "John"}, headers=key)

    assert (refused.status_code, accepted.status_code) == (422, 201)


@pytest.mark.parametrize("key", ["", "k" * 256, "tab\there"])
async def test_a_key_that_is_none_is_refused(client: httpx.AsyncClient, key: str) -> None:
    refused = await client.post(
        "/users", json={"email": "jane@example.com", "name": "Jane"}, headers={"Idempotency-Key": key}
    )

    assert (refused.status_code, refused.json()) == (
        400,
        {"error": "Idempotency-Key must be 1 to 255 printable characters"},
    )


async def test_what_comes_while_the_store_is_closed_may_be_tried_again() -> None:
    async with serving() as (client, service):
        await service.store.close()
        created = await client.post("/users", json={"email": "jane@example.com", "name": "Jane"})
        shown = await client.get("/users/nobody")

    for answer in (created, shown):
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


async def test_an_error_that_nobody_expected_is_in_the_log_and_not_in_the_answer(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def divide(_: Request) -> Response:
        return Response(str(1 // 0))

    app = Starlette(routes=[Route("/", divide)], middleware=[Middleware(Correlation), Middleware(UnexpectedErrors)])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as client:
        answer = await client.get("/", headers={"X-Correlation-ID": "trace-7"})

    assert answer.status_code == 500
    assert answer.headers["x-correlation-id"] == "trace-7"
    assert "ZeroDivisionError" not in answer.text
    assert "ZeroDivisionError" in caplog.text

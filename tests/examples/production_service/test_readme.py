"""What the README says of endpoints, headers and settings, beside what the service does."""

import re
from pathlib import Path
from typing import Any, Final, NamedTuple

import httpx
import pytest
from starlette.routing import Route

from avx_events.observability import Settings
from examples.production_service.http.app import http_app
from tests.examples.production_service.serving import create_user, serving

README: Final = (Path(__file__).parents[3] / "examples/production_service/README.md").read_text()
VALUES: Final[dict[str, object]] = {"email": "john@example.com", "name": "John", "user_id": "user-1", "total": 12.5}


class Row(NamedTuple):
    """An endpoint in the README's table."""

    endpoint: str
    body: str
    query: str
    answers: str

    @property
    def method(self) -> str:
        """Its method."""
        return self.endpoint.split()[0]

    @property
    def path(self) -> str:
        """The pattern of its path."""
        return self.endpoint.split()[1]


ROWS: Final = [
    Row(*(cell.strip().removeprefix("`").removesuffix("`") for cell in line.strip("|").split("|")))
    for line in README.splitlines()
    if re.match(r"\| `[A-Z]+ /", line)
]


def names_in(cell: str) -> list[str]:
    """Return the names in a cell."""
    return re.findall(r"\w+", cell)


async def test_the_readme_has_every_endpoint_and_no_other() -> None:
    async with serving() as (_, service):
        routes = [route for route in http_app(service).routes if isinstance(route, Route)]

    served = {(method, route.path) for route in routes for method in route.methods or () if method != "HEAD"}
    assert {(row.method, row.path) for row in ROWS} == served


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.endpoint)
async def test_an_endpoint_takes_the_query_that_the_readme_says_and_nothing_else(
    client: httpx.AsyncClient, row: Row
) -> None:
    refused = await client.request(row.method, row.path, params={"unknown": "1"})

    only = f", only {' and '.join(names_in(row.query))}" if row.query else ""
    assert refused.json() == {"error": f"{row.method} {row.path!r} takes no query parameter 'unknown'{only}"}


@pytest.mark.parametrize("row", [row for row in ROWS if row.method != "GET"], ids=lambda row: row.endpoint)
async def test_an_endpoint_wants_the_body_that_the_readme_says(client: httpx.AsyncClient, row: Row) -> None:
    fields = names_in(row.body)

    refused = [
        await client.request(row.method, row.path, json={other: VALUES[other] for other in fields if other != field})
        for field in fields
    ]

    missing = [f"the body does not fit: Object missing required field `{field}`" for field in fields]
    assert fields
    assert [answer.json()["error"] for answer in refused] == missing


@pytest.mark.parametrize("row", [row for row in ROWS if "{" in row.answers], ids=lambda row: row.endpoint)
async def test_an_answer_has_the_fields_that_the_readme_says(client: httpx.AsyncClient, row: Row) -> None:
    ids = {"user_id": await create_user(client)}
    ids |= (await client.post("/orders", json={"user_id": ids["user_id"], "total": 12.5})).json()
    values = VALUES | ids

    answer = await client.request(
        row.method, row.path.format(**ids), json={field: values[field] for field in names_in(row.body)}
    )

    shown: Any = answer.json()
    shown_fields = list(shown[0] if "a list of" in row.answers else shown)
    assert row.answers.startswith(str(answer.status_code))
    assert shown_fields == re.findall(r'"(\w+)"', row.answers.partition("}")[0])


def test_the_settings_are_as_the_readme_says() -> None:
    defaults = Settings()

    assert "| `AVX__HTTP__BIND_ADDR` |" in README
    assert f"| `{defaults.http.bind_addr}` |" in README
    assert f"| `{defaults.events.store_url}`" in README
    for name in ("STORE_URL", "BUS_URL", "GROUP", "NAMESPACE", "WORKERS", "SNAPSHOT_S", "DRAIN_TIMEOUT_S", "LOG_LEVEL"):
        assert f"| `AVX_EVENTS__{name}` |" in README
    assert "Without a host, as `:8080`, it is 127.0.0.1" in README
    assert Settings.load({"AVX__HTTP__BIND_ADDR": ":8080"}).http.host == "127.0.0.1"

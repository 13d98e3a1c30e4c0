"""What README.md says of commands, names and numbers is so."""

import re
import shlex
import tomllib
from typing import Final, NamedTuple

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Route

import avx_events
import avx_events.testing
from examples.production_service.http.app import http_app
from tests.docs.pages import ROOT
from tests.examples.production_service.serving import serving

README: Final = (ROOT / "README.md").read_text("utf-8")
COMMANDS: Final = [
    shlex.split(line.removeprefix("$ "), comments=True)
    for block in re.findall(r"^```console\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
    if line.startswith("$ ")
]
NAMES_IN_THE_MAP: Final = [
    name
    for row in re.findall(r"^\| (?!in Rust|-).*? \| (.*?) \|.*\|$", README.partition("## Coming from")[2], re.MULTILINE)
    for name in re.findall(r"`([A-Z]\w+(?:\.\w+)?)`", row)
]


class Exchange(NamedTuple):
    """A request of the service, as curl makes it, and the answer that the page shows."""

    method: str
    path: str
    body: str | None
    answer: str


def exchanges() -> list[Exchange]:
    """Return what the page asks the service."""
    shown = re.findall(r"^\$ curl (.*)\n(\{.*\})$", README, flags=re.MULTILINE)
    return [_exchange(shlex.split(arguments), answer) for arguments, answer in shown]


def _exchange(arguments: list[str], answer: str) -> Exchange:
    options = {name: arguments.pop(arguments.index(name) + 1) for name in ("-X", "-d") if name in arguments}
    [url] = [argument for argument in arguments if argument not in options]
    body = options.get("-d")
    method = options.get("-X", "GET" if body is None else "POST")
    return Exchange(method, url.removeprefix("127.0.0.1:8080"), body, answer)


def endpoints() -> set[tuple[str, str]]:
    """Return the paths of the service that the page lists, each with a method that it takes."""
    rows = re.findall(r"^\| (`/.*?) \| (.*) \|$", README, flags=re.MULTILINE)
    return {
        (path, method)
        for paths, methods in rows
        for path in re.findall(r"`(/.*?)`", paths)
        for method in re.findall(r"`([A-Z]+)`", methods)
    }


def without_ids(answer: str) -> str:
    """Return ``answer`` with the same id for every user."""
    return re.sub(r"user-[0-9a-f-]{36}", "user-1", answer)


async def ask(client: httpx.AsyncClient, exchange: Exchange, user_id: str) -> str:
    """Make a request, for the user that ``$ID`` stands for, and return the answer."""
    path = exchange.path.replace("$ID", user_id)
    return (await client.request(exchange.method, path, content=exchange.body)).text.strip()


async def test_the_service_answers_as_it_shows() -> None:
    first, *others = exchanges()

    async with serving() as (client, _):
        created = await ask(client, first, "")
        [user_id] = re.findall(r"user-[0-9a-f-]{36}", created)
        answers = [created, *[await ask(client, exchange, user_id) for exchange in others]]

    assert [without_ids(answer) for answer in answers] == [without_ids(shown.answer) for shown in (first, *others)]


async def test_the_endpoints_it_lists_are_those_of_the_service() -> None:
    async with serving() as (_, service):
        app = http_app(service)
    assert isinstance(app, Starlette)
    routes = [route for route in app.routes if isinstance(route, Route)]

    assert endpoints() == {(route.path, method) for route in routes for method in (route.methods or set()) - {"HEAD"}}


def test_the_make_targets_it_names_are_there() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = {command[1] for command in COMMANDS if command[0] == "make"} | set(re.findall(r"`make (\w+)`", README))

    assert {"run", "test"} <= targets <= set(re.findall(r"^(\w+):", makefile, flags=re.MULTILINE))


def test_the_extras_it_names_are_there() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]

    assert set(re.findall(r"'\.\[(\w+)\]'", README)) <= set(project["optional-dependencies"])


@pytest.mark.parametrize("name", sorted(set(NAMES_IN_THE_MAP)))
def test_what_it_maps_a_name_to_is_there(name: str) -> None:
    class_name, _, attribute = name.partition(".")
    found = getattr(avx_events, class_name, None) or getattr(avx_events.testing, class_name, None)

    assert found is not None
    assert not attribute or hasattr(found, attribute)

"""Who is answered, and what a browser is told: tokens, hosts, origins, sessions."""

import subprocess
import sys

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import Message

from avx_events import InvalidArgumentError, NotRunningError
from avx_events.apps.console import Console, serve
from avx_events.testing import ManualClock
from tests.unit.apps.console.visitors import TOKEN, as_page, visiting

PAGES = ["/live", "/streams", "/letters", "/handlers", "/projections"]
READS = [*PAGES, "/", "/api/live", "/api/live/1/data", "/api/session", "/api/correlated?id=1"]


@pytest.mark.parametrize("path", READS)
async def test_with_a_token_nothing_is_shown_to_who_does_not_have_it(path: str) -> None:
    async with visiting(Console(token=TOKEN)) as client:
        answer = await client.get(path, headers={"Authorization": "Bearer another-token-of-letters"})

    if path.startswith("/api/"):
        assert answer.status_code == 401
    else:
        assert (answer.status_code, answer.headers["location"].partition("?")[0]) == (303, "/login")


async def test_a_program_shows_the_token_with_each_request() -> None:
    async with visiting(Console(token=TOKEN), headers={"Authorization": f"Bearer {TOKEN}"}) as client:
        answer = await client.get("/api/session")

    assert answer.status_code == 200


async def test_who_signs_in_gets_a_cookie_that_no_script_and_no_other_site_has() -> None:
    async with visiting(Console(token=TOKEN), url="https://ops.example.com", address="10.0.0.9") as client:
        login = await client.post("/login", data={"token": TOKEN, "operator": "  Ada   L. ", "next": "letters"})
        session = await client.get("/api/session")

    assert (login.status_code, login.headers["location"]) == (303, "/letters")
    cookie = login.headers["set-cookie"]
    assert all(part in cookie for part in ("HttpOnly", "SameSite=Strict", "Secure", "Path=/"))
    assert TOKEN not in cookie
    assert session.json()["operator"] == "Ada L."


async def test_a_wrong_token_is_said_to_be_wrong_and_gives_no_cookie() -> None:
    async with visiting(Console(token=TOKEN)) as client:
        answer = await client.post("/login", data={"token": TOKEN + "x"})

    assert answer.status_code == 403
    assert "That is not the token." in answer.text
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("wanted", ["//evil.example", "https://evil.example/live", "../x", "/\\evil.example"])
async def test_signing_in_leads_to_no_other_place_than_a_page_of_ours(wanted: str) -> None:
    async with visiting(Console(token=TOKEN)) as client:
        answer = await client.post("/login", data={"token": TOKEN, "next": wanted})

    assert answer.headers["location"] == "/live"


async def test_a_session_ends_after_a_day_of_work() -> None:
    clock = ManualClock()
    async with visiting(Console(token=TOKEN, clock=clock)) as client:
        await client.post("/login", data={"token": TOKEN})
        before = await client.get("/api/session")
        clock.advance(13 * 3600)
        after = await client.get("/api/session")

    assert (before.status_code, after.status_code) == (200, 401)


async def test_a_cookie_that_was_changed_is_none() -> None:
    async with visiting(Console(token=TOKEN)) as client:
        await client.post("/login", data={"token": TOKEN})
        written, _, signature = client.cookies["avx_console"].partition(".")
        client.cookies.clear()
        answers = [
            await client.get("/api/session", headers={"Cookie": f"avx_console={cookie}"})
            for cookie in (f"{written}x.{signature}", f"{written}.{signature[:-1]}", written, "%zz", "")
        ]

    assert [answer.status_code for answer in answers] == [401] * 5


async def test_a_session_outlives_the_process_with_the_same_token_and_not_with_another() -> None:
    async with visiting(Console(token=TOKEN)) as client:
        await client.post("/login", data={"token": TOKEN})
        cookie = {"Cookie": f"avx_console={client.cookies['avx_console']}"}

    async with visiting(Console(token=TOKEN), headers=cookie) as client:
        same = await client.get("/api/session")
    async with visiting(Console(token=TOKEN[::-1]), headers=cookie) as client:
        other = await client.get("/api/session")

    assert (same.status_code, other.status_code) == (200, 401)


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "192.168.0.7:8090", ""])
async def test_a_name_that_was_bound_to_this_machine_meanwhile_gets_nothing(host: str) -> None:
    async with visiting(Console()) as client:
        answer = await client.get("/api/session", headers={"Host": host})

    assert (answer.status_code, answer.json()["code"]) == (403, "host")


@pytest.mark.parametrize("host", ["127.0.0.1:8090", "localhost:1", "LOCALHOST", "[::1]:8090"])
async def test_this_machine_is_answered_without_a_token(host: str) -> None:
    async with visiting(Console()) as client:
        answer = await client.get("/api/session", headers={"Host": host})

    assert answer.status_code == 200


async def test_another_machine_is_not_answered_without_a_token_whatever_name_it_calls() -> None:
    async with visiting(Console(allowed_hosts=["ops.example.com"]), address="192.168.0.7") as client:
        answers = [await client.get("/live", headers={"Host": host}) for host in ("localhost", "ops.example.com")]

    assert [answer.status_code for answer in answers] == [403, 403]


async def test_with_a_token_only_the_hosts_that_are_named_are_answered_where_some_are() -> None:
    console = Console(token=TOKEN, allowed_hosts=["ops.example.com"])
    async with visiting(console, headers={"Authorization": f"Bearer {TOKEN}"}, address="10.0.0.9") as client:
        named, other = [
            await client.get("/api/session", headers={"Host": host}) for host in ("ops.example.com:443", "x.example")
        ]

    assert (named.status_code, other.status_code) == (200, 403)


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://[::1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
async def test_another_site_changes_nothing_through_somebodys_browser(headers: dict[str, str]) -> None:
    async with visiting(Console()) as client:
        page = await as_page(client)
        del page["Origin"]
        answer = await client.post("/logout", headers=page | headers)

    assert (answer.status_code, answer.json()["code"]) == (403, "origin")


async def test_what_changes_something_knows_the_token_of_its_own_session() -> None:
    console = Console()
    async with visiting(console) as client:
        mine = await as_page(client)
        client.cookies.clear()
        others = await as_page(client)
        answers = [
            await client.post("/logout", headers=headers)
            for headers in (mine, {}, others | {"X-Form-Token": ""}, others)
        ]

    assert [answer.status_code for answer in answers] == [403, 403, 403, 200]


async def test_each_answer_says_what_a_browser_may_run() -> None:
    async with visiting(Console()) as client:
        answers = [await client.get(path) for path in ("/live", "/login", "/nothing", "/api/session")]
        static = await client.get(answers[0].text.partition('rel="stylesheet" href="')[2].partition('"')[0])

    for answer in answers:
        assert answer.headers["content-security-policy"].startswith("default-src 'self'; ")
        assert answer.headers["cache-control"] == "no-store"
    assert (static.status_code, static.headers["content-type"]) == (200, "text/css; charset=utf-8")
    assert "immutable" in static.headers["cache-control"]


@pytest.mark.parametrize("path", [*PAGES, "/login?next=%22%3E%3Cscript%3Ealert(1)%3C/script%3E"])
async def test_a_page_has_no_script_and_no_style_inside(path: str) -> None:
    async with visiting(Console()) as client:
        text = (await client.get(path)).text

    assert "<script>" not in text
    assert "alert(1)</script>" not in text
    assert "style=" not in text
    assert " on" not in "".join(part.partition(">")[0] for part in text.split("<")[1:] if " on" in part and "=" in part)


@pytest.mark.parametrize(
    "path", ["/static/old/console.css", "/static/old/../console.py", "/static/x/%2e%2e/console.py"]
)
async def test_only_files_of_the_page_are_served(path: str) -> None:
    async with visiting(Console()) as client:
        answer = await client.get(path)

    assert answer.status_code == 404


async def test_it_does_not_start_on_an_open_address_without_a_token() -> None:
    with pytest.raises(InvalidArgumentError, match="without a token"):
        await serve(Console(), host="0.0.0.0")  # noqa: S104 - which is what is refused


@pytest.mark.parametrize("token", ["", "short", 5])
def test_a_token_that_can_be_guessed_is_refused_and_not_repeated(token: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        Console(token=token)

    assert "short" not in str(caught.value)


async def test_it_answers_nothing_outside_of_its_block() -> None:
    console = Console()
    async with visiting(console) as client:
        await client.get("/live")

    async with visiting(Console()) as client:
        client._transport.app = console  # type: ignore[attr-defined]
        answer = await client.get("/live")

    assert (answer.status_code, answer.json()["code"]) == (503, "not_running")


async def test_inside_of_a_service_it_keeps_to_its_own_path() -> None:
    console = Console(token=TOKEN)
    service = Starlette(routes=[Mount("/console", console)])
    transport = httpx.ASGITransport(service, client=("10.0.0.9", 50_000))
    async with console, httpx.AsyncClient(transport=transport, base_url="https://shop.example.com") as client:
        front = await client.get("/console/letters")
        login = await client.get(front.headers["location"])
        signed_in = await client.post("/console/login", data={"token": TOKEN, "next": "letters"})
        page = await client.get(signed_in.headers["location"])
        style = await client.get(page.text.partition('rel="stylesheet" href="')[2].partition('"')[0])
        session = await client.get("/console/api/session")

    assert front.headers["location"] == "/console/login?next=/letters"
    assert 'action="/console/login"' in login.text
    assert signed_in.headers["location"] == "/console/letters"
    assert "Path=/console;" in signed_in.headers["set-cookie"]
    assert 'href="/console/streams"' in page.text
    assert (style.status_code, session.status_code) == (200, 200)


async def test_a_server_of_its_own_lets_it_begin_and_end() -> None:
    console = Console()
    told: list[str] = []
    events = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])

    async def receive() -> Message:
        return next(events)

    async def send(message: Message) -> None:
        told.append(message["type"])

    await console({"type": "lifespan"}, receive, send)

    assert told == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    with pytest.raises(NotRunningError):
        await console.__aenter__()


def test_without_its_packages_it_says_which_extra_brings_them() -> None:
    script = """
import sys
sys.modules["starlette"] = None
import avx_events
try:
    import avx_events.apps.console
except avx_events.MissingExtraError as error:
    print(error)
"""

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)  # noqa: S603 - ours

    assert done.stdout == "Console needs the console extra: pip install 'avx-events[console]'\n"

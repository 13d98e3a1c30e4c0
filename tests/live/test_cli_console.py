"""``avx-events console`` serves what is at URLs until Ctrl-C, and refuses what it cannot serve in one line."""

import asyncio
import signal
import sys
from pathlib import Path

import httpx
import pytest

from avx_events.core.event import Event
from avx_events.store.event_store import EventStore

pytestmark = [pytest.mark.live, pytest.mark.timeout(60)]

TOKEN = "sixteen letters or more"  # noqa: S105


class Placed(Event, event_type="cli.console.placed", aggregate_id="order_id"):
    order_id: str


@pytest.fixture
async def url(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path}/shop.db"
    async with await EventStore.connect(url) as store:
        await store.append("order-7", Placed("7"))
    return url


async def started(*arguments: str, **environment: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "avx_events", "console", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment,
    )


async def address_of(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    line = (await process.stdout.readline()).decode()
    assert line.startswith("The console is at http://"), line
    return line.split()[-1]


async def test_it_shows_a_store_until_ctrl_c(url: str) -> None:
    process = await started(url, "--port", "0")
    async with httpx.AsyncClient(base_url=await address_of(process)) as browser:
        page = await browser.get("/streams")
        streams = await browser.get("/api/streams")
        letters = await browser.get("/api/letters/groups")
        handlers = await browser.get("/api/handlers")
    process.send_signal(signal.SIGINT)
    out, err = await process.communicate()

    assert page.status_code == 200
    assert "order-7" in streams.text
    assert letters.json()["count"] == 0  # those in the store's database
    assert handlers.json()["error"].endswith("at a shell, the URL of the broker.")
    assert (out, err.decode()) == (b"", "")
    assert process.returncode in {0, 130}


async def test_on_another_address_it_asks_for_a_token(url: str) -> None:
    process = await started(url, "--port", "0", "--host", "0.0.0.0", AVX_EVENTS__CONSOLE_TOKEN=TOKEN)  # noqa: S104 - it is what is tested
    port = (await address_of(process)).rpartition(":")[2]
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as browser:
        refused = await browser.get("/api/streams")
        answer = await browser.get("/api/streams", headers={"Authorization": f"Bearer {TOKEN}"})
    process.send_signal(signal.SIGTERM)
    await process.communicate()

    assert (refused.status_code, answer.status_code) == (401, 200)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ((), "the URL of a store or of a broker"),
        (("sqlite:///{}/no/folder.db",), "folder"),
        (("sqlite:///{}/lost.db",), "a file that is there"),
        (("sqlite:///{}/shop.db", "--dead-letters", "sqlite:///{}/lost.db"), "a file that is there"),
        (("sqlite:///one.db", "sqlite:///two.db"), "one store at most"),
        (("redis://127.0.0.1:1",), "127.0.0.1:1"),
        (("http://shop",), "http://shop"),
        (("sqlite:///{}/shop.db", "--host", "0.0.0.0"), "an address of loopback"),  # noqa: S104
    ],
)
async def test_what_it_cannot_serve_is_one_line(
    url: str, tmp_path: Path, arguments: tuple[str, ...], problem: str
) -> None:
    assert url.startswith("sqlite")
    process = await started(*(argument.format(tmp_path) for argument in arguments))
    out, err = await process.communicate()

    assert (process.returncode, out) == (1, b"")
    assert problem in err.decode()
    assert len(err.decode().splitlines()) == 1
    assert [file.name for file in tmp_path.iterdir()] == ["shop.db"]  # noqa: ASYNC240 - it has made no file

"""``avx-events demo`` runs a shop that others can look into, and ends when it is told to."""

import asyncio
import signal
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path

import httpx
import pytest

pytestmark = [pytest.mark.live, pytest.mark.timeout(60)]


async def started(*arguments: str) -> Process:
    program = (sys.executable, "-m", "avx_events")
    return await asyncio.create_subprocess_exec(*program, *arguments, stdout=PIPE, stderr=PIPE)


async def line_of(process: Process, beginning: str) -> str:
    """Return the rest of the first line that begins so."""
    assert process.stdout is not None
    while not (line := (await process.stdout.readline()).decode()).startswith(beginning):
        assert line, "it has ended"
    return line.removeprefix(beginning).strip()


async def test_so_many_orders_are_placed_and_what_failed_is_there_to_be_looked_at(tmp_path: Path) -> None:
    file = tmp_path / "shop.db"
    shop = await started("demo", "--orders", "12", "--each-s", "0.01", "--port", "0", "--file", f"{file}")
    out, err = await shop.communicate()
    letters = await started("dead-letters", "list", f"sqlite:///{file}")
    listed, _ = await letters.communicate()

    assert shop.returncode == 0, err
    assert out.decode().splitlines()[-1] == "10 orders were paid, 268.30 in all; 2 dead letters"
    assert "charge" in listed.decode()
    assert "CardDeclinedError" in listed.decode()


async def test_it_has_a_console_until_ctrl_c(tmp_path: Path) -> None:
    shop = await started("demo", "--each-s", "0.05", "--port", "0", "--file", f"{tmp_path}/shop.db")
    address = await line_of(shop, "The console is at ")
    await line_of(shop, "order-0002 is shipped")
    async with httpx.AsyncClient(base_url=address) as browser:
        streams = (await browser.get("/api/streams")).json()["streams"]
    shop.send_signal(signal.SIGINT)
    await shop.communicate()

    assert {"order-0001", "order-0002"} <= {stream["name"] for stream in streams}
    assert shop.returncode == 130


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--orders", "0"), "--orders must be a whole number, 1 or more"),
        (("--each-s", "0"), "--each-s must be"),
        (("--file", __file__), "a file that is not there yet"),
        (("--port", "99999"), "99999"),
    ],
)
async def test_what_it_cannot_do_is_one_line(arguments: tuple[str, ...], problem: str) -> None:
    shop = await started("demo", *arguments)
    _, err = await shop.communicate()

    assert shop.returncode == 1
    assert problem in err.decode()
    assert len(err.decode().splitlines()) == 1

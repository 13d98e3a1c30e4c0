"""The tutorial's page on a failing handler: all that it says to do is done, and all that it shows is there."""

import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.live.browser import IMAGES, Browser, Page
from tests.live.page_walk import Step, Walk, section, steps, walk_in
from tests.live.service_process import ROOT, Running, log_in, running
from tests.waiting import until

pytestmark = [pytest.mark.live, pytest.mark.timeout(120)]

PAGE: Final = (ROOT / "docs/tutorial/5-a-failing-handler.md").read_text("utf-8")
BY_THE_CONSOLE: Final = section(PAGE, "By the console")
ON_THE_PAGE: Final = "127.0.0.1:8080"
NAMED: Final = {
    "Streams": "nav a[href$='/streams']",
    "Dead letters": "nav a[href$='/letters']",
    "Show letters": ".group .show",
    "Edit…": "#edit",
    "Save and redrive": "#save-redrive",
}
"""Where in the console is what the page names."""


@asynccontextmanager
async def walking(folder: Path) -> AsyncGenerator[tuple[Walk, Running]]:
    """Begin as the page does: with the service in one terminal, and a shell in another."""
    make_run, *others = steps(section(PAGE, ""))
    assert make_run == Step("make run", "")
    assert "\nrun: .venv/.dev\n\t$(BIN)/python -m examples.production_service\n" in (ROOT / "Makefile").read_text()
    async with (
        running(folder) as service,
        walk_in(folder, {ON_THE_PAGE: service.client.base_url.netloc.decode()}) as walk,
    ):
        assert f"http://{service.client.base_url.netloc.decode()}/console/" in service.greeting
        for step in others:
            await walk.follow(step)
        yield walk, service


async def follow(walk: Walk, text: str, folder: Path) -> None:
    """Do the steps in ``text``, each after the handler is done with the one before."""
    for step in steps(text):
        await walk.follow(step)
        if ".invalid" in step.command:
            await until(lambda: "welcome-mail gave up" in log_in(folder))


async def test_the_page_is_followed_by_the_command_line(tmp_path: Path) -> None:
    async with walking(tmp_path) as (walk, service):
        await follow(walk, section(PAGE, "By the command line"), tmp_path)
        users = (await service.client.get("/users")).json()

    assert [(user["name"], user["email"]) for user in users] == [("Jane", "jane@example.com")]


class Mouse:
    """What is pressed in the console.

    Attributes:
        pressed: The names of all that was pressed and is named on the page, in order.
    """

    def __init__(self, page: Page) -> None:
        self._page: Final = page
        self.pressed: list[str] = []

    async def press(self, name: str) -> None:
        """Press the link or the button of a name."""
        selector = NAMED[name]
        await self._page.until(f"document.querySelector({selector!r}).textContent === {name!r}")
        await self._page.click(selector)
        self.pressed.append(name)

    async def open_the_letter(self) -> None:
        """Go to the one letter that there is."""
        await self.press("Dead letters")
        await self.press("Show letters")
        await self._page.click(".row.letter")
        await self._page.until("document.querySelector('#redrive')")

    async def open_the_stream(self) -> None:
        """Go to the last stream of a mail."""
        await self.press("Streams")
        await self._page.until("document.querySelector('#prefix').labels[0].textContent === 'Name begins with'")
        await self._page.eval("document.querySelector('#prefix').focus()")
        await self._page.type("welcome-mail-")
        names = "[...document.querySelectorAll('.row.stream .type')].map(each => each.textContent)"
        await self._page.until(f"{names}.every(name => name.startsWith('welcome-mail-'))")
        await self._page.click("li:last-child .row.stream")

    async def write(self, new: str, *, instead_of: str) -> None:
        """Write something where something else is in the data of the letter."""
        await self._page.eval(
            f"(area => {{ const start = area.value.indexOf({instead_of!r}); area.focus();"
            f"area.setSelectionRange(start, start + {len(instead_of)}); }})(document.querySelector('#data'))"
        )
        await self._page.type(new)


async def take_picture(page: Page, name: str) -> str:
    """Keep what is seen, where pictures are wanted; return the name of the file."""
    file = f"console-walk-{name}.png"
    if IMAGES:
        await page.picture(Path(IMAGES) / file)
    return file


async def state_at(page: Page, place: str) -> str:
    """Return the state of the mail once the page shows it at ``place``."""
    await page.until(f"document.querySelector('#place').textContent.startsWith({place!r})")
    return str(await page.eval("document.querySelector('#state').textContent"))


async def test_the_page_is_followed_by_the_console(tmp_path: Path, browser: Browser) -> None:
    async with walking(tmp_path) as (walk, _), browser.page() as page:
        mouse = Mouse(page)
        await page.look_like(height=690)  # the traceback below has paths of this machine
        await follow(walk, BY_THE_CONSOLE, tmp_path)
        await page.go_to(walk.here(re.findall(r"Open `(.+)`", BY_THE_CONSOLE)[0]))

        await mouse.open_the_letter()
        group = await page.eval("document.querySelector('.group h2').textContent")
        pictures = [await take_picture(page, "letter")]

        await mouse.open_the_stream()
        before = await state_at(page, "Version 1 of 1")
        pictures.append(await take_picture(page, "before"))

        await mouse.open_the_letter()
        await mouse.press("Edit…")
        await mouse.write("example.com", instead_of="example.invalid")
        pictures.append(await take_picture(page, "edit"))
        await mouse.press("Save and redrive")
        await page.until("document.querySelector('#told').textContent.includes('welcome-mail has handled it now.')")
        await page.until("document.querySelector('.empty')?.textContent.startsWith('No dead letters')")
        await until(lambda: "mail to john@example.com: Welcome, John!" in log_in(tmp_path))

        await mouse.open_the_stream()
        after = await state_at(page, "Version 2 of 2")
        pictures.append(await take_picture(page, "after"))
        await page.eval("document.querySelector('#version').focus()")
        await page.press("ArrowLeft")
        again = await state_at(page, "Version 1 of 2")

    assert group == "welcome-mail in avx-events"
    assert before == again
    assert '"refused"' in before
    assert '"sent"' in after
    assert mouse.pressed == re.findall(r"\*\*(.+?)\*\*", BY_THE_CONSOLE)
    assert pictures == re.findall(r"\.\./images/(.+?)\)", BY_THE_CONSOLE)
    assert page.problems == []

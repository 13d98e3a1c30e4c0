"""The console in a real browser: what people see, with a mouse, with keys alone, on a phone, in the dark."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import quantiles
from urllib.parse import urlsplit

import pytest

from tests.live.browser import IMAGES, Browser, Page
from tests.live.console_shop import SCRIPT, AccountOpened, OrderPlaced, Shop, open_shop
from tests.waiting import until

log = logging.getLogger(__name__)

pytestmark = [pytest.mark.live, pytest.mark.timeout(120)]

PICTURES = {
    "correlation",
    "edit",
    "event",
    "handlers",
    "letters-dark",
    "live-dark-phone",
    "login",
    "projections",
    "stream",
}
"""Those that the page on using the console shows."""

TOKEN = "a-token-of-enough-letters"  # noqa: S105 - of no console but those of the tests
PAGES = ["live", "streams", "letters", "handlers", "projections"]
READY = {
    "live": "document.querySelector('#source').textContent.startsWith('live')",
    "streams": "document.querySelector('#streams li')",
    "letters": "document.querySelector('.group')",
    "handlers": "document.querySelector('#handlers .chart')",
    "projections": "document.querySelector('#projections progress')",
}


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Shop]:
    async with open_shop(tmp_path) as opened:
        yield opened


@asynccontextmanager
async def at(shop: Shop, browser: Browser, name: str) -> AsyncGenerator[Page]:
    """Open a page, and see at the end that the browser had nothing to complain of."""
    async with browser.page() as page:
        await page.go_to(f"{shop.url}/{name}")
        await page.until(READY[name.partition("?")[0]])
        yield page
        assert page.problems == []


async def fill(shop: Shop, *, letters: int = 3) -> None:
    """Sell something, and have some receipts fail."""
    for number in range(12):
        shop.can_mail = number >= letters
        await shop.sell(number)
    await shop.bus.settled()
    shop.can_mail = True


async def sell_for_a_minute(shop: Shop) -> None:
    """Have something to draw lines of."""
    for second in range(60):
        shop.can_mail = second % 10 != 0
        for number in range(3 + second % 7 + 4 * (second % 13 == 0)):
            await shop.sell(1000 + second * 20 + number)
        await asyncio.sleep(1)


async def take_picture(page: Page, name: str) -> None:
    if IMAGES and name in PICTURES:
        await page.picture(Path(IMAGES) / f"console-{name}.png")


async def told(page: Page, text: str) -> None:
    await page.until(f"document.querySelector('#told').textContent.includes({text!r})")


@pytest.mark.parametrize("name", PAGES)
async def test_each_page_shows_what_there_is_on_each_screen(shop: Shop, browser: Browser, name: str) -> None:
    await fill(shop)
    if IMAGES and name == "handlers":
        await sell_for_a_minute(shop)

    async with at(shop, browser, name) as page:
        for width, is_dark in ((1280, False), (1280, True), (360, False), (360, True)):
            await page.look_like(width=width, height=800, is_dark=is_dark)
            await page.go_to(f"{shop.url}/{name}")
            await page.until(READY[name])
            ground = await page.eval("getComputedStyle(document.body).backgroundColor")
            too_wide = await page.eval("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            await take_picture(page, f"{name}{'-dark' if is_dark else ''}{'-phone' if width == 360 else ''}")

            assert too_wide == 0
            assert ground == ("rgb(16, 19, 26)" if is_dark else "rgb(246, 247, 249)")


async def test_an_event_is_looked_at_and_its_correlation_followed(shop: Shop, browser: Browser) -> None:
    async with at(shop, browser, "live") as page:
        await fill(shop)
        await page.until("document.querySelectorAll('#events li').length === 24")
        await page.click("#events .row")
        await page.until("document.querySelector('#detail h2').textContent === 'stall.order.paid'")
        await take_picture(page, "event")
        await page.click("#follow")
        await page.until("document.querySelector('#tree li')")
        tree = await page.eval("[...document.querySelectorAll('#tree li')].map(item => item.textContent)")
        await take_picture(page, "correlation")

    assert [line.partition("order-")[0] for line in tree] == ["stall.order.placed", "stall.order.paid"]


async def test_events_are_filtered_and_paused(shop: Shop, browser: Browser) -> None:
    async with at(shop, browser, "live") as page:
        await fill(shop, letters=0)
        await page.until("document.querySelectorAll('#events li').length === 24")
        await page.eval("document.querySelector('#filter-key').focus()")
        await page.type("ORDER-003")
        await page.until("document.querySelectorAll('#events li').length === 2")
        await page.click("#pause")
        await shop.bus.publish(OrderPlaced("order-003", "a", "x@example.com", 1.0))
        await page.until("document.querySelector('#counter').textContent.includes('1 waiting')")
        while_paused = await page.eval("document.querySelectorAll('#events li').length")
        await page.click("#pause")
        await page.until("document.querySelectorAll('#events li').length === 3")

    assert while_paused == 2


async def test_ten_thousand_events_do_not_leave_the_page_behind(shop: Shop, browser: Browser) -> None:
    async with at(shop, browser, "live") as page:
        await page.eval(CLICKS_ARE_TIMED)
        async with asyncio.TaskGroup() as tasks:
            flood = tasks.create_task(publish_ten_thousand(shop))
            clicks = 0
            while not flood.done() or clicks % 2:  # twice, and the page goes on
                await page.click("#pause")
                clicks += 1
        await shop.bus.publish(AccountOpened("the-last", "Ada", "ada@example.com"))
        published_at = time.monotonic()
        await page.until("document.querySelector('#events .key')?.textContent === 'the-last'")
        late_s = time.monotonic() - published_at
        delays_ms = await page.until(f"window.delays.length === {clicks} && window.delays")
        rows = await page.eval("document.querySelectorAll('#events li').length")
        counted = await page.eval("document.querySelector('#counter').textContent")

    nearly_all_ms = quantiles(delays_ms, n=20)[-1]  # the machine may be busy with something else for once
    said = "the last of 10,001 events after %.3f s; 19 of 20 in %d clicks within %.0f ms, all within %.0f ms"
    log.info(said, late_s, clicks, nearly_all_ms, max(delays_ms))
    assert clicks >= 2
    # A page that falls behind is behind by minutes; on a quiet machine these were 0.1 s and 64 ms.
    assert late_s < 10
    assert nearly_all_ms < 1_000
    assert rows <= 101
    assert counted.startswith("10,001 events")


CLICKS_ARE_TIMED = """
window.delays = [];
document.querySelector("#pause").addEventListener("click", event =>
    requestAnimationFrame(() => setTimeout(() => window.delays.push(performance.now() - event.timeStamp))));
"""
"""From the press of the button until what it did was drawn."""


async def publish_ten_thousand(shop: Shop) -> None:
    """Publish in bursts, between which the console, in this process too, gets its turn."""
    for start in range(0, 10_000, 100):
        await shop.bus.publish_many(
            AccountOpened(f"account-{number}", "Ada", "ada@example.com") for number in range(start, start + 100)
        )
        await asyncio.sleep(0.01)


async def test_a_script_in_an_event_does_nothing(shop: Shop, browser: Browser) -> None:
    shop.can_mail = False
    hostile = OrderPlaced(SCRIPT, SCRIPT, f"{SCRIPT}@example.com", 1.0, SCRIPT)
    await shop.store.append(f"order-{SCRIPT}", [hostile])

    async with at(shop, browser, "live") as page:
        await shop.bus.publish_to("stall.order.placed", hostile, headers={SCRIPT: SCRIPT})
        await page.click("#events .row")
        await page.until("document.querySelector('#detail pre').textContent.includes('onerror')")
        await page.go_to(f"{shop.url}/letters")
        await page.click(".group .show")
        await page.click(".row.letter")
        await page.until("document.querySelector('#detail pre').textContent.includes('onerror')")
        await page.go_to(f"{shop.url}/streams")
        await page.click(".row.stream")
        await page.until("document.querySelector('#state table')?.textContent.includes('onerror')")
        hacked = await page.eval("window.hacked")
        images = await page.eval("document.querySelectorAll('main img, main script').length")

    assert (hacked, images) == (None, 0)


async def test_a_letter_is_redriven_edited_and_removed(shop: Shop, browser: Browser) -> None:
    await fill(shop, letters=3)
    queue = shop.bus.dead_letter_queue

    async with at(shop, browser, "letters") as page:
        await page.click(".group .show")
        await page.click(".row.letter")
        await page.until("document.querySelector('#redrive')")
        await page.click("#redrive")
        await told(page, "has handled it now")
        await until(lambda: shop.receipts)
        await page.until("document.querySelectorAll('.row.letter').length === 2")

        shop.can_mail = False
        await page.click(".row.letter")
        await page.click("#redrive")
        await told(page, "failed again")
        await page.click("#edit")
        await page.until("document.querySelector('#data').value.includes('••••••')")
        await take_picture(page, "edit")
        await page.eval(
            '(area => { area.value = area.value.replace(/"total": [0-9.]+/, \'"total": "free"\'); })'
            "(document.querySelector('#data'))"
        )
        await page.click("#save-redrive")
        await page.until("document.querySelector('#detail .problem:not([hidden])')?.textContent.includes('total')")
        await page.eval(
            "(area => { area.value = area.value.replace('\"free\"', '5000.0'); })(document.querySelector('#data'))"
        )
        await page.click("#save-redrive")
        await until(lambda: shop.receipts[-1].total == 5000)
        await page.until("document.querySelectorAll('.row.letter').length === 1")

        await page.click(".row.letter")
        await page.click("#remove")
        await page.click("#confirm")
        await told(page, "Removed.")
        await page.until("document.querySelector('.empty')?.textContent.startsWith('No dead letters')")
        refused = [problem for problem in page.problems if "422" in problem]
        page.problems.clear()

    assert len(refused) == 1  # what did not fit the class
    assert await queue.count() == 0
    assert shop.receipts[-1].email == "customer1@example.com"


async def test_a_whole_group_is_redriven_and_another_removed(shop: Shop, browser: Browser) -> None:
    await fill(shop, letters=5)

    async with at(shop, browser, "letters") as page:
        await page.click(".group .redrive")
        await told(page, "5 handled.")
        await fill_again(shop)
        await page.click(".head button")
        await page.until("document.querySelector('.group')?.textContent.includes('2 letters')")
        await page.click(".group .remove")
        await page.click("#confirm")
        await told(page, "2 removed.")

    assert await shop.bus.dead_letter_queue.count() == 0


async def fill_again(shop: Shop) -> None:
    shop.can_mail = False
    for number in (50, 51):
        await shop.sell(number)
    await shop.bus.settled()


async def test_two_people_redrive_one_letter_and_the_second_is_told(shop: Shop, browser: Browser) -> None:
    await fill(shop, letters=1)

    async with at(shop, browser, "letters") as ada, at(shop, browser, "letters") as bob:
        for page in (ada, bob):
            await page.click(".group .show")
            await page.click(".row.letter")
            await page.until("document.querySelector('#redrive')")
        await ada.click("#redrive")
        await told(ada, "has handled it now")
        await bob.click("#redrive")
        await told(bob, "redrove it at")

    assert len([receipt for receipt in shop.receipts if receipt.order_id == "order-000"]) == 1


async def test_the_slider_shows_the_state_at_each_version(shop: Shop, browser: Browser) -> None:
    await fill(shop)

    async with at(shop, browser, "streams") as page:
        await page.click(".row.stream")
        await page.until("document.querySelector('#state ins')?.textContent === '\"paid\"'")
        await take_picture(page, "stream")
        await page.eval("document.querySelector('#version').focus()")
        await page.press("ArrowLeft")
        await page.until("document.querySelector('#place').textContent.startsWith('Version 1 of 2')")
        text = await page.eval("document.querySelector('#state').textContent")
        who = await page.eval("document.querySelector('#entry').textContent")

    assert '"placed"' in text
    assert "customer0@example.com" not in text
    assert "ada" in who


async def test_streams_are_found_by_typing(shop: Shop, browser: Browser) -> None:
    await fill(shop, letters=0)

    async with at(shop, browser, "streams") as page:
        await page.eval("document.querySelector('#prefix').focus()")
        await page.type("order-01")
        await page.until("document.querySelectorAll('#streams li').length === 2")


async def test_all_of_it_can_be_done_with_keys_alone(shop: Shop, browser: Browser) -> None:
    await fill(shop, letters=1)

    async with at(shop, browser, "letters") as page:
        await page.press("Tab")
        skip = await page.eval("document.activeElement.className")
        await page.press("Enter")
        await tab_to(page, ".show")
        outline = await page.eval("getComputedStyle(document.activeElement).outlineStyle")
        await page.press("Enter")
        await page.until("document.querySelector('.row.letter')")
        await tab_to(page, ".row.letter")
        await page.press("Enter")
        await page.until("document.querySelector('#redrive')")
        await tab_to(page, "#remove")
        await page.press(" ")
        await page.until("document.querySelector('dialog')")
        await page.press("Escape")
        await page.until("!document.querySelector('dialog')")
        still_there = await shop.bus.dead_letter_queue.count()
        await page.eval("document.querySelector('#detail').focus()")
        await tab_to(page, "#redrive")
        await page.press("Enter")
        await told(page, "has handled it now")

    assert (skip, outline, still_there) == ("skip", "solid", 1)


async def tab_to(page: Page, selector: str) -> None:
    for _ in range(40):
        await page.press("Tab")
        if await page.eval(f"document.activeElement.matches({selector!r})"):
            return
    pytest.fail(f"{selector} is never reached with Tab")


async def test_arrows_go_through_the_events(shop: Shop, browser: Browser) -> None:
    async with at(shop, browser, "live") as page:
        await fill(shop, letters=0)
        await page.until("document.querySelectorAll('#events li').length === 24")
        await tab_to(page, ".row.event")
        await page.press("ArrowDown", times=2)
        await page.press("ArrowUp")
        place = await page.eval("[...document.querySelectorAll('.row')].indexOf(document.activeElement)")
        await page.press("Enter")
        await page.until("!document.querySelector('#detail').hidden")
        await page.press("Escape")
        back = await page.eval("[...document.querySelectorAll('.row')].indexOf(document.activeElement)")

    assert (place, back) == (1, 1)


async def test_a_server_that_was_lost_is_said_to_be_and_found_again(tmp_path: Path, browser: Browser) -> None:
    async with browser.page() as page:
        async with open_shop(tmp_path) as shop:
            port = urlsplit(shop.url).port
            await page.go_to(f"{shop.url}/live")
            await page.until(READY["live"])
            await fill(shop, letters=0)
            await page.until("document.querySelectorAll('#events li').length === 24")
        await page.until("!document.querySelector('#lost').hidden")
        kept = await page.eval("document.querySelectorAll('#events li').length")
        async with open_shop(tmp_path, port=port or 0) as shop:
            await page.until("document.querySelector('#lost').hidden", timeout_s=20)
            await shop.bus.publish(AccountOpened("after", "Ada", "ada@example.com"))
            await page.until("document.querySelector('#events .key').textContent === 'after'")
            rows = await page.eval("document.querySelectorAll('#events li').length")

    assert (kept, rows) == (24, 25)


async def test_a_page_that_is_older_than_its_server_still_redrives(tmp_path: Path, browser: Browser) -> None:
    async with browser.page() as page:
        async with open_shop(tmp_path) as shop:
            port = urlsplit(shop.url).port
            await fill(shop, letters=2)
            await page.go_to(f"{shop.url}/letters")
            await page.until("document.querySelector('.group .redrive')")
        second = tmp_path / "second"
        second.mkdir()
        async with open_shop(second, port=port or 0) as shop:
            await fill(shop, letters=2)
            await page.eval("document.querySelector('.group').dataset.isOld = 'yes'")
            await page.click(".group .redrive")  # of letters that were those of the server before
            await told(page, "None of these letters is there any more")
            await page.until("document.querySelector('.group:not([data-is-old])')")  # it is told before it is shown
            await page.click(".group .redrive")
            await told(page, "2 handled.")

            assert await shop.bus.dead_letter_queue.count() == 0


async def test_people_sign_in_and_out(tmp_path: Path, browser: Browser) -> None:
    async with open_shop(tmp_path, token=TOKEN) as shop, browser.page() as page:
        await page.go_to(f"{shop.url}/letters")
        await page.until("document.querySelector('#token')")
        await take_picture(page, "login")
        await page.type("not the token")
        await page.press("Enter")
        await page.until("document.querySelector('.problem')")
        await page.eval("document.querySelector('#token').focus()")
        await page.type(TOKEN)
        await page.press("Tab")
        await page.type("Ada")
        await page.press("Enter")
        await page.until("document.querySelector('.operator')?.textContent === 'Ada'")
        await page.until("document.querySelector('.empty')")
        signed_in_at = await page.eval("location.pathname")
        await page.click("#logout")
        await page.until("document.querySelector('#token')")
        await page.go_to(f"{shop.url}/live")
        at_login = await page.eval("location.pathname")

    assert (signed_in_at, at_login) == ("/letters", "/login")
    assert [problem for problem in page.problems if "403" not in problem] == []

"""Projections in a real browser: paused, resumed, and built anew while somebody looks."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from avx_events import Connection, Event, EventStore, Projection, Projector, handles
from avx_events.apps.console import Console, serve
from avx_events.core.tasks import TaskScope
from tests.live.browser import Browser, Page

pytestmark = [pytest.mark.live, pytest.mark.timeout(120)]

CHIP = "document.querySelector('[data-projection=sales] .chip').textContent"


class Sold(Event, event_type="console.sold", aggregate_id="shop_id"):
    shop_id: str
    cents: int


class Sales(Projection, name="sales", tables=("sales",)):
    """Waits before the third sale while it is built anew, if it is told to."""

    def __init__(self) -> None:
        self.goes_on = asyncio.Event()
        self.goes_on.set()

    async def setup(self, connection: Connection) -> None:
        await connection.execute(f"CREATE TABLE {self.table('sales')} (cents INTEGER)")

    @handles(Sold)
    async def add(self, event: Sold, connection: Connection) -> None:
        if event.cents == 3:
            await self.goes_on.wait()
        await connection.execute(f"INSERT INTO {self.table('sales')} VALUES (?)", event.cents)  # noqa: S608


class Scene:
    """A store with one read model, and a page of it."""

    def __init__(self, store: EventStore, sales: Sales, page: Page) -> None:
        self.store = store
        self.sales = sales
        self.page = page

    async def sum(self) -> tuple[object, ...] | None:
        return await self.store.fetch_one("SELECT count(*), sum(cents) FROM sales")

    async def is_shown_as(self, state: str) -> None:
        await self.page.until(f"{CHIP} === {state!r}")


@pytest.fixture(params=["with its code", "of the store alone"])
async def scene(request: pytest.FixtureRequest, tmp_path: Path, browser: Browser) -> AsyncIterator[Scene]:
    scope, url = TaskScope(), asyncio.get_running_loop().create_future()
    sales = Sales()
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(await EventStore.connect(f"sqlite:///{tmp_path}/shop.db"))
        await store.append("shop", [Sold("shop", cents) for cents in range(1, 6)])
        projector = await stack.enter_async_context(Projector(store, sales, batch_events=1))
        await projector.caught_up()
        console = Console(projector=projector) if request.param == "with its code" else Console(store=store)
        scope.spawn(serve(console, port=0, on_started=url.set_result), name="console")
        stack.push_async_callback(scope.cancel)
        page = await stack.enter_async_context(browser.page())
        await page.go_to(f"{await url}/projections")
        yield Scene(store, sales, page)
        assert page.problems == []


async def test_a_projection_is_paused_and_resumed_by_its_button(scene: Scene) -> None:
    await scene.is_shown_as("live")
    await scene.page.click(".turn[data-verb=pause]")
    await scene.is_shown_as("paused")
    await scene.store.append("shop", Sold("shop", 6))
    await scene.page.until("document.querySelector('[data-projection=sales]').textContent.includes('position 5 of 6')")
    await scene.page.click(".turn[data-verb=resume]")
    await scene.is_shown_as("live")
    await scene.page.until("document.querySelector('[data-projection=sales]').textContent.includes('position 6 of 6')")

    assert await scene.sum() == (6, 21)


async def test_a_damaged_one_is_built_anew_and_its_progress_is_seen(scene: Scene) -> None:
    async with scene.store.transaction() as connection:
        await connection.execute("UPDATE sales SET cents = 0")
    scene.sales.goes_on.clear()
    await scene.is_shown_as("live")
    await scene.page.click(".rebuild")
    await scene.page.until("document.querySelector('dialog')")
    await scene.page.click("#confirm")
    await scene.is_shown_as("building")
    await scene.page.until("document.querySelector('[data-projection=sales]').textContent.includes('2 of 5 (40 %)')")
    await scene.page.until(
        "document.querySelector('[data-projection=sales]').textContent.includes('built again beside what it was')"
    )
    assert await scene.sum() == (5, 0)

    scene.sales.goes_on.set()
    await scene.is_shown_as("live")
    assert await scene.sum() == (5, 15)


async def test_a_rebuild_is_not_begun_where_it_is_not_confirmed(scene: Scene) -> None:
    async with scene.store.transaction() as connection:
        await connection.execute("UPDATE sales SET cents = 0")
    await scene.is_shown_as("live")
    await scene.page.click(".rebuild")
    await scene.page.until("document.querySelector('dialog')")
    await scene.page.press("Escape")
    await scene.page.until("!document.querySelector('dialog')")
    await scene.page.click(".turn[data-verb=pause]")
    await scene.is_shown_as("paused")

    assert await scene.sum() == (5, 0)
    assert await scene.store.fetch("SELECT version FROM avx_projections") == [(1,)]

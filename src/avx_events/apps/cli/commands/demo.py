"""``demo``: a small shop that lives, to look at with the other commands and the console."""

import asyncio
import random
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from cyclopts import App

from avx_events.apps.cli.output import print_line
from avx_events.core import arguments
from avx_events.core.errors import AvxEventsError, InvalidArgumentError

if TYPE_CHECKING:
    from avx_events.apps.cli.demo_shop import Shop

_SOON_S = 0.7


def add_to(app: App) -> None:
    """Add the command."""
    app.command(demo)


async def demo(
    *, orders: int | None = None, each_s: float = _SOON_S, file: str | None = None, port: int = 8090, seed: int = 7
) -> None:
    """Run a shop whose bank declines a card now and then, until Ctrl-C; with a console, where that is installed.

    What the handler gives up is a dead letter: find it, mend its card and give it back, in the console or with
    'avx-events dead-letters'.

    Args:
        orders: Stop after so many.
        each_s: Seconds between two orders.
        file: The SQLite file to keep it in; a temporary one if not given, which is gone afterwards.
        port: Of the console; 0 is a free one.
        seed: What chance begins with, so that a demo can be shown again.
    """
    if orders is not None:
        arguments.whole("--orders", orders, least=1)
    arguments.seconds("--each-s", each_s)
    with tempfile.TemporaryDirectory(prefix="avx-demo-") as folder:
        url = f"sqlite:///{_place(file, folder)}"
        await _run(url, orders=orders, each_s=each_s, port=port, seed=seed)


def _place(file: str | None, folder: str) -> Path:
    if file is None:
        return Path(folder) / "shop.db"
    path = Path(file).absolute()
    if path.exists():
        raise InvalidArgumentError("--file", file, expected="a file that is not there yet")
    return path


async def _run(url: str, *, orders: int | None, each_s: float, port: int, seed: int) -> None:
    from avx_events.apps.cli.demo_shop import open_shop, sales_of, trade  # noqa: PLC0415 - its event types are its own

    async with open_shop(url, print_line) as shop:
        print_line(f"The shop is at {url}; in another terminal: avx-events dead-letters list {url}")
        try:
            async with asyncio.TaskGroup() as tasks:
                chance = random.Random(seed)  # noqa: S311 - which card is bad is no secret
                trading = tasks.create_task(
                    trade(shop, orders=orders, each_s=each_s, say=print_line, chance=chance), name="demo: trade"
                )
                console = tasks.create_task(_serve(shop, port=port), name="demo: console")
                trading.add_done_callback(lambda _: console.cancel())
                console.add_done_callback(lambda _: trading.cancel())
        except* AvxEventsError as failed:
            raise failed.exceptions[0] from None
        paid, cents = await sales_of(shop)
        print_line(f"{paid} orders were paid, {cents / 100:.2f} in all; {await shop.letters.count()} dead letters")


async def _serve(shop: "Shop", *, port: int) -> None:
    from avx_events.apps.cli.demo_shop import Order  # noqa: PLC0415 - see above

    try:
        from avx_events.apps.console import Console, serve  # noqa: PLC0415 - it needs an extra
    except ImportError:
        print_line("With the extra 'console' there would be one: pip install 'avx-events[console]'")
        await asyncio.get_running_loop().create_future()
        raise
    console = Console(store=shop.store, bus=shop.bus, projector=shop.projector, aggregates={"order-": Order})
    await serve(console, port=port, on_started=lambda url: print_line(f"The console is at {url}"))

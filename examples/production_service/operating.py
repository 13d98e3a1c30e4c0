"""The service's handlers for the command line: ``avx-events … --app examples.production_service.operating:bus``.

Whoever gives a dead letter back needs the code of its handler, and not the whole service: this runs no read models and
no edge, and gives back no other letters. The service may run meanwhile.
"""

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

from avx_events import EventBus, EventStore
from avx_events.observability import Settings
from examples.production_service.service import buses
from examples.production_service.welcome import LogMailer, send_welcome_mails


@asynccontextmanager
async def bus() -> AsyncGenerator[EventBus, None]:
    """Open the bus of the handlers as the service's own settings say; whoever enters it is a member of its group.

    Raises:
        SettingError: A setting is wrong, or the broker cannot be used now.
        AvxEventsError: As ``EventStore.connect``.
    """
    settings = Settings.load()
    async with AsyncExitStack() as parts:
        store = await parts.enter_async_context(await EventStore.connect(settings.events.store_url))
        handlers, _, _ = await buses(parts, settings, store)
        send_welcome_mails(handlers, store, LogMailer())
        yield handlers

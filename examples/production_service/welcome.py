"""The welcome mail: a handler of the bus, with retry and dead letters, that recognises what it did."""

import logging
from contextlib import suppress
from typing import Protocol

from avx_events import ConcurrencyError, Event, EventBus, EventStore, Retry
from examples.production_service.users import UserCreated

RETRY = Retry(attempts=4, initial_s=0.1, max_s=1.0)

log = logging.getLogger(__name__)


class WelcomeMailSent(Event, event_type="shop.welcome_mail.sent", aggregate_id="user_id"):
    user_id: str
    email: str


class Mailer(Protocol):
    """Sends mails."""

    async def send(self, *, to: str, text: str) -> None:
        """Send a mail; return when it was accepted, raise where it was not."""
        ...


class LogMailer:
    """Writes mails to the log: where yours hands them to a mail server."""

    async def send(self, *, to: str, text: str) -> None:
        """Write one line."""
        log.info("mail to %s: %s", to, text)


def send_welcome_mails(bus: EventBus, store: EventStore, mailer: Mailer) -> None:
    """Let ``bus`` welcome each new user with a mail, and ``store`` know that it was sent.

    A mail is sent twice only where the process ends between sending and recording; no order of the two could do better
    with a mail server that does not recognise what it has sent.
    """

    @bus.on(UserCreated, name="welcome-mail", retry=RETRY, concurrency=16, timeout_s=2.0)
    async def welcome_mail(user: UserCreated) -> None:
        sent = f"welcome-mail-{user.user_id}"
        if await store.version_of(sent):
            return
        await mailer.send(to=user.email, text=f"Welcome, {user.name}!")
        with suppress(ConcurrencyError):  # another attempt, which was given up as too late, was here first
            await store.append(sent, WelcomeMailSent(user.user_id, user.email), expected_version=0)

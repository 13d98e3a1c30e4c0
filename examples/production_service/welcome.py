"""The welcome mail: a handler of the bus, with retry and dead letters, that recognises what it did.

| the mail server | then |
|---|---|
| takes the mail | it is recorded as sent, and never sent again |
| is away, or slow | it is tried again; after the last attempt the event is a dead letter |
| says that there is no such address | that is recorded, and the event is a dead letter at once: no retry would help |
"""

import logging
from contextlib import suppress
from typing import Final, Literal, Protocol

from avx_events import AggregateRoot, ConcurrencyError, Event, EventBus, EventStore, Reject, Retry
from examples.production_service.users import UserCreated

RETRY = Retry(attempts=4, initial_s=0.1, max_s=1.0)

_PREFIX: Final = "welcome-mail-"
_NO_DOMAIN: Final = ".invalid"  # RFC 2606, section 2: no domain will ever end so

log = logging.getLogger(__name__)


class WelcomeMailSent(Event, event_type="shop.welcome_mail.sent", aggregate_id="user_id"):
    user_id: str
    email: str


class WelcomeMailRefused(Event, event_type="shop.welcome_mail.refused", aggregate_id="user_id"):
    user_id: str
    email: str
    reason: str


class WelcomeMail(AggregateRoot):
    """The welcome mail of a user; its id is the name of its stream, ``welcome-mail-user-…``."""

    status: Literal["not sent", "refused", "sent"] = "not sent"
    email: str = ""
    reason: str = ""

    @property
    def user_id(self) -> str:
        """Who is welcomed."""
        return self.id.removeprefix(_PREFIX)

    @property
    def is_sent(self) -> bool:
        """Whether there is nothing left to do."""
        return self.status == "sent"

    def note_sent(self, email: str) -> None:
        """Remember that it was sent."""
        self.record(WelcomeMailSent(self.user_id, email))

    def note_refused(self, email: str, *, reason: str) -> None:
        """Remember that it cannot be sent; once, however often the same is tried."""
        if (self.email, self.reason) != (email, reason):
            self.record(WelcomeMailRefused(self.user_id, email, reason))

    def apply(self, event: Event) -> None:
        """Change as ``event`` says."""
        match event:
            case WelcomeMailSent(email=email):
                self.status, self.email, self.reason = "sent", email, ""
            case WelcomeMailRefused(email=email, reason=reason):
                self.status, self.email, self.reason = "refused", email, reason
            case _:
                pass


class MailRefusedError(Reject):
    """A mail server takes no mail to an address, now or later."""

    def __init__(self, to: str, *, reason: str) -> None:
        """Name the address and what is wrong with it."""
        super().__init__(f"no mail to {to!r}: {reason}")
        self.to, self.reason = to, reason


class Mailer(Protocol):
    """Sends mails."""

    async def send(self, *, to: str, text: str) -> None:
        """Send a mail; return when it was accepted, raise where it was not.

        Raises:
            MailRefusedError: It never will be.
        """
        ...


class LogMailer:
    """Writes mails to the log: where yours hands them to a mail server."""

    async def send(self, *, to: str, text: str) -> None:
        """Write one line, unless the address is one that no mail server could find.

        Raises:
            MailRefusedError: The domain ends in ``.invalid``.
        """
        domain = to.rpartition("@")[2]
        if domain.lower().endswith(_NO_DOMAIN):
            raise MailRefusedError(to, reason=f"there is no domain {domain}")
        log.info("mail to %s: %s", to, text)


def send_welcome_mails(bus: EventBus, store: EventStore, mailer: Mailer) -> None:
    """Let ``bus`` welcome each new user with a mail, and ``store`` know what came of it.

    A mail is sent twice only where the process ends between sending and recording; no order of the two could do better
    with a mail server that does not recognise what it has sent.
    """

    @bus.on(UserCreated, name="welcome-mail", retry=RETRY, concurrency=16, timeout_s=2.0)
    async def welcome_mail(user: UserCreated) -> None:
        mail = await store.load_or_new(WelcomeMail, f"{_PREFIX}{user.user_id}")
        if mail.is_sent:
            return
        try:
            await mailer.send(to=user.email, text=f"Welcome, {user.name}!")
        except MailRefusedError as refused:
            mail.note_refused(user.email, reason=refused.reason)
            await _save(store, mail)
            raise
        mail.note_sent(user.email)
        await _save(store, mail)


async def _save(store: EventStore, mail: WelcomeMail) -> None:
    with suppress(ConcurrencyError):  # another attempt, which was given up as too late, was here first
        await store.save(mail)

"""Users: what can happen to one, and what one is."""

from avx_events import AggregateRoot, Event, EventStore
from examples.production_service.ids import NotFoundError, check_id


class UserEvent(Event, event_type="shop.user", aggregate_id="user_id"):
    """What all events of a user's own stream have; event types begin with the service's name, as others share buses."""

    user_id: str


class UserCreated(UserEvent, event_type="shop.user.created"):
    email: str
    name: str


class EmailChanged(UserEvent, event_type="shop.user.email_changed"):
    new_email: str


class EmailClaimDropped(UserEvent, event_type="shop.user.email_claim_dropped"):
    """The user had reserved an address, did not take it in time, and cannot any more; see ``email_addresses``."""

    email: str


class User(AggregateRoot):
    """A user; its id is the name of its stream, ``user-…``."""

    email: str = ""
    name: str = ""

    @property
    def is_registered(self) -> bool:
        """Whether it was created; a stream may begin with a dropped claim."""
        return bool(self.email)

    def create(self, *, email: str, name: str) -> None:
        """Become a user."""
        self.record(UserCreated(self.id, email, name))

    def change_email(self, email: str) -> None:
        """Have another address from now on; nothing happens where it is the same."""
        if email != self.email:
            self.record(EmailChanged(self.id, email))

    def drop_claim(self, email: str) -> None:
        """Give up an address that was reserved and never taken."""
        self.record(EmailClaimDropped(self.id, email))

    def apply(self, event: Event) -> None:
        """Change as ``event`` says."""
        match event:
            case UserCreated(email=email, name=name):
                self.email, self.name = email, name
            case EmailChanged(new_email=email):
                self.email = email
            case _:  # a dropped claim changes the version, and nothing else
                pass


async def load_user(store: EventStore, user_id: str, *, at_version: int | None = None) -> User:
    """Return a user as it is, or as it was at a version, from 1.

    Raises:
        NotFoundError: There is no such user, or it was none then, or has not come to that version.
    """
    user = await store.load_or_new(User, check_id("user", user_id))
    if not user.is_registered:
        raise NotFoundError("user", user_id)
    if at_version is None:
        return user
    if at_version > user.version:
        raise NotFoundError(f"version {at_version} of user", user_id)
    past = await store.load(User, user_id, at_version=at_version)
    if not past.is_registered:
        raise NotFoundError(f"version {at_version} of user", user_id)
    return past

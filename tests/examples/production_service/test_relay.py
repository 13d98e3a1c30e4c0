"""From the log to the handlers: at least once, with retry and dead letters that outlive the process."""

import asyncio
from collections import Counter
from pathlib import Path

from avx_events import (
    DeadLetterQueue,
    EventBus,
    EventEnvelope,
    EventStore,
    Reject,
    StoredEvent,
    SubscriptionFullError,
)
from avx_events.testing import MockEventBus
from examples.production_service.dead_letters import StoredDeadLetters, prepare_table
from examples.production_service.relay import Relay
from examples.production_service.users import UserCreated
from tests.examples.production_service.serving import create_user, relayed, serving
from tests.waiting import until


class Post:
    """A mailer that remembers what it sent, and fails as often as it is told to."""

    def __init__(self, *, failures: int = 0) -> None:
        self.attempts = 0
        self.sent: list[str] = []
        self._failures = failures

    async def send(self, *, to: str, text: str) -> None:
        self.attempts += 1
        if self.attempts <= self._failures:
            message = "the mail server is away"
            raise OSError(message)
        self.sent.append(to)


async def test_a_new_user_is_welcomed_once() -> None:
    post = Post()
    async with serving(mailer=post) as (client, service):
        user_id = await create_user(client, "jane@example.com")
        await client.patch(f"/users/{user_id}", json={"email": "jane@example.org"})
        await relayed(service)

    assert post.sent == ["jane@example.com"]


async def test_a_mail_that_fails_is_tried_again() -> None:
    post = Post(failures=2)
    async with serving(mailer=post) as (client, service):
        await create_user(client, "jane@example.com")
        await relayed(service)
        letters = await service.bus.dead_letter_queue.count()

    assert (post.attempts, post.sent, letters) == (3, ["jane@example.com"], 0)


async def test_a_dead_letter_outlives_the_process_and_is_given_back_at_the_next_start(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/events.db"
    async with serving(url, mailer=Post(failures=1_000)) as (client, service):
        user_id = await create_user(client, "jane@example.com")
        await relayed(service)
        (letter,) = await service.bus.dead_letter_queue.list()

    post = Post()
    async with serving(url, mailer=post) as (_, service):
        await service.bus.settled()
        left = await service.bus.dead_letter_queue.count()

    assert (letter.handler, letter.error) == ("welcome-mail", "OSError: the mail server is away")
    assert letter.envelope is not None
    assert letter.envelope.event == UserCreated(user_id, "jane@example.com", "Jane")
    assert (post.sent, left) == (["jane@example.com"], 0)


async def test_a_letter_of_a_handler_that_there_is_no_more_stays_where_it_is(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/events.db"
    async with await EventStore.connect(url) as store:
        async with store.transaction() as connection:
            await prepare_table(connection)
        await store.append("user-1", UserCreated("user-1", "jane@example.com", "Jane"))
        queue = DeadLetterQueue(store=StoredDeadLetters(store))
        async with EventBus(dead_letter_queue=queue) as bus:

            @bus.on(UserCreated, name="retired")
            async def refuse(user: UserCreated) -> None:
                raise Reject(user.user_id)

            async with Relay(store, bus) as relay:
                await until(lambda: relay.position == 1)

    async with serving(url) as (_, service):
        await relayed(service)
        letters = await service.bus.dead_letter_queue.list()

    assert [(letter.handler, letter.reason) for letter in letters] == [("retired", "rejected")]


async def test_a_relay_goes_on_after_trouble_that_passes() -> None:
    bus = MockEventBus()
    bus.faults.refuse(SubscriptionFullError("mail", 1), UserCreated, after=1)
    users = [UserCreated("user-1", f"{number}@example.com", "Jane") for number in range(3)]
    async with await EventStore.connect("sqlite://") as store, bus:
        await store.append("user-1", users)
        async with Relay(store, bus) as relay:
            await until(lambda: relay.position == 3)

    assert bus.published_events(UserCreated) == [users[0], *users]  # the first once more: it was not done


async def test_what_was_appended_while_no_relay_ran_is_published_by_the_next_one() -> None:
    async with await EventStore.connect("sqlite://") as store:
        await store.append("user-1", UserCreated("user-1", "jane@example.com", "Jane"))
        async with EventBus() as bus:
            users = await bus.subscribe(UserCreated)
            async with Relay(store, bus):
                event = await users.recv()

    assert event == UserCreated("user-1", "jane@example.com", "Jane")


async def test_the_metadata_of_an_event_reaches_the_handlers_as_it_is_in_the_log() -> None:
    async with await EventStore.connect("sqlite://") as store:
        await store.append("user-1", UserCreated("user-1", "jane@example.com", "Jane"))
        (stored,) = await store.get_events("user-1")
        async with EventBus() as bus:
            users = await bus.subscribe(UserCreated)
            async with Relay(store, bus):
                envelope = await anext(aiter(users.envelopes()))

    assert envelope == stored


async def test_an_event_whose_handler_was_not_done_comes_again_after_the_next_start() -> None:
    async with await EventStore.connect("sqlite://") as store:
        await store.append("user-1", UserCreated("user-1", "jane@example.com", "Jane"))
        handled: list[str] = []
        has_begun = asyncio.Event()

        async with EventBus(drain_timeout_s=0.01) as first:

            @first.on(UserCreated, name="mail")
            async def never_ends(user: UserCreated) -> None:
                has_begun.set()
                await asyncio.Event().wait()

            async with Relay(store, first, drain_timeout_s=0.01) as relay:
                await has_begun.wait()
                before = relay.position

        async with EventBus() as second:

            @second.on(UserCreated, name="mail")
            async def mail(user: UserCreated) -> None:
                handled.append(user.email)

            async with Relay(store, second) as relay:
                await until(lambda: relay.position == 1)

    assert (before, handled) == (0, ["jane@example.com"])


async def test_an_event_that_all_handlers_are_done_with_does_not_come_again() -> None:
    seen: Counter[int] = Counter()
    async with await EventStore.connect("sqlite://") as store:
        for number in range(3):
            await store.append(
                "users", [UserCreated("user-1", f"{number}-{n}@example.com", "Jane") for n in range(400)]
            )
            async with EventBus() as bus:

                @bus.on(UserCreated)
                async def see(user: UserCreated, envelope: EventEnvelope[UserCreated]) -> None:
                    assert isinstance(envelope, StoredEvent)
                    seen[envelope.position] += 1

                async with Relay(store, bus) as relay:
                    await until(lambda: relay.position == 400 * (number + 1))  # noqa: B023 - done within the round

    assert seen == dict.fromkeys(range(1, 1_201), 1)


async def test_a_relay_that_stops_finishes_what_handlers_have() -> None:
    done: list[str] = []
    has_begun = asyncio.Event()
    async with await EventStore.connect("sqlite://") as store, EventBus() as bus:
        await store.append("user-1", UserCreated("user-1", "jane@example.com", "Jane"))

        @bus.on(UserCreated)
        async def mail(user: UserCreated) -> None:
            has_begun.set()
            await asyncio.sleep(0.05)
            done.append(user.email)

        async with Relay(store, bus) as relay:
            await has_begun.wait()
        position = relay.position

    assert (done, position) == (["jane@example.com"], 1)

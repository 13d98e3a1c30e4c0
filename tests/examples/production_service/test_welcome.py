"""From the log to the handlers: at least once, with retry and dead letters that outlive the process."""

from pathlib import Path

from avx_events import DeadLetterQueue, EventStore, LogBus, Reject
from examples.production_service.users import UserCreated
from tests.examples.production_service.serving import create_user, handled, serving
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
        await handled(service)

    assert post.sent == ["jane@example.com"]


async def test_a_mail_that_fails_is_tried_again() -> None:
    post = Post(failures=2)
    async with serving(mailer=post) as (client, service):
        await create_user(client, "jane@example.com")
        await handled(service)
        letters = await service.bus.dead_letter_queue.count()

    assert (post.attempts, post.sent, letters) == (3, ["jane@example.com"], 0)


async def test_a_dead_letter_outlives_the_process_and_is_given_back_at_the_next_start(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/events.db"
    async with serving(url, mailer=Post(failures=1_000)) as (client, service):
        user_id = await create_user(client, "jane@example.com")
        await handled(service)
        (letter,) = await service.bus.dead_letter_queue.list()

    post = Post()
    async with serving(url, mailer=post) as (_, service):
        await handled(service)
        left = await service.bus.dead_letter_queue.count()

    assert (letter.handler, letter.error) == ("welcome-mail", "OSError: the mail server is away")
    assert letter.envelope is not None
    assert letter.envelope.event == UserCreated(user_id, "jane@example.com", "Jane")
    assert (post.sent, left) == (["jane@example.com"], 0)


async def test_a_dead_letter_is_found_by_the_url_of_the_store_alone(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/events.db"
    async with serving(url, mailer=Post(failures=1_000)) as (client, service):
        await create_user(client, "jane@example.com")
        await handled(service)

        async with await DeadLetterQueue.connect(url) as queue:
            letters = await queue.list()

    assert [letter.handler for letter in letters] == ["welcome-mail"]


async def test_a_letter_of_a_handler_that_there_is_no_more_stays_where_it_is(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/events.db"
    async with await EventStore.connect(url) as store, await DeadLetterQueue.connect(url) as queue:
        await store.append("user-1", UserCreated("user-1", "jane@example.com", "Jane"))
        bus = await LogBus.connect(store, group="avx-events", start="earliest", dead_letter_queue=queue)
        async with bus:

            @bus.on(UserCreated, name="retired")
            async def refuse(user: UserCreated) -> None:
                raise Reject(user.user_id)

            await until(lambda: bus.statistics().dead_lettered)

    async with serving(url) as (_, service):
        await handled(service)
        letters = await service.bus.dead_letter_queue.list()

    assert [(letter.handler, letter.reason) for letter in letters] == [("retired", "rejected")]


async def test_what_was_appended_while_nobody_ran_is_handled_by_the_next_one(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/events.db"
    async with await EventStore.connect(url) as store:
        await store.append("user-1", UserCreated("user-1", "jane@example.com", "Jane"))

    post = Post()
    for _ in range(2):
        async with serving(url, mailer=post) as (client, service):
            await create_user(client, f"{service.snapshot().uptime_s}@example.com")
            await handled(service)

    assert post.sent.count("jane@example.com") == 1
    assert len(post.sent) == 3

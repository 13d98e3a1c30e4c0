"""From the log to the handlers: at least once, with retry and dead letters that outlive the process."""

import logging
from pathlib import Path

import msgspec
import pytest

from avx_events import DeadLetter, DeadLetterQueue, EventStore, LogBus, Reject
from examples.production_service.users import UserCreated
from examples.production_service.welcome import LogMailer, MailRefusedError, WelcomeMail
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


async def test_letters_that_nobody_here_can_take_back_do_not_keep_the_service_from_its_start(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/events.db"
    async with serving(url, mailer=Post(failures=1_000)) as (client, service):
        await create_user(client, "jane@example.com")
        await handled(service)
        (letter,) = await service.bus.dead_letter_queue.list()
        of_another = msgspec.structs.replace(letter, id="of another group", group="another service")
        unreadable = msgspec.structs.replace(letter, id="unreadable", envelope=None, raw=b"{}", reason="undecodable")
        for each in (of_another, unreadable):
            await service.bus.dead_letter_queue.add(each)

    post = Post()
    async with serving(url, mailer=post) as (_, service):
        await handled(service)
        left = {letter.id: letter.redrives for letter in await service.bus.dead_letter_queue.list()}

    assert post.sent == ["jane@example.com"]
    assert left == {"of another group": 0, "unreadable": 0}


def mended(letter: DeadLetter, *, email: str) -> DeadLetter:
    """Return ``letter`` with another address in its event."""
    assert letter.envelope is not None
    event = msgspec.structs.replace(letter.envelope.event, email=email)
    return msgspec.structs.replace(letter, envelope=msgspec.structs.replace(letter.envelope, event=event))


async def test_a_mail_that_is_refused_is_a_dead_letter_at_once_and_recorded() -> None:
    async with serving() as (client, service):
        user_id = await create_user(client, "jane@example.invalid")
        await handled(service)
        (letter,) = await service.bus.dead_letter_queue.list()
        mail = await service.store.load(WelcomeMail, f"welcome-mail-{user_id}")

    assert (letter.handler, letter.attempts, letter.reason) == ("welcome-mail", 1, "rejected")
    refusal = "no mail to 'jane@example.invalid': there is no domain example.invalid"
    assert letter.error == f"MailRefusedError: {refusal}"
    assert (mail.version, mail.status, mail.email) == (1, "refused", "jane@example.invalid")
    assert mail.reason == "there is no domain example.invalid"


async def test_what_is_refused_again_after_a_restart_is_recorded_once(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/events.db"
    async with serving(url) as (client, service):
        user_id = await create_user(client, "jane@example.invalid")
        await handled(service)

    async with serving(url) as (_, service):
        await handled(service)
        (letter,) = await service.bus.dead_letter_queue.list()
        version = await service.store.version_of(f"welcome-mail-{user_id}")

    assert (letter.redrives, version) == (1, 1)


async def test_a_mended_letter_is_sent_once_and_the_stream_has_what_was_and_what_is() -> None:
    async with serving() as (client, service):
        user_id = await create_user(client, "jane@example.invalid")
        await handled(service)
        (letter,) = await service.bus.dead_letter_queue.list()
        for _ in range(2):
            await service.bus.dead_letter_queue.add(mended(letter, email="jane@example.com"))
            await service.bus.republish(letter.id)
            await service.bus.settled()
        left = await service.bus.dead_letter_queue.count()
        mails = [
            await service.store.load(WelcomeMail, f"welcome-mail-{user_id}", at_version=version) for version in (1, 2)
        ]
        last_version = await service.store.version_of(f"welcome-mail-{user_id}")

    assert [(mail.status, mail.email) for mail in mails] == [
        ("refused", "jane@example.invalid"),
        ("sent", "jane@example.com"),
    ]
    assert mails[-1].reason == ""
    assert (left, last_version) == (0, 2)


@pytest.mark.parametrize("to", ["jane@example.invalid", "jane@mail.example.INVALID"])
async def test_no_mail_goes_to_a_domain_that_there_cannot_be(to: str) -> None:
    with pytest.raises(MailRefusedError, match="there is no domain") as refused:
        await LogMailer().send(to=to, text="Welcome!")

    assert refused.value.to == to


@pytest.mark.parametrize("to", ["jane@invalid.example", "jane.invalid@example.com", "jane@notinvalid.example"])
async def test_a_mail_is_a_line_of_the_log(to: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="examples.production_service.welcome"):
        await LogMailer().send(to=to, text="Welcome!")

    assert caplog.messages == [f"mail to {to}: Welcome!"]


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

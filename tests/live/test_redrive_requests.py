"""Dead letters in brokers, redriven by members in processes of their own, for those who have no handler."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import msgspec
import pytest
from confluent_kafka.admin import AdminClient

from avx_events import DeadLetter, DeadLetterQueue, EventBus
from avx_events.apps.console import Console, serve_urls
from avx_events.bus.redrive_outcome import is_claimed
from avx_events.core.errors import DeadLetterNotFoundError, TransportUnavailableError
from avx_events.distributed.kafka.names import Names
from avx_events.testing.bus_contract import until
from avx_events.testing.redrive_contract import until_gone
from tests.live.redrive_member import GROUP, HANDLER, Bill
from tests.live.sqlite_processes import lines, running
from tests.live.test_cli import run
from tests.servers.process import Server
from tests.unit.apps.console.visitors import TOKEN, as_page, visiting

pytestmark = [pytest.mark.live, pytest.mark.timeout(90)]

LIMIT_S = 60.0


class Place:
    """A namespace of a broker, the letters in it, and what its members are to do."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.folder = url, folder
        self.namespace = f"redrive-{uuid4().hex}"
        self.letters_url = f"{url}?namespace={self.namespace}"

    def have(self, *files: str) -> None:
        for name in ("mended", "hanging"):
            (self.folder / name).unlink(missing_ok=True)
        for name in files:
            (self.folder / name).touch()

    @asynccontextmanager
    async def member(self) -> AsyncGenerator["Member"]:
        async with asyncio.timeout(LIMIT_S), running("redrive_member", self.url, self.namespace, self.folder) as worker:
            member = Member(worker)
            assert await member.begins_with() == 0
            yield member

    @asynccontextmanager
    async def with_letters(self, count: int) -> AsyncGenerator[tuple["Member", DeadLetterQueue, list[DeadLetter]]]:
        async with self.member() as member, await DeadLetterQueue.connect(self.letters_url) as queue:
            async with await EventBus.connect(self.url, namespace=self.namespace) as publisher:
                await publisher.publish_many(Bill(number) for number in range(1, count + 1))

            async def are_there() -> bool:
                return await queue.count() == count

            await until(are_there)
            for _ in range(count):
                await member.begins_with()
            yield member, queue, await queue.list()


class Member:
    """A process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self._lines = lines(process, int)

    async def begins_with(self) -> int:
        return await anext(self._lines)

    async def killed(self) -> list[int]:
        """Kill the process with SIGKILL, and return what it had begun with and was not asked for."""
        self.process.kill()
        return [number async for number in self._lines]


@pytest.fixture(params=["redis_url", "nats_url", "kafka_url"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return Place(request.getfixturevalue(request.param), tmp_path)


@pytest.fixture(params=["redis_server", "nats_server", "kafka_server"])
def server(request: pytest.FixtureRequest) -> Server:
    found: Server = request.getfixturevalue(request.param)
    return found


# The command line


async def test_a_shell_has_letters_redriven_without_the_application(place: Place) -> None:
    async with place.with_letters(3) as (member, queue, letters):
        place.have("mended")
        code, out, err = await run("dead-letters", "redrive", place.letters_url, "--yes", "--json")

        begun = await member.killed()
        left = await queue.list()

    assert (code, err) == (0, "")
    outcomes = {row["id"]: row["outcome"] for row in map(json.loads, out.splitlines())}
    assert outcomes == {letter.id: "redriven" for letter in letters}
    assert (sorted(begun), left) == ([1, 2, 3], [])


async def test_a_shell_is_told_that_a_letter_failed_again(place: Place) -> None:
    async with place.with_letters(2) as (_, queue, letters):
        code, out, _ = await run("dead-letters", "redrive", place.letters_url, letters[0].id, "--yes")

        redrives = [letter.redrives for letter in await queue.list()]

    assert (code, out) == (1, "1 failed again\n")
    assert sorted(redrives) == [0, 1]


async def test_a_shell_is_told_that_nobody_has_the_handler_and_that_a_letter_is_in_line(place: Place) -> None:
    async with place.with_letters(1) as (member, queue, [letter]):
        place.have("hanging")
        command = ("dead-letters", "redrive", place.letters_url, "--yes", "--timeout-s", "3")
        await queue.ask_for_redrive(letter)
        await member.begins_with()
        in_line = await run(*command)
        await member.killed()
        await until_free(queue, letter.id)
        unanswered = await run(*command)

    assert in_line[:2] == (1, "1 in line\n")
    assert unanswered[:2] == (1, "1 unanswered\n")
    assert f"group '{GROUP}' that has handler '{HANDLER}'" in unanswered[2]
    assert "--app" in unanswered[2]


async def test_a_shell_edits_a_letter_that_a_member_handles_then(place: Place) -> None:
    async with place.with_letters(1) as (member, queue, [letter]):
        command = ("dead-letters", "edit", place.letters_url, letter.id, "--data")
        left = await run(*command, '{"number":50}', "--leave")
        redriven = await run(*command, '{"number":100}')

        begun = await member.killed()
        count = await queue.count()

    assert left[:2] == (0, f"edited {letter.id}\n")
    assert redriven == (0, "redriven\n", "")
    assert (begun, count) == ([100], 0)


# The console


@asynccontextmanager
async def console(queue: DeadLetterQueue) -> AsyncGenerator[httpx.AsyncClient]:
    async with visiting(Console(dead_letter_queue=queue)) as client:
        client.headers.update(await as_page(client))
        yield client


async def test_a_console_without_a_bus_edits_and_redrives(place: Place) -> None:
    async with place.with_letters(1) as (member, queue, [letter]), console(queue) as client:
        path = f"/api/letters/{letter.id}"
        failed = (await client.post(f"{path}/redrive")).json()
        edited = (await client.post(f"{path}/edit", json={"text": '{"number": 100}'})).json()
        handled = (await client.post(f"{path}/redrive")).json()

        begun = await member.killed()

    assert (failed["state"], edited["state"], handled["state"]) == ("failed_again", "edited", "handled")
    assert "ValueError" in failed["says"]
    assert begun == [1, 100]


async def test_of_two_consoles_without_a_bus_one_has_it_redriven(place: Place) -> None:
    async with (
        place.with_letters(1) as (member, queue, [letter]),
        await DeadLetterQueue.connect(place.letters_url) as other,
        console(queue) as ada,
        console(other) as bob,
    ):
        place.have("mended")
        async with asyncio.TaskGroup() as tasks:
            asking = [tasks.create_task(client.post(f"/api/letters/{letter.id}/redrive")) for client in (ada, bob)]

        begun = await member.killed()

    assert [task.result().json()["state"] for task in asking] == ["handled", "handled"]
    assert begun == [1]


async def test_a_console_of_urls_alone_redrives(place: Place) -> None:
    async with place.with_letters(1) as (member, _, [letter]):
        place.have("mended")
        started: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        async with asyncio.TaskGroup() as tasks:
            serving = tasks.create_task(
                serve_urls(
                    broker_url=place.url,
                    namespace=place.namespace,
                    token=TOKEN,
                    port=0,
                    on_started=started.set_result,
                )
            )
            headers = {"Authorization": f"Bearer {TOKEN}"}
            async with httpx.AsyncClient(base_url=await started, headers=headers, timeout=LIMIT_S) as client:
                outcome = (await client.post(f"/api/letters/{letter.id}/redrive")).json()
            serving.cancel()

        begun = await member.killed()

    assert (outcome["state"], begun) == ("handled", [1])


# Members that die


async def test_a_letter_whose_member_is_killed_comes_back_when_its_claim_is_over(place: Place) -> None:
    async with place.with_letters(1) as (member, queue, [letter]):
        place.have("hanging")
        await queue.ask_for_redrive(letter)
        assert await member.begins_with() == 1
        await member.killed()
        place.have("mended")
        async with place.member() as other:
            was_claimed = await is_claimed(queue, letter.id)
            await until_free(queue, letter.id)
            left = await queue.get(letter.id)
            await queue.ask_for_redrive(letter)
            await until_gone(queue, letter.id)

            begun = await other.killed()

    assert was_claimed
    assert msgspec.structs.replace(left, envelope=None) == msgspec.structs.replace(letter, envelope=None)
    assert begun == [1]


# Brokers that go and come


async def test_members_hear_who_asks_when_the_broker_has_come_back(server: Server, tmp_path: Path) -> None:
    place = Place(server.url, tmp_path)
    async with place.with_letters(2) as (_, queue, letters):
        place.have("mended")
        await queue.ask_for_redrive(letters[0])
        await until_gone(queue, letters[0].id)
        server.kill()
        server.start()

        await ask_until_gone(queue, letters[1])


async def test_members_on_kafka_hear_who_asks_when_the_topic_was_deleted(kafka_url: str, tmp_path: Path) -> None:
    place = Place(kafka_url, tmp_path)
    admin: Any = AdminClient({"bootstrap.servers": kafka_url.removeprefix("kafka://")})
    async with place.with_letters(2) as (_, queue, letters):
        place.have("mended")
        await queue.ask_for_redrive(letters[0])
        await until_gone(queue, letters[0].id)
        topic = Names(place.namespace).redrives
        await asyncio.to_thread(admin.delete_topics([topic])[topic].result)

        await ask_until_gone(queue, letters[1])


async def ask_until_gone(queue: DeadLetterQueue, letter: DeadLetter) -> None:
    """Ask again and again: when members are back nobody can see, and until they are nobody hears it."""

    async def is_gone() -> bool:
        try:
            await queue.ask_for_redrive(letter)
        except DeadLetterNotFoundError:
            return True
        except TransportUnavailableError:
            return False
        return False

    await until(is_gone)


async def until_free(queue: DeadLetterQueue, letter_id: str) -> None:
    async def is_free() -> bool:
        return not await is_claimed(queue, letter_id)

    await until(is_free)

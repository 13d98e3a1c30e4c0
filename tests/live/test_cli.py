"""The command line as people run it: real processes, pipes, signals, a terminal, and real servers."""

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import pytest

from avx_events.bus.dead_letters import DeadLetterQueue
from avx_events.bus.event_bus import EventBus
from avx_events.core.event import Event
from avx_events.store.event_store import EventStore
from tests.live.test_letters_processes import a_letter

LIMIT_S = 20.0


class Piped(Event, event_type="live.piped"):
    pass


class Listed(Event, event_type="live.cli.listed"):
    number: int


@asynccontextmanager
async def cli(*arguments: str, stdin: int = DEVNULL) -> AsyncGenerator[Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "avx_events", *arguments, stdin=stdin, stdout=PIPE, stderr=PIPE, limit=1 << 20
    )
    try:
        async with asyncio.timeout(LIMIT_S):
            yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def run(*arguments: str, stdin: str | None = None) -> tuple[int | None, str, str]:
    async with cli(*arguments, stdin=DEVNULL if stdin is None else PIPE) as process:
        out, err = await process.communicate(None if stdin is None else stdin.encode())
        return process.returncode, out.decode(), err.decode()


async def line(process: Process) -> str:
    assert process.stdout is not None
    return (await process.stdout.readline()).decode()


async def filled(url: str, count: int) -> str:
    async with await EventStore.connect(url) as store:
        await store.append("list", [Listed(number) for number in range(count)])
    return url


async def what_is_published_is_seen(url: str) -> None:
    namespace = f"cli{uuid4().hex}"
    options = ("--namespace", namespace, "--json")
    async with cli("tail", url, "live.*", *options) as tail:
        # Nobody can see when it listens; what is published before that is not for it.
        async with asyncio.TaskGroup() as tasks:
            publishing = tasks.create_task(_publish_again_and_again(url, options))
            seen = json.loads(await line(tail))
            publishing.cancel()
        tail.send_signal(signal.SIGINT)
        assert await tail.wait() == 130

    assert seen["event_type"] == "live.typed"
    assert seen["data"] == {"word": "ä"}
    assert (seen["aggregate_id"], seen["headers"]) == ("7", {"tenant": "t"})


async def _publish_again_and_again(url: str, options: tuple[str, ...]) -> None:
    while True:
        code, _, err = await run(
            "publish", url, "live.typed", '{"word":"ä"}', "--key", "7", "--header", "tenant=t", *options
        )
        assert code == 0, err


@pytest.mark.live
async def test_what_is_published_to_redis_is_seen(redis_url: str) -> None:
    await what_is_published_is_seen(redis_url)


@pytest.mark.live
async def test_what_is_published_to_nats_is_seen(nats_url: str) -> None:
    await what_is_published_is_seen(nats_url)


@pytest.mark.live
async def test_what_is_published_to_kafka_is_seen(kafka_url: str) -> None:
    await what_is_published_is_seen(kafka_url)


@pytest.mark.live
async def test_events_are_published_from_a_pipe_one_a_line(redis_url: str) -> None:
    lines = "".join(f'{{"number":{number}}}\n' for number in range(50))

    code, out, err = await run("publish", redis_url, "live.piped", "--namespace", f"cli{uuid4().hex}", stdin=lines)

    assert (code, err) == (0, "")
    assert len(set(out.split())) == 50


@pytest.mark.live
async def test_an_event_from_a_pipe_is_published_before_the_next_comes_and_a_bad_one_is_named(redis_url: str) -> None:
    async with cli("publish", redis_url, "live.piped", "--namespace", f"cli{uuid4().hex}", stdin=PIPE) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write(b'{"number":1}\n\n{"num')
        first = await line(process)
        process.stdin.write(b'ber":2}\n[3]\n')
        second = await line(process)
        err = (await process.stderr.read()).decode()
        code = await process.wait()

    assert first.strip() != second.strip() != ""
    assert code == 1
    assert err.startswith("avx-events: event 3 of stdin must be a JSON object")
    assert err.count("\n") == 1


@pytest.mark.live
async def test_all_events_of_a_pipe_are_published_though_nobody_reads_their_ids(redis_url: str) -> None:
    namespace = f"cli{uuid4().hex}"
    program = f"{sys.executable} -m avx_events publish {redis_url} live.piped --namespace {namespace}"
    command = f"set -o pipefail; for i in {{1..500}}; do echo '{{}}'; done | {program} | head -n 1"
    async with await EventBus.connect(redis_url, namespace=namespace, group="all", start="earliest") as bus:
        subscriber = await bus.subscribe(Piped)
        shell = await asyncio.create_subprocess_exec("bash", "-c", command, stdout=PIPE, stderr=PIPE)
        async with asyncio.timeout(LIMIT_S):
            _, err = await shell.communicate()
            for _ in range(500):
                assert await subscriber.recv() is not None

    assert (shell.returncode, err) == (0, b"")


async def test_who_publishes_from_a_stdin_that_is_closed_is_told_what_to_do(tmp_path: Path) -> None:
    command = f"{sys.executable} -m avx_events publish redis://127.0.0.1:1 a.b --timeout-s 1 <&-"
    shell = await asyncio.create_subprocess_exec("bash", "-c", command, stdout=PIPE, stderr=PIPE)
    async with asyncio.timeout(LIMIT_S):
        _, err = await shell.communicate()

    assert shell.returncode == 1
    assert b"stdin must be open" in err


@pytest.mark.live
async def test_streams_and_logs_are_read_from_postgresql(postgres_database: str) -> None:
    url = await filled(postgres_database, 3)

    code, out, err = await run("streams", url, "--json")
    _, log, _ = await run("tail", url, "--from", "start", "--count", "3", "--json")

    assert (code, err) == (0, "")
    assert json.loads(out)["version"] == 3
    assert [json.loads(row)["data"]["number"] for row in log.splitlines()] == [0, 1, 2]


@pytest.mark.live
async def test_dead_letters_are_mended_and_forgotten_in_brokers_and_postgresql(
    redis_url: str, nats_url: str, kafka_url: str, postgres_database: str
) -> None:
    brokers = [f"{url}?namespace=cli{uuid4().hex}" for url in (redis_url, nats_url, kafka_url)]
    for url in (*brokers, postgres_database):
        async with await DeadLetterQueue.connect(url) as queue:
            await queue.add(a_letter(1))
            await queue.add(a_letter(2))

        data = '{"worker":"b","number":7}'
        code, out, err = await run("dead-letters", "edit", url, "letter-0001", "--data", data, "--leave", "--json")
        _, shown, _ = await run("dead-letters", "show", url, "letter-0001", "--json")
        removed, _, _ = await run("dead-letters", "remove", url, "letter-0002", "--yes")
        _, listed, _ = await run("dead-letters", "list", url, "--each", "--json")

        assert (code, err) == (0, "")
        assert json.loads(out)["outcome"] == "edited"
        assert json.loads(shown)["event"]["data"] == {"worker": "b", "number": 7}
        assert removed == 0
        assert [json.loads(row)["id"] for row in listed.splitlines()] == ["letter-0001"]


async def test_a_letter_that_somebody_else_holds_is_not_edited(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/letters.db"
    async with await DeadLetterQueue.connect(url) as queue:
        await queue.add(a_letter(1))
        assert await queue.claim("letter-0001") is not None

        code, _, err = await run("dead-letters", "edit", url, "letter-0001", "--data", '{"worker":"b","number":7}')

        assert (code, "nobody else" in err) == (1, True)
        assert (await queue.get("letter-0001")).event.number == 1


async def test_ctrl_c_ends_a_tail_without_a_trace(tmp_path: Path) -> None:
    url = await filled(f"sqlite:///{tmp_path}/events.db", 1)
    async with cli("tail", url, "--from", "start") as tail:
        assert "live.cli.listed" in await line(tail)

        tail.send_signal(signal.SIGINT)
        _, err = await tail.communicate()

        assert (tail.returncode, err) == (130, b"")


async def test_a_reader_that_has_enough_ends_a_tail_though_nothing_comes(tmp_path: Path) -> None:
    url = await filled(f"sqlite:///{tmp_path}/events.db", 1)
    reading, writing = os.pipe()
    tail = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "avx_events", "tail", url, "--from", "start", stdout=writing, stderr=PIPE
    )
    os.close(writing)
    with os.fdopen(reading) as pipe:
        assert "live.cli.listed" in await asyncio.to_thread(pipe.readline)

    async with asyncio.timeout(LIMIT_S):
        _, err = await tail.communicate()
    assert (tail.returncode, err) == (0, b"")


async def test_a_broken_pipe_is_quiet(tmp_path: Path) -> None:
    url = await filled(f"sqlite:///{tmp_path}/events.db", 20_000)
    command = f"set -o pipefail; {sys.executable} -m avx_events tail '{url}' --from start --json | head -n 1"
    shell = await asyncio.create_subprocess_exec("bash", "-c", command, stdout=PIPE, stderr=PIPE)

    async with asyncio.timeout(LIMIT_S):
        out, err = await shell.communicate()

    assert (shell.returncode, err, out.count(b"\n")) == (0, b"", 1)


@pytest.mark.parametrize(
    "arguments",
    [
        ("tail", "redis://127.0.0.1:1", "--timeout-s", "1"),
        ("tail", "nats://127.0.0.1:1", "--timeout-s", "1"),
        ("tail", "kafka://127.0.0.1:1", "--timeout-s", "1"),
        ("groups", "kafka://127.0.0.1:1", "--timeout-s", "1"),
        ("streams", "postgresql://127.0.0.1:1/none?timeout_s=1"),
        ("dead-letters", "list", "redis://127.0.0.1:1?timeout_s=1"),
    ],
)
async def test_a_server_that_is_down_is_one_line(arguments: tuple[str, ...]) -> None:
    code, out, err = await run(*arguments)

    assert (code, out) == (1, "")
    assert len(err.splitlines()) == 1, err
    assert "127.0.0.1:1" in err


@pytest.mark.live
async def test_groups_are_listed_and_risks_end_with_1(
    redis_url: str, nats_url: str, kafka_url: str, tmp_path: Path
) -> None:
    for url in (redis_url, nats_url, kafka_url):
        namespace = f"cli{uuid4().hex}"
        bus = await EventBus.connect(url, group="billing", namespace=namespace)

        @bus.on(Listed, name="bill")
        async def bill(event: Listed) -> None:
            del event

        async with bus:
            code, out, err = await run("groups", url, "--namespace", namespace, "--json")
            healthy, findings, _ = await run("doctor", url, "--namespace", namespace, "--json")

        assert (code, err) == (0, "")
        (group,) = [json.loads(row) for row in out.splitlines()]
        assert (group["group"], group["handler"], len(group["members"])) == ("billing", "bill", 1)
        levels = {json.loads(row)["level"] for row in findings.splitlines()}
        assert healthy == ("risk" in levels)

    code, out, _ = await run("doctor", await filled(f"sqlite:///{tmp_path}/events.db", 1))
    assert (code, out.split()[0]) == (0, "LEVEL")

"""The production service as a process: it stops in good order, survives being killed, and says what is wrong."""

import asyncio
import os
import re
import signal
import socket
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from itertools import count
from pathlib import Path
from typing import Final

import httpx
import pytest

from avx_events import EventStore
from examples.production_service.read_models import ReadModels
from examples.production_service.users import User, UserCreated
from examples.production_service.welcome import WelcomeMailSent
from tests.live.service_process import Running, failed_start, log_in, running
from tests.servers.children import ENDED, children_of, have_got_to
from tests.waiting import until

CLIENTS: Final = 20
ACCEPTED_BEFORE_THE_END: Final = 100


async def register_until_it_ends(service: Running, accepted: dict[str, str], *, name: str) -> None:
    """Register one user after the other, and remember those that were answered with 201, until nobody answers."""
    for number in count():
        email = f"{name}-{number}@example.com"
        try:
            answer = await service.client.post("/users", json={"email": email, "name": name})
        except httpx.TransportError:
            return
        if answer.status_code != 201:
            assert answer.status_code == 503  # it is stopping
            return
        accepted[answer.json()["user_id"]] = email


async def end_under_load(service: Running, number: int, *, load: str = "load") -> tuple[int, dict[str, str]]:
    """Send a signal while many clients register users; return the exit code, and the users that were accepted."""
    accepted: dict[str, str] = {}
    async with asyncio.timeout(30), asyncio.TaskGroup() as clients:
        for client in range(CLIENTS):
            clients.create_task(register_until_it_ends(service, accepted, name=f"{load}-{client}"))
        await until(lambda: len(accepted) >= ACCEPTED_BEFORE_THE_END)
        code = await service.end(number)
    return code, accepted


async def users_in(store: EventStore) -> dict[str, str]:
    """Return the users that the read model has."""
    found: dict[str, str] = {}
    after: str | None = None
    while page := await ReadModels(store, "sqlite").users(after=after, limit=1_000):
        found |= {user.user_id: user.email for user in page}
        after = page[-1].user_id
    return found


async def all_are_welcomed(folder: Path) -> None:
    """Wait until the log has a welcome mail for each user; what a killed process had in hand waits for its lease."""
    missing: set[str] = set()
    async with await EventStore.connect(f"sqlite:///{folder}/avx-events.db") as store, asyncio.timeout(30):
        last_position = await store.last_position()
        async for stored in store.subscribe(unknown="keep"):
            if isinstance(stored.event, UserCreated):
                missing.add(stored.event.user_id)
            if isinstance(stored.event, WelcomeMailSent):
                missing.discard(stored.event.user_id)
            if stored.position >= last_position and not missing:
                return


async def test_the_walk_through_and_everything_is_there_after_a_restart(tmp_path: Path) -> None:
    async with running(tmp_path) as service:
        client = service.client
        created = await client.post("/users", json={"email": "jane@example.com", "name": "Jane"})
        user_id = created.json()["user_id"]
        changed = await client.patch(f"/users/{user_id}", json={"email": "jane@example.org"})
        ordered = await client.post("/orders", json={"user_id": user_id, "total": 12.5})
        order_id = ordered.json()["order_id"]
        refused = await client.post("/users", json={"email": "not an address", "name": "Jane"})
        code = await service.end(signal.SIGTERM)

    assert (created.status_code, changed.status_code, ordered.status_code, code) == (201, 200, 201, 0)
    assert (refused.status_code, list(refused.json())) == (422, ["error"])
    assert (tmp_path / "avx-events.db").exists()
    async with running(tmp_path) as service:
        client = service.client
        await service.is_ready()
        now = await client.get(f"/users/{user_id}")
        everybody = await client.get("/users")
        before = await client.get(f"/users/{user_id}?at_version=1")
        history = await client.get(f"/users/{user_id}/history")
        order = await client.get(f"/orders/{order_id}")
        metrics = await client.get("/metrics")
        code = await service.end(signal.SIGINT)

    jane = {"user_id": user_id, "email": "jane@example.org", "name": "Jane", "version": 2}
    assert (now.json(), everybody.json()) == (jane, [jane])
    assert before.json() == {**jane, "email": "jane@example.com", "version": 1}
    assert [(event["version"], event["event_type"]) for event in history.json()] == [
        (1, "shop.user.created"),
        (2, "shop.user.email_changed"),
    ]
    assert order.json() == {"order_id": order_id, "user_id": user_id, "total": 12.5, "version": 1}
    assert 'avx_events_projection_lag_events{projection="users"} 0.0\n' in metrics.text
    assert code == 0


async def test_a_body_that_is_too_large_is_refused_over_a_real_connection(tmp_path: Path) -> None:
    async def chunks() -> AsyncGenerator[bytes, None]:
        for _ in range(17):
            yield b" " * 65_536

    async with running(tmp_path) as service:
        told = await service.client.post("/users", content=b" " * (2**20 + 1))
        in_chunks = await service.client.post("/users", content=chunks())
        created = await service.client.post("/users", json={"email": "jane@example.com", "name": "Jane"})

    assert (told.status_code, in_chunks.status_code, created.status_code) == (413, 413, 201)


async def test_a_client_that_never_ends_its_request_does_not_hold_the_stop(tmp_path: Path) -> None:
    async with running(tmp_path) as service:
        reader, writer = await asyncio.open_connection("127.0.0.1", service.client.base_url.port)
        writer.write(b"POST /users HTTP/1.1\r\nHost: service\r\nContent-Length: 100\r\nExpect: 100-continue\r\n\r\n")
        await reader.readuntil(b"100 Continue")  # it is being read
        code = await service.end(signal.SIGTERM)
        writer.close()

    assert code == 0


async def test_an_answer_given_while_it_stops_says_that_the_connection_ends(tmp_path: Path) -> None:
    body = b'{"email": "jane@example.com", "name": "Jane"}'
    async with running(tmp_path) as service:
        reader, writer = await asyncio.open_connection("127.0.0.1", service.client.base_url.port)
        writer.write(b"POST /users HTTP/1.1\r\nHost: service\r\nContent-Length: %d\r\n" % len(body))
        writer.write(b"Expect: 100-continue\r\n\r\n")
        await reader.readuntil(b"100 Continue")  # it is being read
        service.process.send_signal(signal.SIGTERM)
        await until(lambda: "stopping" in log_in(tmp_path))
        writer.write(body)
        answer = (await reader.read()).lower()
        writer.close()

    assert b"http/1.1 201" in answer
    assert b"\r\nconnection: close\r\n" in answer


async def test_many_clients_that_send_nothing_leave_room_where_few_files_may_be_open(tmp_path: Path) -> None:
    async with running(tmp_path, before="ulimit -S -n 128") as service, AsyncExitStack() as clients:
        for _ in range(300):
            client = clients.enter_context(socket.socket())
            client.connect((service.client.base_url.host, service.client.base_url.port))
        health = await service.client.get("/health")
        code = await service.end(signal.SIGTERM)

    assert (health.status_code, code) == (200, 0)
    assert "Too many open files" not in log_in(tmp_path)


async def test_the_greeting_says_where_it_listens_and_what_to_try(tmp_path: Path) -> None:
    async with running(tmp_path) as service:
        health = await service.client.get("/health")

        assert (service.process.returncode, health.json()) == (None, {"status": "ok"})
        assert f"curl {service.client.base_url}/users" in service.greeting
        assert "sqlite:///avx-events.db" in service.greeting
        assert f"curl {service.client.base_url}/health" in service.greeting
        assert f"curl {service.client.base_url}/orders/$ORDER" in service.greeting
        assert "examples/production_service/README.md" in service.greeting


async def test_what_was_accepted_before_a_sigterm_is_there(tmp_path: Path) -> None:
    async with running(tmp_path) as service:
        code, accepted = await end_under_load(service, signal.SIGTERM)

    assert code == 0
    assert '"level": "error"' not in log_in(tmp_path)
    async with await EventStore.connect(f"sqlite:///{tmp_path}/avx-events.db") as store:
        registered = {user_id: (await store.load(User, user_id)).email for user_id in accepted}
        in_read_model = await users_in(store)
    assert registered == accepted
    assert in_read_model.items() >= accepted.items()


async def test_after_a_kill_under_load_nothing_accepted_is_lost_and_all_goes_on(tmp_path: Path) -> None:
    accepted: dict[str, str] = {}
    for load in ("first", "second"):
        async with running(tmp_path) as service:
            code, more = await end_under_load(service, signal.SIGKILL, load=load)
        assert code == -signal.SIGKILL
        accepted |= more
    async with running(tmp_path) as service:
        await service.is_ready()
        shown = (await service.client.get("/users?limit=1000")).json()
        await all_are_welcomed(tmp_path)
        code = await service.end(signal.SIGTERM)

    assert {user["user_id"]: user["email"] for user in shown}.items() >= accepted.items()
    assert code == 0
    async with await EventStore.connect(f"sqlite:///{tmp_path}/avx-events.db") as store:
        log = [stored async for stored in store.read_all(unknown="keep")]
        in_read_model = await users_in(store)
    created = {stored.event.user_id: stored.event.email for stored in log if isinstance(stored.event, UserCreated)}
    welcomed = {stored.event.user_id: stored.event.email for stored in log if isinstance(stored.event, WelcomeMailSent)}
    assert in_read_model == created
    assert welcomed == created
    versions: dict[str, list[int]] = {}
    for stored in log:
        versions.setdefault(stored.stream, []).append(stored.version)
    assert all(found == list(range(1, len(found) + 1)) for found in versions.values())


async def test_several_workers_share_the_work_and_one_that_is_killed_is_replaced(tmp_path: Path) -> None:
    async with running(tmp_path, {"AVX_EVENTS__WORKERS": "2"}) as service:
        first, second = children_of(service.process.pid)
        before = [
            await service.client.post("/users", json={"email": f"{number}@example.com", "name": "Jane"})
            for number in range(10)
        ]
        os.kill(first, signal.SIGKILL)
        await until(lambda: log_in(tmp_path).count("serves as process") == 3)
        now = set(children_of(service.process.pid))
        after = [
            await service.client.post("/users", json={"email": f"{number}@example.org", "name": "John"})
            for number in range(10)
        ]
        await all_are_welcomed(tmp_path)
        code = await service.end(signal.SIGTERM)

    assert {answer.status_code for answer in [*before, *after]} == {201}
    assert (len(now), first in now, second in now) == (2, False, True)
    assert "ended with code -9; another takes its place" in log_in(tmp_path)
    assert code == 0
    assert have_got_to(ENDED, now)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_what_several_workers_accepted_before_they_stop_is_there(tmp_path: Path, number: int) -> None:
    async with running(tmp_path, {"AVX_EVENTS__WORKERS": "2"}) as service:
        workers = children_of(service.process.pid)
        code, accepted = await end_under_load(service, number)

    assert code == 0
    assert have_got_to(ENDED, workers)
    async with await EventStore.connect(f"sqlite:///{tmp_path}/avx-events.db") as store:
        assert (await users_in(store)).items() >= accepted.items()


async def test_workers_whose_owner_is_killed_stop_by_themselves_and_leave_nothing_behind(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    sockets = tmp_path_factory.mktemp("s")  # a short name: those of sockets are limited
    async with running(tmp_path, {"AVX_EVENTS__WORKERS": "2", "TMPDIR": str(sockets)}) as service:
        workers = children_of(service.process.pid)
        assert len(list(sockets.iterdir())) == 1
        await service.end(signal.SIGKILL)

        assert len(workers) == 2
        assert await asyncio.to_thread(have_got_to, ENDED, workers)
        assert not list(sockets.iterdir())


async def test_a_store_that_no_worker_can_use_is_exit_code_2(tmp_path: Path) -> None:
    code, said = await failed_start(tmp_path, AVX_EVENTS__WORKERS="2", AVX_EVENTS__STORE_URL="mongo://localhost")

    assert code == 2
    assert "error: AVX_EVENTS__STORE_URL" in said


async def test_workers_that_would_have_a_store_each_are_refused(tmp_path: Path) -> None:
    code, said = await failed_start(tmp_path, AVX_EVENTS__WORKERS="2", AVX_EVENTS__STORE_URL="sqlite://")

    assert code == 2
    assert re.fullmatch(r"error: AVX_EVENTS__STORE_URL [^\n]* must be a file or PostgreSQL [^\n]*\n", said)


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("AVX__HTTP__BIND_ADDR", "8080", "must be HOST:PORT"),
        ("AVX__HTTP__BIND_ADDR", b"\xff:1", "must be HOST:PORT"),
        ("AVX__HTTP__BIND_ADDR", "192.0.2.1:0", "cannot be listened on"),
        ("AVX_EVENTS__STORE_URL", b"sqlite:///\xff.db", "cannot be used: "),
        ("AVX_EVENTS__STORE_URL", "avx-events.db", "cannot be used: url must be a URL"),
        ("AVX_EVENTS__STORE_URL", "mongo://localhost", "cannot be used: no engine for"),
        ("AVX_EVENTS__STORE_URL", "sqlite:///no/such/folder/events.db", "in a folder that is there"),
        ("AVX_EVENTS__STORE_URL", "sqlite:///notes.txt", "cannot be opened"),
    ],
)
async def test_a_setting_that_cannot_be_used_is_one_line_and_exit_code_2(
    tmp_path: Path, name: str, value: str | bytes, problem: str
) -> None:
    (tmp_path / "notes.txt").write_text("no database" * 100)
    code, said = await failed_start(tmp_path, **{name: value})

    assert code == 2
    assert re.fullmatch(rf"error: {name} [^\n]*{problem}[^\n]*\n", said)


async def test_a_port_that_is_taken_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    async with running(tmp_path) as service:
        folder = tmp_path / "second"
        folder.mkdir()
        code, said = await failed_start(folder, AVX__HTTP__BIND_ADDR=f"127.0.0.1:{service.client.base_url.port}")

    assert code == 2
    assert re.fullmatch(
        r"error: AVX__HTTP__BIND_ADDR [^\n]*cannot be listened on[^\n]*in use; set AVX__HTTP__BIND_ADDR[^\n]*\n", said
    )

"""What an inspector finds out on servers that are set up in one way and in another."""

import asyncio
import socket
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import asyncpg
import nats
import pytest
from redis.asyncio import Redis

from avx_events import (
    Event,
    EventBus,
    EventStore,
    Finding,
    Inspector,
    StoreRefusedError,
    StoreUnavailableError,
    TransportRefusedError,
    TransportUnavailableError,
)
from tests.servers.ports import free_port
from tests.servers.postgres import KEEP_NOTHING, postgres_in
from tests.servers.process import Server
from tests.servers.redis import redis_in
from tests.servers.software import program

pytestmark = pytest.mark.live


LOOKS_AGAIN_S: Final = 0.05


class Noticed(Event, event_type="inspection.noticed", aggregate_id="key"):
    key: str


async def _ignore(event: Noticed) -> None:
    del event


async def findings_at(url: str, namespace: str = "avx") -> Sequence[Finding]:
    async with await Inspector.connect(url, namespace=namespace) as inspector:
        return await inspector.findings()


async def answered(inspector: Inspector) -> Sequence[Finding]:
    """Ask until the server answers: whoever was away for long may need a second to be found again."""
    async with asyncio.timeout(10):
        while True:
            try:
                return await inspector.findings()
            except (TransportUnavailableError, StoreUnavailableError):
                await asyncio.sleep(LOOKS_AGAIN_S)


def levels(findings: Sequence[Finding]) -> Mapping[str, tuple[str, str]]:
    """Return value and level of each setting of the server, or of the only other subject."""
    return {finding.setting: (finding.value, finding.level) for finding in findings}


def says(findings: Sequence[Finding], setting: str) -> str:
    return next(finding.says for finding in findings if finding.setting == setting)


@pytest.mark.parametrize(
    ("options", "expected", "words"),
    [
        ("--appendonly yes --appendfsync always", ("appendfsync", "always", "ok"), "Nothing is lost"),
        ("--appendonly yes --appendfsync everysec", ("appendfsync", "everysec", "note"), "the last second"),
        ("--appendonly yes --appendfsync no", ("appendfsync", "no", "risk"), "half a minute"),
        ("--appendonly no", ("appendonly", "no", "risk"), "use appendonly yes"),
        ("--appendonly no", ("save", '""', "risk"), "at each restart"),
        ("--save 3600 1", ("save", "3600 1", "risk"), "came after the last one"),
        ("--maxmemory 50mb --maxmemory-policy allkeys-lru", ("maxmemory-policy", "allkeys-lru", "risk"), "Whole lanes"),
        ("--maxmemory 50mb", ("maxmemory-policy", "noeviction", "ok"), "refuses publishers"),
    ],
)
async def test_the_words_follow_the_settings_of_redis(
    tmp_path: Path, options: str, expected: tuple[str, str, str], words: str
) -> None:
    setting, value, level = expected
    with redis_in(tmp_path / "redis", *options.split()) as server:
        findings = await findings_at(server.url)

    assert levels(findings)[setting] == (value, level)
    assert words in says(findings, setting)


async def test_a_user_who_may_not_ask_for_settings_is_told_what_is_not_known(redis_server: Server) -> None:
    client: Any = Redis
    async with client.from_url(redis_server.url) as redis:
        permissions = ["~avx:*", "+@all", "-@dangerous"]
        await redis.execute_command("ACL", "SETUSER", "little", "on", ">secret", *permissions)
        await redis.execute_command("ACL", "SETUSER", "info", "on", ">secret", *permissions, "+info")

    place = redis_server.url.removeprefix("redis://")
    little = levels(await findings_at(f"redis://little:secret@{place}"))
    info = levels(await findings_at(f"redis://info:secret@{place}"))

    assert (little["CONFIG GET"], little["INFO"], little["version"]) == (("?", "note"), ("?", "note"), ("?", "note"))
    assert "appendfsync" not in little
    assert (info["CONFIG GET"], info["appendonly"]) == (("?", "note"), ("yes", "ok"))


async def test_the_rights_of_a_bus_are_enough_to_see_groups(redis_server: Server) -> None:
    client: Any = Redis
    # As docs/reference/redis.md has them.
    rights = (
        "~avx:* &avx:inbox:* -@all +@stream +@hash +@sortedset +@keyspace +@pubsub +@transaction +@scripting "
        "+@connection +time -@dangerous +client|unblock"
    )
    async with client.from_url(redis_server.url) as redis:
        await redis.execute_command("ACL", "SETUSER", "billing", "on", ">secret", *rights.split())
    url = f"redis://billing:secret@{redis_server.url.removeprefix('redis://')}"
    bus = await EventBus.connect(url, group="billing")
    bus.on(Noticed, name="handler")(_ignore)
    async with bus, await EventBus.connect(url) as publisher, await Inspector.connect(url) as inspector:
        await publisher.publish(Noticed("a"))
        (group,) = await inspector.groups()

    assert (group.group, group.handler, len(group.members)) == ("billing", "handler", 1)


async def test_what_redis_has_deleted_unread_counts_no_more(redis_url: str) -> None:
    namespace = f"inspection-{uuid4().hex}"
    bus = await EventBus.connect(redis_url, namespace=namespace, group="billing", partitions=1)
    bus.on(Noticed, name="handler")(_ignore)
    await bus.start()
    await bus.close()
    client: Any = Redis
    async with (
        client.from_url(redis_url) as redis,
        await EventBus.connect(redis_url, namespace=namespace, partitions=1) as publisher,
        await Inspector.connect(redis_url, namespace=namespace) as inspector,
    ):
        await publisher.publish_many([Noticed("a") for _ in range(20)])
        (before,) = await inspector.groups()
        await redis.xtrim(f"{namespace}:log:0", maxlen=5, approximate=False)
        (after,) = await inspector.groups()

    assert (before.lag_events, after.lag_events) == (20, 5)


async def test_what_nats_has_deleted_unread_counts_no_more(nats_url: str) -> None:
    namespace = f"inspection-{uuid4().hex}"
    bus = await EventBus.connect(nats_url, namespace=namespace, group="billing", partitions=1)
    bus.on(Noticed, name="handler")(_ignore)
    await bus.start()
    await bus.close()
    client: Any = await nats.connect(nats_url)  # pyright: ignore[reportUnknownMemberType]
    async with (
        await EventBus.connect(nats_url, namespace=namespace, partitions=1) as publisher,
        await Inspector.connect(nats_url, namespace=namespace) as inspector,
    ):
        await publisher.publish_many([Noticed("a") for _ in range(20)])
        (before,) = await inspector.groups()
        await client.jetstream().purge_stream(namespace, keep=5)
        (after,) = await inspector.groups()
    await client.close()

    assert (before.lag_events, after.lag_events) == (20, 5)


async def test_a_replica_is_seen_from_both_sides(redis_server: Server, tmp_path: Path) -> None:
    client: Any = Redis
    async with client.from_url(redis_server.url) as redis:
        await redis.config_set("repl-diskless-sync-delay", 0)
        with redis_in(tmp_path / "replica", "--replicaof", "127.0.0.1", str(redis_server.port)) as replica:
            await redis.set("x", "y")
            assert await redis.wait(1, 4_000) == 1
            behind = levels(await findings_at(redis_server.url))
            await redis.config_set("min-replicas-to-write", 1)
            sure = levels(await findings_at(redis_server.url))
            follows = levels(await findings_at(replica.url))

    assert (behind["replicas"], behind["min-replicas-to-write"]) == (("1", "note"), ("0", "risk"))
    assert sure["min-replicas-to-write"] == ("1", "ok")
    assert follows["role"] == ("replica", "risk")


async def test_a_wrong_password_is_refused(redis_server: Server) -> None:
    place = redis_server.url.removeprefix("redis://")

    with pytest.raises(TransportRefusedError):
        await Inspector.connect(f"redis://nobody:wrong@{place}", timeout_s=1)


async def test_the_words_follow_the_streams_of_nats(nats_url: str) -> None:
    ours, other = f"inspection-{uuid4().hex}", f"inspection-{uuid4().hex}"
    client: Any = await nats.connect(nats_url)  # pyright: ignore[reportUnknownMemberType]
    await client.jetstream().add_stream(
        name=other, subjects=[f"{other}.log.16.*"], storage="memory", max_bytes=1 << 20, duplicate_window=1
    )
    try:
        async with await EventBus.connect(nats_url, namespace=ours, group="billing"):
            made = [finding for finding in await findings_at(nats_url, ours) if finding.subject == ours]
        foreign = [finding for finding in await findings_at(nats_url, other) if finding.subject == other]
    finally:
        for stream in (ours, other):
            await client.jetstream().delete_stream(stream)
        await client.close()

    assert levels(made) == {
        "storage": ("file", "ok"),
        "num_replicas": ("1", "note"),
        "max_age": ("604800 s", "note"),
        "duplicate_window": ("120 s", "ok"),
    }
    assert levels(foreign)["storage"] == ("memory", "risk")
    assert levels(foreign)["max_age"] == ("none", "note")
    assert levels(foreign)["max_bytes"] == (str(1 << 20), "note")
    assert levels(foreign)["duplicate_window"] == ("1 s", "note")


async def test_nats_says_that_it_hides_when_it_syncs(nats_url: str) -> None:
    findings = await findings_at(nats_url, f"inspection-{uuid4().hex}")

    assert levels(findings)["sync_interval"] == ("?", "note")
    assert "A client cannot see it" in says(findings, "sync_interval")


async def test_a_nats_without_jetstream_is_a_risk(tmp_path: Path) -> None:
    port = free_port()
    command = (program("nats-server"), "-a", "127.0.0.1", "-p", port)
    url = f"nats://127.0.0.1:{port}"

    def greets(connection: socket.socket) -> bool:
        return connection.recv(5) == b"INFO "

    with Server(command, url=url, port=port, folder=tmp_path, is_ready=greets):
        async with await Inspector.connect(url, timeout_s=0.5) as inspector:
            (finding,) = await inspector.findings()

    assert (finding.level, finding.setting) == ("risk", "jetstream")
    assert "it is not enabled" in finding.says


async def test_the_words_follow_the_topics_of_kafka(kafka_url: str) -> None:
    ours, other = f"inspection-{uuid4().hex}", f"inspection-{uuid4().hex}"
    aiokafka: Any = import_module("aiokafka.admin")  # which says nothing of its types
    admin = aiokafka.AIOKafkaAdminClient(bootstrap_servers=kafka_url.removeprefix("kafka://"))
    await admin.start()
    settings = {
        "cleanup.policy": "compact",
        "flush.messages": "1",
        "unclean.leader.election.enable": "true",
        "min.insync.replicas": "2",
        "retention.ms": "-1",
    }
    await admin.create_topics([aiokafka.NewTopic(f"{other}.log", 1, 1, topic_configs=settings)])
    try:
        async with await EventBus.connect(kafka_url, namespace=ours, partitions=1):
            own = [finding for finding in await findings_at(kafka_url, ours) if finding.subject == f"{ours}.log"]
        foreign = await findings_at(kafka_url, other)
    finally:
        await admin.delete_topics([f"{other}.log", f"{ours}.log"])
        await admin.close()

    assert levels(own) == {
        "replication.factor": ("1", "note"),
        "unclean.leader.election.enable": ("false", "ok"),
        "flush.messages": ("none", "note"),
        "cleanup.policy": ("delete", "ok"),
        "retention.ms": (str(7 * 86_400_000), "note"),
        "message.timestamp.type": ("LogAppendTime", "ok"),
    }
    about_log = [finding for finding in foreign if finding.subject == f"{other}.log"]
    assert levels(about_log) == {
        "replication.factor": ("1", "note"),
        "min.insync.replicas": ("2", "risk"),
        "unclean.leader.election.enable": ("true", "risk"),
        "flush.messages": ("1", "ok"),
        "cleanup.policy": ("compact", "risk"),
        "retention.ms": ("-1", "note"),
        "message.timestamp.type": ("CreateTime", "note"),
    }
    assert levels(foreign)["brokers"] == ("1", "note")


async def test_the_words_follow_the_settings_of_postgresql(tmp_path: Path) -> None:
    safe, fast = postgres_in(tmp_path / "safe"), postgres_in(tmp_path / "fast", *KEEP_NOTHING)
    with safe, fast:
        good, bad = levels(await findings_at(safe.url)), levels(await findings_at(fast.url))

    names = ("fsync", "synchronous_commit", "full_page_writes")
    assert [good[name] for name in names] == [("on", "ok")] * 3
    assert [bad[name] for name in names] == [("off", "risk")] * 3
    assert good["synchronous_standby_names"] == ("none", "note")
    assert good["archive_mode"] == ("off", "note")


async def test_what_is_set_for_a_database_alone_is_seen(postgres_database: str) -> None:
    connection = await asyncpg.connect(postgres_database)
    name = postgres_database.partition("?")[0].rpartition("/")[2]
    await connection.execute(f'ALTER DATABASE "{name}" SET synchronous_commit = local')
    await connection.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    await connection.close()

    found = levels(await findings_at(postgres_database))

    assert found["synchronous_commit"] == ("local", "ok")
    assert found["default_transaction_read_only"] == ("on", "risk")


async def test_the_tables_of_postgresql_are_there_or_not_and_looking_makes_none(postgres_database: str) -> None:
    nothing = levels(await findings_at(postgres_database))
    still_nothing = levels(await findings_at(postgres_database))
    store = await EventStore.connect(postgres_database)
    await store.close()
    something = levels(await findings_at(postgres_database))

    assert nothing["table"] == still_nothing["table"] == ("none", "note")
    assert "table" not in something
    assert something["events"] == ("1", "ok")


async def test_a_postgresql_that_is_away_or_has_no_such_database_is_said(postgres_url: str) -> None:
    with pytest.raises(StoreUnavailableError):
        await Inspector.connect("postgresql://avx@127.0.0.1:1/postgres", timeout_s=0.2)
    with pytest.raises(StoreRefusedError):
        await Inspector.connect(postgres_url.replace("/postgres", "/nowhere"))


@pytest.mark.parametrize("fixture", ["redis_server", "nats_server", "kafka_server", "postgres_server"])
async def test_an_inspector_outlives_its_server_and_says_when_it_is_away(
    fixture: str, request: pytest.FixtureRequest
) -> None:
    server: Server = request.getfixturevalue(fixture)
    async with await Inspector.connect(server.url, timeout_s=1) as inspector:
        before = await inspector.findings()
        await asyncio.to_thread(server.kill)
        with pytest.raises((TransportUnavailableError, StoreUnavailableError)):
            await inspector.findings()
        await asyncio.to_thread(server.start)
        after = await answered(inspector)

    assert after == before

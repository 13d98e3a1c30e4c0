"""Buses speak to their broker through TLS, and say what is wrong where one side wants it and the other does not."""

import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from avx_events import Event, EventBus, TransportRefusedError, TransportUnavailableError
from tests.servers.kafka import kafka_in
from tests.servers.nats import nats_in
from tests.servers.ports import free_port
from tests.servers.redis import redis_in

pytestmark = pytest.mark.live

BROKERS = ("redis", "nats", "kafka")


class Whispered(Event, event_type="live.whispered", aggregate_id="key"):
    key: str


class Secured(NamedTuple):
    """A broker with TLS.

    Attributes:
        url: With the scheme that wants TLS.
        plain_url: Of the same port, without.
        trusting: The options of ``connect`` by which its certificate is trusted.
    """

    url: str
    plain_url: str
    trusting: dict[str, Any]


class Papers(NamedTuple):
    """Files of certificates, and what trusts them."""

    authority: Path
    certificate: Path
    key: Path
    both: Path
    context: ssl.SSLContext


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    folder = tmp_path_factory.mktemp("certificates")
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1", "localhost")
    paths = Papers(
        folder / "authority.pem",
        folder / "certificate.pem",
        folder / "key.pem",
        folder / "both.pem",
        ssl.create_default_context(),
    )
    authority.cert_pem.write_to_path(str(paths.authority))
    issued.cert_chain_pems[0].write_to_path(str(paths.certificate))
    key = load_pem_private_key(issued.private_key_pem.bytes(), None)
    paths.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))  # as Java wants it
    paths.both.write_bytes(paths.key.read_bytes() + paths.certificate.read_bytes())
    paths.context.load_verify_locations(paths.authority)
    return paths


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory, redis_url: str, papers: Papers) -> Iterator[Secured]:
    del redis_url  # which skips where there is no Redis
    port = free_port()
    files = ("--tls-cert-file", papers.certificate, "--tls-key-file", papers.key)
    trusted = ("--tls-ca-cert-file", papers.authority, "--tls-auth-clients", "no")
    with redis_in(tmp_path_factory.mktemp("redis"), *map(str, ("--tls-port", port, *files, *trusted))):
        place = f"127.0.0.1:{port}"
        yield Secured(f"rediss://{place}", f"redis://{place}", {"ssl_ca_certs": str(papers.authority)})


@pytest.fixture(scope="module")
def nats(tmp_path_factory: pytest.TempPathFactory, nats_url: str, papers: Papers) -> Iterator[Secured]:
    del nats_url
    described = nats_in(
        tmp_path_factory.mktemp("nats"), "--tls", "--tlscert", str(papers.certificate), "--tlskey", str(papers.key)
    )
    described._is_ready = _greets  # it says no more without TLS
    with described as server:
        yield Secured(server.url.replace("nats:", "tls:"), server.url, {"tls": papers.context})


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory, kafka_url: str, papers: Papers) -> Iterator[Secured]:
    del kafka_url
    port, inside, controller = free_port(), free_port(), free_port()
    settings = {
        "listeners": f"PLAINTEXT://127.0.0.1:{inside},CLIENT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
        "listener_security_protocol_map": "PLAINTEXT:PLAINTEXT,CLIENT:SSL,CONTROLLER:PLAINTEXT",
        "controller_quorum_voters": f"1@127.0.0.1:{controller}",
        "ssl_keystore_type": "PEM",
        "ssl_keystore_location": papers.both,
    }
    with kafka_in(tmp_path_factory.mktemp("kafka"), port=inside, **settings):
        place = f"127.0.0.1:{port}"
        yield Secured(f"kafkas://{place}", f"kafka://{place}", {"ssl_context": papers.context})


def _greets(connection: socket.socket) -> bool:
    return connection.recv(5) == b"INFO "


@pytest.fixture(params=BROKERS)
def secured(request: pytest.FixtureRequest) -> Secured:
    broker: Secured = request.getfixturevalue(request.param)
    return broker


async def test_events_go_through_tls(secured: Secured) -> None:
    bus = await EventBus.connect(secured.url, namespace=f"tls-{uuid4().hex}", partitions=2, **secured.trusting)
    async with bus:
        subscriber = await bus.subscribe(Whispered)
        await bus.publish(Whispered("a"))

        assert await subscriber.recv() == Whispered("a")


async def test_a_certificate_that_nobody_vouches_for_is_refused(secured: Secured) -> None:
    with pytest.raises(TransportRefusedError, match=r"(?i)certificate"):
        await EventBus.connect(secured.url, timeout_s=5)


async def test_a_server_that_wants_tls_is_an_error_without_it(secured: Secured) -> None:
    with pytest.raises((TransportRefusedError, TransportUnavailableError)) as caught:
        await EventBus.connect(secured.plain_url, timeout_s=1)

    assert secured.plain_url in str(caught.value)

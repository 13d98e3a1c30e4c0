"""One connection to one broker, on which requests go out in the order of the calls."""

import asyncio
import ssl
from collections.abc import Mapping
from typing import Any, Final, TypeAlias
from urllib.parse import parse_qsl, unquote, urlsplit

from avx_events.core.errors import InvalidArgumentError, TransportRefusedError
from avx_events.distributed.kafka.aiokafka_modules import conn as aiokafka_conn
from avx_events.distributed.kafka.aiokafka_modules import errors as kafka_errors
from avx_events.distributed.kafka.aiokafka_modules import helpers as aiokafka_helpers

Request: TypeAlias = Any
"""A request of aiokafka's, which is not typed."""

Place: TypeAlias = tuple[str, int]

_DEFAULT_PORT: Final = 9092
_TLS_ENDS_WITHIN_S: Final = 0.1
_CREDENTIALS: Final = (
    "sasl_mechanism",
    "sasl_plain_username",
    "sasl_plain_password",
    "sasl_kerberos_service_name",
    "sasl_kerberos_domain_name",
    "sasl_oauth_token_provider",
)
_OPTIONS: Final = frozenset({"client_id", "security_protocol", "ssl_context", *_CREDENTIALS})
_REFUSALS: Final = (
    kafka_errors.AuthenticationFailedError,
    kafka_errors.SaslAuthenticationFailed,
    kafka_errors.UnsupportedSaslMechanismError,
    kafka_errors.IllegalSaslStateError,
    kafka_errors.UnsupportedVersionError,
    kafka_errors.IncompatibleBrokerVersion,
)


class WireError(Exception):
    """The connection failed.

    Attributes:
        is_sent: Whether the request may have reached the broker.
    """

    def __init__(self, problem: str, *, is_sent: bool) -> None:
        """Keep both."""
        super().__init__(problem)
        self.problem, self.is_sent = problem, is_sent


class Servers:
    """Where connections to one cluster begin.

    Attributes:
        name: What errors call the cluster: its URL without a password.
        places: Hosts and ports to ask first.
    """

    def __init__(self, url: str, client: Mapping[str, Any]) -> None:
        """Connect to nobody yet.

        Args:
            url: ``kafka://`` or ``kafkas://`` (TLS), one or several hosts with commas between them.
            client: Options of aiokafka's connections.

        Raises:
            InvalidArgumentError: The URL or an option is none of these.
        """
        try:
            parts = urlsplit(url)
            credentials, _, hosts = parts.netloc.rpartition("@")
            self.places = [_place(host) for host in hosts.split(",")]
            self.name = f"{parts.scheme}://{hosts}"
            options = dict(parse_qsl(parts.query, strict_parsing=bool(parts.query))) | _user(credentials) | dict(client)
            self._options = _connection_options(options, is_secure=parts.scheme.lower() == "kafkas")
        except (ValueError, TypeError, OSError) as exc:
            expected = f"a Kafka URL, as 'kafka://localhost:9092', and options of aiokafka ({exc})"
            raise InvalidArgumentError("url", url, expected=expected) from exc

    async def connect(self, place: Place, *, timeout_s: float) -> "Connection":
        """Return a connection to the broker at ``place``.

        Args:
            place: Its host and port.
            timeout_s: How many seconds it may take to be made, and each of its requests to be answered.

        Raises:
            WireError: The broker cannot be reached, or does not answer.
            TransportRefusedError: It asks for other credentials, or for TLS.
        """
        host, port = place
        try:
            conn = await aiokafka_conn.create_conn(
                host, port, request_timeout_ms=int(timeout_s * 1000), **self._options
            )
        except (*_REFUSALS, ssl.SSLCertVerificationError) as exc:
            raise self.refused(exc) from exc
        except TimeoutError as exc:
            raise WireError(f"no answer from {host}:{port} within {timeout_s:g} s", is_sent=False) from exc
        except (OSError, kafka_errors.KafkaError) as exc:
            raise WireError(f"{host}:{port}: {exc}", is_sent=False) from exc
        return Connection(conn, f"{host}:{port}")

    def refused(self, error: Exception) -> TransportRefusedError:
        """Return the error of a cluster that asks for other credentials."""
        remedy = (
            "give user and password in the URL, as kafka://user:password@host, kafkas:// where it wants TLS, and "
            "ssl_context= where its certificate is of an authority of your own"
        )
        return TransportRefusedError(self.name, str(error) or type(error).__name__, remedy=remedy)


class Connection:
    """One connection; requests are answered in their order, so one that waits holds up those behind it."""

    __slots__ = ("_conn", "_place")

    def __init__(self, conn: Any, place: str) -> None:
        """Wrap ``conn``, one of aiokafka's, to the broker at ``place``."""
        self._conn = conn
        self._place = place

    @property
    def is_connected(self) -> bool:
        """Whether it was not lost, as far as is known."""
        return bool(self._conn.connected())

    async def ask(self, request: Request) -> Any:
        """Send ``request``, which is done before anything is waited for, and return the answer.

        Raises:
            WireError: The connection failed, or the time is up; it is closed then.
        """
        try:
            return await self._conn.send(request)
        except TimeoutError as exc:
            await self.close()
            raise WireError(f"no answer from {self._place} in time", is_sent=True) from exc
        except (kafka_errors.KafkaError, OSError) as exc:
            await self.close()
            raise WireError(f"{self._place}: {exc}", is_sent=True) from exc

    async def close(self) -> None:
        """Close the connection, whoever waits for an answer. Harmless when repeated."""
        writer = self._conn._writer  # noqa: SLF001 - the only way to its transport
        closed = self._conn.close()
        if closed is None:
            return
        _, open_still = await asyncio.wait([closed], timeout=_TLS_ENDS_WITHIN_S)
        if open_still and writer is not None:  # a broker that holds a fetch back does not say goodbye before its time
            writer.transport.abort()
            await asyncio.wait([closed], timeout=1)


def _place(text: str) -> Place:
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        message = "it names no server"
        raise ValueError(message)
    return parts.hostname, parts.port or _DEFAULT_PORT


def _user(credentials: str) -> dict[str, Any]:
    if not credentials:
        return {}
    user, _, password = credentials.partition(":")
    return {"sasl_plain_username": unquote(user), "sasl_plain_password": unquote(password)}


def _connection_options(options: dict[str, Any], *, is_secure: bool) -> dict[str, Any]:
    unknown = sorted(options.keys() - _OPTIONS)
    if unknown:
        message = f"{unknown[0]!r} is none"
        raise ValueError(message)
    has_user = any(name in options for name in _CREDENTIALS)
    protocol = ("SASL_" if has_user else "") + ("SSL" if is_secure or "ssl_context" in options else "PLAINTEXT")
    options = {"security_protocol": protocol, "client_id": "avx-events", **options}
    if "SASL" in options["security_protocol"]:
        options.setdefault("sasl_mechanism", "PLAIN")
    if options["security_protocol"].endswith("SSL"):
        options.setdefault("ssl_context", aiokafka_helpers.create_ssl_context())
    return options

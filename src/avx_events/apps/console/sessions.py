"""Who looks: the token that lets them in, the cookie that remembers them, and what proves that a page of ours asks."""

import base64
import hashlib
import hmac
import secrets
from typing import Final

import msgspec

from avx_events.core.arguments import text
from avx_events.core.clock import Clock
from avx_events.core.errors import InvalidArgumentError

LIFETIME_S: Final = 12 * 3600
"""A working day: who comes the next one says the token again."""

SHORTEST_TOKEN: Final = 16
"""Characters. Guessing at so many is hopeless, so that nothing has to count who tries."""

LONGEST_OPERATOR: Final = 60
ANYBODY: Final = "somebody"


class Session(msgspec.Struct, frozen=True, array_like=True):
    """Somebody who was let in.

    Attributes:
        id: Tells this session from all others.
        operator: What they call themselves, for the others to read.
        until_s: When it ends, in Unix seconds.
    """

    id: str
    operator: str
    until_s: int


class Sessions:
    """Makes sessions and knows them again; they are kept by the browsers, signed, and not here."""

    def __init__(self, token: str | None, *, clock: Clock) -> None:
        """Let in who has ``token``; everybody where it is None.

        With a token, sessions outlive this process: the same token makes the same signatures.

        Raises:
            InvalidArgumentError: The token is no text of 16 characters or more.
        """
        if token is not None and len(text("token", token)) < SHORTEST_TOKEN:
            raise InvalidArgumentError("token", "…", expected=f"text of {SHORTEST_TOKEN} characters or more")
        self._token: Final = token
        self._clock: Final = clock
        secret = secrets.token_bytes() if token is None else token.encode()
        self._key: Final = hmac.digest(secret, b"avx-events console sessions", "sha256")

    @property
    def needs_token(self) -> bool:
        """Whether a token is asked for."""
        return self._token is not None

    def is_token(self, given: str) -> bool:
        """Tell whether ``given`` is the token, in a time that says nothing of how much of it is right."""
        if self._token is None:
            return False
        return hmac.compare_digest(_digest(given), _digest(self._token))

    def begin(self, operator: str = "") -> Session:
        """Return a new session of ``operator``."""
        name = " ".join(operator.split())[:LONGEST_OPERATOR]
        return Session(secrets.token_urlsafe(16), name or ANYBODY, self._now_s() + LIFETIME_S)

    def cookie(self, session: Session) -> str:
        """Return ``session`` as the value of a cookie."""
        written = base64.urlsafe_b64encode(msgspec.json.encode(session)).decode().rstrip("=")
        return f"{written}.{self._signature('session', written)}"

    def read(self, cookie: str) -> Session | None:
        """Return the session of a cookie; None where it is not of our making, or over."""
        written, _, signature = cookie.partition(".")
        if not hmac.compare_digest(_digest(signature), _digest(self._signature("session", written))):
            return None
        padding = "=" * (-len(written) % 4)
        session = msgspec.json.decode(base64.urlsafe_b64decode(written + padding), type=Session)
        return session if session.until_s > self._now_s() else None

    def form_token(self, session: Session) -> str:
        """Return what only a page that was served to ``session`` knows."""
        return self._signature("form", session.id)

    def is_form_token(self, session: Session, given: str) -> bool:
        """Tell whether ``given`` is that of ``session``."""
        return hmac.compare_digest(_digest(given), _digest(self.form_token(session)))

    def _signature(self, purpose: str, written: str) -> str:
        return hmac.new(self._key, f"{purpose}:{written}".encode(), "sha256").hexdigest()

    def _now_s(self) -> int:
        return self._clock.time_ns() // 1_000_000_000


def _digest(given: str) -> bytes:
    return hashlib.sha256(given.encode("utf-8", "surrogateescape")).digest()

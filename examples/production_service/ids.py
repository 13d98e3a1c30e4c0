"""Ids of users and orders: each is the name of its stream, and says what it is of."""

from typing import Any, Final, Literal, TypeAlias
from uuid import UUID, uuid5

from avx_events import EventEnvelope, PermanentError

Kind: TypeAlias = Literal["user", "order"]

IDEMPOTENCY_HEADER: Final = "idempotency-key"

_NAMESPACE: Final = UUID("8f0ee1f2-5d0c-4c39-9b64-1a3ad1f3f5a7")


class NotFoundError(PermanentError):
    """There is nothing of this kind under this id."""

    def __init__(self, kind: str, wanted: str) -> None:
        """Name what there is not."""
        super().__init__(f"there is no {kind} {wanted!r}")
        self.kind, self.wanted = kind, wanted


def id_for(kind: Kind, envelope: EventEnvelope[Any]) -> str:
    """Return the id of what the command in ``envelope`` makes: the same whenever the same command comes again.

    A client's repetition, also one after a crash, has its idempotency key; one inside of the service has its event id.
    """
    key = key_of(envelope)
    made_by = envelope.metadata.event_id if key is None else uuid5(_NAMESPACE, f"{kind} {key}")
    return f"{kind}-{made_by}"


def key_of(envelope: EventEnvelope[Any]) -> str | None:
    """Return the idempotency key that a command came with."""
    return envelope.metadata.headers.get(IDEMPOTENCY_HEADER)


def check_id(kind: Kind, text: str) -> str:
    """Return ``text`` if it is an id of ``kind``, and so no other stream's name.

    Raises:
        NotFoundError: It is none.
    """
    try:
        UUID(text.removeprefix(f"{kind}-"))
    except ValueError:
        raise NotFoundError(kind, text) from None
    if not text.startswith(f"{kind}-"):
        raise NotFoundError(kind, text)
    return text

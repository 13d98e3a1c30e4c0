"""What a reply looks like on its way through a broker; ``requests.py`` has the table of its fields."""

from typing import Final

import msgspec

from avx_events.bus.dead_letter_codec import portable

_NO_RESULT: Final = b"null"


class Reply(msgspec.Struct, omit_defaults=True, gc=False):
    """A reply, or why there is none."""

    id: str
    result: msgspec.Raw = msgspec.Raw(_NO_RESULT)
    error_type: str | None = None
    message: str = ""
    is_stopped: bool = False
    is_unanswered: bool = False


class _Identified(msgspec.Struct):
    id: str = ""


encode_reply = msgspec.json.Encoder().encode
decode_reply = msgspec.json.Decoder(Reply).decode


def id_of(document: bytes) -> str:
    """Return the id that a request or a reply says; empty where it says none, and it may be anything at all."""
    try:
        return msgspec.json.decode(document, type=_Identified).id
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return ""


def refusal(document: bytes, error: Exception) -> bytes:
    """Return the reply that tells of ``error``, to the request that ``document`` is, or is the reply to."""
    return encode_reply(Reply(id_of(document), error_type=type(error).__name__, message=portable(str(error))))


def unanswered(event_id: str) -> bytes:
    """Return the reply that nobody responds."""
    return encode_reply(Reply(event_id, is_unanswered=True))

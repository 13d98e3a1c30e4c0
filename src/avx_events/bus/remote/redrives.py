"""What a redrive request looks like on its way through a broker: to those members of a group that have the handler.

| field | what it carries |
|---|---|
| ``letter`` | the id of the dead letter |
| ``redrives`` | how often it had been redriven when that was asked for; 0 may be left out |

It carries no event and no code. A member that gets it takes the letter from its own queue, if that is still as it was:
who gets it late, or a second time, does nothing.
"""

import msgspec

from avx_events.bus.dead_letter_codec import portable
from avx_events.bus.dead_letters import DeadLetter


class RedriveRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """Somebody asks to have a dead letter redriven.

    Attributes:
        letter: The letter's id.
        redrives: How often it had been redriven by then.
    """

    letter: str
    redrives: int = 0


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(RedriveRequest).decode


def encode_redrive(letter: DeadLetter) -> bytes:
    """Return the request to redrive ``letter`` as it is now."""
    return _encode(RedriveRequest(portable(letter.id), letter.redrives))


def decode_redrive(document: bytes) -> RedriveRequest | None:
    """Return the request that ``document`` is; None where it is none, and it may be anything at all."""
    try:
        return _decode(document)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None

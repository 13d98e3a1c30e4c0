"""Requests: bodies, paging and headers, read with limits, and refused with one sentence."""

import asyncio
import json
from collections.abc import Collection
from typing import Final, TypeVar

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request

from examples.production_service.ids import IDEMPOTENCY_HEADER

BodyT = TypeVar("BodyT")

MAX_BODY_BYTES: Final = 1_048_576
BODY_TIMEOUT_S: Final = 10.0
DEFAULT_LIMIT: Final = 100
MAX_LIMIT: Final = 1_000

# A client that sends too much reads no answer before it has sent it all, so that much more is read and thrown away.
_MOST_DISCARDED_BYTES: Final = 8 * MAX_BODY_BYTES
_HALF_A_PAIR: Final = "a text in it has half of a surrogate pair, as \\ud800 without the other"
_LONGEST_KEY: Final = 255
_GREATEST: Final = 2**63 - 1


async def read_json(request: Request, body_class: type[BodyT]) -> BodyT:
    """Return the body as an instance of ``body_class``.

    Raises:
        HTTPException: 400, it is no JSON; 408, it does not come; 413, it is too large; 422, it does not fit the class.
    """
    body = await _read(request)
    try:
        return msgspec.json.decode(body, type=body_class)
    except msgspec.ValidationError as exc:
        raise HTTPException(422, f"the body does not fit: {exc}") from exc
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        problem = _HALF_A_PAIR if _is_json_but_for_surrogates(body) else exc
        raise HTTPException(400, f"the body is no JSON: {problem}") from exc


def _is_json_but_for_surrogates(body: bytes) -> bool:
    """Return whether the standard library, which takes halves of surrogate pairs, can read what msgspec could not.

    msgspec calls a body with one near its end truncated.
    """
    try:
        json.loads(body.decode(), parse_constant=int)  # NaN is no JSON, and no int either
    except (ValueError, RecursionError):
        return False
    return True


async def _read(request: Request) -> bytes:
    body = bytearray()
    size_bytes = 0
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for chunk in request.stream():
                size_bytes += len(chunk)
                if size_bytes <= MAX_BODY_BYTES:
                    body += chunk
                elif size_bytes > _MOST_DISCARDED_BYTES:
                    break
    except TimeoutError as exc:
        raise HTTPException(408, f"the body did not come within {BODY_TIMEOUT_S:g} s", {"Connection": "close"}) from exc
    if size_bytes > MAX_BODY_BYTES:
        raise HTTPException(413, f"the body is larger than {MAX_BODY_BYTES:,} bytes", {"Connection": "close"})
    return bytes(body)


def check_query(request: Request, names: Collection[str]) -> None:
    """Refuse a request with query parameters other than ``names``: one that is misspelt would change nothing.

    Raises:
        HTTPException: 422, there is another, or one is given twice.
    """
    given = [name for name, _ in request.query_params.multi_items()]
    only = f", only {' and '.join(names)}" if names else ""
    for name in given:
        if name not in names:
            raise HTTPException(422, f"{request.method} {request.url.path!r} takes no query parameter {name!r}{only}")
        if given.count(name) > 1:
            raise HTTPException(422, f"{name} may be given once")


def read_whole(request: Request, name: str, *, most: int = _GREATEST) -> int | None:
    """Return the whole number, 1 to ``most``, that query parameter ``name`` gives, or None where it is not there.

    Raises:
        HTTPException: 422, it is something else.
    """
    text = request.query_params.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= len(str(most)) and 1 <= int(text) <= most):
        raise HTTPException(422, f"{name} must be a whole number from 1 to {most:,}")
    return int(text)


def dispatch_headers(request: Request) -> dict[str, str]:
    """Return the headers that a command made of ``request`` gets: its idempotency key, if it has one.

    Raises:
        HTTPException: 400, the key is empty, too long, or has characters that cannot be printed.
    """
    key = request.headers.get(IDEMPOTENCY_HEADER)
    if key is None:
        return {}
    if not 1 <= len(key) <= _LONGEST_KEY or not key.isprintable():
        raise HTTPException(400, f"Idempotency-Key must be 1 to {_LONGEST_KEY} printable characters")
    return {IDEMPOTENCY_HEADER: key}

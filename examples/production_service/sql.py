"""SQL for both databases that the store may be: written with SQLite's placeholders."""

import re
from functools import lru_cache
from itertools import count

from avx_events.store.ports import Dialect


@lru_cache(64)
def in_dialect(sql: str, dialect: Dialect) -> str:
    """Return ``sql``, which has ``?`` for its parameters and nowhere else, as ``dialect`` takes it."""
    if dialect == "sqlite":
        return sql
    numbers = count(1)
    return re.sub(r"\?", lambda _: f"${next(numbers)}", sql)

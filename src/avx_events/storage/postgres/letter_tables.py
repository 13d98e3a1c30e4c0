"""The table of dead letters."""

from typing import Final

from avx_events.storage.postgres.schema import Tables

_PROBE: Final = (
    "SELECT id, handler, event_type, error_type, dead_at, claimed_by, claim, claimed_until, letter"
    " FROM avx_dead_letters LIMIT 0"
)
# Names may be longer than an index can hold: it has their beginning, and the query compares the rest.
DEAD_LETTERS: Final = Tables(
    component="dead letters",
    migrations=(
        (
            """
            CREATE TABLE avx_dead_letters (
                id text COLLATE "C" PRIMARY KEY,
                handler text COLLATE "C" NOT NULL,
                event_type text COLLATE "C",
                error_type text COLLATE "C" NOT NULL,
                dead_at bigint NOT NULL,
                claimed_by text COLLATE "C",
                claim bigint,
                claimed_until timestamptz,
                letter bytea NOT NULL
            )
            """,
            "CREATE INDEX avx_dead_letters_handler ON avx_dead_letters (left(handler, 200), id)",
            "CREATE INDEX avx_dead_letters_event_type ON avx_dead_letters (left(event_type, 200), id)",
            "CREATE INDEX avx_dead_letters_error_type ON avx_dead_letters (left(error_type, 200), id)",
            "CREATE INDEX avx_dead_letters_dead_at ON avx_dead_letters (dead_at)",
            """
            CREATE INDEX avx_dead_letters_claimed_by ON avx_dead_letters (claimed_by)
            WHERE claimed_by IS NOT NULL
            """,
        ),
    ),
    probes=(_PROBE,),
)

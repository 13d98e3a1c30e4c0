"""Prints the SQL that makes the tables of all our stores: ``python -m avx_events.storage.postgres | psql …``."""

import sys

from avx_events.storage.postgres.letter_tables import DEAD_LETTERS
from avx_events.storage.postgres.schema import EVENTS, script

if __name__ == "__main__":
    sys.stdout.write(script([EVENTS, DEAD_LETTERS]))

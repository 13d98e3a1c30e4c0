"""Prints the SQL that makes the store's tables: ``python -m avx_events.storage.postgres | psql …``."""

import sys

from avx_events.storage.postgres.schema import script

if __name__ == "__main__":
    sys.stdout.write(script())

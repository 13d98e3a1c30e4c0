"""``python -m avx_events`` is the command line, as ``avx-events``."""

from avx_events.apps.cli import main

main()

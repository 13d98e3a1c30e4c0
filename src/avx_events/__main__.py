"""``python -m avx_events`` is the command line, as ``avx-events``."""

from _avx_events_cli import main

main()

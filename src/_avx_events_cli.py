"""Where ``avx-events`` begins: Ctrl-C while its modules are loaded ends it as quietly as Ctrl-C later.

Whoever imports a part of a package imports the package, and of Ctrl-C in the middle of that Python tells by a
traceback. So this stands beside the package.
"""

import signal


def main() -> None:
    """Run the command line; see ``avx_events.apps.cli``."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # and not ignored, as in the background
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from avx_events.apps.cli import main as run  # noqa: PLC0415 - not before

    run()

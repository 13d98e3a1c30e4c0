"""Logs: a line each on standard error, with the correlation id of the request or event that it is about."""

import logging

from avx_events import current_context


def configure_logs() -> None:
    """Set up logging for the process."""
    handler = logging.StreamHandler()
    handler.addFilter(_with_correlation_id)
    line = "%(asctime)s %(levelname)-7s %(correlation_id)s %(name)s: %(message)s"
    logging.basicConfig(level=logging.INFO, format=line, handlers=[handler])
    logging.getLogger("uvicorn").setLevel(logging.WARNING)


def _with_correlation_id(record: logging.LogRecord) -> bool:
    record.correlation_id = current_context().correlation_id or "-"
    return True

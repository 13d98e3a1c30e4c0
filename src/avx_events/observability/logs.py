"""Structured logs: one JSON object a line, which says where it was written and which event it is about."""

import logging
import sys
from collections.abc import MutableMapping
from importlib.util import find_spec
from typing import Any, Final, TextIO

from avx_events.core.errors import MissingExtraError
from avx_events.core.metadata import EventMetadata, current_context, current_message
from avx_events.observability.settings import LogLevel, Settings

try:
    import structlog
except ImportError as exc:
    raise MissingExtraError("avx_events.observability.init_tracing", "logs") from exc

_PLACES: Final = ("stack", "layer", "env", "cluster", "mesh")


def init_tracing(
    settings: Settings | None = None,
    *,
    level: LogLevel | None = None,
    as_json: bool | None = None,
    stream: TextIO | None = None,
) -> None:
    """Let all logs of this process, structlog's and the standard library's, come as structured lines.

    Each has ``timestamp`` (ISO 8601, UTC), ``level``, ``logger``, ``event`` (the text), what the call gave beside it,
    and ``stack``, ``layer``, ``env``, ``cluster`` and ``mesh`` as far as they are set. Where an event is being handled
    it has ``event_id``, ``event_type``, ``correlation_id`` and ``causation_id`` as well, and within a span of
    OpenTelemetry ``trace_id`` and ``span_id``. What others have set up before is replaced.

    Args:
        settings: Say where this runs; ``Settings.load()`` if not given.
        level: The least that is logged; that of the settings if not given.
        as_json: Whether the lines are JSON; else they are for people. If not given, they are for a terminal only.
        stream: Where they go; standard error if not given.

    Raises:
        SettingError: The settings, which were not given, cannot be used.
    """
    known = Settings.load() if settings is None else settings
    out = sys.stderr if stream is None else stream
    is_json = not out.isatty() if as_json is None else as_json
    places = {name: value for name in _PLACES if (value := getattr(known, name))}

    def say_where(_: object, __: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        for name, value in places.items():
            line.setdefault(name, value)
        return line

    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _say_which_event,
        say_where,
    ]
    if find_spec("opentelemetry") is not None:
        shared.append(_say_which_span)
    shown: list[Any] = (
        [structlog.processors.dict_tracebacks, structlog.processors.JSONRenderer(default=repr)]
        if is_json
        else [structlog.dev.ConsoleRenderer(colors=out.isatty())]
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *shown]
        )
    )
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel((known.events.log_level if level is None else level).upper())
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )


def _say_which_event(_: object, __: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    handled = current_message.get()
    if handled is None:
        return line
    inherited = current_context()
    if isinstance(handled, EventMetadata):
        line.setdefault("event_id", handled.event_id)
        line.setdefault("event_type", handled.event_type)
        if handled.causation_id is not None:
            line.setdefault("causation_id", handled.causation_id)
    elif inherited.event_id is not None:
        line.setdefault("causation_id", inherited.event_id)
    if inherited.correlation_id is not None:
        line.setdefault("correlation_id", inherited.correlation_id)
    return line


def _say_which_span(_: object, __: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    from opentelemetry import trace  # noqa: PLC0415 - it may be missing

    span = trace.get_current_span().get_span_context()
    if span.is_valid:
        line.setdefault("trace_id", f"{span.trace_id:032x}")
        line.setdefault("span_id", f"{span.span_id:016x}")
    return line

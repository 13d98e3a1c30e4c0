"""Exporting: the OpenTelemetry SDK, set up as its standard variables say, and flushed at the end.

| variable | what it does here |
|---|---|
| ``OTEL_EXPORTER_OTLP_ENDPOINT`` | spans and metrics go there, as ``http://collector:4318`` |
| ``OTEL_EXPORTER_OTLP_TRACES_ENDPOINT``, ``…_METRICS_ENDPOINT`` | one of them goes there |
| ``OTEL_TRACES_EXPORTER``, ``OTEL_METRICS_EXPORTER`` | ``otlp``, ``console``, ``none``, or others that are installed |
| ``OTEL_EXPORTER_OTLP_PROTOCOL``, ``…_TRACES_PROTOCOL``, ``…_METRICS_PROTOCOL`` | ``http/protobuf``, or ``grpc`` |
| ``OTEL_SERVICE_NAME``, ``OTEL_RESOURCE_ATTRIBUTES`` | come before what the settings say |
| ``OTEL_SDK_DISABLED`` | with ``true`` nothing is exported |

Where neither an endpoint nor an exporter is named nothing is exported, nor is OpenTelemetry imported. All others, as
those for headers, TLS, sampling and batches, are read by the SDK and its exporters themselves.

Source:
    https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/ and
    https://opentelemetry.io/docs/specs/otel/protocol/exporter/; resource attributes:
    https://opentelemetry.io/docs/specs/semconv/resource/
"""

import logging
import os
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import entry_points
from importlib.util import find_spec
from threading import Thread
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeAlias
from urllib.parse import urlsplit
from uuid import uuid4

from avx_events.core.urls import without_password
from avx_events.observability.settings import SettingError, Settings

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource

FLUSH_TIMEOUT_S: Final = 5.0
"""How long the end may take: where a collector is away, what it was not given by then is lost."""

Signal: TypeAlias = Literal["TRACES", "METRICS"]

_OTLP: Final = "OTEL_EXPORTER_OTLP_"
_PACKAGES: Final = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}
_SIGNALS: Final[Sequence[Signal]] = ("TRACES", "METRICS")
_GROUPS: Final[Mapping[Signal, str]] = {
    "TRACES": "opentelemetry_traces_exporter",
    "METRICS": "opentelemetry_metrics_exporter",
}

log = logging.getLogger("avx_events")


@contextmanager
def exporting(settings: Settings, *, service_name: str | None = None) -> Generator[None, None, None]:
    """Export spans and metrics of this process while the block runs, if the environment says where to.

    The providers are made OpenTelemetry's global ones, so ``Tracing()`` finds them, as does the instrumentation of
    other libraries; one that is set already, as by ``opentelemetry-instrument``, stays. At the end what waits is sent,
    which takes ``FLUSH_TIMEOUT_S`` seconds at most. It holds the thread up: leave the block when the loop has ended.

    Args:
        settings: Say what this is: see ``resource_attributes``.
        service_name: What it is called; the group of the settings if not given.

    Raises:
        SettingError: A variable cannot be used, or what it asks for is not installed.
    """
    wanted: dict[Signal, Sequence[_Exporter]] = {
        signal: exporters for signal in _SIGNALS if (exporters := _asked_for(signal))
    }
    if not wanted:
        yield
        return
    for exporters in wanted.values():
        _check_installed(exporters)
    endings = _set_up(wanted, resource_attributes(settings, service_name=service_name))
    try:
        yield
    finally:
        _end(endings)


def resource_attributes(settings: Settings, *, service_name: str | None = None) -> dict[str, str]:
    """Return what ``settings`` say of a process, by OpenTelemetry's conventions; what is empty is left out.

    | attribute | setting |
    |---|---|
    | ``service.name`` | the group, unless ``service_name`` is given |
    | ``service.namespace`` | the stack |
    | ``service.instance.id`` | made up: each process is one, several on one machine too |
    | ``deployment.environment.name`` | the environment |
    | ``avx.layer``, ``avx.cluster``, ``avx.mesh`` | likewise |
    """
    found = {
        "service.name": settings.events.group if service_name is None else service_name,
        "service.namespace": settings.stack,
        "service.instance.id": str(uuid4()),
        "deployment.environment.name": settings.env,
        "avx.layer": settings.layer,
        "avx.cluster": settings.cluster,
        "avx.mesh": settings.mesh,
    }
    return {name: value for name, value in found.items() if value}


class _Exporter(NamedTuple):
    """What a variable asks for.

    Attributes:
        name: As it is called there, or ``otlp``.
        variable: Which variable.
    """

    name: str
    variable: str


class _Provider(NamedTuple):
    """A provider of the SDK.

    Attributes:
        make_global: Makes it the one that others find.
        end: Sends what waits, and ends it.
    """

    make_global: Callable[[], None]
    end: Callable[[], None]


def _asked_for(signal: Signal) -> Sequence[_Exporter]:
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return ()
    variable = f"OTEL_{signal}_EXPORTER"
    if given := os.environ.get(variable, "").strip():
        names = [name.strip() for name in given.split(",")]
        return [_Exporter(name, variable) for name in names if name != "none"]
    for variable in (f"{_OTLP}{signal}_ENDPOINT", f"{_OTLP}ENDPOINT"):
        if os.environ.get(variable, "").strip():
            return [_Exporter("otlp", variable)]
    return ()


def _check_installed(exporters: Sequence[_Exporter]) -> None:
    if find_spec("opentelemetry") is None or find_spec("opentelemetry.sdk") is None:
        problem = "needs the otel extra: pip install 'avx-events[otel]'"
        raise SettingError(exporters[0].variable, problem, source="the environment")


def _set_up(
    wanted: Mapping[Signal, Sequence[_Exporter]], attributes: Mapping[str, str]
) -> Sequence[Callable[[], None]]:
    """Make the providers, and when all can be made, set them; return what ends each."""
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource  # noqa: PLC0415 - it may be missing

    given = OTELResourceDetector().detect().attributes
    resource = Resource.create({**attributes, **given})
    asked = [_provider(signal, exporters, resource) for signal, exporters in wanted.items()]
    providers = [provider for provider in asked if provider is not None]
    for provider in providers:
        provider.make_global()
    return [provider.end for provider in providers]


def _provider(signal: Signal, exporters: Sequence[_Exporter], resource: "Resource") -> _Provider | None:
    is_set, make = (_traces_are_set, _tracers) if signal == "TRACES" else (_metrics_are_set, _meters)
    if is_set():
        log.info("%s are exported by what set up their provider before", signal.lower())
        return None
    try:
        provider = make([_made(signal, exporter) for exporter in exporters], resource)
    except ValueError as exc:  # of the size of a batch, an interval, a timeout: the SDK does not say which variable
        problem = f"asks for what cannot be set up with the other variables of OpenTelemetry: {exc}"
        raise SettingError(exporters[0].variable, problem, source="the environment") from exc
    log.info("%s are exported, of %s", signal.lower(), resource.attributes["service.name"])
    return provider


def _traces_are_set() -> bool:
    from opentelemetry import trace  # noqa: PLC0415 - as above

    return not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


def _metrics_are_set() -> bool:
    from opentelemetry import metrics  # noqa: PLC0415 - as above

    return type(metrics.get_meter_provider()).__name__ != "_ProxyMeterProvider"


def _tracers(exporters: Sequence[Any], resource: "Resource") -> _Provider:
    from opentelemetry import trace  # noqa: PLC0415 - as above
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    for exporter in exporters:
        provider.add_span_processor(BatchSpanProcessor(exporter))
    return _Provider(lambda: trace.set_tracer_provider(provider), provider.shutdown)


def _meters(exporters: Sequence[Any], resource: "Resource") -> _Provider:
    from opentelemetry import metrics  # noqa: PLC0415 - as above
    from opentelemetry.sdk.metrics import MeterProvider  # noqa: PLC0415
    from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader  # noqa: PLC0415

    readers = [each if isinstance(each, MetricReader) else PeriodicExportingMetricReader(each) for each in exporters]
    provider = MeterProvider(readers, resource=resource, shutdown_on_exit=False)
    return _Provider(lambda: metrics.set_meter_provider(provider), provider.shutdown)


def _made(signal: Signal, exporter: _Exporter) -> Any:
    """Return an exporter, or for metrics a reader, of the class that is installed under its name."""
    name = exporter.name
    if name == "otlp":
        name = _PACKAGES[_protocol(signal)]
        if name == "otlp_proto_http":
            _check_endpoint(signal)
    found = entry_points(group=_GROUPS[signal], name=name)
    if not found:
        raise SettingError(exporter.variable, _missing(signal, name), source="the environment")
    return next(iter(found)).load()()


def _protocol(signal: Signal) -> str:
    for variable in (f"{_OTLP}{signal}_PROTOCOL", f"{_OTLP}PROTOCOL"):
        if protocol := os.environ.get(variable, "").strip():
            if protocol not in _PACKAGES:
                problem = f"must be {' or '.join(_PACKAGES)}, not {protocol!r}"
                raise SettingError(variable, problem, source="the environment")
            return protocol
    return "http/protobuf"


def _check_endpoint(signal: Signal) -> None:
    for variable in (f"{_OTLP}{signal}_ENDPOINT", f"{_OTLP}ENDPOINT"):
        if given := os.environ.get(variable, "").strip():
            if not _is_http(given):
                problem = f"must be a URL as http://collector:4318, not {without_password(given)!r}"
                raise SettingError(variable, problem, source="the environment")
            return


def _is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # of a port that is no number, a bracket that is not closed
        return False


def _missing(signal: Signal, name: str) -> str:
    if name in _PACKAGES.values():
        package = f"opentelemetry-exporter-{name.replace('_', '-')}"
        remedy = "'avx-events[otel]'" if name == "otlp_proto_http" else package
        return f"needs {package}: pip install {remedy}"
    names = sorted({"otlp", "none", *entry_points(group=_GROUPS[signal]).names})
    return f"asks for {name!r}, which is not installed; there are {', '.join(names)}"


def _end(endings: Sequence[Callable[[], None]]) -> None:
    """Run all at once, and wait for them no longer than ``FLUSH_TIMEOUT_S``: the SDK itself may wait half a minute."""
    threads = [Thread(target=ending, name="flush telemetry", daemon=True) for ending in endings]
    for thread in threads:
        thread.start()
    until_s = monotonic() + FLUSH_TIMEOUT_S
    for thread in threads:
        thread.join(max(until_s - monotonic(), 0))
    if any(thread.is_alive() for thread in threads):
        log.warning("spans or metrics that were not taken within %g s are lost", FLUSH_TIMEOUT_S)

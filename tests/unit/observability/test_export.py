"""Exporting, as the standard variables of OpenTelemetry say: what is refused, what is set up, and what is flushed."""

import json
import os
import subprocess
import sys
from typing import Any, Final

import pytest
from opentelemetry import trace

from avx_events.observability import SettingError, Settings, exporting
from avx_events.observability.export import resource_attributes

pytestmark = pytest.mark.timeout(60)

PROGRAM: Final = """
from opentelemetry import metrics, trace
from avx_events.observability import Settings, exporting

with exporting(Settings(stack="shop", layer="api", env="production", cluster="east", mesh="blue")):
    with trace.get_tracer("test").start_as_current_span("work"):
        pass
    metrics.get_meter("test").create_counter("done").add(1)
"""
DISTRO: Final = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
given = TracerProvider()
trace.set_tracer_provider(given)
"""


def ran(program: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a program with these variables and no others of OpenTelemetry: the global providers are set only once."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    return subprocess.run(  # noqa: S603 - a program of ours
        [sys.executable, "-W", "error", "-c", program],
        env={**kept, **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )


def documents(text: str) -> list[dict[str, Any]]:
    """Return the JSON documents that a console exporter wrote one after the other."""
    found: list[dict[str, Any]] = []
    while text := text.strip():
        document, end = json.JSONDecoder().raw_decode(text)
        found.append(document)
        text = text[end:]
    return found


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("OTEL_"):
            monkeypatch.delenv(name)


def test_the_settings_say_what_a_process_is() -> None:
    found = resource_attributes(
        Settings(stack="shop", layer="api", env="production", cluster="east", mesh="blue"), service_name="orders"
    )

    assert len(found.pop("service.instance.id")) == 36
    assert found == {
        "service.name": "orders",
        "service.namespace": "shop",
        "deployment.environment.name": "production",
        "avx.layer": "api",
        "avx.cluster": "east",
        "avx.mesh": "blue",
    }


def test_what_is_not_set_is_not_said() -> None:
    names = resource_attributes(Settings()).keys()

    assert names == {"service.name", "service.instance.id", "deployment.environment.name"}
    assert resource_attributes(Settings())["service.name"] == "avx-events"


def test_two_processes_are_two_instances() -> None:
    first, second = (resource_attributes(Settings())["service.instance.id"] for _ in range(2))

    assert first != second


def test_what_waits_at_the_end_is_sent_with_what_the_settings_say() -> None:
    done = ran(PROGRAM, OTEL_TRACES_EXPORTER="console")

    (span,) = documents(done.stdout)
    assert (done.returncode, done.stderr) == (0, "")
    assert span["name"] == "work"
    said = span["resource"]["attributes"]
    assert (said["service.namespace"], said["deployment.environment.name"]) == ("shop", "production")
    assert (said["service.name"], said["telemetry.sdk.language"]) == ("avx-events", "python")


def test_metrics_are_sent_likewise() -> None:
    done = ran(PROGRAM, OTEL_METRICS_EXPORTER="console")

    (document,) = documents(done.stdout)
    (of_process,) = document["resource_metrics"]
    (metric,) = of_process["scope_metrics"][0]["metrics"]
    assert metric["name"] == "done"
    assert of_process["resource"]["attributes"]["avx.cluster"] == "east"


def test_the_standard_variables_come_before_the_settings() -> None:
    done = ran(
        PROGRAM,
        OTEL_TRACES_EXPORTER="console",
        OTEL_SERVICE_NAME="mine",
        OTEL_RESOURCE_ATTRIBUTES="deployment.environment.name=staging,team=blue",
    )

    (span,) = documents(done.stdout)
    said = span["resource"]["attributes"]
    assert (said["service.name"], said["deployment.environment.name"], said["team"]) == ("mine", "staging", "blue")
    assert said["service.namespace"] == "shop"


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"OTEL_TRACES_EXPORTER": "none"},
        {"OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://h:1"},
        {"OTEL_TRACES_EXPORTER": "console", "OTEL_SDK_DISABLED": "true"},
    ],
)
def test_where_nothing_is_asked_for_the_sdk_is_not_even_imported(variables: dict[str, str]) -> None:
    program = (
        "import sys\nfrom avx_events.observability import Settings, exporting\n"
        "with exporting(Settings()):\n    print('opentelemetry' in sys.modules)"
    )

    done = ran(program, **variables)

    assert (done.stdout, done.stderr) == ("False\n", "")


def test_providers_that_are_set_up_already_stay() -> None:
    program = f"{DISTRO}{PROGRAM}    assert trace.get_tracer_provider() is given"

    done = ran(program, OTEL_TRACES_EXPORTER="console")

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("variables", "named", "said"),
    [
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4318"},
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            "must be a URL as http://collector:4318, not 'collector:4318'",
        ),
        (
            {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://me:secret@collector:port"},
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
            "must be a URL as http://collector:4318, not 'http://me:***@collector:port'",
        ),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318", "OTEL_EXPORTER_OTLP_PROTOCOL": "smoke"},
            "OTEL_EXPORTER_OTLP_PROTOCOL",
            "must be http/protobuf or grpc, not 'smoke'",
        ),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            "needs opentelemetry-exporter-otlp-proto-grpc: pip install opentelemetry-exporter-otlp-proto-grpc",
        ),
        (
            {"OTEL_METRICS_EXPORTER": "console,pigeon"},
            "OTEL_METRICS_EXPORTER",
            "asks for 'pigeon', which is not installed; there are console, none, otlp, otlp_proto_http",
        ),
        (
            {"OTEL_TRACES_EXPORTER": "console", "OTEL_BSP_MAX_QUEUE_SIZE": "-1"},
            "OTEL_TRACES_EXPORTER",
            "asks for what cannot be set up with the other variables of OpenTelemetry: "  # noqa: ISC004 - one sentence
            "max_queue_size must be a positive integer.",
        ),
    ],
)
def test_a_variable_that_cannot_be_used_is_named(
    variables: dict[str, str], named: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    with pytest.raises(SettingError) as refused, exporting(Settings()):
        pass

    assert (refused.value.name, refused.value.source) == (named, "the environment")
    assert refused.value.problem == said


def test_where_metrics_cannot_be_set_up_traces_are_not_either(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318")
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "-1")

    with pytest.raises(SettingError, match="interval value"), exporting(Settings()):
        pass

    assert isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


@pytest.mark.parametrize("missing", ["opentelemetry", "opentelemetry.sdk"])
def test_an_endpoint_without_the_sdk_says_what_to_install(missing: str) -> None:
    program = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        "from avx_events.observability import SettingError, Settings, exporting\n"
        "try:\n    with exporting(Settings()): pass\nexcept SettingError as error: print(error)"
    )

    done = ran(program, OTEL_EXPORTER_OTLP_ENDPOINT="http://collector:4318")

    expected = "needs the otel extra: pip install 'avx-events[otel]'"
    assert done.stdout == f"OTEL_EXPORTER_OTLP_ENDPOINT (from the environment) {expected}\n"

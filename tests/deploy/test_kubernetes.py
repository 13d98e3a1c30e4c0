"""The manifests are what Kubernetes takes, and what our processes need."""

from typing import Any, Final

import kubernetes_validate  # type: ignore[import-untyped]
import pytest

from avx_events.observability import Settings
from deploy.parts.edge import BUS_URL
from deploy.parts.worker import DRAIN_TIMEOUT_S, GROUP, INVOICES_URL
from examples.production_service.serving import BIND_ADDR, stop_timeout_s
from tests.deploy.files import documents

VERSION: Final = "1.34"
OPERATOR: Final = "monitoring.coreos.com/v1"  # of the Prometheus operator, whose schemas are not Kubernetes' own
LANES: Final = 16  # of a log, unless connect(partitions=...) says otherwise

ALL: Final = [*documents("kubernetes/*.yaml"), *documents("kubernetes/secret.yaml.example")]
OURS: Final = [document for document in ALL if document["apiVersion"] != OPERATOR]
PODS: Final = {
    document["metadata"]["name"]: document["spec"]["template"] for document in ALL if document["kind"] == "Deployment"
}
CONTAINERS: Final = [
    pytest.param(container, id=container["name"]) for pod in PODS.values() for container in pod["spec"]["containers"]
]


def kinds(kind: str) -> list[dict[str, Any]]:
    """Return the manifests of a kind."""
    return [document for document in ALL if document["kind"] == kind]


def label(document: dict[str, Any]) -> str:
    return f"{document['kind']} {document['metadata']['name']}"


@pytest.mark.parametrize("document", [pytest.param(document, id=label(document)) for document in OURS])
def test_a_manifest_has_the_fields_that_kubernetes_knows(document: dict[str, Any]) -> None:
    kubernetes_validate.validate(document, VERSION, strict=True)


def test_the_check_finds_a_field_that_is_misspelt() -> None:
    [document] = kinds("HorizontalPodAutoscaler")
    misspelt = {**document, "spec": {**document["spec"], "maxReplica": 3}}

    with pytest.raises(kubernetes_validate.ValidationError, match="maxReplica"):
        kubernetes_validate.validate(misspelt, VERSION, strict=True)


@pytest.mark.parametrize("container", CONTAINERS)
def test_a_container_is_probed_bounded_and_may_do_nothing_else(container: dict[str, Any]) -> None:
    ports = {port["name"] for port in container["ports"]}

    probes = {kind: container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "readiness", "liveness")}
    assert probes["liveness"]["path"] == "/health"
    assert probes["readiness"]["path"] == "/ready"
    assert {probe["port"] for probe in probes.values()} <= ports
    assert container["resources"]["requests"].keys() == {"cpu", "memory"}
    assert "memory" in container["resources"]["limits"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


@pytest.mark.parametrize("name", sorted(PODS))
def test_a_pod_is_not_root_and_has_no_token(name: str) -> None:
    spec = PODS[name]["spec"]

    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] > 0
    assert spec["automountServiceAccountToken"] is False


def test_a_pod_is_given_longer_than_it_takes_to_stop() -> None:
    service, worker = PODS["avx-service"]["spec"], PODS["avx-worker"]["spec"]
    before_s = service["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]

    assert service["terminationGracePeriodSeconds"] > before_s + stop_timeout_s(Settings())
    assert worker["terminationGracePeriodSeconds"] > 2 * DRAIN_TIMEOUT_S


def test_there_is_one_pod_on_the_stores_file() -> None:
    [service] = [document for document in kinds("Deployment") if document["metadata"]["name"] == "avx-service"]

    assert service["spec"]["replicas"] == 1
    assert service["spec"]["strategy"]["type"] == "Recreate"


def test_there_are_no_more_workers_than_lanes_and_they_scale_by_their_own_group() -> None:
    [autoscaler] = kinds("HorizontalPodAutoscaler")
    [metric] = autoscaler["spec"]["metrics"]

    assert autoscaler["spec"]["scaleTargetRef"]["name"] in PODS
    assert autoscaler["spec"]["maxReplicas"] <= LANES
    assert metric["external"]["metric"]["selector"]["matchLabels"] == {"group": GROUP}


def test_every_selector_of_pods_selects_some() -> None:
    labels = [pod["metadata"]["labels"] for pod in PODS.values()]
    selectors = [
        *[document["spec"]["selector"]["matchLabels"] for document in kinds("PodDisruptionBudget")],
        *[document["spec"]["podSelector"]["matchLabels"] for document in kinds("NetworkPolicy")],
        *[document["spec"]["selector"]["matchLabels"] for document in kinds("PodMonitor")],
        *[document["spec"]["selector"] for document in kinds("Service")],
    ]

    for selector in selectors:
        assert any(selector.items() <= of_pod.items() for of_pod in labels), selector


def test_what_prometheus_scrapes_are_ports_that_there_are() -> None:
    of_pods = {port["name"] for pod in PODS.values() for part in pod["spec"]["containers"] for port in part["ports"]}
    of_services = {port["name"] for service in kinds("Service") for port in service["spec"]["ports"]}

    [monitor], [pods] = kinds("ServiceMonitor"), kinds("PodMonitor")
    assert monitor["apiVersion"] == pods["apiVersion"] == OPERATOR
    assert {endpoint["port"] for endpoint in monitor["spec"]["endpoints"]} <= of_services
    assert {endpoint["port"] for endpoint in pods["spec"]["podMetricsEndpoints"]} <= of_pods


def test_config_and_secret_have_the_settings_that_are_read_and_no_others() -> None:
    [config], [secret] = kinds("ConfigMap"), kinds("Secret")

    settings = {name: value for name, value in config["data"].items() if not name.startswith("OTEL_")}
    assert Settings.load(settings).env == "production"
    assert {BIND_ADDR, "AVX_EVENTS__STORE_URL"} <= settings.keys()
    assert secret["stringData"].keys() == {BUS_URL, INVOICES_URL}

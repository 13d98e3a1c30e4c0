"""Dashboard, alerts and autoscaler name metrics and labels that there are."""

import re
import subprocess
from collections.abc import Iterator
from typing import Any, Final

import promql_parser

from avx_events import DeadLetterQueue, EventBus, EventStore, GroupStatus, Projector
from avx_events.observability import Metrics
from examples.production_service.orders import OrderPlaced
from examples.production_service.read_models import OrderBook
from tests.deploy.files import DEPLOY, dashboard, documents
from tests.deploy.metrics import LIBRARY, OTHERS
from tests.deploy.programs import needed
from tests.docs.pages import ROOT
from tests.examples.production_service.serving import create_user, serving

ALERTS: Final = DEPLOY / "prometheus" / "alerts.yaml"
[RULES] = documents("prometheus/alerts.yaml")
EVERY_RULE: Final[list[dict[str, Any]]] = [rule for group in RULES["groups"] for rule in group["rules"]]
RECORDED: Final[set[str]] = {rule["record"] for rule in EVERY_RULE if "record" in rule}


def expressions() -> Iterator[tuple[str, str]]:
    """Find each expression, with the place where it stands."""
    for rule in EVERY_RULE:
        yield rule.get("alert") or rule["record"], rule["expr"]
    for panel in dashboard()["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]
    [adapter] = documents("prometheus/adapter-rules.yaml")
    for rule in adapter["rules"]["external"]:
        yield "adapter", rule["seriesQuery"]
        yield "adapter", rule["metricsQuery"].replace("<<.LabelMatchers>>", 'group="invoicing"')


def selectors(expression: str) -> list[promql_parser.VectorSelector]:
    """Return what an expression selects.

    Raises:
        ValueError: It is no PromQL.
    """
    found: list[promql_parser.VectorSelector] = []

    def collect(part: promql_parser.Expr) -> bool:
        if isinstance(part, promql_parser.MatrixSelector):
            found.append(part.vector_selector)
        elif isinstance(part, promql_parser.VectorSelector):
            found.append(part)
        return True

    promql_parser.walk(promql_parser.parse(expression), collect)
    return found


def name_of(selector: promql_parser.VectorSelector) -> str:
    """Return the metric's name, which may be said as a label."""
    labels = {matcher.name: matcher.value for matcher in selector.matchers.matchers}
    return selector.name or labels["__name__"]


def labels_of(line: str) -> tuple[str, frozenset[str]]:
    """Return the name and the labels of a sample."""
    name, _, rest = line.partition("{")
    return name.split(" ", 1)[0], frozenset(re.findall(r'(\w+)="', rest))


async def exported() -> dict[str, frozenset[str]]:
    """Return the metrics of the service, as Prometheus finds them, with their labels."""
    async with serving() as (client, _):
        await create_user(client)
        text = (await client.get("/metrics")).text
    return dict(labels_of(line) for line in text.splitlines() if not line.startswith("#"))


async def test_every_metric_that_is_named_is_exported_with_the_labels_that_are_asked_for() -> None:
    known = LIBRARY | OTHERS | await exported()

    for place, expression in expressions():
        for selector in selectors(expression):
            name = name_of(selector)
            assert name in known.keys() | RECORDED, f"{place}: {name} is no metric of ours"
            asked = {matcher.name for matcher in selector.matchers.matchers} - {"__name__"}
            assert name in RECORDED or asked <= known[name], f"{place}: {name} has no labels {asked}"


async def test_what_expressions_group_by_are_labels_of_what_they_select() -> None:
    known = LIBRARY | OTHERS | await exported()

    for place, expression in expressions():
        wanted = {word for words in re.findall(r"\b(?:by|on) \(([\w, ]+)\)", expression) for word in words.split(", ")}
        names = {name_of(selector) for selector in selectors(expression)} - RECORDED
        if names:
            assert wanted <= frozenset().union(*(known[name] for name in names)), f"{place}: {expression}"


async def test_the_list_is_what_the_library_exports() -> None:
    metrics = Metrics()
    async with (
        EventBus(dead_letter_queue=DeadLetterQueue()) as bus,
        await EventStore.connect("sqlite://") as store,
        Projector(store, OrderBook()) as projector,
    ):

        @bus.on(OrderPlaced, name="invoice")
        async def invoice(order: OrderPlaced) -> None: ...

        metrics.add_bus(bus)
        metrics.add_projector(projector)
        metrics.add_groups(OneGroup())
        await bus.publish(OrderPlaced("order-1", "user-1", 1250))
        await bus.settled()
        text = (await metrics.text()).decode()

    samples = dict(labels_of(line) for line in text.splitlines() if not line.startswith("#"))
    assert {name: labels for name, labels in samples.items() if not name.endswith("_created")} == LIBRARY


class OneGroup:
    """A group that is behind, as an inspector of a broker tells of it."""

    async def groups(self) -> list[GroupStatus]:
        return [
            GroupStatus(group="invoicing", handler="invoice", members=(), lag_events=3, lag_seconds=0.5, in_flight=0)
        ]


def test_every_alert_says_how_bad_it_is_and_where_to_read_on() -> None:
    guide = (ROOT / "PRODUCTION_GUIDE.md").read_text("utf-8")
    headings = {line.lstrip("# ").lower().replace(" ", "-") for line in guide.splitlines() if line.startswith("#")}

    for alert in (rule for rule in EVERY_RULE if "alert" in rule):
        page, _, heading = alert["annotations"]["runbook"].partition("#")
        assert alert["labels"]["severity"] in {"info", "warning", "critical"}
        assert page == "PRODUCTION_GUIDE.md"
        assert heading in headings, alert["alert"]


def test_promtool_takes_the_rules() -> None:
    done = subprocess.run(  # noqa: S603 - our own file
        [needed("promtool"), "check", "rules", str(ALERTS)], capture_output=True, text=True, timeout=30, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(EVERY_RULE)} rules found" in done.stdout


def test_the_panels_of_the_dashboard_have_ids_and_places_of_their_own() -> None:
    panels = dashboard()["panels"]
    cells = [
        (panel["gridPos"]["x"] + x, panel["gridPos"]["y"] + y)
        for panel in panels
        for x in range(panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["h"])
    ]

    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24
    assert {panel["datasource"]["uid"] for panel in panels} == {"${datasource}"}

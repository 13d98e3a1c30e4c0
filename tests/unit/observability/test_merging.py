"""What several processes answer is one text, which Prometheus's own parser takes, and whose series never go back."""

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from avx_events.core.errors import InvalidArgumentError
from avx_events.observability.merging import merged_text


def text_of(count: int) -> bytes:
    """Return what a process answers that has counted to ``count``."""
    registry = CollectorRegistry()
    Counter("orders", "Orders.", ("route",), registry=registry).labels('/o"r{d}e\\rs').inc(count)
    Gauge("open_now", "Now.", registry=registry).set(count)
    Histogram("duration_seconds", "How long.", buckets=(1.0,), registry=registry).observe(count)
    return generate_latest(registry)


def test_each_sample_says_whose_it_is_and_families_stay_together() -> None:
    merged = merged_text({"1": text_of(3), "2": text_of(5)}, label="worker").decode()

    families = {family.name: family for family in text_string_to_metric_families(merged)}
    orders = {sample.labels["worker"]: sample for sample in families["orders"].samples if sample.name == "orders_total"}
    assert {worker: sample.value for worker, sample in orders.items()} == {"1": 3.0, "2": 5.0}
    assert orders["1"].labels == {"worker": "1", "route": '/o"r{d}e\\rs'}
    assert [(sample.labels, sample.value) for sample in families["open_now"].samples] == [
        ({"worker": "1"}, 3.0),
        ({"worker": "2"}, 5.0),
    ]
    assert {sample.labels["worker"] for sample in families["duration_seconds"].samples} == {"1", "2"}
    assert families["duration_seconds"].type == "histogram"
    for line in ("# TYPE orders_total counter", "# HELP open_now Now.", "# TYPE duration_seconds histogram"):
        assert merged.count(line) == 1


def test_a_family_that_only_one_has_is_there() -> None:
    registry = CollectorRegistry()
    Gauge("lag", "Lag.", registry=registry).set(7)

    merged = merged_text({"1": text_of(3), "2": generate_latest(registry)}, label="worker").decode()

    assert 'lag{worker="2"} 7.0\n' in merged
    assert 'lag{worker="1"}' not in merged


def test_a_name_is_escaped() -> None:
    merged = merged_text({'a"b\\c\n': b"# HELP x X.\n# TYPE x gauge\nx 1.0\n"}, label="worker").decode()

    (family,) = text_string_to_metric_families(merged)
    assert family.samples[0].labels == {"worker": 'a"b\\c\n'}


def test_a_metric_whose_name_is_quoted_is_taken() -> None:
    text = b'# HELP "a.b" X.\n# TYPE "a.b" gauge\n{"a.b"} 1.0\n{"a.b",c="d"} 2.0\n'

    merged = merged_text({"1": text}, label="worker").decode()

    assert merged.splitlines()[2:] == ['{"a.b",worker="1"} 1.0', '{"a.b",worker="1",c="d"} 2.0']


def test_of_nobody_it_is_empty() -> None:
    assert merged_text({}, label="worker") == b""


@pytest.mark.parametrize("label", ["", "1st", "with space", "route"])
def test_a_label_that_is_none_or_is_taken_is_refused(label: str) -> None:
    with pytest.raises(InvalidArgumentError, match="label"):
        merged_text({"1": text_of(1)}, label=label)

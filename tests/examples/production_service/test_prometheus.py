"""The text format of metrics."""

from examples.production_service.prometheus import Durations, family, gauge


def test_a_family_says_what_it_is_before_its_samples() -> None:
    assert (
        gauge("lag_events", "Events behind.", 3)
        == "# HELP lag_events Events behind.\n# TYPE lag_events gauge\nlag_events 3\n"
    )


def test_what_a_label_cannot_have_is_escaped() -> None:
    text = family("requests_total", "counter", "Requests.", [("", {"route": 'a"b\\c\nd'}, 1)])

    assert text.splitlines()[-1] == r'requests_total{route="a\"b\\c\nd"} 1'


def test_the_buckets_of_a_histogram_count_all_that_is_below_their_bound() -> None:
    durations = Durations()
    for seconds in (0.001, 0.003, 7.0, 60.0):
        durations.add(seconds)

    samples = {(suffix, labels.get("le")): value for suffix, labels, value in durations.samples({})}

    assert [samples["_bucket", bound] for bound in ("0.001", "0.0025", "0.005", "5", "10", "+Inf")] == [
        1,
        1,
        2,
        2,
        3,
        4,
    ]
    assert (samples["_count", None], round(samples["_sum", None], 3)) == (4, 67.004)

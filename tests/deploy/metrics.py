"""The metrics that dashboard, alerts and autoscaler may name: each with the labels that it has."""

from typing import Final

_HANDLERS: Final = frozenset({"bus", "handler"})
_PUBLISHERS: Final = frozenset({"bus", "system"})
_GROUPS: Final = frozenset({"group", "handler"})
_BUCKET: Final = frozenset({"le"})

LIBRARY: Final = {
    "avx_events_published_total": _PUBLISHERS,
    "avx_events_handled_total": _HANDLERS,
    "avx_events_retried_total": _HANDLERS,
    "avx_events_dead_lettered_total": _HANDLERS,
    "avx_events_discarded_total": _HANDLERS,
    "avx_events_dropped_total": _HANDLERS,
    "avx_events_queued": _HANDLERS,
    "avx_events_in_flight": _HANDLERS,
    "avx_events_dead_letters": frozenset({"bus"}),
    "avx_events_projection_lag_events": frozenset({"projection"}),
    "avx_events_projection_lag_seconds": frozenset({"projection"}),
    "avx_events_group_lag_events": _GROUPS,
    "avx_events_group_lag_seconds": _GROUPS,
    "avx_events_publish_duration_seconds_bucket": _PUBLISHERS | _BUCKET,
    "avx_events_publish_duration_seconds_sum": _PUBLISHERS,
    "avx_events_publish_duration_seconds_count": _PUBLISHERS,
    "avx_events_handle_duration_seconds_bucket": _HANDLERS | _BUCKET,
    "avx_events_handle_duration_seconds_sum": _HANDLERS,
    "avx_events_handle_duration_seconds_count": _HANDLERS,
}
"""What the library counts."""

OTHERS: Final = {
    "up": frozenset({"job", "instance"}),  # by Prometheus itself
    "avx_events_scrape_failures_total": frozenset({"what"}),  # once there was one
}
"""What is not in every scrape."""

"""Read models that follow the log: each event's effect exactly once, in the transaction that moves the checkpoint."""

from avx_events.patterns.projection.follower import ProjectionStatistics
from avx_events.patterns.projection.projection import Projection, handles
from avx_events.patterns.projection.projector import Projector

__all__ = ["Projection", "ProjectionStatistics", "Projector", "handles"]

"""Read models that follow the log: each event's effect exactly once, in the transaction that moves the checkpoint."""

from avx_events.patterns.projection.projection import Projection, handles
from avx_events.patterns.projection.projector import Projector
from avx_events.patterns.projection.status import ProjectionStatistics, ProjectionStatus

__all__ = ["Projection", "ProjectionStatistics", "ProjectionStatus", "Projector", "handles"]

"""Growing frame intervals (SpatialCrafter, arXiv:2505.11992): small and smooth, then larger and larger, then any."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_STREAM = 5


@dataclass(frozen=True, kw_only=True)
class Curriculum:
    """The interval of a clip, from 0 (as close as the source has them) to 1, by how much of the run is done.

    Attributes:
        smooth: share of the run with interval 0.
        growth: share of the run after it, in which the interval rises linearly to 1.
        seed: of the random intervals that follow, even in [0, 1].
    """

    smooth: float
    growth: float
    seed: int

    def interval(self, done: float, number: int) -> float:
        """Interval of clip ``number``, first shown when the share ``done`` of the run is over."""
        if done < self.smooth:
            return 0.0
        if done < self.smooth + self.growth:
            return (done - self.smooth) / self.growth
        return float(np.random.default_rng([self.seed, number, _STREAM]).random())

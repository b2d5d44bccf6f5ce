"""Distances between two places that a user clicks on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_NARROW, _WIDE = 0.006, 0.02  # radius of the search about the ray, share of the distance
_SAME_SURFACE = 0.02  # points this much further away count as lying on the surface in front


@dataclass(frozen=True, kw_only=True, eq=False)
class Measurement:
    """A straight distance.

    Attributes:
        start, end: [3] world.
        metric_scale: whether the world's unit is the metre; None when nobody said.
    """

    start: np.ndarray  # [3]
    end: np.ndarray  # [3]
    metric_scale: bool | None

    @property
    def length(self) -> float:
        """In the world's unit."""
        return float(np.linalg.norm(np.asarray(self.end, np.float64) - np.asarray(self.start, np.float64)))

    @property
    def text(self) -> str:
        """The length with its unit: "m", or "units" where the scale is unknown."""
        return f"{self.length:.4g} {'m' if self.metric_scale else 'units'}"


def picked_point(points: np.ndarray, origin: np.ndarray, direction: np.ndarray) -> np.ndarray | None:
    """The point that a user sees under the cursor.

    Of the points near the ray, the surface nearest to the viewer, and on it the point nearest to the ray.

    Args:
        points: [P, 3] world.
        origin, direction: [3] of the ray; the direction may have any length but zero.

    Returns:
        [3], or None when the ray meets nothing.
    """
    offsets = np.asarray(points, np.float64) - np.asarray(origin, np.float64)
    ray = np.asarray(direction, np.float64) / np.linalg.norm(direction)
    along = offsets @ ray  # [P]
    aside = np.linalg.norm(offsets - along[:, None] * ray, axis=1)  # [P]
    for radius in (_NARROW, _WIDE):
        near = np.flatnonzero((along > 0) & (aside < radius * along))
        if len(near):
            front = near[along[near] <= (1 + _SAME_SURFACE) * along[near].min()]
            return np.asarray(points[front[np.argmin(aside[front] / along[front])]])
    return None

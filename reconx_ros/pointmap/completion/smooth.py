"""Depth of every pixel without a network: smooth surfaces through what is measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from reconx_ros.core import Job, PointMap
from reconx_ros.geometry.completion import complete_depth
from reconx_ros.pointmap.completion.base import Guess

if TYPE_CHECKING:
    from reconx_ros.pointmap.config import PointmapConfig

_SCALE = 0.3  # of the logarithm of depth: what such guesses are off by, far from what is measured
_CERTAINTY = 0.15  # share of such guesses within 5 % of the truth in rooms; it does not tell pixels apart


class SmoothCompleter:
    """``geometry.completion.complete_depth`` of each view alone; a view without a measured pixel takes the others'."""

    name = "smooth"

    def complete(
        self, views: Sequence[PointMap], config: PointmapConfig, *, device: torch.device, job: Job
    ) -> list[Guess]:
        """As ``DepthCompleter``."""
        del config, device
        known = [view.depth[view.valid] for view in views if bool(view.valid.any())]
        typical = float(torch.cat(known).median()) if known else 1.0
        guesses = []
        for k, view in enumerate(views):
            job.step(k / len(views), "completing depth")
            guesses.append(_guess(view, typical))
        return guesses


def _guess(view: PointMap, typical: float) -> Guess:
    flat = torch.full_like(view.depth, typical)
    depth = complete_depth(view.depth, view.confidence, view.rgb) if bool(view.valid.any()) else flat
    return Guess(depth=depth, certainty=torch.full_like(depth, _CERTAINTY), scale=torch.full_like(depth, _SCALE))

"""Depth of one view against its sources: full sweep, smoothing, then a narrow sweep around the result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from reconx_ros.pointmap.stereo.kernels import StereoKernels
from reconx_ros.pointmap.stereo.sgm import Smoothness
from reconx_ros.pointmap.stereo.sweep import inverse_depth_planes
from reconx_ros.pointmap.stereo.views import MatchView

_SMOOTH = Smoothness(p1=0.05, p2=1.0, p2_min=0.1, edge=0.06)
_SMOOTH_NARROW = Smoothness(p1=0.02, p2=0.1, p2_min=0.1)
_NARROW_STEPS = 4  # hypotheses on each side
_NARROW_FRACTION = 0.25  # of a plane step


@dataclass(frozen=True, kw_only=True, eq=False)
class StereoDepth:
    """Depth of one view before other views confirm it.

    Attributes:
        depth: [H, W] z-depth, positive everywhere.
        cost: [H, W] matching cost (1 - ZNCC) / 2 in [0, 1] at that depth.
        margin: [H, W] in [0, 1], by how much the next best depth costs more.
    """

    depth: torch.Tensor  # [H, W]
    cost: torch.Tensor  # [H, W]
    margin: torch.Tensor  # [H, W]


def _narrow_sweep(
    kernels: StereoKernels,
    view: MatchView,
    sources: Sequence[MatchView],
    inverse: torch.Tensor,
    step: float,
    window: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Improve inverse depths [H, W] by hypotheses around each; the windows then follow the surface's slant.

    Returns:
        (inverse depth [H, W], matching cost there [H, W]).
    """
    offsets = torch.arange(-_NARROW_STEPS, _NARROW_STEPS + 1, device=inverse.device) * (_NARROW_FRACTION * step)
    hypotheses = (inverse + offsets[:, None, None]).clamp_min(1e-3 * step)
    choice = kernels.match(view, sources, hypotheses, window, _SMOOTH_NARROW)
    return inverse + (choice.label - _NARROW_STEPS) * (_NARROW_FRACTION * step), choice.cost


def estimate_depth(
    kernels: StereoKernels,
    view: MatchView,
    sources: Sequence[MatchView],
    depth_range: tuple[float, float],
    *,
    planes: int,
    window: int,
    on_chunk: Callable[[float], None] | None = None,
) -> StereoDepth:
    """Depth of every pixel of a view.

    Args:
        kernels: who computes it.
        view: reference.
        sources: at least one view that shares content with it.
        depth_range: nearest and farthest depth searched.
        planes: number of inverse depths in the first sweep.
        window: side of the matching window in pixels, odd.
        on_chunk: called with the fraction done after each bounded piece of work.
    """
    near, far = depth_range
    grid = inverse_depth_planes(near, far, planes, device=view.grey.device)
    step = (1 / near - 1 / far) / (planes - 1)
    choice = kernels.match(view, sources, grid, window, _SMOOTH, on_chunk=on_chunk)
    inverse = kernels.median_filter(1 / far + choice.label * step)
    inverse, narrow_cost = _narrow_sweep(kernels, view, sources, inverse, step, window)
    depth = 1 / inverse.clamp(0.5 / far, 2 / near)
    return StereoDepth(depth=depth, cost=narrow_cost, margin=choice.margin)

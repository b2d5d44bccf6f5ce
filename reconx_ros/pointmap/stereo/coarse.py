"""A first look at small images: how far is the scene, in whatever unit the poses have?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from reconx_ros.core import InsufficientParallaxError, Job, ReconstructionError
from reconx_ros.geometry.projection import backproject, inside_image, project, transform_points
from reconx_ros.pointmap.stereo.consistency import DepthMap
from reconx_ros.pointmap.stereo.kernels import StereoKernels
from reconx_ros.pointmap.stereo.pairs import nearby_sources, select_sources
from reconx_ros.pointmap.stereo.sgm import Smoothness
from reconx_ros.pointmap.stereo.sweep import inverse_depth_planes
from reconx_ros.pointmap.stereo.views import MatchView

COARSE_SIZE = 96  # px
_COARSE_SOURCES = 6
_WIDE_PLANES = 128
_TIGHT_PLANES = 64
_NEAREST_OVER_BASELINE = 0.5  # nearest depth searched first, over the median baseline to the sources
_MIN_PARALLAX_DEG = 0.3
_MIN_POINTS = 30
_WINDOW = 5  # px
_MAX_COST = 0.35
_MIN_MARGIN = 0.05
_TOLERANCE = 0.08  # relative depth difference between two views; planes are coarse


@dataclass(frozen=True, kw_only=True, eq=False)
class CoarseScene:
    """What the first look found.

    Attributes:
        points_world: per view, [P, 3] points that it sees.
        depth_range: per view, (near, far) in world units.
    """

    points_world: tuple[torch.Tensor, ...]
    depth_range: tuple[tuple[float, float], ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Found:
    """Outcome of one sweep over all views.

    Attributes:
        inverse: per view, inverse depths [M] of clear matches, near zero for what is very far.
        points_world: per view, [P, 3] points that another view agrees on.
    """

    inverse: list[torch.Tensor]
    points_world: list[torch.Tensor]


def _clear_depth(
    kernels: StereoKernels, view: MatchView, sources: Sequence[MatchView], planes: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Inverse depth [H, W] and where the match is clear [H, W]."""
    choice = kernels.match(view, sources, planes, _WINDOW, Smoothness())
    step = planes[1, 0, 0] - planes[0, 0, 0]
    inverse = planes[0, 0, 0] + choice.label * step
    return inverse, (choice.cost < _MAX_COST) & (choice.margin > _MIN_MARGIN)


def _wide_planes(view: MatchView, sources: Sequence[MatchView], limits: tuple[float, float]) -> torch.Tensor:
    """Inverse depths [D, 1, 1] of the first sweep, from infinity (or the limit) to half a baseline (or the limit)."""
    baselines = [view.world_from_cam.distance_to(s.world_from_cam) for s in sources]
    near = limits[0] or min(_NEAREST_OVER_BASELINE * float(np.median(baselines)), 0.5 * (limits[1] or np.inf))
    far = limits[1] or np.inf
    return torch.linspace(1 / far, 1 / near, _WIDE_PLANES, device=view.grey.device)[:, None, None]


def _check_parallax(views: Sequence[MatchView], found: _Found, sources: list[list[int]], unit: float) -> None:
    """Refuse scenes whose parallax is not measurable in any view; where nothing matched, there is nothing to say."""
    best: tuple[float, float, float] | None = None  # parallax in degrees, baseline, inverse depth
    for i, inverse in enumerate(found.inverse):
        if len(inverse) < _MIN_POINTS:
            continue
        baseline = max(views[i].world_from_cam.distance_to(views[j].world_from_cam) for j in sources[i])
        middle = max(float(inverse.median()), 1e-9)
        angle = float(np.degrees(np.arctan(baseline * middle)))
        best = max(best or (0.0, 0.0, 1.0), (angle, baseline, middle))
    if best is not None and best[0] < _MIN_PARALLAX_DEG:
        raise InsufficientParallaxError(
            f"the keyframes' largest useful baseline is {best[1] * unit:.3g} against a median scene depth of about "
            f"{min(1 / best[2], 1e3 * best[1]) * unit:.3g} or more ({best[0]:.2f} deg of parallax), "
            f"expected at least {_MIN_PARALLAX_DEG} deg: move the camera sideways"
        )


def _range_from_depths(depths: torch.Tensor) -> tuple[float, float]:
    """Near and far with some margin beyond the bulk of the depths [P]."""
    values = np.percentile(1 / depths.double().cpu().numpy(), (1.5, 98.5))
    margin = 0.1 * (values[1] - values[0])
    return 1 / float(1.25 * values[1] + margin), 1 / float(
        max(0.8 * values[0] - margin, 0.02 * values[1], 0.4 * values[0])
    )


def _visible_depths(view: MatchView, points_world: torch.Tensor) -> torch.Tensor:
    uv, z = project(transform_points(view.world_from_cam.inverse(), points_world), view.camera)
    return z[inside_image(uv, z, view.camera)]


def _pass(
    kernels: StereoKernels,
    views: Sequence[MatchView],
    sources: list[list[int]],
    planes: Sequence[torch.Tensor | None],
    job: Job,
) -> _Found:
    """Sweep all views and keep what one other view agrees on."""
    inverse, maps = [], []
    for i, view in enumerate(views):
        job.step(i / len(views), "finding the depth range")
        grid = planes[i]
        nothing = torch.zeros_like(view.grey)
        w, clear = nothing, nothing > 0
        if grid is not None:
            w, clear = _clear_depth(kernels, view, [views[j] for j in sources[i]], grid)
        inverse.append(w[clear])
        finite = clear & (w > 1e-3 * w.max())
        depth = 1 / torch.where(finite, w, 1.0)
        maps.append(DepthMap(depth=depth, usable=finite, camera=view.camera, world_from_cam=view.world_from_cam))
    points = []
    for i, own in enumerate(maps):
        told = kernels.agreement(own, [maps[j] for j in sources[i]], _TOLERANCE)
        sure = own.usable & (told.agrees >= 1) & (told.denies <= told.agrees)
        points.append(transform_points(own.world_from_cam, backproject(own.depth, own.camera)[sure]))
    return _Found(inverse=inverse, points_world=points)


def _limited(found: tuple[float, float], limits: tuple[float, float]) -> tuple[float, float]:
    near = limits[0] or min(found[0], 0.8 * (limits[1] or np.inf))
    far = limits[1] or max(found[1], 1.25 * near)
    return near, far


def _ranges(
    views: Sequence[MatchView], points: Sequence[torch.Tensor], limits: tuple[float, float]
) -> list[tuple[float, float]]:
    """(near, far) per view from its own points and what it sees of the others'."""
    everything = torch.cat(list(points))
    if len(everything) < _MIN_POINTS:
        raise ReconstructionError(
            f"only {len(everything)} pixels of the {len(views)} keyframes could be matched, "
            f"expected at least {_MIN_POINTS}: the images have too little texture, or their poses are wrong"
        )
    ranges = []
    for view, own in zip(views, points, strict=True):
        depths = torch.cat([_visible_depths(view, own), _visible_depths(view, everything)])
        ranges.append(_range_from_depths(depths) if len(depths) >= _MIN_POINTS else (0.0, 0.0))
    pooled = _range_from_depths(torch.cat([_visible_depths(v, p) for v, p in zip(views, points, strict=True)]))
    return [_limited(r if r[0] > 0 else pooled, limits) for r in ranges]


def look(
    kernels: StereoKernels,
    views: Sequence[MatchView],
    job: Job,
    *,
    limits: tuple[float, float] = (0.0, 0.0),
    unit: float = 1.0,
) -> CoarseScene:
    """Find the depth range and some points of every view from small images.

    Two sweeps: the first from infinity to half a baseline, the second in the range that the first found.

    Args:
        kernels: who matches.
        views: at least two, with cameras about one unit apart (``views.normalised``).
        job: progress and cancellation.
        limits: nearest and farthest depth asked for; 0 leaves that end open.
        unit: length of one unit of the views in the user's world, for messages.

    Raises:
        InsufficientParallaxError: when the scene is too far for the baselines.
        ReconstructionError: when (nearly) nothing matches.
        CancelledError: when the job was cancelled.
    """
    small = [v.resized(COARSE_SIZE) for v in views]
    sources = nearby_sources(small, _COARSE_SOURCES)
    wide = [_wide_planes(v, [small[j] for j in s], limits) if s else None for v, s in zip(small, sources, strict=True)]
    found = _pass(kernels, small, sources, wide, job.part(0.0, 0.5))
    _check_parallax(small, found, sources, unit)
    ranges = _ranges(small, found.points_world, limits)
    better = select_sources(small, found.points_world, _COARSE_SOURCES)
    sources = [b or s for b, s in zip(better, sources, strict=True)]
    device = views[0].grey.device
    tight = [
        inverse_depth_planes(near, far, _TIGHT_PLANES, device=device) if sources[i] else None
        for i, (near, far) in enumerate(ranges)
    ]
    points = _pass(kernels, small, sources, tight, job.part(0.5, 1.0)).points_world
    return CoarseScene(points_world=tuple(points), depth_range=tuple(_ranges(small, points, limits)))

"""A second look at what matching left open: a narrow sweep around a guess of each pixel's depth.

The full sweep searches the whole range of depths, and where a surface has little texture its best match is chance. A
guess from elsewhere (a network, a sensor) narrows the search; what views then agree on, by their pictures, is measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from reconx_ros.core import InsufficientParallaxError, Job, PointMap
from reconx_ros.geometry.projection import backproject, transform_points
from reconx_ros.pointmap.config import PointmapConfig
from reconx_ros.pointmap.stereo.confidence import LIKELY_TRUST, confidence
from reconx_ros.pointmap.stereo.consistency import WITNESSES, DepthMap
from reconx_ros.pointmap.stereo.kernels import StereoKernels, select_kernels
from reconx_ros.pointmap.stereo.multiview import MAX_COST, MIN_SPECKLE_PX
from reconx_ros.pointmap.stereo.pairs import select_sources
from reconx_ros.pointmap.stereo.settings import MultiviewSettings
from reconx_ros.pointmap.stereo.sgm import Smoothness
from reconx_ros.pointmap.stereo.views import MatchView, match_view, normalised

# Chosen on simulated rooms of the validation split, so that what is measured here is as often right as what the full
# sweep measures. What a match costs told little there; how sure the guess was told most.
_WINDOW = 11  # px; wider than the full sweep's, since the guess follows slant and edges
_STEPS = 10  # hypotheses on each side of the guess
_REACH = 1.0  # Laplace scales of the guess that the search spans on each side
_MIN_REACH, _MAX_REACH = 0.03, 0.15  # of the logarithm of depth
_MIN_CERTAINTY = 0.5  # of the guess, below which agreement around it may be chance
_SMOOTH = Smoothness(p1=0.03, p2=0.3, p2_min=0.1, edge=0.06)
_MIN_TRUST = 0.1  # confidence below which a second look settles nothing
_POINTS = 4000  # of each view that choose its sources


@dataclass(frozen=True, kw_only=True, eq=False)
class GuidedDepth:
    """What a second look measured in one view.

    Attributes:
        depth: [H, W] z-depth in the world's unit; any number where not measured.
        confidence: [H, W] in [0, 1], as multi-view stereo gives it, times the certainty of the guess; 0 where not
            measured.
        measured: [H, W] bool, pixels that were open and are measured now.
    """

    depth: torch.Tensor  # [H, W]
    confidence: torch.Tensor  # [H, W]
    measured: torch.Tensor  # [H, W]


def guided_depth(
    views: Sequence[PointMap],
    guesses: Sequence[torch.Tensor],
    scales: Sequence[torch.Tensor],
    certainties: Sequence[torch.Tensor],
    config: PointmapConfig,
    *,
    device: torch.device,
    job: Job,
) -> list[GuidedDepth]:
    """Measure what is open around guesses; what is measured already stays and bears witness.

    Args:
        views: V pointmaps with poses.
        guesses: per view, [H, W] depth > 0.
        scales: per view, [H, W] Laplace scale of the logarithm of the guess.
        certainties: per view, [H, W] chance that the guess is within 5 % of the truth.
        config: the stage's settings.
        device: where torch computes.
        job: progress and cancellation.

    Raises:
        BackendUnavailableError: when the kernels that the settings name cannot run here.
        CancelledError: when the job was cancelled.
    """
    settings = config.own(MultiviewSettings)
    kernels = select_kernels(settings.kernels, device)
    try:
        prepared, unit = normalised([_prepared(view, device) for view in views])
    except InsufficientParallaxError:
        return [_nothing(view) for view in views]
    scaled = [guess.to(device) / unit for guess in guesses]
    points = [_points(view, guess) for view, guess in zip(prepared, scaled, strict=True)]
    neighbours = select_sources(prepared, points, max(settings.sources, WITNESSES))
    found = []
    for i, view in enumerate(prepared):
        job.step(0.9 * i / len(views), f"second look at view {i + 1} of {len(views)}")
        sources = [prepared[j] for j in neighbours[i][: settings.sources]]
        found.append(_swept(kernels, view, sources, scaled[i], scales[i].to(device), _WINDOW))
    tested = [_tested(view, m, f, unit) for view, m, f in zip(views, prepared, found, strict=True)]
    return [
        _checked(kernels, views[i], tested, neighbours[i], found[i], i, config, unit, certainties[i].to(device))
        for i in range(len(views))
    ]


def _prepared(view: PointMap, device: torch.device) -> MatchView:
    return match_view(view.rgb.to(device), view.camera, view.world_from_cam, view.keyframe_id)


def _nothing(view: PointMap) -> GuidedDepth:
    return GuidedDepth(depth=view.depth, confidence=torch.zeros_like(view.depth), measured=torch.zeros_like(view.valid))


def _points(view: MatchView, depth: torch.Tensor) -> torch.Tensor:
    """Some world points [P, 3] of a view, evenly over its picture."""
    points = transform_points(view.world_from_cam, backproject(depth, view.camera)).reshape(-1, 3)
    return points[:: max(1, len(points) // _POINTS)]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Swept:
    """Depth in the normalised world, its matching cost and margin, [H, W] each."""

    depth: torch.Tensor
    cost: torch.Tensor
    margin: torch.Tensor


def _swept(
    kernels: StereoKernels,
    view: MatchView,
    sources: Sequence[MatchView],
    guess: torch.Tensor,
    scale: torch.Tensor,
    window: int,
) -> _Swept:
    if not sources:
        return _Swept(depth=guess, cost=torch.ones_like(guess), margin=torch.zeros_like(guess))
    step = (_REACH * scale).clamp(_MIN_REACH, _MAX_REACH) / _STEPS
    labels = torch.arange(-_STEPS, _STEPS + 1, device=guess.device)[:, None, None]
    choice = kernels.match(view, sources, torch.exp(-labels * step) / guess, window, _SMOOTH)
    return _Swept(depth=guess * torch.exp((choice.label - _STEPS) * step), cost=choice.cost, margin=choice.margin)


def _tested(view: PointMap, prepared: MatchView, found: _Swept, unit: float) -> DepthMap:
    """Measured depth where there is one, else what the second look found where it matches."""
    valid = view.valid.to(found.depth.device)
    return DepthMap(
        depth=torch.where(valid, view.depth.to(found.depth.device) / unit, found.depth),
        usable=valid | (found.cost < MAX_COST),
        camera=prepared.camera,
        world_from_cam=prepared.world_from_cam,
    )


def _checked(
    kernels: StereoKernels,
    view: PointMap,
    tested: Sequence[DepthMap],
    neighbours: Sequence[int],
    found: _Swept,
    index: int,
    config: PointmapConfig,
    unit: float,
    certainty: torch.Tensor,
) -> GuidedDepth:
    """Keep what other views confirm around a sure guess; both have to be right, so that their chances multiply."""
    told = kernels.agreement(tested[index], [tested[j] for j in neighbours], config.consistency)
    needed = told.sees.clamp(1, config.own(MultiviewSettings).min_consistent)
    trust = confidence(told, found.margin, view.camera.fx) * torch.where(told.agrees >= needed, 1.0, LIKELY_TRUST)
    agreed = (told.agrees >= 1) & (told.denies <= told.agrees) & (trust >= _MIN_TRUST)
    fresh = agreed & (certainty >= _MIN_CERTAINTY) & (found.cost < MAX_COST) & ~view.valid.to(agreed.device)
    both = fresh | view.valid.to(agreed.device)
    fresh &= kernels.without_speckles(told.depth, both, tolerance=config.consistency, min_pixels=MIN_SPECKLE_PX)
    return GuidedDepth(
        depth=(told.depth * unit).cpu(), confidence=(trust * certainty * fresh).cpu(), measured=fresh.cpu()
    )

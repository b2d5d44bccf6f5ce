"""Dense depth of posed frames without weights: plane sweep, semi-global smoothing, cross-view check."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from reconx_ros.core import (
    AlignedViews,
    InvalidInputError,
    Job,
    Keyframe,
    MatchingEvidence,
    PointMap,
    Provenance,
    ReconstructionError,
)
from reconx_ros.pointmap.config import PointmapConfig
from reconx_ros.pointmap.stereo.coarse import look
from reconx_ros.pointmap.stereo.confidence import LIKELY_TRUST, confidence
from reconx_ros.pointmap.stereo.consistency import WITNESSES, DepthMap
from reconx_ros.pointmap.stereo.kernels import StereoKernels, select_kernels
from reconx_ros.pointmap.stereo.pairs import select_sources
from reconx_ros.pointmap.stereo.settings import MultiviewSettings
from reconx_ros.pointmap.stereo.view_depth import StereoDepth, estimate_depth
from reconx_ros.pointmap.stereo.views import MatchView, known_pose, normalised, prepare_views

MAX_COST = 0.48  # a worse match is no match (0.5 is "unknown")
MIN_SPECKLE_PX = 30
_LOOK_SHARE, _MATCH_SHARE = 0.15, 0.75  # of the progress bar


@dataclass(frozen=True, kw_only=True, eq=False)
class _Plan:
    """What is matched against what, in which range; in a normalised world.

    Attributes:
        views: V views.
        neighbours: per view, indices of the views that share content with it, best first.
        depth_range: per view, (near, far).
        unit: one unit of this world in the user's.
        kernels: who matches.
    """

    views: list[MatchView]
    neighbours: list[list[int]]
    depth_range: tuple[tuple[float, float], ...]
    unit: float
    kernels: StereoKernels


def multiview_depth(
    keyframes: Sequence[Keyframe], config: PointmapConfig, *, device: torch.device, job: Job, backend: str
) -> AlignedViews:
    """Depth of frames with known poses. Works in any unit; its accuracy is that of the poses.

    Each view is swept against its best sources, its depth smoothed and refined. A pixel stays where other views see the
    same surface; its confidence estimates the chance of an error below 2 %. Where fewer than ``min_consistent`` of the
    views that see the surface confirm it, confidence is below 0.4, so that such pixels help the pictures but enter no
    cloud. The depth of kept pixels is the mean of the views that agree; at least one other does, so all of them are
    OBSERVED. Pixels that are not valid hold the best guess of their depth, or 1 where there is none, with confidence 0.

    Args:
        keyframes: at least two, with poses.
        config: the stage's settings; ``MultiviewSettings`` and the range of depths are read.
        device: where torch computes.
        job: progress and cancellation.
        backend: in whose name.

    Raises:
        InvalidInputError: for fewer than two keyframes, one without a pose, or depth limits in the wrong order.
        InsufficientParallaxError: when the cameras share one place, or the scene is too far for their baselines.
        ReconstructionError: when nothing matches (black or constant images, wrong poses).
        CancelledError: when the job was cancelled.
        BackendUnavailableError: when the kernels that the settings name cannot run here.
    """
    job.step(0.0, "preparing images")
    _require_range(config)
    settings = config.own(MultiviewSettings)
    kernels = select_kernels(settings.kernels, device)
    views = prepare_views(keyframes, config.max_size, device)
    plan = _plan(kernels, views, config, job)
    depths = [_match(plan, i, settings, job) for i in range(len(views))]
    job.step(_LOOK_SHARE + _MATCH_SHARE, "comparing views")
    checked = [_check(plan, depths, i, config, keyframe) for i, keyframe in enumerate(keyframes)]
    _require_points(checked)
    return AlignedViews(
        views=tuple(checked), metric_scale=True, scale_source="poses", backend=backend, warnings=_warnings(checked)
    )


def _require_range(config: PointmapConfig) -> None:
    if 0 < config.max_depth <= config.min_depth:
        raise InvalidInputError(
            f"min_depth is {config.min_depth:g} and max_depth {config.max_depth:g}, expected min_depth < max_depth"
        )


def _plan(kernels: StereoKernels, views: list[MatchView], config: PointmapConfig, job: Job) -> _Plan:
    views, unit = normalised(views)
    limits = (config.min_depth / unit, config.max_depth / unit)
    scene = look(kernels, views, job.part(0.0, _LOOK_SHARE), limits=limits, unit=unit)
    neighbours = select_sources(views, scene.points_world, max(config.own(MultiviewSettings).sources, WITNESSES))
    return _Plan(views=views, neighbours=neighbours, depth_range=scene.depth_range, unit=unit, kernels=kernels)


def _match(plan: _Plan, index: int, settings: MultiviewSettings, job: Job) -> StereoDepth:
    """Depth of one view; of no worth where it has no sources."""
    view, count = plan.views[index], len(plan.views)
    sources = [plan.views[j] for j in plan.neighbours[index][: settings.sources]]
    if not sources:
        ones = torch.ones_like(view.grey)
        return StereoDepth(depth=ones, cost=ones, margin=torch.zeros_like(ones))

    def progress(fraction: float) -> None:
        done = _LOOK_SHARE + _MATCH_SHARE * (index + fraction) / count
        job.step(done, f"matching view {index + 1} of {count}")

    return estimate_depth(
        plan.kernels,
        view,
        sources,
        plan.depth_range[index],
        planes=settings.planes,
        window=settings.window | 1,
        on_chunk=progress,
    )


def _as_tested(view: MatchView, found: StereoDepth) -> DepthMap:
    usable = found.cost < MAX_COST
    return DepthMap(depth=found.depth, usable=usable, camera=view.camera, world_from_cam=view.world_from_cam)


def _check(
    plan: _Plan, depths: Sequence[StereoDepth], index: int, config: PointmapConfig, keyframe: Keyframe
) -> PointMap:
    """Keep what other views confirm, in the user's world."""
    view, found = plan.views[index], depths[index]
    own = _as_tested(view, found)
    others = [_as_tested(plan.views[j], depths[j]) for j in plan.neighbours[index]]
    told = plan.kernels.agreement(own, others, config.consistency)
    needed = told.sees.clamp(1, config.own(MultiviewSettings).min_consistent)
    sure = own.usable & (told.agrees >= needed) & (told.denies <= told.agrees)
    likely = own.usable & (told.agrees >= 1)
    sure, likely = (
        plan.kernels.without_speckles(told.depth, mask, tolerance=config.consistency, min_pixels=MIN_SPECKLE_PX)
        for mask in (sure, likely)
    )
    valid = sure | likely
    trust = confidence(told, found.margin, view.camera.fx) * torch.where(sure, 1.0, LIKELY_TRUST) * valid
    return PointMap(
        rgb=view.rgb.cpu(),
        depth=(told.depth * plan.unit).cpu(),
        confidence=trust.cpu(),
        valid=valid.cpu(),
        provenance=Provenance.OBSERVED.where(valid).cpu(),
        camera=view.camera,
        world_from_cam=known_pose(keyframe),
        keyframe_id=view.keyframe_id,
        evidence=MatchingEvidence(
            cost=found.cost.cpu(),
            margin=found.margin.cpu(),
            sees=told.sees.cpu(),
            agrees=told.agrees.cpu(),
            denies=told.denies.cpu(),
        ),
    )


def _require_points(views: Sequence[PointMap]) -> None:
    if not any(bool(v.valid.any()) for v in views):
        raise ReconstructionError(
            f"no pixel of the {len(views)} keyframes has a depth that two views agree on, expected some: "
            "the images have too little texture or overlap, or their poses are wrong"
        )


def _warnings(views: Sequence[PointMap]) -> tuple[str, ...]:
    empty = [str(v.keyframe_id) for v in views if not bool(v.valid.any())]
    if not empty:
        return ()
    return (f"no depth was found for keyframe {', '.join(empty)}: it shares too little with the others",)

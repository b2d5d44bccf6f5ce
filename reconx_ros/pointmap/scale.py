"""One factor per scene from the geometry's unit to the metre (SpatialCrafter, arXiv 2505.11992, "unified scale").

Geometry recovered from images alone is known up to a similarity. Three sources tell the unit: the given poses of the
keyframes (which also tell where the geometry lies in their frame), sensor depth, and a network that estimates metric
depth. Each is compared robustly; a source that does not agree with the geometry is refused with its figures, and the
result stays up to scale.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from reconx_ros.core import (
    SE3,
    AlignedViews,
    InvalidInputError,
    Job,
    Keyframe,
    PointMap,
    ReconstructionError,
    ScaleEstimate,
    Sim3,
)
from reconx_ros.core.memory import limit_bytes
from reconx_ros.geometry.resize import resize_nearest
from reconx_ros.geometry.umeyama import robust_align_poses
from reconx_ros.pointmap.config import PointmapConfig
from reconx_ros.weights.cache import ModelCache

_MAD_TO_SIGMA = 1.4826
_MIN_PIXELS = 200
_MAX_PIXELS = 40_000  # more say nothing new
_MIN_EXTENT_M = 0.01  # of the given positions; less is noise of any odometry
_NETWORK_VIEWS = 6  # most views that the network looks at
_NETWORK_LENIENCE = 2.0  # a network's own errors are larger than a sensor's
_MAX_TURN_DEG = 20.0  # between given and recovered orientations, after alignment
_SAME_FRAME = 0.05  # distance between given and recovered centres over their extent, below which frames are the same
_TUKEY = 4.685  # in sigmas, 95 % efficiency for Gaussian noise


class ScaleRefusedError(ReconstructionError):
    """A source cannot tell the scale; the sentence says why, with figures."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Found:
    """A similarity to the source's unit and frame."""

    new_from_old: Sim3
    estimate: ScaleEstimate
    metric: bool
    warnings: tuple[str, ...] = ()


def scale_to_metric(
    views: AlignedViews,
    keyframes: Sequence[Keyframe],
    config: PointmapConfig,
    *,
    metric_poses: bool = True,
    device: torch.device | str = "cpu",
    job: Job | None = None,
    models: ModelCache | None = None,
) -> AlignedViews:
    """Bring up-to-scale geometry to metres where a source of scale agrees with it.

    Depths, camera centres and, where poses are given, the frame change together, so that every pixel projects as
    before. Views that are metric already, and with ``scale: auto`` views that lie in the frame of given poses whose
    unit is not the metre (the user's choice), come back as they are.

    Args:
        views: stage 1's result.
        keyframes: its input; poses and depth are taken from their frames, by keyframe id.
        config: ``scale``, ``max_scale_spread``, ``metric_network``, ``seed``.
        metric_poses: whether the unit of the given poses is the metre; if not, geometry moves to their frame and unit
            but is not called metric.
        device: where a network runs.
        job: progress and cancellation.
        models: where a network is taken from; None loads it for this call.

    Returns:
        The views with ``scale`` set; or the given ones, with one warning per source that was refused.

    Raises:
        WeightsError: for ``scale: network`` without a network, or a network that cannot be read.
        InvalidInputError: for a network that does not estimate metric depth.
        BackendUnavailableError: when the packages that run the network are missing.
    """
    if views.metric_scale or config.scale == "none":
        return views
    pairs = _pairs(views, keyframes)
    if config.scale == "auto" and not metric_poses and in_given_frame(views, keyframes):
        return views
    sources: dict[str, Callable[[], _Found]] = {
        "poses": lambda: scale_from_poses(pairs, config.max_scale_spread, metric=metric_poses, seed=config.actual_seed),
        "depth": lambda: scale_from_depth(pairs, config.max_scale_spread),
        "network": lambda: scale_from_network(pairs, config, device, job or Job(), models or ModelCache()),
    }
    names = _available(pairs, config) if config.scale == "auto" else (config.scale,)
    refusals: list[str] = []
    for name in names:
        try:
            return _applied(views, sources[name](), refusals)
        except ScaleRefusedError as err:
            refusals.append(str(err))
    return replace(views, warnings=(*views.warnings, *refusals))


def with_pose_unit(views: AlignedViews, *, metric_poses: bool) -> AlignedViews:
    """Views whose scale is that of the given poses are metric where these are in metres, and only there."""
    if metric_poses or views.scale_source != "poses":
        return views
    return replace(views, metric_scale=False, scale_source=None)


def in_given_frame(views: AlignedViews, keyframes: Sequence[Keyframe]) -> bool:
    """Whether every keyframe has a pose, and every view stands where it says, up to a correction."""
    pairs = _pairs(views, keyframes)
    poses = [k.frame.world_from_cam for _, k in pairs]
    given = [p for p in poses if p is not None]
    if not given or len(given) < len(poses):
        return False
    distances = [p.distance_to(v.world_from_cam) for p, (v, _) in zip(given, pairs, strict=True)]
    turns = [np.degrees(p.angle_to(v.world_from_cam)) for p, (v, _) in zip(given, pairs, strict=True)]
    return float(np.median(distances)) <= _SAME_FRAME * _extent(given) and float(np.median(turns)) <= _MAX_TURN_DEG


def robust_log_ratio(log_ratios: np.ndarray, weights: np.ndarray | None = None) -> tuple[float, float]:
    """Location and spread of weighted log ratios with many outliers.

    The weighted median starts, Tukey's biweight refines it (Maronna et al., "Robust statistics", 2019, sec. 2.8).

    Args:
        log_ratios: [P].
        weights: [P] >= 0; equal ones when None.

    Returns:
        (log factor, 1.4826 times the weighted median of the absolute deviations from it).
    """
    values = np.asarray(log_ratios, np.float64)
    weights = np.ones(len(values)) if weights is None else np.asarray(weights, np.float64)
    centre = weighted_median(values, weights)
    for _ in range(10):
        sigma = _MAD_TO_SIGMA * weighted_median(np.abs(values - centre), weights)
        if sigma <= 1e-12:
            break
        reach = np.clip(1 - ((values - centre) / (_TUKEY * sigma)) ** 2, 0, None) ** 2 * weights
        centre = float((reach * values).sum() / reach.sum())
    return centre, _MAD_TO_SIGMA * weighted_median(np.abs(values - centre), weights)


def weighted_median(values: np.ndarray, weights: np.ndarray) -> float:
    """The value at which half of the weight lies below; the mean of both where it falls between two values."""
    order = np.argsort(values, kind="stable")
    below = np.cumsum(weights[order])
    half = 0.5 * below[-1]
    low = int(np.searchsorted(below, half * (1 - 1e-12)))
    high = int(np.searchsorted(below, half * (1 + 1e-12), side="right"))
    return 0.5 * float(values[order[low]] + values[order[min(high, len(order) - 1)]])


def scale_from_poses(
    pairs: Sequence[tuple[PointMap, Keyframe]], max_spread: float, *, metric: bool = True, seed: int = 0
) -> _Found:
    """The similarity from the geometry's world to the frame of the given poses.

    Raises:
        ScaleRefusedError: for fewer than two poses, positions that coincide or do not agree with the geometry.
    """
    posed = [(k.frame.world_from_cam, v.world_from_cam) for v, k in pairs if k.frame.world_from_cam is not None]
    given, found = [p[0] for p in posed], [p[1] for p in posed]
    if len(posed) < 2:
        raise ScaleRefusedError(f"{len(posed)} keyframe has a pose, a scale from poses needs at least 2")
    extent = _extent(given)
    if extent <= (_MIN_EXTENT_M if metric else 0.0):
        raise ScaleRefusedError(
            f"the given positions of {len(posed)} keyframes spread over {extent:.2g} m only, "
            f"expected more than {_MIN_EXTENT_M} m to tell the scale"
        )
    new_from_old, agree, warnings = _pose_similarity(given, found, 2 * max_spread * extent, seed)
    residual = [a.distance_to(new_from_old.apply_pose(b)) for a, b in zip(given, found, strict=True)]
    spread = _MAD_TO_SIGMA * float(np.median(residual)) / extent
    if int(agree.sum()) < max(min(3, len(posed)), (len(posed) + 1) // 2) or spread > max_spread:
        raise ScaleRefusedError(
            f"the given positions disagree with the images: {int(agree.sum())} of {len(posed)} cameras fit, with a "
            f"relative spread of {spread:.2f}, expected at most {max_spread:g}"
        )
    estimate = ScaleEstimate(
        factor=new_from_old.scale, spread=spread, inliers=float(agree.mean()), source="poses", count=len(posed)
    )
    return _Found(new_from_old=new_from_old, estimate=estimate, metric=metric, warnings=warnings)


def scale_from_depth(pairs: Sequence[tuple[PointMap, Keyframe]], max_spread: float) -> _Found:
    """The ratio of sensor depth to the geometry's depth, over all valid pixels that have both.

    Raises:
        ScaleRefusedError: for too few such pixels, or a spread above ``max_spread``.
    """
    maps = ((v, torch.from_numpy(k.frame.depth_m)) for v, k in pairs if k.frame.depth_m is not None)
    resized = ((v, resize_nearest(depth, v.camera.width, v.camera.height)) for v, depth in maps)
    return _from_ratios(resized, "depth", "sensor depth", max_spread)


def scale_from_network(
    pairs: Sequence[tuple[PointMap, Keyframe]],
    config: PointmapConfig,
    device: torch.device | str,
    job: Job,
    models: ModelCache,
) -> _Found:
    """The ratio of a metric depth network's estimate to the geometry's depth, over some views.

    Raises:
        ScaleRefusedError: as ``scale_from_depth``, for twice the spread.
        WeightsError: when no network is named, or it cannot be read.
        InvalidInputError: when it does not estimate metric depth.
        BackendUnavailableError: when transformers is not installed.
    """
    from reconx_ros.pointmap.network.metric_depth import resident_network

    network = resident_network(config.metric_network, models, device, limit_bytes(config.max_memory_gb) or 0)
    chosen = np.unique(np.linspace(0, len(pairs) - 1, min(len(pairs), _NETWORK_VIEWS)).round().astype(int))
    predicted = []
    for done, index in enumerate(chosen):
        job.step(done / len(chosen), "estimating metric depth")
        view = pairs[index][0]
        predicted.append((view, network.depth_m(view.rgb, view.camera)))
    return _from_ratios(
        predicted, "network", f"network {config.metric_network}", _NETWORK_LENIENCE * config.max_scale_spread
    )


def _from_ratios(maps: Iterable[tuple[PointMap, torch.Tensor]], source: str, name: str, max_spread: float) -> _Found:
    logs, weights = [np.zeros(0)], [np.zeros(0)]
    for view, depth_m in maps:
        usable = view.valid & (view.confidence > 0) & torch.isfinite(depth_m) & (depth_m > 0)
        logs.append(torch.log(depth_m[usable].double() / view.depth[usable].double()).numpy())
        weights.append(view.confidence[usable].double().numpy())
    ratios, trust = _thinned(np.concatenate(logs)), _thinned(np.concatenate(weights))
    if len(ratios) < _MIN_PIXELS:
        raise ScaleRefusedError(
            f"{len(ratios)} pixels have both {name} and a depth of their own, "
            f"expected at least {_MIN_PIXELS} to tell the scale"
        )
    log_factor, spread = robust_log_ratio(ratios, trust)
    if spread > max_spread:
        raise ScaleRefusedError(
            f"{name} disagrees with the images: its ratio to their depth has a relative spread of {spread:.2f} over "
            f"{len(ratios)} pixels, expected at most {max_spread:g}"
        )
    inliers = float((np.abs(ratios - log_factor) <= max_spread).mean())
    factor = float(np.exp(log_factor))
    estimate = ScaleEstimate(factor=factor, spread=spread, inliers=inliers, source=source, count=len(ratios))
    enlarged = Sim3(scale=factor, rotation=np.eye(3), translation=np.zeros(3))
    return _Found(new_from_old=enlarged, estimate=estimate, metric=True)


def _thinned(values: np.ndarray) -> np.ndarray:
    """Every n-th value, so that about ``_MAX_PIXELS`` are left."""
    return values[:: max(1, len(values) // _MAX_PIXELS)]


def _applied(views: AlignedViews, found: _Found, refusals: Sequence[str]) -> AlignedViews:
    return replace(
        views,
        views=tuple(transformed(v, found.new_from_old) for v in views.views),
        metric_scale=found.metric,
        scale_source=found.estimate.source if found.metric else None,
        scale=found.estimate,
        warnings=(*views.warnings, *refusals, *found.warnings),
        pose_corrections=tuple(replace(c, moved=c.moved * found.new_from_old.scale) for c in views.pose_corrections),
    )


def transformed(view: PointMap, new_from_old: Sim3) -> PointMap:
    """A pointmap in another world: depth scales, the camera moves along; every point projects as before."""
    pose = new_from_old.apply_pose(view.world_from_cam)
    return replace(view, depth=view.depth * new_from_old.scale, world_from_cam=pose)


def _pairs(views: AlignedViews, keyframes: Sequence[Keyframe]) -> list[tuple[PointMap, Keyframe]]:
    by_id = {k.id: k for k in keyframes}
    return [(v, by_id[v.keyframe_id]) for v in views.views if v.keyframe_id in by_id]


def _available(pairs: Sequence[tuple[PointMap, Keyframe]], config: PointmapConfig) -> tuple[str, ...]:
    has_poses = sum(k.frame.world_from_cam is not None for _, k in pairs) >= 2
    has_depth = any(k.frame.depth_m is not None for _, k in pairs)
    flags = {"poses": has_poses, "depth": has_depth, "network": bool(config.metric_network)}
    return tuple(name for name, there in flags.items() if there)


def _extent(poses: Sequence[SE3]) -> float:
    """Median distance of the centres from their median."""
    centres = np.stack([p.translation for p in poses])
    return float(np.median(np.linalg.norm(centres - np.median(centres, axis=0), axis=1)))


def _pose_similarity(
    given: Sequence[SE3], found: Sequence[SE3], threshold: float, seed: int
) -> tuple[Sim3, np.ndarray, tuple[str, ...]]:
    """(given_from_found, cameras that agree, warnings); centres alone where given orientations are off."""
    try:
        similarity, agree = robust_align_poses(given, found, threshold=threshold, seed=seed)
    except InvalidInputError as err:
        raise ScaleRefusedError(f"the given poses disagree with the images: {err}") from err
    turn = _median_turn_deg(given, found, similarity)
    if turn <= _MAX_TURN_DEG:
        return similarity, agree, ()
    try:
        similarity, agree = robust_align_poses(given, found, threshold=threshold, orientations=False, seed=seed)
    except InvalidInputError as err:
        raise ScaleRefusedError(
            f"the given poses disagree with the images: their orientations differ by {turn:.0f} deg, expected at most "
            f"{_MAX_TURN_DEG:g}, and positions on one line do not tell the rotation"
        ) from err
    turn = _median_turn_deg(given, found, similarity)
    warning = (
        f"the given orientations differ by {turn:.0f} deg from those of the images and were not used: check that the "
        "poses are of the camera's optical frame"
    )
    return similarity, agree, (warning,) if turn > _MAX_TURN_DEG else ()


def _median_turn_deg(given: Sequence[SE3], found: Sequence[SE3], given_from_found: Sim3) -> float:
    turned = [given_from_found.apply_pose(f) for f in found]
    return float(np.median([np.degrees(g.angle_to(t)) for g, t in zip(given, turned, strict=True)]))

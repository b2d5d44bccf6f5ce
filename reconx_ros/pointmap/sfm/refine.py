"""Correct noisy poses (odometry, TF) by what the images say, without leaving the frame they are given in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import torch

from reconx_ros.core import SE3, Job, Keyframe, PoseCorrection
from reconx_ros.geometry.epipolar import symmetric_epipolar_px
from reconx_ros.geometry.umeyama import rigid_fit
from reconx_ros.pointmap.config import PointmapConfig
from reconx_ros.pointmap.matching.base import choose_matchers, find_features, find_matches
from reconx_ros.pointmap.matching.features import Features, Matches
from reconx_ros.pointmap.sfm.bundle import adjust
from reconx_ros.pointmap.sfm.problem import BundleProblem, PosePrior, residuals_px
from reconx_ros.pointmap.sfm.tracks import build_tracks
from reconx_ros.pointmap.sfm.triangulation import triangulate_many, widest_angles_deg
from reconx_ros.pointmap.sfm.two_view import estimate, fundamental_from_pose, inlier_px
from reconx_ros.pointmap.stereo.views import known_pose

_FEATURES = 2000
_MAX_RATIO = 0.8
_MAX_TURN_DEG = 60.0  # between two views that are matched
_SCALES_PX = (8.0, 3.0, 1.0)  # of the robust loss, one adjustment each
_WEIGHTS = (0.05, 0.5)  # of observations of points seen by two views, and by more: only these show a wrong match
_MIN_TRACKS = 25
_MIN_TESTED = 10
_MIN_ANGLE_DEG = 0.5
_TRUSTED_SIGMAS = 5.0  # a larger median correction is no noise of the prior
_MIN_GAIN = 0.9  # error of held-out matches after over before, above which the given poses stay
_MIN_GAIN_PX = 0.1


@dataclass(frozen=True, kw_only=True, eq=False)
class RefinedPoses:
    """Poses after looking at the images.

    Attributes:
        world_from_cams: V poses, in the order of the keyframes.
        corrections: per keyframe; empty where the given poses stay.
        warnings: why they stay, where that is a matter of concern.
        before_px, after_px: median distance of held-out matches from their epipolar lines with the given and with the
            adjusted poses; None where there were too few to tell.
        matcher: name of the one whose matches corrected them; "" where the given poses stay.
    """

    world_from_cams: tuple[SE3, ...]
    corrections: tuple[PoseCorrection, ...] = ()
    warnings: tuple[str, ...] = ()
    before_px: float | None = None
    after_px: float | None = None
    matcher: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Evidence:
    """Matches of posed views, within the gate that the priors' uncertainty leaves open."""

    matcher: str
    features: list[Features]
    used: dict[tuple[int, int], Matches]
    tested: dict[tuple[int, int], Matches]


def refine_poses(
    keyframes: Sequence[Keyframe], config: PointmapConfig, job: Job, *, device: torch.device
) -> RefinedPoses:
    """Poses that agree with the images, near the given ones; the frame does not drift.

    Feature tracks, gated by the given poses, and a robust bundle adjustment with the given poses as priors (Triggs et
    al. 1999). Errors of features in one view are alike (blur, rolling shutter, calibration), so they weigh less than
    their number, most of all where two views alone see a point. The result is moved rigidly so that it fits the given
    poses best: the best fit of one to the other is the identity. Matches held out of the adjustment decide whether it
    is taken.

    Args:
        keyframes: with poses.
        config: ``prior_position_sigma``, ``prior_rotation_sigma_deg``, ``matcher``; of several the cheapest.
        job: cancellation.
        device: where the matcher computes.

    Raises:
        InvalidInputError: for a keyframe without a pose.
        ConfigError, BackendUnavailableError: for a matcher that is not there.
        CancelledError: when the job was cancelled.
    """
    priors = [known_pose(k) for k in keyframes]
    evidence = _gather(keyframes, priors, config, job, device)
    problem = _problem(evidence, priors, config)
    if problem is None:
        return _kept(
            priors, "too few matches between the keyframes to correct their poses, which are taken as they are"
        )
    unit = _median_depth(problem)
    trust = config.prior_position_sigma / math.radians(config.prior_rotation_sigma_deg)
    poses = _aligned_to_priors(priors, [p.inverse() for p in _adjusted(problem).cam_from_worlds], unit * max(1, trust))
    before, after = (_held_out_px(evidence, p) for p in (priors, poses))
    if before is None or after is None:
        return _kept(priors, "too few matches to test corrected poses, so the given ones are taken as they are")
    decided = _decided(keyframes, priors, poses, config, unit, before, after)
    return replace(decided, matcher=evidence.matcher if decided.corrections else "")


def with_poses(keyframes: Sequence[Keyframe], refined: RefinedPoses) -> list[Keyframe]:
    """The keyframes with refined poses."""
    return [
        replace(k, frame=replace(k.frame, world_from_cam=p))
        for k, p in zip(keyframes, refined.world_from_cams, strict=True)
    ]


def _decided(
    keyframes: Sequence[Keyframe], priors: list[SE3], poses: list[SE3], config: PointmapConfig, unit: float,
    before: float, after: float,
) -> RefinedPoses:  # fmt: skip
    """The adjusted poses if they explain held-out matches better and lie where the priors can be believed."""
    corrections = tuple(
        PoseCorrection(keyframe_id=k.id, moved=a.distance_to(b), turned_deg=math.degrees(a.angle_to(b)))
        for k, a, b in zip(keyframes, priors, poses, strict=True)
    )
    moved = float(np.median([c.moved for c in corrections])) / unit
    turned = float(np.median([c.turned_deg for c in corrections]))
    far = moved > _TRUSTED_SIGMAS * config.prior_position_sigma
    if far or turned > _TRUSTED_SIGMAS * config.prior_rotation_sigma_deg:
        warning = (
            f"the images disagree with the given poses by {100 * moved:.1f} % of the scene depth and {turned:.1f} deg "
            "(median), more than their priors allow, so the given poses are taken as they are"
        )
        return replace(_kept(priors, warning), before_px=before, after_px=after)
    if after > _MIN_GAIN * before or before - after < _MIN_GAIN_PX:
        return replace(_kept(priors), before_px=before, after_px=after)
    return RefinedPoses(world_from_cams=tuple(poses), corrections=corrections, before_px=before, after_px=after)


def _kept(priors: Sequence[SE3], *warnings: str) -> RefinedPoses:
    return RefinedPoses(world_from_cams=tuple(priors), warnings=warnings)


def _gather(
    keyframes: Sequence[Keyframe], priors: list[SE3], config: PointmapConfig, job: Job, device: torch.device
) -> _Evidence:
    matcher = choose_matchers(config.matcher)[0]
    features = []
    job.step(0.0, "finding features")
    for found_here in find_features(matcher, keyframes, device=device, limit=_FEATURES):
        features.append(found_here)
        job.step(0.0, "finding features")
    alike = [
        (a, b)
        for a, b in combinations(range(len(features)), 2)
        if math.degrees(priors[a].angle_to(priors[b])) <= _MAX_TURN_DEG
    ]
    candidates = find_matches(matcher, [(features[a], features[b]) for a, b in alike], device=device)
    used, tested = {}, {}
    for (a, b), raw in zip(alike, candidates, strict=True):
        job.step(0.0, "refining poses")
        raw = raw.select(raw.ratio < _MAX_RATIO)
        gate = _gate_px(features[a], features[b], config)
        raw = raw.select(_distances(features[a], features[b], priors[a], priors[b], raw) < gate)
        chance = min(0.5, inlier_px(features[a], features[b]) / gate)
        found = estimate(features[a], features[b], raw, seed=config.actual_seed, chance=chance)
        if found is not None:
            used[a, b], tested[a, b] = found.matches, raw.select(raw.held_out())
    return _Evidence(matcher=matcher.name, features=features, used=used, tested=tested)


def _gate_px(a: Features, b: Features, config: PointmapConfig) -> float:
    """How far a true match may lie from the epipolar line of the given poses: three sigmas of both."""
    sigma_rad = math.hypot(math.radians(config.prior_rotation_sigma_deg), config.prior_position_sigma)
    return 3 * math.sqrt(2) * sigma_rad * max(a.camera.fx, b.camera.fx) + 2


def _distances(a: Features, b: Features, pose_a: SE3, pose_b: SE3, matches: Matches) -> np.ndarray:
    """Distances [M] in pixels from epipolar lines; 0 where the two views share one centre."""
    fundamental = fundamental_from_pose(a, b, pose_b.inverse() @ pose_a)
    return symmetric_epipolar_px(fundamental, a.uv[matches.index[:, 0]], b.uv[matches.index[:, 1]])


def _held_out_px(evidence: _Evidence, poses: Sequence[SE3]) -> float | None:
    """Median epipolar distance of the held-out matches; None with too few of them."""
    found = [
        _distances(evidence.features[a], evidence.features[b], poses[a], poses[b], m)
        for (a, b), m in evidence.tested.items()
    ]
    distances = np.concatenate([np.zeros(0), *found])
    return float(np.median(distances)) if len(distances) >= _MIN_TESTED else None


def _problem(evidence: _Evidence, priors: list[SE3], config: PointmapConfig) -> BundleProblem | None:
    """All tracks that can be triangulated with the given poses; None with too few."""
    features = evidence.features
    tracks = build_tracks([len(f) for f in features], {k: m.index for k, m in evidence.used.items()})
    if tracks.count < _MIN_TRACKS:
        return None
    pairs = list(zip(tracks.image, tracks.feature, strict=True))
    problem = BundleProblem(
        cameras=tuple(f.camera for f in features),
        cam_from_worlds=tuple(p.inverse() for p in priors),
        points=np.zeros((tracks.count, 3)),
        camera_index=tracks.image,
        point_index=tracks.track,
        uv=np.array([features[i].uv[f] for i, f in pairs]),
        weights=np.ones(len(pairs)),
    )
    problem = _triangulated(problem, max_error_px=np.inf)
    if len(problem.points) < _MIN_TRACKS:
        return None
    sigma = config.prior_position_sigma * _median_depth(problem)
    turn = math.radians(config.prior_rotation_sigma_deg)
    beliefs = tuple(
        PosePrior(camera=k, world_from_cam=p, rotation_sigma_rad=turn, position_sigma=sigma)
        for k, p in enumerate(priors)
    )
    return replace(problem, pose_priors=beliefs)


def _adjusted(problem: BundleProblem) -> BundleProblem:
    """Adjustments with an ever stricter loss; between them observations that do not fit are dropped."""
    for scale_px in _SCALES_PX:
        problem = adjust(problem, scale_px=scale_px, iterations=15, tolerance=1e-4).problem
        strict = _triangulated(problem, max_error_px=6 * scale_px)
        if len(strict.points) < _MIN_TRACKS:
            return problem
        problem = strict
    return adjust(problem, scale_px=_SCALES_PX[-1], iterations=15, tolerance=1e-5).problem


def _triangulated(problem: BundleProblem, max_error_px: float) -> BundleProblem:
    """Points anew from the present poses; without observations that do not fit and points seen by one view."""
    poses = list(problem.cam_from_worlds)
    intrinsics = np.array([[c.fx, c.fy, c.cx, c.cy] for c in problem.cameras])[problem.camera_index]
    rays = (problem.uv - intrinsics[:, 2:]) / intrinsics[:, :2]
    fresh = triangulate_many(poses, problem.camera_index, problem.point_index, rays, len(problem.points))
    points = problem.points if np.isfinite(max_error_px) else fresh
    error, depth = residuals_px(replace(problem, points=points))
    with np.errstate(invalid="ignore"):
        fits = np.isfinite(error).all(axis=1) & (depth > 0) & (np.linalg.norm(error, axis=1) < max_error_px)
        if not np.isfinite(max_error_px):  # all of a point's views must see it in front
            fits &= np.bincount(problem.point_index, ~fits, len(points))[problem.point_index] == 0
    angle = widest_angles_deg(poses, problem.camera_index[fits], problem.point_index[fits], points)
    seen = np.bincount(problem.point_index[fits], minlength=len(points))
    fits &= ((seen >= 2) & (angle > _MIN_ANGLE_DEG))[problem.point_index]
    used, index = np.unique(problem.point_index[fits], return_inverse=True)
    weights = np.where(np.bincount(index)[index] > 2, _WEIGHTS[1], _WEIGHTS[0]) if len(index) else np.zeros(0)
    return replace(
        problem, points=points[used], point_index=index, camera_index=problem.camera_index[fits],
        uv=problem.uv[fits], weights=weights,
    )  # fmt: skip


def _median_depth(problem: BundleProblem) -> float:
    return float(np.median(residuals_px(problem)[1]))


def _aligned_to_priors(priors: Sequence[SE3], poses: Sequence[SE3], length: float) -> list[SE3]:
    """The poses moved rigidly, all together, to where they fit the priors best.

    Fitted are the camera centres and the tips of the cameras' axes, so that two cameras suffice. Axes are at least one
    scene depth long, and longer where orientations are surer than positions.
    """
    move = rigid_fit(_frame_points(priors, length), _frame_points(poses, length))
    return [move @ p for p in poses]


def _frame_points(poses: Sequence[SE3], length: float) -> np.ndarray:
    tips = np.concatenate([np.zeros((1, 3)), length * np.eye(3)])
    return np.concatenate([p.apply(tips) for p in poses])

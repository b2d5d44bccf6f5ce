"""The plainest map: 3DGS from sparse points (Kerbl et al., SIGGRAPH 2023), the first row of the paper's ablation.

Points are SIFT features matched between the inputs and triangulated with the cameras of stage 1. They become balls that
reach to their neighbours, and are fitted to the input pictures alone with L1 and SSIM, every pixel counting alike.
Between rounds of the fit, Gaussians whose position the pictures pull at are cloned or split and transparent ones are
dropped, as in section 5.2 of that paper. Nothing of stage 1's depth or confidence enters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import torch

from reconx_ros.core import (
    SE3,
    AlignedViews,
    GaussianScene,
    Job,
    Keyframe,
    Provenance,
    ReconstructionError,
    ViewSequence,
)
from reconx_ros.core.settings import updated
from reconx_ros.geometry.neighbours import nearest_distances
from reconx_ros.geometry.rotations import rotations_from_quaternions_wxyz
from reconx_ros.pipeline.config import ReconxConfig, with_stage_seeds
from reconx_ros.pointmap.sfm.features import Features, extract
from reconx_ros.pointmap.sfm.matching import match, symmetric_epipolar_px
from reconx_ros.pointmap.sfm.problem import BundleProblem, residuals_px
from reconx_ros.pointmap.sfm.tracks import build_tracks
from reconx_ros.pointmap.sfm.triangulation import triangulate_many, widest_angles_deg
from reconx_ros.pointmap.sfm.two_view import fundamental_from_pose
from reconx_ros.splatting.base import Rasterizer
from reconx_ros.splatting.config import SplattingConfig
from reconx_ros.splatting.fit import FitResult, fit
from reconx_ros.splatting.harmonics import sh_from_rgb
from reconx_ros.splatting.losses import weighted_l1
from reconx_ros.splatting.parameters import SceneParameters, scene_extent
from reconx_ros.splatting.targets import training_views

MIN_POINTS = 8
_MAX_RATIO = 0.8
_MAX_ERROR_PX = 2.0
_MIN_ANGLE_DEG = 0.5
_FIRST_OPACITY = 0.1
_NEIGHBOURS = 3
_ROUNDS = 5  # of densification, in the first half of the steps
_PULL = 2e-4  # mean gradient on the screen, in half pictures, above which a Gaussian is cloned or split
_SMALL = 0.01  # share of the scene's extent up to which it is cloned
_SPLIT_SHRINK = 1.6
_MIN_OPACITY = 0.005
_LR_POSITION = 1.6e-4


@dataclass(frozen=True, kw_only=True, eq=False)
class SparsePoints:
    """Triangulated points: world coordinates [P, 3] and colours [P, 3] in [0, 1]."""

    points: np.ndarray  # [P, 3]
    rgb: np.ndarray  # [P, 3]


def sparse_points(keyframes: Sequence[Keyframe], views: AlignedViews) -> SparsePoints:
    """Points that two or more inputs see, triangulated with the cameras of stage 1.

    Raises:
        ReconstructionError: when there are fewer than 8: too little texture or overlap.
    """
    poses = {v.keyframe_id: v.world_from_cam for v in views.views}
    used = [k for k in keyframes if k.id in poses]
    features = [extract(k) for k in used]
    cam_from_worlds = [poses[k.id].inverse() for k in used]
    matches: dict[tuple[int, int], np.ndarray] = {}
    for a, b in combinations(range(len(used)), 2):
        found = match(features[a], features[b], _MAX_RATIO)
        fundamental = fundamental_from_pose(features[a], features[b], cam_from_worlds[b] @ cam_from_worlds[a].inverse())
        uv_a, uv_b = features[a].uv[found.index[:, 0]], features[b].uv[found.index[:, 1]]
        matches[a, b] = found.index[symmetric_epipolar_px(fundamental, uv_a, uv_b) < _MAX_ERROR_PX]
    problem = _problem(features, cam_from_worlds, matches)
    keep = _sound(problem)
    if int(keep.sum()) < MIN_POINTS:
        raise ReconstructionError(
            f"{int(keep.sum())} sparse points could be triangulated from {len(used)} inputs, expected at least "
            f"{MIN_POINTS}: the pictures have too little texture or overlap"
        )
    return SparsePoints(points=problem.points[keep], rgb=_colours(problem, used)[keep])


def _problem(
    features: list[Features], cam_from_worlds: list[SE3], matches: dict[tuple[int, int], np.ndarray]
) -> BundleProblem:
    """All tracks with their points; points that cannot be triangulated are not finite."""
    tracks = build_tracks([len(f) for f in features], matches)
    uv = np.array([features[i].uv[f] for i, f in zip(tracks.image, tracks.feature, strict=True)]).reshape(-1, 2)
    rays = np.array([features[i].rays[f] for i, f in zip(tracks.image, tracks.feature, strict=True)]).reshape(-1, 2)
    return BundleProblem(
        cameras=tuple(f.camera for f in features),
        cam_from_worlds=tuple(cam_from_worlds),
        points=triangulate_many(cam_from_worlds, tracks.image, tracks.track, rays, tracks.count),
        camera_index=tracks.image,
        point_index=tracks.track,
        uv=uv,
        weights=np.ones(len(uv)),
    )


def _sound(problem: BundleProblem) -> np.ndarray:
    """Mask [P] of points in front of all their cameras, near their features, seen under some angle."""
    with np.errstate(invalid="ignore"):
        error, depth = residuals_px(problem)
        bad = ~((np.linalg.norm(error, axis=1) < _MAX_ERROR_PX) & (depth > 0))
        angles = widest_angles_deg(
            list(problem.cam_from_worlds), problem.camera_index, problem.point_index, problem.points
        )
    wrong = np.bincount(problem.point_index, bad, len(problem.points)) > 0
    sound: np.ndarray = ~wrong & np.isfinite(problem.points).all(axis=1) & (angles > _MIN_ANGLE_DEG)
    return sound


def _colours(problem: BundleProblem, keyframes: Sequence[Keyframe]) -> np.ndarray:
    """Colour [P, 3] of each point, the mean over its features."""
    found = np.zeros((len(problem.uv), 3))
    for i, keyframe in enumerate(keyframes):
        own = problem.camera_index == i
        column, row = np.rint(problem.uv[own]).astype(int).T
        height, width = keyframe.frame.rgb_u8.shape[:2]
        found[own] = keyframe.frame.rgb_u8[row.clip(0, height - 1), column.clip(0, width - 1)] / 255.0
    total = np.stack([np.bincount(problem.point_index, c, len(problem.points)) for c in found.T], axis=-1)
    count = np.bincount(problem.point_index, minlength=len(problem.points))
    out: np.ndarray = total / np.maximum(count, 1)[:, None]
    return out


def gaussians_from_points(sparse: SparsePoints, sh_degree: int) -> GaussianScene:
    """Balls whose radius is the mean distance to their three nearest neighbours."""
    near = nearest_distances(sparse.points, sparse.points, _NEIGHBOURS + 1)[:, 1:].mean(axis=1)
    count = len(sparse.points)
    sh = torch.zeros(count, (sh_degree + 1) ** 2, 3)
    sh[:, 0] = sh_from_rgb(torch.from_numpy(sparse.rgb).float())
    return GaussianScene(
        means=torch.from_numpy(sparse.points).float(),
        quats_wxyz=torch.tensor([1.0, 0.0, 0.0, 0.0]).repeat(count, 1),
        log_scales=torch.from_numpy(np.maximum(near, 1e-7)).float().log()[:, None].repeat(1, 3),
        logit_opacities=torch.full((count,), math.log(_FIRST_OPACITY / (1 - _FIRST_OPACITY))),
        sh=sh,
        provenance=torch.full((count,), int(Provenance.OBSERVED), dtype=torch.uint8),
        confidence=torch.ones(count),
        keyframe_ids=torch.zeros(count, dtype=torch.int64),
    )


def fit_sparse(
    sparse: SparsePoints,
    sequence: ViewSequence,
    config: ReconxConfig,
    *,
    rasterizer: Rasterizer,
    device: torch.device,
    with_in_between_views: bool = False,
    job: Job | None = None,
) -> FitResult:
    """Plain 3DGS with densification, as many steps as the method itself takes.

    Args:
        sparse: where the Gaussians start.
        sequence: stage 2's frames, of which only the inputs count unless ``with_in_between_views``.
        config: steps, budget, size of the pictures, seed.
        rasterizer, device: who renders, and where.
        with_in_between_views: also fit the in-between views (the paper's second row).
        job: progress and cancellation.

    Raises:
        InvalidInputError, ReconstructionError, FitCancelledError: as ``fit``.
    """
    views = sequence.views if with_in_between_views else tuple(v for v in sequence.views if v.is_input)
    chosen = replace(sequence, views=views)
    steps = config.splatting.steps
    plain = {
        "use_confidence": False,
        "weight_lpips": 0.0,
        "weight_depth": 0.0,
        "lr_position": _LR_POSITION,
        "steps": steps // (2 * _ROUNDS),
    }
    settings = updated(config.splatting, plain)
    scene = gaussians_from_points(sparse, config.splatting.sh_degree)
    job, seed = job or Job(stage="sparse 3DGS"), with_stage_seeds(config).splatting.seed
    for k in range(_ROUNDS):
        found = fit(scene, chosen, settings, rasterizer=rasterizer, device=device, job=job, seed=seed + k)
        scene = _densified(found.scene, chosen, settings, rasterizer, device, seed + k)
    rest = updated(settings, {"steps": steps - _ROUNDS * settings.steps})
    return fit(scene, chosen, rest, rasterizer=rasterizer, device=device, job=job, seed=seed + _ROUNDS)


def _densified(
    scene: GaussianScene,
    sequence: ViewSequence,
    settings: SplattingConfig,
    rasterizer: Rasterizer,
    device: torch.device,
    seed: int,
) -> GaussianScene:
    """Transparent Gaussians dropped; those that are pulled at cloned, or split where they are large."""
    pull, extent = _pull(scene, sequence, settings, rasterizer, device)
    keep = scene.logit_opacities.sigmoid() > _MIN_OPACITY
    if not bool(keep.any()):
        return scene
    scene, pull = scene.select(keep), pull[keep]
    room = settings.max_gaussians - len(scene)
    wanted = torch.nonzero(pull > _PULL).squeeze(-1)
    wanted = wanted[torch.argsort(pull[wanted], descending=True)][: max(room, 0)]
    large = scene.log_scales.exp().amax(dim=-1)[wanted] > _SMALL * extent
    rest = torch.ones(len(scene), dtype=torch.bool)
    rest[wanted[large]] = False
    halves = [_scattered(scene.select(wanted[large]), 2 * seed + k) for k in range(2)]
    return GaussianScene.concatenate([scene.select(rest), scene.select(wanted[~large]), *halves])


def _scattered(scene: GaussianScene, seed: int) -> GaussianScene:
    """Smaller Gaussians drawn from the given ones, one from each."""
    generator = torch.Generator().manual_seed(seed)
    offsets = scene.log_scales.exp() * torch.randn(len(scene), 3, generator=generator)
    turned = (rotations_from_quaternions_wxyz(scene.quats_wxyz) @ offsets[..., None])[..., 0]
    return replace(scene, means=scene.means + turned, log_scales=scene.log_scales - math.log(_SPLIT_SHRINK))


def _pull(
    scene: GaussianScene,
    sequence: ViewSequence,
    settings: SplattingConfig,
    rasterizer: Rasterizer,
    device: torch.device,
) -> tuple[torch.Tensor, float]:
    """How much each Gaussian [N] is pulled over the screen, mean over the views that see it, and the scene's extent."""
    views = training_views(sequence, settings, device)
    extent = scene_extent(scene, views)
    total, seen = torch.zeros(len(scene)), torch.zeros(len(scene))
    for view in views:
        parameters = SceneParameters.of(scene, extent, device)
        picture = parameters.render(rasterizer, view, view.cam_from_world, antialiased=settings.antialiased)
        weighted_l1(picture.rgb[0], view.target.rgb, view.target.weight).backward()
        pose = view.cam_from_world[0]
        depth = (scene.means.to(device) @ pose[2, :3] + pose[2, 3]).clamp_min(0)
        assert parameters.offsets.grad is not None
        gradient = parameters.offsets.grad / parameters.reach @ pose[:3, :3].T  # in the camera's axes
        pull = gradient[:, :2].norm(dim=-1) * depth / view.camera.fx * (max(view.camera.size) / 2)
        total += pull.cpu()
        seen += (pull > 0).cpu()
    return total / seen.clamp_min(1), extent

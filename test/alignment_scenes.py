"""Pairwise pointmaps of a ray-cast room with known truth, for tests of global alignment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from reconx_ros.core import SE3, PinholeCamera
from reconx_ros.geometry.umeyama import umeyama
from reconx_ros.pointmap.alignment import Alignment
from reconx_ros.pointmap.alignment.pair_graphs import pair_graph
from reconx_ros.pointmap.pairwise import PairPredictions

HALF_ROOM = np.array([4.0, 2.5, 3.5])  # metres
SPHERES = ((np.array([0.5, 0.8, 0.4]), 0.9), (np.array([-1.2, -0.3, 1.0]), 0.7), (np.array([1.3, -0.6, -0.3]), 0.5))


@dataclass(frozen=True, kw_only=True, eq=False)
class Truth:
    """Cameras and z-depths [H, W] of all images."""

    cameras: tuple[PinholeCamera, ...]
    world_from_cams: tuple[SE3, ...]
    depths: tuple[np.ndarray, ...]

    def world(self, n: int) -> np.ndarray:
        """Points [H, W, 3] of image n."""
        return self.world_from_cams[n].apply(self.depths[n][..., None] * rays(self.cameras[n]))


@dataclass(frozen=True, kw_only=True)
class Errors:
    """Largest pose and focal errors and the mean relative depth error, after the best similarity of all points."""

    rotation_deg: float
    position: float
    focal: float
    depth: float


def rays(camera: PinholeCamera) -> np.ndarray:
    v, u = np.mgrid[: camera.height, : camera.width]
    return np.stack([(u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy, np.ones(u.shape)], axis=-1)


def cast(camera: PinholeCamera, pose: SE3) -> np.ndarray:
    """z-depth [H, W] of a box-shaped room with three spheres."""
    directions, centre = rays(camera) @ pose.rotation.T, pose.translation
    with np.errstate(divide="ignore", invalid="ignore"):
        depth = np.nanmin(
            np.where(directions != 0, (np.sign(directions) * HALF_ROOM - centre) / directions, np.inf), -1
        )
    for middle, radius in SPHERES:
        offset = centre - middle
        b, a = directions @ offset, (directions**2).sum(-1)
        inside = b * b - a * (offset @ offset - radius**2)
        near = (-b - np.sqrt(np.maximum(inside, 0))) / a
        depth = np.where((inside > 0) & (near > 0), np.minimum(depth, near), depth)
    return depth


def looking_at(centre: np.ndarray, target: np.ndarray) -> SE3:
    forward = (target - centre) / np.linalg.norm(target - centre)
    right = np.cross([0.0, 1.0, 0.0], forward)
    right /= np.linalg.norm(right)
    return SE3(rotation=np.stack([right, np.cross(forward, right), forward], axis=1), translation=centre)


def make_truth(images: int, size: tuple[int, int], focals: Sequence[float] | None = None, arc: float = 1.2) -> Truth:
    """Cameras on an arc about the room's middle; size is (height, width), focal lengths default to 1.1 widths."""
    height, width = size
    cameras = tuple(
        PinholeCamera(width=width, height=height, fx=f, fy=f, cx=width / 2, cy=height / 2)
        for f in (focals or [1.1 * width] * images)
    )
    angles = np.linspace(-arc / 2, arc / 2, images)
    poses = tuple(
        looking_at(np.array([2.4 * np.sin(t), 0.4 * np.sin(3 * t), -2.6 * np.cos(t)]), np.array([0.1, 0.1, 0.5]))
        for t in angles
    )
    return Truth(
        cameras=cameras,
        world_from_cams=poses,
        depths=tuple(cast(c, p) for c, p in zip(cameras, poses, strict=True)),
    )


def predict(
    truth: Truth,
    pairs: Sequence[tuple[int, int]] | None = None,
    *,
    noise: float = 0.0,
    outliers: float = 0.0,
    seed: int = 0,
) -> PairPredictions:
    """What a two-view network would say: each pair in a unit of its own, errors mostly along the ray.

    Args:
        truth: the scene.
        pairs: directed pairs; the symmetrised complete graph when None.
        noise: relative standard deviation along the ray of a pixel of full confidence; a tenth of it across.
        outliers: share of pixels that are far off and have low confidence.
        seed: of all random numbers.
    """
    rng = np.random.default_rng(seed)
    pairs = pair_graph(len(truth.cameras)) if pairs is None else pairs
    maps: list[list[torch.Tensor]] = [[], [], [], []]
    for i, j in pairs:
        unit = rng.uniform(0.5, 2.0)
        for side, n in enumerate((i, j)):
            points = truth.world_from_cams[i].inverse().apply(truth.world(n)) * unit
            confidence = rng.uniform(2.0, 5.5, points.shape[:2])
            spread = noise * 5.5 / confidence
            far = rng.random(points.shape[:2]) < outliers
            confidence = np.where(far, rng.uniform(1.0, 1.3, far.shape), confidence)
            along = np.where(far, rng.normal(0, 0.3, far.shape).clip(-0.8, 0.8), spread * rng.normal(size=far.shape))
            across = (
                0.1 * spread[..., None] * rng.normal(size=points.shape) * np.linalg.norm(points, axis=-1)[..., None]
            )
            points = points * (1 + along[..., None]) + across
            maps[2 * side].append(torch.from_numpy(points.astype(np.float32)))
            maps[2 * side + 1].append(torch.from_numpy(confidence.astype(np.float32)))
    return PairPredictions(pairs=pairs, pts3d_1=maps[0], conf_1=maps[1], pts3d_2=maps[2], conf_2=maps[3])


def alignment_errors(alignment: Alignment, truth: Truth) -> Errors:
    """Errors after the similarity that fits all points best, as the recorded reports measure them."""
    ours, theirs = [], []
    for n, (camera, pose, depth) in enumerate(
        zip(alignment.cameras, alignment.world_from_cams, alignment.depths, strict=True)
    ):
        ours.append(pose.apply(depth.double().numpy()[..., None] * rays(camera)).reshape(-1, 3))
        theirs.append(truth.world(n).reshape(-1, 3))
    truth_from_ours = umeyama(np.concatenate(theirs), np.concatenate(ours))
    moved = [truth_from_ours.apply_pose(p) for p in alignment.world_from_cams]
    relative = [
        np.abs(truth_from_ours.scale * d.double().numpy() - t) / t
        for d, t in zip(alignment.depths, truth.depths, strict=True)
    ]
    return Errors(
        rotation_deg=max(np.degrees(a.angle_to(b)) for a, b in zip(moved, truth.world_from_cams, strict=True)),
        position=max(a.distance_to(b) for a, b in zip(moved, truth.world_from_cams, strict=True)),
        focal=max(abs(a.fx / b.fx - 1) for a, b in zip(alignment.cameras, truth.cameras, strict=True)),
        depth=float(np.mean([r.mean() for r in relative])),
    )

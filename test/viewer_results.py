"""A small result for tests of the viewer: a wall, its left half seen (red) and its right half made up (blue)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from reconx_ros.core import SE3, GaussianScene, PointCloud, Provenance
from reconx_ros.io.gaussians import write_scene_ply
from reconx_ros.io.images import write_image
from reconx_ros.io.ply import write_point_cloud_ply
from reconx_ros.splatting.harmonics import sh_from_rgb

FORWARD = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])  # looks along world x, z up
DISTANCE = 3.0  # from the cameras to the wall
ROWS, COLUMNS = 41, 61
STEP = 0.05
RED, BLUE = (220, 30, 30), (30, 30, 220)
PIXELS = {"width": 64, "height": 48, "fx": 60.0, "fy": 60.0, "cx": 31.5, "cy": 23.5}


def wall_cloud() -> PointCloud:
    """The wall x = 3, y from 1.5 (left) to -1.5, z from 0 to 2; confidence rises from 0 at the floor to 1."""
    z, y = np.meshgrid(STEP * np.arange(ROWS), 1.5 - STEP * np.arange(COLUMNS), indexing="ij")
    points = np.stack([np.full_like(y, DISTANCE), y, z], axis=-1).reshape(-1, 3)
    seen = points[:, 1] >= 0
    return PointCloud(
        points=points.astype(np.float32),
        rgb_u8=np.where(seen[:, None], RED, BLUE).astype(np.uint8),
        confidence=(points[:, 2] / 2).clip(0, 1).astype(np.float32),
        provenance=np.where(seen, int(Provenance.OBSERVED), int(Provenance.GENERATED)).astype(np.uint8),
        keyframe_ids=np.zeros(len(points), np.uint32),
    )


def wall_scene() -> GaussianScene:
    """The wall as nearly opaque Gaussians that just overlap."""
    cloud = wall_cloud()
    count = len(cloud)
    return GaussianScene(
        means=torch.from_numpy(cloud.points),
        quats_wxyz=torch.tensor([1.0, 0, 0, 0]).repeat(count, 1),
        log_scales=torch.full((count, 3), float(np.log(0.6 * STEP))),
        logit_opacities=torch.full((count,), 4.0),
        sh=sh_from_rgb(torch.from_numpy(cloud.rgb_u8) / 255)[:, None],
        provenance=torch.from_numpy(cloud.provenance),
        confidence=torch.from_numpy(cloud.confidence),
        keyframe_ids=torch.zeros(count, dtype=torch.int64),
    )


def camera_pose(y: float) -> SE3:
    """Looking at the wall from height 1."""
    return SE3(rotation=FORWARD, translation=np.array([0.0, y, 1.0]))


def write_result(folder: Path, *, scene: bool = True, cameras: bool = True) -> Path:
    """Three keyframes, four novel views."""
    (folder / "images").mkdir(parents=True)
    (folder / "novel_views").mkdir()
    write_point_cloud_ply(folder / "points.ply", wall_cloud())
    if scene:
        write_scene_ply(folder / "scene.ply", wall_scene())
    if cameras:
        document = {
            "metric_scale": True,
            "images": [_entry(folder, f"images/{k:04d}.png", 0.4 * k - 0.4, 1_000.5 + k) for k in range(3)],
            "novel_views": [_entry(folder, f"novel_views/{k:04d}.png", 0.2 * k - 0.3, None) for k in range(4)],
        }
        (folder / "cameras.json").write_text(json.dumps(document))
    (folder / "report.json").write_text(json.dumps({"config": {"splatting": {"antialiased": False}}}))
    return folder


def _entry(folder: Path, file: str, y: float, stamp_s: float | None) -> dict[str, object]:
    picture = np.full((PIXELS["height"], PIXELS["width"], 3), BLUE, np.uint8)
    picture[:, : int(PIXELS["width"]) // 2] = RED
    write_image(folder / file, picture)
    entry = {"file": file, **PIXELS, "c2w": camera_pose(y).matrix.tolist()}
    return entry if stamp_s is None else {**entry, "timestamp": stamp_s}

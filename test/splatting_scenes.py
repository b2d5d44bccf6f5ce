"""Small Gaussian scenes, cameras and pointmaps for the tests of stage 3."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from reconx_ros.core import (
    SE3,
    AlignedViews,
    GaussianScene,
    PinholeCamera,
    PointMap,
    Provenance,
    SequenceView,
    ViewSequence,
)


def random_gaussians(
    count: int, *, bases: int = 4, seed: int = 0, dtype: torch.dtype = torch.float32
) -> dict[str, Any]:
    """Gaussian arguments of ``Rasterizer.render``: a cloud in front of a camera at the origin."""
    g = torch.Generator().manual_seed(seed)
    means = torch.rand(count, 3, generator=g) * torch.tensor([2.4, 1.8, 2.0]) + torch.tensor([-1.2, -0.9, 2.0])
    arguments = {
        "means": means,
        "quats_wxyz": torch.randn(count, 4, generator=g),
        "scales": 0.03 + 0.12 * torch.rand(count, 3, generator=g),
        "opacities": 0.1 + 0.8 * torch.rand(count, generator=g),
        "sh": 0.4 * torch.randn(count, bases, 3, generator=g),
    }
    return {name: value.to(dtype) for name, value in arguments.items()}


def cameras(count: int = 1, width: int = 32, height: int = 24, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """Camera arguments of ``Rasterizer.render``: cameras beside each other that look ahead, slightly turned."""
    poses = [
        SE3.exp(np.array([0.02 * i, -0.05 * i, 0.03 * i]), np.array([-0.1 * i, 0.05 * i, 0.0])) for i in range(count)
    ]
    camera = pinhole(width, height)
    return {
        "cam_from_world": torch.tensor(np.array([p.matrix for p in poses]).reshape(count, 4, 4), dtype=dtype),
        "intrinsics": torch.tensor(camera.matrix, dtype=dtype).expand(count, 3, 3).clone(),
        "width": width,
        "height": height,
    }


def pinhole(width: int, height: int) -> PinholeCamera:
    return PinholeCamera(
        width=width, height=height, fx=0.9 * width, fy=0.9 * width, cx=(width - 1) / 2, cy=(height - 1) / 2
    )


def wall_views(
    count: int = 3, width: int = 40, height: int = 32, *, slant: float = 0.4, confidence: float = 0.9
) -> AlignedViews:
    """Pointmaps of one textured, slanted plane ``z = 3 + slant * x``, from cameras side by side."""
    views = []
    for i in range(count):
        pose = SE3.exp(np.array([0.0, 0.02 * i, 0.0]), np.array([0.12 * i, 0.02 * i, 0.0]))
        depth, rgb = _wall(pinhole(width, height), pose, slant)
        views.append(
            PointMap(
                rgb=rgb,
                depth=depth,
                confidence=torch.full((height, width), confidence),
                valid=torch.ones(height, width, dtype=torch.bool),
                provenance=torch.ones(height, width, dtype=torch.uint8),
                camera=pinhole(width, height),
                world_from_cam=pose,
                keyframe_id=10 + i,
            )
        )
    return AlignedViews(views=tuple(views), metric_scale=True, scale_source="poses", backend="test")


def _wall(camera: PinholeCamera, pose: SE3, slant: float) -> tuple[torch.Tensor, torch.Tensor]:
    v, u = np.meshgrid(np.arange(camera.height), np.arange(camera.width), indexing="ij")
    rays = np.stack([(u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy, np.ones_like(u, float)], axis=-1)
    directions = rays @ pose.rotation.T
    normal = np.array([-slant, 0.0, 1.0])
    depth = (3.0 - pose.translation @ normal) / (directions @ normal)
    points = pose.translation + depth[..., None] * directions
    waves = [np.sin(6 * points[..., 0]), np.cos(5 * points[..., 1]), np.sin(4 * (points[..., 0] + points[..., 1]))]
    rgb = 0.5 + 0.3 * np.stack(waves, axis=-1)
    return torch.from_numpy(depth.astype(np.float32)), torch.from_numpy(rgb.astype(np.float32))


def sequence_of(views: AlignedViews, *, inputs: int | None = None) -> ViewSequence:
    """The pointmaps' pictures as supervising views; the first ``inputs`` of them are camera images (default all)."""
    inputs = len(views.views) if inputs is None else inputs
    made = []
    for i, v in enumerate(views.views):
        kind = Provenance.OBSERVED if i < inputs else Provenance.GENERATED
        made.append(
            SequenceView(
                rgb=v.rgb,
                confidence=v.confidence,
                provenance=torch.full(v.depth.shape, int(kind), dtype=torch.uint8),
                camera=v.camera,
                world_from_cam=v.world_from_cam,
                is_input=i < inputs,
                depth=v.depth,
                depth_confidence=v.confidence if i < inputs else None,
            )
        )
    return ViewSequence(views=tuple(made), backend="test", generates=inputs < len(made))


def scene_from(arguments: dict[str, Any], *, provenance: int = 1, confidence: float = 0.8) -> GaussianScene:
    """A GaussianScene of the Gaussian arguments of ``Rasterizer.render``."""
    count = len(arguments["means"])
    return GaussianScene(
        means=arguments["means"],
        quats_wxyz=arguments["quats_wxyz"],
        log_scales=arguments["scales"].log(),
        logit_opacities=torch.logit(arguments["opacities"]),
        sh=arguments["sh"],
        provenance=torch.full((count,), provenance, dtype=torch.uint8),
        confidence=torch.full((count,), confidence),
        keyframe_ids=torch.arange(count),
    )

"""Small scenes and networks for the tests of depth completion."""

from __future__ import annotations

import numpy as np
import torch

from reconx_ros.core import SE3, Frame, MatchingEvidence, PinholeCamera, PointMap, Provenance
from reconx_ros.pointmap.completion.network import CompletionConfig, CompletionNetwork

CAMERA = PinholeCamera(width=64, height=48, fx=50.0, fy=50.0, cx=31.5, cy=23.5)
TINY = CompletionConfig(size=64, widths=(16, 16, 16, 16), layers=1, heads=2)
WALL_M = 2.0


def at(x: float) -> SE3:
    """A camera beside the first, looking the same way."""
    return SE3(rotation=np.eye(3), translation=np.array([x, 0.0, 0.0]))


def picture(x: float = 0.0) -> np.ndarray:
    """[48, 64, 3] uint8 of a textured wall two metres away, seen from ``at(x)``; smooth over a pixel."""
    v, u = np.mgrid[0:48, 0:64].astype(np.float64)
    world = (u - CAMERA.cx) / CAMERA.fx * WALL_M + x
    height = (v - CAMERA.cy) / CAMERA.fy * WALL_M
    rng = np.random.default_rng(5)
    waves = [(rng.uniform(-22, 22, 2), rng.uniform(0, 6.3, 3)) for _ in range(24)]  # no period of its own
    sums = sum(np.sin(a * world + b * height)[..., None] * np.cos(phase) for (a, b), phase in waves)
    return np.clip(128 + 30 * np.asarray(sums), 0, 255).astype(np.uint8)


def wall_frame(x: float = 0.0) -> Frame:
    """A frame of the wall with exact depth."""
    depth = np.full((48, 64), WALL_M, np.float32)
    return Frame(rgb_u8=picture(x), camera=CAMERA, stamp_ns=0, world_from_cam=at(x), depth_m=depth)


def wall_view(
    x: float = 0.0, known: torch.Tensor | None = None, *, unit: float = 1.0, evidence: bool = True
) -> PointMap:
    """A pointmap of the wall that is measured where ``known`` [48, 64] says; elsewhere it holds a poor guess."""
    valid = torch.zeros(48, 64, dtype=torch.bool) if known is None else known
    zero = torch.zeros(48, 64)
    return PointMap(
        rgb=torch.from_numpy(picture(x).astype(np.float32) / 255),
        depth=torch.where(valid, WALL_M * unit, 1.3 * WALL_M * unit),
        confidence=valid.float() * 0.9,
        valid=valid,
        provenance=Provenance.OBSERVED.where(valid),
        camera=CAMERA,
        world_from_cam=SE3(rotation=np.eye(3), translation=np.array([x * unit, 0.0, 0.0])),
        keyframe_id=0,
        evidence=MatchingEvidence(cost=zero + 0.1, margin=zero + 0.02, sees=zero + 1, agrees=valid.float(), denies=zero)
        if evidence
        else None,
    )


def left_half() -> torch.Tensor:
    """[48, 64] bool."""
    return (torch.arange(64) < 32).expand(48, 64)


def tiny_network(seed: int = 0) -> CompletionNetwork:
    """A network with random weights, ready for inference."""
    torch.manual_seed(seed)
    return CompletionNetwork(TINY).eval().requires_grad_(False)

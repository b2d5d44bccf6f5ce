"""What the completion network looks at: a view on the network's grid, and its channels in the network's units."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
import torch
import torch.nn.functional as nnf

from reconx_ros.core import SE3, MatchingEvidence, PinholeCamera, PointMap
from reconx_ros.geometry.completion import complete_depth
from reconx_ros.geometry.projection import camera_rays
from reconx_ros.geometry.resize import resize_area, resize_nearest

MULTIPLE = 16  # of the grid's sides
_MIN_CONFIDENCE = 0.01  # below it, a depth is a guess and not a measurement
_COUNT_HALF = 2.0  # views at which a count's channel is 1/2
_SMOOTH_ITERATIONS = 10
_LOG_REACH = 3.0  # logarithms of depth over the scene's leave +- this at no pixel that helps
_AXES = {"x": (1.0, 0.0, 0.0), "y": (0.0, 1.0, 0.0), "z": (0.0, 0.0, 1.0)}
EVIDENCE_CHANNELS = ("measured", "measured_log", "confidence", "guessed", "guess_log", "cost", "margin", "sees",
                     "agrees", "denies")  # fmt: skip
GEOMETRY_CHANNELS = ("ray_x", "ray_y", "elevation", "gravity_known")
SMOOTH_CHANNELS = ("smooth_known", "smooth_log")
OTHERS_CHANNELS = ("others_known", "others_log", "others_certainty")
CHANNELS = (*EVIDENCE_CHANNELS, *GEOMETRY_CHANNELS, *SMOOTH_CHANNELS, *OTHERS_CHANNELS)


@dataclass(frozen=True, kw_only=True, eq=False)
class CompletionView:
    """One view on the network's grid, in the world's unit.

    Attributes:
        rgb: [H, W, 3] float32 in [0, 1].
        depth: [H, W] float32 z-depth: measured where ``confidence`` > 0, a guess elsewhere; 0 where there is neither.
        confidence: [H, W] float32 in [0, 1]; 0 where nothing was measured.
        evidence: what matching said; None where the depth is a sensor's.
        camera: intrinsics on this grid.
        world_from_cam: pose.
        up_world: [3] unit vector against gravity; None where unknown.
    """

    rgb: torch.Tensor  # [H, W, 3]
    depth: torch.Tensor  # [H, W]
    confidence: torch.Tensor  # [H, W]
    evidence: MatchingEvidence | None
    camera: PinholeCamera
    world_from_cam: SE3
    up_world: np.ndarray | None = None

    @property
    def measured(self) -> torch.Tensor:
        """[H, W] bool: pixels with a measured depth."""
        return self.confidence > 0


def up_direction(axis: str) -> np.ndarray | None:
    """[3] unit vector against gravity of a setting like "z" or "-y"; None for "none", and an "auto" still open."""
    if axis in ("none", "auto"):
        return None
    vector = np.array(_AXES[axis[-1]])
    return -vector if axis.startswith("-") else vector


def network_grid(camera: PinholeCamera, size: int) -> PinholeCamera:
    """The camera on the network's grid: longer side ``size`` pixels, sides multiples of 16 (never below that)."""
    scale = size / max(camera.size)
    width, height = (max(MULTIPLE, round(side * scale / MULTIPLE) * MULTIPLE) for side in camera.size)
    return camera.scaled_to(width, height)


def completion_view(view: PointMap, size: int, up_world: np.ndarray | None = None) -> CompletionView:
    """A pointmap on the network's grid.

    Colours are averaged over each pixel's footprint; depths are never mixed.

    Args:
        view: stage 1's pointmap of a view.
        size: longer side of the grid in pixels.
        up_world: [3] unit vector against gravity in the world frame.
    """
    camera = network_grid(view.camera, size)
    grid = camera.size
    evidence = view.evidence
    if evidence is not None:
        evidence = MatchingEvidence(
            **{f.name: resize_nearest(getattr(evidence, f.name), *grid) for f in fields(evidence)}
        )
    known = view.depth if evidence is not None else torch.where(view.valid, view.depth, 0.0)
    depth = resize_nearest(known, *grid).float()
    confidence = resize_nearest(torch.where(view.valid, view.confidence, 0.0), *grid).float()
    usable = torch.isfinite(depth) & (depth > 0)
    return CompletionView(
        rgb=resize_area(view.rgb, *grid),
        depth=torch.where(usable, depth, 0.0),
        confidence=torch.where(usable & (confidence >= _MIN_CONFIDENCE), confidence, 0.0),
        evidence=evidence,
        camera=camera,
        world_from_cam=view.world_from_cam,
        up_world=up_world,
    )


def scene_scale(views: list[CompletionView]) -> float | None:
    """Median of all measured depths, the network's unit; None where nothing is measured."""
    known = torch.cat([view.depth[view.measured] for view in views])
    return float(known.median()) if known.numel() else None


def channels(view: CompletionView, scale: float) -> torch.Tensor:
    """The network's channels beside the picture, without those of other views (zeros): [C, H, W] float32.

    Args:
        view: on the network's grid.
        scale: the network's unit of depth in the world's.
    """
    depth, measured = view.depth, view.measured
    guessed = (depth > 0) & ~measured
    log = torch.log(torch.where(depth > 0, depth, scale) / scale).clamp(-_LOG_REACH, _LOG_REACH)
    zero = torch.zeros_like(depth)
    evidence = view.evidence
    told = (
        (zero,) * 5
        if evidence is None
        else (
            1 - 2 * evidence.cost.clamp(0, 0.5),
            evidence.margin.clamp(0, 1).sqrt(),
            *(n / (n + _COUNT_HALF) for n in (evidence.sees, evidence.agrees, evidence.denies)),
        )
    )
    parts = [measured.float(), log * measured, view.confidence, guessed.float(), log * (depth > 0), *told]
    return torch.stack([*parts, *_directions(view), *_smooth(view, scale), zero, zero, zero])


def _smooth(view: CompletionView, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Whether anything is measured, and smooth surfaces through it (``geometry.completion``), on half of the grid."""
    zero = torch.zeros_like(view.depth)
    if not bool(view.measured.any()):
        return zero, zero
    width, height = view.camera.width // 2, view.camera.height // 2
    inverse = torch.where(view.measured, view.confidence / view.depth.clamp_min(1e-9), 0.0)
    weight, weighted = resize_area(torch.stack([view.confidence, inverse], dim=-1), width, height).unbind(-1)
    depth = torch.where(weight > 0, weight / weighted.clamp_min(1e-12), 0.0)
    found = complete_depth(depth, weight, resize_area(view.rgb, width, height), iterations=_SMOOTH_ITERATIONS)
    log = torch.log(found / scale).clamp(-_LOG_REACH, _LOG_REACH)[None, None]
    return zero + 1, nnf.interpolate(log, view.depth.shape, mode="bilinear", align_corners=False)[0, 0]


def _directions(view: CompletionView) -> tuple[torch.Tensor, ...]:
    rays = camera_rays(view.camera, device=view.depth.device)  # [H, W, 3]
    zero = torch.zeros_like(view.depth)
    if view.up_world is None:
        return rays[..., 0], rays[..., 1], zero, zero
    up = torch.as_tensor(view.world_from_cam.rotation.T @ view.up_world, dtype=torch.float32, device=rays.device)
    return rays[..., 0], rays[..., 1], (rays @ up) / torch.linalg.norm(rays, dim=-1), zero + 1


def without_measurements(view: CompletionView, mask: torch.Tensor) -> CompletionView:
    """The view with measured depths turned into guesses where a mask [H, W] says so."""
    return replace(view, confidence=torch.where(mask, 0.0, view.confidence))

"""Do several views tell of the same surface? Cross-view check of depth maps by reprojection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from reconx_ros.core import SE3, AlignedViews, PinholeCamera, PointMap, Provenance
from reconx_ros.geometry.epipolar import triangulation_angles_deg
from reconx_ros.geometry.projection import camera_rays, pixel_grid, project, transform_points
from reconx_ros.geometry.warping import inside, sample

MAX_REPROJECTION_PX = 1.5
WITNESSES = 8  # most views asked whether they tell of the same surface
_MIN_ANGLE_DEG = 1.0  # between the rays of two views that measure a place; below it they look from one place


@dataclass(frozen=True, kw_only=True, eq=False)
class DepthMap:
    """A depth map under test.

    Attributes:
        depth: [H, W] z-depth, > 0 where ``usable``.
        usable: [H, W] bool.
        camera, world_from_cam: its camera.
    """

    depth: torch.Tensor  # [H, W]
    usable: torch.Tensor  # [H, W]
    camera: PinholeCamera
    world_from_cam: SE3


@dataclass(frozen=True, kw_only=True, eq=False)
class ViewAgreement:
    """What the other views say about each pixel of one view.

    Attributes:
        sees: [H, W] number of other views whose image holds the point and that have a depth there.
        agrees: [H, W] number of them that tell the same surface.
        denies: [H, W] number of them that look through the point at something clearly farther.
        depth: [H, W] mean of the view's own depth and those that agree.
        angle_deg: [H, W] largest triangulation angle with a view that agrees; 0 where none does.
    """

    sees: torch.Tensor  # [H, W]
    agrees: torch.Tensor  # [H, W]
    denies: torch.Tensor  # [H, W]
    depth: torch.Tensor  # [H, W]
    angle_deg: torch.Tensor  # [H, W]


@dataclass(frozen=True, kw_only=True, eq=False)
class RoundTrip:
    """One view's pixels sent to another view's surface and back.

    Attributes:
        seen: [H, W] the other view holds the point and has a depth there.
        relative: [H, W] (other's depth - expected depth) / expected depth, in the other view.
        error_px: [H, W] distance between a pixel and where it comes back.
        depth: [H, W] depth that comes back.
        angle_deg: [H, W] angle at the point between the two views' rays.
    """

    seen: torch.Tensor  # [H, W]
    relative: torch.Tensor  # [H, W]
    error_px: torch.Tensor  # [H, W]
    depth: torch.Tensor  # [H, W]
    angle_deg: torch.Tensor  # [H, W]


def round_trip(view: DepthMap, other: DepthMap) -> RoundTrip:
    """Project a view's points into another, read the depth there, and bring that point back.

    The check of Schoenberger et al., "Pixelwise view selection for unstructured multi-view stereo" (ECCV 2016,
    eq. 13), with both the reprojection and the depth difference.
    """
    device = view.depth.device
    rays = camera_rays(view.camera, device=device)
    other_from_view = other.world_from_cam.inverse() @ view.world_from_cam
    points = view.depth[..., None] * rays  # [H, W, 3]
    uv, expected = project(transform_points(other_from_view, points), other.camera)
    grid = uv.permute(2, 0, 1)  # [2, H, W]
    seen = inside(grid, expected, other.camera.width, other.camera.height) & view.usable
    # A missing depth poisons its neighbours in the bilinear mean, so that no value is made from half a surface.
    holed = torch.where(other.usable, other.depth, torch.nan)
    found = sample(holed[None], grid)[0]
    seen &= torch.isfinite(found)
    found = torch.where(seen, found, expected.abs().clamp_min(1e-9))
    ray = torch.stack(
        [(grid[0] - other.camera.cx) / other.camera.fx, (grid[1] - other.camera.cy) / other.camera.fy], dim=-1
    )
    hit = torch.cat([ray, torch.ones_like(ray[..., :1])], dim=-1) * found[..., None]
    uv_back, depth_back = project(transform_points(other_from_view.inverse(), hit), view.camera)
    error = torch.linalg.norm(uv_back - pixel_grid(view.camera.width, view.camera.height, device=device), dim=-1)
    return RoundTrip(
        seen=seen,
        relative=(found - expected) / expected.abs().clamp_min(1e-9),
        error_px=error,
        depth=depth_back,
        angle_deg=triangulation_angles_deg(points, np.zeros(3), other_from_view.inverse().translation),
    )


def agreement(view: DepthMap, others: Sequence[DepthMap], tolerance: float) -> ViewAgreement:
    """Ask other views about every pixel of one view.

    Args:
        view: depth map under test.
        others: views to ask; their order does not matter.
        tolerance: relative depth difference up to which two views agree.
    """
    zero = torch.zeros_like(view.depth)
    sees, agrees, denies, angle, total = zero.clone(), zero.clone(), zero.clone(), zero.clone(), view.depth.clone()
    for other in others:
        trip = round_trip(view, other)
        same = trip.seen & (trip.relative.abs() <= tolerance) & (trip.error_px <= MAX_REPROJECTION_PX)
        sees += trip.seen
        agrees += same
        denies += trip.seen & (trip.relative > 2 * tolerance)
        total += torch.where(same, trip.depth, zero)
        angle = torch.maximum(angle, torch.where(same, trip.angle_deg, zero))
    return ViewAgreement(sees=sees, agrees=agrees, denies=denies, depth=total / (1 + agrees), angle_deg=angle)


def confirmed(views: AlignedViews, tolerance: float) -> AlignedViews:
    """The same with INFERRED pixels OBSERVED where another view, from another place, tells of the same surface.

    A network guesses each view's depth; where the guesses of two views meet in one place, it is measured. Each view
    asks the eight nearest ones; more of them must agree than look through the pixel.

    Args:
        views: stage 1's result.
        tolerance: relative depth difference up to which two views agree.
    """
    return replace(views, views=tuple(_confirmed(v, _witnesses(v, views), tolerance) for v in views.views))


def _witnesses(view: PointMap, views: AlignedViews) -> list[DepthMap]:
    others = [v for v in views.views if v is not view]
    others.sort(key=lambda v: v.world_from_cam.distance_to(view.world_from_cam))
    return [tested(v) for v in others[:WITNESSES]]


def _confirmed(view: PointMap, witnesses: Sequence[DepthMap], tolerance: float) -> PointMap:
    told = agreement(tested(view), witnesses, tolerance)
    measured = (told.agrees >= 1) & (told.denies <= told.agrees) & (told.angle_deg >= _MIN_ANGLE_DEG)
    inferred = view.provenance == int(Provenance.INFERRED)
    return replace(
        view, provenance=torch.where(inferred & measured, int(Provenance.OBSERVED), view.provenance).to(torch.uint8)
    )


def tested(view: PointMap) -> DepthMap:
    """A pointmap as a depth map under test."""
    return DepthMap(depth=view.depth, usable=view.valid, camera=view.camera, world_from_cam=view.world_from_cam)

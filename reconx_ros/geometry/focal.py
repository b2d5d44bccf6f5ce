"""Focal length of a pointmap: the pinhole camera under which its points fall on their own pixels."""

from __future__ import annotations

import torch

from reconx_ros.core import InvalidInputError, check_shape
from reconx_ros.geometry.projection import pixel_grid

_WEISZFELD_ROUNDS = 10
_SMALLEST = 1e-8


def _centred_pixels(points: torch.Tensor, principal_point: tuple[float, float]) -> torch.Tensor:
    """Pixels [H, W, 2] relative to the principal point."""
    height, width = points.shape[:2]
    return pixel_grid(width, height, device=points.device).to(points.dtype) - points.new_tensor(principal_point)


def weiszfeld_focal(
    points_cam: torch.Tensor,
    principal_point: tuple[float, float] | None = None,
    *,
    weights: torch.Tensor | None = None,
    relative_range: tuple[float, float] = (0.0, float("inf")),
) -> float:
    """Focal length in pixels that minimises the summed reprojection distance (Weiszfeld's algorithm, 10 rounds).

    DUSt3R (Wang et al., CVPR 2024), sec. 3.3: the minimum of ``sum |p - f (x, y) / z|`` over f.

    Args:
        points_cam: [H, W, 3] points in the camera's own frame; points at z = 0 and NaN are left at direction 0.
        principal_point: (cx, cy) in pixels; (W / 2, H / 2) when None.
        weights: [H, W] >= 0; equal ones when None.
        relative_range: smallest and largest result, in units of the focal length of a 60 degree camera.

    Raises:
        InvalidInputError: for other shapes.
    """
    dims = check_shape("points_cam", points_cam, "H", "W", 3)
    height, width = dims["H"], dims["W"]
    pixels = _centred_pixels(points_cam, principal_point or (width / 2, height / 2)).reshape(-1, 2)
    directions = points_cam[..., :2] / points_cam[..., 2:]
    directions = torch.nan_to_num(directions, nan=0.0, posinf=0.0, neginf=0.0).reshape(-1, 2)
    share = torch.ones_like(pixels[:, 0]) if weights is None else weights.reshape(-1).to(pixels)
    along, length = (directions * pixels).sum(1), (directions**2).sum(1)
    focal = (share * along).sum() / (share * length).sum()
    for _ in range(_WEISZFELD_ROUNDS):
        distance = (pixels - focal * directions).norm(dim=1)
        inverse = share / distance.clamp_min(_SMALLEST)
        focal = (inverse * along).sum() / (inverse * length).sum()
    unit = max(height, width) / (2 * 3**-0.5)  # 60 degrees across the longer side
    return min(max(float(focal), relative_range[0] * unit), relative_range[1] * unit)


def median_focal(points_cam: torch.Tensor, principal_point: tuple[float, float] | None = None) -> float:
    """Median focal length in pixels of all pixels' votes ``u z / x`` and ``v z / y``; NaN votes do not count.

    Args:
        points_cam: [H, W, 3] points in the camera's own frame.
        principal_point: (cx, cy) in pixels; (W / 2, H / 2) when None.

    Raises:
        InvalidInputError: for other shapes, or when no pixel has a vote.
    """
    dims = check_shape("points_cam", points_cam, "H", "W", 3)
    pixels = _centred_pixels(points_cam, principal_point or (dims["W"] / 2, dims["H"] / 2))
    votes = (pixels * points_cam[..., 2:] / points_cam[..., :2]).flatten()
    median = float(votes.nanmedian())
    if median != median:
        raise InvalidInputError(f"none of {votes.numel()} focal votes of a pointmap is a number, expected some")
    return median

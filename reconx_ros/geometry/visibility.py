"""What a view sees of surfaces measured by other views: depth by a z-buffer.

A source's depth map is a surface of square cells between neighbouring pixels; a cell whose corners lie at different
depths spans a gap between two things and is cut out. Each cell is sampled finely enough for the target's pixels.
Samples fall into the z-buffer of the pixel that they hit, and those that agree with the nearest are averaged. Gaps of
one or two pixels between parts of one surface are closed, in the source and in the target; gaps between two surfaces
never are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from reconx_ros.core import SE3, InvalidInputError, PinholeCamera, PointMap, Provenance, check_shape
from reconx_ros.geometry.warping import RayProjection, ray_projection

_MAX_STEPS = 4
_SAMPLES_PER_PIXEL = 1.4
_NEAR = 1e-3  # depth in the target view over depth in the source view


@dataclass(frozen=True, kw_only=True, eq=False)
class Surface:
    """A source view made ready for rendering. Make it with ``make_surface``.

    Attributes:
        rgb: [H, W, 3] float32 in [0, 1].
        depth: [H, W] float32; 0 where nothing is known.
        confidence: [H, W] float32 in [0, 1]; 0 where nothing is known.
        provenance: [H, W] uint8, of the source's pixels; INFERRED where a small gap was closed, NONE where nothing is
            known.
        cells: [H-1, W-1] bool, cells between four pixels of one surface.
        at_edge: [H, W] bool, pixels beside a cut: their colour may mix two things.
        camera, world_from_cam: where it was taken.
    """

    rgb: torch.Tensor  # [H, W, 3]
    depth: torch.Tensor  # [H, W]
    confidence: torch.Tensor  # [H, W]
    provenance: torch.Tensor  # [H, W]
    cells: torch.Tensor  # [H-1, W-1]
    at_edge: torch.Tensor  # [H, W]
    camera: PinholeCamera
    world_from_cam: SE3


def make_surface(
    view: PointMap, *, min_confidence: float, max_step: float, device: torch.device | str = "cpu"
) -> Surface:
    """Prepare a pointmap for rendering.

    Args:
        view: source view.
        min_confidence: pixels below are not used.
        max_step: largest relative step of depth between neighbouring pixels of one surface, > 0.
        device: where to put it.

    Raises:
        InvalidInputError: for a step that is not positive.
    """
    if not max_step > 0:
        raise InvalidInputError(f"largest depth step of a surface is {max_step}, expected a positive number")
    usable = (view.valid & (view.confidence >= min_confidence)).to(device)
    confidence = torch.where(usable, view.confidence.to(device), 0.0)
    depth = close_small_gaps(torch.where(usable, view.depth.to(device), 0.0), max_step)
    cells = continuous_cells(depth, max_step)
    return Surface(
        rgb=view.rgb.to(device),
        depth=depth,
        confidence=torch.where((depth > 0) & ~usable, _neighbours_mean(confidence), confidence),
        provenance=torch.where(usable, view.provenance.to(device), Provenance.INFERRED.where(depth > 0)),
        cells=cells,
        at_edge=_beside_cut(cells) & (depth > 0),
        camera=view.camera,
        world_from_cam=view.world_from_cam,
    )


def continuous_cells(depth: torch.Tensor, max_step: float) -> torch.Tensor:
    """Mask [H-1, W-1] of cells whose four corners are known (> 0) and lie within a relative step of each other.

    Raises:
        InvalidInputError: for a depth that is not [H, W].
    """
    check_shape("depth", depth, "H", "W")
    corners = torch.stack([depth[:-1, :-1], depth[:-1, 1:], depth[1:, :-1], depth[1:, 1:]])
    near, far = corners.amin(dim=0), corners.amax(dim=0)
    return (near > 0) & (far <= near * (1 + max_step))


def splat_depth(surface: Surface, camera: PinholeCamera, world_from_cam: SE3, *, max_step: float) -> torch.Tensor:
    """Depth [H, W] of a surface as another view sees it; 0 where it does not.

    Args:
        surface: what to look at.
        camera, world_from_cam: the target view.
        max_step: samples of a pixel within this relative depth of the nearest one are averaged.
    """
    pixel, z = surface_samples(surface, camera, world_from_cam.inverse() @ surface.world_from_cam)
    nearest = torch.full((camera.height * camera.width,), math.inf, device=z.device)
    nearest.scatter_reduce_(0, pixel, z, "amin")
    same = (z <= nearest[pixel] * (1 + max_step)).float()
    total = torch.zeros_like(nearest).index_add_(0, pixel, z * same)
    count = torch.zeros_like(nearest).index_add_(0, pixel, same)
    depth = (total / count.clamp_min(1)).reshape(camera.height, camera.width)
    return close_small_gaps(depth, max_step)


def surface_samples(
    surface: Surface, camera: PinholeCamera, target_from_source: SE3
) -> tuple[torch.Tensor, torch.Tensor]:
    """Samples of a surface that fall on a target view: (pixel index [P], depth [P]).

    A cell whose projection is n pixels long gets samples on a grid of ceil(1.4 n) steps per side, at most 4, with the
    inverse depth interpolated bilinearly: exact on planes, since inverse depth is affine in the image of a plane.
    """
    rays = ray_projection(surface.camera, camera, target_from_source, device=surface.depth.device)
    inverse = torch.where(surface.depth > 0, 1 / surface.depth.clamp_min(1e-9), 0.0)
    corners = rays.at_infinity + inverse * rays.per_inverse_depth[:, None, None]  # [3, H, W] homogeneous pixels
    steps = _steps(corners, surface, camera)
    known = surface.depth > 0
    found = [_hits(corners[:, known], inverse[known], camera)]
    for k in range(2, _MAX_STEPS + 1):
        row, column = torch.nonzero(steps == k, as_tuple=True)
        found += [_inside_cells(rays, inverse, row, column, offset, camera) for offset in _offsets(k)]
    return torch.cat([pixel for pixel, _ in found]), torch.cat([z for _, z in found])


def close_small_gaps(depth: torch.Tensor, max_step: float) -> torch.Tensor:
    """Depth [H, W] with gaps (0) of up to two pixels closed between parts of one surface.

    A gap is closed where two known pixels on opposite sides, at most three apart, agree within the relative step.
    """
    for left, right in ((1, 1), (1, 2), (2, 1)):
        depth = _closed(depth, left, right, max_step)
    return depth


def _closed(depth: torch.Tensor, left: int, right: int, max_step: float) -> torch.Tensor:
    total, count = torch.zeros_like(depth), torch.zeros_like(depth)
    for axis in (0, 1):
        a, b = _shifted(depth, left, axis), _shifted(depth, -right, axis)
        near, far = torch.minimum(a, b), torch.maximum(a, b)
        agree = (near > 0) & (far <= near * (1 + max_step))
        mean = (right * a + left * b) / (left + right)
        total, count = total + torch.where(agree, mean, 0.0), count + agree
    return torch.where((depth == 0) & (count > 0), total / count.clamp_min(1), depth)


def _neighbours_mean(values: torch.Tensor) -> torch.Tensor:
    """Mean [H, W] of the positive values among the 5x5 neighbours; 0 where there are none."""
    layers = torch.stack([values, (values > 0).float()])[None]
    total, count = torch.nn.functional.avg_pool2d(layers, 5, stride=1, padding=2)[0]
    return total / count.clamp_min(1e-6)


def _shifted(values: torch.Tensor, steps: int, axis: int) -> torch.Tensor:
    """Values moved along an axis, zeros moved in."""
    moved = torch.zeros_like(values)
    size = values.shape[axis]
    if abs(steps) < size:
        kept = size - abs(steps)
        moved.narrow(axis, max(steps, 0), kept).copy_(values.narrow(axis, max(-steps, 0), kept))
    return moved


def _beside_cut(cells: torch.Tensor) -> torch.Tensor:
    """Mask [H, W] of pixels that touch a cut cell [H-1, W-1]; cells beyond the border do not count."""
    padded = torch.nn.functional.pad(~cells, (1, 1, 1, 1))
    return padded[:-1, :-1] | padded[:-1, 1:] | padded[1:, :-1] | padded[1:, 1:]


def _steps(corners: torch.Tensor, surface: Surface, camera: PinholeCamera) -> torch.Tensor:
    """Steps per side [H-1, W-1] in which each cell is sampled: 1 is its first corner only, 0 for unseen cells."""
    front = corners[2] > _NEAR
    uv = corners[:2] / corners[2].clamp_min(_NEAR)
    right = (uv[:, :-1, 1:] - uv[:, :-1, :-1]).norm(dim=0)
    down = (uv[:, 1:, :-1] - uv[:, :-1, :-1]).norm(dim=0)
    spacing = torch.maximum(right, down)
    low = -1 - spacing
    u, v = uv[0, :-1, :-1], uv[1, :-1, :-1]
    near = (u > low) & (v > low) & (u < camera.width + spacing) & (v < camera.height + spacing)
    steps = (_SAMPLES_PER_PIXEL * spacing).ceil().clamp(1, _MAX_STEPS).to(torch.uint8)
    whole = front[:-1, :-1] & front[:-1, 1:] & front[1:, :-1] & front[1:, 1:]
    return torch.where(surface.cells & whole & near, steps, torch.zeros_like(steps))


def _offsets(steps: int) -> list[tuple[float, float]]:
    """(down, right) fractions of a cell at which it is sampled, without its first corner."""
    return [(a / steps, b / steps) for a in range(steps) for b in range(steps) if a or b]


def _inside_cells(
    rays: RayProjection,
    inverse: torch.Tensor,
    row: torch.Tensor,
    column: torch.Tensor,
    offset: tuple[float, float],
    camera: PinholeCamera,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Samples at one fraction of the cells [N] that begin at the given rows and columns."""
    a, b = offset
    top = (1 - b) * inverse[row, column] + b * inverse[row, column + 1]
    bottom = (1 - b) * inverse[row + 1, column] + b * inverse[row + 1, column + 1]
    value = (1 - a) * top + a * bottom
    far = rays.at_infinity  # affine in the pixel, so that its own differences lead to the fraction
    start = (
        far[:, row, column] + a * (far[:, 1, 0] - far[:, 0, 0])[:, None] + b * (far[:, 0, 1] - far[:, 0, 0])[:, None]
    )
    return _hits(start + value * rays.per_inverse_depth[:, None], value, camera)


def _hits(homogeneous: torch.Tensor, inverse: torch.Tensor, camera: PinholeCamera) -> tuple[torch.Tensor, torch.Tensor]:
    """(pixel index, depth) of the samples, homogeneous [3, P] pixels of the target, that fall on its picture."""
    z = homogeneous[2] / inverse
    scale = 1 / homogeneous[2].clamp_min(1e-9)
    column, row = (homogeneous[0] * scale).round(), (homogeneous[1] * scale).round()
    on = (column >= 0) & (row >= 0) & (column < camera.width) & (row < camera.height) & (homogeneous[2] > _NEAR)
    return (row[on] * camera.width + column[on]).long(), z[on]

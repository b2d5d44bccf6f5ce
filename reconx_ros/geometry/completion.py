"""Guesses of depth where none was found: smooth surfaces through what is known, bent at the edges of the image."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from reconx_ros.core import InvalidInputError, check_shape
from reconx_ros.geometry.resize import resize_area

_MIN_SIDE = 12  # px of the coarsest level
_EDGE = 0.06  # difference of colour at which smoothness has dropped to 1/e
_MIN_SMOOTHNESS = 0.01  # over an edge
_ITERATIONS = 60  # of conjugate gradients per level
_TOLERANCE = 1e-5


@dataclass(frozen=True, kw_only=True, eq=False)
class _Problem:
    """Weighted least squares on one level: data, and first and second differences along rows and columns."""

    weight: torch.Tensor  # [H, W]
    value: torch.Tensor  # [H, W]
    right: torch.Tensor  # [H, W - 1] smoothness between horizontal neighbours
    down: torch.Tensor  # [H - 1, W]
    flatness: float
    bending: float


def complete_depth(
    depth: torch.Tensor,
    weight: torch.Tensor,
    rgb: torch.Tensor,
    *,
    flatness: float = 1e-3,
    bending: float = 1e-2,
    iterations: int = _ITERATIONS,
) -> torch.Tensor:
    """Depth everywhere, from depth in some places.

    Minimises over inverse depth x, in which planes are linear functions of the pixel,
    ``sum w (x - 1/d)^2 + flatness * sum s |first differences|^2 + bending * sum s |second differences|^2``, where the
    smoothness s drops at edges of the image. Coarse to fine, conjugate gradients on each level.

    Args:
        depth: [H, W] z-depth, any number where the weight is 0.
        weight: [H, W] >= 0, how sure each depth is; 0 where it is unknown.
        rgb: [H, W, 3] in [0, 1].
        flatness: pull towards surfaces of constant depth.
        bending: pull towards planes.
        iterations: of conjugate gradients per level; fewer are faster and reach less far.

    Returns:
        [H, W] depth within the range of the known depths; known depths stay nearly as they are.

    Raises:
        InvalidInputError: for wrong shapes, or when no pixel is known.
    """
    dims = check_shape("depth", depth, "H", "W")
    check_shape("weight", weight, "H", "W", dims=dims)
    check_shape("image", rgb, "H", "W", 3, dims=dims)
    known = (weight > 0) & torch.isfinite(depth) & (depth > 0)
    if not bool(known.any()):
        raise InvalidInputError("depth cannot be completed: no pixel is known, expected at least one")
    unit = depth[known].median()
    value = torch.where(known, unit / torch.where(known, depth, unit), 0.0)
    found = _coarse_to_fine(torch.where(known, weight, 0.0), value, rgb, (flatness, bending), iterations)
    low, high = value[known].min(), value[known].max()
    return unit / found.clamp(low, high)


def _coarse_to_fine(
    weight: torch.Tensor, value: torch.Tensor, rgb: torch.Tensor, pulls: tuple[float, float], iterations: int
) -> torch.Tensor:
    height, width = weight.shape
    problem = _problem(weight, value, rgb, *pulls)
    if min(height, width) < 2 * _MIN_SIDE:
        start = ((weight * value).sum() / weight.sum()).expand(height, width)
        return _solve(problem, start, 4 * _ITERATIONS)  # exact: the smallest level costs nothing
    half = (width + 1) // 2, (height + 1) // 2
    layers = torch.cat([weight[..., None], (weight * value)[..., None], rgb], dim=-1)
    small = resize_area(layers, *half)
    coarse_weight = small[..., 0]
    coarse_value = small[..., 1] / coarse_weight.clamp_min(1e-12)
    coarse = _coarse_to_fine(coarse_weight, coarse_value, small[..., 2:], pulls, iterations)
    start = torch.nn.functional.interpolate(coarse[None, None], (height, width), mode="bilinear")[0, 0]
    return _solve(problem, start, iterations)


def _problem(weight: torch.Tensor, value: torch.Tensor, rgb: torch.Tensor, flatness: float, bending: float) -> _Problem:
    def smoothness(difference: torch.Tensor) -> torch.Tensor:
        return torch.exp(-difference.abs().amax(dim=-1) / _EDGE).clamp_min(_MIN_SMOOTHNESS)

    return _Problem(
        weight=weight,
        value=value,
        right=smoothness(rgb[:, 1:] - rgb[:, :-1]),
        down=smoothness(rgb[1:] - rgb[:-1]),
        flatness=flatness,
        bending=bending,
    )


def _apply(problem: _Problem, x: torch.Tensor) -> torch.Tensor:
    """Half the gradient of the quadratic part of the energy at x [H, W]."""
    out = problem.weight * x
    _add_differences(out, x, problem.right, problem.flatness, problem.bending)
    _add_differences(out.T, x.T, problem.down.T, problem.flatness, problem.bending)
    return out


def _add_differences(out: torch.Tensor, x: torch.Tensor, smooth: torch.Tensor, flatness: float, bending: float) -> None:
    """Add the differences along rows; a second difference is as smooth as the weaker of its two steps."""
    step = x[:, 1:] - x[:, :-1]  # [H, W - 1]
    pull = flatness * smooth * step
    bend = bending * torch.minimum(smooth[:, 1:], smooth[:, :-1]) * (step[:, 1:] - step[:, :-1])  # [H, W - 2]
    pull[:, 1:] += bend
    pull[:, :-1] -= bend
    out[:, 1:] += pull
    out[:, :-1] -= pull


def _diagonal(problem: _Problem) -> torch.Tensor:
    out = problem.weight.clone()
    for target, smooth in ((out, problem.right), (out.T, problem.down.T)):
        first = problem.flatness * smooth
        target[:, 1:] += first
        target[:, :-1] += first
        second = problem.bending * torch.minimum(smooth[:, 1:], smooth[:, :-1])
        target[:, 2:] += second
        target[:, 1:-1] += 4 * second
        target[:, :-2] += second
    return out


def _solve(problem: _Problem, start: torch.Tensor, iterations: int) -> torch.Tensor:
    """Conjugate gradients with the diagonal as preconditioner."""
    x = start.clone()
    inverse = 1 / _diagonal(problem).clamp_min(1e-12)
    residual = problem.weight * problem.value - _apply(problem, x)
    step = inverse * residual
    direction, energy = step.clone(), (residual * step).sum()
    enough = energy * _TOLERANCE**2
    for _ in range(iterations):
        if not bool(energy > enough):
            break
        image = _apply(problem, direction)
        length = energy / (direction * image).sum().clamp_min(1e-30)
        x += length * direction
        residual -= length * image
        step = inverse * residual
        energy, last = (residual * step).sum(), energy
        direction = step + (energy / last) * direction
    return x

"""The dense system of cameras and pairs, and its damped solution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from reconx_ros.pointmap.alignment.normal_equations import SYMMETRIC_3, SYMMETRIC_4, ImageSums
from reconx_ros.pointmap.alignment.problem import AlignmentProblem
from reconx_ros.pointmap.alignment.state import PER_UNIT

_TINY = 1e-30


@dataclass(frozen=True, kw_only=True, eq=False)
class FocalTie:
    """What an image's own pointmaps say about its focal length: a quadratic term ``stiffness / 2 * (log f - value)^2``.

    Attributes:
        values: [N] log of pixels.
        stiffness: [N] in the unit of the loss; 0 for none.
    """

    values: np.ndarray  # [N]
    stiffness: np.ndarray  # [N]

    def cost(self, log_focals: np.ndarray) -> float:
        """The term's value, summed over images."""
        return 0.5 * float(self.stiffness @ (log_focals - self.values) ** 2)


@dataclass(frozen=True, kw_only=True, eq=False)
class LinearSystem:
    """Second derivative [U, U] and gradient [U] in the unknowns of images, then pairs, 7 each."""

    matrix: np.ndarray  # [U, U]
    gradient: np.ndarray  # [U]


def _motions() -> np.ndarray:
    """A [7, 3, 4] of a pair's unknowns: translation, rotation about the origin, log scale."""
    a = np.zeros((7, 3, 4))
    for k in range(3):
        a[k, k, 3] = 1
        a[3 + k, :, :3] = np.cross(np.eye(3)[k], np.eye(3)).T
    a[6, :, :3] = np.eye(3)
    return a


def assemble(
    problem: AlignmentProblem, sums: Sequence[ImageSums], log_focals: np.ndarray, tie: FocalTie
) -> LinearSystem:
    """Put the sums of all images in their places."""
    images, pairs = len(problem.images), len(problem.pairs)
    matrix = np.zeros((PER_UNIT * (images + pairs),) * 2)
    gradient = np.zeros(len(matrix))
    of_edge = _motions()
    flat_edge = of_edge.reshape(7, 12)
    for n, (image, part) in enumerate(zip(problem.images, sums, strict=True)):
        of_image = of_edge.copy()
        of_image[6] = part.focal_motion
        flat_image = of_image.reshape(7, 12)
        here = slice(7 * n, 7 * n + 7)
        places = [np.arange(here.start, here.stop)]
        for k, observation in enumerate(image.observations):
            start = PER_UNIT * (images + observation.edge)
            there = slice(start, start + 7)
            places.append(np.arange(start, start + 7))
            full = _unpacked(part.moments[k])
            cross = flat_image @ full @ flat_edge.T
            matrix[here, here] += flat_image @ full @ flat_image.T
            matrix[there, there] += flat_edge @ full @ flat_edge.T
            matrix[here, there] -= cross
            matrix[there, here] -= cross.T
            pull = part.gradient[k].ravel()
            gradient[here] += flat_image @ pull
            gradient[there] -= flat_edge @ pull
            gradient[start + 6] += part.stretch[k]
        index = np.concatenate(places)
        matrix[np.ix_(index, index)] -= part.schur
        gradient[index] -= part.schur_gradient
        matrix[here.start + 6, here.start + 6] += tie.stiffness[n]
        gradient[here.start + 6] += tie.stiffness[n] * (log_focals[n] - tie.values[n])
    return LinearSystem(matrix=matrix, gradient=gradient)


def _unpacked(moments: np.ndarray) -> np.ndarray:
    """[12, 12] second derivative in the entries of A [3, 4] from the 60 sums [10, 6]."""
    small = np.zeros((10, 3, 3))
    for column, (i, j) in enumerate(SYMMETRIC_3):
        small[:, i, j] = small[:, j, i] = moments[:, column]
    full = np.zeros((3, 4, 3, 4))
    for row, (i, j) in enumerate(SYMMETRIC_4):
        full[:, i, :, j] = full[:, j, :, i] = small[row]
    return full.reshape(12, 12)


def free_unknowns(problem: AlignmentProblem) -> np.ndarray:
    """Which unknowns [U] may move: not what is known, nor the first pose where none is known (gauge)."""
    free = np.ones((len(problem.images) + len(problem.pairs), PER_UNIT), bool)
    fixed = np.array(problem.fixed_pose)
    if not fixed.any():
        fixed[0] = True
    free[: len(fixed), :6] = ~fixed[:, None]
    free[: len(fixed), 6] = ~np.array(problem.fixed_focal)
    return free.ravel()


def newton_step(
    problem: AlignmentProblem, system: LinearSystem, free: np.ndarray, damping: float
) -> tuple[np.ndarray, float]:
    """The damped step [U] and the decrease of the loss it promises.

    Where the unit is a convention, the step keeps the mean log scale of pairs.
    """
    index = np.flatnonzero(free)
    matrix, gradient = system.matrix[np.ix_(index, index)], system.gradient[index]
    diagonal = np.maximum(np.diag(matrix), _TINY)
    damped = matrix + np.diag(damping * diagonal)
    pull = gradient
    if problem.scale_is_free:
        damped, pull = _without_growth(problem, index, damped, gradient)
    unit = 1 / np.sqrt(np.maximum(np.diag(damped), _TINY))
    step = -unit * _solve(damped * np.outer(unit, unit), pull * unit)
    full = np.zeros(len(free))
    full[index] = step
    return full, -float(gradient @ step + 0.5 * step @ matrix @ step)


def _without_growth(
    problem: AlignmentProblem, index: np.ndarray, matrix: np.ndarray, gradient: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Project the direction in which all pairs grow alike out of a system, and give it a stiffness of its own."""
    direction = np.zeros(PER_UNIT * (len(problem.images) + len(problem.pairs)))
    direction[PER_UNIT * len(problem.images) + 6 :: PER_UNIT] = len(problem.pairs) ** -0.5
    d = direction[index]
    pushed = matrix @ d
    stiffness = np.trace(matrix) / len(matrix) + d @ pushed
    projected = matrix - np.outer(d, pushed) - np.outer(pushed, d) + stiffness * np.outer(d, d)
    return projected, gradient - d * (d @ gradient)


def _solve(matrix: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Solve a symmetric system of unit diagonal that rounding may have made slightly indefinite."""
    system = torch.from_numpy(matrix)
    for extra in (0.0, 1e-12, 1e-9, 1e-6):
        factor, failed = torch.linalg.cholesky_ex(system + extra * torch.eye(len(system), dtype=system.dtype))
        if not int(failed):
            return torch.cholesky_solve(torch.from_numpy(right)[:, None], factor)[:, 0].numpy()
    return np.linalg.lstsq(matrix, right, rcond=1e-9)[0]

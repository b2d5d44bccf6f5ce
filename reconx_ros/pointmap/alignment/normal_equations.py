"""One pass over an image's observations: best depths, the loss, and what a Newton step needs to know.

The norm is smoothed, ``|r| -> sqrt(|r|^2 + e^2)``, so that the loss has second derivatives; e goes to zero over the
levels of the solver. Depth is eliminated: every pixel's depth is solved for along its ray, and the remaining system
is the Schur complement. All unknowns move points affinely (``dX = A (X, 1)``), so second derivatives are moments of
the points: per observation, the 60 sums of (10 products of the homogeneous point) x (6 entries of a symmetric 3x3
weight). They are taken at the image's own point X for both sides of a residual; the gradient is exact.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from reconx_ros.pointmap.alignment.problem import AlignmentProblem, ImageData
from reconx_ros.pointmap.alignment.state import State

SYMMETRIC_3 = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))
SYMMETRIC_4 = ((0, 0), (0, 1), (0, 2), (0, 3), (1, 1), (1, 2), (1, 3), (2, 2), (2, 3), (3, 3))
_CHUNK = 1 << 17  # pixels x observations looked at together; the arrays of a chunk then fit into a CPU's cache
_NEAREST = 0.1  # a pass brings a depth to no less than this share of what it was


@dataclass(frozen=True, kw_only=True)
class PassSettings:
    """How a pass is done.

    Attributes:
        smoothing: e, in the unit of the world; 0 for the plain norm.
        rounds: iterations of the search along each ray; 0 leaves depth as it is.
        accumulate: whether to build the system besides the loss.
        lowest_depth: z-depth below which no pixel goes.
        device: where torch computes.
    """

    smoothing: float
    rounds: int
    accumulate: bool
    lowest_depth: float
    device: torch.device


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageSums:
    """Sums over one image's K observations; everything on the CPU in float64, except depth.

    Attributes:
        smoothed: its part of the smoothed loss, known depth included.
        loss: its part of the loss of eq. 2.
        weight: sum of weights.
        depth: [P] z-depth after the search, float32.
        moments: [K, 10, 6] sums of (products of X) x (second derivative of the norm).
        gradient: [K, 3, 4] sums of (derivative of the norm) x (X, 1).
        stretch: [K] sums of residual . derivative: what X instead of the pair's point adds to its scale's gradient.
        schur: [7 + 7 K, 7 + 7 K], to subtract, for the image and its pairs.
        schur_gradient: [7 + 7 K], to subtract.
        focal_motion: [3, 4] A of the log focal length.
    """

    smoothed: float
    loss: float
    weight: float
    depth: torch.Tensor  # [P]
    moments: np.ndarray
    gradient: np.ndarray
    stretch: np.ndarray
    schur: np.ndarray
    schur_gradient: np.ndarray
    focal_motion: np.ndarray


@dataclass(eq=False)
class _Chunk:
    """Arrays of some pixels: K observations, p pixels, component before pixel."""

    points: torch.Tensor  # X [3, p]
    rays: torch.Tensor  # u [3, p], unit
    residuals: torch.Tensor  # r [K, 3, p]
    along: torch.Tensor  # r . u [K, p]
    across: torch.Tensor  # squared distance of the pair's point from the ray [K, p]
    weights: torch.Tensor  # a [K, p]
    distance: torch.Tensor  # of X from the camera [p]
    stretch: torch.Tensor  # distance over z-depth [p]
    prior_gap: torch.Tensor | None  # distance minus known distance [p]
    prior_weight: torch.Tensor | None  # [p]
    held: torch.Tensor | None  # depth is held [p]


class _View:
    """An image's camera and its pairs' similarities as float32 tensors on the device."""

    def __init__(self, image: ImageData, state: State, n: int, device: torch.device) -> None:
        edges = [o.edge for o in image.observations]
        grown = np.exp(state.edge_log_scales[edges])[:, None, None] * state.edge_rotations[edges]
        self.rotation, self.centre, self.edge_linear, self.edge_shift = (
            torch.tensor(v, dtype=torch.float32, device=device)
            for v in (state.rotations[n], state.centres[n], grown, state.edge_translations[edges])
        )
        self.inverse_focal = float(np.exp(-state.log_focals[n]))
        flat = -state.rotations[n] @ np.diag([1.0, 1.0, 0.0]) @ state.rotations[n].T
        self.focal_motion = np.concatenate([flat, -(flat @ state.centres[n])[:, None]], axis=1)  # [3, 4]


def image_pass(
    problem: AlignmentProblem, state: State, n: int, depth: torch.Tensor, settings: PassSettings
) -> ImageSums:
    """Solve image n's depths along their rays and sum up the loss and its derivatives.

    Args:
        problem: observations.
        state: cameras and pairs.
        n: which image.
        depth: [P] z-depths to start from.
        settings: how.
    """
    image = problem.images[n]
    view = _View(image, state, n, settings.device)
    count = len(image.observations)
    system = _System(count, settings.device)
    found = torch.empty(image.pixels, dtype=torch.float32)
    step = max(1, _CHUNK // max(1, count))
    for start in range(0, image.pixels, step):
        pixels = slice(start, start + step)
        chunk = _residuals(problem, image, view, depth[pixels].to(settings.device), pixels)
        _search_depth(chunk, settings)
        found[pixels] = (chunk.distance / chunk.stretch).cpu()
        system.add(chunk, view, settings)
    return system.sums(found, view)


def _residuals(problem: AlignmentProblem, image: ImageData, view: _View, depth: torch.Tensor, pixels: slice) -> _Chunk:
    device = depth.device
    offsets = image.offsets[pixels].to(device) * view.inverse_focal
    rays = torch.cat([offsets, torch.ones_like(offsets[:, :1])], dim=1) @ view.rotation.T
    stretch = rays.norm(dim=1)
    rays = (rays / stretch[:, None]).T.contiguous()
    read = [o.read(pixels, device) for o in image.observations]
    predicted = torch.stack([points for points, _ in read])  # [K, p, 3]
    points = view.centre[:, None] + depth * stretch * rays
    residuals = points - torch.baddbmm(view.edge_shift[:, :, None], view.edge_linear, predicted.transpose(1, 2))
    along = (residuals * rays).sum(dim=1)
    across = residuals - along[:, None] * rays
    gap = weight = held = None
    if image.known_depth is not None:
        known = image.known_depth[pixels].to(device)
        if problem.depth_weight is None:
            held = known > 0
        else:
            gap, weight = (depth - known) * stretch, (known > 0) * (problem.depth_weight * problem.depth_share)
    return _Chunk(
        points=points,
        rays=rays,
        residuals=residuals,
        along=along,
        across=(across * across).sum(dim=1),
        weights=torch.stack([weights for _, weights in read]),
        distance=depth * stretch,
        stretch=stretch,
        prior_gap=gap,
        prior_weight=weight,
        held=held,
    )


def _search_depth(chunk: _Chunk, settings: PassSettings) -> None:
    """Move every point along its ray to the minimum of the smoothed loss."""
    if settings.rounds == 0:
        return
    along, across, weights = chunk.along, chunk.across + settings.smoothing**2, chunk.weights
    if chunk.prior_gap is not None and chunk.prior_weight is not None:
        along = torch.cat([along, chunk.prior_gap[None]])
        across = torch.cat([across, torch.full_like(across[:1], settings.smoothing**2)])
        weights = torch.cat([weights, chunk.prior_weight[None]])
    lowest = torch.maximum(_NEAREST * chunk.distance, settings.lowest_depth * chunk.stretch) - chunk.distance
    shift = minimum_along_rays(along, across, weights, lowest.clamp_max(0.0), settings.rounds)
    if chunk.held is not None:
        shift = torch.where(chunk.held, 0.0, shift)
    chunk.distance = chunk.distance + shift
    moved = shift * chunk.rays
    chunk.points = chunk.points + moved
    chunk.residuals = chunk.residuals + moved
    chunk.along = chunk.along + shift
    if chunk.prior_gap is not None:
        chunk.prior_gap = chunk.prior_gap + shift


def minimum_along_rays(
    along: torch.Tensor, across: torch.Tensor, weights: torch.Tensor, lowest: torch.Tensor, rounds: int
) -> torch.Tensor:
    """Shifts s [p] >= lowest that minimise ``sum_k weights_k sqrt(across_k + (along_k + s)^2)``, a convex function.

    Newton's method inside a bracket that shrinks by the sign of the slope; a step that leaves it becomes Weiszfeld's,
    and then bisection. What would not improve on 0 stays at 0.

    Args:
        along: [K, p] residual along the ray at s = 0.
        across: [K, p] squared residual across the ray (smoothing included).
        weights: [K, p] >= 0.
        lowest: [p] <= 0.
        rounds: number of iterations.
    """
    low = torch.maximum((-along).amin(dim=0), lowest)
    high = torch.maximum((-along).amax(dim=0), low)
    shift = torch.zeros_like(low).clamp(low, high)
    across = across + 1e-30
    for k in range(rounds):
        gap = shift + along
        squared = across + gap * gap
        inverse = weights * squared.rsqrt()
        slope = (inverse * gap).sum(dim=0)
        bend = (inverse * (across / squared)).sum(dim=0)
        low, high = torch.where(slope < 0, shift, low), torch.where(slope > 0, shift, high)
        newton = shift - slope / bend.clamp_min(1e-30)
        other = 0.5 * (low + high) if k % 2 else shift - slope / inverse.sum(dim=0).clamp_min(1e-30)
        other = torch.where((other >= low) & (other <= high), other, 0.5 * (low + high))
        shift = torch.where((newton > low) & (newton < high), newton, other)
    before = (weights * (across + along * along).sqrt()).sum(dim=0)
    after = (weights * (across + (along + shift) ** 2).sqrt()).sum(dim=0)
    return torch.where(after < before, shift, 0.0)


def _cross(points: torch.Tensor, forces: torch.Tensor) -> torch.Tensor:
    """Cross product of points [3, p] and forces [..., 3, p]."""
    x, y, z = points
    fx, fy, fz = forces.unbind(dim=-2)
    return torch.stack([y * fz - z * fy, z * fx - x * fz, x * fy - y * fx], dim=-2)


class _System:
    """Running sums of one image's normal equations."""

    def __init__(self, observations: int, device: torch.device) -> None:
        size = 7 + 7 * observations
        self.smoothed = self.loss = self.weight = 0.0
        self.moments = torch.zeros(10, observations, 6, dtype=torch.float64, device=device)
        self.gradient = torch.zeros(observations, 3, 4, dtype=torch.float64, device=device)
        self.stretch = torch.zeros(observations, dtype=torch.float64, device=device)
        self.schur = torch.zeros(size, size, dtype=torch.float64, device=device)
        self.schur_gradient = torch.zeros(size, dtype=torch.float64, device=device)

    def add(self, chunk: _Chunk, view: _View, settings: PassSettings) -> None:
        plain = chunk.across + chunk.along * chunk.along
        squared = plain + settings.smoothing**2
        length = squared.sqrt()
        self.loss += float((chunk.weights * plain.sqrt()).double().sum())
        self.smoothed += float((chunk.weights * length).double().sum())
        self.weight += float(chunk.weights.double().sum())
        if chunk.prior_gap is not None and chunk.prior_weight is not None:
            self.smoothed += float(
                (chunk.prior_weight * (chunk.prior_gap**2 + settings.smoothing**2).sqrt()).double().sum()
            )
        if settings.accumulate:
            self._accumulate(chunk, view, squared.clamp_min(1e-30), settings)

    def _accumulate(self, chunk: _Chunk, view: _View, squared: torch.Tensor, settings: PassSettings) -> None:
        r, x = chunk.residuals, chunk.points
        first = chunk.weights * squared.rsqrt()  # a / |r|
        second = first / squared  # a / |r|^3
        pull = first[:, None] * r  # derivative of the norm
        homogeneous = torch.cat([x, torch.ones_like(x[:1])])
        self.gradient += (pull @ homogeneous.T).double()
        self.stretch += (pull * r).sum(dim=(1, 2)).double()
        bends = torch.stack(
            [(first if i == j else 0.0) - second * (r[:, i] * r[:, j]) for i, j in SYMMETRIC_3], dim=1
        )  # [K, 6, p]
        products = torch.stack([homogeneous[i] * homogeneous[j] for i, j in SYMMETRIC_4])  # [10, p]
        self.moments += (products @ bends.flatten(0, 1).T).double().reshape(self.moments.shape)
        self._eliminate_depth(chunk, view, first, second, pull, settings)

    def _eliminate_depth(
        self,
        chunk: _Chunk,
        view: _View,
        first: torch.Tensor,
        second: torch.Tensor,
        pull: torch.Tensor,
        settings: PassSettings,
    ) -> None:
        x, bent = chunk.points, second * chunk.along
        force = first[:, None] * chunk.rays - bent[:, None] * chunk.residuals  # second derivative times the ray
        bend = (first - bent * chunk.along).sum(dim=0)
        slope = (pull * chunk.rays).sum(dim=(0, 1))
        if chunk.prior_gap is not None and chunk.prior_weight is not None:
            gap = (chunk.prior_gap**2 + settings.smoothing**2).sqrt().clamp_min(1e-15)
            slope = slope + chunk.prior_weight * chunk.prior_gap / gap
            bend = bend + chunk.prior_weight * settings.smoothing**2 / gap**3
        movable = bend > 1e-9 * bend.mean()
        if chunk.held is not None:
            movable = movable & ~chunk.held
        inverse = torch.where(movable, 1 / bend, 0.0)
        focal = torch.tensor(view.focal_motion, dtype=x.dtype, device=x.device)
        total = force.sum(dim=0)
        coupling = torch.cat(
            [
                total,
                _cross(x, total),
                ((focal[:, :3] @ x + focal[:, 3:]) * total).sum(dim=0, keepdim=True),
                -torch.cat([force, _cross(x, force), (x * force).sum(dim=1, keepdim=True)], dim=1).flatten(0, 1),
            ]
        )  # [7 + 7 K, p]
        scaled = coupling * inverse.sqrt()
        self.schur += (scaled @ scaled.T).double()
        self.schur_gradient += (coupling @ (slope * inverse)).double()

    def sums(self, depth: torch.Tensor, view: _View) -> ImageSums:
        return ImageSums(
            smoothed=self.smoothed,
            loss=self.loss,
            weight=self.weight,
            depth=depth,
            moments=self.moments.permute(1, 0, 2).cpu().numpy(),
            gradient=self.gradient.cpu().numpy(),
            stretch=self.stretch.cpu().numpy(),
            schur=self.schur.cpu().numpy(),
            schur_gradient=self.schur_gradient.cpu().numpy(),
            focal_motion=view.focal_motion,
        )

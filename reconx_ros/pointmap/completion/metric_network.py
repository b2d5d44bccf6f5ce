"""Depth of every pixel by a metric depth network of single images, fitted to what is measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from reconx_ros.core import Job, PointMap
from reconx_ros.core.memory import limit_bytes
from reconx_ros.pointmap.completion.base import Guess
from reconx_ros.pointmap.completion.predict import certainty
from reconx_ros.weights.cache import ModelCache

if TYPE_CHECKING:
    from reconx_ros.pointmap.config import PointmapConfig

_MIN_PIXELS = 50  # measured, below which a view's own measurements fit nothing
_DRAWS, _COMPARED = 300, 2000  # lines tried, points that judge them
_MIN_APART = 0.02  # of two points that make a line, over the median
_LEAST_RESIDUAL = 0.01
_UNFITTED_SCALE = 0.3  # of the logarithm of depth, of a view that has nothing measured


class MetricNetworkCompleter:
    """The network that ``pointmap.metric_network`` names; in each view, scale and shift of inverse depth are fitted.

    Robustly, to the measured pixels (as Ranftl et al., "Towards robust monocular depth estimation", TPAMI 2022, eq. 4,
    align for their loss). How far the fit is off where it can be compared is what it claims elsewhere.
    """

    name = "metric_network"

    def __init__(self, models: ModelCache | None = None) -> None:
        self._models = models or ModelCache()

    def with_models(self, models: ModelCache) -> MetricNetworkCompleter:
        """The same completer, which takes its network from that cache."""
        return type(self)(models)

    def complete(
        self, views: Sequence[PointMap], config: PointmapConfig, *, device: torch.device, job: Job
    ) -> list[Guess]:
        """As ``DepthCompleter``.

        Raises:
            InvalidInputError: for a network that does not estimate metric depth.
            BackendUnavailableError: when transformers is not installed.
        """
        from reconx_ros.pointmap.network.metric_depth import resident_network

        network = resident_network(config.metric_network, self._models, device, limit_bytes(config.max_memory_gb) or 0)
        guesses = []
        for k, view in enumerate(views):
            job.step(k / len(views), "estimating metric depth")
            guesses.append(fitted(network.depth_m(view.rgb, view.camera), view))
        return guesses


def fitted(depth: torch.Tensor, view: PointMap) -> Guess:
    """A network's depth [H, W] (0 where it has none) with the scale and shift of inverse depth of a view."""
    usable = torch.isfinite(depth) & (depth > 0)
    safe = torch.where(usable, depth, depth[usable].median() if bool(usable.any()) else 1.0)
    both = view.valid & usable & (view.confidence > 0)
    if int(both.sum()) < _MIN_PIXELS:
        scale = torch.full_like(safe, _UNFITTED_SCALE)
        return Guess(depth=safe, certainty=certainty(scale.log()) * usable, scale=scale)
    own, known, trust = (values[both].double() for values in (1 / safe, 1 / view.depth, view.confidence))
    slope, shift = _scale_and_shift(own, known, trust)
    inverse = slope / safe + shift
    low, high = 1 / view.depth[view.valid].max() / 3, 1 / view.depth[view.valid].min() * 3
    found = 1 / inverse.clamp(low, high)
    spread = float((found[both].log() - view.depth[both].log()).abs().mean().clamp(0.01, 1.0))
    scale = torch.full_like(found, spread)
    return Guess(depth=found, certainty=certainty(scale.log()) * usable, scale=scale)


def _scale_and_shift(x: torch.Tensor, y: torch.Tensor, weight: torch.Tensor) -> tuple[float, float]:
    """Slope > 0 and shift of y over x [P]; shift 0 where x does not vary.

    The line through two points with the least median of relative residuals (Rousseeuw, "Least median of squares
    regression", 1984), then least squares on the points near it.
    """
    flat = float(y.median() / x.median()), 0.0
    pick = torch.randint(len(x), (2, _DRAWS), generator=torch.Generator().manual_seed(0))
    (xa, xb), (ya, yb) = x[pick], y[pick]
    apart = (xa - xb).abs() > _MIN_APART * x.median()
    slopes = (ya - yb)[apart] / (xa - xb)[apart]
    shifts = ya[apart] - slopes * xa[apart]
    slopes, shifts = slopes[slopes > 0], shifts[slopes > 0]
    if not len(slopes):
        return flat
    some = slice(None, None, max(1, len(x) // _COMPARED))
    residuals = ((y[some] - slopes[:, None] * x[some] - shifts[:, None]) / y[some]).abs().median(dim=1).values
    best = int(residuals.argmin())
    near = ((y - slopes[best] * x - shifts[best]) / y).abs() <= 3 * residuals[best].clamp_min(_LEAST_RESIDUAL)
    trust = weight * near / y**2
    mx, my = (trust * x).sum() / trust.sum(), (trust * y).sum() / trust.sum()
    variance = (trust * (x - mx) ** 2).sum()
    slope = float((trust * (x - mx) * (y - my)).sum() / variance.clamp_min(1e-30))
    return (slope, float(my - slope * mx)) if slope > 0 else flat

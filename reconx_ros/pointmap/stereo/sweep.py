"""Plane sweep: matching cost of every pixel at every inverse depth, robust to occlusion."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from reconx_ros.core import InvalidInputError, check_finite, check_shape
from reconx_ros.geometry.warping import inside, sample
from reconx_ros.pointmap.stereo.views import MatchView
from reconx_ros.pointmap.stereo.zncc import ReferenceWindows, zncc_cost

UNSEEN_COST = 0.6  # where no source sees a hypothesis: a little worse than "unknown" (0.5)
_CHUNK_ELEMENTS = 4_000_000  # bounds temporary memory and the time between two progress calls


def inverse_depth_planes(near: float, far: float, planes: int, *, device: torch.device | str = "cpu") -> torch.Tensor:
    """Inverse depths [D, 1, 1], evenly spaced from 1/far to 1/near (rising)."""
    return torch.linspace(1 / far, 1 / near, planes, device=device)[:, None, None]


class BestCosts:
    """Running sum of the k lowest costs per hypothesis, for k = 1 or 2, without holding all sources.

    Only sources that see a hypothesis count. A point hidden in one source is seen in another, so that the worst sources
    tell nothing (Kang, Szeliski and Chai, "Handling occlusions in dense multi-view stereo", CVPR 2001).
    """

    def __init__(self, keep: int) -> None:
        self._keep = keep
        self._first: torch.Tensor | None = None  # [D, H, W] lowest
        self._second: torch.Tensor | None = None  # [D, H, W] second lowest

    def add(self, cost: torch.Tensor, seen: torch.Tensor) -> None:
        """Take in one source: cost [D, H, W] where seen [D, H, W]."""
        cost = torch.where(seen, cost, torch.inf)
        if self._first is None:
            self._first = cost
            return
        if self._keep > 1:
            loser = torch.maximum(self._first, cost)
            self._second = loser if self._second is None else torch.minimum(self._second, loser)
        self._first = torch.minimum(self._first, cost)

    def result(self) -> torch.Tensor:
        """Mean of the lowest costs [D, H, W]; UNSEEN_COST where no source sees the hypothesis."""
        if self._first is None:
            raise ValueError("BestCosts.result() was called before any source was added")
        first = torch.where(torch.isinf(self._first), UNSEEN_COST, self._first)
        if self._second is None:
            return first
        return 0.5 * (first + torch.where(torch.isinf(self._second), first, self._second))


def check_sweep(reference: MatchView, sources: Sequence[MatchView], inverse_depths: torch.Tensor, window: int) -> None:
    """Raise InvalidInputError for no source, no plane, an even window, or an image of a wrong size or not finite."""
    if not sources:
        raise InvalidInputError("a plane sweep got no source views, expected at least 1")
    if inverse_depths.shape[0] < 1:
        raise InvalidInputError("a plane sweep got no inverse depths, expected at least 1")
    if window < 3 or window % 2 == 0:
        raise InvalidInputError(f"matching window is {window} pixels, expected an odd number of at least 3")
    for view in (reference, *sources):
        name = f"grey image of keyframe {view.keyframe_id}"
        check_shape(name, view.grey, view.camera.height, view.camera.width)
        check_finite(name, view.grey)


def sweep(
    reference: MatchView,
    sources: Sequence[MatchView],
    inverse_depths: torch.Tensor,
    window: int,
    *,
    keep: int = 2,
    on_chunk: Callable[[float], None] | None = None,
) -> torch.Tensor:
    """Matching cost volume of a reference view.

    Args:
        reference: view whose pixels are matched.
        sources: views it is matched against, at least one.
        inverse_depths: [D, H, W], or [D, 1, 1] for fronto-parallel planes.
        window: side of the matching window in pixels, odd.
        keep: how many of the best sources are averaged (1 or 2).
        on_chunk: called with the fraction done after each bounded piece of work.

    Returns:
        [D, H, W] costs in [0, 1].

    Raises:
        InvalidInputError: for no source, no plane, an even window, or an image of a wrong size or not finite.
    """
    check_sweep(reference, sources, inverse_depths, window)
    height, width = reference.grey.shape
    count = inverse_depths.shape[0]
    windows = ReferenceWindows.of(reference.grey, window)
    projections = [reference.projection_to(s) for s in sources]
    shift = reference.grey.mean()
    volume = reference.grey.new_empty(count, height, width)
    chunk = max(1, _CHUNK_ELEMENTS // (height * width * 8))
    for start in range(0, count, chunk):
        depths = inverse_depths[start : start + chunk]
        best = BestCosts(keep)
        for source, projection in zip(sources, projections, strict=True):
            uv, ratio = projection(depths)
            warped = sample((source.grey - shift)[None], uv)[0]
            best.add(zncc_cost(windows, warped), inside(uv, ratio, source.camera.width, source.camera.height))
        volume[start : start + chunk] = best.result()
        if on_chunk is not None:
            on_chunk(min(1.0, (start + chunk) / count))
    return volume

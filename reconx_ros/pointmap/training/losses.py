"""Losses of pairwise pointmaps: ReconX eq. 13-14, as DUSt3R defines them (eq. 2-4 there).

Shapes: B pairs, H W pixels. Both maps of a pair lie in the frame of its first camera.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from reconx_ros.core import check_shape

CONF_ALPHA = 0.2
_TINY = 1e-8


@dataclass(frozen=True, kw_only=True, eq=False)
class PairTargets:
    """True points of B pairs in the frame of each pair's first camera.

    Attributes:
        pts3d_1, pts3d_2: [B, H, W, 3].
        valid_1, valid_2: [B, H, W] bool.
    """

    pts3d_1: torch.Tensor  # [B, H, W, 3]
    valid_1: torch.Tensor  # [B, H, W]
    pts3d_2: torch.Tensor  # [B, H, W, 3]
    valid_2: torch.Tensor  # [B, H, W]

    def __post_init__(self) -> None:
        for view in ("1", "2"):
            dims = check_shape(f"target pts3d_{view}", getattr(self, f"pts3d_{view}"), "B", "H", "W", 3)
            check_shape(f"target valid_{view}", getattr(self, f"valid_{view}"), "B", "H", "W", dims=dims)


def mean_distance(points1: torch.Tensor, points2: torch.Tensor, targets: PairTargets) -> torch.Tensor:
    """Mean distance [B, 1, 1, 1] from the first camera over the valid pixels of both views (z of eq. 13)."""
    total = torch.zeros(len(points1), device=points1.device)
    count = torch.zeros_like(total)
    for points, valid in ((points1, targets.valid_1), (points2, targets.valid_2)):
        total = total + torch.where(valid, points.norm(dim=-1), 0).sum(dim=(1, 2))
        count = count + valid.sum(dim=(1, 2))
    return (total / (count + _TINY)).clamp_min(_TINY)[:, None, None, None]


def pixel_errors(
    points1: torch.Tensor, points2: torch.Tensor, targets: PairTargets, *, keep_target_scale: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Distance [B, H, W] of each predicted point from the true one after both clouds are scaled to mean distance 1.

    Eq. 13: ``|| X / z - X^ / z^ ||``.

    Args:
        points1, points2: [B, H, W, 3] predictions.
        targets: truth.
        keep_target_scale: leave the truth in its own unit.

    Returns:
        Errors of the first and of the second view; 0 where not valid.
    """
    scale = mean_distance(points1, points2, targets)
    true_scale = 1.0 if keep_target_scale else mean_distance(targets.pts3d_1, targets.pts3d_2, targets)
    errors = []
    for points, true, valid in (
        (points1, targets.pts3d_1, targets.valid_1),
        (points2, targets.pts3d_2, targets.valid_2),
    ):
        difference = torch.where(valid[..., None], points / scale - true / true_scale, 0)
        errors.append(torch.where(valid, _safe_norm(difference), 0))
    return errors[0], errors[1]


def _safe_norm(vectors: torch.Tensor) -> torch.Tensor:
    """Length along the last axis, with gradient 0 instead of NaN where it is 0."""
    squared = vectors.square().sum(dim=-1)
    return torch.where(squared > 0, squared, 1).sqrt() * (squared > 0)


def regression_loss(
    points1: torch.Tensor, points2: torch.Tensor, targets: PairTargets, *, keep_target_scale: bool = False
) -> torch.Tensor:
    """Mean error over the valid pixels of the first views plus that over those of the second views."""
    errors = pixel_errors(points1, points2, targets, keep_target_scale=keep_target_scale)
    return sum_of_means(errors, targets)


def confidence_loss(
    points1: torch.Tensor,
    conf1: torch.Tensor,
    points2: torch.Tensor,
    conf2: torch.Tensor,
    targets: PairTargets,
    alpha: float = CONF_ALPHA,
) -> torch.Tensor:
    """Eq. 14: mean of ``C * error - alpha * log C`` over the valid pixels, first plus second views.

    Args:
        points1, points2: [B, H, W, 3] predictions.
        conf1, conf2: [B, H, W] confidences C >= 1.
        targets: truth.
        alpha: what a unit of log confidence is worth.
    """
    errors = pixel_errors(points1, points2, targets)
    weighed = [conf * error - alpha * conf.log() for conf, error in zip((conf1, conf2), errors, strict=True)]
    return sum_of_means((weighed[0], weighed[1]), targets)


def sum_of_means(values: tuple[torch.Tensor, torch.Tensor], targets: PairTargets) -> torch.Tensor:
    """Mean of values [B, H, W] over the valid pixels of the first views plus that of the second views."""
    total = values[0].new_zeros(())
    for value, valid in zip(values, (targets.valid_1, targets.valid_2), strict=True):
        total = total + torch.where(valid, value, 0).sum() / valid.sum().clamp_min(1)
    return total

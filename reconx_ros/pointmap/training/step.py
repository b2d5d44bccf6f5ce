"""A network on a batch of groups: every view is encoded once, every ordered pair of views is decoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from reconx_ros.pointmap.network.model import EncodedImages, PairOutput, PointmapNetwork
from reconx_ros.pointmap.training.data import GroupBatch, directed_pairs
from reconx_ros.pointmap.training.losses import confidence_loss, regression_loss


@dataclass(frozen=True, kw_only=True, eq=False)
class StepLoss:
    """Losses of one batch: what is minimised, and the plain regression for the log."""

    loss: torch.Tensor
    regression: torch.Tensor


def predict_groups(
    network: PointmapNetwork, batch: GroupBatch, pairs: Sequence[tuple[int, int]] | None = None
) -> PairOutput:
    """Pointmaps of pairs of views, pair by pair: [P * B, ...] in the order of ``GroupBatch.targets``.

    Args:
        network: to run.
        batch: B groups.
        pairs: P pairs of views; None takes all ordered ones.
    """
    pairs = directed_pairs(batch.views) if pairs is None else pairs
    encoded = network.encode(batch.images.flatten(0, 1))
    tokens = encoded.tokens.unflatten(0, batch.images.shape[:2])  # [B, V, S, D]
    first = EncodedImages(tokens=torch.cat([tokens[:, i] for i, _ in pairs]), grid=encoded.grid)
    second = EncodedImages(tokens=torch.cat([tokens[:, j] for _, j in pairs]), grid=encoded.grid)
    return network.decode(first, second)


def group_loss(network: PointmapNetwork, batch: GroupBatch, alpha: float) -> StepLoss:
    """ConfLoss over all ordered pairs of a batch."""
    pairs = directed_pairs(batch.views)
    out, targets = predict_groups(network, batch, pairs), batch.targets(pairs)
    loss = confidence_loss(out.pts3d_1, out.conf_1, out.pts3d_2, out.conf_2, targets, alpha)
    with torch.no_grad():
        regression = regression_loss(out.pts3d_1, out.pts3d_2, targets)
    return StepLoss(loss=loss, regression=regression)

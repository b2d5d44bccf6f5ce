"""How good pairwise pointmaps are on rooms that training never saw, beside predictions that look at no image.

Three of the baselines are given what the network must find out itself: true intrinsics, the true relative pose and the
true median depth of each view. The fourth is given nothing, as the network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch

from reconx_ros.core import ReconstructionError
from reconx_ros.core.transforms import nearest_rotation
from reconx_ros.pointmap.network.model import PointmapNetwork
from reconx_ros.pointmap.training.data import GroupBatch, directed_pairs, transformed
from reconx_ros.pointmap.training.losses import PairTargets, mean_distance, pixel_errors
from reconx_ros.pointmap.training.step import predict_groups

_MIN_INVERSE_M = 0.05  # per metre: planes are cut off at 20 m

MEAN_POINTMAPS = "mean training pointmaps"  # the baseline that is given no camera

Pair = tuple[int, int]
Prediction = tuple[torch.Tensor, torch.Tensor]  # points of both views in the first frame, each [P * B, H, W, 3]


@dataclass(frozen=True, kw_only=True)
class PairScores:
    """Means over all valid pixels of all ordered pairs.

    Attributes:
        regression: sum over both views of the mean point error when both clouds have mean distance 1 (eq. 13).
        regression_1, regression_2: its parts of the first and the second view.
        depth_abs_rel: |depth - true| / true of the first view, after the medians are made equal.
        depth_within_10pct: share of its pixels with an error below 10 %.
        rotation_deg: median error of the relative rotation that the second view's points imply; None for baselines that
            are given the pose.
    """

    regression: float
    regression_1: float
    regression_2: float
    depth_abs_rel: float
    depth_within_10pct: float
    rotation_deg: float | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class MeanMaps:
    """What training views look like on average.

    Attributes:
        depth: [H, W] mean of depth over its median.
        points_1, points_2: [H, W, 3] mean normalised points of the views of a pair.
    """

    depth: torch.Tensor  # [H, W]
    points_1: torch.Tensor  # [H, W, 3]
    points_2: torch.Tensor  # [H, W, 3]


def mean_maps(batches: Iterable[GroupBatch]) -> MeanMaps:
    """Averages over training batches."""
    totals: list[torch.Tensor] = []
    count = 0
    for batch in batches:
        targets = batch.targets(directed_pairs(batch.views))
        first, second = _normalised(targets.pts3d_1, targets.pts3d_2, targets)
        depth = targets.pts3d_1[..., 2]
        parts = [(depth / _median(depth, targets.valid_1)).sum(0), first.sum(0), second.sum(0)]
        totals = [t + p for t, p in zip(totals, parts, strict=True)] if totals else parts
        count += len(depth)
    return MeanMaps(depth=totals[0] / count, points_1=totals[1] / count, points_2=totals[2] / count)


def _normalised(points1: torch.Tensor, points2: torch.Tensor, targets: PairTargets) -> Prediction:
    scale = mean_distance(points1, points2, targets)
    return points1 / scale, points2 / scale


def _median(depth: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Median [N, 1, 1] of depth [N, H, W] over the valid pixels."""
    values = torch.where(valid, depth, torch.nan).flatten(1)
    return values.nanmedian(dim=1).values[:, None, None]


def network_prediction(network: PointmapNetwork) -> Callable[[GroupBatch, Sequence[Pair]], Prediction]:
    """The network as a predictor."""

    @torch.no_grad()
    def predict(batch: GroupBatch, pairs: Sequence[Pair]) -> Prediction:
        out = predict_groups(network, batch, pairs)
        return out.pts3d_1, out.pts3d_2

    return predict


@torch.no_grad()
def median_confidence(network: PointmapNetwork, batches: Sequence[GroupBatch]) -> float:
    """Raw confidence that half of the pixels of the first views exceed."""
    values = [predict_groups(network, batch).conf_1.flatten() for batch in batches]
    return float(torch.cat(values).median())


def _from_depth(
    depth_of: Callable[[GroupBatch, int], torch.Tensor],
) -> Callable[[GroupBatch, Sequence[Pair]], Prediction]:
    """A predictor from depth maps, given true intrinsics, relative poses and the median depth of each view."""

    def points(batch: GroupBatch, view: int) -> torch.Tensor:
        depth = depth_of(batch, view)
        true = batch.points_cam[:, view, ..., 2]
        scale = _median(true, batch.valid[:, view]) / _median(depth, batch.valid[:, view])
        return batch.rays[:, view] * (depth * scale)[..., None]

    def predict(batch: GroupBatch, pairs: Sequence[Pair]) -> Prediction:
        first = torch.cat([points(batch, i) for i, _ in pairs])
        poses = [batch.world_from_cam[:, i].inverse() @ batch.world_from_cam[:, j] for i, j in pairs]
        moved = [transformed(pose, points(batch, j)) for pose, (_, j) in zip(poses, pairs, strict=True)]
        return first, torch.cat(moved)

    return predict


def constant_depth(batch: GroupBatch, view: int) -> torch.Tensor:
    """The same depth [B, H, W] everywhere."""
    return torch.ones_like(batch.points_cam[:, view, ..., 2])


def best_plane(batch: GroupBatch, view: int) -> torch.Tensor:
    """Depth [B, H, W] of the plane that fits each true view best: least squares of the relative inverse depth."""
    rays, valid = batch.rays[:, view].flatten(1, 2), batch.valid[:, view].flatten(1)
    depth = batch.points_cam[:, view, ..., 2].flatten(1)
    weight = torch.where(valid, depth, 0)[..., None]
    normal = torch.linalg.lstsq(rays * weight, valid[..., None].to(rays)).solution  # [B, 3, 1]
    inverse = (rays @ normal)[..., 0].clamp_min(_MIN_INVERSE_M)
    return (1 / inverse).view_as(batch.points_cam[:, view, ..., 2])


def baselines(mean: MeanMaps) -> dict[str, Callable[[GroupBatch, Sequence[Pair]], Prediction]]:
    """Predictors that see no image, by name."""

    def mean_depth(batch: GroupBatch, view: int) -> torch.Tensor:
        del view
        return mean.depth.to(batch.rays).expand(len(batch.images), -1, -1)

    def mean_points(batch: GroupBatch, pairs: Sequence[Pair]) -> Prediction:
        count = len(pairs) * len(batch.images)
        return (
            mean.points_1.to(batch.rays).expand(count, -1, -1, -1),
            mean.points_2.to(batch.rays).expand(count, -1, -1, -1),
        )

    return {
        "constant depth, true cameras": _from_depth(constant_depth),
        "best plane per view, true cameras": _from_depth(best_plane),
        "mean training depth, true cameras": _from_depth(mean_depth),
        MEAN_POINTMAPS: mean_points,
    }


def score(
    predict: Callable[[GroupBatch, Sequence[Pair]], Prediction], batches: Sequence[GroupBatch], *, pose: bool = False
) -> PairScores:
    """Scores of a predictor over batches.

    Args:
        predict: gives points of pairs.
        batches: groups to predict.
        pose: measure the relative rotation, too.

    Raises:
        ReconstructionError: when there is nothing to score or a prediction is not finite.
    """
    sums = torch.zeros(4, dtype=torch.float64)
    counts = torch.zeros(2, dtype=torch.float64)
    angles: list[torch.Tensor] = []
    for batch in batches:
        pairs = directed_pairs(batch.views)
        targets = batch.targets(pairs)
        points1, points2 = predict(batch, pairs)
        errors1, errors2 = pixel_errors(points1, points2, targets)
        relative = _relative_depth_errors(points1[..., 2], targets)
        sums += torch.stack([errors1.sum(), errors2.sum(), relative.sum(), (relative < 0.1).sum()]).double().cpu()
        counts += torch.tensor([targets.valid_1.sum(), targets.valid_2.sum()])
        if pose:
            angles.append(_rotation_errors(batch, pairs, points1, points2))
    if not bool(torch.isfinite(sums).all()) or not bool((counts > 0).all()):
        raise ReconstructionError("pointmaps cannot be scored: predictions are not finite or no pixel has true depth")
    first, second = float(sums[0] / counts[0]), float(sums[1] / counts[1])
    return PairScores(
        regression=first + second,
        regression_1=first,
        regression_2=second,
        depth_abs_rel=float(sums[2] / counts[0]),
        depth_within_10pct=float(sums[3] / counts[0]),
        rotation_deg=float(torch.cat(angles).median()) if pose else None,
    )


def _relative_depth_errors(depth: torch.Tensor, targets: PairTargets) -> torch.Tensor:
    """Errors [M] of the valid pixels of the first views."""
    valid, true = targets.valid_1, targets.pts3d_1[..., 2]
    scale = _median(true, valid) / _median(depth, valid)
    return ((depth * scale - true).abs() / true.clamp_min(1e-6))[valid]


def _rotation_errors(
    batch: GroupBatch, pairs: Sequence[Pair], points1: torch.Tensor, points2: torch.Tensor
) -> torch.Tensor:
    """Error in degrees [N] of the rotation between a view's points as second of a pair and as first of the reverse."""
    count, errors = len(batch.images), []
    own, seen = points1.split(count), points2.split(count)
    for k, (i, j) in enumerate(pairs):
        rotation = _best_rotation(own[pairs.index((j, i))].flatten(1, 2), seen[k].flatten(1, 2))
        true = (batch.world_from_cam[:, i].inverse() @ batch.world_from_cam[:, j])[:, :3, :3]
        trace = (rotation.transpose(1, 2) @ true).diagonal(dim1=1, dim2=2).sum(-1)
        errors.append(torch.rad2deg(((trace - 1) / 2).clamp(-1, 1).acos()))
    return torch.cat(errors)


def _best_rotation(source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Rotations [B, 3, 3] that turn centred points [B, P, 3] into centred points best (Kabsch)."""
    covariance = (target - target.mean(1, keepdim=True)).transpose(1, 2) @ (source - source.mean(1, keepdim=True))
    return torch.from_numpy(nearest_rotation(covariance.double().cpu().numpy())).to(source)


def compared(
    network: PointmapNetwork, training: Iterable[GroupBatch], held_out: Sequence[GroupBatch]
) -> dict[str, PairScores]:
    """Scores of a network and of all baselines on the same held-out groups, by name.

    Args:
        network: in evaluation mode.
        training: batches that the averages of the baselines are taken over.
        held_out: batches of rooms that training never saw.
    """
    rows = {"network": score(network_prediction(network), held_out, pose=True)}
    mean = mean_maps(training)
    for name, predict in baselines(mean).items():
        rows[name] = score(predict, held_out, pose=name == MEAN_POINTMAPS)
    return rows

"""Pointmaps of many pairs of images: every image is encoded once, pairs are decoded in batches of equal sizes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import torch

from reconx_ros.core import Job
from reconx_ros.core.precision import dtype_from_precision
from reconx_ros.pointmap.network.memory import PairMemoryPlan
from reconx_ros.pointmap.network.model import EncodedImages, PointmapNetwork
from reconx_ros.pointmap.pairwise import PairPredictions

_ENCODER_SHARE = 0.4  # of the progress


@torch.no_grad()
def predict_pairs(
    network: PointmapNetwork,
    images: Sequence[torch.Tensor],
    pairs: Sequence[tuple[int, int]],
    plan: PairMemoryPlan,
    *,
    precision: str = "auto",
    job: Job | None = None,
) -> PairPredictions:
    """Predict all pairs.

    Args:
        network: in evaluation mode, on the device that computes.
        images: N tensors [3, H, W] in [-1, 1]; sizes may differ.
        pairs: E directed pairs of their indices.
        plan: how many at a time.
        precision: of the transformer, see ``dtype_from_precision``; the heads always compute in float32.
        job: progress and cancellation.

    Returns:
        Points and confidences on the CPU, in the order of the pairs.

    Raises:
        CancelledError: when the job was cancelled.
    """
    job = job or Job()
    device = network.mask_token.device
    dtype = dtype_from_precision(precision, device, parameter="pointmap.network_precision")
    with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
        encoded = _encode_all(network, images, plan.images_at_a_time, device, job)
        return _decode_all(network, encoded, pairs, plan.pairs_at_a_time, job)


def _encode_all(
    network: PointmapNetwork, images: Sequence[torch.Tensor], at_a_time: int, device: torch.device, job: Job
) -> list[EncodedImages]:
    encoded: dict[int, EncodedImages] = {}
    for chunk in _chunks([tuple(image.shape) for image in images], at_a_time):
        job.step(_ENCODER_SHARE * len(encoded) / len(images), f"encoding image {len(encoded) + 1} of {len(images)}")
        features = network.encode(torch.stack([images[n] for n in chunk]).to(device))
        for row, n in enumerate(chunk):
            encoded[n] = EncodedImages(tokens=features.tokens[row : row + 1], grid=features.grid)
    return [encoded[n] for n in range(len(images))]


def _decode_all(
    network: PointmapNetwork,
    encoded: Sequence[EncodedImages],
    pairs: Sequence[tuple[int, int]],
    at_a_time: int,
    job: Job,
) -> PairPredictions:
    maps: dict[str, dict[int, torch.Tensor]] = {name: {} for name in ("pts3d_1", "conf_1", "pts3d_2", "conf_2")}
    for chunk in _chunks([(encoded[i].grid, encoded[j].grid) for i, j in pairs], at_a_time):
        done = len(maps["conf_1"])
        job.step(_ENCODER_SHARE + (1 - _ENCODER_SHARE) * done / len(pairs), f"decoding pair {done + 1} of {len(pairs)}")
        out = network.decode(
            _stacked([encoded[pairs[e][0]] for e in chunk]), _stacked([encoded[pairs[e][1]] for e in chunk])
        )
        for name, found in maps.items():
            found.update(zip(chunk, getattr(out, name).cpu().unbind(), strict=True))
    ordered = {name: [found[e] for e in range(len(pairs))] for name, found in maps.items()}
    return PairPredictions(pairs=pairs, **ordered)


def _stacked(features: Sequence[EncodedImages]) -> EncodedImages:
    return EncodedImages(tokens=torch.cat([f.tokens for f in features]), grid=features[0].grid)


def _chunks(kinds: Sequence[object], at_a_time: int) -> Iterator[list[int]]:
    """Indices of equal kind together, at most so many at a time."""
    groups: defaultdict[object, list[int]] = defaultdict(list)
    for index, kind in enumerate(kinds):
        groups[kind].append(index)
    for members in groups.values():
        for start in range(0, len(members), at_a_time):
            yield members[start : start + at_a_time]

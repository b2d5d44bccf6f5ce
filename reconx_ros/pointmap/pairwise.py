"""What a two-view network predicts, and what stage 1 makes of it: pairwise pointmaps, before any global alignment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from reconx_ros.core import InvalidInputError, check_shape


@dataclass(frozen=True, kw_only=True, eq=False)
class PairPredictions:
    """Pointmaps and confidences of E directed pairs (first, second), each pair in a frame and unit of its own.

    Both maps of a pair lie in the camera frame of its first image (OpenCV axes), on the pixel grids of their own
    images; images may differ in size. The fields take any sequence of E maps, a stacked tensor [E, H, W, ...]
    included; they are kept as they are, not copied. Points that are not finite, and confidences below 1 or not
    finite, weigh nothing.

    Attributes:
        pairs: E pairs of image indices, from 0.
        pts3d_1: E tensors [H1, W1, 3], the first image's pixels.
        conf_1: E tensors [H1, W1], raw confidences C = 1 + exp(c) >= 1 of DUSt3R; log C weighs.
        pts3d_2: E tensors [H2, W2, 3], the second image's pixels, also in the first camera's frame.
        conf_2: E tensors [H2, W2].

    Raises:
        InvalidInputError: at birth, for no pairs, a pair of an image with itself, the same pair twice, an image between
            others that is in no pair, lengths or shapes that differ, or one image with two sizes.
    """

    pairs: Sequence[tuple[int, int]]
    pts3d_1: Sequence[torch.Tensor]  # E x [H1, W1, 3]
    conf_1: Sequence[torch.Tensor]  # E x [H1, W1]
    pts3d_2: Sequence[torch.Tensor]  # E x [H2, W2, 3]
    conf_2: Sequence[torch.Tensor]  # E x [H2, W2]

    def __post_init__(self) -> None:
        object.__setattr__(self, "pairs", tuple((int(i), int(j)) for i, j in self.pairs))
        for name in ("pts3d_1", "conf_1", "pts3d_2", "conf_2"):
            maps = tuple(getattr(self, name))
            object.__setattr__(self, name, maps)
            if len(maps) != len(self.pairs):
                raise InvalidInputError(f"{name} holds {len(maps)} maps, expected one for each of {len(self)} pairs")
        _check_pairs(self.pairs)
        _check_sizes(self)

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def images(self) -> int:
        """Number of images N."""
        return 1 + max(max(pair) for pair in self.pairs)

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """(height, width) of each image."""
        found: dict[int, tuple[int, int]] = {}
        for (i, j), first, second in zip(self.pairs, self.conf_1, self.conf_2, strict=True):
            found[i] = (first.shape[0], first.shape[1])
            found[j] = (second.shape[0], second.shape[1])
        return tuple(found[n] for n in range(self.images))

    def select(self, edges: Sequence[int]) -> PairPredictions:
        """The given pairs only."""
        return PairPredictions(**{name: [getattr(self, name)[e] for e in edges] for name in self.__dataclass_fields__})


def _check_pairs(pairs: Sequence[tuple[int, int]]) -> None:
    if not pairs:
        raise InvalidInputError("pair predictions hold no pair, expected at least one")
    for i, j in pairs:
        if i == j or min(i, j) < 0:
            raise InvalidInputError(f"pair ({i}, {j}) is not usable, expected two different image indices from 0")
    if len(set(pairs)) < len(pairs):
        twice = next(p for k, p in enumerate(pairs) if p in pairs[:k])
        raise InvalidInputError(f"pair {twice} is there twice, expected each directed pair once")
    seen = {n for pair in pairs for n in pair}
    missing = [str(n) for n in range(max(seen) + 1) if n not in seen]
    if missing:
        raise InvalidInputError(f"no pair holds image {', '.join(missing[:8])}, expected every image in some pair")


def _check_sizes(predictions: PairPredictions) -> None:
    dims: dict[int, dict[str, int]] = {}
    for e, (i, j) in enumerate(predictions.pairs):
        for side, n in (("1", i), ("2", j)):
            points, confidence = getattr(predictions, f"pts3d_{side}")[e], getattr(predictions, f"conf_{side}")[e]
            label = f"of image {n} in pair ({i}, {j})"
            dims[n] = check_shape(f"pts3d_{side} {label}", points, "H", "W", 3, dims=dims.get(n))
            check_shape(f"conf_{side} {label}", confidence, "H", "W", dims=dims[n])


def image_confidences(predictions: PairPredictions) -> list[torch.Tensor]:
    """Raw confidence [H, W] of each image: the largest of all pairs that have a point there, 1 where none has."""
    fused = [torch.ones(size) for size in predictions.sizes]
    for e, (i, j) in enumerate(predictions.pairs):
        for n, points, confidence in (
            (i, predictions.pts3d_1[e], predictions.conf_1[e]),
            (j, predictions.pts3d_2[e], predictions.conf_2[e]),
        ):
            seen = torch.where(torch.isfinite(points).all(dim=-1), finite_confidence(confidence), 1.0)
            fused[n] = torch.maximum(fused[n], seen.to(fused[n]))
    return fused


def finite_confidence(confidence: torch.Tensor) -> torch.Tensor:
    """Raw confidences as float32 in [1, inf): what is NaN, infinite or below 1 becomes 1, which weighs nothing."""
    return torch.nan_to_num(confidence.float(), nan=1.0, posinf=1.0, neginf=1.0).clamp_min(1.0)


def edge_scores(predictions: PairPredictions) -> list[float]:
    """How far each pair is to be trusted: the product of the means of its two confidence maps."""
    return [
        float(finite_confidence(a).double().mean() * finite_confidence(b).double().mean())
        for a, b in zip(predictions.conf_1, predictions.conf_2, strict=True)
    ]

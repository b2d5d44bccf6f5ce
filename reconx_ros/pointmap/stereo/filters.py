"""Clean-up of depth maps: speckles and outliers."""

from __future__ import annotations

import torch
import torch.nn.functional as nnf


def median_filter(values: torch.Tensor, side: int = 3) -> torch.Tensor:
    """Median over a square window of [H, W]; the border is repeated."""
    half = side // 2
    padded = nnf.pad(values[None, None], (half, half, half, half), mode="replicate")
    windows = nnf.unfold(padded, side)  # [1, side^2, H W]
    return windows.median(dim=1).values.reshape(values.shape)


def _links(depth: torch.Tensor, mask: torch.Tensor, tolerance: float, axis: int) -> torch.Tensor:
    """Whether each pixel belongs to the same surface as its next neighbour along an axis; one shorter there."""
    size = depth.shape[axis]
    a, b = depth.narrow(axis, 0, size - 1), depth.narrow(axis, 1, size - 1)
    both = mask.narrow(axis, 0, size - 1) & mask.narrow(axis, 1, size - 1)
    return both & ((a - b).abs() <= tolerance * torch.minimum(a, b))


def connected_components(depth: torch.Tensor, mask: torch.Tensor, tolerance: float) -> torch.Tensor:
    """Label [H, W] of smooth patches: neighbours in the mask whose depths differ by at most a relative tolerance.

    Labels are the lowest pixel index of each patch. Minimum propagation with pointer jumping (Shiloach and Vishkin
    1982): logarithmically many rounds, each vectorised.
    """
    height, width = depth.shape
    index = torch.arange(height * width, device=depth.device).reshape(height, width)
    right, down = _links(depth, mask, tolerance, 1), _links(depth, mask, tolerance, 0)
    a = torch.cat([index[:, :-1][right], index[:-1][down]])  # [E]
    b = torch.cat([index[:, 1:][right], index[1:][down]])  # [E]
    label = index.reshape(-1).clone()
    while True:
        low = torch.minimum(label[a], label[b])
        merged = label.scatter_reduce(0, label[a], low, "amin").scatter_reduce(0, label[b], low, "amin")
        while not torch.equal(merged, merged[merged]):
            merged = merged[merged]
        if torch.equal(merged, label):
            return label.reshape(height, width)
        label = merged


def without_speckles(depth: torch.Tensor, mask: torch.Tensor, *, tolerance: float, min_pixels: int) -> torch.Tensor:
    """The mask [H, W] less its smooth patches of fewer than ``min_pixels`` pixels."""
    return without_small_patches(connected_components(depth, mask, tolerance), mask, min_pixels)


def without_small_patches(label: torch.Tensor, mask: torch.Tensor, min_pixels: int) -> torch.Tensor:
    """The mask [H, W] less the patches of fewer than ``min_pixels`` pixels, given the patch of each pixel [H, W]."""
    label = label.reshape(-1)
    size = torch.bincount(label, weights=mask.reshape(-1).float(), minlength=label.numel())
    return mask & (size[label] >= min_pixels).reshape(mask.shape)

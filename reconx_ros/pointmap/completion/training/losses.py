"""What the completion network is trained by."""

from __future__ import annotations

import torch

from reconx_ros.pointmap.completion.network import CompletedDepth

_MEASURED_WEIGHT = 0.3  # of pixels whose depth was given: stage 1 keeps its own there
_SLOPE_SCALES = (1, 2, 4, 8)  # px
_SLOPE_WEIGHT = 1.0
_LARGEST = 1.0  # errors of the logarithm above it pull no harder


def completion_loss(
    found: CompletedDepth, log_truth: torch.Tensor, known: torch.Tensor, measured: torch.Tensor
) -> torch.Tensor:
    """Laplace likelihood of the log depth, and differences of its slopes at four scales.

    Args:
        found: of B views.
        log_truth: [B, H, W] logarithm of the true depth over the network's unit; any number where not known.
        known: [B, H, W] bool, where the truth is known.
        measured: [B, H, W] bool, where the network was given the depth.
    """
    weight = known * torch.where(measured, _MEASURED_WEIGHT, 1.0)
    error = torch.where(known, found.log_depth - log_truth, 0.0)
    size = torch.where(
        error.abs() > _LARGEST, _LARGEST + torch.log1p((error.abs() - _LARGEST).clamp_min(0)), error.abs()
    )
    likelihood = size * torch.exp(-found.log_scale) + found.log_scale
    total = weight.sum().clamp_min(1.0)
    return (
        (likelihood * weight).sum() / total
        + 2.0 * (size * weight).sum() / total
        + _SLOPE_WEIGHT * _slopes(error, known)
    )


def _slopes(error: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference of the error between neighbours: zero for the right shape at any height."""
    total = error.new_zeros(())
    for step in _SLOPE_SCALES:
        for axis in (1, 2):
            size = error.shape[axis] - step
            a, b = error.narrow(axis, 0, size), error.narrow(axis, step, size)
            both = known.narrow(axis, 0, size) & known.narrow(axis, step, size)
            total = total + ((a - b).abs().clamp_max(_LARGEST) * both).sum() / both.sum().clamp_min(1)
    return total / len(_SLOPE_SCALES)

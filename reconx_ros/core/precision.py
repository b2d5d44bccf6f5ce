"""Which type of numbers a network computes in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reconx_ros.core.errors import ConfigError

if TYPE_CHECKING:
    import torch

PRECISIONS = ("auto", "float32", "bfloat16", "float16")


def dtype_from_precision(precision: str, device: torch.device, *, parameter: str = "precision") -> torch.dtype:
    """The torch type that a setting names; ``auto`` is bfloat16 (else float16) on a GPU and float32 elsewhere.

    Args:
        precision: one of PRECISIONS.
        device: where torch computes.
        parameter: name of the setting, for messages.

    Raises:
        ConfigError: for an unknown name, or float16 on a CPU.
    """
    import torch

    if precision not in PRECISIONS:
        raise ConfigError(f"{parameter} is '{precision}', expected one of {', '.join(PRECISIONS)}")
    if precision == "auto":
        if device.type != "cuda":
            return torch.float32
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if precision == "float16" and device.type == "cpu":
        raise ConfigError(f"{parameter} is 'float16' on a CPU, expected float32 or bfloat16 there")
    dtype: torch.dtype = getattr(torch, precision)
    return dtype

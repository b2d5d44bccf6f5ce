"""Real spherical harmonics in the sign convention of 3-D Gaussian splatting (Kerbl et al. 2023)."""

from __future__ import annotations

import math

import torch

SH_C0 = 0.5 / math.sqrt(math.pi)  # constant basis function
_C1 = math.sqrt(3 / (4 * math.pi))
_C2_CROSS, _C2_ZZ, _C2_XX = (math.sqrt(n / (d * math.pi)) for n, d in ((15, 4), (5, 16), (15, 16)))
_C3_EDGE, _C3_XYZ, _C3_SIDE, _C3_ZZZ, _C3_ZXX = (
    math.sqrt(n / (d * math.pi)) for n, d in ((35, 32), (105, 4), (21, 32), (7, 16), (105, 16))
)


def sh_basis(directions: torch.Tensor, bases: int) -> torch.Tensor:
    """Values of the basis functions.

    Args:
        directions: [..., 3] unit vectors.
        bases: 1, 4, 9 or 16, that is (degree + 1)^2.

    Returns:
        [..., bases]
    """
    x, y, z = directions.unbind(-1)
    values = [torch.full_like(x, SH_C0)]
    if bases > 1:
        values += [-_C1 * y, _C1 * z, -_C1 * x]
    if bases > 4:
        values += _degree_2(x, y, z)
    if bases > 9:
        values += _degree_3(x, y, z)
    return torch.stack(values, dim=-1)


def _degree_2(x: torch.Tensor, y: torch.Tensor, z: torch.Tensor) -> list[torch.Tensor]:
    return [
        _C2_CROSS * x * y,
        -_C2_CROSS * y * z,
        _C2_ZZ * (2 * z * z - x * x - y * y),
        -_C2_CROSS * x * z,
        _C2_XX * (x * x - y * y),
    ]


def _degree_3(x: torch.Tensor, y: torch.Tensor, z: torch.Tensor) -> list[torch.Tensor]:
    xx, yy, zz = x * x, y * y, z * z
    return [
        -_C3_EDGE * y * (3 * xx - yy),
        _C3_XYZ * x * y * z,
        -_C3_SIDE * y * (4 * zz - xx - yy),
        _C3_ZZZ * z * (2 * zz - 3 * xx - 3 * yy),
        -_C3_SIDE * x * (4 * zz - xx - yy),
        _C3_ZXX * z * (xx - yy),
        -_C3_EDGE * x * (xx - 3 * yy),
    ]


def sh_sum(sh: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
    """Weighted sum of the basis functions: coefficients [N, K, 3] seen along unit directions [N, 3] -> [N, 3]."""
    return (sh_basis(directions, sh.shape[-2])[..., None] * sh).sum(dim=-2)


def sh_color(sh: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
    """Colour ``max(0, 0.5 + SH(direction))``: [N, K, 3] and unit directions [N, 3] -> [N, 3]."""
    return (sh_sum(sh, directions) + 0.5).clamp_min(0.0)


def sh_from_rgb(rgb: torch.Tensor) -> torch.Tensor:
    """The constant coefficient that shows a colour from everywhere: [..., 3] -> [..., 3]."""
    return (rgb - 0.5) / SH_C0

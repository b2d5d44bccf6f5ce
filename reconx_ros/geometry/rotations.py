"""Many rotations at once, differentiable, in torch; a single one in float64 is the business of ``core.transforms``."""

from __future__ import annotations

import torch

_SMALL_ANGLE = 1e-3  # radians, below which the series is used


def rotations_from_quaternions_wxyz(quaternions_wxyz: torch.Tensor) -> torch.Tensor:
    """Rotation matrices [..., 3, 3] of quaternions [..., 4] of any non-zero length."""
    w, x, y, z = torch.nn.functional.normalize(quaternions_wxyz, dim=-1).unbind(-1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, dim=-1).reshape(*quaternions_wxyz.shape[:-1], 3, 3)


def quaternions_wxyz_from_rotations(rotations: torch.Tensor) -> torch.Tensor:
    """Unit quaternions [N, 4] of rotation matrices [N, 3, 3]: of four equivalent forms, the best conditioned one."""
    m = rotations
    xx, yy, zz = m[:, 0, 0], m[:, 1, 1], m[:, 2, 2]
    x, y, z = m[:, 2, 1] - m[:, 1, 2], m[:, 0, 2] - m[:, 2, 0], m[:, 1, 0] - m[:, 0, 1]
    xy, xz, yz = m[:, 0, 1] + m[:, 1, 0], m[:, 0, 2] + m[:, 2, 0], m[:, 1, 2] + m[:, 2, 1]
    forms = torch.stack(
        [
            torch.stack([1 + xx + yy + zz, x, y, z], dim=-1),
            torch.stack([x, 1 + xx - yy - zz, xy, xz], dim=-1),
            torch.stack([y, xy, 1 - xx + yy - zz, yz], dim=-1),
            torch.stack([z, xz, yz, 1 - xx - yy + zz], dim=-1),
        ],
        dim=1,
    )  # [N, 4, 4]: each row is the quaternion times four of its own component
    best = torch.diagonal(forms, dim1=1, dim2=2).argmax(dim=-1)
    return torch.nn.functional.normalize(forms[torch.arange(len(m)), best], dim=-1)


def rotations_exp(vectors: torch.Tensor) -> torch.Tensor:
    """Rotation matrices [..., 3, 3] of axis-angle vectors [..., 3] in radians (Rodrigues), smooth also at zero."""
    square = (vectors * vectors).sum(dim=-1)[..., None, None]
    small = square < _SMALL_ANGLE**2
    angle = torch.where(small, torch.ones_like(square), square).sqrt()
    first = torch.where(small, 1 - square / 6, torch.sin(angle) / angle)
    second = torch.where(small, 0.5 - square / 24, (1 - torch.cos(angle)) / (angle * angle))
    x, y, z = vectors.unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).reshape(*vectors.shape[:-1], 3, 3)
    identity = torch.eye(3, dtype=vectors.dtype, device=vectors.device)
    return identity + first * cross + second * (cross @ cross)

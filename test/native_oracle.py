"""Slow, obvious versions of what the compiled kernels do, in float64, and scenes to compare on."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from reconx_ros.core import BackendUnavailableError
from reconx_ros.native import library
from reconx_ros.splatting.backends.native import NativeRasterizer
from reconx_ros.splatting.harmonics import sh_color

ISAS = library.supported_isas()
GAUSSIAN_NAMES = ("means", "quats_wxyz", "scales", "opacities", "sh")


def rasterizer(monkeypatch: pytest.MonkeyPatch, isa: str, threads: int | None = None) -> NativeRasterizer:
    """A rasteriser for one instruction set; the test is skipped where there is no compiler."""
    monkeypatch.setenv(library.ISA_VARIABLE, isa)
    try:
        return NativeRasterizer(threads=threads)
    except BackendUnavailableError as error:
        pytest.skip(str(error))


def make_scene(
    count: int, *, width: int, height: int, bases: int = 4, cameras: int = 1, size_px: float = 3.0, seed: int = 0
) -> dict[str, Any]:
    """Arguments of ``render``: Gaussians of about size_px in front of rotated cameras; float32."""
    rng = torch.Generator().manual_seed(seed)
    focal = 0.9 * width
    depth = 1.5 + 3 * torch.rand(count, generator=rng)
    spot = (torch.rand(count, 2, generator=rng) * 1.2 - 0.6) * torch.tensor([width, height])
    angles = 0.1 * torch.randn(cameras, 3, generator=rng)
    poses = torch.eye(4).repeat(cameras, 1, 1)
    poses[:, :3, :3] = torch.linalg.matrix_exp(torch.cross(torch.eye(3)[None], angles[:, None], dim=-1))
    poses[:, :3, 3] = 0.1 * torch.randn(cameras, 3, generator=rng)
    intrinsics = torch.tensor([[focal, 0, width / 2 - 0.8], [0, 1.1 * focal, height / 2 - 0.3], [0, 0, 1]])
    return {
        "means": torch.cat([spot / focal * depth[:, None], depth[:, None]], dim=-1),
        "quats_wxyz": torch.randn(count, 4, generator=rng),
        "scales": size_px * (depth / focal)[:, None] * torch.exp(0.6 * torch.randn(count, 3, generator=rng)),
        "opacities": torch.sigmoid(1.5 * torch.randn(count, generator=rng) + 0.5),
        "sh": 0.4 * torch.randn(count, bases, 3, generator=rng),
        "cam_from_world": poses,
        "intrinsics": intrinsics.repeat(cameras, 1, 1),
        "background": torch.rand(cameras, 3, generator=rng),
        "width": width,
        "height": height,
    }


def oracle(
    *,
    means: torch.Tensor,
    quats_wxyz: torch.Tensor,
    scales: torch.Tensor,
    opacities: torch.Tensor,
    sh: torch.Tensor,
    cam_from_world: torch.Tensor,
    intrinsics: torch.Tensor,
    width: int,
    height: int,
    background: torch.Tensor,
    antialiased: bool = False,
    near: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Every Gaussian on every pixel: rgb [C, H, W, 3], alpha and expected depth [C, H, W]."""
    pictures = [
        _oracle_camera(means, quats_wxyz, scales, opacities, sh, pose, k, width, height, back, antialiased, near)
        for pose, k, back in zip(cam_from_world, intrinsics, background, strict=True)
    ]
    rgb, alpha, depth = (torch.stack(parts) for parts in zip(*pictures, strict=True))
    return rgb, alpha, depth


def _oracle_camera(
    means: torch.Tensor,
    quats: torch.Tensor,
    scales: torch.Tensor,
    opacities: torch.Tensor,
    sh: torch.Tensor,
    pose: torch.Tensor,
    k: torch.Tensor,
    width: int,
    height: int,
    background: torch.Tensor,
    antialiased: bool,
    near: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    cam = means @ pose[:3, :3].T + pose[:3, 3]
    order = torch.argsort(cam[:, 2].detach())
    order = order[cam[order, 2] > near]
    cam, quats, scales, opacities, sh, means = (t[order] for t in (cam, quats, scales, opacities, sh, means))
    centre = torch.linalg.inv(pose)[:3, 3]
    colors = sh_color(sh, torch.nn.functional.normalize(means - centre, dim=-1))
    spread, opacities = _covariances(cam, quats, scales, opacities, pose, k, width, height, antialiased)
    spot = cam[:, :2] / cam[:, 2:] * torch.stack([k[0, 0], k[1, 1]]) + k[:2, 2]
    ys, xs = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    delta = torch.stack([xs, ys], dim=-1).reshape(-1, 1, 2).to(spot) - spot  # [H * W, N, 2]
    power = 0.5 * torch.einsum("pni,nij,pnj->pn", delta, torch.linalg.inv(spread), delta)
    alpha = (opacities * torch.exp(-power)).clamp_max(0.999)
    alpha = torch.where(alpha >= 1 / 255, alpha, 0.0)
    behind = torch.cumprod(1 - alpha, dim=1)
    alive = behind.detach() > 1e-4
    before = torch.cat([torch.ones_like(behind[:, :1]), behind[:, :-1]], dim=1)
    weights = torch.where(alive, alpha * before, 0.0)
    through = torch.where(alive, 1 - alpha, 1.0).prod(dim=1)
    total = weights.sum(dim=1)
    rgb = weights @ colors + through[:, None] * background
    depth = weights @ cam[:, 2] / total.clamp_min(1e-10)
    return rgb.reshape(height, width, 3), total.reshape(height, width), depth.reshape(height, width)


def _covariances(
    cam: torch.Tensor,
    quats: torch.Tensor,
    scales: torch.Tensor,
    opacities: torch.Tensor,
    pose: torch.Tensor,
    k: torch.Tensor,
    width: int,
    height: int,
    antialiased: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    w, x, y, z = torch.nn.functional.normalize(quats, dim=-1).unbind(-1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    half = torch.stack(rows, dim=-1).reshape(-1, 3, 3) * scales[:, None]
    depth, zero = cam[:, 2], torch.zeros_like(cam[:, 2])
    jacobian = []
    for axis, size in ((0, width), (1, height)):
        focal, left = k[axis, axis], k[axis, 2] + 0.5
        low, high = -left / focal - 0.15 * size / focal, (size - left) / focal + 0.15 * size / focal
        slope = torch.minimum(torch.maximum(cam[:, axis] / depth, low), high)
        row = [zero, zero, -focal * slope / depth]
        row[axis] = focal / depth
        jacobian.append(torch.stack(row, dim=-1))
    flat = torch.stack(jacobian, dim=-2) @ pose[:3, :3] @ half
    spread = flat @ flat.transpose(-1, -2)
    dilated = spread + 0.3 * torch.eye(2, dtype=spread.dtype)
    if antialiased:
        ratio = torch.linalg.det(spread) / torch.linalg.det(dilated)
        opacities = opacities * ratio.clamp_min(0).sqrt()
    return dilated, opacities


def in_double(scene: dict[str, Any]) -> dict[str, Any]:
    """The scene's tensors as float64 leaves that require gradients."""
    return {n: v.double().requires_grad_() if isinstance(v, torch.Tensor) else v for n, v in scene.items()}


def as_leaves(scene: dict[str, Any]) -> dict[str, Any]:
    """Fresh leaves that require gradients."""
    return {n: v.clone().requires_grad_() if isinstance(v, torch.Tensor) else v for n, v in scene.items()}


def relative_error(value: torch.Tensor, truth: torch.Tensor) -> float:
    """Relative L2 distance; 0 for two zeros."""
    value, truth = value.detach().double(), truth.detach().double()
    distance = (value - truth).norm()
    return float(distance / truth.norm()) if distance > 0 else 0.0

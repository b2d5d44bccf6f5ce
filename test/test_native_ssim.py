"""The compiled structural similarity against plain convolutions in float64."""

from __future__ import annotations

import pytest
import torch
from native_oracle import ISAS, rasterizer, relative_error

from reconx_ros.core import InvalidInputError
from reconx_ros.splatting.backends.native_ssim import native_ssim_loss, native_weighted_ssim

SIZES = [(1, 1), (1, 30), (5, 3), (11, 11), (50, 67), (64, 48)]


def blurred(images: torch.Tensor) -> torch.Tensor:
    """Convolution of [D, H, W] with the 11 x 11 window, padding 5."""
    steps = torch.arange(11, dtype=images.dtype) - 5
    window = torch.exp(-(steps**2) / (2 * 1.5**2))
    window = window / window.sum()
    kernel = torch.outer(window, window)[None, None]
    return torch.nn.functional.conv2d(images[:, None], kernel, padding=5)[:, 0]


def ssim_oracle(
    image: torch.Tensor, target: torch.Tensor, known: torch.Tensor, normalizer: torch.Tensor
) -> torch.Tensor:
    """[H, W, 3]"""
    x, y = (image * known[..., None]).permute(2, 0, 1), (target * known[..., None]).permute(2, 0, 1)
    mx, my, xx, yy, xy = (blurred(t) * normalizer for t in (x, y, x * x, y * y, x * y))
    top = (2 * mx * my + 1e-4) * (2 * (xy - mx * my) + 9e-4)
    bottom = (mx * mx + my * my + 1e-4) * (xx + yy - mx * mx - my * my + 9e-4)
    return (top / bottom).permute(1, 2, 0)


def images(height: int, width: int, seed: int = 0) -> tuple[torch.Tensor, ...]:
    """Image, a noisy version, weight, known, normalizer."""
    rng = torch.Generator().manual_seed(seed)
    image = torch.rand(height, width, 3, generator=rng)
    target = (image + 0.2 * torch.randn(height, width, 3, generator=rng)).clamp(0, 1)
    known = (torch.rand(height, width, generator=rng) > 0.2).float()
    normalizer = 1 / blurred(known[None])[0].clamp_min(1e-3)
    return image, target, torch.rand(height, width, generator=rng), known, normalizer


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("isa", ISAS)
def test_loss_and_gradient(monkeypatch: pytest.MonkeyPatch, isa: str, size: tuple[int, int], masked: bool) -> None:
    rasterizer(monkeypatch, isa)
    image, target, weight, known, normalizer = images(*size)
    if not masked:
        known, normalizer = torch.ones(size), torch.ones(size)
    ours, truth = image.clone().requires_grad_(), image.double().requires_grad_()
    loss = native_ssim_loss(ours, target, weight, *((known, normalizer) if masked else ()))
    ssim = ssim_oracle(truth, target.double(), known.double(), normalizer.double())
    expected = (weight.double() * (1 - ssim.mean(dim=-1))).mean()
    torch.testing.assert_close(loss.double(), expected, rtol=2e-5, atol=1e-5)
    (3 * loss).backward()
    (3 * expected).backward()
    assert relative_error(ours.grad, truth.grad) < 3e-4


@pytest.mark.parametrize("isa", ISAS)
def test_map(monkeypatch: pytest.MonkeyPatch, isa: str) -> None:
    rasterizer(monkeypatch, isa)
    image, target, weight, _, _ = images(33, 47)
    ones = torch.ones(33, 47, dtype=torch.float64)
    truth = image.double().requires_grad_()
    expected = ssim_oracle(truth, target.double(), ones, ones) * weight[..., None]
    weighted, gradient = native_weighted_ssim(image, target, weight)
    torch.testing.assert_close(weighted.double(), expected.detach(), rtol=1e-4, atol=1e-5)
    expected.sum().backward()
    assert relative_error(gradient, truth.grad) < 1e-4


def test_same_image_is_one_and_flat(monkeypatch: pytest.MonkeyPatch) -> None:
    rasterizer(monkeypatch, ISAS[0])
    image, _, weight, _, _ = images(20, 30)
    weighted, gradient = native_weighted_ssim(image, image, weight)
    torch.testing.assert_close(weighted, weight[..., None].expand(20, 30, 3), rtol=1e-5, atol=1e-6)
    assert float(gradient.abs().max()) < 1e-4


def test_same_bits_for_any_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    rasterizer(monkeypatch, ISAS[0])
    image, target, weight, known, normalizer = images(70, 53)
    first = native_weighted_ssim(image, target, weight, known, normalizer, threads=1)
    for threads in (2, 3, 8):
        again = native_weighted_ssim(image, target, weight, known, normalizer, threads=threads)
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_strided_and_float64_images(monkeypatch: pytest.MonkeyPatch) -> None:
    rasterizer(monkeypatch, ISAS[0])
    image, target, weight, _, _ = images(20, 30)
    wide = image.double().permute(2, 0, 1).contiguous().permute(1, 2, 0).requires_grad_()
    loss = native_ssim_loss(wide, target, weight)
    torch.testing.assert_close(loss, native_ssim_loss(image, target, weight))
    loss.backward()
    assert wide.grad is not None and wide.grad.dtype == torch.float64


def test_wrong_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    rasterizer(monkeypatch, ISAS[0])
    image, target, weight, _, _ = images(20, 30)
    with pytest.raises(InvalidInputError, match="SSIM target"):
        native_ssim_loss(image, target[1:], weight)
    with pytest.raises(InvalidInputError, match="SSIM weight"):
        native_ssim_loss(image, target, weight[..., None])
    with pytest.raises(InvalidInputError, match="at least one pixel"):
        native_ssim_loss(torch.zeros(0, 4, 3), torch.zeros(0, 4, 3), torch.zeros(0, 4))

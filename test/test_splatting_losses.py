"""The losses of stage 3 against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from reconx_ros.core import InvalidInputError
from reconx_ros.splatting.losses import (
    LossWeights,
    SsimTarget,
    ViewTarget,
    blur,
    gaussian_window,
    relative_depth_error,
    ssim_map,
    view_loss,
    weighted_l1,
)

F64 = torch.float64


def images(height: int = 19, width: int = 23, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    target = torch.rand(height, width, 3, dtype=F64, generator=g)
    return (target + 0.2 * torch.randn(height, width, 3, dtype=F64, generator=g)).clamp(0, 1), target


def slow_ssim(a: np.ndarray, b: np.ndarray, known: np.ndarray) -> np.ndarray:
    """SSIM [H, W] by its definition, window after window, over the known pixels of each (Wang et al. 2004)."""
    offsets = np.arange(-5, 6)
    gauss = np.exp(-0.5 * (offsets / 1.5) ** 2)
    out = np.zeros(a.shape[:2])
    for v, u in np.ndindex(*out.shape):
        rows, columns = v + offsets, u + offsets
        r, c = rows[(rows >= 0) & (rows < a.shape[0])], columns[(columns >= 0) & (columns < a.shape[1])]
        weight = np.outer(gauss[r - v + 5], gauss[c - u + 5]) * known[np.ix_(r, c)]
        weight = weight[..., None] / max(weight.sum(), 1e-12)
        x, y = a[np.ix_(r, c)], b[np.ix_(r, c)]
        mx, my = (weight * x).sum((0, 1)), (weight * y).sum((0, 1))
        vx, vy = (weight * (x - mx) ** 2).sum((0, 1)), (weight * (y - my) ** 2).sum((0, 1))
        cov = (weight * (x - mx) * (y - my)).sum((0, 1))
        values = (2 * mx * my + 1e-4) * (2 * cov + 9e-4) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4))
        out[v, u] = values.mean()
    return out


@pytest.mark.parametrize("masked", [False, True])
def test_ssim_equals_its_definition(masked: bool) -> None:
    image, target = images()
    known = torch.ones(19, 23, dtype=torch.bool)
    if masked:
        known[4:12, 8:15] = False
    expected = slow_ssim(image.numpy(), target.numpy(), known.numpy())
    ours = ssim_map(image, SsimTarget.of(target, known)).numpy()
    assert np.abs(ours - expected)[known.numpy()].max() < 1e-9


def test_ssim_gradient_equals_the_definition() -> None:
    image, target = images(7, 6)
    leaf = image.requires_grad_()
    compared = SsimTarget.of(target, torch.ones(7, 6, dtype=torch.bool))
    assert torch.autograd.gradcheck(lambda x: ssim_map(x, compared), (leaf,), atol=1e-7)


def test_ssim_of_equal_images_is_one_even_for_one_pixel() -> None:
    for height, width in ((1, 1), (1, 30), (12, 3)):
        _, target = images(height, width)
        values = ssim_map(target, SsimTarget.of(target, torch.ones(height, width)))
        assert torch.allclose(values, torch.ones(height, width, dtype=F64))


def test_ssim_ignores_unknown_pixels() -> None:
    image, target = images()
    known = torch.ones(19, 23)
    known[:, 15:] = 0
    compared = SsimTarget.of(target, known)
    before = ssim_map(image, compared)
    image[:, 15:] = 7.0
    assert torch.equal(before[:, :15], ssim_map(image, compared)[:, :15])


def test_separable_blur_equals_the_two_dimensional_window() -> None:
    image, _ = images()
    window = gaussian_window(F64)
    kernel = torch.outer(window, window).expand(3, 1, 11, 11)
    expected = torch.nn.functional.conv2d(image.permute(2, 0, 1)[None], kernel, padding=5, groups=3)[0]
    assert torch.allclose(blur(image), expected.permute(1, 2, 0), atol=1e-12)


def target_of(rgb: torch.Tensor, weight: torch.Tensor, depth: torch.Tensor | None = None) -> ViewTarget:
    return ViewTarget(rgb=rgb, weight=weight, ssim=SsimTarget.of(rgb, weight > 0), depth=depth)


def test_view_loss_is_equation_7() -> None:
    image, target = images()
    confidence = torch.rand(19, 23, dtype=F64) + 0.01
    depth, truth = torch.full((19, 23), 2.2, dtype=F64), torch.full((19, 23), 2.0, dtype=F64)
    perceptual = (image - target).square().mean(dim=-1)
    ssim = torch.from_numpy(slow_ssim(image.numpy(), target.numpy(), np.ones((19, 23))))
    terms = 0.8 * (image - target).abs().mean(dim=-1) + 0.2 * (1 - ssim) + 0.5 * perceptual + 0.3 * 0.1
    ours = view_loss(
        image,
        depth,
        target_of(target, confidence, truth),
        LossWeights(l1=0.8, ssim=0.2, lpips=0.5, depth=0.3),
        perceptual=lambda a, b: (a - b).square().mean(dim=-1),
    )
    assert float(ours) == pytest.approx(float((confidence * terms).mean()), rel=1e-9)


def test_pixels_without_weight_pull_nothing() -> None:
    image, target = images()
    weight = torch.ones(19, 23, dtype=F64)
    weight[:, :10] = 0
    leaf = image.requires_grad_()
    view_loss(leaf, leaf[..., 0], target_of(target, weight), LossWeights()).backward()
    assert leaf.grad is not None and not bool(leaf.grad[:, :10].any()) and bool(leaf.grad[:, 10:].any())


def test_weight_scales_the_loss() -> None:
    image, target = images()
    weight = torch.rand(19, 23, dtype=F64)
    assert float(weighted_l1(image, target, 3 * weight)) == pytest.approx(3 * float(weighted_l1(image, target, weight)))


def test_depth_error_is_relative_bounded_and_blind_to_unknown() -> None:
    depth = torch.tensor([[1.1, 5.0, 50.0, 2.0]])
    target = torch.tensor([[1.0, 0.0, 2.0, 2.0]])
    assert float(relative_depth_error(depth, target, torch.ones(1, 4))) == pytest.approx((0.1 + 0 + 1 + 0) / 4)


def test_images_of_another_size_are_refused() -> None:
    _, target = images()
    with pytest.raises(InvalidInputError, match=r"SSIM image has shape \[5, 23, 3\]"):
        ssim_map(target[:5], SsimTarget.of(target, torch.ones(19, 23)))


def test_the_compiled_ssim_is_the_torch_ssim_in_value_and_gradient() -> None:
    from reconx_ros.core.registry import create
    from reconx_ros.splatting.fit import ssim_loss_for
    from reconx_ros.splatting.losses import torch_ssim_loss
    from reconx_ros.splatting.registry import registry

    reason = registry()["native"].missing()
    if reason is not None:
        pytest.skip(reason)
    generator = torch.Generator().manual_seed(3)
    image, truth = torch.rand(2, 37, 53, 3, generator=generator)
    known = torch.rand(37, 53, generator=generator) > 0.3
    weight = torch.rand(37, 53, generator=generator) * known
    target = SsimTarget.of(truth, known)
    results = []
    for loss in (torch_ssim_loss, ssim_loss_for(create(registry(), "native", kind="rasterizer"))):
        leaf = image.clone().requires_grad_()
        value = loss(leaf, target, weight)
        value.backward()
        results.append((value.detach(), leaf.grad))
    torch.testing.assert_close(results[1][0], results[0][0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(results[1][1], results[0][1], rtol=1e-3, atol=1e-7)

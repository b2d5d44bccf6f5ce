"""The reference rasteriser: against a loop over pixels, finite differences, and laws that every renderer obeys."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from splatting_scenes import cameras, random_gaussians

from reconx_ros.core import SE3, InvalidInputError
from reconx_ros.splatting.backends.reference import ReferenceRasterizer
from reconx_ros.splatting.base import Rendering
from reconx_ros.splatting.harmonics import sh_basis, sh_color, sh_from_rgb
from reconx_ros.splatting.projection import covariances, project_gaussians

render = ReferenceRasterizer().render
F64 = torch.float64
GAUSSIANS = ("means", "quats_wxyz", "scales", "opacities", "sh")


def difference(a: Rendering, b: Rendering) -> float:
    return max(float((getattr(a, n) - getattr(b, n)).abs().max()) for n in ("rgb", "alpha", "depth"))


def by_loop(arguments: dict[str, Any], background: torch.Tensor | None = None) -> np.ndarray:
    """Picture [H, W, 5] (r g b, alpha, expected depth) of the first camera: one pixel and one Gaussian at a time."""
    pose = arguments["cam_from_world"][0]
    size = {"width": arguments["width"], "height": arguments["height"]}
    covars = covariances(arguments["quats_wxyz"], arguments["scales"])
    seen = project_gaussians(arguments["means"], covars, pose, arguments["intrinsics"][0], **size, near=0.01)
    directions = torch.nn.functional.normalize(arguments["means"] - torch.linalg.inv(pose)[:3, 3], dim=-1)
    colors = sh_color(arguments["sh"], directions)[seen.index].numpy()
    opacities = arguments["opacities"][seen.index].numpy()
    centres, conics, depths = seen.means_px.numpy(), seen.conics.numpy(), seen.depths.numpy()
    order = np.argsort(depths, kind="stable")
    picture = np.zeros((size["height"], size["width"], 5))
    for v, u in np.ndindex(*picture.shape[:2]):
        through, color, depth = 1.0, np.zeros(3), 0.0
        for i in order:
            dx, dy = u - centres[i, 0], v - centres[i, 1]
            power = 0.5 * (conics[i, 0] * dx * dx + conics[i, 2] * dy * dy) + conics[i, 1] * dx * dy
            alpha = min(0.999, opacities[i] * np.exp(-power))
            if alpha < 1 / 255:
                continue
            if through * (1 - alpha) <= 1e-4:
                break
            color, depth = color + through * alpha * colors[i], depth + through * alpha * depths[i]
            through *= 1 - alpha
        behind = 0.0 if background is None else background[0].numpy()
        picture[v, u] = [*(color + through * behind), 1 - through, depth / max(1 - through, 1e-10)]
    return picture


def test_equals_a_loop_over_pixels() -> None:
    arguments = {**random_gaussians(60, bases=9, dtype=F64), **cameras(width=21, height=13, dtype=F64)}
    arguments["opacities"] = torch.linspace(0.0, 1.0, 60, dtype=F64)  # some invisible, some that end a ray
    arguments["scales"] = arguments["scales"] * 4
    background = torch.tensor([[0.2, 0.5, 0.8]], dtype=F64)
    out = render(**arguments, background=background)
    ours = torch.cat([out.rgb, out.alpha[..., None], out.depth[..., None]], dim=-1)[0].numpy()
    assert np.abs(ours - by_loop(arguments, background)).max() < 1e-9
    assert ours[..., 3].max() > 0.9995


def test_float32_equals_float64() -> None:
    fine = {**random_gaussians(200, dtype=F64), **cameras(2, dtype=F64)}
    coarse = {n: v.float() if isinstance(v, torch.Tensor) else v for n, v in fine.items()}
    a, b = render(**fine), render(**coarse)
    assert a.rgb.dtype == F64 and b.rgb.dtype == torch.float32
    assert difference(a, b) < 2e-4


@pytest.mark.parametrize("antialiased", [False, True])
def test_gradients_equal_finite_differences(antialiased: bool) -> None:
    arguments = {**random_gaussians(5, bases=16, seed=3, dtype=F64), **cameras(2, width=9, height=8, dtype=F64)}
    arguments["scales"] = arguments["scales"] * 2
    arguments["background"] = torch.tensor([[0.2, 0.5, 0.8]] * 2, dtype=F64)
    names = (*GAUSSIANS, "cam_from_world", "intrinsics", "background")
    leaves = [arguments[n].requires_grad_() for n in names]

    def picture(*values: torch.Tensor) -> torch.Tensor:
        given = {**arguments, **dict(zip(names, values, strict=True))}
        out = render(**given, antialiased=antialiased)
        return torch.cat([out.rgb.flatten(), out.alpha.flatten(), (out.depth * out.alpha).flatten()])

    # Steps small enough that no pixel crosses the limits (1/255, 0.999, clamped colour), where the picture jumps.
    direction = [
        torch.randn(v.shape, dtype=F64, generator=torch.Generator().manual_seed(i)) for i, v in enumerate(leaves)
    ]
    weights = torch.randn(picture(*leaves).shape, dtype=F64, generator=torch.Generator().manual_seed(9))
    analytic = torch.autograd.grad((picture(*leaves) * weights).sum(), leaves)
    for i, (name, leaf) in enumerate(zip(names, leaves, strict=True)):
        step = 1e-7 * direction[i]
        ends = [picture(*leaves[:i], leaf.detach() + s * step, *leaves[i + 1 :]).detach() for s in (1, -1)]
        numeric = float(((ends[0] - ends[1]) * weights).sum() / 2e-7)
        assert float((analytic[i] * direction[i]).sum()) == pytest.approx(numeric, rel=1e-4, abs=1e-5), name


@hypothesis_settings(max_examples=10)
@given(st.lists(st.floats(-2, 2), min_size=6, max_size=6))
def test_moving_the_world_with_the_cameras_changes_nothing(motion: list[float]) -> None:
    arguments = {**random_gaussians(40, bases=1, dtype=F64), **cameras(dtype=F64)}
    before = render(**arguments)
    moved = SE3.exp(np.array(motion[:3]), np.array(motion[3:]))
    rotation = torch.tensor(moved.rotation, dtype=F64)
    arguments["means"] = arguments["means"] @ rotation.T + torch.tensor(moved.translation, dtype=F64)
    turn = torch.tensor(moved.quaternion_wxyz, dtype=F64)
    arguments["quats_wxyz"] = quaternion_product(turn, arguments["quats_wxyz"])
    arguments["cam_from_world"] = arguments["cam_from_world"] @ torch.tensor(moved.inverse().matrix, dtype=F64)
    assert difference(before, render(**arguments)) < 1e-8


def quaternion_product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Hamilton product of a [4] and b [N, 4], both (w, x, y, z)."""
    w = a[0] * b[:, 0] - b[:, 1:] @ a[1:]
    v = a[0] * b[:, 1:] + b[:, :1] * a[1:] + torch.linalg.cross(a[1:].expand_as(b[:, 1:]), b[:, 1:])
    return torch.cat([w[:, None], v], dim=-1)


@hypothesis_settings(max_examples=10)
@given(st.floats(0.2, 50))
def test_scaling_the_world_scales_depth_only(factor: float) -> None:
    arguments = {**random_gaussians(40, dtype=F64), **cameras(dtype=F64)}
    before = render(**arguments)
    arguments["means"], arguments["scales"] = factor * arguments["means"], factor * arguments["scales"]
    arguments["cam_from_world"][:, :3, 3] *= factor
    after = render(**arguments)
    assert float((after.rgb - before.rgb).abs().max()) < 1e-8
    assert torch.allclose(after.depth, factor * before.depth, rtol=1e-8)


@hypothesis_settings(max_examples=10)
@given(st.integers(0, 1000))
def test_order_of_gaussians_does_not_matter(seed: int) -> None:
    arguments = {**random_gaussians(50, dtype=F64), **cameras(dtype=F64)}
    order = torch.randperm(50, generator=torch.Generator().manual_seed(seed))
    shuffled = {**arguments, **{n: arguments[n][order] for n in GAUSSIANS}}
    assert difference(render(**arguments), render(**shuffled)) < 1e-12


@hypothesis_settings(max_examples=10)
@given(st.integers(0, 1000), st.floats(0.3, 8))
def test_alpha_stays_in_its_range_and_background_is_linear(seed: int, size: float) -> None:
    arguments = {**random_gaussians(80, seed=seed), **cameras()}
    arguments["scales"] = size * arguments["scales"]
    black, white = (render(**arguments, background=torch.full((1, 3), c)) for c in (0.0, 1.0))
    grey = render(**arguments, background=torch.full((1, 3), 0.25))
    assert float(black.alpha.min()) >= 0 and float(black.alpha.max()) <= 1
    assert torch.allclose(white.rgb - black.rgb, (1 - black.alpha)[..., None].expand_as(black.rgb), atol=1e-5)
    assert torch.allclose(grey.rgb, 0.75 * black.rgb + 0.25 * white.rgb, atol=1e-5)


def test_pixel_zero_is_the_centre_of_the_first_pixel() -> None:
    arguments = {**random_gaussians(1, bases=1), **cameras(width=9, height=7)}
    arguments["intrinsics"][:, 0, 2], arguments["intrinsics"][:, 1, 2] = 4.0, 3.0
    arguments["means"] = torch.tensor([[0.0, 0.0, 2.0]])
    arguments["quats_wxyz"] = torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    alpha = render(**arguments).alpha[0]
    assert torch.allclose(alpha, alpha.flip(0), atol=1e-6) and torch.allclose(alpha, alpha.flip(1), atol=1e-6)
    assert int(alpha.argmax()) == 3 * 9 + 4


def test_nearer_gaussian_hides_the_farther() -> None:
    arguments = {**random_gaussians(2, bases=1), **cameras()}
    arguments["means"] = torch.tensor([[0.0, 0.0, 4.0], [0.0, 0.0, 2.0]])
    arguments["scales"], arguments["opacities"] = torch.full((2, 3), 5.0), torch.tensor([1.0, 1.0])
    arguments["sh"] = sh_from_rgb(torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]))[:, None]
    out = render(**arguments)
    assert torch.allclose(out.rgb[0, 12, 16], torch.tensor([0.001, 0.999, 0.0]), atol=1e-3)
    assert float(out.depth[0, 12, 16]) == pytest.approx(2.0, abs=5e-3)


def test_no_gaussians_or_all_behind_give_the_background() -> None:
    background = torch.tensor([[0.2, 0.5, 0.8]])
    behind = random_gaussians(10)
    behind["means"][:, 2] *= -1
    for arguments in (random_gaussians(0), behind):
        leaf = arguments["means"].requires_grad_()
        out = render(**arguments, **cameras(), background=background)
        assert torch.equal(out.rgb[0], background.expand(24, 32, 3)) and not bool(out.alpha.any() or out.depth.any())
        out.rgb.sum().backward()
        assert leaf.grad is not None and not bool(leaf.grad.any())


def test_one_pixel_and_no_camera() -> None:
    assert render(**random_gaussians(30), **cameras(width=1, height=1)).rgb.shape == (1, 1, 1, 3)
    assert render(**random_gaussians(3), **cameras(0)).rgb.shape == (0, 24, 32, 3)


@pytest.mark.parametrize("name", GAUSSIANS)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_no_numbers_are_refused(name: str, value: float) -> None:
    arguments = {**random_gaussians(4), **cameras()}
    arguments[name].view(-1)[1] = value
    with pytest.raises(InvalidInputError, match=rf"gaussian {name} has 1 values that are NaN or infinite"):
        render(**arguments)


def test_wrong_shapes_are_refused() -> None:
    arguments = {**random_gaussians(4), **cameras()}
    arguments["opacities"] = arguments["opacities"][:3]
    with pytest.raises(InvalidInputError, match=r"gaussian opacities has shape \[3\], expected \[N=4\]"):
        render(**arguments)


def test_harmonics_are_orthonormal() -> None:
    polar, weights = np.polynomial.legendre.leggauss(16)
    turn = np.linspace(0, 2 * np.pi, 32, endpoint=False)
    z, phi = (torch.from_numpy(a.ravel()) for a in np.meshgrid(polar, turn, indexing="ij"))
    r = (1 - z * z).sqrt()
    values = sh_basis(torch.stack([r * phi.cos(), r * phi.sin(), z], dim=-1), 16)
    area = torch.from_numpy(np.repeat(weights, 32)) * (2 * np.pi / 32)
    assert torch.allclose(values.T @ (area[:, None] * values), torch.eye(16, dtype=F64), atol=1e-12)

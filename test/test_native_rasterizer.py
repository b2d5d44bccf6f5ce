"""The compiled rasteriser against upstream's numbers, a dense float64 oracle and the reference twin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import parity
import pytest
import torch
from native_oracle import GAUSSIAN_NAMES, ISAS, as_leaves, in_double, make_scene, oracle, rasterizer, relative_error

from reconx_ros.core import InvalidInputError
from reconx_ros.splatting.backends.native import NativeRasterizer
from reconx_ros.splatting.backends.reference import ReferenceRasterizer

MAX_PICTURE_ERROR = 1e-4
MAX_GRADIENT_ERROR = 1e-3
THREADS = (1, 2, 8)
SH_C0 = 0.28209479177387814


@pytest.fixture
def native(monkeypatch: pytest.MonkeyPatch) -> NativeRasterizer:
    return rasterizer(monkeypatch, ISAS[0])


def parity_scene(stored: Any) -> dict[str, Any]:
    coloured = "sh" not in stored
    sh = ((stored["colors_u8"].astype(np.float32) / 255 - 0.5) / SH_C0)[:, None] if coloured else stored["sh"]
    intrinsics = torch.from_numpy(stored["Ks"]).clone()
    intrinsics[:, :2, 2] -= 0.5  # to pixel centres
    return {
        "means": torch.from_numpy(stored["means"]),
        "quats_wxyz": torch.from_numpy(stored["quats"]),
        "scales": torch.from_numpy(stored["scales"]),
        "opacities": torch.from_numpy(stored["opacities"]),
        "sh": torch.from_numpy(sh),
        "cam_from_world": torch.from_numpy(stored["viewmats"]),
        "intrinsics": intrinsics,
        "width": int(stored["width"]),
        "height": int(stored["height"]),
    }


def assert_close(value: torch.Tensor, truth: Any, limit: float, name: str) -> None:
    error = relative_error(value, torch.as_tensor(truth))
    assert error <= limit, f"{name}: relative error {error:.2e}"


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("path", parity.recorded("rendering"))
def test_pictures_equal_upstream(path: Path, monkeypatch: pytest.MonkeyPatch, isa: str, threads: int) -> None:
    stored = np.load(path)
    native, scene = rasterizer(monkeypatch, isa, threads), parity_scene(stored)
    plain = native.render(**scene)
    first = "rgb_" if "rgb_colors" in stored else ""
    with_depth = "rgb_ed_" if "rgb_ed_colors" in stored else first
    assert_close(plain.rgb, stored[f"{first}colors"][..., :3], MAX_PICTURE_ERROR, "rgb")
    assert_close(plain.alpha, stored[f"{first}alphas"][..., 0], MAX_PICTURE_ERROR, "alpha")
    assert_close(plain.depth, stored[f"{with_depth}colors"][..., 3], MAX_PICTURE_ERROR, "expected depth")
    if "rgb_d_aa_colors" in stored:
        smooth, colors = native.render(**scene, antialiased=True), stored["rgb_d_aa_colors"]
        assert_close(smooth.rgb, colors[..., :3], MAX_PICTURE_ERROR, "antialiased rgb")
        assert_close(smooth.alpha, stored["rgb_d_aa_alphas"][..., 0], MAX_PICTURE_ERROR, "antialiased alpha")
        assert_close(smooth.depth * smooth.alpha, colors[..., 3], MAX_PICTURE_ERROR, "antialiased depth")


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("path", parity.recorded("rendering with gradients"))
def test_gradients_equal_upstream(path: Path, monkeypatch: pytest.MonkeyPatch, isa: str, threads: int) -> None:
    stored = np.load(path)
    leaves = as_leaves(parity_scene(stored))
    background = torch.tensor([0.2, 0.5, 0.8]).expand(len(stored["Ks"]), 3)
    picture = rasterizer(monkeypatch, isa, threads).render(**leaves, background=background)
    assert_close(picture.rgb, stored["rgb_bg_colors"], MAX_PICTURE_ERROR, "rgb")
    loss = (picture.rgb * torch.from_numpy(stored["v_colors"])).sum()
    (loss + (picture.alpha * torch.from_numpy(stored["v_alphas"])[..., 0]).sum()).backward()
    for name, key in zip(GAUSSIAN_NAMES, ("g_means", "g_quats", "g_scales", "g_opacities", "g_sh"), strict=True):
        assert_close(leaves[name].grad, stored[key], MAX_GRADIENT_ERROR, name)
    assert_close(leaves["cam_from_world"].grad, stored["g_viewmats"], MAX_GRADIENT_ERROR, "cam_from_world")


SCENES = {
    "plain": {"count": 90, "width": 37, "height": 29},
    "one basis": {"count": 60, "width": 20, "height": 16, "bases": 1},
    "degree 2": {"count": 61, "width": 23, "height": 31, "bases": 9},
    "degree 3, three cameras": {"count": 75, "width": 30, "height": 21, "bases": 16, "cameras": 3},
    "large ones": {"count": 40, "width": 70, "height": 40, "size_px": 15.0},
    "opaque": {"count": 400, "width": 18, "height": 18, "size_px": 6.0},
    "one": {"count": 1, "width": 16, "height": 16, "size_px": 30.0},
}


@pytest.mark.parametrize("antialiased", [False, True])
@pytest.mark.parametrize("kind", SCENES)
@pytest.mark.parametrize("isa", ISAS)
def test_equals_the_oracle(monkeypatch: pytest.MonkeyPatch, isa: str, kind: str, antialiased: bool) -> None:
    native, scene = rasterizer(monkeypatch, isa), make_scene(**SCENES[kind], seed=7)
    leaves, doubles = as_leaves(scene), in_double(scene)
    picture = native.render(**leaves, antialiased=antialiased)
    truth = oracle(**doubles, antialiased=antialiased)
    rng = torch.Generator().manual_seed(1)
    slopes = [torch.randn(t.shape, generator=rng) for t in truth]
    for value, true, name in zip(
        (picture.rgb, picture.alpha, picture.depth), truth, ("rgb", "alpha", "depth"), strict=True
    ):
        assert_close(value, true.detach(), 1e-5, name)
    torch.autograd.backward([picture.rgb, picture.alpha, picture.depth], slopes)
    torch.autograd.backward(list(truth), [s.double() for s in slopes])
    for name in (*GAUSSIAN_NAMES, "cam_from_world", "intrinsics", "background"):
        assert_close(leaves[name].grad, doubles[name].grad, 1e-4, name)


@pytest.mark.parametrize("antialiased", [False, True])
def test_equals_the_reference_twin(native: NativeRasterizer, antialiased: bool) -> None:
    scene = make_scene(800, width=90, height=61, cameras=2, seed=3)
    ours, theirs = as_leaves(scene), in_double(scene)
    picture = native.render(**ours, antialiased=antialiased)
    truth = ReferenceRasterizer().render(**theirs, antialiased=antialiased)
    for name in ("rgb", "alpha", "depth"):
        assert_close(getattr(picture, name), getattr(truth, name).detach(), 1e-4, name)
    for result in (picture, truth):
        (result.rgb.sin().sum() + 2 * result.alpha.sum() + (result.depth * 0.3).cos().sum()).backward()
    for name in (*GAUSSIAN_NAMES, "cam_from_world", "background"):
        assert_close(ours[name].grad, theirs[name].grad, MAX_GRADIENT_ERROR, name)


def test_needles_far_outside_keep_their_shape(native: NativeRasterizer) -> None:
    scene = make_scene(30, width=64, height=48, seed=5)
    scene["scales"] = scene["scales"] * torch.tensor([60.0, 0.05, 0.05])
    picture, truth = native.render(**scene), oracle(**in_double(scene))
    assert_close(picture.rgb, truth[0].detach(), 1e-4, "rgb")
    assert_close(picture.alpha, truth[1].detach(), 1e-4, "alpha")


def gradients_of(native: NativeRasterizer, scene: dict[str, Any]) -> list[torch.Tensor]:
    leaves = as_leaves(scene)
    picture = native.render(**leaves)
    (picture.rgb.sum() + picture.depth.sum()).backward()
    tensors = [v.grad for v in leaves.values() if isinstance(v, torch.Tensor)]
    return [picture.rgb.detach(), picture.alpha.detach(), picture.depth.detach(), *tensors]


@pytest.mark.parametrize("isa", ISAS)
def test_same_bits_for_any_number_of_threads(monkeypatch: pytest.MonkeyPatch, isa: str) -> None:
    scene = make_scene(5000, width=200, height=120, seed=2)
    first = gradients_of(rasterizer(monkeypatch, isa, 1), scene)
    for threads in (1, 2, 3, 8):
        again = gradients_of(rasterizer(monkeypatch, isa, threads), scene)
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True)), threads


def test_memory_is_reused_without_traces(native: NativeRasterizer) -> None:
    small, large = (
        make_scene(50, width=40, height=30, seed=4),
        make_scene(3000, width=130, height=90, cameras=2, seed=4),
    )
    first = gradients_of(native, small)
    gradients_of(native, large)
    assert all(torch.equal(a, b) for a, b in zip(first, gradients_of(native, small), strict=True))


def test_two_graphs_at_once_and_backward_twice(native: NativeRasterizer) -> None:
    one, other = (
        as_leaves(make_scene(80, width=30, height=20, seed=1)),
        as_leaves(make_scene(90, width=25, height=35, seed=2)),
    )
    first, second = native.render(**one), native.render(**other)
    second.rgb.sum().backward()
    first.rgb.sum().backward(retain_graph=True)
    once = one["means"].grad.clone()
    first.rgb.sum().backward()
    torch.testing.assert_close(one["means"].grad, 2 * once)


def test_only_what_is_asked_for_gets_a_gradient(native: NativeRasterizer) -> None:
    scene = make_scene(60, width=30, height=20)
    scene["opacities"].requires_grad_()
    picture = native.render(**scene)
    assert not native.render(**{**scene, "opacities": scene["opacities"].detach()}).rgb.requires_grad
    picture.alpha.sum().backward()
    assert scene["opacities"].grad is not None
    assert scene["means"].grad is None


def test_no_gaussians(native: NativeRasterizer) -> None:
    leaves = as_leaves(make_scene(0, width=20, height=10, cameras=2))
    picture = native.render(**leaves)
    torch.testing.assert_close(picture.rgb, leaves["background"][:, None, None].expand(2, 10, 20, 3))
    assert not bool(picture.alpha.any()) and not bool(picture.depth.any())
    picture.rgb.sum().backward()
    torch.testing.assert_close(leaves["background"].grad, torch.full((2, 3), 200.0))
    assert leaves["means"].grad.shape == (0, 3)


def test_no_cameras(native: NativeRasterizer) -> None:
    scene = make_scene(10, width=20, height=10, cameras=1)
    scene.update(cam_from_world=torch.zeros(0, 4, 4), intrinsics=torch.zeros(0, 3, 3), background=None)
    assert native.render(**scene).rgb.shape == (0, 10, 20, 3)


def test_all_behind_the_camera(native: NativeRasterizer) -> None:
    scene = make_scene(50, width=20, height=10)
    scene["means"][:, 2] *= -1
    leaves = as_leaves(scene)
    picture = native.render(**leaves)
    torch.testing.assert_close(picture.rgb, scene["background"][:, None, None].expand(1, 10, 20, 3))
    (picture.rgb.sum() + picture.depth.sum()).backward()
    assert all(float(leaves[name].grad.abs().sum()) == 0 for name in GAUSSIAN_NAMES)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (33, 1), (16, 16), (17, 15)])
def test_odd_sizes(native: NativeRasterizer, size: tuple[int, int]) -> None:
    scene = make_scene(40, width=size[0], height=size[1], seed=6)
    assert_close(native.render(**scene).rgb, oracle(**in_double(scene))[0].detach(), 1e-5, "rgb")


def test_near_plane(native: NativeRasterizer) -> None:
    scene = make_scene(50, width=30, height=20)
    assert_close(native.render(**scene, near=3.0).rgb, oracle(**in_double(scene), near=3.0)[0].detach(), 1e-5, "rgb")


def test_strided_and_float64_inputs(native: NativeRasterizer) -> None:
    scene = make_scene(70, width=30, height=20)
    truth = native.render(**scene)
    strided = {n: v.mT.contiguous().mT if isinstance(v, torch.Tensor) and v.ndim > 1 else v for n, v in scene.items()}
    strided["opacities"] = torch.stack([scene["opacities"]] * 2, dim=1)[:, 0]
    assert not strided["means"].is_contiguous()
    assert torch.equal(native.render(**strided).rgb, truth.rgb)
    doubles = in_double(scene)
    picture = native.render(**doubles)
    assert picture.rgb.dtype == torch.float32
    assert torch.equal(picture.rgb, truth.rgb)
    picture.rgb.sum().backward()
    assert doubles["means"].grad.dtype == torch.float64


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", [*GAUSSIAN_NAMES, "cam_from_world", "intrinsics", "background"])
def test_not_finite_inputs(native: NativeRasterizer, name: str, bad: float) -> None:
    scene = make_scene(37, width=30, height=20)
    scene[name].view(-1)[-1 if name in GAUSSIAN_NAMES else 0] = bad
    with pytest.raises(InvalidInputError, match=rf"{name} has 1 values that are NaN or infinite"):
        native.render(**scene)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"means": torch.zeros(9, 3)}, r"\[N=9, 4\]"),
        ({"sh": torch.zeros(40, 5, 3)}, "5 bases"),
        ({"width": 0}, "0x20"),
        ({"near": float("nan")}, "near plane"),
        ({"intrinsics": torch.zeros(1, 3, 3)}, "focal length"),
        ({"background": torch.zeros(2, 3)}, "background"),
        ({"opacities": torch.zeros(40, device="meta")}, "meta"),
    ],
)
def test_wrong_inputs(native: NativeRasterizer, change: dict[str, Any], message: str) -> None:
    scene = {**make_scene(40, width=30, height=20), **change}
    with pytest.raises(InvalidInputError, match=message):
        native.render(**scene)


def test_extreme_but_finite_inputs_give_finite_results(native: NativeRasterizer) -> None:
    scene = make_scene(200, width=30, height=20, seed=9)
    scene["scales"][:20] = 1e20
    scene["scales"][20:40] = 0
    scene["quats_wxyz"][40:60] = 0
    scene["means"][60:80] *= 1e9
    scene["means"][80:100, 2] = 0.0101
    scene["opacities"][100:120] = 0
    for values in gradients_of(native, scene):
        assert bool(torch.isfinite(values).all())


def test_threads_must_be_positive() -> None:
    with pytest.raises(InvalidInputError, match="threads is 0"):
        NativeRasterizer(threads=0)

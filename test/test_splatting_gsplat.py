"""The rasteriser that calls gsplat, without gsplat: a stand-in keeps the arguments it is called with."""

from __future__ import annotations

import importlib.machinery
import sys
import types
from typing import Any

import pytest
import torch
from splatting_scenes import cameras, random_gaussians

from reconx_ros.core import InvalidInputError
from reconx_ros.splatting.backends import gsplat as backend
from reconx_ros.splatting.backends.gsplat import GsplatRasterizer, pack_arguments
from reconx_ros.splatting.backends.reference import ReferenceRasterizer
from reconx_ros.splatting.base import Rendering
from reconx_ros.splatting.registry import registry

GRADIENTS = ("means", "quats_wxyz", "scales", "opacities", "sh", "cam_from_world")


class StandIn:
    """``gsplat.rasterization`` by the torch reference, in gsplat's conventions, on the CPU."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def __call__(
        self,
        means: torch.Tensor,
        quats: torch.Tensor,
        scales: torch.Tensor,
        opacities: torch.Tensor,
        colors: torch.Tensor,
        viewmats: torch.Tensor,
        Ks: torch.Tensor,  # noqa: N803
        width: int,
        height: int,
        near_plane: float = 0.01,
        far_plane: float = 1e10,
        sh_degree: int | None = None,
        packed: bool = True,
        backgrounds: torch.Tensor | None = None,
        render_mode: str = "RGB",
        rasterize_mode: str = "classic",
        camera_model: str = "pinhole",
    ) -> tuple[torch.Tensor, torch.Tensor, dict[str, Any]]:
        self.calls.append({k: v for k, v in locals().items() if k != "self"})
        assert (render_mode, packed, camera_model) == ("RGB+ED", False, "pinhole") and far_plane > 1e9
        assert sh_degree is not None and (sh_degree + 1) ** 2 == colors.shape[1]
        picture = ReferenceRasterizer().render(
            means=means,
            quats_wxyz=quats,
            scales=scales,
            opacities=opacities,
            sh=colors,
            cam_from_world=viewmats,
            intrinsics=Ks - 0.5 * torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]),
            width=width,
            height=height,
            background=backgrounds,
            antialiased=rasterize_mode == "antialiased",
            near=near_plane,
        )
        return torch.cat([picture.rgb, picture.depth[..., None]], dim=-1), picture.alpha[..., None], {}


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    made, module = StandIn(), types.ModuleType("gsplat")
    module.rasterization = made  # type: ignore[attr-defined]
    module.__spec__ = importlib.machinery.ModuleSpec("gsplat", None)
    monkeypatch.setitem(sys.modules, "gsplat", module)
    monkeypatch.setattr(backend, "_check_devices", lambda *tensors: None)
    return made


def packed(bases: int = 4, dtype: torch.dtype = torch.float32, **changes: Any) -> dict[str, Any]:
    arguments = {**random_gaussians(5, bases=bases, dtype=dtype), **cameras(2, dtype=dtype), "background": None}
    return pack_arguments(**{**arguments, "antialiased": False, "near": 0.2, **changes})


def test_arguments_are_those_of_gsplat() -> None:
    arguments = packed()
    assert set(arguments) == {
        *("means", "quats", "scales", "opacities", "colors", "viewmats", "Ks", "backgrounds", "width", "height"),
        *("near_plane", "sh_degree", "packed", "render_mode", "rasterize_mode", "camera_model"),
    }
    assert (arguments["render_mode"], arguments["packed"], arguments["camera_model"]) == ("RGB+ED", False, "pinhole")
    assert arguments["near_plane"] == 0.2 and arguments["backgrounds"] is None
    assert (arguments["width"], arguments["height"]) == (32, 24)


def test_principal_point_moves_by_half_a_pixel_and_the_callers_does_not() -> None:
    intrinsics = torch.tensor([[[30.0, 0.5, 15.5], [0.0, 31.0, 11.5], [0.0, 0.0, 1.0]]]).repeat(2, 1, 1)
    moved = packed(intrinsics=intrinsics)["Ks"]
    assert moved[0].tolist() == [[30.0, 0.5, 16.0], [0.0, 31.0, 12.0], [0.0, 0.0, 1.0]]
    assert torch.equal(moved[0], moved[1]) and intrinsics[0, 0, 2] == 15.5


def test_quaternions_and_poses_keep_their_order() -> None:
    gaussians, views = random_gaussians(5), cameras(2)
    arguments = packed()
    assert torch.equal(arguments["quats"], gaussians["quats_wxyz"])
    assert torch.equal(arguments["viewmats"], views["cam_from_world"])
    assert torch.equal(arguments["scales"], gaussians["scales"])
    assert torch.equal(arguments["colors"], gaussians["sh"])


@pytest.mark.parametrize(("bases", "degree"), [(1, 0), (4, 1), (9, 2), (16, 3)])
def test_degree_of_the_harmonics(bases: int, degree: int) -> None:
    assert packed(bases)["sh_degree"] == degree


@pytest.mark.parametrize(("antialiased", "mode"), [(True, "antialiased"), (False, "classic")])
def test_antialiasing_mode(antialiased: bool, mode: str) -> None:
    assert packed(antialiased=antialiased)["rasterize_mode"] == mode


def test_tensors_become_float32_and_contiguous() -> None:
    arguments = packed(dtype=torch.float64, background=torch.rand(3, 2, dtype=torch.float64).T)
    tensors = [v for v in arguments.values() if isinstance(v, torch.Tensor)]
    assert len(tensors) == 8 and all(t.dtype == torch.float32 and t.is_contiguous() for t in tensors)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sh": torch.zeros(5, 5, 3)}, "5 bases"),
        ({"width": 0}, "0x24"),
        ({"near": -1.0}, "near plane is -1"),
        ({"near": float("nan")}, "near plane is nan"),
        ({"intrinsics": torch.eye(3).repeat(2, 1, 1).requires_grad_()}, "gradient"),
    ],
)
def test_what_gsplat_cannot_do_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        packed(**changes)


@pytest.mark.parametrize("antialiased", [False, True])
@pytest.mark.parametrize("with_background", [False, True])
def test_picture_is_taken_apart(stand_in: StandIn, antialiased: bool, with_background: bool) -> None:
    arguments = {**random_gaussians(40), **cameras(2), "antialiased": antialiased, "near": 0.05}
    arguments["background"] = torch.tensor([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]]) if with_background else None
    picture, wanted = GsplatRasterizer().render(**arguments), ReferenceRasterizer().render(**arguments)
    assert len(stand_in.calls) == 1
    assert picture.rgb.shape == (2, 24, 32, 3) and picture.alpha.shape == picture.depth.shape == (2, 24, 32)
    for name in ("rgb", "alpha", "depth"):
        torch.testing.assert_close(getattr(picture, name), getattr(wanted, name), atol=1e-6, rtol=1e-5)


def test_gradients_flow_through(stand_in: StandIn) -> None:
    arguments = {**random_gaussians(20), **cameras(1)}
    for name in GRADIENTS:
        arguments[name].requires_grad_()
    picture = GsplatRasterizer().render(**arguments)
    (picture.rgb.sum() + picture.depth.sum()).backward()
    assert all(float(arguments[name].grad.abs().sum()) > 0 for name in GRADIENTS)


@pytest.mark.parametrize(("gaussians", "views"), [(0, 2), (5, 0), (0, 0)])
def test_nothing_to_render_shows_the_background(stand_in: StandIn, gaussians: int, views: int) -> None:
    arguments = {**random_gaussians(gaussians), **cameras(views), "background": torch.full((views, 3), 0.25)}
    arguments["means"].requires_grad_()
    picture = GsplatRasterizer().render(**arguments)
    assert not stand_in.calls and picture.rgb.shape == (views, 24, 32, 3) and picture.depth.shape == (views, 24, 32)
    assert bool((picture.rgb == 0.25).all()) and not bool(picture.alpha.any()) and not bool(picture.depth.any())
    picture.rgb.sum().backward()


def test_nan_is_refused(stand_in: StandIn) -> None:
    arguments = {**random_gaussians(3), **cameras(1)}
    arguments["means"][1, 1] = float("nan")
    with pytest.raises(InvalidInputError, match="gaussian means has 1 values"):
        GsplatRasterizer().render(**arguments)


def test_tensors_off_the_gpu_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="tensors on cpu, expected one CUDA device"):
        GsplatRasterizer().render(**random_gaussians(3), **cameras(1))


@pytest.mark.parametrize(
    ("cuda", "nvcc", "words"),
    [(False, None, "CUDA GPU"), (True, None, "no compiled CUDA kernels"), (True, "/usr/bin/nvcc", None)],
)
def test_reasons_name_what_is_absent(
    monkeypatch: pytest.MonkeyPatch, stand_in: StandIn, cuda: bool, nvcc: str | None, words: str | None
) -> None:
    sys.modules["gsplat"].__path__ = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr("torch.utils.cpp_extension.CUDA_HOME", None)
    monkeypatch.setattr("shutil.which", lambda name: nvcc)
    reason = GsplatRasterizer.unavailable_reason()
    assert reason is None if words is None else words in str(reason)


def test_reason_without_gsplat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install 'reconx_ros[gpu]'" in str(GsplatRasterizer.unavailable_reason())


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    wanted = wanted.to("cpu", torch.float64)
    return float((found.to("cpu", torch.float64) - wanted).norm() / wanted.norm().clamp_min(1e-12))


def with_gradients(name: str, device: str, antialiased: bool) -> tuple[Rendering, dict[str, torch.Tensor]]:
    arguments = {**random_gaussians(300, bases=9), **cameras(2, width=80, height=60)}
    arguments |= {"background": torch.tensor([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]]), "antialiased": antialiased}
    arguments = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in arguments.items()}
    for key in GRADIENTS:
        arguments[key].requires_grad_()
    picture = registry()[name].load_class()().render(**arguments)
    g = torch.Generator().manual_seed(7)
    slopes = [torch.rand(t.shape, generator=g).to(device) for t in (picture.rgb, picture.alpha)]
    (slopes[0] * picture.rgb).sum().add((slopes[1] * picture.alpha).sum()).add(0.1 * picture.depth.sum()).backward()
    return picture, {key: arguments[key].grad for key in GRADIENTS}


@pytest.mark.gpu
@pytest.mark.parametrize("antialiased", [False, True])
def test_gsplat_agrees_with_the_native_kernels(antialiased: bool) -> None:
    for name in ("gsplat", "native"):
        reason = registry()[name].missing()
        if reason is not None:
            pytest.skip(reason)
    picture, gradients = with_gradients("gsplat", "cuda", antialiased)
    wanted, wanted_gradients = with_gradients("native", "cpu", antialiased)
    for name in ("rgb", "alpha", "depth"):
        assert relative(getattr(picture, name), getattr(wanted, name)) < 1e-4, name
    for name in GRADIENTS:
        assert relative(gradients[name], wanted_gradients[name]) < 1e-3, name

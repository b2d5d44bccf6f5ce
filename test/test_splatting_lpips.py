"""LPIPS of our own, on random weights, against a slow twin in numpy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from splatting_scenes import random_gaussians, scene_from, sequence_of, wall_views

from reconx_ros.core import (
    ConfigError,
    Frame,
    InvalidInputError,
    Job,
    Keyframe,
    ReconxError,
    WeightsError,
)
from reconx_ros.pipeline.config import ReconxConfig
from reconx_ros.pipeline.reconstructor import Reconstructor
from reconx_ros.splatting.backends.reference import ReferenceRasterizer
from reconx_ros.splatting.config import SplattingConfig
from reconx_ros.splatting.fit import fit
from reconx_ros.splatting.losses import LossWeights, SsimTarget, ViewTarget, view_loss
from reconx_ros.splatting.lpips import Lpips, head_shapes, load_lpips, perceptual_from_config, trunk_shapes

Weights = dict[str, torch.Tensor]
VGG16 = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M")  # as in torchvision


def random_trunk() -> Weights:
    """VGG16 of random weights that keep the size of activations, with keys counted as torchvision counts layers."""
    g = torch.Generator().manual_seed(0)
    weights: Weights = {}
    channels, index = 3, 0
    for layer in VGG16:
        if layer == "M":
            index += 1
            continue
        width = int(layer)
        weights[f"features.{index}.weight"] = (
            torch.randn(width, channels, 3, 3, generator=g) * (2 / (9 * channels)) ** 0.5
        )
        weights[f"features.{index}.bias"] = 0.1 * torch.randn(width, generator=g)
        channels, index = width, index + 2  # a convolution and its ReLU
    return weights


def random_heads() -> Weights:
    g = torch.Generator().manual_seed(1)
    widths = (64, 128, 256, 512, 512)
    return {f"lin{i}.model.1.weight": torch.rand(1, width, 1, 1, generator=g) for i, width in enumerate(widths)}


@pytest.fixture(scope="module")
def trunk() -> Weights:
    return random_trunk()


@pytest.fixture(scope="module")
def heads() -> Weights:
    return random_heads()


@pytest.fixture(scope="module")
def network(trunk: Weights, heads: Weights) -> Lpips:
    return Lpips(trunk, heads)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, trunk: Weights, heads: Weights) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("lpips")
    paths = folder / "vgg16.pth", folder / "vgg.pth"
    torch.save({**trunk, "classifier.0.weight": torch.zeros(2, 2), "classifier.0.bias": torch.zeros(2)}, paths[0])
    torch.save(heads, paths[1])
    return paths


def pictures(height: int = 24, width: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(3)
    return torch.rand(height, width, 3, generator=g), torch.rand(height, width, 3, generator=g)


# The slow twin ---------------------------------------------------------------------------------------------------


def slow_taps(picture: np.ndarray, trunk: Weights) -> list[np.ndarray]:
    """Unit features [D, h, w] in float64 after the last ReLU before each pooling, and after the last of all."""
    mean, deviation = np.array([-0.030, -0.088, -0.188]), np.array([0.458, 0.448, 0.450])
    x = (((picture * 2 - 1) - mean) / deviation).transpose(2, 0, 1)
    taps, index = [], 0
    for layer in VGG16:
        if layer == "M":
            taps.append(x)
            h, w = x.shape[1] // 2, x.shape[2] // 2
            x = x[:, : 2 * h, : 2 * w].reshape(len(x), h, 2, w, 2).max(axis=(2, 4))
            index += 1
            continue
        weight = trunk[f"features.{index}.weight"].double().numpy()
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
        x = sum(
            np.einsum("oc,chw->ohw", weight[:, :, i, j], padded[:, i : i + x.shape[1], j : j + x.shape[2]])
            for i in range(3)
            for j in range(3)
        )
        x = np.maximum(x + trunk[f"features.{index}.bias"].double().numpy()[:, None, None], 0)
        index += 2
    return [tap / (np.sqrt((tap**2).sum(axis=0)) + 1e-10) for tap in taps]


def slow_layers(a: torch.Tensor, b: torch.Tensor, trunk: Weights, heads: Weights) -> list[np.ndarray]:
    ours, theirs = slow_taps(a.double().numpy(), trunk), slow_taps(b.double().numpy(), trunk)
    weights = [heads[f"lin{i}.model.1.weight"].double().numpy().reshape(-1, 1, 1) for i in range(5)]
    return [(w * (x - y) ** 2).sum(axis=0) for w, x, y in zip(weights, ours, theirs, strict=True)]


def slow_enlarged(layer: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bilinear, aligned at the borders of the picture, one pixel at a time."""
    out = np.empty((height, width))
    for v in range(height):
        for u in range(width):
            y = min(max((v + 0.5) * layer.shape[0] / height - 0.5, 0), layer.shape[0] - 1)
            x = min(max((u + 0.5) * layer.shape[1] / width - 0.5, 0), layer.shape[1] - 1)
            y0, x0 = int(y), int(x)
            y1, x1 = min(y0 + 1, layer.shape[0] - 1), min(x0 + 1, layer.shape[1] - 1)
            top = layer[y0, x0] * (1 - x + x0) + layer[y0, x1] * (x - x0)
            bottom = layer[y1, x0] * (1 - x + x0) + layer[y1, x1] * (x - x0)
            out[v, u] = top * (1 - y + y0) + bottom * (y - y0)
    return out


@pytest.mark.parametrize(("height", "width"), [(16, 32), (21, 35)])
def test_map_and_distance_agree_with_the_slow_twin(
    network: Lpips, trunk: Weights, heads: Weights, height: int, width: int
) -> None:
    a, b = pictures(height, width)
    layers = slow_layers(a, b, trunk, heads)
    wanted = sum(slow_enlarged(layer, height, width) for layer in layers)
    np.testing.assert_allclose(network(a, b).numpy(), wanted, rtol=2e-4)
    np.testing.assert_allclose(float(network.distance(a, b)), sum(layer.mean() for layer in layers), rtol=1e-4)
    assert [list(layer.shape) for layer in network.layer_maps(a, b)] == [list(layer.shape) for layer in layers]


# Properties ------------------------------------------------------------------------------------------------------


def test_shapes_are_those_of_the_public_files(trunk: Weights, heads: Weights) -> None:
    assert trunk_shapes() == {key: tuple(value.shape) for key, value in trunk.items()}
    assert head_shapes() == {key: tuple(value.shape) for key, value in heads.items()}
    assert list(trunk_shapes())[::2] == [
        f"features.{i}.weight" for i in (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
    ]


def test_identical_pictures_have_no_distance(network: Lpips) -> None:
    a, _ = pictures()
    assert not bool(network(a, a.clone()).any()) and float(network.distance(a, a)) == 0


def test_symmetric_and_positive(network: Lpips) -> None:
    a, b = pictures()
    forth = network(a, b)
    assert forth.shape == (24, 40) and bool((forth > 0).all())
    torch.testing.assert_close(forth, network(b, a))


def test_mean_of_the_map_is_the_distance_where_sizes_halve_evenly(network: Lpips) -> None:
    a, b = pictures(32, 48)
    torch.testing.assert_close(network(a, b).mean(), network.distance(a, b), rtol=1e-5, atol=0)


def test_map_is_large_where_the_pictures_differ(network: Lpips) -> None:
    a, _ = pictures(64, 64)
    b = a.clone()
    b[:16, :16] = 1 - b[:16, :16]
    distances = network(a, b)
    assert float(distances[:16, :16].mean()) > 5 * float(distances[48:, 48:].mean())


def test_gradient_agrees_with_differences(network: Lpips, trunk: Weights, heads: Weights) -> None:
    a, b = (picture.double().requires_grad_(i == 0) for i, picture in enumerate(pictures(16, 16)))
    direction = torch.rand(a.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64) - 0.5
    twin = Lpips(trunk, heads)
    twin(a, b).mean().backward()
    with torch.no_grad():
        step = 1e-6 * direction
        numeric = (twin(a + step, b).mean() - twin(a - step, b).mean()) / 2e-6
    torch.testing.assert_close((a.grad * direction).sum(), numeric, rtol=1e-4, atol=0)


def test_gradient_is_finite_where_all_features_are_zero(heads: Weights) -> None:
    dead = {
        key: torch.full(shape, -1.0) if len(shape) == 1 else torch.zeros(shape) for key, shape in trunk_shapes().items()
    }
    a, b = pictures(16, 16)
    a.requires_grad_()
    Lpips(dead, heads)(a, b).sum().backward()
    assert bool(torch.isfinite(a.grad).all())


def test_weights_are_fixed(network: Lpips) -> None:
    assert not list(network.parameters()) and not network.state_dict()


@pytest.mark.parametrize(
    ("a", "b", "words"),
    [
        ((24, 15, 3), (24, 15, 3), "15x24, expected at least 16x16"),
        ((24, 24, 3), (24, 25, 3), "LPIPS target has shape"),
    ],
)
def test_pictures_that_cannot_be_compared(network: Lpips, a: tuple[int, ...], b: tuple[int, ...], words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        network(torch.rand(a), torch.rand(b))


# In the fit ------------------------------------------------------------------------------------------------------


def test_confidence_weighs_the_map(network: Lpips) -> None:
    a, b = pictures()
    weight = torch.rand(24, 40, generator=torch.Generator().manual_seed(9))
    target = ViewTarget(rgb=b, weight=weight, ssim=SsimTarget.of(b, torch.ones(24, 40)))
    loss = view_loss(a, torch.zeros(24, 40), target, LossWeights(l1=0, ssim=0, lpips=0.5), network)
    torch.testing.assert_close(loss, 0.5 * (weight * network(a, b)).mean())


def test_fit_reports_the_term_as_on(network: Lpips) -> None:
    views = wall_views(2, width=20, height=16)
    result = fit(
        scene_from(random_gaussians(30)),
        sequence_of(views),
        SplattingConfig(steps=2),
        rasterizer=ReferenceRasterizer(),
        device=torch.device("cpu"),
        perceptual=network,
    )
    assert result.terms["lpips"] == "on" and len(result.losses) == 2


# Files -----------------------------------------------------------------------------------------------------------


def test_files_are_loaded(files: tuple[Path, Path], network: Lpips) -> None:
    a, b = pictures()
    torch.testing.assert_close(load_lpips(*files)(a, b), network(a, b))


def test_old_torch_files_are_loaded(tmp_path: Path, files: tuple[Path, Path], heads: Weights, network: Lpips) -> None:
    torch.save(heads, tmp_path / "vgg.pth", _use_new_zipfile_serialization=False)
    a, b = pictures()
    torch.testing.assert_close(load_lpips(files[0], str(tmp_path / "vgg.pth"))(a, b), network(a, b))


def test_safetensors_are_loaded(tmp_path: Path, files: tuple[Path, Path], heads: Weights, network: Lpips) -> None:
    package = pytest.importorskip("safetensors.torch")
    package.save_file(heads, tmp_path / "vgg.safetensors")
    a, b = pictures()
    torch.testing.assert_close(load_lpips(files[0], tmp_path / "vgg.safetensors")(a, b), network(a, b))
    (tmp_path / "bad.safetensors").write_bytes(b"no weights")
    with pytest.raises(WeightsError, match="no complete safetensors file"):
        load_lpips(files[0], tmp_path / "bad.safetensors")


def without(weights: Weights, key: str) -> Weights:
    return {k: v for k, v in weights.items() if k != key}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t, h: (without(t, "features.24.bias"), h), r"trunk \(VGG16\) lacks 1 of 26 tensors.*features.24.bias"),
        (lambda t, h: (t, without(h, "lin3.model.1.weight")), "heads lacks 1 of 5 tensors.*lin3.model.1.weight"),
        (lambda t, h: (h, t), "lacks 26 of 26"),
        (lambda t, h: ({**t, "features.30.weight": t["features.28.weight"]}, h), "1 unknown tensors.*features.30"),
        (lambda t, h: (t, {**h, "lin5.model.1.weight": torch.zeros(1)}), "1 unknown tensors.*lin5"),
        (lambda t, h: ({**t, "features.0.weight": torch.zeros(64, 1, 3, 3)}, h), "features.0.weight' has shape"),
        (lambda t, h: (t, {**h, "lin0.model.1.weight": torch.zeros(64)}), "lin0.model.1.weight' has shape"),
        (lambda t, h: (t, {**h, "lin0.model.1.weight": torch.full((1, 64, 1, 1), np.nan)}), "64 values that are NaN"),
    ],
)
def test_wrong_tensors_are_named(trunk: Weights, heads: Weights, change: Any, words: str) -> None:
    with pytest.raises(InvalidInputError, match=words):
        Lpips(*change(trunk, heads))


class Stranger:
    """Something that only code can restore."""


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([torch.zeros(2)], "hold a list"),
        ({"lin0": "text"}, "hold a str under 'lin0'"),
        ({3: torch.zeros(2)}, "under 3"),
        ({"lin0": Stranger()}, "foreign code .*Stranger"),
    ],
)
def test_files_of_other_things_are_refused(tmp_path: Path, files: tuple[Path, Path], content: Any, words: str) -> None:
    torch.save(content, tmp_path / "vgg.pth")
    with pytest.raises(InvalidInputError, match=words):
        load_lpips(files[0], tmp_path / "vgg.pth")


@pytest.mark.parametrize("data", [b"", b"no weights", b"PK\x03\x04 cut off"])
def test_damaged_files_are_refused(tmp_path: Path, files: tuple[Path, Path], data: bytes) -> None:
    (tmp_path / "vgg.pth").write_bytes(data)
    with pytest.raises(WeightsError, match="complete"):
        load_lpips(files[0], tmp_path / "vgg.pth")


def test_absent_files(tmp_path: Path, files: tuple[Path, Path]) -> None:
    for path in (tmp_path / "absent.pth", tmp_path / "absent.safetensors", tmp_path):
        with pytest.raises(WeightsError, match="cannot be read"):
            load_lpips(files[0], path)


# Configuration ---------------------------------------------------------------------------------------------------


def test_no_files_mean_no_loss() -> None:
    assert perceptual_from_config(SplattingConfig()) is None


def test_weight_zero_loads_nothing(tmp_path: Path) -> None:
    absent = str(tmp_path / "absent.pth")
    config = SplattingConfig(lpips_trunk=absent, lpips_heads=absent, weight_lpips=0.0)
    assert perceptual_from_config(config) is None


def test_files_of_the_configuration_are_loaded(files: tuple[Path, Path]) -> None:
    config = SplattingConfig(lpips_trunk=str(files[0]), lpips_heads=str(files[1]))
    assert isinstance(perceptual_from_config(config), Lpips)


@pytest.mark.parametrize("named", ["lpips_trunk", "lpips_heads"])
def test_one_file_alone_is_a_mistake(named: str) -> None:
    with pytest.raises(ConfigError, match=f"{named} is 'some.pth' but"):
        perceptual_from_config(SplattingConfig(**{named: "some.pth"}))
    with pytest.raises(ReconxError):
        perceptual_from_config(SplattingConfig(lpips_trunk="absent", lpips_heads="absent"))


def test_reconstruction_uses_the_files_of_its_configuration(files: tuple[Path, Path]) -> None:
    views = wall_views(2, width=20, height=16)
    for named, state in ((files, "on"), (("", ""), "unavailable")):
        splatting = SplattingConfig(steps=1, max_gaussians=40, lpips_trunk=str(named[0]), lpips_heads=str(named[1]))
        run = Reconstructor(ReconxConfig(device="cpu", splatting=splatting))
        result = run.fit(views, sequence_of(views))
        assert result.terms["lpips"] == state


def test_a_wrong_file_is_named_before_any_work_is_done(files: tuple[Path, Path]) -> None:
    splatting = SplattingConfig(lpips_trunk="absent.pth", lpips_heads=str(files[1]))
    stages: list[str] = []
    job = Job(stage="run", on_progress=lambda stage, *_: stages.append(stage))
    camera = wall_views(2).views[0].camera
    frame = Frame(rgb_u8=np.zeros((camera.height, camera.width, 3), np.uint8), camera=camera)
    keyframes = [Keyframe(id=i, frame=frame, sharpness=1.0, reason="chosen") for i in range(2)]
    with pytest.raises(ReconxError, match=r"absent\.pth"):
        Reconstructor(ReconxConfig(device="cpu", splatting=splatting)).run(keyframes, job=job)
    assert stages == []

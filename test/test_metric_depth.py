"""Metric depth networks: preprocessing as the processor of transformers, scale from a small network made here."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pointmap_scenes import pinhole

from reconx_ros.core import SE3, AlignedViews, Frame, InvalidInputError, Keyframe, PointMap, ReconxError, WeightsError
from reconx_ros.core.settings import updated
from reconx_ros.pipeline.config import ReconxConfig
from reconx_ros.pipeline.preparation import prepare
from reconx_ros.pointmap.config import PointmapConfig
from reconx_ros.pointmap.network.metric_depth import (
    MetricDepthNetwork,
    Preprocessing,
    metric_from_canonical,
    resident_network,
)
from reconx_ros.pointmap.scale import scale_to_metric
from reconx_ros.weights.cache import ModelCache

transformers = pytest.importorskip("transformers")
METRES = 7.5


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Depth Anything of a few thousand weights, made to say 7.5 m everywhere, and its preprocessor."""
    folder = tmp_path_factory.mktemp("network")
    torch.manual_seed(0)
    backbone = transformers.Dinov2Config(
        hidden_size=16, num_hidden_layers=4, num_attention_heads=2, mlp_ratio=1, image_size=56, patch_size=14,
        out_features=["stage1", "stage2", "stage3", "stage4"], reshape_hidden_states=False,
    )  # fmt: skip
    config = transformers.DepthAnythingConfig(
        backbone_config=backbone, reassemble_hidden_size=16, neck_hidden_sizes=[4, 4, 8, 8], fusion_hidden_size=4,
        head_hidden_size=4, depth_estimation_type="metric", max_depth=10,
    )  # fmt: skip
    model = transformers.DepthAnythingForDepthEstimation(config)
    last = model.head.conv3
    torch.nn.init.zeros_(last.weight)
    torch.nn.init.constant_(last.bias, float(np.log(METRES / (10 - METRES))))
    model.save_pretrained(folder)
    content = {"size": {"height": 56, "width": 56}, "ensure_multiple_of": 14, "keep_aspect_ratio": True, "resample": 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(content))
    return folder


def wall_views(depths: list[float], *, bend: float = 0.0) -> AlignedViews:
    """Views of walls at some depths, in an unknown unit."""
    camera = pinhole(48, 36)
    bent = torch.exp(bend * torch.linspace(-1, 1, 48)).expand(36, 48)
    views = [
        PointMap(
            rgb=torch.full((36, 48, 3), 0.5),
            depth=d * bent,
            confidence=torch.ones(36, 48),
            valid=torch.ones(36, 48, dtype=torch.bool),
            provenance=torch.ones(36, 48, dtype=torch.uint8),
            camera=camera,
            world_from_cam=SE3(rotation=np.eye(3), translation=np.array([0.1 * i, 0, 0])),
            keyframe_id=i,
        )
        for i, d in enumerate(depths)
    ]
    return AlignedViews(views=tuple(views), metric_scale=False, scale_source=None, backend="test")


def keyframes_of(views: AlignedViews) -> list[Keyframe]:
    image = np.full((36, 48, 3), 128, np.uint8)
    return [Keyframe(id=v.keyframe_id, frame=Frame(rgb_u8=image, camera=v.camera), sharpness=1.0) for v in views.views]


@pytest.mark.parametrize("size", [(48, 64), (480, 640), (333, 217), (518, 518)])
def test_preprocessing_equals_the_processor_of_transformers(size: tuple[int, int]) -> None:
    module = pytest.importorskip("transformers.models.dpt.image_processing_pil_dpt")
    processor = module.DPTImageProcessorPil(
        size={"height": 140, "width": 140}, ensure_multiple_of=14, keep_aspect_ratio=True,
        image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225],
    )  # fmt: skip
    # Without black and white: Pillow clips the overshoot of the cubic after each axis.
    image = np.random.default_rng(0).integers(60, 196, (*size, 3), np.uint8)
    wanted = processor(images=image, return_tensors="pt")["pixel_values"]
    found = Preprocessing.from_json(processor.to_dict())(torch.from_numpy(image).float() / 255)
    assert found.shape == wanted.shape
    # Pillow rounds to 8 bits after each axis.
    assert float((found - wanted).abs().max()) < 2.5 / 255 / 0.224


def test_depth_comes_on_the_grid_of_the_image(network: Path) -> None:
    model = MetricDepthNetwork(network)
    for width, height in ((48, 36), (61, 97)):
        depth = model.depth_m(torch.rand(height, width, 3), pinhole(width, height))
        assert depth.shape == (height, width)
        torch.testing.assert_close(depth, torch.full_like(depth, METRES))


def test_a_network_stays_loaded_between_scenes(network: Path) -> None:
    models = ModelCache()
    views, config = wall_views([2.0, 2.1]), PointmapConfig(metric_network=str(network))
    first = scale_to_metric(views, keyframes_of(views), config, models=models)
    took = models.load_seconds
    second = scale_to_metric(views, keyframes_of(views), config, models=models)
    assert len(models.keys) == 1 and models.load_seconds - took < 0.05 * took
    assert first.scale == second.scale


def test_a_network_tells_the_scale(network: Path) -> None:
    views = wall_views([2.0, 2.1, 2.0])
    config = PointmapConfig(metric_network=str(network))
    found = scale_to_metric(views, keyframes_of(views), config)
    assert found.metric_scale and found.scale_source == "network" and found.scale is not None
    assert found.scale.factor == pytest.approx(METRES / 2.0, rel=0.02)
    assert 0 <= found.scale.spread < 0.05 and found.scale.count == 3 * 36 * 48
    np.testing.assert_allclose(found.views[2].world_from_cam.translation[0], 0.2 * found.scale.factor)


def test_a_network_that_disagrees_is_refused(network: Path) -> None:
    views = wall_views([2.0, 2.0], bend=1.0)
    found = scale_to_metric(views, keyframes_of(views), PointmapConfig(scale="network", metric_network=str(network)))
    assert not found.metric_scale and "disagrees with the images" in found.warnings[0]
    unasked = scale_to_metric(views, keyframes_of(views), PointmapConfig())
    assert not unasked.metric_scale and not unasked.warnings


def test_depth_pro_needs_the_focal_length() -> None:
    camera = pinhole(100, 80, focal=1.5)
    inverse = torch.tensor([[0.5, 0.25], [0.0, 1e9]])
    depth = metric_from_canonical(inverse, camera)
    torch.testing.assert_close(depth[0], torch.tensor([3.0, 6.0]))
    torch.testing.assert_close(metric_from_canonical(inverse, camera.scaled_to(50, 40)), depth)


def test_what_is_no_metric_network_is_refused_in_one_sentence(network: Path, tmp_path: Path) -> None:
    def copy(name: str) -> Path:
        return Path(shutil.copytree(network, tmp_path / name))

    config = json.loads((network / "config.json").read_text())
    relative, other, truncated, bare = copy("relative"), copy("other"), copy("truncated"), copy("bare")
    (relative / "config.json").write_text(json.dumps({**config, "depth_estimation_type": "relative"}))
    (other / "config.json").write_text(json.dumps({"model_type": "dinov2"}))
    weights = truncated / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    (bare / "preprocessor_config.json").unlink()
    for name, kind, text in (
        ("", WeightsError, "metric_network is empty"),
        (str(tmp_path / "absent"), WeightsError, "expected a name of the catalogue"),
        ("nobody/no-such-network", WeightsError, "hf download nobody/no-such-network"),
        (str(tmp_path), WeightsError, "no config.json that can be read"),
        (str(relative), InvalidInputError, "with relative depth"),
        (str(other), InvalidInputError, "is a dinov2"),
        (str(truncated), WeightsError, "cannot be read"),
        (str(bare), WeightsError, "no readable preprocessor_config.json"),
    ):
        with pytest.raises(ReconxError, match=text) as caught:
            resident_network(name, ModelCache())
        assert isinstance(caught.value, kind) and "\n" not in str(caught.value)
    for content in ({"size": {"shortest_edge": 5}}, {"resample": 1}, {"resample": 9}):
        with pytest.raises(InvalidInputError, match=r"preprocessor_config\.json"):
            Preprocessing.from_json(content)


def test_a_prepared_network_is_there_for_the_first_job(network: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models, config = ModelCache(), updated(ReconxConfig(device="cpu"), {"pointmap.metric_network": str(network)})
    assert prepare(config, models).startswith("jobs run")

    def loaded_again(*arguments: object) -> None:
        raise AssertionError(f"loaded again: {arguments}")

    monkeypatch.setattr("reconx_ros.pointmap.network.metric_depth.MetricDepthNetwork", loaded_again)
    assert isinstance(resident_network(str(network), models), MetricDepthNetwork)


def test_input_sizes_follow_the_aspect_of_the_image() -> None:
    kept = Preprocessing(height=518, width=518)
    assert kept.input_size(480, 640) == (518, 686)
    assert kept.input_size(1000, 600) == (868, 518)
    assert replace(kept, keep_aspect=False).input_size(480, 640) == (518, 518)
    assert kept.input_size(20, 2000)[0] >= 14

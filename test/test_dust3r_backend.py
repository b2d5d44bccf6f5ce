"""The backends dust3r and pointmap_net: cameras, poses and units around the network, and what they refuse."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dust3r_networks import PUBLISHED, TINY, relative_l2, save_pth, small_network

from reconx_ros.core import (
    SE3,
    CancelledError,
    CancelToken,
    Frame,
    InvalidInputError,
    Job,
    Keyframe,
    PinholeCamera,
    Provenance,
    WeightsError,
)
from reconx_ros.geometry.projection import backproject, transform_points
from reconx_ros.pointmap.alignment.memory import estimate_memory
from reconx_ros.pointmap.backends import dust3r as backend_module
from reconx_ros.pointmap.backends.dust3r import Dust3rBackend, PointmapNetBackend
from reconx_ros.pointmap.config import PointmapConfig
from reconx_ros.pointmap.network.architecture import config_from_string
from reconx_ros.pointmap.network.model import PointmapNetwork
from reconx_ros.pointmap.network.settings import Dust3rSettings, PointmapNetSettings
from reconx_ros.pointmap.network.weights import PUBLISHED_NAME, save_network
from reconx_ros.pointmap.pairwise import PairPredictions
from reconx_ros.pointmap.registry import registry
from reconx_ros.weights.cache import ModelCache
from reconx_ros.weights.catalogue import catalogue

CPU = torch.device("cpu")
CAMERA = PinholeCamera(width=80, height=60, fx=70.0, fy=70.0, cx=39.5, cy=29.5)
SCALES = (0.7, 1.3, 2.0, 0.4, 1.1, 0.9)  # of the pairs: a network knows no unit


def depth_of(camera: PinholeCamera, world_from_cam: SE3) -> torch.Tensor:
    """Depth [H, W] of the wavy wall x = 3 + 0.3 sin(2 y) cos(3 z), by fixed-point iteration along the rays."""
    rays = backproject(torch.ones(camera.height, camera.width, dtype=torch.float64), camera)
    depth = torch.full((camera.height, camera.width), 3.0, dtype=torch.float64)
    forward = torch.tensor(world_from_cam.rotation[0].tolist(), dtype=torch.float64)
    for _ in range(60):
        x, y, z = transform_points(world_from_cam, rays * depth[..., None]).unbind(-1)
        depth = depth + 0.8 * (3 + 0.3 * (2 * y).sin() * (3 * z).cos() - x) / (rays @ forward)
    return depth.float()


def poses() -> list[SE3]:
    optical = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
    return [
        SE3(
            rotation=SE3.exp(np.array([0, 0, yaw]), np.zeros(3)).rotation @ optical, translation=np.array([0.1, y, 1.0])
        )
        for yaw, y in ((0.1, -0.4), (0.0, 0.1), (-0.12, 0.5))
    ]


def keyframes(*, posed: bool = True) -> list[Keyframe]:
    grey = np.full((60, 80, 3), 90, np.uint8)
    return [
        Keyframe(
            id=10 + n, sharpness=1.0, frame=Frame(rgb_u8=grey, camera=CAMERA, world_from_cam=pose if posed else None)
        )
        for n, pose in enumerate(poses())
    ]


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = PUBLISHED.format(head="linear", **TINY).replace("(512, 512)", "(64, 96)")
    return save_pth(tmp_path / "net.pth", model, PointmapNetwork(config_from_string(model)).state_dict())


@pytest.fixture
def true_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaces the network's predictions by the true points of the grid that the backend prepared."""

    def predict(
        network: PointmapNetwork, images: Sequence[torch.Tensor], pairs: Sequence[tuple[int, int]], *_: Any, **__: Any
    ) -> PairPredictions:
        height, width = images[0].shape[1:]
        assert (height, width) == (64, 96)
        scaled = CAMERA.scaled_to(96, 72)
        camera = PinholeCamera(width=96, height=64, fx=scaled.fx, fy=scaled.fy, cx=scaled.cx, cy=scaled.cy - 4)
        points = [backproject(depth_of(camera, pose), camera) for pose in poses()]
        sure = torch.full((height, width), 20.0)
        maps: dict[str, list[torch.Tensor]] = {"pts3d_1": [], "pts3d_2": []}
        for (i, j), scale in zip(pairs, SCALES, strict=True):
            maps["pts3d_1"].append(points[i] * scale)
            maps["pts3d_2"].append(transform_points(poses()[i].inverse() @ poses()[j], points[j]) * scale)
        return PairPredictions(pairs=pairs, conf_1=[sure] * len(pairs), conf_2=[sure] * len(pairs), **maps)

    monkeypatch.setattr(backend_module, "predict_pairs", predict)


def published(weights: Path, **changes: Any) -> PointmapConfig:
    return PointmapConfig(**changes).with_own(Dust3rSettings(weights=str(weights)))


def test_posed_frames_come_out_in_metres(weights: Path, true_network: None) -> None:
    config = published(weights)
    views = Dust3rBackend().reconstruct(keyframes(), config, device=CPU, job=Job())
    assert views.metric_scale and views.scale_source == "poses" and views.backend == "dust3r"
    for view, pose, keyframe in zip(views.views, poses(), keyframes(), strict=True):
        assert view.keyframe_id == keyframe.id
        assert view.camera.size == (96, 64)
        assert view.world_from_cam.distance_to(pose) < 1e-6
        true = depth_of(view.camera, pose)
        assert float(view.valid.float().mean()) > 0.9
        assert float(((view.depth - true).abs() / true)[view.valid].median()) < 2e-3
        measured = (view.provenance == int(Provenance.OBSERVED)) & view.valid  # by another view; the rest is a guess
        assert 0.5 < float(measured.float().mean()) < float(view.valid.float().mean())
        assert bool((view.provenance[view.valid & ~measured] == int(Provenance.INFERRED)).all())


@pytest.mark.parametrize("posed", [False, True], ids=["no_poses", "poses_not_held"])
def test_without_held_poses_frames_come_out_up_to_a_similarity(weights: Path, true_network: None, posed: bool) -> None:
    config = published(weights, network_holds_poses=False)
    views = Dust3rBackend().reconstruct(keyframes(posed=posed), config, device=CPU, job=Job())
    assert not views.metric_scale and views.scale_source is None
    found, true = [v.world_from_cam for v in views.views], poses()
    sizes = [found[0].distance_to(found[k]) / true[0].distance_to(true[k]) for k in (1, 2)]
    assert sizes[0] == pytest.approx(sizes[1], rel=5e-3)
    for k in (1, 2):
        assert (found[0].inverse() @ found[k]).angle_to(true[0].inverse() @ true[k]) < math.radians(0.2)
    depth = views.views[1].depth / sizes[0]
    assert relative_l2(depth, depth_of(views.views[1].camera, true[1])) < 5e-3


def test_a_network_of_ones_own(tmp_path: Path, true_network: None, weights: Path) -> None:
    network = small_network(img_size=(64, 96), patch_size=16)
    save_network(tmp_path / "own", network, network.state_dict(), {"min_confidence": 25.0})
    config = PointmapConfig().with_own(PointmapNetSettings(weights=str(tmp_path / "own")))
    views = PointmapNetBackend().reconstruct(keyframes(), config, device=CPU, job=Job())
    assert views.backend == "pointmap_net"
    assert not any(bool(view.valid.any()) for view in views.views)  # the true network is only 20 sure
    surer = replace(config, network_confidence=3.0)
    views = PointmapNetBackend().reconstruct(keyframes(), surer, device=CPU, job=Job())
    assert all(bool(view.valid.any()) for view in views.views)
    with pytest.raises(InvalidInputError, match="training_card"):
        PointmapNetBackend().load(PointmapConfig().with_own(PointmapNetSettings(weights=str(weights))), CPU)


def test_the_network_stays_only_where_alignment_has_room_beside_it(weights: Path, true_network: None) -> None:
    needed = estimate_memory([(i, j) for i in range(3) for j in range(3) if i != j], [(64, 96)] * 3).total
    for spare, kept in ((1e9, 1), (1e3, 0)):
        models = ModelCache()
        config = published(weights, max_memory_gb=(needed + spare) / 1e9)
        Dust3rBackend(models).reconstruct(keyframes(), config, device=CPU, job=Job())
        assert len(models.keys) == kept


def test_without_weights_the_message_says_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"dust3r\.weights is empty") as error:
        Dust3rBackend().reconstruct(keyframes(), PointmapConfig(), device=CPU, job=Job())
    for words in (
        catalogue()[PUBLISHED_NAME].hub_id,
        "CC-BY-NC-SA",
        "hf download",
        f"reconx weights fetch {PUBLISHED_NAME}",
    ):
        assert str(words) in str(error.value)
    with pytest.raises(WeightsError, match="reconx train pointmap"):
        PointmapNetBackend().reconstruct(keyframes(), PointmapConfig(), device=CPU, job=Job())
    missing = published(tmp_path / "none.pth")
    with pytest.raises(WeightsError, match="hf download"):
        Dust3rBackend().reconstruct(keyframes(), missing, device=CPU, job=Job())


def test_what_the_backend_refuses(weights: Path) -> None:
    config = published(weights, max_memory_gb=0.001)
    with pytest.raises(InvalidInputError, match=r"network needs .* one pair at a time.*max_memory_gb"):
        Dust3rBackend().reconstruct(keyframes(), config, device=CPU, job=Job())
    with pytest.raises(InvalidInputError, match="at least 2"):
        Dust3rBackend().reconstruct(keyframes()[:1], config, device=CPU, job=Job())
    token = CancelToken()
    token.cancel()
    with pytest.raises(CancelledError):
        Dust3rBackend().reconstruct(keyframes(), config, device=CPU, job=Job(token=token))


def test_registry_names_licences_and_never_chooses_them() -> None:
    rows = registry()
    assert rows["dust3r"].licence_weights == "CC-BY-NC-SA-4.0" and "weights" in rows["dust3r"].needs
    assert rows["dust3r"].load_class().name == "dust3r" and rows["pointmap_net"].load_class().name == "pointmap_net"
    assert PointmapConfig().backend == "auto" and PointmapConfig().own(Dust3rSettings).weights == ""

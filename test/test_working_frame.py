"""Numbers of any size: a scene moved far away or in another unit gives what the scene itself gives."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pointmap_scenes import Scene, room_scene
from splatting_scenes import cameras, random_gaussians

from reconx_ros.core import SE3, GaussianScene, Keyframe, PinholeCamera, PointCloud, Sim3
from reconx_ros.geometry.working_frame import (
    in_single_precision,
    moved_cloud,
    moved_scene,
    near_plane,
    working_from_world,
)
from reconx_ros.io.gaussians import read_scene_ply, write_scene_ply
from reconx_ros.io.ply import read_ply, read_point_cloud_ply, write_point_cloud_ply
from reconx_ros.jobs.cloud_codec import packed_cloud, unpacked_cloud
from reconx_ros.pipeline.config import ReconxConfig
from reconx_ros.pipeline.reconstructor import Reconstruction, Reconstructor, SceneRenderer
from reconx_ros.pipeline.result import save_reconstruction
from reconx_ros.pointmap.stereo.settings import MultiviewSettings
from reconx_ros.splatting.backends.reference import ReferenceRasterizer
from reconx_ros.splatting.render import render_scene
from reconx_ros.viz.viewer.data import load_result

UTM = np.array([448262.0, 5411932.0, 120.0])
CPU = torch.device("cpu")


def similarity(scale: float = 1.0, offset: np.ndarray | None = None) -> Sim3:
    return Sim3(scale=scale, rotation=np.eye(3), translation=np.zeros(3) if offset is None else offset)


def moved(scene: Scene, to: Sim3) -> list[Keyframe]:
    frames = [k.frame for k in scene.keyframes]
    poses = [to.apply_pose(f.world_from_cam) for f in frames if f.world_from_cam is not None]
    return [
        replace(k, frame=replace(f, world_from_cam=p)) for k, f, p in zip(scene.keyframes, frames, poses, strict=True)
    ]


# The rule -------------------------------------------------------------------------------------------------------


def poses(centre: np.ndarray, spread: float = 1.0) -> list[SE3]:
    return [SE3(rotation=np.eye(3), translation=centre + spread * np.array([k, 0, 0])) for k in (-1.0, 1.0)]


@pytest.mark.parametrize(
    ("centre", "spread", "depth"), [(0.0, 1.0, 2.0), (50.0, 1.0, None), (300.0, 0.5, 4.0), (0.0, 0.01, 0.2)]
)
def test_usual_scenes_are_left_alone(centre: float, spread: float, depth: float | None) -> None:
    assert working_from_world(poses(np.array([centre, 0, 0]), spread), depth) is None


def test_far_scenes_are_centred_and_odd_units_become_depths() -> None:
    far = working_from_world(poses(UTM), 2.0)
    assert far is not None and far.scale == 1 and np.allclose(far.apply(UTM), 0)
    small = working_from_world(poses(np.zeros(3), 1e-3), 0.002)
    assert small is not None and small.scale == pytest.approx(500) and not small.translation.any()
    both = working_from_world(poses(UTM, 1000.0), 2000.0)
    assert both is not None and np.allclose(both.apply(UTM + np.array([2000, 0, 0])), [1, 0, 0])


# Edges ----------------------------------------------------------------------------------------------------------


def gaussians(count: int = 60) -> GaussianScene:
    g = random_gaussians(count)
    return GaussianScene(
        means=g["means"],
        quats_wxyz=g["quats_wxyz"],
        log_scales=g["scales"].log(),
        logit_opacities=g["opacities"].logit(),
        sh=g["sh"],
        provenance=torch.ones(count, dtype=torch.uint8),
        confidence=torch.full((count,), 0.5),
        keyframe_ids=torch.zeros(count, dtype=torch.int64),
    )


def test_moved_gaussians_come_back_and_survive_a_file(tmp_path: Path) -> None:
    scene, to = gaussians(), similarity(1e-3, UTM)
    far = moved_scene(scene, to)
    assert far.means.dtype == torch.float64
    write_scene_ply(tmp_path / "scene.ply", far)
    assert float(np.abs(read_ply(tmp_path / "scene.ply")["x"]).max()) < 1  # viewers get small numbers
    back = moved_scene(read_scene_ply(tmp_path / "scene.ply"), to.inverse())
    assert torch.allclose(back.means.float(), scene.means, atol=1e-4)
    assert torch.allclose(back.log_scales, scene.log_scales, atol=1e-5)


def test_far_clouds_survive_files_and_wires(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    cloud = PointCloud(
        points=rng.normal(size=(50, 3)).astype(np.float32),
        rgb_u8=np.zeros((50, 3), np.uint8),
        confidence=np.ones(50, np.float32),
        provenance=np.ones(50, np.uint8),
        keyframe_ids=np.zeros(50, np.uint32),
    )
    far = moved_cloud(cloud, similarity(1.0, UTM))
    write_point_cloud_ply(tmp_path / "points.ply", far)
    for kept in (read_point_cloud_ply(tmp_path / "points.ply"), unpacked_cloud(packed_cloud(far))):
        assert kept.points.dtype == np.float64
        assert np.abs(kept.points - UTM - cloud.points).max() < 1e-6
    assert unpacked_cloud(packed_cloud(cloud)).points.dtype == np.float32


@pytest.mark.parametrize(("scale", "offset"), [(1.0, UTM), (1e-3, None), (1e3, None), (1e-3, UTM)])
def test_pictures_of_a_scene_do_not_depend_on_its_numbers(scale: float, offset: np.ndarray | None) -> None:
    scene, to = gaussians(), similarity(scale, offset)
    camera = PinholeCamera(width=32, height=24, fx=30, fy=30, cx=15.5, cy=11.5)
    pose = SE3.from_matrix(np.linalg.inv(cameras(1)["cam_from_world"][0].double().numpy()))
    options = {"rasterizer": ReferenceRasterizer(), "device": CPU}
    (plain,) = render_scene(scene, [(camera, pose)], **options)
    (other,) = render_scene(moved_scene(scene, to), [(camera, to.apply_pose(pose))], **options)
    assert plain.alpha.max() > 0.5
    assert np.abs(plain.alpha - other.alpha).max() < 2e-3
    assert np.abs(plain.depth * scale - other.depth).max() <= 2e-3 * scale * plain.depth.max()
    assert other.world_from_cam.distance_to(to.apply_pose(pose)) == 0


def test_the_near_plane_is_a_share_of_the_scene() -> None:
    means = gaussians().means
    assert near_plane(1000 * means) == pytest.approx(1000 * near_plane(means), rel=1e-5)
    assert near_plane(means + 50) == pytest.approx(near_plane(means), rel=1e-3)
    assert near_plane(means[:0]) == 0
    assert in_single_precision(gaussians())[1] is None


def test_a_robot_far_from_its_maps_origin_sees_the_same_coverage() -> None:
    from reconx_ros.pipeline.coverage import CoverageModel

    rng = np.random.default_rng(1)
    points = np.c_[rng.uniform(-2, 2, (4000, 2)), rng.uniform(2, 4, 4000)].astype(np.float32)
    flat = {"rgb_u8": np.zeros((4000, 3), np.uint8), "confidence": np.ones(4000, np.float32)}
    flat |= {"provenance": np.ones(4000, np.uint8), "keyframe_ids": np.zeros(4000, np.uint32)}
    camera = PinholeCamera(width=64, height=48, fx=60, fy=60, cx=31.5, cy=23.5)
    views = []
    for offset in (np.zeros(3), np.array([5000.0, -3000.0, 20.0]), UTM):
        to = similarity(1.0, offset)
        model = CoverageModel(ReconxConfig().coverage)
        pose = to.apply_pose(SE3.identity())
        model.set_map(moved_cloud(PointCloud(points=points, **flat), to), {0: pose})
        views.append(model.view(camera, pose))
    assert views[0].fraction > 0.05
    for view in views[1:]:
        assert np.array_equal(view.cells, views[0].cells)


# The law --------------------------------------------------------------------------------------------------------


def reconstructed(keyframes: list[Keyframe], **pointmap: object) -> Reconstruction:
    config = ReconxConfig(device="cpu")
    config = replace(
        config,
        pointmap=replace(config.pointmap, backend="multiview", max_size=96, **pointmap).with_own(
            MultiviewSettings(planes=32)
        ),
        splatting=replace(config.splatting, steps=10, max_gaussians=2000, weight_lpips=0.0, max_size=96),
        output=replace(config.output, novel_views=2, novel_view_size=96),
    )
    return Reconstructor(config).run(keyframes, metric_poses=False)


@pytest.fixture(scope="module")
def room() -> Scene:
    return room_scene(views=3)


@pytest.fixture(scope="module")
def plain(room: Scene) -> Reconstruction:
    return reconstructed(room.keyframes)


@pytest.mark.parametrize(("scale", "offset"), [(1.0, UTM), (1e-3, None), (1e3, UTM), (1e-3, 1e-3 * UTM)])
def test_a_moved_scene_gives_the_same_result(
    room: Scene, plain: Reconstruction, scale: float, offset: np.ndarray | None, tmp_path: Path
) -> None:
    to = similarity(scale, offset)
    other = reconstructed(moved(room, to))
    assert plain.report["working_frame"] is None and other.report["working_frame"] is not None
    assert len(other.cloud) == pytest.approx(len(plain.cloud), rel=1e-3)
    assert other.report["psnr_inputs"] == pytest.approx(plain.report["psnr_inputs"], abs=0.05)
    for a, b in zip(plain.views.views, other.views.views, strict=True):
        both = a.valid & b.valid
        assert float((a.valid == b.valid).float().mean()) > 0.999
        assert float(((a.depth * scale - b.depth).abs() / b.depth)[both].median()) < 1e-3
    back = to.inverse().apply(other.cloud.points.astype(np.float64))
    if len(back) == len(plain.cloud):
        assert np.median(np.abs(back - plain.cloud.points)) < 2e-3
    assert np.abs(np.median(back, axis=0) - np.median(plain.cloud.points, axis=0)).max() < 2e-3
    for a, b in zip(plain.novel_views, other.novel_views, strict=True):
        assert np.abs(a.rgb_u8.astype(int) - b.rgb_u8).mean() < 1.0
        seen = (a.depth > 0) & (b.depth > 0)
        assert np.median(np.abs(a.depth * scale - b.depth)[seen] / b.depth[seen]) < 2e-3
    _check_files(other, scale, tmp_path)


def _check_files(result: Reconstruction, scale: float, folder: Path) -> None:
    """The result folder keeps what the result says, and opens in the viewer and the renderer."""
    save_reconstruction(result, folder)
    kept = read_point_cloud_ply(folder / "points.ply")
    reach = scale * np.ptp(result.cloud.points / scale, axis=0).max()
    assert np.abs(kept.points - result.cloud.points).max() < 1e-5 * reach
    document = json.loads((folder / "cameras.json").read_text())
    assert np.array_equal(document["images"][0]["c2w"], result.views.views[0].world_from_cam.matrix)
    shown = load_result(folder)
    assert shown.cloud.points.dtype == np.float32
    assert np.abs(shown.cloud.points).max() < 50 * max(scale, 1e-2) * 10
    config = ReconxConfig(device="cpu")
    view = result.novel_views[0]
    drawn = SceneRenderer(read_scene_ply(folder / "scene.ply"), config).render(view.camera, view.world_from_cam)
    assert np.abs(drawn.rgb_u8.astype(int) - view.rgb_u8).mean() < 3


def test_depth_pictures_keep_small_and_large_depths(room: Scene, tmp_path: Path) -> None:
    from reconx_ros.io.images import read_depth

    result = reconstructed(moved(room, similarity(1e3)))
    save_reconstruction(result, tmp_path)
    unit = json.loads((tmp_path / "cameras.json").read_text())["depth_unit_m"]
    view = result.novel_views[0]
    kept = read_depth(tmp_path / "novel_views/0000_depth.png", unit)
    seen = view.depth > 0
    assert np.median(np.abs(kept - view.depth)[seen] / view.depth[seen]) < 1e-3

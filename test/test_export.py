"""Results written for other programs."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from splatting_scenes import sequence_of, wall_views

from reconx_ros.cli.main import main
from reconx_ros.core import InvalidInputError, PointCloud, StorageError, Trajectory
from reconx_ros.io.colmap import read_colmap
from reconx_ros.io.gaussians import read_scene_ply, write_scene_ply
from reconx_ros.io.ply import write_point_cloud_ply
from reconx_ros.io.scenes import read_scene
from reconx_ros.pipeline.clouds import pointmap_cloud
from reconx_ros.pipeline.export import export_result
from reconx_ros.pipeline.reconstructor import Reconstruction
from reconx_ros.pipeline.result import save_reconstruction
from reconx_ros.splatting.config import SplattingConfig
from reconx_ros.splatting.init import initial_scene


@pytest.fixture
def result(tmp_path: Path) -> Path:
    """A result folder of two views of a wall."""
    views = wall_views(count=2)
    trajectory = Trajectory(camera=views.views[0].camera, world_from_cams=())
    made = Reconstruction(
        keyframes=(), views=views, sequence=sequence_of(views), scene=initial_scene(views, SplattingConfig()),
        cloud=pointmap_cloud(views, 0.5), trajectory=trajectory, novel_views=(),
        report={"config": {"splatting": {"antialiased": False}}},
    )  # fmt: skip
    save_reconstruction(made, tmp_path / "result")
    return tmp_path / "result"


def test_a_result_folder_is_a_scene_folder(result: Path) -> None:
    scene, truth = read_scene(result), wall_views(count=2).views
    assert scene.metric_scale and len(scene.frames) == 2
    for frame, view in zip(scene.frames, truth, strict=True):
        assert frame.camera == view.camera and frame.world_from_cam is not None
        assert np.allclose(frame.world_from_cam.matrix, view.world_from_cam.matrix)
        assert np.abs(frame.rgb_u8 / 255 - view.rgb.numpy()).max() < 0.003


@pytest.mark.parametrize("name", ["colmap", "colmap_text"])
def test_colmap_models_have_the_cameras_and_pictures(result: Path, tmp_path: Path, name: str) -> None:
    (folder,) = export_result(result, [name], tmp_path / "out")
    views = read_colmap(folder / "sparse" / "0")
    assert [v.name for v in views] == ["0010.png", "0011.png"]
    for view, truth in zip(views, wall_views(count=2).views, strict=True):
        assert view.camera == truth.camera and (folder / "images" / view.name).is_file()
        assert np.allclose(view.world_from_cam.matrix, truth.world_from_cam.matrix, atol=1e-9)


@pytest.mark.parametrize("name", ["splat", "spz", "ply"])
def test_scenes_of_other_programs_are_exported_too(result: Path, tmp_path: Path, name: str) -> None:
    foreign = shutil.copytree(result, tmp_path / "foreign")
    write_scene_ply(foreign / "scene.ply", read_scene_ply(result / "scene.ply"), extra=False)
    (theirs,) = export_result(foreign, [name], tmp_path / "theirs")
    (ours,) = export_result(result, [name], tmp_path / "ours")
    assert theirs.read_bytes() == ours.read_bytes()


def text_points(folder: Path) -> tuple[np.ndarray, list[list[int]], dict[int, list[float]]]:
    """Places [P, 3], tracks, and the observations of each picture, read by the format's documentation."""
    rows = [line.split() for line in (folder / "points3D.txt").read_text().splitlines() if line[0] != "#"]
    lines = [line for line in (folder / "images.txt").read_text().splitlines() if not line.startswith("#")]
    seen = {
        int(image.split()[0]): [float(w) for w in points.split()]
        for image, points in zip(lines[::2], lines[1::2], strict=True)
    }
    return np.array([r[1:4] for r in rows], float), [[int(w) for w in r[8:]] for r in rows], seen


def test_colmap_points_are_the_cloud_and_every_picture_sees_its_own(result: Path, tmp_path: Path) -> None:
    """What gsplat, 3DGS and nerfstudio start from: points that are finite, spread out, and where their pictures say."""
    (folder,) = export_result(result, ["colmap_text"], tmp_path / "out")
    points, tracks, seen = text_points(folder / "sparse" / "0")
    assert len(points) > 100 and np.isfinite(points).all()
    assert np.linalg.eigvalsh(np.cov(points.T))[1] > 0  # the axes that gsplat's parser aligns
    views = read_colmap(folder / "sparse" / "0")
    told = 0
    for number, view in enumerate(views, 1):
        u, v, point = np.array(seen[number]).reshape(-1, 3).T
        in_camera = view.world_from_cam.inverse().apply(points[point.astype(int) - 1])
        expected = in_camera @ view.camera.corner_origin_matrix.T
        assert np.abs(expected[:, :2] / expected[:, 2:] - np.stack([u, v], -1)).max() < 1e-3
        told += len(point)
    assert told == sum(len(track) // 2 for track in tracks) > len(points)
    for number, track in enumerate(tracks, 1):
        assert track and all(seen[i][3 * place + 2] == number for i, place in zip(track[::2], track[1::2], strict=True))


def test_binary_and_text_models_hold_the_same_points(result: Path, tmp_path: Path) -> None:
    text, binary = export_result(result, ["colmap_text", "colmap"], tmp_path / "out")
    points, tracks, _ = text_points(text / "sparse" / "0")
    data = (binary / "sparse" / "0" / "points3D.bin").read_bytes()
    (count,), at = struct.unpack_from("<Q", data), 8
    assert count == len(points)
    for place, track in zip(points, tracks, strict=True):
        values = struct.unpack_from("<Q3d3BdQ", data, at)
        at += struct.calcsize("<Q3d3BdQ")
        assert np.array_equal(values[1:4], place)
        assert list(struct.unpack_from(f"<{2 * values[8]}I", data, at)) == track
        at += 8 * values[8]
    assert at == len(data)


def test_large_clouds_are_thinned_for_colmap(result: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reconx_ros.pipeline.export.MAX_COLMAP_POINTS", 200)
    (folder,) = export_result(result, ["colmap_text"], tmp_path / "out")
    assert 50 < len(text_points(folder / "sparse" / "0")[0]) <= 200


def test_an_empty_cloud_gives_a_model_without_points(result: Path, tmp_path: Path) -> None:
    write_point_cloud_ply(result / "points.ply", PointCloud.empty())
    (folder,) = export_result(result, ["colmap_text"], tmp_path / "out")
    assert len(read_colmap(folder / "sparse" / "0")) == 2
    assert "\n1 " not in (folder / "sparse" / "0" / "points3D.txt").read_text()


def test_scenes_of_other_programs(result: Path, tmp_path: Path) -> None:
    ply, splat, spz = export_result(result, ["ply", "splat", "spz"], tmp_path / "new" / "out")
    scene = read_scene_ply(result / "scene.ply")
    assert torch.equal(read_scene_ply(ply).means, scene.means) and b"provenance" not in ply.read_bytes()[:2000]
    assert splat.stat().st_size == 32 * len(scene) and 0 < spz.stat().st_size < splat.stat().st_size


def test_the_command_lists_what_it_wrote(result: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(result), "--formats", "splat"]) == 0
    assert str(result / "export" / "scene.splat") in capsys.readouterr().out


def test_mistakes_are_one_sentence(result: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InvalidInputError, match="export format is 'usd'"):
        export_result(result, ["usd"], tmp_path)
    assert main(["export", str(tmp_path)]) == 1
    assert "is no result folder: it needs scene.ply and cameras.json" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"export folder .*file/out"):
        export_result(result, ["spz"], tmp_path / "file" / "out")
    (result / "images" / "0011.png").unlink()
    with pytest.raises(StorageError, match=r"0011\.png"):
        export_result(result, ["colmap"], tmp_path / "out")

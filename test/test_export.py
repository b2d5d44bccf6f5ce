"""Results written for other programs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from splatting_scenes import sequence_of, wall_views

from reconx_ros.cli.main import main
from reconx_ros.core import InvalidInputError, StorageError, Trajectory
from reconx_ros.io.colmap import read_colmap
from reconx_ros.io.gaussians import read_scene_ply
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

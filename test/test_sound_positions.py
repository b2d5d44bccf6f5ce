"""Positions that rounding moved, far from the origin: the pictures tell, in every command that reads scenes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pointmap_scenes import Scene, render, room
from test_structure_from_motion import CAMERA, arc

from reconx_ros.cli.main import main
from reconx_ros.core import SE3, InvalidInputError
from reconx_ros.core.settings import updated
from reconx_ros.io.images import write_image
from reconx_ros.io.scenes import read_scene
from reconx_ros.pipeline.config import ReconxConfig
from reconx_ros.pipeline.keyframes import chosen_keyframe
from reconx_ros.pipeline.sound_positions import require_sound_positions

UTM = np.array([448262.0, 5411932.0, 120.0])
SMALL = ["pointmap.max_size=64", "pointmap.multiview.planes=16", "splatting.steps=2", "diffusion.frames=2",
         "output.novel_views=1", "device=cpu"]  # fmt: skip
SENTENCE = "are off by"


@pytest.fixture(scope="module")
def pictures() -> Scene:
    return render(room(), [CAMERA] * 4, arc(4), noise=1.0)


def colmap_folder(root: Path, scene: Scene, *, digits: int) -> Path:
    """A COLMAP model in UTM coordinates whose rotations have so many digits."""
    (root / "images").mkdir(parents=True)
    (root / "sparse/0").mkdir(parents=True)
    c, lines = CAMERA, []
    for k, keyframe in enumerate(scene.keyframes):
        pose = keyframe.frame.world_from_cam
        assert pose is not None
        there = SE3(rotation=pose.rotation, translation=pose.translation + UTM).inverse()
        x, y, z, w = there.quaternion_xyzw
        numbers = [*(f"{n:.{digits}f}" for n in (w, x, y, z)), *(repr(float(n)) for n in there.translation)]
        lines.append(f"{k + 1} {' '.join(numbers)} 1 {k}.png\n\n")
        write_image(root / f"images/{k}.png", keyframe.frame.rgb_u8)
    (root / "sparse/0/images.txt").write_text("".join(lines))
    (root / "sparse/0/cameras.txt").write_text(
        f"1 PINHOLE {c.width} {c.height} {c.fx} {c.fy} {c.cx + 0.5} {c.cy + 0.5}\n"
    )
    return root


@pytest.fixture(scope="module")
def rounded(tmp_path_factory: pytest.TempPathFactory, pictures: Scene) -> Path:
    return colmap_folder(tmp_path_factory.mktemp("utm") / "rounded", pictures, digits=8)


def test_pictures_tell_and_only_doubtful_scenes_are_asked(rounded: Path, tmp_path: Path, pictures: Scene) -> None:
    exact = read_scene(colmap_folder(tmp_path / "exact", pictures, digits=17))
    scene, config = read_scene(rounded), ReconxConfig(device="cpu")
    assert scene.coarse_positions and exact.coarse_positions, "the file does not say how many digits were kept"
    wrong, right = ([chosen_keyframe(k, f) for k, f in enumerate(s.frames)] for s in (scene, exact))
    with pytest.raises(InvalidInputError, match=r"off by 0\.0\d+ units \(median\), as the pictures tell"):
        require_sound_positions(scene, wrong, config)
    require_sound_positions(exact, right, config)
    require_sound_positions(replace(scene, coarse_positions=False), wrong, config)
    require_sound_positions(scene, wrong, updated(config, {"pointmap.refine_poses": True}))
    unposed = [replace(k, frame=replace(k.frame, world_from_cam=None)) for k in wrong]
    require_sound_positions(scene, unposed, config)


def test_every_command_asks(rounded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = [word for value in SMALL for word in ("--set", value)]
    for command, poses in (("reconstruct", "given"), ("evaluate", "given"), ("evaluate", "none")):
        words = [command, str(rounded), "--views", "3", "--poses", poses, "--out", str(tmp_path / command)]
        assert main([*words, "--quiet", *settings]) == 1, command
        assert SENTENCE in capsys.readouterr().err
    table = tmp_path / "rows.json"
    words = ["evaluate", str(rounded), "--geometry", "--views", "3", "--poses", "given", "--json", str(table)]
    assert main([*words, "--quiet", *settings]) == 0
    (row,) = json.loads(table.read_text())["rows"]
    assert row["status"] == "failed" and SENTENCE in row["message"]

"""The few-view protocol."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from reconx_ros.core import SE3, Frame, InvalidInputError, PinholeCamera
from reconx_ros.evaluation.heldout import heldout_task, score_pictures
from reconx_ros.io.scenes import write_scene


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    """Five pictures of noise with poses, two of them inputs."""
    rng = np.random.default_rng(0)
    camera = PinholeCamera(width=64, height=48, fx=60, fy=60, cx=31.5, cy=23.5)
    frames = [
        Frame(
            rgb_u8=rng.integers(0, 256, (48, 64, 3), dtype=np.uint8),
            camera=camera,
            world_from_cam=SE3.exp(np.zeros(3), np.array([0.1 * i, 0, 0])),
        )
        for i in range(5)
    ]
    write_scene(tmp_path, frames, metric_scale=True)
    change(tmp_path, inputs=["images/0000.png", "images/0004.png"], test=["images/0002.png", "images/0003.png"])
    return tmp_path


def change(folder: Path, *, drop_pose: str = "", **split: list[str]) -> None:
    document = json.loads((folder / "cameras.json").read_text())
    document["suggested_splits"] = {"2": split}
    for entry in document["images"]:
        if entry["file"] == drop_pose:
            del entry["c2w"]
    (folder / "cameras.json").write_text(json.dumps(document))


def test_inputs_and_tests_come_from_the_split(scene: Path) -> None:
    task = heldout_task(scene, 2, max_size=32)
    assert [k.frame.world_from_cam.translation[0] for k in task.keyframes] == pytest.approx([0.0, 0.4])
    assert task.test_names == ("images/0002.png", "images/0003.png")
    assert [camera.size for camera, _ in task.cameras] == [(32, 24)] * 2
    assert "2 input views, poses given" in task.protocol and "32 px" in task.protocol


def test_the_truth_scores_perfectly_and_a_shifted_one_does_not(scene: Path) -> None:
    task = heldout_task(scene, 2)
    truth = [f.rgb_u8 for f in task.tests]
    perfect = score_pictures(truth, task)
    assert perfect["psnr"] == float("inf") and perfect["ssim"] == pytest.approx(1.0)
    shifted = score_pictures([np.roll(t, 1, axis=1) for t in truth], task)
    assert shifted["psnr"] < 15 and shifted["ssim"] < 0.5 and len(shifted["images"]) == 2
    with pytest.raises(InvalidInputError, match="1 pictures for 2 held-out"):
        score_pictures(truth[:1], task)


def test_a_leaked_view_is_refused(scene: Path) -> None:
    change(scene, inputs=["images/0000.png", "images/0004.png"], test=["images/0004.png"])
    with pytest.raises(InvalidInputError, match=r"tests on images/0004\.png, which is one of its inputs"):
        heldout_task(scene, 2)


def test_bad_scenes_are_one_sentence(scene: Path) -> None:
    with pytest.raises(InvalidInputError, match="no split '3'"):
        heldout_task(scene, 3)
    with pytest.raises(InvalidInputError, match="poses are 'guessed'"):
        heldout_task(scene, 2, poses="guessed")
    split = {"inputs": ["images/0000.png", "images/0004.png"], "test": ["images/0002.png"]}
    change(scene, drop_pose="images/0002.png", **split)
    with pytest.raises(InvalidInputError, match=r"held-out image images/0002\.png .* has no pose"):
        heldout_task(scene, 2)

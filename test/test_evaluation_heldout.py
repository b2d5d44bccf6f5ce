"""The few-view protocol: splits, poses, and that nothing held back leaks into the inputs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from reconx_ros.core import SE3, Frame, InvalidInputError, PinholeCamera
from reconx_ros.evaluation.heldout import heldout_task
from reconx_ros.io.scenes import write_scene

INPUTS, TEST = ["images/0000.png", "images/0004.png"], ["images/0002.png", "images/0003.png"]


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    """Five pictures of soft noise with poses and depth, two of them inputs."""
    rng = np.random.default_rng(0)
    camera = PinholeCamera(width=256, height=192, fx=240, fy=240, cx=127.5, cy=95.5)
    frames = [
        Frame(
            rgb_u8=cv2.resize(
                rng.integers(0, 256, (6, 8, 3), dtype=np.uint8), (256, 192), interpolation=cv2.INTER_CUBIC
            ),
            camera=camera,
            world_from_cam=SE3.exp(np.zeros(3), np.array([0.1 * i, 0, 0])),
            depth_m=np.full((192, 256), 2.0, np.float32),
        )
        for i in range(5)
    ]
    write_scene(tmp_path, frames, metric_scale=True)
    change(tmp_path, inputs=INPUTS, test=TEST)
    return tmp_path


def change(folder: Path, *, drop_pose: str = "", odometry: bool = False, **split: list[str]) -> None:
    document = json.loads((folder / "cameras.json").read_text())
    document["suggested_splits"] = {"2": split}
    for entry in document["images"]:
        if odometry:
            moved = np.array(entry["c2w"])
            moved[0, 3] += 0.01
            entry["c2w_dataset"] = moved.tolist()
        if entry["file"] == drop_pose:
            del entry["c2w"]
    (folder / "cameras.json").write_text(json.dumps(document))


def test_inputs_and_tests_come_from_the_split(scene: Path) -> None:
    task = heldout_task(scene, 2, max_size=32)
    assert [k.frame.world_from_cam.translation[0] for k in task.keyframes] == pytest.approx([0.0, 0.4])
    assert all(k.frame.depth_m is None for k in task.keyframes), "the method must not see the sensor's depth"
    assert [d.shape for d in task.depths] == [(24, 32)] * 2
    assert task.test_names == tuple(TEST) and task.input_names == tuple(INPUTS)
    assert [frame.camera.size for frame in task.tests] == [(32, 24)] * 2
    assert "2 input views, poses given" in task.protocol and "32 px" in task.protocol


def test_inputs_carry_the_poses_of_the_protocol_and_tests_the_true_ones(scene: Path) -> None:
    change(scene, odometry=True, inputs=INPUTS, test=TEST)
    odometry, none = (heldout_task(scene, 2, poses=kind) for kind in ("odometry", "none"))
    assert [k.frame.world_from_cam.translation[0] for k in odometry.keyframes] == pytest.approx([0.01, 0.41])
    assert [k.frame.world_from_cam for k in none.keyframes] == [None, None]
    for task in (odometry, none):
        assert [p.translation[0] for p in task.truth] == pytest.approx([0.0, 0.4])
        assert [f.world_from_cam.translation[0] for f in task.tests] == pytest.approx([0.2, 0.3])


def test_cameras_that_are_not_given_come_from_larger_inputs(scene: Path) -> None:
    change(scene, odometry=True, inputs=INPUTS, test=TEST)
    for poses in ("odometry", "none"):
        task = heldout_task(scene, 2, poses=poses, max_size=32, camera_size=128)
        assert [k.frame.camera.size for k in task.originals] == [(128, 96)] * 2
        assert task.protocol.endswith("longer side 32 px, cameras from inputs of 128 px")
        for large, small in zip(task.originals, task.keyframes, strict=True):
            assert large.id == small.id and large.frame.depth_m is None
            assert large.frame.world_from_cam == small.frame.world_from_cam
            assert large.frame.camera.fitted_to(32) == small.frame.camera
    assert heldout_task(scene, 2, poses="given", max_size=32, camera_size=128).originals == ()
    assert heldout_task(scene, 2, poses="none", max_size=128, camera_size=64).originals == ()
    assert heldout_task(scene, 2, poses="none", max_size=256, camera_size=4096).originals == ()
    whole = heldout_task(scene, 2, poses="none", max_size=32, camera_size=4096)
    assert whole.protocol.endswith("cameras from inputs of 256 px"), "pictures are never enlarged"


def test_a_leaked_file_is_refused(scene: Path) -> None:
    change(scene, inputs=INPUTS, test=["images/0004.png"])
    with pytest.raises(InvalidInputError, match=r"tests on images/0004\.png, which is one of its inputs"):
        heldout_task(scene, 2)


@pytest.mark.parametrize("how", ["copy", "jpeg", "link"])
def test_a_leaked_picture_is_refused_under_any_name(scene: Path, how: str) -> None:
    """The held-out picture is an input again: as another file, re-encoded, or by a link."""
    given, held = scene / INPUTS[1], scene / TEST[0]
    if how == "copy":
        shutil.copy(given, held)
    elif how == "link":
        held.unlink()
        held.symlink_to(given)
    else:
        _, data = cv2.imencode(".jpg", cv2.imread(str(given)), [cv2.IMWRITE_JPEG_QUALITY, 80])
        cv2.imwrite(str(held), cv2.imdecode(data, cv2.IMREAD_COLOR))
    with pytest.raises(InvalidInputError, match=r"tests on images/000[24]\.png, which (shows the same picture|is one)"):
        heldout_task(scene, 2)


def test_a_picture_that_moved_a_little_is_no_leak(scene: Path) -> None:
    picture = cv2.imread(str(scene / INPUTS[1]))
    cv2.imwrite(str(scene / TEST[0]), np.roll(picture, 2, axis=1))
    assert heldout_task(scene, 2).test_names == tuple(TEST)


def test_bad_scenes_are_one_sentence(scene: Path) -> None:
    with pytest.raises(InvalidInputError, match="no split '3', expected one of 2"):
        heldout_task(scene, 3)
    with pytest.raises(InvalidInputError, match="poses are 'guessed'"):
        heldout_task(scene, 2, poses="guessed")
    with pytest.raises(InvalidInputError, match="has no pose c2w_dataset"):
        heldout_task(scene, 2, poses="odometry")
    change(scene, inputs=INPUTS, test=[])
    with pytest.raises(InvalidInputError, match="has no test view"):
        heldout_task(scene, 2)
    change(scene, inputs=INPUTS[:1], test=TEST)
    with pytest.raises(InvalidInputError, match="has 1 input, expected 2"):
        heldout_task(scene, 2)
    change(scene, drop_pose=TEST[0], inputs=INPUTS, test=TEST)
    with pytest.raises(InvalidInputError, match=r"held-out image images/0002\.png .* has no pose"):
        heldout_task(scene, 2)

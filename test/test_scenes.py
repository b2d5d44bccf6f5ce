"""Scene folders: what they hold, and one sentence for everything that can be wrong with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reconx_ros.core import SE3, Frame, InvalidInputError, PinholeCamera, ReconxError, StorageError
from reconx_ros.io import images
from reconx_ros.io.scenes import camera_from_fov, read_scene, read_split, write_scene

CAMERA = PinholeCamera(width=32, height=24, fx=30.0, fy=31.0, cx=15.2, cy=11.7)


def frame(k: int) -> Frame:
    rng = np.random.default_rng(k)
    depth = rng.integers(500, 4000, (24, 32)).astype(np.float32) / 1000
    depth[:3] = 0
    return Frame(
        rgb_u8=rng.integers(0, 255, (24, 32, 3), np.uint8),
        camera=CAMERA,
        stamp_ns=k * 500_000_000,
        world_from_cam=SE3.exp(np.array([0.1 * k, 0.2, -0.3]), np.array([k, 1.0, 2.0])),
        depth_m=depth,
    )


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    write_scene(tmp_path / "room", [frame(k) for k in range(3)], metric_scale=True, pose_source="made up")
    return tmp_path / "room"


def edit(scene: Path, **changes: Any) -> None:
    document = json.loads((scene / "cameras.json").read_text())
    (scene / "cameras.json").write_text(json.dumps({**document, **changes}))


def edit_image(scene: Path, k: int = 0, **changes: Any) -> None:
    document = json.loads((scene / "cameras.json").read_text())
    document["images"][k].update(changes)
    edit(scene, images=document["images"])


def test_a_written_scene_reads_back_exactly(scene: Path) -> None:
    got = read_scene(scene)
    assert (got.name, got.metric_scale, got.pose_source) == ("room", True, "made up")
    assert got.names == ("images/0000.png", "images/0001.png", "images/0002.png")
    for k, read in enumerate(got.frames):
        made = frame(k)
        assert np.array_equal(read.rgb_u8, made.rgb_u8)
        assert read.depth_m == pytest.approx(made.depth_m, abs=1e-4)
        assert read.camera == CAMERA
        assert read.stamp_ns == made.stamp_ns
        assert read.world_from_cam is not None
        assert read.world_from_cam.matrix == pytest.approx(made.world_from_cam.matrix, abs=1e-9)


def test_poses_depth_and_names_can_be_chosen(scene: Path) -> None:
    other = SE3.exp(np.zeros(3), np.array([9.0, 9.0, 9.0])).matrix.tolist()
    edit_image(scene, 1, c2w_dataset=other)
    dataset = read_scene(scene, poses="c2w_dataset", names=["images/0001.png"], depth=False)
    assert dataset.names == ("images/0001.png",)
    assert dataset.frames[0].world_from_cam.translation[0] == 9
    assert dataset.frames[0].depth_m is None
    assert read_scene(scene, poses=None).frames[0].world_from_cam is None
    assert read_scene(scene, poses="c2w_dataset").frames[0].world_from_cam is None
    with pytest.raises(InvalidInputError, match="'w2c'"):
        read_scene(scene, poses="w2c")


@pytest.mark.parametrize(
    ("convention", "sfm", "shift"),
    [
        ("pixel centres at integer+0.5 (COLMAP convention)", False, 0.5),
        ("pixel centres at integer+0.5 (COLMAP convention) for SfM scenes", True, 0.5),
        ("pixel centres at integer+0.5 (COLMAP convention) for SfM scenes", False, 0.0),
        ("OpenCV axes", True, 0.0),
        ("", False, 0.0),
    ],
)
def test_colmap_pixel_centres_are_taken_off(scene: Path, convention: str, sfm: bool, shift: float) -> None:
    edit(scene, convention=convention, **({"sfm": {"registered": 3}} if sfm else {}))
    camera = read_scene(scene).frames[0].camera
    assert (camera.cx, camera.cy) == pytest.approx((15.2 - shift, 11.7 - shift))


def test_splits(scene: Path) -> None:
    names = [f"images/{k:04d}.png" for k in range(3)]
    edit(scene, suggested_splits={"2": {"inputs": [names[2], names[0]], "test": [names[1]]}})
    inputs, test = read_split(scene, "2", depth=False)
    assert (inputs.names, test.names) == ((names[2], names[0]), (names[1],))
    assert np.array_equal(inputs.frames[0].rgb_u8, frame(2).rgb_u8)
    with pytest.raises(InvalidInputError, match="no split '9', expected one of 2"):
        read_split(scene, "9")


def test_pictures_are_shrunk_with_their_camera_and_depth(scene: Path) -> None:
    small = read_scene(scene, max_size=16).frames[0]
    assert small.camera == CAMERA.scaled_to(16, 12)
    assert small.rgb_u8.shape == (12, 16, 3)
    assert small.depth_m.shape == (12, 16)
    assert set(small.depth_m.ravel()) <= set(read_scene(scene).frames[0].depth_m.ravel())
    assert read_scene(scene, max_size=64).frames[0].camera == CAMERA


def test_depth_in_another_unit(scene: Path) -> None:
    edit(scene, depth_unit_m=0.0002)
    assert read_scene(scene).frames[0].depth_m == pytest.approx(frame(0).depth_m / 5, abs=1e-4)


def test_plain_folder_of_pictures(tmp_path: Path) -> None:
    for k in (10, 2):
        images.write_image(tmp_path / f"shot{k}.jpg", frame(k).rgb_u8)
    guessed = read_scene(tmp_path)
    assert all(f.focal_uncertainty > 0 for f in guessed.frames)
    scene = read_scene(tmp_path, fov_deg=90)
    assert all(f.focal_uncertainty == 0 for f in scene.frames)
    assert scene.names == ("shot2.jpg", "shot10.jpg")
    assert scene.frames[0].world_from_cam is None
    assert scene.frames[0].camera == camera_from_fov(32, 24, 90)
    assert scene.frames[0].camera.fx == pytest.approx(16)
    assert not scene.metric_scale
    (tmp_path / "images").mkdir()
    for f in tmp_path.glob("*.jpg"):
        f.rename(tmp_path / "images" / f.name)
    assert read_scene(tmp_path, fov_deg=90, max_size=16).names == ("images/shot2.jpg", "images/shot10.jpg")
    with pytest.raises(InvalidInputError, match="field of view is 180"):
        read_scene(tmp_path, fov_deg=180)


def breakages() -> dict[str, tuple[Any, str]]:
    nan_pose = np.full((4, 4), np.nan).tolist()
    return {
        "json": (lambda s: (s / "cameras.json").write_text('{"images": ['), "not valid JSON"),
        "no images": (lambda s: edit(s, images=[]), "lists no images"),
        "no file": (lambda s: edit(s, images=[{"width": 3}]), "image 0 .* has no 'file'"),
        "missing images": (lambda s: [p.unlink() for p in (s / "images").iterdir()], r"0000\.png cannot be read"),
        "not an image": (lambda s: (s / "images/0001.png").write_bytes(b"text"), r"0001\.png cannot be decoded"),
        "image size": (lambda s: edit_image(s, width=48), "is 32x24, expected 48x24"),
        "depth size": (
            lambda s: images.write_depth(s / "depth/0000.png", np.ones((12, 12), np.float32)),
            "is 12x12, expected 32x24",
        ),
        "8-bit depth": (
            lambda s: images.write_image(s / "depth/0000.png", np.zeros((24, 32, 3), np.uint8)),
            "expected one 16-bit channel",
        ),
        "nan pose": (lambda s: edit_image(s, c2w=nan_pose), "unusable pose c2w: .*NaN"),
        "scaled pose": (lambda s: edit_image(s, c2w=np.diag([2, 2, 2, 1.0]).tolist()), "expected a rotation"),
        "short pose": (lambda s: edit_image(s, c2w=[[1, 0], [0, 1]]), r"shape \[2, 2\]"),
        "text pose": (lambda s: edit_image(s, c2w="identity"), "unusable pose"),
        "model": (lambda s: edit_image(s, model="OPENCV_FISHEYE"), "camera model 'OPENCV_FISHEYE'"),
        "focal": (lambda s: edit_image(s, fx=0), "fx is 0"),
        "no focal": (lambda s: edit_image(s, fx=None), "fx = None"),
        "splits": (lambda s: edit(s, suggested_splits={"2": {"inputs": []}}), "lacks inputs or test"),
    }


@pytest.mark.parametrize("kind", breakages())
def test_a_broken_scene_is_one_sentence(scene: Path, kind: str) -> None:
    damage, message = breakages()[kind]
    damage(scene)
    with pytest.raises(ReconxError, match=message) as caught:
        list(read_scene(scene).frames)
    assert "\n" not in str(caught.value)


def test_missing_and_empty_folders(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="does not exist"):
        read_scene(tmp_path / "nothing")
    with pytest.raises(InvalidInputError, match="holds no images"):
        read_scene(tmp_path, fov_deg=60)


def test_unknown_names(scene: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"no image 'images/9999\.png'"):
        read_scene(scene, names=["images/9999.png"])
    with pytest.raises(InvalidInputError, match="no image 'x'"):
        read_scene(scene).frame("x")


def test_recorded_scenes(reconx_data: Path) -> None:
    table = read_scene(reconx_data / "hololens_kitchen_table", max_size=270)
    assert len(table.frames) == 53
    assert table.metric_scale
    assert set(table.splits) == {"2", "3", "6", "9"}
    assert table.frames[0].camera.size == (270, 180)
    assert all(f.depth_m is not None and (f.depth_m > 0).mean() > 0.3 for f in table.frames)
    office = read_scene(reconx_data / "tum_fr3_long_office", max_size=160)
    assert [f.depth_m is not None for f in office.frames] == [True] + 16 * [False]
    assert office.frames[0].stamp_ns == pytest.approx(1341847980_722988000, abs=1000)
    kitchen = read_scene(reconx_data / "mipnerf360_kitchen", names=["images/0003.jpg"])
    assert not kitchen.metric_scale
    assert kitchen.frames[0].camera.cx == pytest.approx(319.5)

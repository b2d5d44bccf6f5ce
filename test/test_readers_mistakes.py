"""Folders and files that cannot be used: one sentence each, naming the thing."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dataset_layouts as layouts
import numpy as np
import pytest
import torch
from dataset_layouts import CENTRED, COUNT, views_of

from reconx_ros.core import InvalidInputError, ReconxError, StorageError
from reconx_ros.io.readers.layouts import LAYOUT_NAMES
from reconx_ros.io.scenes import read_scene, video_keys


def refused(folder: Path, message: str, **options: Any) -> None:
    with pytest.raises(ReconxError, match=message) as caught:
        list(read_scene(folder, **options).frames)
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_no_scene_lists_the_forms(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(InvalidInputError) as caught:
        read_scene(tmp_path)
    assert all(f"{name} (" in str(caught.value) for name in LAYOUT_NAMES) and "\n" not in str(caught.value)
    refused(tmp_path, "scene format is 'ply', expected one of reconx, chunks", format="ply")
    refused(tmp_path / "nothing", "does not exist")


def test_one_image_cannot_be_reconstructed(tmp_path: Path) -> None:
    layouts.write_pictures(tmp_path, views_of(CENTRED)[:1], "{}.png")
    scene = read_scene(tmp_path)
    assert len(scene.frames) == 1
    with pytest.raises(InvalidInputError, match=f"scene {tmp_path.name} has 1 image, expected at least 2"):
        scene.inputs(2)


@pytest.mark.parametrize("count", [1, COUNT + 1])
def test_more_views_than_there_are(tmp_path: Path, count: int) -> None:
    with pytest.raises(InvalidInputError, match=f"{count} views are asked for, expected 2 to {COUNT}"):
        read_scene(layouts.colmap(tmp_path).root).inputs(count)


def test_other_poses_than_the_given_ones(tmp_path: Path) -> None:
    refused(layouts.colmap(tmp_path).root, r"\(colmap\) has no 'c2w_dataset' poses", poses="c2w_dataset")


Damage = tuple[Callable[[Path], Any], Callable[[Path], Any], str]


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_frame(path: Path, number: int, **changes: Any) -> None:
    document = json.loads(path.read_text())
    document["frames"][number].update(changes)
    path.write_text(json.dumps(document))


def drop_pose(path: Path) -> None:
    document = json.loads(path.read_text())
    del document["frames"][2]["transform_matrix"]
    path.write_text(json.dumps(document))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def replace_text(path: Path, old: str, new: str) -> None:
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def far_away(path: Path) -> None:
    path.write_text("1305031100.0 0 0 0 0 0 0 1\n")


NERF, ARRAY = "transforms.json", "poses_bounds.npy"
TUM = "rgbd_dataset_freiburg3_room"
DAMAGES: dict[str, Damage] = {
    "colmap binary cut off": (layouts.colmap, lambda r: cut(r / "sparse/0/images.bin"), "images.bin is truncated: it"),
    "colmap pictures gone": (
        layouts.colmap,
        lambda r: [p.unlink() for p in (r / "images").iterdir()],
        "000.png cannot be read",
    ),
    "colmap without pictures": (layouts.colmap, lambda r: (r / "images").rename(r / "x"), "has no folder of pictures"),
    "colmap without images": (
        layouts.colmap,
        lambda r: (r / "sparse/0/images.bin").write_bytes(struct.pack("<Q", 0)),
        "has no posed images",
    ),
    "colmap unknown lens": (
        layouts.colmap_text,
        lambda r: replace_text(r / "sparse/cameras.txt", "SIMPLE_PINHOLE", "FOV"),
        "camera model FOV, expected SIMPLE_PINHOLE",
    ),
    "colmap other proportions": (
        layouts.colmap_text,
        lambda r: replace_text(r / "sparse/cameras.txt", "96 72", "96 96"),
        "is 96x72, expected 96x96 or a scaled copy",
    ),
    "transforms broken": (layouts.nerfstudio, lambda r: cut(r / NERF), "is not valid JSON"),
    "transforms empty": (layouts.nerfstudio, lambda r: edit_json(r / NERF, frames=[]), "lists no frames"),
    "transforms no file": (layouts.nerfstudio, lambda r: edit_json(r / NERF, frames=[{}]), "has no 'file_path'"),
    "transforms no pose": (layouts.nerfstudio, lambda r: drop_pose(r / NERF), r"frame_00002\.png .* has no pose"),
    "transforms pose": (
        layouts.nerfstudio,
        lambda r: edit_frame(r / NERF, 1, transform_matrix=[[1, 2], [3]]),
        "no 3x4 or 4x4 matrix",
    ),
    "transforms scaled pose": (
        layouts.nerfstudio,
        lambda r: edit_frame(r / NERF, 1, transform_matrix=np.diag([2, 2, 2, 1]).tolist()),
        "frame_00001.png .* unusable pose: .* expected a rotation",
    ),
    "transforms lens": (
        layouts.nerfstudio,
        lambda r: edit_json(r / NERF, camera_model="EQUIRECTANGULAR"),
        "camera_model 'EQUIRECTANGULAR', expected OPENCV",
    ),
    "transforms no focal": (
        layouts.blender,
        lambda r: edit_json(r / "transforms_train.json", camera_angle_x=0),
        "no foc",
    ),
    "llff count": (layouts.llff, lambda r: (r / "images/IMG_0003.png").unlink(), f"has {COUNT} poses, expected 9"),
    "llff cut off": (layouts.llff, lambda r: cut(r / ARRAY), "no array of numpy, or cut off"),
    "llff shape": (layouts.llff, lambda r: np.save(r / ARRAY, np.zeros((3, 5))), r"has shape \[3, 5\], expected"),
    "llff nan": (layouts.llff, lambda r: np.save(r / ARRAY, np.full((COUNT, 17), np.nan)), "unusable camera"),
    "llff objects": (
        layouts.llff,
        lambda r: np.save(r / ARRAY, np.array([None] * 17, object), allow_pickle=True),
        "no array of numpy",
    ),
    "dtu no camera": (
        layouts.dtu_mvsnet,
        lambda r: (r / "scan114/cams/00000004_cam.txt").unlink(),
        "00000004.png has no camera, expected",
    ),
    "dtu other resolution": (
        layouts.dtu_mvsnet,
        lambda r: replace_text(r / "scan114/cams/00000002_cam.txt", "45.75", "823.2"),
        "another size",
    ),
    "dtu not a camera": (
        layouts.dtu_mvsnet,
        lambda r: (r / "scan114/cams/00000002_cam.txt").write_text("1 2 3"),
        "no 'extrinsic' and 'intrinsic'",
    ),
    "dtu count": (
        layouts.dtu_neus,
        lambda r: (r / "image/003.png").rename(r / "image/010.png"),
        "has matrices world_mat_0 to world_mat_9, expected",
    ),
    "dtu archive cut off": (layouts.dtu_neus, lambda r: cut(r / "cameras_sphere.npz"), "no archive of numpy, or cut"),
    "tum no association": (layouts.tum, lambda r: far_away(r / TUM / "groundtruth.txt"), "within 20 ms of a pose"),
    "tum empty": (layouts.tum, lambda r: (r / TUM / "groundtruth.txt").write_text("# x\n"), "within 20 ms of a pose"),
    "tum line": (layouts.tum, lambda r: (r / TUM / "groundtruth.txt").write_text("1 2 3\n"), "line '1 2 3', expected"),
    "tum time": (layouts.tum, lambda r: (r / TUM / "rgb.txt").write_text("now rgb/0.png\n"), "time 'now', expected"),
    "tum name": (layouts.tum, lambda r: (r / TUM).rename(r / "room"), "has no calibration: its name says none of"),
    "tum calibration": (
        layouts.tum,
        lambda r: (r / TUM / "calibration.txt").write_text("500 500 320 240\n"),
        r"calibration of .*calibration\.txt has its principal point .* another size",
    ),
    "7scenes pose gone": (
        layouts.seven_scenes,
        lambda r: (r / "seq-01/frame-000002.pose.txt").unlink(),
        r"frame-000002\.pose\.txt cannot be read",
    ),
    "7scenes pose": (
        layouts.seven_scenes,
        lambda r: (r / "seq-01/frame-000002.pose.txt").write_text("1 0 0\n"),
        "holds no 4x4 matrix",
    ),
    "7scenes split": (layouts.seven_scenes, lambda r: (r / "TestSplit.txt").write_text("all\n"), "expected sequences"),
    "scannet all lost": (
        layouts.scannet,
        lambda r: [p.write_text(layouts.text(np.full((4, 4), -np.inf))) for p in (r / "pose").iterdir()],
        "has 10 images, none of them with a finite pose",
    ),
    "scannet intrinsics": (
        layouts.scannet,
        lambda r: (r / "intrinsic/intrinsic_color.txt").write_text("a b\n"),
        "holds no 3x3 matrix",
    ),
    "chunk cut off": (layouts.chunks, lambda r: cut(r / "test/000000.torch"), "expected a complete file"),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_scene_is_one_sentence(tmp_path: Path, kind: str) -> None:
    write, damage, message = DAMAGES[kind]
    root = write(tmp_path).root
    damage(tmp_path)
    if not root.is_dir():
        root = tmp_path / "room"
    refused(root, message)


# Index files of pixelSplat ----------------------------------------------------------------------------------------


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    views = views_of(CENTRED.scaled_to(320, 280), 4)
    torch.save([layouts.chunk_video(views, key) for key in ("a", "b", "c")], tmp_path / "000000.torch")
    (tmp_path / "index.json").write_text(json.dumps(dict.fromkeys("abc", "000000.torch")))
    return tmp_path


def index_of(folder: Path, content: Any) -> Path:
    path = folder / "evaluation_index.json"
    path.write_text(json.dumps(content))
    return path


def test_an_index_says_what_is_given_and_tested(videos: Path) -> None:
    index = index_of(videos, {"c": {"context": [3, 0], "target": [1, 2]}, "a": None, "x": None})
    assert video_keys(videos) == ("a", "b", "c") and video_keys(videos, index) == ("c",)
    scene = read_scene(videos, video="c", index=index)
    split = scene.splits["2"]
    assert (split.inputs, split.test) == (("000003", "000000"), ("000001", "000002"))
    assert split.protocol == "pixelSplat index evaluation_index.json, 256x256 crops" and scene.name == "c"
    assert scene.frames[0].rgb_u8.shape == (256, 256, 3) and scene.frames[2].stamp_ns == 66_000_000
    assert read_scene(videos, video="c", index=index, crop=(64, 32)).frames[0].rgb_u8.shape == (32, 64, 3)
    assert read_scene(videos, video="c").frames[0].rgb_u8.shape == (280, 320, 3)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": {"context": [0, 3], "target": [1, 3]}}, "tests video 'a' on picture 3, which is one of its inputs"),
        ({"a": {"context": [0, 3], "target": [4]}}, "names picture 4 of video 'a', expected .*3"),
        ({"a": {"context": [0, -1], "target": [2]}}, "context .*-1.*, expected a list of places from 0"),
        ({"a": {"context": [0, 0], "target": [2]}}, "expected each place once"),
        ({"a": {"context": [0, 1]}}, "target None, expected a list"),
        ({"a": {"context": [0, True], "target": [2]}}, "expected a list of places from 0"),
        ({"a": {"context": [], "target": [2]}}, r"context \[\], expected a list"),
        ({"a": [0, 1]}, "context None"),
        ({"a": None}, "has no entry for video 'a'"),
        ({"b": {"context": [0, 3], "target": [1]}}, "has no entry for video 'a'"),
        ([1, 2], "holds a list"),
    ],
)
def test_a_wrong_index_is_refused(videos: Path, content: Any, message: str) -> None:
    refused(videos, message, video="a", index=index_of(videos, content))


def test_leaked_tests_are_dropped_on_request_only(videos: Path) -> None:
    """The published index of RealEstate10K has such videos."""
    index = index_of(videos, {"a": {"context": [0, 3], "target": [1, 3]}, "b": {"context": [0, 3], "target": [3, 0]}})
    split = read_scene(videos, video="a", index=index, drop_leaked=True).splits["2"]
    assert split.test == ("000001",) and "json without 1 of 2 targets that are inputs, 256" in split.protocol
    refused(videos, "tests video 'b' on picture 0", video="b", index=index, drop_leaked=True)


def test_an_index_of_another_data_set(videos: Path) -> None:
    index = index_of(videos, {"0123": {"context": [0, 3], "target": [1]}})
    with pytest.raises(InvalidInputError, match=r"names no video of .*'0123' and others, there is 'a'"):
        video_keys(videos, index)
    with pytest.raises(StorageError, match=r"missing\.json cannot be read"):
        video_keys(videos, videos / "missing.json")


def test_videos_are_asked_for_by_name(videos: Path, tmp_path: Path) -> None:
    refused(videos, "holds 3 videos, expected the name of one, such as 'a'")
    refused(videos, "has no video 'z', expected one such as 'a'", video="z")
    other = tmp_path / "colmap"
    refused(layouts.colmap(other).root, r"\(colmap\) takes no index file or video", video="a")
    refused(videos, "is 320x280, expected at least 640x360", video="a", crop=(640, 360))

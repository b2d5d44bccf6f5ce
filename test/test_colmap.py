"""COLMAP models: written, read back, and compared with what COLMAP's documentation says of the bytes."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from reconx_ros.core import SE3, InvalidInputError, PinholeCamera, StorageError
from reconx_ros.io.colmap import ColmapView, read_colmap, write_colmap

BINARY = pytest.mark.parametrize("binary", [False, True])
CAMERAS = (
    PinholeCamera(width=640, height=480, fx=501.25, fy=503.1, cx=319.5, cy=239.123456789),
    PinholeCamera(width=32, height=24, fx=30, fy=31, cx=15.5, cy=11.5),
)


def some_views(count: int = 5) -> list[ColmapView]:
    rng = np.random.default_rng(0)
    return [
        ColmapView(
            camera=CAMERAS[i % 2],
            world_from_cam=SE3.exp(rng.normal(size=3), rng.normal(size=3)),
            name=f"left/{count - i:04d}.jpg",
        )
        for i in range(count)
    ]


def assert_same(found: list[ColmapView], wanted: list[ColmapView]) -> None:
    assert [v.name for v in found] == [v.name for v in wanted]
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.camera.size == theirs.camera.size
        np.testing.assert_allclose(ours.camera.matrix, theirs.camera.matrix, rtol=1e-14)
        np.testing.assert_allclose(ours.world_from_cam.matrix, theirs.world_from_cam.matrix, atol=1e-12)


@BINARY
@pytest.mark.parametrize("count", [0, 1, 5])
def test_round_trip(tmp_path: Path, binary: bool, count: int) -> None:
    folder, views = tmp_path / "sparse" / "0", some_views(count)
    write_colmap(folder, views, binary=binary)
    suffix = ".bin" if binary else ".txt"
    assert {p.name for p in folder.iterdir()} == {f"{n}{suffix}" for n in ("cameras", "images", "points3D")}
    assert_same(read_colmap(folder), views)


@BINARY
def test_writing_again_replaces(tmp_path: Path, binary: bool) -> None:
    for count in (5, 2):
        write_colmap(tmp_path, some_views(count), binary=binary)
    assert_same(read_colmap(tmp_path), some_views(2))


def quarter_turn() -> list[ColmapView]:
    """A camera at (1, 2, 3) that is turned by 90 degrees about z."""
    pose = SE3.exp(np.array([0, 0, np.pi / 2]), np.array([1.0, 2.0, 3.0]))
    return [ColmapView(camera=CAMERAS[1], world_from_cam=pose, name="a.png")]


def test_text_is_what_colmap_documents(tmp_path: Path) -> None:
    write_colmap(tmp_path, quarter_turn(), binary=False)
    cameras = [line for line in (tmp_path / "cameras.txt").read_text().splitlines() if line[0] != "#"]
    assert cameras == ["1 PINHOLE 32 24 30.0 31.0 16.0 12.0"]
    lines = (tmp_path / "images.txt").read_text().split("\n")[1:]
    words = lines[0].split()
    half = np.sqrt(0.5)
    # cam_from_world turns back: its quaternion is (cos 45, 0, 0, -sin 45), and x_cam = y_world, y_cam = -x_world.
    np.testing.assert_allclose([float(w) for w in words[1:8]], [half, 0, 0, -half, -2, 1, -3], atol=1e-12)
    assert (words[0], words[8:], lines[1:]) == ("1", ["1", "a.png"], ["", ""])
    assert all(line[0] == "#" for line in (tmp_path / "points3D.txt").read_text().splitlines())


def test_binary_is_what_colmap_documents(tmp_path: Path) -> None:
    write_colmap(tmp_path, quarter_turn())
    cameras = (tmp_path / "cameras.bin").read_bytes()
    assert struct.unpack("<QIiQQdddd", cameras) == (1, 1, 1, 32, 24, 30.0, 31.0, 16.0, 12.0)
    images = (tmp_path / "images.bin").read_bytes()
    count, number, *pose, camera, name, points = struct.unpack("<QI7dI6sQ", images)
    half = np.sqrt(0.5)
    np.testing.assert_allclose(pose, [half, 0, 0, -half, -2, 1, -3], atol=1e-12)
    assert (count, number, camera, name, points) == (1, 1, 1, b"a.png\0", 0)
    assert (tmp_path / "points3D.bin").read_bytes() == bytes(8)


def test_equal_cameras_are_written_once(tmp_path: Path) -> None:
    write_colmap(tmp_path, some_views(5))
    assert struct.unpack_from("<Q", (tmp_path / "cameras.bin").read_bytes()) == (2,)


def test_text_of_other_programs(tmp_path: Path) -> None:
    (tmp_path / "cameras.txt").write_text("# a comment\n\n7 SIMPLE_PINHOLE 64 48 50 32 24\n")
    (tmp_path / "images.txt").write_text(
        "# a comment\n9 2 0 0 0 1 2 3 7 with space.jpg\n\n4 1 0 0 0 0 0 0 7 b.jpg\n1.5 2.5 -1 3.5 4.5 12\n"
        "5 1 0 0 0 0 0 0 7 c.jpg"
    )
    views = read_colmap(tmp_path)
    assert [v.name for v in views] == ["b.jpg", "c.jpg", "with space.jpg"]
    camera = views[0].camera
    assert (camera.fx, camera.fy, camera.cx, camera.cy, camera.size) == (50, 50, 31.5, 23.5, (64, 48))
    np.testing.assert_allclose(views[2].world_from_cam.translation, [-1, -2, -3])


def test_binary_with_points_and_simple_pinhole(tmp_path: Path) -> None:
    (tmp_path / "cameras.bin").write_bytes(struct.pack("<QIiQQ3d", 1, 3, 0, 64, 48, 50, 32, 24))
    images = struct.pack("<Q", 2)
    for number in (2, 1):
        images += struct.pack("<I7dI", number, 1, 0, 0, 0, 0, 0, number, 3) + b"%d.jpg\0" % number
        images += struct.pack("<Q", number) + number * struct.pack("<ddq", 1.5, 2.5, -1)
    (tmp_path / "images.bin").write_bytes(images)
    views = read_colmap(tmp_path)
    assert [v.name for v in views] == ["1.jpg", "2.jpg"] and views[0].camera.cx == 31.5
    np.testing.assert_allclose(views[1].world_from_cam.translation, [0, 0, -2])


def test_every_cut_is_noticed(tmp_path: Path) -> None:
    write_colmap(tmp_path, some_views(2))
    for name in ("cameras.bin", "images.bin"):
        whole = (tmp_path / name).read_bytes()
        for end in range(0, len(whole), 7):
            (tmp_path / name).write_bytes(whole[:end])
            with pytest.raises(StorageError, match="truncated"):
                read_colmap(tmp_path)
        (tmp_path / name).write_bytes(whole)


@pytest.mark.parametrize(
    ("cameras", "images", "words"),
    [
        ("1 FOV 64 48 50 50 32 24 0.9", "", "camera model FOV, expected SIMPLE_PINHOLE, PINHOLE, SIMPLE_RADIAL"),
        ("1 OPENCV 64 48 50 50 32 24 0 0 0", "", "OPENCV camera of 7 parameters, expected 8"),
        ("1 PINHOLE 64 48 50 50 32", "", "PINHOLE camera of 3 parameters, expected 4"),
        ("1 PINHOLE 64", "", "expected ID MODEL"),
        ("1 PINHOLE 64 48 -50 50 32 24", "", "focal length fx is -50"),
        ("1 PINHOLE 64 48 50 50 32 24", "1 1 0 0 0 0 0 0 2 a.jpg\n", "names camera 2 for 'a.jpg'"),
        ("1 PINHOLE 64 48 50 50 32 24", "1 0 0 0 0 0 0 0 1 a.jpg\n", "no direction"),
        ("1 PINHOLE 64 48 50 50 32 24", "1 1 0 0 0 nan 0 0 1 a.jpg\n", "picture 'a.jpg': translation"),
        ("1 PINHOLE 64 48 50 50 32 24", "1 1 0 0 0 0 0 0 1\n", "expected ID QW"),
    ],
)
def test_unusable_text_is_refused(tmp_path: Path, cameras: str, images: str, words: str) -> None:
    (tmp_path / "cameras.txt").write_text(cameras + "\n")
    (tmp_path / "images.txt").write_text(images)
    with pytest.raises(InvalidInputError, match=words):
        read_colmap(tmp_path)


def test_unusable_binary_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cameras.bin").write_bytes(struct.pack("<QIiQQ8d", 1, 1, 10, 64, 48, *range(8)))
    (tmp_path / "images.bin").write_bytes(bytes(8))
    with pytest.raises(InvalidInputError, match="camera model number 10"):
        read_colmap(tmp_path)


@pytest.mark.parametrize("present", [[], ["cameras.txt"], ["cameras.bin", "images.txt"]])
def test_folder_without_a_model(tmp_path: Path, present: list[str]) -> None:
    for name in present:
        (tmp_path / name).touch()
    with pytest.raises(InvalidInputError, match="holds no COLMAP model"):
        read_colmap(tmp_path)


@pytest.mark.parametrize("name", ["", "a\0b", "a b.jpg", "a\n.jpg", " a.jpg"])
def test_names_that_text_cannot_hold(tmp_path: Path, name: str) -> None:
    view = ColmapView(camera=CAMERAS[0], world_from_cam=SE3.identity(), name=name)
    with pytest.raises(InvalidInputError, match="picture name"):
        write_colmap(tmp_path, [view], binary=False)
    if name and "\0" not in name:
        write_colmap(tmp_path, [view])
        assert read_colmap(tmp_path)[0].name == name


def test_names_given_twice(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"'a\.png' is given twice"):
        write_colmap(tmp_path, 2 * quarter_turn())


@pytest.mark.parametrize(("stale", "binary"), [("cameras.txt", True), ("images.bin", False), ("rigs.bin", True)])
def test_models_are_not_mixed(tmp_path: Path, stale: str, binary: bool) -> None:
    (tmp_path / stale).touch()
    with pytest.raises(InvalidInputError, match=f"holds {stale} of another model"):
        write_colmap(tmp_path, some_views(1), binary=binary)
    assert len(list(tmp_path.iterdir())) == 1


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot make folder"):
        write_colmap(tmp_path / "file" / "sparse", some_views(1))


@pytest.mark.parametrize(
    ("model", "numbers", "distortion_model", "distortion"),
    [
        ("SIMPLE_RADIAL", "50 32 24 0.1", "plumb_bob", (0.1, 0, 0, 0, 0)),
        ("RADIAL", "50 32 24 0.1 -0.2", "plumb_bob", (0.1, -0.2, 0, 0, 0)),
        ("OPENCV", "50 50 32 24 0.1 -0.2 0.01 0.02", "plumb_bob", (0.1, -0.2, 0.01, 0.02, 0)),
        ("OPENCV_FISHEYE", "50 50 32 24 0.1 -0.2 0.3 0.4", "equidistant", (0.1, -0.2, 0.3, 0.4)),
        ("RADIAL_FISHEYE", "50 32 24 0.1 -0.2", "equidistant", (0.1, -0.2, 0, 0)),
        ("FULL_OPENCV", "50 50 32 24 1 2 3 4 5 6 7 8", "rational_polynomial", (1, 2, 3, 4, 5, 6, 7, 8)),
        ("OPENCV", "50 50 32 24 0 0 0 0", "", ()),
    ],
)
def test_distorted_cameras(
    tmp_path: Path, model: str, numbers: str, distortion_model: str, distortion: tuple[float, ...]
) -> None:
    (tmp_path / "cameras.txt").write_text(f"1 {model} 64 48 {numbers}\n")
    (tmp_path / "images.txt").write_text("1 1 0 0 0 0 0 0 1 a.jpg\n\n")
    view = read_colmap(tmp_path)[0]
    assert (view.camera.fx, view.camera.fy, view.camera.cx, view.camera.cy) == (50, 50, 31.5, 23.5)
    assert (view.distortion_model, view.distortion) == (distortion_model, distortion)
    if distortion:
        with pytest.raises(InvalidInputError, match=r"'a\.jpg' has distortion"):
            write_colmap(tmp_path / "out", [view])

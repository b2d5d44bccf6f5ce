"""Calibration, names and photos as people have them: mended, or refused in a sentence, never wrong in silence."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dataset_layouts as layouts
import numpy as np
import pytest
from dataset_layouts import CENTRED, COUNT, HEIGHT, ODD, WIDTH
from test_readers_mistakes import edit_frame, edit_json, refused, replace_text

from reconx_ros.cli.reconstruct import scene_keyframes
from reconx_ros.core import SE3, InvalidInputError, PinholeCamera
from reconx_ros.io import images
from reconx_ros.io.colmap import ColmapView, read_colmap, write_colmap
from reconx_ros.io.lens import Lens
from reconx_ros.io.plausible import check_camera, check_middle, rounding_moves
from reconx_ros.io.rectify import make_rectifier
from reconx_ros.io.scenes import Scene, read_scene

NERF = "transforms.json"


def grey(path: Path, width: int = 96, height: int = 72, value: int = 90) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    images.write_image(path, np.full((height, width, 3), value, np.uint8))


# A fisheye is a fisheye ------------------------------------------------------------------------------------------


def ideal_fisheye_column(rectified: PinholeCamera, lens: PinholeCamera, column: float) -> float:
    """Where the lens (r = f * angle) shows what a rectified picture has at a column of its middle row."""
    return lens.cx + lens.fx * math.atan((column - rectified.cx) / rectified.fx)


@pytest.mark.parametrize("coefficients", [(), (0.0, 0.0, 0.0, 0.0)])
@pytest.mark.parametrize("model", ["equidistant", "fisheye"])
def test_a_fisheye_without_coefficients_bends_all_the_same(model: str, coefficients: tuple[float, ...]) -> None:
    rectifier = make_rectifier(*CENTRED.size, CENTRED.matrix.ravel(), model, coefficients)
    assert rectifier.changes
    ramp = np.tile(np.arange(WIDTH, dtype=np.float32), (HEIGHT, 1))
    row = rectifier.image(ramp[..., None].repeat(3, axis=-1))[HEIGHT // 2, :, 0]
    for column in (8, 30, 80):
        assert row[column] == pytest.approx(ideal_fisheye_column(rectifier.camera, CENTRED, column), abs=0.1)
    near = make_rectifier(*CENTRED.size, CENTRED.matrix.ravel(), "equidistant", (1e-9, 0, 0, 0)).camera
    assert rectifier.camera.fx == pytest.approx(near.fx, rel=1e-4)


FISHEYES = [
    ("OPENCV_FISHEYE", "80 80 48 36 0 0 0 0"),
    ("SIMPLE_RADIAL_FISHEYE", "80 48 36 0"),
    ("RADIAL_FISHEYE", "80 48 36 0 0"),
]


@pytest.mark.parametrize(("model", "numbers"), FISHEYES)
def test_colmap_keeps_a_fisheye_with_zero_coefficients(tmp_path: Path, model: str, numbers: str) -> None:
    layouts.colmap_text(tmp_path)
    (tmp_path / "sparse/cameras.txt").write_text(f"5 {model} {WIDTH} {HEIGHT} {numbers}\n")
    assert read_scene(tmp_path).views[0].camera.fx < 79
    view = read_colmap(tmp_path / "sparse")[0]
    with pytest.raises(InvalidInputError, match="has distortion"):
        write_colmap(tmp_path / "other", [view])


@pytest.mark.parametrize("changes", [{"camera_model": "OPENCV_FISHEYE"}, {"is_fisheye": True}])
def test_transforms_keep_a_fisheye_without_coefficients(tmp_path: Path, changes: dict[str, Any]) -> None:
    layouts.nerfstudio(tmp_path)
    edit_json(tmp_path / NERF, **changes)
    assert read_scene(tmp_path).views[0].camera.fx != pytest.approx(ODD.fx)
    assert not Lens(camera=ODD, model="equidistant").is_pinhole and Lens(camera=ODD, model="plumb_bob").is_pinhole


# Poses -----------------------------------------------------------------------------------------------------------


def mirrored(matrix: Any) -> np.ndarray:
    return np.array(matrix, np.float64) * [-1, 1, 1, 1]


def edit_matrix(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    path.write_text(layouts.text(change(np.loadtxt(path))))


def first_pose(root: Path) -> np.ndarray:
    return np.array(json.loads((root / NERF).read_text())["frames"][1]["transform_matrix"])


def mirror_llff(root: Path) -> None:
    rows = np.load(root / "poses_bounds.npy")
    rows[:, :15:5] *= -1
    np.save(root / "poses_bounds.npy", rows)


def mirror_mvsnet(root: Path) -> None:
    path = root / "scan114/cams/00000002_cam.txt"
    lines = path.read_text().splitlines()
    lines[1:4] = layouts.text(mirrored(np.loadtxt(lines[1:5]))[:3]).splitlines()
    path.write_text("\n".join(lines))


LEFT = r"left-handed \(determinant -1, expected 1\)"
POSES: dict[str, tuple[Callable[[Path], Any], Callable[[Path], Any], str]] = {
    "transforms mirrored": (
        layouts.nerfstudio,
        lambda r: edit_frame(r / NERF, 1, transform_matrix=mirrored(first_pose(r)).tolist()),
        f"frame_00001.png .*{LEFT}",
    ),
    "transforms by columns": (
        layouts.nerfstudio,
        lambda r: edit_frame(r / NERF, 1, transform_matrix=first_pose(r).T.tolist()),
        "frame_00001.png .*translation .* in the last row .*column-major",
    ),
    "llff mirrored": (layouts.llff, mirror_llff, f"IMG_0000.png .*{LEFT}"),
    "7scenes mirrored": (
        layouts.seven_scenes,
        lambda r: edit_matrix(r / "seq-01/frame-000002.pose.txt", mirrored),
        rf"frame-000002\.pose\.txt .*{LEFT}",
    ),
    "7scenes by columns": (
        layouts.seven_scenes,
        lambda r: edit_matrix(r / "seq-01/frame-000002.pose.txt", np.transpose),
        "column-major",
    ),
    "scannet mirrored": (layouts.scannet, lambda r: edit_matrix(r / "pose/2.txt", mirrored), LEFT),
    "mvsnet mirrored": (layouts.dtu_mvsnet, mirror_mvsnet, f"00000002.png .*{LEFT}"),
    "tum quaternion": (
        layouts.tum,
        lambda r: (r / "rgbd_dataset_freiburg3_room/groundtruth.txt").write_text("1311868174.0 0 0 0 3 0 0 4\n"),
        "has length 5, expected 1",
    ),
}


@pytest.mark.parametrize("kind", POSES)
def test_poses_that_cannot_be_are_refused(tmp_path: Path, kind: str) -> None:
    write, damage, message = POSES[kind]
    root = write(tmp_path).root
    damage(tmp_path)
    refused(root, message)


def test_a_mirrored_pose_in_cameras_json_is_refused(tmp_path: Path) -> None:
    entry = cameras_json(tmp_path)
    entry["c2w"] = mirrored(np.eye(4)).tolist()
    (tmp_path / "cameras.json").write_text(json.dumps({"images": [entry]}))
    refused(tmp_path, f"image images/0.png .*{LEFT}")


def cameras_json(root: Path, **changes: Any) -> dict[str, Any]:
    """A scene of one picture, 96 x 72; its entry."""
    grey(root / "images/0.png")
    entry = {"file": "images/0.png", "width": WIDTH, "height": HEIGHT, "fx": 80, "fy": 80, "cx": 47.5, "cy": 35.5}
    entry |= {"c2w": np.eye(4).tolist(), **changes}
    (root / "cameras.json").write_text(json.dumps({"images": [entry]}))
    return entry


# Intrinsics ------------------------------------------------------------------------------------------------------


def plain_transforms(root: Path, names: list[str], **top: Any) -> None:
    frames = [{"file_path": n, "transform_matrix": layouts.opengl(SE3.identity()).tolist()} for n in names]
    (root / NERF).write_text(json.dumps({"fl_x": 80, "fl_y": 80, "cx": 48, "cy": 36, **top, "frames": frames}))


def test_numbers_without_a_size_belong_to_the_full_size_pictures(tmp_path: Path) -> None:
    grey(tmp_path / "images/0.png")
    grey(tmp_path / "images_2/0.png", 48, 36)
    plain_transforms(tmp_path, ["images/0.png"])
    camera = read_scene(tmp_path, images="images_2").views[0].camera
    assert (camera.fx, camera.cx, camera.size) == (40, 23.5, (48, 36))


@pytest.mark.parametrize("size", [(48, 36), (64, 48), (80, 60), (192, 144)])
def test_numbers_of_another_size_are_refused_where_none_is_stated(tmp_path: Path, size: tuple[int, int]) -> None:
    grey(tmp_path / "images/0.png", *size)
    plain_transforms(tmp_path, ["images/0.png"])
    refused(tmp_path, r"principal point at \(47.5, 35.5\) of .* another size")
    plain_transforms(tmp_path, ["images/0.png"], w=WIDTH, h=HEIGHT)
    assert read_scene(tmp_path).views[0].camera.fx == pytest.approx(80 * size[0] / WIDTH)


def test_pictures_of_cameras_json_may_be_scaled_copies(tmp_path: Path) -> None:
    cameras_json(tmp_path, width=192, height=144, fx=160, fy=160, cx=95.5, cy=71.5)
    frame = read_scene(tmp_path).frames[0]
    assert frame.camera == PinholeCamera(width=96, height=72, fx=80, fy=80, cx=47.5, cy=35.5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cx": 200.0}, r"principal point at \(200, 35.5\) outside of its 96x72 pixels"),
        ({"cy": -5.0}, "outside"),
        ({"fx": 10.0}, r"fx = 10 for a picture 96 px wide, expected 19.2 to 960"),
        ({"fy": 2000.0}, "fy = 2000"),
    ],
)
def test_intrinsics_that_cannot_be_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    cameras_json(tmp_path, **changes)
    refused(tmp_path, message)


def test_a_window_on_the_sensor_is_no_mistake() -> None:
    window = PinholeCamera(width=96, height=72, fx=80, fy=80, cx=70, cy=20)
    check_camera(window, "image")
    check_middle(window, "image")


def test_exif_turns_a_picture_only_where_its_calibration_says_so(tmp_path: Path) -> None:
    from test_exif import exif, photo

    entry = cameras_json(tmp_path, file="images/a.jpg", width=64, height=48, fx=50, fy=50, cx=31.5, cy=23.5)
    photo(tmp_path / "images/a.jpg", exif({}, orientation=6))
    assert read_scene(tmp_path).frames[0].rgb_u8.shape == (48, 64, 3)
    entry |= {"width": 48, "height": 64, "cx": 23.5, "cy": 31.5}
    (tmp_path / "cameras.json").write_text(json.dumps({"images": [entry]}))
    assert read_scene(tmp_path).frames[0].rgb_u8.shape == (64, 48, 3)


# Names and files -------------------------------------------------------------------------------------------------


def posed(scene: Scene) -> dict[str, float]:
    """The x of each picture's camera."""
    return {Path(v.name).name: float(v.world_from_cam.translation[0]) for v in scene.views if v.world_from_cam}


def colmap_row(root: Path, names: list[str]) -> None:
    """A model whose picture k stands at x = k."""
    camera = PinholeCamera(width=96, height=72, fx=80, fy=80, cx=47.5, cy=35.5)
    poses = [SE3(rotation=np.eye(3), translation=np.array([float(k), 0, 0])) for k in range(len(names))]
    write_colmap(
        root / "sparse/0",
        [ColmapView(camera=camera, world_from_cam=p, name=n) for n, p in zip(names, poses, strict=True)],
    )


def test_a_lost_picture_moves_no_other_pose(tmp_path: Path) -> None:
    colmap_row(tmp_path, ["0.png", "1.png", "3.png", "4.png"])
    for k in (0, 1, 2, 3):  # 2 was not registered, 4 is lost
        grey(tmp_path / f"images/{k}.png")
    scene = read_scene(tmp_path)
    assert posed(scene) == {"0.png": 0, "1.png": 1, "3.png": 2}
    assert scene.notes == ("1 image left out: no file, such as images/4.png",)


def test_order_decides_only_where_no_name_is_there_and_is_said(tmp_path: Path) -> None:
    colmap_row(tmp_path, ["a.png", "b.png", "c.png"])
    for name in ("image000", "image001", "image002"):
        grey(tmp_path / f"images/{name}.png")
    scene = read_scene(tmp_path)
    assert list(posed(scene).values()) == [0, 1, 2] and "sorted order" in scene.notes[0]
    grey(tmp_path / "images/image003.png")
    refused(tmp_path, r"a\.png cannot be read: it is not there, like 2 other files")


def test_names_that_differ_by_their_folder_keep_their_files(tmp_path: Path) -> None:
    colmap_row(tmp_path, ["left/0.png", "right/0.png"])
    grey(tmp_path / "images/0.png")
    refused(tmp_path, "pictures 'left/0.png' and 'right/0.png' that are both file")
    for side, value in (("left", 10), ("right", 200)):
        grey(tmp_path / f"images/{side}/0.png", value=value)
    assert [int(f.rgb_u8[0, 0, 0]) for f in read_scene(tmp_path).frames] == [10, 200]
    plain_transforms(tmp_path, ["images/left/0.png", "images/right/0.png"])
    for side, value in (("left", 20), ("right", 220)):
        grey(tmp_path / f"images_2/{side}/0.png", 48, 36, value)
    small = read_scene(tmp_path, images="images_2", format="nerfstudio")
    assert [int(f.rgb_u8[0, 0, 0]) for f in small.frames] == [20, 220]


def test_a_name_given_twice_is_refused(tmp_path: Path) -> None:
    grey(tmp_path / "images/0.png")
    plain_transforms(tmp_path, ["images/0.png", "./images/0.png"])
    refused(tmp_path, "names picture 'images/0.png' twice")
    entry = cameras_json(tmp_path)
    (tmp_path / "cameras.json").write_text(json.dumps({"images": [entry, entry]}))
    refused(tmp_path, "names picture 'images/0.png' twice")


def test_images_txt_without_lines_of_points_is_refused(tmp_path: Path) -> None:
    layouts.colmap_text(tmp_path)
    replace_text(tmp_path / "sparse/images.txt", "1.5 2.5 -1\n", "")
    refused(
        tmp_path, r"points of picture 000\.png has 10 words and ends in '001\.png', expected X Y POINT3D_ID triples"
    )


@pytest.mark.parametrize(
    ("write", "gone", "names"),
    [
        (layouts.nerfstudio, "images/frame_00003.png", 9),
        (layouts.blender, "test/r_7.png", 9),
        (layouts.colmap, "images/004.png", 9),
        (layouts.dtu_neus, "image/003.png", 9),
        (layouts.tum, "rgb/2.png", 9),
        (layouts.scannet, "color/5.png", 8),
        (layouts.seven_scenes, "seq-01/frame-000002.color.png", 9),
        (layouts.dtu_mvsnet, "images/00000003.png", 9),
    ],
)
def test_pictures_that_were_sorted_out_are_counted(
    tmp_path: Path, write: Callable[[Path], layouts.Written], gone: str, names: int
) -> None:
    root = write(tmp_path).root
    before = {v.name: v.world_from_cam for v in read_scene(root).views}
    (root / gone).unlink()
    scene = read_scene(root)
    assert len(scene.names) == names and any(n.startswith("1 image left out") for n in scene.notes)
    for view in scene.views:
        assert (
            view.world_from_cam is not None
            and view.world_from_cam.distance_to(before[view.name] or SE3.identity()) == 0
        )
    for split in scene.splits.values():
        assert {*split.inputs, *split.test} <= set(scene.names)
    assert len(list(scene.frames)) == names


@pytest.mark.parametrize("write", [layouts.nerfstudio, layouts.tum, layouts.scannet])
def test_a_lost_depth_map_costs_one_depth_map(tmp_path: Path, write: Callable[[Path], layouts.Written]) -> None:
    root = write(tmp_path).root
    depth = read_scene(root).views[2].depth_file
    assert depth is not None
    depth.unlink()
    scene = read_scene(root)
    assert [frame.depth_m is None for frame in scene.frames] == [k == 2 for k in range(len(scene.views))]
    assert any("1 depth map is not there" in note for note in scene.notes)


def test_pictures_asked_for_by_name_must_be_there(tmp_path: Path) -> None:
    root = layouts.nerfstudio(tmp_path).root
    (root / "images/frame_00003.png").unlink()
    refused(root, "frame_00003.png cannot be read", names=["images/frame_00003.png"])


# Text from other systems -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_byte_order_marks_and_line_ends(tmp_path: Path, encoding: str) -> None:
    root = layouts.colmap_text(tmp_path).root
    plain = posed(read_scene(root))
    for name in ("cameras.txt", "images.txt"):
        path = root / "sparse" / name
        path.write_bytes(("# a comment\r\n" + path.read_text().replace("\n", "\r\n")).encode(encoding))
    assert posed(read_scene(root)) == plain
    layouts.nerfstudio(tmp_path / "nerf")
    path = tmp_path / "nerf" / NERF
    path.write_bytes(path.read_text().encode(encoding))
    assert len(read_scene(tmp_path / "nerf").views) == COUNT


def test_backslashes_and_missing_suffixes(tmp_path: Path) -> None:
    grey(tmp_path / "images/a.JPG".replace("JPG", "jpg"))
    grey(tmp_path / "images/b.png")
    plain_transforms(tmp_path, ["images\\a.jpg", ".\\images\\b"])
    assert read_scene(tmp_path).names == ("images/a.jpg", "images/b.png")
    plain_transforms(tmp_path, ["images/a", "images/b.jpg"])
    assert read_scene(tmp_path).names == ("images/a.jpg", "images/b.png")
    (tmp_path / NERF).unlink()
    entry = cameras_json(tmp_path, file="images\\b.png")
    splits = {"2": {"inputs": ["images\\b.png"], "test": []}}
    (tmp_path / "cameras.json").write_text(json.dumps({"images": [entry], "suggested_splits": splits}))
    scene = read_scene(tmp_path)
    assert scene.names == ("images/b.png",) == scene.splits["2"].inputs


FOREIGN = [
    [{"id": 0, "img_name": "0", "position": [0, 0, 0], "rotation": np.eye(3).tolist(), "fx": 300, "fy": 300}],
    {"v2 maker model 4000 3000 brown 0.55": {"projection_type": "brown", "focal_x": 0.6}},
]


@pytest.mark.parametrize("content", FOREIGN)
def test_cameras_json_of_another_program_is_not_ours(tmp_path: Path, content: Any) -> None:
    (tmp_path / "cameras.json").write_text(json.dumps(content))
    grey(tmp_path / "images/0.png")
    assert read_scene(tmp_path, poses=None).layout == "photos"
    colmap_row(tmp_path, ["0.png"])
    scene = read_scene(tmp_path)
    assert scene.layout == "colmap" and any("cameras.json is not read" in note for note in scene.notes)
    refused(tmp_path, "cameras.json", format="reconx")


# Photos ----------------------------------------------------------------------------------------------------------


def test_photos_that_are_not_read_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "heif_is_readable", lambda: False)
    monkeypatch.setattr("reconx_ros.io.readers.photos.heif_is_readable", lambda: False)
    grey(tmp_path / "a.png")
    for k in range(4):
        (tmp_path / f"{k}.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    (tmp_path / "b.NEF").write_bytes(b"x")
    grey(tmp_path / "more/c.png")
    scene = read_scene(tmp_path, poses=None)
    assert scene.names == ("a.png",)
    assert set(scene.notes) >= {"4 .heic files are not read: pip install pillow-heif reads them"}
    assert any(note.startswith("1 .nef file is not read, expected .bmp") for note in scene.notes)
    assert "more/ holds 1 pictures that are not read" in scene.notes
    with pytest.raises(InvalidInputError, match=r"0\.HEIC is a HEIC file, expected .*pip install pillow-heif"):
        images.read_image(tmp_path / "0.HEIC")


def test_only_other_kinds_of_photos_is_an_error_that_names_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "heif_is_readable", lambda: False)
    monkeypatch.setattr("reconx_ros.io.readers.photos.heif_is_readable", lambda: False)
    for k in range(6):
        (tmp_path / f"IMG_{k}.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    refused(tmp_path, "6 .heic files are not read: pip install pillow-heif")


def test_the_fullest_folder_of_photos_is_read(tmp_path: Path) -> None:
    for k in range(3):
        grey(tmp_path / f"input/{k}.png")
    assert read_scene(tmp_path, poses=None).names == ("input/0.png", "input/1.png", "input/2.png")
    grey(tmp_path / "preview.png")
    scene = read_scene(tmp_path, poses=None)
    assert len(scene.names) == 3 and scene.notes == ("the folder itself holds 1 pictures that are not read",)


def test_photos_in_subfolders_are_found_or_named(tmp_path: Path) -> None:
    grey(tmp_path / "cam0/0.png")
    assert read_scene(tmp_path, poses=None).names == ("cam0/0.png",)
    grey(tmp_path / "cam1/1.png")
    refused(tmp_path, "cam0/ holds 1 pictures that are not read; cam1/ holds 1")


def test_heic_photos_are_read_where_pillow_heif_is(tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif")
    from PIL import Image

    picture = Image.fromarray(np.full((48, 64, 3), (200, 80, 20), np.uint8))
    heif.from_pillow(picture).save(str(tmp_path / "IMG_1.HEIC"), quality=95)
    frame = read_scene(tmp_path, poses=None).frames[0]
    assert frame.rgb_u8.shape == (48, 64, 3)
    assert np.abs(frame.rgb_u8.astype(int) - [200, 80, 20]).max() < 12
    (tmp_path / "IMG_1.HEIC").write_bytes(b"text")
    with pytest.raises(InvalidInputError, match="cannot be decoded"):
        images.read_image(tmp_path / "IMG_1.HEIC")
    assert "pillow_heif" in sys.modules


@pytest.mark.parametrize(("count", "used"), [(3, 3), (6, 6), (9, 6)])
def test_without_a_number_of_views_there_are_six_at_most(tmp_path: Path, count: int, used: int) -> None:
    for k in range(count):
        grey(tmp_path / f"{k}.png", 16, 12)
    assert len(scene_keyframes(read_scene(tmp_path, poses=None), None, use_depth=False)) == used


# Far from the origin ---------------------------------------------------------------------------------------------


def test_rounding_far_from_the_origin_is_told(tmp_path: Path) -> None:
    centres = [np.array([4e5, 5e6, 0]) + k for k in range(3)]
    assert rounding_moves(SE3(rotation=np.eye(3), translation=c) for c in centres) == pytest.approx(0.029, rel=0.01)
    assert rounding_moves([SE3.identity(), SE3.identity()]) == 0
    colmap_row(tmp_path, ["0.png", "1.png"])
    for k in range(2):
        grey(tmp_path / f"images/{k}.png")
    assert not read_scene(tmp_path).coarse_positions

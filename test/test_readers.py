"""One simulated scene in every layout: cameras, pixels, depth and projections are those of the simulator."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import dataset_layouts as layouts
import numpy as np
import pytest
import torch
from dataset_layouts import COUNT, HEIGHT, ODD, WIDTH, WRITERS, Written, views_of

from reconx_ros.cli.reconstruct import read_input, scene_keyframes
from reconx_ros.core import SE3, Frame, InvalidInputError, PinholeCamera
from reconx_ros.geometry.projection import project, transform_points
from reconx_ros.io import images
from reconx_ros.io.readers.layouts import LAYOUT_NAMES, layout_from_folder
from reconx_ros.io.readers.tum import nearest_pairs
from reconx_ros.io.scene_views import LazyFrames
from reconx_ros.io.scenes import Scene, read_scene, read_split, write_scene
from reconx_ros.io.splits import neighbouring_splits


@pytest.fixture(scope="module", params=WRITERS)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Written, Scene]:
    layout, write = WRITERS[request.param]
    found = write(tmp_path_factory.mktemp(request.param))
    return layout, found, read_scene(found.root)


def intrinsics(camera: PinholeCamera) -> np.ndarray:
    return np.array([camera.width, camera.height, camera.fx, camera.fy, camera.cx, camera.cy])


def test_cameras_are_those_of_the_simulator(written: tuple[str, Written, Scene]) -> None:
    layout, truth, scene = written
    assert (scene.layout, scene.metric_scale, len(scene.views)) == (layout, truth.metric, len(truth.views))
    for view, true in zip(scene.views, truth.views, strict=True):
        np.testing.assert_allclose(intrinsics(view.camera), intrinsics(true.camera), atol=truth.tolerance)
        assert view.world_from_cam is not None
        np.testing.assert_allclose(view.world_from_cam.matrix, true.world_from_cam.matrix, atol=truth.tolerance)


def test_pixels_and_depth_are_those_of_the_simulator(written: tuple[str, Written, Scene]) -> None:
    _, truth, scene = written
    for view, frame, true in zip(scene.views, scene.frames, truth.views, strict=True):
        assert np.array_equal(frame.rgb_u8, true.rgb_u8) and frame.camera == view.camera
        assert (frame.depth_m is not None) == (truth.unit_m is not None)
        if frame.depth_m is not None:
            assert not frame.depth_m[:3, :5].any()
            np.testing.assert_allclose(frame.depth_m[3:], true.depth_m[3:], atol=0.51 * truth.unit_m)


def test_points_of_one_view_land_on_their_pixels_in_the_others(written: tuple[str, Written, Scene]) -> None:
    """Points of the simulator's first view, through the reader's cameras only, agree with the simulator's depth."""
    _, truth, scene = written
    first = truth.views[0]
    v, u = np.mgrid[4 : first.camera.height : 9, 4 : first.camera.width : 9].reshape(2, -1)
    rays = np.stack([(u - first.camera.cx) / first.camera.fx, (v - first.camera.cy) / first.camera.fy, 0 * u + 1], -1)
    points = torch.from_numpy(first.world_from_cam.apply(rays * first.depth_m[v, u, None]))
    for k, (view, true) in enumerate(zip(scene.views, truth.views, strict=True)):
        pixels, depth = project(transform_points(view.world_from_cam.inverse(), points), view.camera)
        if k == 0:
            np.testing.assert_allclose(pixels.numpy(), np.stack([u, v], axis=-1), atol=0.01)
        inside = ((pixels > 1) & (pixels < torch.tensor(true.camera.size) - 2)).all(dim=-1) & (depth > 0)
        column, row = pixels[inside].round().long().T.numpy()
        seen = np.abs(true.depth_m[row, column] / depth[inside].numpy() - 1) < 0.02
        assert inside.sum() > 20 and seen.mean() > 0.75, f"view {k}: {seen.mean():.2f} of {int(inside.sum())}"


def test_options_work_in_every_layout(written: tuple[str, Written, Scene]) -> None:
    layout, truth, scene = written
    names = [scene.names[2], scene.names[0]]
    part = read_scene(truth.root, format=layout, poses=None, depth=False, names=names, max_size=48)
    assert part.names == tuple(names)
    for frame, view in zip(part.frames, part.views, strict=True):
        assert max(frame.camera.size) == 48 and frame.camera == view.camera
        assert frame.world_from_cam is None and frame.depth_m is None
    assert part.views[1].camera == scene.views[0].camera.fitted_to(48)
    square = read_scene(truth.root, names=names, crop=(32, 40))
    for frame, view in zip(square.frames, square.views, strict=True):
        assert frame.rgb_u8.shape == (40, 32, 3) and frame.camera == view.camera


def test_layouts_are_told_by_content(written: tuple[str, Written, Scene]) -> None:
    layout, truth, _ = written
    assert layout_from_folder(truth.root).name == layout
    assert layout in LAYOUT_NAMES


# Conventions by hand: what the data sets' own documentation says, without the simulator --------------------------


def grey(path: Path, width: int = 8, height: int = 6) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    images.write_image(path, np.full((height, width, 3), 90, np.uint8))


def test_an_opengl_camera_looks_along_minus_z(tmp_path: Path) -> None:
    grey(tmp_path / "a.png")
    pose = np.eye(4)
    pose[:3, 3] = 1, 2, 3
    frame = {"file_path": "a.png", "transform_matrix": pose.tolist(), "fl_x": 10, "cx": 4, "cy": 3}
    (tmp_path / "transforms.json").write_text(json.dumps({"frames": [frame]}))
    view = read_scene(tmp_path).views[0]
    assert np.allclose(view.world_from_cam.apply(np.array([0, 0, 1.0])), [1, 2, 2])  # forward
    assert np.allclose(view.world_from_cam.apply(np.array([0, 1.0, 0])), [1, 1, 3])  # down
    assert (view.camera.fy, view.camera.cx, view.camera.cy) == (10, 3.5, 2.5)


def test_llff_rows_are_down_right_backwards(tmp_path: Path) -> None:
    grey(tmp_path / "images" / "a.png")
    block = np.array([[0, 1, 0, 5, 6], [-1, 0, 0, 0, 8], [0, 0, 1, 0, 10.0]])  # down -y, right x, back z; h w f
    np.save(tmp_path / "poses_bounds.npy", np.r_[block.ravel(), 1, 2][None])
    view = read_scene(tmp_path).views[0]
    assert np.allclose(view.world_from_cam.matrix[:3], [[1, 0, 0, 5], [0, -1, 0, 0], [0, 0, -1, 0]])
    assert view.camera == PinholeCamera(width=8, height=6, fx=10, fy=10, cx=3.5, cy=2.5)


def test_tum_pictures_get_the_nearest_pose_and_depth_once() -> None:
    ms = 1_000_000
    first, second = [0, 100 * ms, 200 * ms], [-5 * ms, 4 * ms, 118 * ms, 221 * ms]
    assert nearest_pairs(first, second, 20 * ms) == {0: 1, 1: 2}
    assert nearest_pairs([0, 10 * ms], [6 * ms], 20 * ms) == {1: 0}
    assert nearest_pairs([0], [20 * ms], 20 * ms) == {0: 0}
    assert nearest_pairs([], [3], 5) == {} and nearest_pairs([3], [], 5) == {}


def test_tum_times_are_exact_and_lost_pictures_counted(tmp_path: Path) -> None:
    scene = read_scene(layouts.tum(tmp_path).root)
    assert [v.stamp_ns for v in scene.views[:2]] == [layouts.START_S * 10**9, layouts.START_S * 10**9 + 10**8]
    assert scene.notes == ("1 image left out: no pose within 20 ms",)


@pytest.mark.parametrize(("number", "fx"), [(1, 517.3), (2, 520.9), (3, 535.4)])
def test_tum_calibrations_by_number(tmp_path: Path, number: int, fx: float) -> None:
    root = layouts.tum(tmp_path).root.rename(tmp_path / f"rgbd_dataset_freiburg{number}_desk")
    scene = read_scene(root, names=["rgb/0.png"])
    assert scene.views[0].camera.fx * 640 / WIDTH == pytest.approx(fx, rel=0.1 if number < 3 else 1e-9)
    assert (scene.views[0].camera == layouts.FREIBURG3) == (number == 3)
    (root / "calibration.txt").write_text("# of the pictures as they are\n80 81 47 36\n")
    camera = read_scene(root, names=["rgb/0.png"]).views[0].camera
    assert camera == PinholeCamera(width=WIDTH, height=HEIGHT, fx=80, fy=81, cx=47, cy=36)


def test_seven_scenes_without_intrinsics_reads_depth_through_its_own_camera(tmp_path: Path) -> None:
    """A picture of ramps: the depth camera's larger focal length is undone, so that each ray keeps its value."""
    (tmp_path / "frame-000000.pose.txt").write_text(layouts.text(np.eye(4)))
    images.write_image(tmp_path / "frame-000000.color.png", np.zeros((480, 640, 3), np.uint8))
    tangent = (np.arange(640) - 319.5) / 585
    steps = np.broadcast_to(np.rint(2000 + 1000 * tangent), (480, 640)).astype(np.uint16)
    assert cv2.imwrite(str(tmp_path / "frame-000000.depth.png"), steps)
    scene = read_scene(tmp_path)
    frame = scene.frames[0]
    assert (frame.camera.fx, frame.camera.cx) == (525, 319.5) and "525 px" in scene.notes[-1]
    ray = (np.arange(640) - frame.camera.cx) / frame.camera.fx
    known = frame.depth_m[240] > 0
    assert known.mean() > 0.85 and not known[0]  # the colour camera sees further
    assert np.abs(frame.depth_m[240] - (2 + ray))[known].max() < 0.002


def test_scannet_depth_of_another_size_and_lost_poses(tmp_path: Path) -> None:
    truth = layouts.scannet(tmp_path)
    small = PinholeCamera(width=48, height=36, fx=38.0, fy=39.0, cx=22.0, cy=18.0)
    for k, view in enumerate(views_of(small)):
        assert cv2.imwrite(str(tmp_path / "depth" / f"{k}.png"), np.rint(view.depth_m * 1000).astype(np.uint16))
    (tmp_path / "intrinsic" / "intrinsic_depth.txt").write_text(layouts.text(small.matrix))
    scene = read_scene(tmp_path)
    assert scene.notes == ("1 image left out: pose not finite",) and "color/3.png" not in scene.names
    for frame, true in zip(scene.frames, truth.views, strict=True):
        known = frame.depth_m > 0
        error = np.abs(frame.depth_m - true.depth_m)[known] / true.depth_m[known]
        assert known.mean() > 0.95 and np.median(error) < 0.01  # half a pixel of the small picture


# Distortion ------------------------------------------------------------------------------------------------------

LENSES = {
    "OPENCV": ((-0.2, 0.05, 0.002, -0.001), ("k1", "k2", "p1", "p2")),
    "OPENCV_FISHEYE": ((-0.02, 0.01, 0.003, -0.002), ("k1", "k2", "k3", "k4")),
}


def pattern(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A smooth picture as a function of the direction (x, y) at z = 1."""
    value = 120 + 60 * np.sin(4 * x) * np.cos(3 * y) + 40 * x
    return np.repeat(np.rint(value).astype(np.uint8)[..., None], 3, axis=-1)


def distorted_picture(model: str, camera: PinholeCamera) -> np.ndarray:
    d = np.array(LENSES[model][0])
    v, u = np.mgrid[: camera.height, : camera.width].astype(np.float64)
    pixels = np.stack([u, v], axis=-1).reshape(-1, 1, 2)
    if model == "OPENCV_FISHEYE":
        rays = cv2.fisheye.undistortPoints(pixels, camera.matrix, d)
    else:
        rays = cv2.undistortPointsIter(pixels, camera.matrix, d, None, None, (3, 200, 1e-12))
    return pattern(*rays.reshape(camera.height, camera.width, 2).transpose(2, 0, 1))


def colmap_lens(root: Path, model: str, camera: PinholeCamera) -> None:
    (root / "sparse" / "0").mkdir(parents=True)
    numbers = [camera.fx, camera.fy, camera.cx + 0.5, camera.cy + 0.5, *LENSES[model][0]]
    line = " ".join(map(str, [1, model, camera.width, camera.height, *numbers]))
    (root / "sparse" / "0" / "cameras.txt").write_text(line + "\n")
    (root / "sparse" / "0" / "images.txt").write_text("1 1 0 0 0 0 0 0 1 a.png\n\n")


def nerfstudio_lens(root: Path, model: str, camera: PinholeCamera) -> None:
    values, keys = LENSES[model]
    document = {"camera_model": model, "w": camera.width, "h": camera.height, "fl_x": camera.fx, "fl_y": camera.fy}
    document |= {"cx": camera.cx + 0.5, "cy": camera.cy + 0.5, **dict(zip(keys, values, strict=True))}
    frame = {"file_path": "images/a.png", "transform_matrix": np.diag([1.0, -1, -1, 1]).tolist()}
    (root / "transforms.json").write_text(json.dumps({**document, "frames": [frame]}))


@pytest.mark.parametrize("write", [colmap_lens, nerfstudio_lens])
@pytest.mark.parametrize("model", LENSES)
def test_distorted_pictures_become_pinhole_pictures(tmp_path: Path, model: str, write: object) -> None:
    camera = PinholeCamera(width=160, height=120, fx=110.0, fy=112.0, cx=78.25, cy=60.5)
    (tmp_path / "images").mkdir()
    images.write_image(tmp_path / "images" / "a.png", distorted_picture(model, camera))
    write(tmp_path, model, camera)
    scene = read_scene(tmp_path)
    frame = scene.frames[0]
    assert frame.camera == scene.views[0].camera and frame.camera.fx != camera.fx
    v, u = np.mgrid[: frame.camera.height, : frame.camera.width]
    x, y = (u - frame.camera.cx) / frame.camera.fx, (v - frame.camera.cy) / frame.camera.fy
    error = np.abs(frame.rgb_u8[..., 0].astype(float) - pattern(x, y)[..., 0])
    assert error.max() <= 2 and error.mean() < 0.4  # half a pixel off would be 2.5 on average at the steepest


# Splits ----------------------------------------------------------------------------------------------------------


def test_every_eighth_picture_of_llff_and_colmap_is_a_test(tmp_path: Path) -> None:
    for name in ("llff", "colmap"):
        scene = read_scene(WRITERS[name][1](tmp_path / name if name == "colmap" else make(tmp_path / name)).root)
        split = scene.splits["3"]
        assert split.test == (scene.names[0], scene.names[8])
        assert split.inputs == (scene.names[1], scene.names[5], scene.names[9])
        assert split.protocol == "every 8th image held out" and set(scene.splits) == {"2", "3", "6"}
        inputs, test = read_split(scene.root, "2")
        assert inputs.names == (scene.names[1], scene.names[9]) and test.names == split.test


def make(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_splits_that_data_sets_define(tmp_path: Path) -> None:
    blender = read_scene(layouts.blender(make(tmp_path / "blender")).root)
    assert blender.splits["2"].test == tuple(f"test/r_{k}.png" for k in range(6, COUNT))
    assert blender.splits["6"].inputs == tuple(f"train/r_{k}.png" for k in range(6))
    room = read_scene(layouts.seven_scenes(make(tmp_path / "7scenes")).root)
    assert room.splits["3"].inputs == tuple(f"seq-01/frame-{k:06d}.color.png" for k in (0, 2, 4))
    assert room.splits["3"].test == tuple(f"seq-02/frame-{k:06d}.color.png" for k in range(5))
    path = layouts.nerfstudio(make(tmp_path / "ns")).root / "transforms.json"
    document = json.loads(path.read_text())
    names = [f"images/frame_{k:05d}.png" for k in range(COUNT)]
    path.write_text(
        json.dumps({**document, "train_filenames": names[:7], "val_filenames": [f"./{n}" for n in names[7:]]})
    )
    split = read_scene(path.parent).splits["2"]
    assert (split.inputs, split.test) == ((names[0], names[6]), tuple(names[7:]))


def test_dtu_has_the_split_of_pixelnerf(tmp_path: Path) -> None:
    root = tmp_path / "scan8"
    for k in range(49):
        grey(root / "image" / f"{k:06d}.png")
    matrix = np.array([[10, 0, 3.5, 0], [0, 10, 2.5, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    np.savez(root / "cameras.npz", **{f"world_mat_{k}": matrix for k in range(49)})
    scene = read_scene(root)
    assert scene.metric_scale and scene.splits["3"].inputs == tuple(f"image/{k:06d}.png" for k in (25, 22, 28))
    assert len(scene.splits["9"].inputs) == 9 and len(scene.splits["9"].test) == 25
    assert not set(scene.splits["9"].inputs) & set(scene.splits["9"].test)


def test_sequences_have_splits_of_neighbouring_pictures() -> None:
    poses = {f"{k}": SE3.exp(np.zeros(3), np.array([0.05 * k, 0, 0])) for k in range(41)}  # 2 m
    splits = neighbouring_splits(poses)
    assert splits["3"].inputs == ("13", "20", "27") and set(splits) == {"2", "3", "6", "9"}
    assert splits["3"].test == ("14", "16", "17", "19", "21", "23", "24", "26")
    assert "0.35 m apart" in splits["3"].protocol and "0.25 m apart" in splits["9"].protocol
    for split in splits.values():
        assert len(split.test) >= len(split.inputs) - 1 and not set(split.inputs) & set(split.test)
    assert set(neighbouring_splits(dict(list(poses.items())[:4]))) == {"2"}
    coarse = neighbouring_splits(dict(list(poses.items())[::10]))  # 0.5 m from one to the next
    assert (coarse["3"].inputs, coarse["3"].test) == (("0", "20", "40"), ("10", "30")) and "every other" in coarse[
        "2"
    ].protocol
    assert neighbouring_splits(dict.fromkeys("abc", SE3.identity())) == {}


def test_tum_and_scannet_sequences_can_be_evaluated(tmp_path: Path) -> None:
    for write in (layouts.tum, layouts.scannet):
        scene = read_scene(write(make(tmp_path / write.__name__)).root)
        split = scene.splits["2"]
        assert len(split.inputs) == 2 and split.test and set(split.inputs + split.test) <= set(scene.names)


def test_inputs_are_the_split_or_spread_evenly(tmp_path: Path) -> None:
    scene = read_scene(layouts.scannet(tmp_path).root)
    assert scene.inputs(2) == scene.splits["2"].inputs
    assert scene.inputs(4) == tuple(scene.names[k] for k in (0, 3, 5, 8))
    llff = read_scene(layouts.llff(make(tmp_path / "llff")).root)
    assert llff.inputs(2) == llff.splits["2"].inputs


# Folders of shrunken copies, several forms in one folder ------------------------------------------------------------


def test_shrunken_copies_can_be_chosen(tmp_path: Path) -> None:
    truth = layouts.colmap(tmp_path)
    (tmp_path / "images_2").mkdir()
    for k, view in enumerate(truth.views):
        half = cv2.resize(view.rgb_u8, (WIDTH // 2, HEIGHT // 2), interpolation=cv2.INTER_AREA)
        images.write_image(tmp_path / "images_2" / f"{k:03d}.jpg", half)
    scene = read_scene(tmp_path, images="images_2")
    assert scene.names[0] == "images_2/000.jpg" and scene.views[0].camera == ODD.scaled_to(WIDTH // 2, HEIGHT // 2)
    assert read_scene(tmp_path).names[0] == "images/000.png"


def test_pictures_of_transforms_may_be_shrunken_copies_alone(tmp_path: Path) -> None:
    """DL3DV is given out so: the file speaks of images/, only images_8 is there."""
    truth = layouts.nerfstudio(tmp_path)
    (tmp_path / "images").rename(tmp_path / "images_8")
    document = json.loads((tmp_path / "transforms.json").read_text())
    sizes = {key: 8 * document[key] for key in ("w", "h", "fl_x", "fl_y", "cx", "cy")}
    (tmp_path / "transforms.json").write_text(json.dumps({**document, **sizes}))
    scene = read_scene(tmp_path)
    assert scene.names[0] == "images/frame_00000.png"
    np.testing.assert_allclose(intrinsics(scene.views[0].camera), intrinsics(truth.views[0].camera))


def test_a_format_can_be_forced(tmp_path: Path) -> None:
    layouts.llff(tmp_path)
    camera, pose = views_of(ODD)[0].camera, SE3.identity()
    from reconx_ros.io.colmap import ColmapView, write_colmap

    write_colmap(tmp_path / "sparse" / "0", [ColmapView(camera=camera, world_from_cam=pose, name="IMG_0000.png")])
    assert (read_scene(tmp_path).layout, len(read_scene(tmp_path).views)) == ("colmap", 1)
    assert len(read_scene(tmp_path, format="llff").views) == COUNT
    assert read_scene(tmp_path, format="photos").frames[0].focal_uncertainty > 0


def test_reconstruct_reads_any_layout_with_its_given_poses(tmp_path: Path) -> None:
    scene = read_input(layouts.colmap(tmp_path).root, None, None)
    keyframes = scene_keyframes(scene, 3, use_depth=True)
    assert [scene.names[k.id] for k in keyframes] == list(scene.splits["3"].inputs)
    assert all(k.frame.world_from_cam is not None for k in keyframes)
    assert read_input(tmp_path, "none", None).views[0].world_from_cam is None
    photos = read_input(tmp_path, None, 60.0, format="photos")
    assert photos.layout == "photos" and photos.views[0].world_from_cam is None
    with pytest.raises(InvalidInputError, match="--poses is 'given' where only none is possible"):
        read_input(tmp_path, "given", None, format="photos")
    with pytest.raises(InvalidInputError, match="has no 'c2w_dataset' poses"):
        read_input(tmp_path, "odometry", None)


# Memory ----------------------------------------------------------------------------------------------------------


def test_five_hundred_pictures_are_never_all_in_memory(tmp_path: Path) -> None:
    import weakref

    size = WIDTH * HEIGHT * 3
    frame = Frame(rgb_u8=np.zeros((HEIGHT, WIDTH, 3), np.uint8), camera=ODD, world_from_cam=SE3.identity())
    write_scene(tmp_path, [frame], metric_scale=True)
    document = json.loads((tmp_path / "cameras.json").read_text())
    entry = document["images"][0]
    for k in range(500):
        (tmp_path / "images" / f"{k}.png").hardlink_to(tmp_path / "images" / "0000.png")
    document["images"] = [{**entry, "file": f"images/{k}.png"} for k in range(500)]
    (tmp_path / "cameras.json").write_text(json.dumps(document))
    frames = LazyFrames(read_scene(tmp_path).views, kept_bytes=10 * size)
    alive: list[weakref.ref[np.ndarray]] = []
    for k, frame in enumerate(frames):
        alive = [r for r in alive if r() is not None] + [weakref.ref(frame.rgb_u8)]
        assert len(alive) <= 12, f"{len(alive)} pictures in memory after {k}"
    assert len(frames) == 500 and k == 499


def test_frames_are_decoded_once_while_they_are_kept(tmp_path: Path) -> None:
    scene = read_scene(layouts.colmap(tmp_path).root)
    assert scene.frames[0] is scene.frames[0] and scene.frames[-1] is scene.frames[COUNT - 1]
    assert [f.camera for f in scene.frames[2:4]] == [v.camera for v in scene.views[2:4]]
    with pytest.raises(IndexError):
        scene.frames[COUNT]


def test_calibrated_pictures_are_not_turned(tmp_path: Path) -> None:
    """A JPEG whose EXIF data asks for a quarter turn: COLMAP's numbers refer to the pixels as they are stored."""
    from test_exif import exif, photo

    (tmp_path / "images").mkdir()
    photo(tmp_path / "images" / "a.jpg", exif({}, orientation=6))
    (tmp_path / "cameras.txt").write_text("1 PINHOLE 64 48 50 50 32 24\n")
    (tmp_path / "images.txt").write_text("1 1 0 0 0 0 0 0 1 a.jpg\n\n")
    assert read_scene(tmp_path).frames[0].rgb_u8.shape == (48, 64, 3)
    assert read_scene(tmp_path, format="photos").frames[0].rgb_u8.shape == (64, 48, 3)

"""The simulator: same seed, same world; depth and poses agree with geometry; what is written can be read back."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

from reconx_ros.core import SE3, ConfigError, InvalidInputError, PinholeCamera, StorageError
from reconx_ros.io.bags import open_bag
from reconx_ros.io.images import read_depth, read_image
from reconx_ros.io.scenes import read_scene, read_split
from reconx_ros.sim.dataset import STORAGES, write_bag, write_scene
from reconx_ros.sim.noise import NoiseConfig, noise_level, noisy_depth, noisy_image, noisy_odometry
from reconx_ros.sim.path import Drive, DriveConfig, camera_mount, default_camera, drive, pose_at
from reconx_ros.sim.patterns import Canvas
from reconx_ros.sim.raycast import RenderConfig, RgbdImage, RoomRenderer
from reconx_ros.sim.recording import DriveRecorder, RecordedDrive, evenly
from reconx_ros.sim.robot import SimRobotConfig, TruthWriter
from reconx_ros.sim.room import RoomConfig, loop_points, make_room
from reconx_ros.sim.solids import Solid
from reconx_ros.sim.textures import MATERIALS, PICTURES, paint
from reconx_ros.sim.truth import relative_depth_errors, render_truth, share_within

pytest.importorskip("embreex")

COARSE = RenderConfig(texel_m=0.02, light_spacing_m=0.5)
SMALL = default_camera(80, 60)


@pytest.fixture(scope="module")
def renderer() -> RoomRenderer:
    return RoomRenderer(make_room(RoomConfig(seed=0)), COARSE)


@pytest.fixture(scope="module")
def empty() -> RoomRenderer:
    return RoomRenderer(make_room(RoomConfig(seed=5, furnished=False)), COARSE)


@pytest.fixture(scope="module")
def recording(renderer: RoomRenderer) -> RecordedDrive:
    motion = Drive(renderer.room, DriveConfig(duration_s=6.0, pose_rate_hz=10.0))
    noise = NoiseConfig(seed=3, drift_translation=0.02, drift_yaw_deg=1.0)
    return DriveRecorder(renderer, motion, SMALL, noise, supersample=1).recording(evenly(motion.stamps(10.0), 13))


def robot_view(
    renderer: RoomRenderer, seconds: float, camera: PinholeCamera = SMALL, supersample: int = 1
) -> RgbdImage:
    pose = Drive(renderer.room).pose_at(seconds) @ camera_mount().base_from_optical
    return renderer.render(camera, pose, supersample)


def backprojected(view: RgbdImage) -> np.ndarray:
    camera = view.camera
    u, v = np.meshgrid(np.arange(camera.width), np.arange(camera.height))
    rays = np.stack([(u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy, np.ones(u.shape)], axis=-1)
    return view.world_from_cam.apply(rays * view.depth_m[..., None])


def test_the_same_seed_gives_the_same_world_and_another_seed_another() -> None:
    pictures = []
    for seed in (1, 1, 2):
        made = RoomRenderer(
            make_room(RoomConfig(seed=seed, clutter=0.2)), RenderConfig(texel_m=0.04, light_spacing_m=1.0)
        )
        pictures.append(robot_view(made, 3.0))
    assert np.array_equal(pictures[0].rgb_u8, pictures[1].rgb_u8)
    assert np.array_equal(pictures[0].depth_m, pictures[1].depth_m)
    assert not np.array_equal(pictures[0].depth_m, pictures[2].depth_m)


@pytest.mark.parametrize("seconds", [0.0, 7.3, 20.0])
def test_depth_in_an_empty_room_is_that_of_its_planes(empty: RoomRenderer, seconds: float) -> None:
    view = robot_view(empty, seconds)
    points = backprojected(view)
    length, width, height = empty.room.size_m
    to_planes = np.stack(
        [
            length / 2 - np.abs(points[..., 0]),
            width / 2 - np.abs(points[..., 1]),
            points[..., 2],
            height - points[..., 2],
        ],
        axis=-1,
    )
    assert np.abs(to_planes.min(axis=-1)).max() < 2e-5  # on a plane, and behind none
    assert to_planes.min() > -2e-5


def test_every_ray_in_a_room_meets_something(renderer: RoomRenderer) -> None:
    for seconds in (0.0, 5.0, 10.0, 15.0, 20.0):
        view = robot_view(renderer, seconds)
        assert view.depth_m.dtype == np.float32
        assert view.depth_m.min() > 0.3
        assert view.depth_m.max() < np.linalg.norm(renderer.room.size_m)


def test_a_view_warped_by_depth_and_poses_is_the_other_view(renderer: RoomRenderer) -> None:
    a, b = (robot_view(renderer, t, default_camera(160, 120), 2) for t in (8.0, 9.0))
    camera = a.camera
    there = b.world_from_cam.inverse().apply(backprojected(a))
    u = (there[..., 0] / there[..., 2] * camera.fx + camera.cx).astype(np.float32)
    v = (there[..., 1] / there[..., 2] * camera.fy + camera.cy).astype(np.float32)
    warped = cv2.remap(b.rgb_u8, u, v, cv2.INTER_LINEAR).astype(np.float32)
    depth = cv2.remap(b.depth_m, u, v, cv2.INTER_NEAREST)
    inside = (u >= 0) & (u <= camera.width - 1) & (v >= 0) & (v <= camera.height - 1)
    seen = inside & (np.abs(depth - there[..., 2]) < 0.02 * there[..., 2])
    assert seen.mean() > 0.7
    right = np.abs(warped - a.rgb_u8)[seen].mean()
    unmoved = np.abs(b.rgb_u8.astype(np.float32) - a.rgb_u8)[seen].mean()
    assert right < 6
    assert right < 0.3 * unmoved


def test_pictures_are_bright_and_rich(renderer: RoomRenderer) -> None:
    for seconds in (0.0, 10.0, 20.0):
        grey = robot_view(renderer, seconds, default_camera()).rgb_u8.mean(axis=-1)
        assert 90 < grey.mean() < 165
        blocks = grey[:240, :320].reshape(15, 16, 20, 16).transpose(0, 2, 1, 3).reshape(300, -1)
        assert np.median(blocks.std(axis=1)) > 8
        assert (blocks.std(axis=1) > 3).mean() > 0.97  # hardly a patch without texture


def test_supersampling_changes_outlines_only(renderer: RoomRenderer) -> None:
    plain, smooth = (robot_view(renderer, 4.0, SMALL, n) for n in (1, 3))
    assert np.array_equal(plain.depth_m, smooth.depth_m)
    changed = (plain.rgb_u8 != smooth.rgb_u8).any(axis=-1)
    assert 0.02 < changed.mean() < 0.8
    with pytest.raises(InvalidInputError, match="supersample is 0"):
        robot_view(renderer, 4.0, SMALL, 0)


def test_black_and_zero_where_a_ray_leaves_the_world(empty: RoomRenderer) -> None:
    away = SE3(rotation=np.eye(3), translation=np.array([0.0, 0.0, 50.0]))  # above the house, looking up
    view = empty.render(SMALL, away, 2)
    assert not view.depth_m.any()
    assert not view.rgb_u8.any()
    assert view.frame(7).stamp_ns == 7


@pytest.mark.parametrize("seed", range(8))
def test_the_robot_and_its_camera_never_touch_anything(seed: int) -> None:
    room = make_room(RoomConfig(seed=seed, clutter=1.0))
    config = DriveConfig(duration_s=60.0)
    poses = drive(room, config)
    base = np.array([p.world_from_base.translation for p in poses])
    assert room.clearance(base[:, :2]).min() >= config.robot_radius_m
    assert room.is_free(base + np.array([0, 0, config.camera_height_m])).all()
    assert len(room.solids) > 60
    assert room.clearance(loop_points(room.loop_axes_m)).min() >= config.robot_radius_m


def test_a_robot_too_large_for_the_room_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="comes within"):
        Drive(make_room(RoomConfig(seed=0)), DriveConfig(robot_radius_m=0.9))
    with pytest.raises(ConfigError, match="length_m is 2"):
        RoomConfig(length_m=2.0)


def test_the_drive_keeps_to_its_limits() -> None:
    config = DriveConfig()
    motion = Drive(make_room(RoomConfig(seed=0)), config)
    poses = motion.poses()
    assert len(poses) == 1001
    position = np.array([p.world_from_base.translation for p in poses])
    velocity = np.diff(position, axis=0) * config.pose_rate_hz
    speed = np.linalg.norm(velocity, axis=1)
    assert speed.max() <= config.speed_mps * 1.001
    assert np.abs(np.diff(speed)).max() * config.pose_rate_hz <= config.acceleration_mps2 * 1.05
    assert speed[0] < 0.02
    assert speed[-1] < 0.02
    ahead = np.array([p.world_from_base.rotation[:, 0] for p in poses[:-1]])
    assert ((velocity * ahead).sum(axis=1) > 0.999 * speed).all()  # no sideways motion
    assert np.cross(position[0], position[-1])[2] > 0  # counter-clockwise
    turn = [a.world_from_base.angle_to(b.world_from_base) * config.pose_rate_hz for a, b in pairwise(poses)]
    assert max(turn) <= config.turn_rate_rps
    assert motion.length_m == pytest.approx(speed.sum() / config.pose_rate_hz, rel=1e-3)


def test_the_camera_looks_left_and_a_little_down() -> None:
    mount = camera_mount()
    view = mount.base_from_optical.rotation[:, 2]
    assert view == pytest.approx([0, np.cos(np.radians(10)), -np.sin(np.radians(10))], abs=1e-12)
    assert mount.base_from_optical.rotation[:, 0] == pytest.approx([1, 0, 0], abs=1e-12)  # image right is ahead
    assert mount.base_from_optical.translation == pytest.approx([0, 0, 1.0])


def test_the_default_drive_has_parallax_for_stereo(renderer: RoomRenderer) -> None:
    motion = Drive(renderer.room)
    poses = [motion.pose_at(t) for t in np.linspace(0, 20, 12)]
    depth = np.median(robot_view(renderer, 10.0).depth_m)
    angles = [np.degrees(a.distance_to(b) / depth) for a, b in pairwise(poses[1:-1])]
    assert 1.5 < depth < 3.5
    assert min(angles) > 5
    assert max(angles) < 15


def test_poses_between_timed_poses_are_interpolated() -> None:
    motion = Drive(make_room(RoomConfig(seed=0)))
    poses = motion.poses()
    stamp = motion.start_ns + 7_777_777_777
    assert pose_at(poses, stamp).distance_to(motion.pose_at_stamp(stamp)) < 1e-4
    assert pose_at(poses, 0) is poses[0].world_from_base
    assert pose_at(poses, 10**18) is poses[-1].world_from_base
    with pytest.raises(InvalidInputError, match="no poses"):
        pose_at([], 0)


@pytest.mark.parametrize("material", sorted({**MATERIALS, **PICTURES}))
def test_materials_are_textured_and_seeded(material: str) -> None:
    canvas = Canvas(height=150, width=200, texel_m=0.005, seed=4)
    image = paint(material, canvas, np.array([0.6, 0.5, 0.4]))
    assert image.shape == (150, 200, 3)
    assert image.min() >= 0 and image.max() <= 1
    assert image.std() > 0.02
    assert np.array_equal(image, paint(material, canvas, np.array([0.6, 0.5, 0.4])))
    with pytest.raises(InvalidInputError, match="material is 'velvet'"):
        paint("velvet", canvas, np.ones(3))


@pytest.mark.parametrize("kind", ["box", "cylinder", "sphere"])
def test_surfaces_of_solids_face_outwards(kind: str) -> None:
    solid = Solid(
        kind=kind, centre=(1, 2, 3), size=(0.4, 0.6, 0.8), material="wood", tint=(1, 1, 1), seed=1, yaw_rad=0.3
    )
    for surface in solid.surfaces():
        points, normals = surface.sample(4, 5)
        assert ((points - np.array(solid.centre)) * normals).sum(-1).min() > 0
    assert solid.contains(np.array(solid.centre))
    assert not solid.contains(np.array([1, 2, 4.0]))
    with pytest.raises(InvalidInputError, match="'cone'"):
        Solid(kind="cone", centre=(0, 0, 0), size=(1, 1, 1), material="wood", tint=(1, 1, 1), seed=1)


def test_image_noise_has_the_asked_deviation() -> None:
    grey = np.full((200, 200, 3), 128, np.uint8)
    noisy = noisy_image(grey, NoiseConfig(seed=1, image_sigma=5.0), 0)
    assert noisy.astype(float).std() == pytest.approx(5.0, rel=0.03)
    assert np.array_equal(noisy, noisy_image(grey, NoiseConfig(seed=1, image_sigma=5.0), 0))
    assert not np.array_equal(noisy, noisy_image(grey, NoiseConfig(seed=1, image_sigma=5.0), 1))
    means = [noisy_image(grey[:4, :4], NoiseConfig(exposure_sigma=0.1), k).mean() / 128 for k in range(400)]
    assert np.log(means).std() == pytest.approx(0.1, rel=0.15)
    assert noisy_image(grey, NoiseConfig(), 0) is grey


def test_depth_noise_grows_with_the_square_and_leaves_holes_at_edges() -> None:
    depth = np.full((300, 300), 2.0, np.float32)
    depth[:, 150:] = 4.0
    noisy = noisy_depth(depth, NoiseConfig(seed=1, depth_sigma=0.002), 0)
    assert (noisy - depth)[:, :150].std() == pytest.approx(0.008, rel=0.05)
    assert (noisy - depth)[:, 150:].std() == pytest.approx(0.032, rel=0.05)
    holes = noisy_depth(depth, NoiseConfig(seed=1, depth_holes=0.5), 0) == 0
    assert holes[:, 149:151].mean() == pytest.approx(0.5, abs=0.1)
    assert holes[:, :149].mean() == pytest.approx(0.05, abs=0.01)
    assert not noisy_depth(np.zeros((4, 4), np.float32), noise_level("strong"), 0).any()
    with pytest.raises(ConfigError, match="noise is 'loud'"):
        noise_level("loud")


def test_odometry_drifts_with_the_root_of_the_way() -> None:
    poses = Drive(make_room(RoomConfig(seed=0)), DriveConfig(duration_s=22.0, pose_rate_hz=2.0)).poses()
    way = sum(a.world_from_base.distance_to(b.world_from_base) for a, b in pairwise(poses))
    config = [NoiseConfig(seed=k, drift_yaw_deg=2.0) for k in range(40)]
    ends = [noisy_odometry(poses, c)[-1].world_from_base for c in config]
    wrong = [np.degrees(poses[-1].world_from_base.angle_to(end)) for end in ends]
    assert np.sqrt(np.mean(np.square(wrong))) == pytest.approx(2.0 * np.sqrt(way), rel=0.4)
    exact = noisy_odometry(poses, NoiseConfig())
    assert exact[-1].world_from_base.distance_to(poses[-1].world_from_base) < 1e-9
    assert noisy_odometry([], NoiseConfig()) == []


def test_scene_folder_comes_back(recording: RecordedDrive, tmp_path: Path) -> None:
    write_scene(tmp_path / "scene", recording)
    scene = read_scene(tmp_path / "scene")
    assert scene.metric_scale
    assert len(scene.frames) == len(recording.views)
    for frame, view in zip(scene.frames, recording.views, strict=True):
        assert np.array_equal(frame.rgb_u8, view.rgb_u8)
        assert frame.depth_m == pytest.approx(view.depth_m, abs=6e-4)
        assert frame.camera == recording.camera
        assert frame.world_from_cam.distance_to(view.truth.world_from_cam) < 1e-9
        assert frame.stamp_ns == view.stamp_ns
    odometry = read_scene(tmp_path / "scene", poses="c2w_dataset", depth=False).frames
    assert odometry[-1].world_from_cam.distance_to(recording.views[-1].world_from_cam) < 1e-9
    assert odometry[-1].world_from_cam.distance_to(scene.frames[-1].world_from_cam) > 1e-4
    inputs, test = read_split(tmp_path / "scene", "2")
    assert len(inputs.names) == 2 and test.names
    document = json.loads((tmp_path / "scene" / "cameras.json").read_text())
    assert document["pixel_center"] == "integer"
    assert "seed 0" in (tmp_path / "scene" / "SOURCE.txt").read_text()


@pytest.mark.parametrize("storage", STORAGES)
def test_bag_comes_back(recording: RecordedDrive, tmp_path: Path, storage: str) -> None:
    from rosbags.typesys import Stores, get_typestore

    write_bag(tmp_path / "bag", recording, storage=storage, depth=True, clock=True)
    store = get_typestore(Stores.ROS2_HUMBLE)
    with open_bag(tmp_path / "bag") as bag:
        counts = {name: topic.count for name, topic in bag.topics.items()}
        messages = [(m.topic, m.stamp_ns, store.deserialize_cdr(m.data, m.type)) for m in bag.messages()]
    views, poses = len(recording.views), len(recording.poses)
    assert counts["/camera/image_raw"] == counts["/camera/camera_info"] == counts["/camera/depth"] == views
    assert counts["/tf"] == counts["/clock"] == poses and counts["/tf_static"] == 1
    stamps = [stamp for _, stamp, _ in messages]
    assert stamps == sorted(stamps)
    images = [m for topic, _, m in messages if topic == "/camera/image_raw"]
    for image, view in zip(images, recording.views, strict=True):
        assert np.array_equal(image.data.reshape(view.rgb_u8.shape), view.rgb_u8)
        assert image.header.stamp.sec * 10**9 + image.header.stamp.nanosec == view.stamp_ns
        assert image.encoding == "rgb8" and image.header.frame_id == "camera_optical_frame"
    info = next(m for topic, _, m in messages if topic == "/camera/camera_info")
    assert info.k.reshape(3, 3) == pytest.approx(recording.camera.matrix)
    depth = next(m for topic, _, m in messages if topic == "/camera/depth")
    assert depth.data.view(np.uint16).reshape(60, 80) == pytest.approx(recording.views[0].depth_m * 1000, abs=0.6)
    assert "durability: 1" in (tmp_path / "bag" / "metadata.yaml").read_text().replace("\\n", "\n")
    with pytest.raises(StorageError, match="cannot be written"):
        write_bag(tmp_path / "bag", recording, storage=storage)
    with pytest.raises(InvalidInputError, match="'zip'"):
        write_bag(tmp_path / "other", recording, storage="zip")


def test_transforms_of_a_bag_give_the_camera_pose(recording: RecordedDrive, tmp_path: Path) -> None:
    from rosbags.typesys import Stores, get_typestore

    write_bag(tmp_path / "bag", recording)
    store = get_typestore(Stores.ROS2_HUMBLE)
    poses: dict[str, SE3] = {}
    with open_bag(tmp_path / "bag") as bag:
        for message in bag.messages(["/tf", "/tf_static"]):
            for stamped in store.deserialize_cdr(message.data, message.type).transforms:
                t, q = stamped.transform.translation, stamped.transform.rotation
                shift = np.array([t.x, t.y, t.z])
                pose = SE3.from_quaternion_xyzw(shift, np.array([q.x, q.y, q.z, q.w]))
                poses[f"{stamped.header.frame_id}/{stamped.child_frame_id}"] = pose
    chain = poses["map/base_link"] @ poses["base_link/camera_link"] @ poses["camera_link/camera_optical_frame"]
    assert chain.distance_to(recording.views[-1].world_from_cam) < 1e-9
    assert chain.angle_to(recording.views[-1].world_from_cam) < 1e-6


def test_relative_depth_errors_measure_along_the_ray(renderer: RoomRenderer) -> None:
    view = robot_view(renderer, 6.0)
    centre = view.world_from_cam.translation
    points = backprojected(view).reshape(-1, 3)
    assert np.nanmax(relative_depth_errors(renderer, points, centre)) < 1e-5
    farther = centre + 1.05 * (points - centre)
    errors = relative_depth_errors(renderer, farther, np.tile(centre, (len(points), 1)))
    assert errors == pytest.approx(0.05, abs=1e-5)
    assert share_within(errors, 0.06) == 1.0
    assert share_within(errors, 0.02) == 0.0
    unknown = relative_depth_errors(
        renderer, np.array([[0.0, 0.0, 60.0], [0.0, 0.0, 50.0]]), np.array([0.0, 0.0, 50.0])
    )
    assert np.isnan(unknown).all()
    assert np.isnan(share_within(unknown, 0.02))
    assert relative_depth_errors(renderer, np.zeros((0, 3)), centre).shape == (0,)


def test_truth_of_the_robot_is_written(tmp_path: Path) -> None:
    config = SimRobotConfig(seed=2, width=32, height=24, duration_s=1.0, rate_hz=5.0, hold_out_every=3, texel_m=0.1)
    recorder, stamps = config.recorder()
    writer = TruthWriter(tmp_path / "truth", config, recorder)
    views = [recorder.view(stamp) for stamp in stamps]
    for number, view in enumerate(views):
        writer.add(number, view, published=not config.is_held_out(number))
    writer.finish()
    document = json.loads((tmp_path / "truth" / "truth.json").read_text())
    assert [e["number"] for e in document["held_out"]] == [1, 4]
    assert [e["number"] for e in document["published"]] == [0, 2, 3, 5]
    entry = document["held_out"][0]
    assert np.array_equal(read_image(tmp_path / "truth" / entry["image"]), views[1].truth.rgb_u8)
    assert read_depth(tmp_path / "truth" / entry["depth"]) == pytest.approx(views[1].truth.depth_m, abs=6e-4)
    assert np.array(entry["world_from_cam"]) == pytest.approx(views[1].truth.world_from_cam.matrix)
    again = render_truth(
        RoomRenderer(make_room(config.room()), RenderConfig(texel_m=0.1)),
        recorder.camera,
        views[1].truth.world_from_cam,
    )
    assert np.array_equal(again.rgb_u8, views[1].truth.rgb_u8)

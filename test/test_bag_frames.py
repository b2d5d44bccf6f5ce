"""Frames out of bags: the same ingest as in the nodes, at the times of the recording."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bag_maker import (
    DEPTH,
    DEPTH_INFO,
    IMAGE,
    INFO,
    OPTICAL,
    START,
    STEP,
    H,
    Recording,
    W,
    base_pose,
    camera_info,
    compressed,
    depth_image,
    depth_map,
    drive,
    image,
    message,
    odometry,
    picture,
    rgb_image,
    rgbd,
    transforms,
)

from reconx_ros.core import SE3, Frame
from reconx_ros.core.settings import updated
from reconx_ros.io import images
from reconx_ros.io.bag_choice import choose_topics
from reconx_ros.io.bag_frames import BagFrames, BagSummary
from reconx_ros.io.bag_poses import likely_map_frame, whole_transforms
from reconx_ros.io.bags import open_bag
from reconx_ros.pipeline.config import ReconxConfig

COUNT = 10


def read(path: Path, **ros: Any) -> tuple[list[Frame], BagSummary, str]:
    """Frames, what happened, and the first reason of losses; with depth unless said otherwise."""
    settings = updated(ReconxConfig(), {"ros": {"use_depth": True, **ros}}).ros
    with open_bag(path) as reader:
        frames = BagFrames(reader, choose_topics(reader), settings, max_size=640)
        return list(frames), frames.summary, frames.lost()


def test_frames_have_image_camera_pose_and_depth(tmp_path: Path) -> None:
    frames, summary, lost = read(rgbd().write(tmp_path / "bag", "mcap"))
    assert (summary.frames_in, summary.frames, summary.drops, summary.warnings(), lost) == (COUNT, COUNT, {}, (), "")
    for k, frame in enumerate(frames):
        assert np.array_equal(frame.rgb_u8, picture(k))
        assert (frame.stamp_ns, frame.camera.fx) == (START + k * STEP, 40)
        assert frame.depth_m is not None and frame.world_from_cam is not None
        np.testing.assert_allclose(np.nan_to_num(frame.depth_m), depth_map(k), atol=6e-4)
        assert np.allclose(frame.world_from_cam.matrix, (base_pose(k) @ OPTICAL).matrix, atol=1e-9)


def test_compressed_transport_gives_the_same_frames(tmp_path: Path) -> None:
    recording = drive()
    for k in range(COUNT):
        stamp = START + k * STEP
        png, depth = images.encode_png(picture(k)), images.encode_compressed_depth(depth_map(k))
        recording.add(f"{IMAGE}/compressed", compressed(stamp, png, "rgb8; png compressed bgr8"), stamp)
        recording.add(f"{DEPTH}/compressedDepth", compressed(stamp, depth, "16UC1; compressedDepth png"), stamp)
    frames, _, _ = read(recording.write(tmp_path / "bag"))
    assert [np.array_equal(f.rgb_u8, picture(k)) for k, f in enumerate(frames)] == [True] * COUNT
    assert frames[3].depth_m is not None
    np.testing.assert_allclose(np.nan_to_num(frames[3].depth_m), depth_map(3), atol=6e-4)


def test_poses_are_interpolated_and_frames_without_one_are_counted_with_the_reason(tmp_path: Path) -> None:
    recording = drive()
    for k in range(COUNT):
        stamp = START + k * STEP + STEP // 2
        recording.add(IMAGE, rgb_image(stamp, picture(k)), stamp)
    frames, summary, lost = read(recording.write(tmp_path / "bag"), use_depth=False)
    assert frames[0].world_from_cam is not None
    assert frames[0].world_from_cam.translation == pytest.approx([0.1, 0.0, 0.5])
    assert (len(frames), summary.drops) == (COUNT - 1, {"no_pose": 1})
    assert lost.startswith("1 of 10 frames have no pose: transform from 'base' to 'map'") and "after the newest" in lost


def test_static_transforms_hold_wherever_they_were_recorded(tmp_path: Path) -> None:
    recording = rgbd()
    recording.rows = [(START + 60 * STEP if t == "/tf_static" else at, t, m) for at, t, m in recording.rows]
    frames, _, _ = read(recording.write(tmp_path / "bag"))
    assert len(frames) == COUNT


def without(recording: Recording, topic: str) -> Recording:
    recording.rows = [row for row in recording.rows if row[1] != topic]
    return recording


def test_what_the_bag_lacks_is_in_the_reason(tmp_path: Path) -> None:
    _, _, lost = read(without(rgbd(), "/tf_static").write(tmp_path / "a"))
    assert lost.startswith(
        "10 of 10 frames have no pose: the bag holds no /tf_static, and frame 'optical' is not in the"
    )
    odometric = without(rgbd(), "/tf")
    for k in range(COUNT):
        odometric.add("/odom", odometry(START + k * STEP, "odom", "base", base_pose(k)), START + k * STEP)
    bag = odometric.write(tmp_path / "b")
    _, _, lost = read(bag)
    assert "the bag holds no /tf, and" in lost and "on /odom: ros.pose_source: odometry takes its poses" in lost
    frames, _, _ = read(bag, pose_source="odometry", map_frame="odom")
    assert len(frames) == COUNT and frames[4].world_from_cam is not None
    assert np.allclose(frames[4].world_from_cam.matrix, (base_pose(4) @ OPTICAL).matrix, atol=1e-9)


def test_a_map_frame_that_is_not_there_is_named_with_the_one_that_is(tmp_path: Path) -> None:
    bag = rgbd().write(tmp_path / "bag")
    _, summary, lost = read(bag, map_frame="moon")
    assert summary.drops == {"no_pose": COUNT}
    assert "'moon' is not in the transform tree" in lost and "set ros.map_frame: map" in lost
    frames, _, _ = read(bag, map_frame="base")
    assert frames[0].world_from_cam is not None and np.allclose(frames[0].world_from_cam.matrix, OPTICAL.matrix)


@pytest.mark.parametrize(("root", "expected"), [("map", "map"), ("odom", "odom"), ("vicon", "vicon"), ("", "map")])
def test_the_map_frame_is_the_usual_one_or_the_root(tmp_path: Path, root: str, expected: str) -> None:
    recording = without(rgbd(2), "/tf")
    if root:
        recording.add("/tf", transforms(START, (root, "base", base_pose(0))), START)
    recording.add("/tf", transforms(START, ("elsewhere", "thing", SE3.identity())), START)
    with open_bag(recording.write(tmp_path / "bag")) as reader:
        tree = whole_transforms(reader, choose_topics(reader), "tf")
        assert likely_map_frame(tree, "optical" if root else "nowhere") == expected


@pytest.mark.parametrize("source", ["tf", "odometry"])
def test_what_is_no_transform_is_left_out_of_the_tree(tmp_path: Path, source: str) -> None:
    recording = without(rgbd(3), "/tf")
    for k in range(3):
        stamp, edge = START + k * STEP, ("odom", "base", base_pose(k))
        made = transforms(stamp, edge) if source == "tf" else odometry(stamp, *edge)
        turn = made.transforms[0].transform.rotation if source == "tf" else made.pose.pose.orientation
        if k == 2:
            turn.x = turn.y = turn.z = turn.w = 0.0
        recording.add("/tf" if source == "tf" else "/odom", made, stamp)
    with open_bag(recording.write(tmp_path / "bag")) as reader:
        tree = whole_transforms(reader, choose_topics(reader), source)
    assert np.allclose(tree.lookup("odom", "optical", START + STEP).matrix, (base_pose(1) @ OPTICAL).matrix)
    assert not tree.can_transform("odom", "base", START + 2 * STEP)


def test_images_in_a_body_frame_are_told_with_the_cure(tmp_path: Path) -> None:
    recording = drive()
    for k in range(COUNT):
        recording.add(IMAGE, rgb_image(START + k * STEP, picture(k), "base"), START + k * STEP)
    bag = recording.write(tmp_path / "bag")
    frames, summary, lost = read(bag)
    assert not frames and summary.drops == {"body_frame": COUNT}
    assert "whose x axis looks forward" in lost and "set ros.optical_frame: optical" in lost
    frames, _, _ = read(bag, optical_frame="optical")
    assert len(frames) == COUNT and frames[3].world_from_cam is not None
    assert np.allclose(frames[3].world_from_cam.matrix, (base_pose(3) @ OPTICAL).matrix, atol=1e-9)
    frames, _, _ = read(bag, optical_frame="base")  # who says so means it
    assert len(frames) == COUNT


def test_the_camera_info_of_an_image_is_that_of_its_stamp(tmp_path: Path) -> None:
    recording = without(rgbd(), INFO)
    for k in range(COUNT):
        stamp = START + k * STEP
        recording.add(INFO, camera_info(stamp, focal=40 if k < 5 else 60), stamp + 1_000_000)
    frames, _, _ = read(recording.write(tmp_path / "bag"))
    assert [f.camera.fx for f in frames] == [40] * 5 + [60] * 5


def test_one_missing_depth_image_costs_one_images_depth(tmp_path: Path) -> None:
    recording = rgbd()
    depths = [row for row in recording.rows if row[1] == DEPTH]
    recording.rows.remove(depths[4])
    frames, summary, _ = read(recording.write(tmp_path / "bag"))
    assert [f.depth_m is None for f in frames] == [k == 4 for k in range(COUNT)]
    assert summary.drops == {"frame_without_depth": 1}


def test_an_image_that_cannot_be_read_costs_one_frame(tmp_path: Path) -> None:
    recording = drive()
    for k in range(COUNT):
        stamp = START + k * STEP
        data = b"not an image" if k == 4 else images.encode_jpeg(picture(k))
        recording.add(f"{IMAGE}/compressed", compressed(stamp, data, "jpeg"), stamp)
    frames, summary, lost = read(recording.write(tmp_path / "bag"), use_depth=False)
    assert (len(frames), summary.drops) == (COUNT - 1, {"bad_image": 1})
    assert lost.startswith("1 of 10 frames cannot be used: compressed image of 12 bytes starts with 6e6f7420")


@pytest.mark.parametrize(
    ("change", "reason", "words"),
    [
        ({"focal": 0.0}, "bad_camera_info", "fx = 0"),
        ({"size": (W + 1, H)}, "bad_image", "image is 48x36, expected 49x36 as its camera_info says"),
    ],
)
def test_a_camera_info_that_does_not_fit(tmp_path: Path, change: dict[str, Any], reason: str, words: str) -> None:
    recording = without(rgbd(), INFO)
    recording.add(INFO, camera_info(START, **change), START)
    _, summary, lost = read(without(recording, DEPTH).write(tmp_path / "bag"))
    assert summary.drops == {reason: COUNT} and words in lost and lost.startswith("10 of 10 frames")


def test_rectified_images_take_p_and_only_they(tmp_path: Path) -> None:
    for topic, changed in ((IMAGE, True), ("/camera/image_rect_color", False)):
        recording = drive()
        recording.rows = [row for row in recording.rows if row[1] != INFO]
        recording.add(INFO, camera_info(START, focal=46.0, d=(-0.3, 0.1, 0.0, 0.0, 0.0), p_focal=40.0), START)
        recording.add(topic, rgb_image(START, picture(0)), START)
        with open_bag(recording.write(tmp_path / topic.rpartition("/")[2])) as reader:
            topics = choose_topics(reader)
            assert topics.rectified != changed
            settings = updated(ReconxConfig(), {"ros.rectified": topics.rectified}).ros
            (frame,) = BagFrames(reader, topics, settings, max_size=640)
        assert (frame.camera.fx != 40) == changed and np.array_equal(frame.rgb_u8, picture(0)) != changed


def test_stamps_that_are_empty_are_those_of_arrival_where_asked(tmp_path: Path) -> None:
    recording = drive()
    for k in range(COUNT):
        recording.add(IMAGE, rgb_image(0, picture(k)), START + k * STEP)
    bag = recording.write(tmp_path / "bag")
    assert read(bag)[1].drops == {"zero_stamp": COUNT}
    frames, _, _ = read(bag, zero_stamps="arrival")
    assert [f.stamp_ns for f in frames] == [START + k * STEP for k in range(COUNT)]


def test_the_clock_of_the_recording_is_the_time_of_arrival(tmp_path: Path) -> None:
    recording = drive()
    late = 5_000_000_000_000
    for k in range(COUNT):
        stamp = START + k * STEP
        time = message("builtin_interfaces/msg/Time", sec=stamp // 10**9, nanosec=stamp % 10**9)
        recording.add("/clock", message("rosgraph_msgs/msg/Clock", clock=time), stamp)
        recording.add(IMAGE, rgb_image(0, picture(k)), stamp + 1)
    recording.rows = [(at + late, topic, content) for at, topic, content in recording.rows]
    frames, _, _ = read(recording.write(tmp_path / "bag"), zero_stamps="arrival")
    assert [f.stamp_ns for f in frames] == [START + k * STEP for k in range(COUNT)]


def test_a_recording_whose_clock_starts_over_goes_on_with_the_new_time(tmp_path: Path) -> None:
    recording = rgbd()
    for k, second in enumerate((50, 10)):
        time = message("builtin_interfaces/msg/Time", sec=second, nanosec=0)
        recording.add("/clock", message("rosgraph_msgs/msg/Clock", clock=time), START + 4 * STEP + k)
    bag = recording.write(tmp_path / "bag")
    settings = updated(ReconxConfig(), {"ros": {"use_depth": True}}).ros
    told: list[tuple[str, int]] = []
    with open_bag(bag) as reader:
        loud = list(BagFrames(reader, choose_topics(reader), settings, max_size=640, on_jump=lambda *a: told.append(a)))
    frames, _, _ = read(bag)
    assert told == [("the clock jumped back by 40.000 s", 10_000_000_000)]
    assert [f.stamp_ns for f in frames] == [f.stamp_ns for f in loud] and frames[-1].stamp_ns == START + 9 * STEP


def test_a_message_that_is_none_is_told_and_costs_nothing_else(tmp_path: Path) -> None:
    recording = rgbd()
    crooked = transforms(START, ("map", "base", base_pose(0)))
    crooked.transforms[0].transform.rotation.w = 3.0
    recording.add("/tf", crooked, START)
    frames, summary, _ = read(recording.write(tmp_path / "bag"))
    assert len(frames) == COUNT and "quaternion" in summary.warnings()[0]


def test_half_size_depth_of_the_same_lens_is_enlarged(tmp_path: Path) -> None:
    recording = without(rgbd(), DEPTH)
    for k in range(COUNT):
        recording.add(DEPTH, depth_image(START + k * STEP, depth_map(k)[::2, ::2]), START + k * STEP)
    frames, summary, _ = read(recording.write(tmp_path / "a"))
    assert summary.drops == {} and all(f.depth_m is not None and f.depth_m.shape == (H, W) for f in frames)
    for k in range(COUNT):
        info = camera_info(START + k * STEP, size=(W // 2, H // 2), focal=20.0, centre=(11.5, 8.5))
        recording.add(DEPTH_INFO, info, START + k * STEP)
    again, _, _ = read(recording.write(tmp_path / "b"))
    for one, other in zip(frames, again, strict=True):
        np.testing.assert_array_equal(one.depth_m, other.depth_m)


def test_depth_whose_place_is_not_known_is_refused_and_the_image_kept(tmp_path: Path) -> None:
    def shot(name: str, frame: str, *, info: bool) -> tuple[list[Frame], BagSummary]:
        recording = without(rgbd(), DEPTH)
        for k in range(COUNT):
            recording.add(DEPTH, depth_image(START + k * STEP, depth_map(k), frame), START + k * STEP)
            if info:
                recording.add(DEPTH_INFO, camera_info(START + k * STEP, frame=frame), START + k * STEP)
        return read(recording.write(tmp_path / name))[:2]

    for name, frame, info, words in (
        ("a", "depth_optical", False, "no camera_info of the depth has come"),
        ("b", "depth_optical", True, "cannot be registered: frame 'depth_optical' is not in the transform tree"),
        ("c", "base", True, "whose x axis looks forward"),
    ):
        frames, summary = shot(name, frame, info=info)
        assert len(frames) == COUNT and all(f.depth_m is None for f in frames)
        assert summary.drops == {"depth_refused": COUNT}
        assert words in summary.warnings()[0] and "registered depth topic" in summary.warnings()[0]


def test_a_frame_of_another_proportion_keeps_its_image(tmp_path: Path) -> None:
    recording = without(rgbd(2), DEPTH)
    recording.add(DEPTH, image(START, (20, 20), bytes(800), "16UC1", 40), START)
    frames, summary, _ = read(recording.write(tmp_path / "bag"))
    assert len(frames) == 2 and summary.drops["depth_refused"] == 1
    assert "is 20x20 in the frame of its 48x36 image" in summary.sentences["depth_refused"]


def test_frames_of_a_bag_that_was_cut_off(tmp_path: Path) -> None:
    bag = rgbd().write(tmp_path / "bag", "mcap")
    file = next(bag.glob("*.mcap"))
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * 0.7)])
    frames, summary, _ = read(bag)
    assert 3 <= len(frames) < COUNT
    assert summary.problem is not None and summary.warnings()[0] == summary.problem


def test_recorded_bags(reconx_data: Path, tmp_path: Path) -> None:
    frames, _, _ = read(reconx_data / "bags" / "hololens_table_raw_sqlite3")
    assert len(frames) == 12
    assert all(f.world_from_cam is not None and f.depth_m is not None for f in frames)
    frames, _, _ = read(reconx_data / "bags" / "tum_fr3_rgb_sqlite3", use_depth=False)
    assert len(frames) == 17
    source = reconx_data / "bags" / "hololens_table_mcap"
    (tmp_path / "cut").mkdir()
    shutil.copyfile(source / "metadata.yaml", tmp_path / "cut" / "metadata.yaml")
    file = next(source.glob("*.mcap"))
    data = file.read_bytes()
    (tmp_path / "cut" / file.name).write_bytes(data[: len(data) // 4])
    frames, summary, _ = read(tmp_path / "cut")
    assert 15 < len(frames) < 30
    assert summary.problem is not None and "cut off" in summary.problem

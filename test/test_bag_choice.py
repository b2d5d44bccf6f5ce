"""Which topics of a bag are chosen, as a person would."""

from __future__ import annotations

import argparse
import json
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
    Recording,
    base_pose,
    camera_info,
    compressed,
    depth_image,
    depth_map,
    drive,
    image,
    odometry,
    picture,
    rgb_image,
    rgbd,
    transforms,
)

from reconx_ros.cli.main import main
from reconx_ros.cli.replay_session import bag_config, played_topics, remaps
from reconx_ros.core import SE3, InvalidInputError
from reconx_ros.io.bag_choice import BagTopics, choose_topics
from reconx_ros.io.bags import open_bag
from reconx_ros.io.images import encode_depth_png, encode_jpeg


def choice(recording: Recording, folder: Path, **named: str) -> BagTopics:
    with open_bag(recording.write(folder / f"bag{len(list(folder.iterdir()))}")) as reader:
        return choose_topics(reader, **named)


def test_the_plain_robot(tmp_path: Path) -> None:
    assert choice(rgbd(), tmp_path) == BagTopics(
        image=IMAGE, camera_info=INFO, depth=DEPTH, tf="/tf", tf_static="/tf_static", frame="optical", depth_info=INFO
    )


def test_depth_is_told_by_its_encoding_not_by_a_word(tmp_path: Path) -> None:
    recording = drive(1)
    recording.add("/depth_camera/color/image_raw", rgb_image(START, picture(0)), START)
    recording.add("/depth_camera/color/camera_info", camera_info(START), START)
    recording.add("/range/picture", image(START, (48, 36), bytes(48 * 36 * 4), "32FC1", 192), START)
    recording.add("/range/preview", rgb_image(START, picture(0), "elsewhere"), START)
    topics = choice(recording, tmp_path)
    assert (topics.image, topics.depth) == ("/depth_camera/color/image_raw", "/range/picture")


@pytest.mark.parametrize(
    ("kind", "deep"), [("16UC1; compressedDepth png", True), ("16UC1; png compressed ", True), ("png", True)]
)
def test_compressed_depth_is_told_by_format_or_content(tmp_path: Path, kind: str, deep: bool) -> None:
    recording = drive(1)
    recording.add(IMAGE, rgb_image(START, picture(0)), START)
    data = bytes(12 if "compressedDepth" in kind else 0) + encode_depth_png(depth_map(0))
    recording.add("/camera/other/image", compressed(START, data, kind), START)
    assert (choice(recording, tmp_path).depth == "/camera/other/image") == deep


def test_topics_without_messages_or_with_few_are_not_chosen_over_full_ones(tmp_path: Path) -> None:
    recording = drive()
    recording.empty = {IMAGE: "sensor_msgs/msg/Image", DEPTH: "sensor_msgs/msg/Image"}
    for k in range(8):
        jpeg = encode_jpeg(picture(k))
        recording.add(f"{IMAGE}/compressed", compressed(START + k, jpeg, "jpeg"), START + k)
        recording.add("/camera/depth/z", depth_image(START + k, depth_map(k)), START + k)
    topics = choice(recording, tmp_path)
    assert (topics.image, topics.depth) == (f"{IMAGE}/compressed", "/camera/depth/z")
    recording.empty = {}
    recording.add(IMAGE, rgb_image(START, picture(0)), START)  # one of eight: somebody looked once
    assert choice(recording, tmp_path).image == f"{IMAGE}/compressed"
    assert choice(recording, tmp_path, image=IMAGE).image == IMAGE


def test_the_depth_of_a_named_image_is_its_own(tmp_path: Path) -> None:
    recording = Recording()
    for side in ("left", "right"):
        recording.add(f"/{side}/color/image_raw", rgb_image(START, picture(0), f"{side}_color"), START)
        recording.add(f"/{side}/color/camera_info", camera_info(START, frame=f"{side}_color"), START)
        recording.add(f"/{side}/depth/image", depth_image(START, depth_map(0), f"{side}_depth"), START)
        recording.add(f"/{side}/depth/camera_info", camera_info(START, frame=f"{side}_depth"), START)
    for side in ("left", "right"):
        topics = choice(recording, tmp_path, image=f"/{side}/color/image_raw")
        assert topics.camera_info == f"/{side}/color/camera_info"
        assert (topics.depth, topics.depth_info) == (f"/{side}/depth/image", f"/{side}/depth/camera_info")
        assert "will be registered" in topics.why["depth"]
    named = choice(recording, tmp_path, image="/left/color/image_raw", depth="/right/depth/image")
    assert named.depth == "/right/depth/image"


def test_registered_depth_is_taken_before_the_sensors_own(tmp_path: Path) -> None:
    recording = rgbd(2)
    recording.add("/camera/depth/image_rect_raw", depth_image(START, depth_map(0), "depth_optical"), START)
    recording.add("/camera/depth/camera_info", camera_info(START, frame="depth_optical"), START)
    recording.add("/camera/depth/image_rect_raw", depth_image(START + 1, depth_map(0), "depth_optical"), START + 1)
    assert choice(recording, tmp_path).depth == DEPTH


def test_a_camera_info_belongs_by_frame_and_size_and_place(tmp_path: Path) -> None:
    recording = drive(1)
    recording.rows = [row for row in recording.rows if row[1] != INFO]
    recording.add("/driver/picture", rgb_image(START, picture(0)), START)
    recording.add("/zzz/info", camera_info(START), START)
    recording.add("/driver2/camera_info", camera_info(START, size=(64, 48)), START)
    recording.add("/driver3/camera_info", camera_info(START, frame="other"), START)
    assert choice(recording, tmp_path).camera_info == "/zzz/info"
    recording.add("/driver/camera_info", camera_info(START, size=(50, 36)), START)  # beside it, but of another size
    assert choice(recording, tmp_path).camera_info == "/zzz/info"
    recording.rows = [row for row in recording.rows if row[1] != "/zzz/info"]
    assert choice(recording, tmp_path).camera_info == "/driver/camera_info"


def two_robots(*, odom: bool = False) -> Recording:
    """Two robots with equal frame names; the second drives elsewhere."""
    recording = Recording()
    for robot, away in (("/robot1", 0.0), ("/robot2", 9.0)):
        recording.add(f"{robot}/tf_static", transforms(START, ("base", "optical", OPTICAL)), START)
        pose = SE3.exp(np.zeros(3), np.array([away, 0.0, 0.0])) @ base_pose(0)
        recording.add(f"{robot}/tf", transforms(START, ("map", "base", pose)), START)
        recording.add(f"{robot}/odom", odometry(START, "map", "base", pose), START)
        recording.add(f"{robot}/cam/image", rgb_image(START, picture(0)), START)
        recording.add(f"{robot}/cam/camera_info", camera_info(START), START)
        recording.add(f"{robot}/cam/z", depth_image(START, depth_map(0)), START)
    return recording


def test_two_robots_with_equal_frames_never_mix(tmp_path: Path) -> None:
    for robot in ("/robot1", "/robot2"):
        topics = choice(two_robots(), tmp_path, image=f"{robot}/cam/image")
        for role in ("camera_info", "depth", "tf", "tf_static", "odometry"):
            assert getattr(topics, role).startswith(robot), role
    assert choice(two_robots(), tmp_path).image == "/robot1/cam/image"


def test_the_only_namespaced_transforms_are_found_from_outside_of_it(tmp_path: Path) -> None:
    recording = rgbd(1)
    recording.rows = [(at, f"/robot1{t}" if t.startswith("/tf") else t, m) for at, t, m in recording.rows]
    topics = choice(recording, tmp_path)
    assert (topics.tf, topics.tf_static) == ("/robot1/tf", "/robot1/tf_static")
    recording.add("/robot2/tf", transforms(START, ("map", "base", base_pose(0))), START)
    assert choice(recording, tmp_path).tf is None  # whose they are cannot be known


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"image": "/nothing"}, "has no topic /nothing, it has /camera"),
        ({"image": "/tf"}, "topic /tf has type tf2_msgs/msg/TFMessage, expected sensor_msgs/msg/Image"),
        ({"camera_info": "/empty"}, "topic /empty of bag .* has no message"),
    ],
)
def test_a_name_that_cannot_be_is_told(tmp_path: Path, named: dict[str, str], message: str) -> None:
    recording = rgbd(1)
    recording.empty = {"/empty": "sensor_msgs/msg/CameraInfo"}
    with pytest.raises(InvalidInputError, match=message):
        choice(recording, tmp_path, **named)


def test_a_bag_without_a_camera_names_what_it_holds(tmp_path: Path) -> None:
    recording = Recording()
    recording.add(IMAGE, rgb_image(START, picture(0)), START)
    with pytest.raises(InvalidInputError, match=r"no image topic with messages .* topics are: /camera/image_raw \(1\)"):
        choice(recording, tmp_path)


# What follows for the nodes -------------------------------------------------------------------------------------


def arguments(*overrides: str, use_depth: bool = False) -> argparse.Namespace:
    return argparse.Namespace(preset="", config=None, overrides=list(overrides), use_depth=use_depth)


def test_what_is_played_and_remapped(tmp_path: Path) -> None:
    with open_bag(two_robots().write(tmp_path / "bag")) as reader:
        topics = choose_topics(reader, image="/robot1/cam/image")
        config = bag_config(reader, topics, tmp_path, arguments("ros.pose_source=odometry", use_depth=True))
        assert set(played_topics(reader, topics, config)) == {
            f"/robot1/{name}" for name in ("tf", "tf_static", "odom", "cam/image", "cam/camera_info", "cam/z")
        }
        assert remaps(reader, topics, config) == {
            "image": "/robot1/cam/image", "camera_info": "/robot1/cam/camera_info", "depth": "/robot1/cam/z",
            "/tf": "/robot1/tf", "/tf_static": "/robot1/tf_static", "odom": "/robot1/odom",
        }  # fmt: skip
        tf = bag_config(reader, topics, tmp_path, arguments())
        assert set(played_topics(reader, topics, tf)) == {
            f"/robot1/{name}" for name in ("tf", "tf_static", "cam/image", "cam/camera_info")
        }


def test_parameters_of_the_bag_and_of_the_user(tmp_path: Path) -> None:
    recording = drive(2)
    recording.rows = [row for row in recording.rows if row[1] != "/tf"]
    recording.add("/tf", transforms(START, ("vicon", "base", base_pose(0))), START)
    recording.add("/camera/image_rect/compressed", compressed(START, encode_jpeg(picture(0)), "jpeg"), START)
    with open_bag(recording.write(tmp_path / "bag")) as reader:
        topics = choose_topics(reader)
        ros = bag_config(reader, topics, tmp_path, arguments("ros.image_transport=raw")).ros
        assert (ros.map_frame, ros.rectified, ros.image_transport) == ("vicon", True, "compressed")
        ros = bag_config(reader, topics, tmp_path, arguments("ros.rectified=false", "ros.map_frame=base")).ros
        assert (ros.map_frame, ros.rectified) == ("base", False)


@pytest.mark.parametrize(
    ("without", "overrides", "message"),
    [
        ("/tf", (), "neither /tf nor /tf_static of .*; /odom has odometry: set ros.pose_source: odometry"),
        ("/odom", ("ros.pose_source=odometry",), "has no odometry of this camera"),
    ],
)
def test_a_bag_without_poses_is_refused(tmp_path: Path, without: str, overrides: tuple[str, ...], message: str) -> None:
    recording = rgbd(1)
    recording.add("/odom", odometry(START, "odom", "base", base_pose(0)), START)
    recording.rows = [row for row in recording.rows if not row[1].startswith(without)]
    with open_bag(recording.write(tmp_path / "bag")) as reader:
        topics = choose_topics(reader)
        config = bag_config(reader, topics, tmp_path, arguments(*overrides))
        with pytest.raises(InvalidInputError, match=message):
            played_topics(reader, topics, config)


def test_the_list_names_everything_and_what_would_be_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recording = rgbd()
    recording.add(DEPTH_INFO, camera_info(START), START)
    bag = recording.write(tmp_path / "bag")
    assert main(["replay", str(bag), "--list", "--json", str(tmp_path / "list.json")]) == 0
    printed = capsys.readouterr().out
    assert "sensor_msgs/msg/Image, 10 messages, 10.0 Hz, 48x36, rgb8, frame 'optical'" in printed
    assert f"image        {IMAGE}: colour, with a camera_info" in printed
    found: dict[str, Any] = json.loads((tmp_path / "list.json").read_text())
    assert found["chosen"]["depth_info"] == DEPTH_INFO and found["why"]["depth"] == "16UC1 in the frame of the image"
    assert {t["name"]: t["is_depth"] for t in found["topics"]}[DEPTH] is True
    empty = Recording()
    empty.add("/tf", transforms(START, ("map", "base", base_pose(0))), START)
    assert main(["replay", str(empty.write(tmp_path / "empty")), "--list"]) == 0
    assert "nothing  bag" in capsys.readouterr().out

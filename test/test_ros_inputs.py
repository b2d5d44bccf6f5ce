"""What comes in, and what the node says when nothing does: real publishers in front of a real node."""

from __future__ import annotations

import re

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("reconx_ros.msg")

from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import PoseStamped
from rclpy.qos import QoSProfile, ReliabilityPolicy
from reconx_ros.msg import Status
from ros_graph import START_NS, FakeCamera, transform_msg
from ros_robot import Robot, drops
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from tf2_msgs.msg import TFMessage

from reconx_ros.core import SE3
from reconx_ros.ros.conversions import byte_array, camera_info_msg, cloud_from_msg, header_msg, image_msg
from reconx_ros.ros.graph.diagnostics import TroubleLog
from reconx_ros.ros.graph.endpoints import Publisher, remembered
from reconx_ros.ros.graph.qos import reliable_qos

BEST_EFFORT = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)


# When nothing arrives -------------------------------------------------------------------------------------------


def test_every_silent_topic_says_why(robot: Robot) -> None:
    node = robot.graph.node
    node.create_publisher(Image, "gome/image_raw", 10)
    node.create_publisher(CompressedImage, "packed/image/compressed", 10)
    node.create_publisher(PoseStamped, "typed/image", 10)
    node.create_publisher(Image, "strict/image", BEST_EFFORT)
    quiet = node.create_publisher(Image, "quiet/image", reliable_qos())
    overrides = {"qos_overrides./strict/image.subscription.reliability": "reliable"}
    names = ["gone", "packed", "typed", "strict", "quiet"]
    robot.start(ros__cameras=names, ros__input_timeout_s=0.5, **overrides)

    there = "nobody publishes it, sensor_msgs/msg/Image is published on /gome/image_raw, /quiet/image, /strict/image"
    gone = robot.diagnosed("input /gone/image", there)  # others are found out about one by one
    assert re.match(r"no message has come on /gone/image for \d+ s: nobody", gone.message)
    assert gone.message.endswith(f"{there}: remap it or set ros.cameras") and gone.level == DiagnosticStatus.ERROR
    nothing = robot.diagnosed("input /gone/camera_info", "nobody publishes it")
    assert nothing.message.endswith("nor anything else of type sensor_msgs/msg/CameraInfo: start the driver")
    packed = robot.diagnosed("input /packed/image", "/packed/image/compressed is published")
    assert packed.message.endswith("set ros.image_transport: compressed")
    typed = robot.diagnosed("input /typed/image", "/test publishes geometry_msgs/msg/PoseStamped there")
    assert typed.message.endswith("expected sensor_msgs/msg/Image")
    strict = robot.diagnosed("input /strict/image", "/test does not match this node's QoS")
    assert strict.message.endswith("set qos_overrides./strict/image.subscription.reliability: best_effort")
    assert {v.key: v.value for v in strict.values}["published by"] == "/test"
    still = robot.diagnosed("input /quiet/image", "/test publishes it, type and QoS match, but nothing arrives")
    assert still.level == DiagnosticStatus.ERROR
    status = robot.status("the reason", lambda s: "no message has come on /gone/image" in s.state_text)
    assert status.state == Status.WAITING_FOR_INPUT

    sentence = robot.logged("no message has come on /gone/image for")
    (line,) = [text for text in sentence.splitlines() if "no message has come on /strict/image" in text][:1]
    assert "[WARN]" in line and all(f"/{name}/image" in line for name in names)
    picture = image_msg(np.zeros((4, 4, 3), np.uint8), "rgb8", header_msg(START_NS, "cam"))
    timer = node.create_timer(0.05, lambda: quiet.publish(picture))
    robot.logged("input /quiet/image: in order again after")
    node.destroy_timer(timer)
    robot.diagnosed("input /quiet/image", "no further message has come on /quiet/image for")


def test_a_transform_that_is_missing_is_named_with_what_there_is(robot: Robot) -> None:
    node = robot.graph.node
    images = node.create_publisher(Image, "image", reliable_qos())
    infos = node.create_publisher(CameraInfo, "camera_info", reliable_qos())
    robot.start(ros__tf_timeout_s=60.0)
    robot.graph.wait("the subscriptions", lambda: images.get_subscription_count() and infos.get_subscription_count())
    info = CameraInfo(width=4, height=4, k=[4.0, 0.0, 1.5, 0.0, 4.0, 1.5, 0.0, 0.0, 1.0])
    info.header = header_msg(START_NS, "cam")
    infos.publish(info)
    images.publish(image_msg(np.zeros((4, 4, 3), np.uint8), "rgb8", header_msg(START_NS, "cam")))

    found = robot.diagnosed("transforms", "nobody publishes /tf or /tf_static")
    assert "frame 'map' is not in the transform tree, known frames are: none" in found.message
    assert "the buffer holds no transform" in found.message and found.level == DiagnosticStatus.ERROR
    assert re.search(r"1 wait, the oldest since stamp 1000\.000 s, for \d+\.\d s \(\d+\.\d s before", found.message)
    assert "which is a recording's time: set use_sim_time" in found.message
    robot.logged("frame 'map' is not in the transform tree")

    tf = node.create_publisher(TFMessage, "/tf", reliable_qos())
    robot.graph.wait("the listener", tf.get_subscription_count)
    tf.publish(transform_msg("base", "cam", SE3.identity(), START_NS - 7_000_000_000))
    tf.publish(transform_msg("map", "odom", SE3.identity(), START_NS))
    robot.diagnosed("transforms", "the buffer holds cam in base (993.000 s to 993.000 s); odom in map")
    tf.publish(transform_msg("odom", "base", SE3.identity(), START_NS))
    late = robot.diagnosed(
        "transforms", "transform from 'cam' to 'base' at 1000.000 s is 7.000 s after the newest sample"
    )
    assert "nobody publishes" not in late.message
    bad = transform_msg("base", "cam", SE3.identity(), START_NS)
    bad.transforms[0].transform.rotation.w = 2.0
    tf.publish(bad)
    robot.diagnosed("transforms", "transform from 'cam' to 'base' is ignored: quaternion (x, y, z, w) = (0, 0, 0, 2)")
    tf.publish(transform_msg("base", "cam", SE3.identity(), START_NS))
    robot.status("a keyframe after all", lambda s: s.keyframes == 1)
    robot.logged("transforms: in order again after")


def test_the_log_says_what_lasts_now_and_then() -> None:
    said: list[str] = []
    log = TroubleLog(said.append, said.append, 10.0)
    log.update({"a": "A is silent"}, 0.0)
    log.update({"a": "A is silent"}, 5.0)
    assert said == ["A is silent"]
    log.update({"a": "A is silent", "b": "B too"}, 6.0)
    assert said[1:] == ["A is silent; B too"]
    log.update({"a": "A is silent", "b": "B too"}, 15.0)
    log.update({"a": "A is silent", "b": "B too"}, 16.0)
    assert said[2:] == ["A is silent; B too"]
    log.update({"b": "B too"}, 17.0)
    assert said[3:] == ["a: in order again after 17 s"]
    log.update({"a": "A is silent", "b": "B too"}, 18.0)  # what flickers is not told each time
    log.update({}, 19.0)
    assert said[4:] == ["b: in order again after 13 s"]


# Cameras --------------------------------------------------------------------------------------------------------


def test_cameras_of_different_sizes_rates_and_encodings(robot: Robot) -> None:
    sizes = {"left": (64, 48), "right": (96, 64), "up": (40, 30)}
    cameras = {n: FakeCamera(robot.graph, prefix=f"{n}/", size=sizes[n], frame=f"{n}_cam") for n in sizes}
    robot.start(ros__cameras=list(sizes), ros__queue_size=100)
    for camera in cameras.values():
        camera.ready()
    window = camera_info_msg(cameras["up"].camera, header_msg(0, ""))
    window.width, window.height, window.binning_x, window.binning_y = 200, 160, 2, 2
    window.roi.x_offset, window.roi.y_offset, window.roi.width, window.roi.height = 60, 50, 80, 60
    window.k = [100.0, 0.0, 99.5, 0.0, 100.0, 79.5, 0.0, 0.0, 1.0]
    noise = np.random.default_rng(0).integers(16, 235, (64, 96, 2), np.uint8)
    pictures = {"right": (noise[..., 0], "bayer_grbg8"), "up": (noise[:30, :40], "uyvy")}
    for i in range(24):  # 30 Hz, 10 Hz, 5 Hz
        stamp_ns, pose = START_NS + i * 33_000_000, cameras["left"].pose(0.5 * i)
        cameras["left"].send(pose, stamp_ns=stamp_ns)
        for name, (pixels, encoding) in pictures.items():
            if i % {"right": 3, "up": 6}[name] == 0:
                camera, header = cameras[name], header_msg(stamp_ns, f"{name}_cam")
                window.header.stamp = header.stamp
                msg = Image(header=header, encoding=encoding, height=pixels.shape[0], width=pixels.shape[1])
                msg.step, msg.data = pixels[0].nbytes, byte_array(pixels)
                camera.send_tf(pose, stamp_ns)
                camera.infos.publish(window if name == "up" else camera_info_msg(camera.camera, header))
                camera.images.publish(msg)
    robot.graph.wait("all keyframes", lambda: len(robot.keyframes) == 24 + 8 + 4)
    for name, count in {"left": 24, "right": 8, "up": 4}.items():
        mine = [k.camera_info for k in robot.keyframes if k.camera_name == name]
        assert len(mine) == count and {(i.width, i.height) for i in mine} == {sizes[name]}
    up_k = next(k.camera_info.k for k in robot.keyframes if k.camera_name == "up")
    assert (up_k[0], up_k[2], up_k[5]) == (50.0, 19.5, 14.5)
    assert not drops(robot.statuses[-1])


def test_names_of_publishers_that_are_going_away_stay_known() -> None:
    unnamed = Publisher(node="a publisher whose node is not known")
    assert remembered((), [unnamed]) == ("a publisher whose node is not known",)
    assert remembered((), [Publisher(node="/driver"), unnamed]) == ("/driver",)
    assert remembered(("/driver",), [unnamed]) == ("/driver",) == remembered(("/driver",), [])
    assert remembered(("/driver",), [Publisher(node="/player")]) == ("/player",)


def test_a_camera_is_unplugged_comes_back_and_changes_its_mode(robot: Robot) -> None:
    node, camera = robot.graph.node, FakeCamera(robot.graph)
    robot.start_server()
    robot.start(ros__input_timeout_s=1.0, ros__retry_s=0.1)
    camera.ready()
    camera.walk(4)
    robot.status("a map", lambda s: s.reconstructions == 1)
    points = cloud_from_msg(robot.graph.wait("its cloud", lambda: [p for p in robot.points if p.width])[-1]).points
    robot.graph.wait(
        "the publishers' node", lambda: robot.published_by("image") == robot.published_by("camera_info") == "/test"
    )

    node.destroy_publisher(camera.images)
    node.destroy_publisher(camera.infos)
    robot.diagnosed("input /image", "nobody publishes it any more, /test did")
    status = robot.status("the loss", lambda s: s.state == Status.WAITING_FOR_INPUT)
    assert "no further message has come on /image" in status.state_text
    assert status.keyframes == 4 and status.points == 800
    robot.logged("nobody publishes it any more, /test did")

    again = FakeCamera(robot.graph)
    again.ready()
    again.count = 10
    again.send(again.pose(2.5))
    robot.status("a fifth keyframe", lambda s: s.keyframes == 5)
    robot.logged("input /image: in order again after")

    # Another mode of the camera: another size and focal length, from one image to the next.
    wide = FakeCamera(robot.graph, size=(96, 64))
    wide.ready()
    for i in range(11, 15):
        stamp_ns, pose = START_NS + i * 100_000_000, again.pose(0.5 * i)
        (again if i % 2 else wide).send(pose, stamp_ns=stamp_ns)
    robot.graph.wait("their keyframes", lambda: len(robot.keyframes) == 9)
    sizes = [(k.camera_info.width, round(k.camera_info.k[0], 3)) for k in robot.keyframes[-4:]]
    assert sizes == [(64, 57.6), (96, 86.4), (64, 57.6), (96, 86.4)]
    status = robot.statuses[-1]
    assert robot.process.alive and set(drops(status)) <= {"no_camera_info"}
    kept = cloud_from_msg([p for p in robot.points if p.width][-1])
    assert (kept.points[: len(points)] == points).all()

"""reconx_node as a process of its own, in front of a fake camera; the server runs a stand-in (see ros_stub_jobs)."""

from __future__ import annotations

import array
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("reconx_ros.msg")

from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import PoseArray, PoseStamped
from lifecycle_msgs.msg import Transition
from nav_msgs.msg import Odometry
from nav_msgs.msg import Path as PathMsg
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import DescribeParameters, SetParameters
from rclpy.qos import QoSProfile, ReliabilityPolicy
from reconx_ros.msg import Coverage, Status
from reconx_ros.srv import LoadMap, SaveMap, ScoreViews
from ros_graph import START_NS, FakeCamera, transform_msg
from ros_robot import Robot, drops
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2
from std_srvs.srv import SetBool
from visualization_msgs.msg import MarkerArray

from reconx_ros.core import SE3
from reconx_ros.io.images import encode_compressed_depth, encode_jpeg
from reconx_ros.ros.conversions import (
    camera_info_msg,
    cloud_from_msg,
    header_msg,
    image_view,
    ns_from_stamp,
    pose_msg,
    rgb_from_compressed,
)
from reconx_ros.ros.graph.qos import latched_qos

# The whole way --------------------------------------------------------------------------------------------------


def test_frames_become_keyframes_a_map_and_novel_views(robot: Robot, camera: FakeCamera, tmp_path: Path) -> None:
    coverage = robot.graph.listen(Coverage, "reconx_node/coverage")
    pictures = robot.graph.listen(Image, "reconx_node/coverage/image")
    markers = robot.graph.listen(MarkerArray, "reconx_node/keyframes", latched_qos())
    views = {
        name: robot.graph.listen(kind, f"reconx_node/novel_view/{name}")
        for name, kind in {
            "image": Image,
            "depth": Image,
            "provenance": Image,
            "camera_info": CameraInfo,
            "pose": PoseStamped,
        }.items()
    }
    path = robot.graph.listen(PathMsg, "reconx_node/novel_view/path", latched_qos())
    robot.start_server()
    robot.start(ros__output_dir=str(tmp_path / "maps"), ros__retry_s=0.1)
    camera.ready()
    camera.walk(4)
    newest_ns = START_NS + 300_000_000

    status = robot.status("a map", lambda s: s.reconstructions == 1)
    assert status.keyframes == 4 and status.points == 800 and status.metric_scale
    assert (status.pointmap_backend, status.last_error and "not there" in status.last_error) in (
        ("stub", ""),
        ("stub", True),
    )
    assert 0 <= status.callback_p50_ms <= status.callback_p99_ms < 50

    robot.graph.wait("keyframes", lambda: len(robot.keyframes) == 4)
    first = robot.keyframes[0]
    assert first.has_pose and first.reason == "first view" and ns_from_stamp(first.header.stamp) == START_NS
    assert rgb_from_compressed(first.image).shape == (48, 64, 3)
    assert first.camera_info.header.frame_id == "cam" and first.header.frame_id == "map"

    robot.graph.wait("a cloud with points", lambda: robot.points and robot.points[-1].width)
    cloud = cloud_from_msg(robot.points[-1])
    assert sorted(set(cloud.keyframe_ids.tolist())) == [0, 1, 2, 3] and set(cloud.provenance.tolist()) == {1}
    assert ns_from_stamp(robot.points[-1].header.stamp) == newest_ns

    for name, heard in views.items():
        robot.graph.wait(f"three novel views: {name}", lambda heard=heard: len(heard) == 3)
        assert [ns_from_stamp(m.header.stamp) for m in heard] == [newest_ns + i for i in range(3)], name
    robot.graph.wait("the path", lambda: bool(path))
    assert path[-1].poses[1].pose == views["pose"][1].pose
    np.testing.assert_allclose(image_view(views["depth"][0]), 1.5)

    robot.graph.wait("markers of mapped keyframes", lambda: markers and len(markers[-1].markers) == 5)
    assert coverage[-1].grid_width * coverage[-1].grid_height == len(coverage[-1].cells)
    assert sum(msg.triggered for msg in coverage) <= 1 and pictures[-1].encoding == "rgb8"

    late = robot.graph.listen(PointCloud2, "/reconx_node/points", latched_qos())
    robot.graph.wait("the cloud for a late subscriber", lambda: late and late[-1].width == 800)


def test_map_is_saved_loaded_scored_and_reset(robot: Robot, camera: FakeCamera, tmp_path: Path) -> None:
    folder = tmp_path / "maps"
    save = SaveMap.Request(path="kitchen")
    robot.start_server()
    robot.start(ros__output_dir=str(folder), ros__retry_s=0.1)
    refused = robot.graph.call(SaveMap, "reconx_node/save_map", save)
    assert (refused.success, refused.error_code) == (False, SaveMap.Response.NO_MAP)
    camera.ready()
    camera.walk(4)
    robot.status("a map", lambda s: s.reconstructions == 1)

    saved = robot.graph.call(SaveMap, "reconx_node/save_map", save)
    assert saved.success and saved.points == 800, saved.message
    assert saved.bytes == sum(f.stat().st_size for f in (folder / "kitchen").iterdir())
    again = robot.graph.call(SaveMap, "reconx_node/save_map", save)
    assert (again.success, again.error_code) == (False, SaveMap.Response.EXISTS)
    for path in ("", "../outside", "/proc/nothing/here"):
        bad = robot.graph.call(SaveMap, "reconx_node/save_map", SaveMap.Request(path=path))
        assert not bad.success and bad.error_code in (SaveMap.Response.INVALID_PATH, SaveMap.Response.WRITE_FAILED)

    request = ScoreViews.Request(camera_info=camera_info_msg(camera.camera, header_msg(0, "")))
    request.poses = PoseArray(poses=[pose_msg(camera.pose(0.0)), pose_msg(camera.pose(0.0, 180.0))])
    scores = robot.graph.call(ScoreViews, "reconx_node/score_views", request)
    assert scores.success and scores.gains[1] > scores.gains[0] and scores.coverage[1] == 0.0

    assert robot.trigger("reset").success
    status = robot.status("nothing after reset", lambda s: s.points == 0)
    assert status.keyframes == 0 and status.frames_in == 0 and status.reconstructions == 0
    robot.graph.wait("an empty cloud", lambda: robot.points[-1].width == 0)

    missing = robot.graph.call(LoadMap, "reconx_node/load_map", LoadMap.Request(path="cellar"))
    assert (missing.success, missing.error_code) == (False, LoadMap.Response.NOT_FOUND)
    loaded = robot.graph.call(LoadMap, "reconx_node/load_map", LoadMap.Request(path="kitchen"))
    assert loaded.success and loaded.points == 800 and loaded.metric_scale, loaded.message
    robot.graph.wait("the loaded cloud", lambda: robot.points[-1].width == 800)
    camera.walk(1)
    robot.graph.wait("a further keyframe", lambda: robot.keyframes[-1].id >= 4)


# What goes wrong ------------------------------------------------------------------------------------------------


def test_frames_without_transform_are_named_in_diagnostics(robot: Robot, camera: FakeCamera) -> None:
    robot.start(ros__tf_timeout_s=1)
    camera.ready()
    for _ in range(3):
        camera.send(None)
    waiting = robot.diagnosed("transforms", "frame 'map' is not in the transform tree")
    assert waiting.level == DiagnosticStatus.ERROR
    status = robot.dropped("no_pose", 3)
    assert status.state == Status.WAITING_FOR_INPUT and status.keyframes == 0
    camera.send(camera.pose(0.0))
    robot.status("a keyframe once there is a transform", lambda s: s.keyframes == 1)


def test_frames_wait_for_a_transform_that_comes_late(robot: Robot, camera: FakeCamera) -> None:
    robot.start(ros__tf_timeout_s=60.0)
    camera.ready()
    camera.send_tf(camera.pose(0.0), START_NS - 1)
    stamp_ns = camera.send(None)
    waiting = robot.diagnosed("transforms", f"the oldest since stamp {stamp_ns / 1e9:.3f} s")
    assert "after the newest sample" in waiting.message
    camera.send_tf(camera.pose(0.1), stamp_ns + 1)
    robot.status("a keyframe", lambda s: s.keyframes == 1)
    robot.graph.wait("its message", lambda: bool(robot.keyframes))
    assert robot.keyframes[0].pose.position.y == pytest.approx(-0.05)


def test_bad_input_is_dropped_with_its_reason_and_the_node_goes_on(robot: Robot, camera: FakeCamera) -> None:
    robot.start()
    camera.ready()
    info = camera_info_msg(camera.camera, header_msg(0, "cam"))
    info.k = [0.0] * 9
    camera.send(camera.pose(0.0), info=info)
    status = robot.dropped("bad_camera_info")
    assert "fx = 0.0, expected a calibrated camera" in status.state_text
    while "bad_image" not in drops(status):  # an image may overtake the calibration sent before it
        count = sum(drops(status).values())
        camera.send(camera.pose(0.0), encoding="yuv9")
        status = robot.status("one more drop", lambda s, count=count: sum(drops(s).values()) > count)
    robot.diagnosed("mapping", "image encoding is 'yuv9', expected one of rgb8")
    small = np.zeros((10, 10, 3), np.uint8)
    camera.send(camera.pose(0.0), pixels=small)
    robot.dropped("bad_image", 2)
    robot.diagnosed("mapping", "image is 10x10, expected 64x48 as its camera_info says")
    camera.send(camera.pose(0.0), stamp_ns=1)  # a single old stamp is no jump of time
    robot.dropped("pose_too_old")
    assert "jumped back" not in robot.process.text()
    camera.send(camera.pose(0.0))
    robot.status("a keyframe after all", lambda s: s.keyframes == 1)
    assert robot.process.alive


def test_depth_with_nan_and_compressed_pictures_are_used(robot: Robot, camera: FakeCamera) -> None:
    node = robot.graph.node
    images = node.create_publisher(CompressedImage, "image/compressed", 10)
    depths = node.create_publisher(CompressedImage, "depth/compressedDepth", 10)
    robot.start(ros__image_transport="compressed", ros__use_depth=True, ros__depth_transport="compressedDepth")
    robot.graph.wait("the subscriptions", lambda: images.get_subscription_count() and depths.get_subscription_count())
    robot.graph.wait("camera_info", lambda: camera.infos.get_subscription_count())
    depth = np.full((48, 64), 2.0, np.float32)
    depth[:10] = np.nan
    header = header_msg(START_NS, "cam")
    camera.send_tf(camera.pose(0.0), START_NS)
    camera.infos.publish(camera_info_msg(camera.camera, header))
    pixels = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    images.publish(CompressedImage(header=header, format="jpeg", data=array.array("B", encode_jpeg(pixels))))
    late = header_msg(START_NS + 5_000_000, "cam")
    payload = array.array("B", encode_compressed_depth(depth))
    depths.publish(CompressedImage(header=late, format="16UC1; compressedDepth png", data=payload))
    status = robot.status("a keyframe", lambda s: s.keyframes == 1)
    assert "frame_without_depth" not in drops(status)


def test_server_that_is_absent_is_named_and_used_when_it_comes(robot: Robot, camera: FakeCamera) -> None:
    robot.start(ros__retry_s=0.2)
    camera.ready()
    camera.walk(4)
    status = robot.status("word of the server", lambda s: "reconstruction server is not there" in s.last_error)
    assert status.keyframes == 4 and status.state == Status.COLLECTING
    refused = robot.trigger()
    assert not refused.success
    assert refused.message == (
        "the reconstruction server is not there: nobody offers the action reconstruction_server/reconstruct"
    )
    robot.diagnosed("reconstruction", "reconstruction server is not there")
    robot.start_server()
    robot.status("a map", lambda s: s.reconstructions == 1)


def test_a_single_keyframe_is_no_job(robot: Robot, camera: FakeCamera) -> None:
    robot.start()
    camera.ready()
    camera.send(camera.pose(0.0))
    robot.status("a keyframe", lambda s: s.keyframes == 1)
    refused = robot.trigger()
    assert not refused.success
    assert refused.message == "the map has 1 keyframe with a pose, a reconstruction needs at least 2"


def test_a_failed_job_is_told_and_nothing_is_lost(robot: Robot, camera: FakeCamera) -> None:
    robot.start_server("ros_stub_jobs:no_parallax")
    robot.start(ros__retry_s=0.1)
    camera.ready()
    for i in range(5):
        camera.send(camera.pose(0.0, 20.0 * i))
    status = robot.status("the error", lambda s: "INSUFFICIENT_PARALLAX" in s.last_error)
    assert "expected a camera that moves sideways" in status.last_error
    status = robot.status("the keyframes", lambda s: s.keyframes == 5)
    assert status.state == Status.ERROR
    assert robot.diagnosed("reconstruction", "INSUFFICIENT_PARALLAX").level == DiagnosticStatus.ERROR


def test_a_worker_that_dies_is_tried_again(robot: Robot, camera: FakeCamera, tmp_path: Path) -> None:
    robot.start_server("ros_stub_jobs:dies_once", ros__output_dir=str(tmp_path / "out"))
    robot.start(ros__retry_s=0.1)
    camera.ready()
    camera.walk(4)
    status = robot.status("a map", lambda s: s.reconstructions == 1)
    assert "WORKER_DIED" in status.last_error and status.state == Status.COLLECTING


def test_a_server_that_vanishes_in_a_job_is_noticed(robot: Robot, camera: FakeCamera) -> None:
    robot.start_server("ros_stub_jobs:endless")
    server = robot.graph.processes[-1]
    robot.start(ros__retry_s=0.1, ros__server_timeout_s=3.0)
    camera.ready()
    camera.walk(4)
    robot.status("a running job", lambda s: s.state == Status.RECONSTRUCTING and s.job_stage == "splatting")
    server.process.kill()
    robot.status("the silence", lambda s: "has been silent for" in s.last_error)
    assert robot.process.alive
    robot.start_server()
    robot.status("a map", lambda s: s.reconstructions == 1)


def test_silent_topics_are_named(robot: Robot, camera: FakeCamera) -> None:
    robot.start(ros__input_timeout_s=0.5)
    camera.ready()
    assert robot.diagnosed("input /image", "no message has come on /image for").level == DiagnosticStatus.ERROR
    camera.infos.publish(camera_info_msg(camera.camera, header_msg(START_NS, "cam")))
    robot.diagnosed("input /camera_info", "no further message has come on /camera_info for")
    robot.graph.wait("the log", lambda: "no message has come on /image for" in robot.process.text())


def test_incompatible_quality_of_service_is_named(robot: Robot) -> None:
    best_effort = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
    robot.graph.node.create_publisher(Image, "image", best_effort)  # the fixture's robot asks for reliable
    robot.start(ros__input_timeout_s=0.5)
    found = robot.diagnosed("input /image", "/test does not match this node's QoS")
    assert "set qos_overrides./image.subscription.reliability: best_effort" in found.message


# Pausing, lifecycle, parameters ---------------------------------------------------------------------------


def test_pause_ignores_images(robot: Robot, camera: FakeCamera) -> None:
    robot.start()
    camera.ready()
    assert robot.graph.call(SetBool, "reconx_node/pause", SetBool.Request(data=True)).success
    camera.walk(3)
    status = robot.dropped("paused", 3)
    assert status.state == Status.PAUSED and status.keyframes == 0 and status.frames_in == 3
    assert robot.graph.call(SetBool, "reconx_node/pause", SetBool.Request(data=False)).message == "resumed"
    camera.walk(1)
    robot.status("a keyframe", lambda s: s.keyframes == 1)


def test_lifecycle_through_all_states_and_back(robot: Robot, camera: FakeCamera) -> None:
    robot.start(ros__autostart=False)
    assert robot.state() == "unconfigured"
    assert camera.images.get_subscription_count() == 0
    for _ in range(2):
        assert robot.change(Transition.TRANSITION_CONFIGURE)
        assert camera.images.get_subscription_count() == 0
        assert robot.trigger().message == "the node is not active"
        assert robot.change(Transition.TRANSITION_ACTIVATE)
        camera.ready()
        camera.walk(2)
        robot.status("keyframes", lambda s: s.keyframes == 2)
        assert robot.change(Transition.TRANSITION_DEACTIVATE)
        robot.status("idle", lambda s: s.state == Status.IDLE)
        robot.graph.wait("no subscription", lambda: camera.images.get_subscription_count() == 0)
        assert robot.change(Transition.TRANSITION_CLEANUP)
        assert robot.state() == "unconfigured"
    assert robot.process.stop() == 0
    assert "Traceback" not in robot.process.text()


def test_parameters_are_described_checked_and_taken_over(robot: Robot) -> None:
    robot.start(ros__tf_timeout_s=1, ros__tf_time_out_s=2.0)
    robot.status("a status", lambda s: True)
    assert (
        "unknown parameter ros.tf_time_out_s is ignored, the nearest known one is ros.tf_timeout_s"
        in robot.process.text()
    )
    robot.diagnosed("parameters", "nearest known one is ros.tf_timeout_s")
    request = DescribeParameters.Request(names=["coverage.trigger_below", "ros.map_frame"])
    dynamic, fixed = robot.graph.call(DescribeParameters, "reconx_node/describe_parameters", request).descriptors
    assert (
        not dynamic.read_only and dynamic.floating_point_range[0].to_value == 1.0 and "Coverage" in dynamic.description
    )
    assert fixed.read_only

    def set_one(name: str, value: ParameterValue) -> Any:
        change = SetParameters.Request(parameters=[Parameter(name=name, value=value)])
        return robot.graph.call(SetParameters, "reconx_node/set_parameters", change).results[0]

    double, string = ParameterType.PARAMETER_DOUBLE, ParameterType.PARAMETER_STRING
    assert set_one("coverage.trigger_below", ParameterValue(type=double, double_value=0.3)).successful
    assert not set_one("coverage.trigger_below", ParameterValue(type=double, double_value=1.5)).successful
    assert not set_one("ros.map_frame", ParameterValue(type=string, string_value="odom")).successful
    wrong = set_one("coverage.trigger_below", ParameterValue(type=string, string_value="much"))
    assert not wrong.successful and "coverage.trigger_below" in wrong.reason


def test_bad_parameters_leave_the_node_unconfigured_with_a_sentence(robot: Robot) -> None:
    robot.start(coverage__trigger_below=7.0, ros__pose_source="guess")
    assert robot.state() == "unconfigured"
    assert robot.process.alive
    text = robot.process.text()
    assert "parameter coverage.trigger_below is 7.0, expected a number in [0, 1]" in text
    assert "parameter ros.pose_source is 'guess', expected one of tf, odometry, none" in text


# Several cameras, other poses -----------------------------------------------------------------------------------


def test_two_cameras_and_odometry(robot: Robot) -> None:
    cameras = {name: FakeCamera(robot.graph, prefix=f"{name}/", frame=f"{name}_optical") for name in ("left", "right")}
    odometry = robot.graph.node.create_publisher(Odometry, "odom", 10)
    robot.start(ros__cameras=["left", "right"], ros__pose_source="odometry", ros__map_frame="odom")
    for fake in cameras.values():
        fake.ready()
        fake.static_tf.publish(transform_msg("base", fake.frame, fake.pose(0.1 * len(fake.frame))))
    robot.graph.wait("the odometry's subscriber", odometry.get_subscription_count)
    odometry.publish(Odometry(header=header_msg(START_NS, "odom"), child_frame_id="base", pose=_stamped(0.0)))
    for fake in cameras.values():
        fake.send(None)
    robot.graph.wait("a keyframe of each camera", lambda: len(robot.keyframes) == 2)
    assert {k.camera_name for k in robot.keyframes} == {"left", "right"}
    assert {k.header.frame_id for k in robot.keyframes} == {"odom"}


def _stamped(x: float) -> Any:
    odometry = Odometry()
    odometry.pose.pose = pose_msg(SE3.exp(np.zeros(3), np.array([x, 0.0, 0.0])))
    return odometry.pose

"""A thousand broken messages, and then a good one: the node lives, says what was wrong, and has lost nothing."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("reconx_ros.msg")

from diagnostic_msgs.msg import DiagnosticStatus
from fuzz_messages import Fuzzer, Shot
from ros_graph import START_NS, FakeCamera, transform_msg
from ros_robot import Robot, drops
from sensor_msgs.msg import CompressedImage, Image, PointCloud2

from reconx_ros.geometry.tf_tree import TransformBuffer
from reconx_ros.io.ingest.camera_input import CameraInput
from reconx_ros.io.ingest.drops import DropCounter
from reconx_ros.io.ingest.frame_queue import Ingest, Now
from reconx_ros.pipeline.config import ReconxConfig
from reconx_ros.ros.conversions import header_msg, image_msg
from reconx_ros.ros.graph.qos import latched_qos, reliable_qos

BATCH = 20
EVERY_NS = 10_000_000


def peak_mib(robot: Robot) -> float:
    """Largest resident memory that the node ever had."""
    lines = Path(f"/proc/{robot.process.process.pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


class Line:
    """The publishers of a camera with depth that a fuzzer drives."""

    def __init__(self, robot: Robot, camera: FakeCamera, *, compressed: bool) -> None:
        node = robot.graph.node
        kind, image, depth = Image, "image", "depth"
        if compressed:
            kind, image, depth = CompressedImage, "image/compressed", "depth/compressedDepth"
        self.robot, self.camera = robot, camera
        self.images = node.create_publisher(kind, image, reliable_qos(50))
        self.depths = node.create_publisher(kind, depth, reliable_qos(50))
        self.sent = 0
        self.kinds: Counter[str] = Counter()

    def ready(self) -> None:
        for publisher in (self.images, self.depths, self.camera.infos, self.camera.transforms):
            self.robot.graph.wait(publisher.topic_name, publisher.get_subscription_count)

    def send(self, shot: Shot) -> None:
        for publisher, msg in (
            (self.camera.transforms, shot.tf),
            (self.camera.infos, shot.info),
            (self.depths, shot.depth),
            (self.images, shot.image),
        ):
            publisher.publish(msg)
        self.sent += not isinstance(shot.image, bytes)
        self.kinds[shot.kind] += 1

    def heard(self) -> None:
        """Wait until all images that a library can read have come."""
        self.robot.status(f"{self.sent} images", lambda s: s.frames_in >= self.sent)


@pytest.mark.parametrize(("compressed", "count"), [(False, 600), (True, 400)])
def test_broken_messages_break_nothing(robot: Robot, compressed: bool, count: int) -> None:
    transports = {"ros__image_transport": "compressed", "ros__depth_transport": "compressedDepth"} if compressed else {}
    camera = FakeCamera(robot.graph)
    line = Line(robot, camera, compressed=compressed)
    robot.start_server()
    robot.start(
        ros__use_depth=True, ros__retry_s=0.1, ros__tf_timeout_s=0.3, ros__status_period_s=0.05,
        ros__queue_size=100, keyframes__max_buffer=256, coverage__trigger_below=0.0, **transports,
    )  # fmt: skip
    line.ready()
    fuzzer = Fuzzer(7, camera.camera, lambda t: transform_msg("map", "cam", camera.pose(0.0), t), compressed=compressed)
    good = [_good(fuzzer, camera, START_NS - (5 - i) * EVERY_NS, 0.5 * i) for i in range(4)]
    for shot in good:
        line.send(shot)
    robot.status("keyframes", lambda s: s.keyframes == 4)
    while not robot.trigger().success:  # the server may still be starting
        robot.status("word of the server", lambda s: "not there" in s.last_error or s.state)
    robot.status("a map", lambda s: s.reconstructions == 1 and s.points == 800)
    before, peak_before_mib = bytes(robot.points[-1].data), peak_mib(robot)

    for i in range(count):
        line.send(fuzzer.shot(START_NS + i * EVERY_NS))
        if i % BATCH == BATCH - 1:
            line.heard()
    assert robot.process.alive and sum(line.kinds.values()) == count + len(good)

    late = robot.graph.listen(PointCloud2, "/reconx_node/points", latched_qos())
    robot.graph.wait("the map for a late subscriber", lambda: bool(late))
    assert bytes(late[-1].data) == before
    reasons = {"bad_image", "bad_camera_info", "zero_stamp", "no_pose"}
    status = robot.status("the reasons", lambda s: reasons <= set(drops(s)))
    assert "error" not in drops(status), status.last_error
    robot.graph.wait("a reason in diagnostics", lambda: _blamed(robot))
    assert peak_mib(robot) - peak_before_mib < 150  # absurd sizes are refused before anything is made for them

    held = status.keyframes
    line.send(_good(fuzzer, camera, START_NS + (count + 1) * EVERY_NS, 50.0))
    robot.status("the good frame", lambda s: s.keyframes == held + 1)
    assert robot.trigger().success
    robot.status("a second map", lambda s: s.reconstructions == 2)
    assert robot.process.stop() == 0


def _good(fuzzer: Fuzzer, camera: FakeCamera, stamp_ns: int, x: float) -> Shot:
    tf = transform_msg("map", "cam", camera.pose(x), stamp_ns)
    return Shot(
        "good", tf=tf, info=fuzzer._info(stamp_ns), depth=fuzzer._depth(stamp_ns), image=fuzzer._image(stamp_ns)
    )


def _blamed(robot: Robot) -> bool:
    """Whether any diagnostics named a bad transform, and any a bad frame."""
    found = [s for msg in robot.diagnostics for s in msg.status if s.level != DiagnosticStatus.OK]
    frames = any(s.name == "reconx_node: mapping" and ("expected" in s.message) for s in found)
    return frames and any(s.name == "reconx_node: transforms" and "is ignored: " in s.message for s in found)


@pytest.mark.parametrize("compressed", [False, True])
def test_two_thousand_broken_messages_without_a_graph(compressed: bool) -> None:
    tf, drops_, camera = TransformBuffer(), DropCounter(), CameraInput("")
    ingest = Ingest(tf, drops_, lambda *jump: None)
    pinhole = FakeCamera.intrinsics((64, 48))
    fuzzer = Fuzzer(3, pinhole, lambda t: transform_msg("map", "cam", FakeCamera.pose(0.0), t), compressed=compressed)
    config, frames = ReconxConfig(), 0
    for i in range(1000):
        shot = fuzzer.shot(START_NS + i * EVERY_NS)
        tf.set_transform("map", "cam", START_NS + i * EVERY_NS, FakeCamera.pose(0.0))
        if not isinstance(shot.info, bytes):
            camera.lens.put(shot.info)
        if not isinstance(shot.image, bytes):
            ingest.put(camera, shot.image, i * 0.1, 10)
        frames += len(ingest.take_ready(config.ros, 640, Now(steady_s=i * 0.1)))
    counts = drops_.snapshot()
    assert "error" not in counts, camera.problems
    assert frames > 200 and {"bad_image", "bad_camera_info", "zero_stamp", "no_pose"} <= set(counts)
    tf.set_transform("map", "cam", START_NS + 9_000 * EVERY_NS, FakeCamera.pose(0.0))
    camera.lens.put(fuzzer._info(START_NS + 9_000 * EVERY_NS))
    picture = image_msg(np.zeros((48, 64, 3), np.uint8), "rgb8", header_msg(START_NS + 9_000 * EVERY_NS, "cam"))
    ingest.put(camera, picture, 1e6, 10)
    assert any(
        f.stamp_ns == START_NS + 9_000 * EVERY_NS for f, _ in ingest.take_ready(config.ros, 640, Now(steady_s=1e6))
    )

"""The simulated robot as a process of its own, heard through DDS as any subscriber would."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy")
pytest.importorskip("embreex")
pytestmark = pytest.mark.ros

SMALL = {
    "width": 64,
    "height": 48,
    "texel_m": 0.05,
    "duration_s": 1.0,
    "rate_hz": 5.0,
    "supersample": 1,
    "linger_s": 0.2,
}
NS = 1_000_000_000


class Ears:
    """A node that keeps what the robot says."""

    def __init__(self, domain: int) -> None:
        from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
        from rosgraph_msgs.msg import Clock
        from sensor_msgs.msg import CameraInfo, Image
        from std_msgs.msg import Empty
        from tf2_msgs.msg import TFMessage

        self.context = rclpy.context.Context()
        rclpy.init(context=self.context, domain_id=domain)
        self.node = rclpy.create_node("ears", context=self.context)
        self.executor = rclpy.executors.SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.heard: list[tuple[str, Any]] = []
        sensor = QoSProfile(depth=50, reliability=ReliabilityPolicy.BEST_EFFORT)
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        for kind, topic, qos in (
            (Image, "camera/image_raw", sensor),
            (CameraInfo, "camera/camera_info", sensor),
            (Image, "camera/depth", sensor),
            (TFMessage, "/tf", 100),
            (TFMessage, "/tf_static", latched),
            (Clock, "/clock", 100),
            (Empty, "sim_robot/done", latched),
        ):
            self.node.create_subscription(kind, topic, self._keeper(topic), qos)

    def _keeper(self, topic: str) -> Callable[[Any], None]:
        return lambda message: self.heard.append((topic, message))

    def of(self, topic: str) -> list[Any]:
        return [message for name, message in self.heard if name == topic]

    def listen(self, robot: subprocess.Popen[str], until: Callable[[], bool], timeout_s: float = 90.0) -> None:
        deadline = monotonic() + timeout_s
        while not until():
            assert monotonic() < deadline, f"heard only {sorted({name for name, _ in self.heard})}"
            assert robot.poll() in (None, 0)
            self.executor.spin_once(timeout_sec=0.1)

    def close(self) -> None:
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)


@pytest.fixture
def ears(ros_domain: int) -> Iterator[Ears]:
    ears = Ears(ros_domain)
    yield ears
    ears.close()


@pytest.fixture
def start(ros_domain: int, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts robots in the test's domain, and ends those that still run."""
    from reconx_ros.ros.graph.environment import prepare

    started: list[subprocess.Popen[str]] = []

    def start(**parameters: Any) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "reconx_ros.ros.tools.sim_robot", "--ros-args"]
        for name, value in {**SMALL, **parameters}.items():
            command += ["-p", f"{name}:={json.dumps(value)}"]
        environment = prepare(dict(os.environ), domain_id=ros_domain)
        started.append(
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        )
        return started[-1]

    yield start
    for robot in started:
        if robot.poll() is None:
            robot.kill()
        robot.communicate()


def stamp_ns(stamp: Any) -> int:
    return stamp.sec * NS + stamp.nanosec


def test_a_drive_is_heard_whole_and_ends_by_itself(
    ears: Ears, start: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    from reconx_ros.core import SE3
    from reconx_ros.io.ingest.pixels import depth_from_image, rgb_from_image
    from reconx_ros.io.ingest.stamped import se3_from_transform
    from reconx_ros.ros.conversions.cameras import pinhole_from_info
    from reconx_ros.sim.path import default_camera

    everything = ["image", "camera_info", "depth", "tf", "done"]
    robot = start(publish_depth=True, hold_out_every=3, truth_dir=str(tmp_path / "truth"), wait_for=everything)
    ears.listen(robot, lambda: bool(ears.of("sim_robot/done")))
    output, _ = robot.communicate(timeout=30)
    assert robot.returncode == 0, output
    assert "terminate called" not in output and "Traceback" not in output

    images, depths = ears.of("camera/image_raw"), ears.of("camera/depth")
    truth = json.loads((tmp_path / "truth" / "truth.json").read_text())
    assert [stamp_ns(m.header.stamp) for m in images] == [entry["stamp_ns"] for entry in truth["published"]]
    assert [stamp_ns(m.header.stamp) for m in depths] == [entry["stamp_ns"] for entry in truth["published"]]
    assert [entry["number"] for entry in truth["held_out"]] == [1, 4]
    assert (tmp_path / "truth" / truth["held_out"][0]["image"]).is_file()
    assert rgb_from_image(images[0]).std() > 10
    assert images[0].header.frame_id == "camera_optical_frame"
    assert depths[0].encoding == "16UC1"
    assert 0.5 < np.nanmedian(depth_from_image(depths[0])) < 5
    assert pinhole_from_info(ears.of("camera/camera_info")[0]) == default_camera(64, 48)

    clock = [stamp_ns(m.clock) for m in ears.of("/clock")]
    assert clock == sorted(clock) and clock[0] == 10 * NS and clock[-1] == 11 * NS
    static = {t.child_frame_id: se3_from_transform(t.transform) for t in ears.of("/tf_static")[0].transforms}
    base_from_optical = static["camera_link"] @ static["camera_optical_frame"]
    poses = {stamp_ns(t.header.stamp): se3_from_transform(t.transform) for m in ears.of("/tf") for t in m.transforms}
    assert len(poses) == 51
    for entry in truth["published"] + truth["held_out"]:
        expected = SE3.from_matrix(np.array(entry["world_from_cam"]))
        assert (poses[entry["stamp_ns"]] @ base_from_optical).distance_to(expected) < 1e-6


def test_without_subscribers_it_gives_up_with_a_sentence(start: Callable[..., subprocess.Popen[str]]) -> None:
    robot = start(wait_timeout_s=0.5)
    output, _ = robot.communicate(timeout=90)
    assert robot.returncode == 1
    assert "nobody subscribed to /camera/image_raw, /camera/camera_info, /tf within 0.5 s" in output
    assert "Traceback" not in output


def test_a_bad_parameter_is_a_sentence(start: Callable[..., subprocess.Popen[str]]) -> None:
    robot = start(noise="loud")
    output, _ = robot.communicate(timeout=90)
    assert robot.returncode == 1
    assert "parameter noise is 'loud', expected one of none, mild, strong" in output
    assert "Traceback" not in output


def test_an_interrupt_ends_it_in_mid_drive(ears: Ears, start: Callable[..., subprocess.Popen[str]]) -> None:
    robot = start(duration_s=60.0)
    ears.listen(robot, lambda: bool(ears.of("camera/image_raw")))
    robot.send_signal(signal.SIGINT)
    output, _ = robot.communicate(timeout=60)
    assert robot.returncode == 0, output
    assert "Traceback" not in output and "terminate called" not in output
    assert not ears.of("sim_robot/done")

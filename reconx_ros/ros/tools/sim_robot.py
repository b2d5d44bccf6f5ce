"""A simulated robot: drives through a procedural room and publishes what a real one would.

Publishes ``camera/image_raw`` (rgb8), ``camera/camera_info`` and on demand ``camera/depth`` (16UC1), best effort unless
overridden; ``/tf`` (map to base_link at 50 Hz), ``/tf_static``, ``/clock``, and at the end ``~/done``. It starts when
somebody listens and ends by itself. Simulated time follows the rendering: a slow computer makes it run slower, and no
image is left out.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from time import monotonic
from typing import Any

import numpy as np
import rclpy
from rclpy.duration import Duration
from rclpy.exceptions import InvalidParameterTypeException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Empty
from tf2_msgs.msg import TFMessage

from reconx_ros.core import ConfigError, ReconstructionError, ReconxError
from reconx_ros.core.settings import updated, walk
from reconx_ros.ros.conversions.cameras import camera_info_msg
from reconx_ros.ros.conversions.images import image_msg
from reconx_ros.ros.conversions.poses import header_msg, time_msg, transform_msg
from reconx_ros.ros.graph.parameters import descriptor_from_setting
from reconx_ros.ros.graph.qos import latched_qos, publisher_options, reliable_qos, sensor_qos
from reconx_ros.sim.bag import BASE, CAMERA, MAP, OPTICAL
from reconx_ros.sim.path import NS_PER_S, TimedPose
from reconx_ros.sim.recording import DriveRecorder, RecordedView
from reconx_ros.sim.robot import SimRobotConfig, TruthWriter

_POLL_S = 0.05
_JOIN_TIMEOUT_S = 10.0
_ACK_TIMEOUT_S = 5.0


@dataclass(frozen=True, kw_only=True, eq=False)
class _Rendered:
    """One rendered view; the last of a drive is followed by one without."""

    number: int
    view: RecordedView | None
    error: Exception | None = None


class SimRobot(Node):
    """The node ``sim_robot``; ``drive`` runs beside the executor, in a thread of its own.

    Attributes:
        config: settings from the parameters.

    Raises:
        ConfigError: for a parameter of another type or out of its range.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__("sim_robot", **options)
        self.config = self._declared()
        self._stop = threading.Event()
        self._image = self._publisher(Image, "camera/image_raw", sensor_qos())
        self._info = self._publisher(CameraInfo, "camera/camera_info", sensor_qos())
        self._depth = self._publisher(Image, "camera/depth", sensor_qos()) if self.config.publish_depth else None
        self._tf = self.create_publisher(TFMessage, "/tf", reliable_qos(100))
        self._tf_static = self.create_publisher(TFMessage, "/tf_static", latched_qos())
        self._clock = self.create_publisher(Clock, "/clock", reliable_qos(10))
        self._done = self.create_publisher(Empty, "~/done", latched_qos())

    def drive(self) -> None:
        """Build the room, wait for subscribers, drive, say that it is done.

        Raises:
            ReconstructionError: when nobody listens in time.
            ReconxError: for a room without a free way, a missing renderer, or a folder that cannot be written.
        """
        recorder, stamps = self.config.recorder()
        truth = TruthWriter(self.config.truth_dir, self.config, recorder) if self.config.truth_dir else None
        rendered: queue.Queue[_Rendered] = queue.Queue(self.config.render_ahead)
        renderer = threading.Thread(target=self._render, args=(recorder, stamps, rendered), name="render", daemon=True)
        renderer.start()
        try:
            self._publish_static(recorder, stamps[0])
            self._wait_for_subscribers(stamps[0])
            self._follow(recorder, rendered, truth)
            if truth is not None:
                truth.finish()
            if not self._stop.is_set():
                self._say_done()
        finally:
            self.stop()
            renderer.join(_JOIN_TIMEOUT_S)

    def stop(self) -> None:
        """End the drive soon."""
        self._stop.set()

    def _declared(self) -> SimRobotConfig:
        values = {}
        for name, default, meta in walk(SimRobotConfig()):
            value = list(default) if isinstance(default, tuple) else default
            try:
                values[name] = self.declare_parameter(name, value, descriptor_from_setting(default, meta)).value
            except InvalidParameterTypeException as error:
                raise ConfigError(f"parameter {name} has the wrong type: {error}") from error
        return updated(SimRobotConfig(), values)

    def _publisher(self, kind: type, topic: str, qos: Any) -> Any:
        return self.create_publisher(kind, topic, qos, **publisher_options(topic, self._warn_incompatible))

    def _warn_incompatible(self, topic: str, policy: str) -> None:
        self.get_logger().warning(f"a subscriber of {topic} cannot receive it: its QoS policy {policy} does not match")

    def _render(self, recorder: DriveRecorder, stamps: list[int], rendered: queue.Queue[_Rendered]) -> None:
        """Fill the queue, ahead of the drive; runs in a thread of its own."""
        try:
            for number, stamp in enumerate(stamps):
                self._put(rendered, _Rendered(number=number, view=recorder.view(stamp)))
                if self._stop.is_set():
                    return
            self._put(rendered, _Rendered(number=len(stamps), view=None))
        except Exception as error:  # handed to the thread that drives
            self._put(rendered, _Rendered(number=-1, view=None, error=error))

    def _put(self, rendered: queue.Queue[_Rendered], item: _Rendered) -> None:
        while not self._stop.is_set():
            try:
                rendered.put(item, timeout=_POLL_S)
                return
            except queue.Full:
                continue

    def _taken(self, rendered: queue.Queue[_Rendered]) -> Iterator[_Rendered]:
        """Rendered views in order, as they come, until the last or ``stop``."""
        while not self._stop.is_set():
            try:
                item = rendered.get(timeout=_POLL_S)
            except queue.Empty:
                continue
            if item.error is not None:
                raise item.error
            if item.view is None:
                return
            yield item

    def _wait_for_subscribers(self, start_ns: int) -> None:
        """Wait with simulated time standing still."""
        publishers = {
            "image": self._image,
            "camera_info": self._info,
            "depth": self._depth,
            "tf": self._tf,
            "done": self._done,
        }
        wanted = {name: publishers[name] for name in self.config.wait_for if publishers.get(name) is not None}
        if wanted:
            self.get_logger().info(f"waiting for subscribers of {', '.join(p.topic_name for p in wanted.values())}")
        deadline = monotonic() + self.config.wait_timeout_s
        while missing := [p.topic_name for p in wanted.values() if p.get_subscription_count() == 0]:
            self._clock.publish(Clock(clock=time_msg(start_ns)))
            if self._stop.wait(_POLL_S):
                return
            if monotonic() > deadline:
                raise ReconstructionError(
                    f"nobody subscribed to {', '.join(missing)} within {self.config.wait_timeout_s:g} s, "
                    "expected a subscriber (parameters wait_for and wait_timeout_s)"
                )

    def _follow(self, recorder: DriveRecorder, rendered: queue.Queue[_Rendered], truth: TruthWriter | None) -> None:
        """Publish transforms and images in order of simulated time, at the real-time factor or slower."""
        self.get_logger().info(f"driving for {self.config.duration_s:g} s of simulated time")
        pace = _Pace(self.config.real_time_factor, self._stop)
        poses = iter(recorder.odometry)
        pending = next(poses, None)
        for item in self._taken(rendered):
            assert item.view is not None
            while pending is not None and pending.stamp_ns <= item.view.stamp_ns:
                self._publish_pose(pending, pace)
                pending = next(poses, None)
            held_out = self.config.is_held_out(item.number)
            if truth is not None:
                truth.add(item.number, item.view, published=not held_out)
            if not held_out:
                self._publish_view(item.view, pace)
        while pending is not None and not self._stop.is_set():
            self._publish_pose(pending, pace)
            pending = next(poses, None)

    def _publish_pose(self, pose: TimedPose, pace: _Pace) -> None:
        pace.wait_until(pose.stamp_ns)
        self._clock.publish(Clock(clock=time_msg(pose.stamp_ns)))
        self._tf.publish(TFMessage(transforms=[transform_msg(pose.stamp_ns, MAP, BASE, pose.world_from_base)]))

    def _publish_view(self, view: RecordedView, pace: _Pace) -> None:
        pace.wait_until(view.stamp_ns)
        header = header_msg(view.stamp_ns, OPTICAL)
        self._info.publish(camera_info_msg(view.truth.camera, header))
        self._image.publish(image_msg(view.rgb_u8, "rgb8", header))
        if self._depth is not None:
            millimetres = np.clip(np.rint(view.depth_m * 1000), 0, 65535).astype(np.uint16)
            self._depth.publish(image_msg(millimetres, "16UC1", header))

    def _publish_static(self, recorder: DriveRecorder, stamp_ns: int) -> None:
        mount = recorder.mount
        transforms = [
            transform_msg(stamp_ns, BASE, CAMERA, mount.base_from_camera),
            transform_msg(stamp_ns, CAMERA, OPTICAL, mount.camera_from_optical),
        ]
        self._tf_static.publish(TFMessage(transforms=transforms))

    def _say_done(self) -> None:
        self._stop.wait(self.config.linger_s)
        self._done.publish(Empty())
        if self._done.get_subscription_count() > 0:
            self._done.wait_for_all_acked(Duration(seconds=_ACK_TIMEOUT_S))
        self.get_logger().info("the drive is done")


class _Pace:
    """Holds simulated time at a factor of real time; time lost is not made up for."""

    def __init__(self, factor: float, stop: threading.Event) -> None:
        self._factor, self._stop = factor, stop
        self._stamp_ns: int | None = None
        self._due = 0.0

    def wait_until(self, stamp_ns: int) -> None:
        """Wait until a simulated time is due."""
        now = monotonic()
        if self._stamp_ns is None:
            self._due = now
        else:
            step = (stamp_ns - self._stamp_ns) / NS_PER_S / self._factor
            self._due = max(self._due + step, now - _POLL_S)
        self._stamp_ns = stamp_ns
        if self._due > now:
            self._stop.wait(self._due - now)


def main() -> int:
    """Run the robot until its drive ends or it is interrupted; returns the exit code."""
    rclpy.init()
    try:
        robot = SimRobot()
    except ReconxError as error:
        rclpy.logging.get_logger("sim_robot").error(str(error))
        rclpy.try_shutdown()
        return 1
    failures: list[Exception] = []
    worker = threading.Thread(target=_run, args=(robot, failures), name="drive", daemon=True)
    executor = SingleThreadedExecutor()
    executor.add_node(robot)
    worker.start()
    try:
        while worker.is_alive() and rclpy.ok():
            executor.spin_once(timeout_sec=_POLL_S)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    robot.stop()
    worker.join(_JOIN_TIMEOUT_S)
    for failure in failures:
        robot.get_logger().error(str(failure))
    executor.shutdown()
    robot.destroy_node()
    rclpy.try_shutdown()
    return 1 if failures else 0


def _run(robot: SimRobot, failures: list[Exception]) -> None:
    try:
        robot.drive()
    except Exception as error:  # reported by the main thread
        if rclpy.ok():
            failures.append(error)


if __name__ == "__main__":
    raise SystemExit(main())

"""Subscriptions of reconx_node. Callbacks only keep the message and take the time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from nav_msgs.msg import Odometry
from rclpy.node import Node
from rclpy.subscription import Subscription
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from reconx_ros.core import InvalidInputError
from reconx_ros.io.ingest.camera_input import Calibrations, CameraInput
from reconx_ros.io.ingest.stamped import stamp_on_arrival, take_odometry
from reconx_ros.pipeline.config import RosConfig
from reconx_ros.ros.graph.endpoints import (
    Publisher,
    name_from_type,
    reason_for_silence,
    remembered,
    topic_publishers,
    topics_like,
)
from reconx_ros.ros.graph.qos import publisher_warning, sensor_qos, subscription_options
from reconx_ros.ros.graph.tf import PoseLookup
from reconx_ros.ros.robot.input_lane import InputLane
from reconx_ros.ros.robot.input_monitor import InputMonitor
from reconx_ros.ros.robot.mailbox import InputCounters, Mailbox

Arrival = tuple[CameraInput, Any, float]
"""Camera, image message, monotonic time [s]."""
INPUT_DEPTH = 30
"""Messages that DDS holds for the input thread: a second at 30 Hz, so that a busy computer loses none."""


class NodeInputs:
    """One set of subscriptions, from activation to deactivation.

    Args:
        node: subscribes in its name.
        config: which cameras and transports.
        lookup: fed by odometry, where poses come from it.
        counters: where images, drops and durations are counted.
        wake: called after each message.
        lane: serves the subscriptions.

    Attributes:
        mailbox: images that nobody has looked at.
        cameras: by configured name.
        monitors: by topic.
        paused: images are counted and thrown away.
    """

    def __init__(
        self,
        node: Node,
        config: RosConfig,
        lookup: PoseLookup,
        counters: InputCounters,
        wake: Callable[[], None],
        lane: InputLane,
    ) -> None:
        self._node = node
        self._lookup = lookup
        self._counters = counters
        self._wake = wake
        self._lane = lane
        self._subscriptions: dict[str, Subscription] = {}
        self._stamp_arrivals = config.zero_stamps == "arrival"
        self.mailbox: Mailbox[Arrival] = Mailbox(config.queue_size, counters.drops.add, wake)
        self.cameras = {name: CameraInput(name) for name in config.cameras}
        self.monitors: dict[str, InputMonitor] = {}
        self.paused = False
        try:
            self._subscribe_all(config)
            lane.wake()
        except Exception:
            self.close()
            raise

    def _subscribe_all(self, config: RosConfig) -> None:
        for name, camera in self.cameras.items():
            try:
                self._subscribe_camera(camera, config)
            except Exception as error:
                raise InvalidInputError(
                    f"ros.cameras has '{name}', whose topics cannot be subscribed to: {error}"
                ) from None
        if config.pose_source == "odometry":
            self._subscribe(Odometry, "odom", self._on_odometry, needed=True)

    def close(self) -> None:
        """Unsubscribe."""
        for subscription in self._subscriptions.values():
            self._node.destroy_subscription(subscription)
        self._subscriptions = {}
        self._lane.wake()

    def publishers(self, monitor: InputMonitor) -> tuple[Publisher, ...]:
        """Who publishes a topic, and whether it matches."""
        subscription = self._subscriptions.get(monitor.topic)
        if subscription is None:
            return ()
        return topic_publishers(self._node, monitor.topic, monitor.type_name, subscription.qos_profile)

    def problem(self, monitor: InputMonitor, publishers: Sequence[Publisher], now_s: float, timeout_s: float) -> str:
        """One sentence about what keeps messages from coming; empty when they come or it is too early to say."""
        former = monitor.publishers = remembered(monitor.publishers, publishers)
        if monitor.silent_s(now_s) < timeout_s:
            return ""
        alternatives = () if publishers else topics_like(self._node, monitor.topic, monitor.type_name)
        hint = "" if publishers else self._other_transport(monitor)
        reason = reason_for_silence(publishers, monitor.type_name, alternatives, hint, former)
        return f"{monitor.silence(now_s)}: {reason}"

    def _other_transport(self, monitor: InputMonitor) -> str:
        """The setting under which this camera's other transport would be heard, if somebody publishes that one."""
        names = {"/compressed": "image_transport", "/compressedDepth": "depth_transport"}
        for suffix, setting in names.items():
            raw = monitor.topic.removesuffix(suffix)
            other, value = (raw, "raw") if raw != monitor.topic else (f"{monitor.topic}{suffix}", suffix[1:])
            image = not monitor.topic.endswith("camera_info")
            if image and self._node.count_publishers(other):
                return f"{other} is published, set ros.{setting}: {value}"
        return ""

    def _subscribe_camera(self, camera: CameraInput, config: RosConfig) -> None:
        prefix = f"{camera.name}/" if camera.name else ""
        image, depth = (self._node.resolve_topic_name(f"{prefix}{name}") for name in ("image", "depth"))
        kind: type = Image
        if config.image_transport == "compressed":
            kind, image = CompressedImage, f"{image}/compressed"  # after remapping, as image_transport does it
        camera.lens.topic = self._node.resolve_topic_name(f"{prefix}camera_info")
        self._subscribe(kind, image, lambda m: self._on_image(camera, m), needed=True)
        self._subscribe(CameraInfo, f"{prefix}camera_info", lambda m: self._on_info(camera.lens, m), needed=True)
        if config.use_depth:
            kind = Image
            if config.depth_transport == "compressedDepth":
                kind, depth = CompressedImage, f"{depth}/compressedDepth"
            camera.depth_topic = depth
            self._subscribe(kind, depth, lambda m: self._on_depth(camera, m), needed=False)
            camera.depth_lens.topic = self._node.resolve_topic_name(f"{prefix}depth/camera_info")
            self._subscribe(
                CameraInfo, f"{prefix}depth/camera_info", lambda m: self._on_info(camera.depth_lens, m), needed=False
            )

    def _subscribe(self, kind: type, topic: str, callback: Callable[[Any], None], *, needed: bool) -> None:
        resolved = self._node.resolve_topic_name(topic)
        monitor = InputMonitor(topic=resolved, type_name=name_from_type(kind), needed=needed, since_s=time.monotonic())
        self.monitors[resolved] = monitor

        def receive(msg: Any) -> None:
            monitor.meter.tick(time.monotonic())
            callback(msg)

        self._subscriptions[resolved] = self._node.create_subscription(
            kind,
            topic,
            receive,
            sensor_qos(INPUT_DEPTH),
            callback_group=self._lane.group,
            **subscription_options(resolved, publisher_warning(self._node)),
        )

    def _on_image(self, camera: CameraInput, msg: Image | CompressedImage) -> None:
        start_s = time.perf_counter()
        self._counters.frames_in += 1
        if self.paused:
            self._counters.drops.add("paused")
        else:
            self._stamp_if_zero(msg)
            self.mailbox.put((camera, msg, time.monotonic()))
        self._counters.callbacks.add(time.perf_counter() - start_s)

    def _stamp_if_zero(self, msg: Image | CompressedImage) -> None:
        """The time of arrival for a message without stamp, where the parameters ask for it."""
        if self._stamp_arrivals:
            stamp_on_arrival(msg, int(self._node.get_clock().now().nanoseconds))

    def _on_info(self, lens: Calibrations, msg: CameraInfo) -> None:
        first = not lens.infos
        lens.put(msg)
        if first:
            self._wake()

    def _on_depth(self, camera: CameraInput, msg: Image | CompressedImage) -> None:
        self._stamp_if_zero(msg)
        camera.put_depth(msg)
        self._wake()

    def _on_odometry(self, msg: Odometry) -> None:
        take_odometry(self._lookup, msg, lambda sentence: self._lookup.refusals.add(sentence, time.monotonic()))

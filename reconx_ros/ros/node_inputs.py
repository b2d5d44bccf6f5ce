"""Subscriptions of reconx_node. Callbacks only keep the message and take the time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from nav_msgs.msg import Odometry
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.node import Node
from rclpy.subscription import Subscription
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from reconx_ros.core import InvalidInputError
from reconx_ros.pipeline.config import RosConfig
from reconx_ros.ros.conversions import se3_of_pose, stamp_ns_of
from reconx_ros.ros.diagnostics import InputMonitor
from reconx_ros.ros.ingest import CameraInput
from reconx_ros.ros.mailbox import InputCounters, Mailbox
from reconx_ros.ros.qos import sensor_qos, subscription_options
from reconx_ros.ros.tf import PoseLookup

Arrival = tuple[CameraInput, Any, float]
"""Camera, image message, monotonic time [s]."""


class NodeInputs:
    """One set of subscriptions, from activation to deactivation.

    Args:
        node: subscribes in its name.
        config: which cameras and transports.
        lookup: fed by odometry, where poses come from it.
        counters: where images, drops and durations are counted.
        wake: called after each message.

    Attributes:
        mailbox: images that nobody has looked at.
        cameras: by configured name.
        monitors: by topic.
        paused: images are counted and thrown away.
    """

    def __init__(
        self, node: Node, config: RosConfig, lookup: PoseLookup, counters: InputCounters, wake: Callable[[], None]
    ) -> None:
        self._node = node
        self._lookup = lookup
        self._counters = counters
        self._wake = wake
        self._group = MutuallyExclusiveCallbackGroup()
        self._subscriptions: list[Subscription] = []
        self.mailbox: Mailbox[Arrival] = Mailbox(config.queue_size, counters.drops.add, wake)
        self.cameras = {name: CameraInput(name) for name in config.cameras}
        self.monitors: dict[str, InputMonitor] = {}
        self.paused = False
        for camera in self.cameras.values():
            self._subscribe_camera(camera, config)
        if config.pose_source == "odometry":
            self._subscribe(Odometry, "odom", self._on_odometry, needed=True)

    def close(self) -> None:
        """Unsubscribe."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions = []

    def publishers_of(self, topic: str) -> int:
        """How many publishers a topic has."""
        return int(self._node.count_publishers(topic))

    def _subscribe_camera(self, camera: CameraInput, config: RosConfig) -> None:
        prefix = f"{camera.name}/" if camera.name else ""
        image, depth = (self._node.resolve_topic_name(f"{prefix}{name}") for name in ("image", "depth"))
        kind: type = Image
        if config.image_transport == "compressed":
            kind, image = CompressedImage, f"{image}/compressed"  # after remapping, as image_transport does it
        self._subscribe(kind, image, lambda m: self._on_image(camera, m), needed=True)
        self._subscribe(CameraInfo, f"{prefix}camera_info", lambda m: self._on_info(camera, m), needed=True)
        if config.use_depth:
            kind = Image
            if config.depth_transport == "compressedDepth":
                kind, depth = CompressedImage, f"{depth}/compressedDepth"
            self._subscribe(kind, depth, lambda m: self._on_depth(camera, m), needed=False)

    def _subscribe(self, kind: type, topic: str, callback: Callable[[Any], None], *, needed: bool) -> None:
        resolved = self._node.resolve_topic_name(topic)
        monitor = InputMonitor(topic=resolved, needed=needed, since_s=time.monotonic())
        self.monitors[resolved] = monitor

        def receive(msg: Any) -> None:
            monitor.meter.tick(time.monotonic())
            callback(msg)

        self._subscriptions.append(
            self._node.create_subscription(
                kind,
                topic,
                receive,
                sensor_qos(),
                callback_group=self._group,
                **subscription_options(resolved, self._on_incompatible),
            )
        )

    def _on_incompatible(self, topic: str, policy: str) -> None:
        self.monitors[topic].incompatible = policy
        self._node.get_logger().warning(f"a publisher of {topic} offers an incompatible {policy} policy")

    def _on_image(self, camera: CameraInput, msg: Image | CompressedImage) -> None:
        start_s = time.perf_counter()
        self._counters.frames_in += 1
        if self.paused:
            self._counters.drops.add("paused")
        else:
            self.mailbox.put((camera, msg, time.monotonic()))
        self._counters.callbacks.add(time.perf_counter() - start_s)

    def _on_info(self, camera: CameraInput, msg: CameraInfo) -> None:
        first = camera.info is None
        camera.info = msg
        if first:
            self._wake()

    def _on_depth(self, camera: CameraInput, msg: Image | CompressedImage) -> None:
        camera.depths.append(msg)
        self._wake()

    def _on_odometry(self, msg: Odometry) -> None:
        try:
            pose = se3_of_pose(msg.pose.pose)
            self._lookup.add(msg.header.frame_id, msg.child_frame_id, stamp_ns_of(msg.header.stamp), pose)
        except InvalidInputError as error:
            self._node.get_logger().warning(f"odometry is ignored: {error}", throttle_duration_sec=5.0)

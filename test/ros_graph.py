"""A ROS graph for tests: nodes as processes of their own, a fake robot, and waiting for events instead of sleeping."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import rclpy
from rclpy.action import ActionClient
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CameraInfo, Image
from tf2_msgs.msg import TFMessage

from reconx_ros.core import SE3, PinholeCamera
from reconx_ros.ros import conversions
from reconx_ros.ros.conversions import camera_info_msg, header_msg, image_msg
from reconx_ros.ros.graph.qos import latched_qos, reliable_qos
from reconx_ros.ros.tools.session import PROGRAMS

TIMEOUT_S = float(os.environ.get("RECONX_TEST_TIMEOUT_S", "60"))  # raise it on a computer that does much else
CAMERA_TOPICS = ("image", "camera_info", "depth", "depth/camera_info", "image/compressed", "depth/compressedDepth")
START_NS = 1_000_000_000_000
R = TypeVar("R")


class NodeProcess:
    """One of our nodes as a process of its own."""

    def __init__(
        self, module: str, log: Path, *arguments: str, prefix: Sequence[str] = (), executable: Path | None = None
    ) -> None:
        self.log = log
        path = [str(Path(__file__).parent), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path)), "PYTHONUNBUFFERED": "1"}
        env["PYTHONFAULTHANDLER"] = "1"  # so that a process that hangs tells where, see stop()
        program = [str(executable)] if executable is not None else [sys.executable, "-m", module]
        command = [*prefix, *program, *arguments]
        self._file = log.open("w")
        self.process = subprocess.Popen(command, stdout=self._file, stderr=subprocess.STDOUT, env=env)

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def stop(self) -> int:
        if self.alive:
            self.process.terminate()
        try:
            return self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGABRT)
            return self.process.wait(5)
        finally:
            self._file.close()

    def text(self) -> str:
        return self.log.read_text(errors="replace")


class Graph:
    """The test's own node, spinning in a thread; keeps what it hears."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._context = rclpy.Context()
        rclpy.init(context=self._context)
        self.node: Node = rclpy.create_node("test", context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._executor.spin, daemon=True)
        self._changed = threading.Condition()
        self.heard: dict[str, list[Any]] = defaultdict(list)
        self.processes: list[NodeProcess] = []
        self.prefix: Sequence[str] = ()
        """Words before the command of processes started from now on."""
        self._thread.start()

    def close(self) -> None:
        for process in self.processes:
            process.stop()
        self._executor.shutdown()
        self._thread.join(5)
        self.node.destroy_node()
        rclpy.shutdown(context=self._context)

    def start(self, program: str, *arguments: str, **parameters: object) -> NodeProcess:
        """Start one of PROGRAMS; parameters replace dots by double underscores (``ros__server="x"``)."""
        words = ["--ros-args", *arguments]
        if program == "reconx_node":  # nothing that a test sends may be lost
            names = cast("Sequence[str]", parameters.get("ros__cameras", ()))
            prefixes = [f"{name}/" for name in names if name.isidentifier()] or [""]
            for topic in (*(prefix + topic for prefix in prefixes for topic in CAMERA_TOPICS), "odom"):
                words += ["-p", f"qos_overrides./{topic}.subscription.reliability:=reliable"]
                words += ["-p", f"qos_overrides./{topic}.subscription.depth:=50"]
        for name, value in parameters.items():
            words += ["-p", f"{name.replace('__', '.')}:={_yaml(value)}"]
        log = self.folder / f"{program}-{len(self.processes)}.log"
        process = NodeProcess(PROGRAMS[program], log, *words, prefix=self.prefix)
        self.processes.append(process)
        return process

    def listen(self, kind: type, topic: str, qos: QoSProfile | None = None) -> list[Any]:
        """Keep all messages of a topic; returns the list they go to."""
        heard = self.heard[topic]

        def receive(msg: Any) -> None:
            with self._changed:
                heard.append(msg)
                self._changed.notify_all()

        self.node.create_subscription(kind, topic, receive, qos or reliable_qos(100))
        return heard

    def notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def wait(self, what: str, condition: Callable[[], R], timeout_s: float = TIMEOUT_S) -> R:
        """Wait until a condition holds; it is asked again after each message."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while True:
                value = condition()
                if value:
                    return value
                left = deadline - time.monotonic()
                if left <= 0:
                    raise AssertionError(f"waited {timeout_s:g} s in vain for {what}\n{self._logs()}")
                self._changed.wait(min(left, 0.1))

    def _logs(self) -> str:
        return "\n".join(f"--- {p.log.name}\n{p.text()[-3000:]}" for p in self.processes)

    def result(self, what: str, future: Any, timeout_s: float = TIMEOUT_S) -> Any:
        future.add_done_callback(lambda done: self.notify())
        self.wait(what, future.done, timeout_s)
        return future.result()

    def call(self, kind: type, name: str, request: Any, timeout_s: float = TIMEOUT_S) -> Any:
        client = self.node.create_client(kind, name)
        try:
            self.wait(f"service {name}", client.service_is_ready, timeout_s)
            return self.result(f"answer of {name}", client.call_async(request), timeout_s)
        finally:
            self.node.destroy_client(client)

    def action(self, kind: type, name: str) -> ActionClient:
        client = ActionClient(self.node, kind, name)
        self.wait(f"action {name}", client.server_is_ready)
        return client


def _yaml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f"'{value}'"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_yaml(v) for v in value) + "]"
    return str(value)


@contextmanager
def graph(folder: Path) -> Iterator[Graph]:
    """A graph that is taken down whatever happens."""
    made = Graph(folder)
    try:
        yield made
    finally:
        made.close()


def transform_msg(parent: str, child: str, pose: SE3, stamp_ns: int = 0) -> TFMessage:
    """One transform, parent_from_child."""
    return TFMessage(transforms=[conversions.transform_msg(stamp_ns, parent, child, pose)])


class FakeCamera:
    """A camera on a robot: image, camera_info and the transform map -> camera, at stamps that it chooses itself."""

    def __init__(self, graph: Graph, *, prefix: str = "", size: tuple[int, int] = (64, 48), frame: str = "cam") -> None:
        self._graph = graph
        self.frame = frame
        width, height = size
        self.camera = self.intrinsics(size)
        node = graph.node
        self.images = node.create_publisher(Image, f"{prefix}image", reliable_qos(30))
        self.infos = node.create_publisher(CameraInfo, f"{prefix}camera_info", reliable_qos(30))
        self.transforms = node.create_publisher(TFMessage, "/tf", reliable_qos(100))
        self.static_tf = node.create_publisher(TFMessage, "/tf_static", latched_qos(100))
        self._random = np.random.default_rng(1)
        self._texture = self._random.integers(0, 255, (height, width, 3), np.uint8)
        self.count = 0

    @staticmethod
    def intrinsics(size: tuple[int, int]) -> PinholeCamera:
        """A pinhole camera for images of this size."""
        width, height = size
        return PinholeCamera(
            width=width, height=height, fx=0.9 * width, fy=0.9 * width, cx=(width - 1) / 2, cy=(height - 1) / 2
        )

    def ready(self) -> None:
        """Wait until somebody listens to the images and the calibration."""
        self._graph.wait("subscriber of image", lambda: self.images.get_subscription_count() > 0)
        self._graph.wait("subscriber of camera_info", lambda: self.infos.get_subscription_count() > 0)

    @staticmethod
    def pose(x: float, turn_deg: float = 0.0) -> SE3:
        """map_from_cam: looking along the map's x axis after a turn about z, at (0, -x, 1)."""
        forward = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
        a = np.radians(turn_deg)
        turn = np.array([[np.cos(a), -np.sin(a), 0.0], [np.sin(a), np.cos(a), 0.0], [0.0, 0.0, 1.0]])
        return SE3(rotation=turn @ forward, translation=np.array([0.0, -x, 1.0]))

    def send(
        self,
        pose: SE3 | None,
        *,
        pixels: np.ndarray | None = None,
        encoding: str = "rgb8",
        info: CameraInfo | None = None,
        stamp_ns: int | None = None,
    ) -> int:
        """Publish one frame with all that belongs to it; without a pose the transform is left out."""
        stamp_ns = START_NS + self.count * 100_000_000 if stamp_ns is None else stamp_ns
        self.count += 1
        header = header_msg(stamp_ns, self.frame)
        if pose is not None:
            self.send_tf(pose, stamp_ns)
        self.infos.publish(info or camera_info_msg(self.camera, header))
        picture = self._texture if pixels is None else pixels
        msg = image_msg(picture, "rgb8" if pixels is None else encoding, header)
        if pixels is None:
            msg.encoding = encoding
        self.images.publish(msg)
        return stamp_ns

    def send_tf(self, pose: SE3, stamp_ns: int) -> None:
        self.transforms.publish(transform_msg("map", self.frame, pose, stamp_ns))

    def walk(self, count: int, step: float = 0.5) -> None:
        """Frames sideways, each a keyframe by its baseline."""
        for i in range(count):
            self.send(self.pose(step * i))

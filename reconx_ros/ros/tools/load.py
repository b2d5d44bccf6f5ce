"""A load for reconx_node: two cameras and a transform tree at full rate, from pictures made beforehand."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, Image
from tf2_msgs.msg import TFMessage

from reconx_ros.core import SE3, PinholeCamera
from reconx_ros.ros.conversions import camera_info_msg, header_msg, image_msg, transform_msg
from reconx_ros.ros.graph.qos import latched_qos, reliable_qos, sensor_qos

TF_HZ = 100.0
_LATE_S = 0.02  # delay from which later ticks move; below it they are caught up
MAP, BASE = "map", "base_link"


@dataclass(frozen=True, kw_only=True, eq=False)
class LoadCamera:
    """One camera and what it sees from each place.

    Attributes:
        name: namespace of its topics and prefix of its optical frame.
        camera: intrinsics.
        base_from_optical: how it sits on the robot.
        pictures: [H, W, 3] uint8, one for each place.
    """

    name: str
    camera: PinholeCamera
    base_from_optical: SE3
    pictures: tuple[np.ndarray, ...]

    @property
    def frame(self) -> str:
        """frame_id of its pictures."""
        return f"{self.name}_optical"


@dataclass(frozen=True, kw_only=True, eq=False)
class LoadScene:
    """A robot that stands at some places one after the other, to and fro.

    Attributes:
        places: map_from_base.
        cameras: with one picture for each place.
    """

    places: tuple[SE3, ...]
    cameras: tuple[LoadCamera, ...]


@dataclass
class Sent:
    """What a source has sent, and how late it was.

    Attributes:
        frames: images, of all cameras.
        transforms: messages on /tf.
        seconds: time over which they were sent.
        late_ms: delay of each tick behind its time.
    """

    frames: int = 0
    transforms: int = 0
    seconds: float = 0.0
    late_ms: list[float] = field(default_factory=list)


def simulated_scene(places: int = 16, size: tuple[int, int] = (640, 480)) -> LoadScene:
    """A simulated room seen by two cameras, 20 degrees apart.

    Raises:
        BackendUnavailableError: when embreex is not installed.
    """
    from reconx_ros.sim.robot import SimRobotConfig

    cameras, poses = [], []
    for name, yaw_deg in (("left", 100.0), ("right", 80.0)):
        recorder, stamps = SimRobotConfig(
            width=size[0], height=size[1], supersample=1, texel_m=0.02, camera_yaw_deg=yaw_deg, rate_hz=2.0
        ).recorder()
        chosen = [stamps[round(i)] for i in np.linspace(0, len(stamps) - 1, places)]
        views = [recorder.view(stamp_ns).truth for stamp_ns in chosen]
        base_from_optical = recorder.mount.base_from_optical
        poses = [view.world_from_cam @ base_from_optical.inverse() for view in views]
        pictures = tuple(view.rgb_u8 for view in views)
        cameras.append(
            LoadCamera(name=name, camera=recorder.camera, base_from_optical=base_from_optical, pictures=pictures)
        )
    return LoadScene(places=tuple(poses), cameras=tuple(cameras))


class LoadSource:
    """Publishes a scene at the rate of a clock; where the computer is late, later ticks move: no camera sends bursts.

    Pictures are stamped with the time of a transform, so that their pose is exact while the robot stands and moves.

    Args:
        node: publishes in its name.
        scene: what is seen.
        rate_hz: pictures a second of each camera; at most TF_HZ.
        dwell_s: how long the robot stands at a place.
    """

    def __init__(self, node: Node, scene: LoadScene, rate_hz: float = 30.0, dwell_s: float = 1.0) -> None:
        self._scene = scene
        self._rate_hz = rate_hz
        self._dwell_ticks = max(1, round(dwell_s * TF_HZ))
        self._tick = 0
        self._stop = threading.Event()
        self._tf = node.create_publisher(TFMessage, "/tf", reliable_qos(100))
        self._static = node.create_publisher(TFMessage, "/tf_static", latched_qos())
        self._images = [node.create_publisher(Image, f"{c.name}/image", sensor_qos()) for c in scene.cameras]
        self._infos = [node.create_publisher(CameraInfo, f"{c.name}/camera_info", sensor_qos()) for c in scene.cameras]
        empty = header_msg(0, "")
        self._pictures = [[image_msg(p, "rgb8", empty) for p in c.pictures] for c in scene.cameras]
        self._calibrations = [camera_info_msg(c.camera, empty) for c in scene.cameras]
        mounts = [transform_msg(0, BASE, c.frame, c.base_from_optical) for c in scene.cameras]
        self._static.publish(TFMessage(transforms=mounts))

    @property
    def matched(self) -> bool:
        """Whether somebody listens to everything."""
        publishers = [self._tf, self._static, *self._images, *self._infos]
        return all(publisher.get_subscription_count() for publisher in publishers)

    def stop(self) -> None:
        """End ``send`` in another thread."""
        self._stop.set()

    def send(self, seconds: float) -> Sent:
        """Publish for some seconds; blocks."""
        sent, ticks = Sent(), round(seconds * TF_HZ)
        start_s, first = time.monotonic(), self._tick
        due_s = start_s
        while self._tick - first < ticks and not self._stop.is_set():
            left_s = due_s - time.monotonic()
            if left_s > 0 and self._stop.wait(left_s):
                break
            now_s = time.monotonic()
            sent.late_ms.append(1e3 * (now_s - due_s))
            self._publish(time.time_ns(), sent)
            self._tick += 1
            due_s = max(due_s + 1 / TF_HZ, now_s if now_s - due_s > _LATE_S else due_s)
        sent.seconds = time.monotonic() - start_s
        return sent

    def _publish(self, stamp_ns: int, sent: Sent) -> None:
        place = _to_and_fro(self._tick // self._dwell_ticks, len(self._scene.places))
        self._tf.publish(TFMessage(transforms=[transform_msg(stamp_ns, MAP, BASE, self._scene.places[place])]))
        sent.transforms += 1
        if int((self._tick + 1) * self._rate_hz / TF_HZ) == int(self._tick * self._rate_hz / TF_HZ):
            return
        for i, camera in enumerate(self._scene.cameras):
            header = header_msg(stamp_ns, camera.frame)
            info, picture = self._calibrations[i], self._pictures[i][place]
            info.header = picture.header = header
            self._infos[i].publish(info)
            self._images[i].publish(picture)
            sent.frames += 1


def _to_and_fro(step: int, count: int) -> int:
    period = max(1, 2 * (count - 1))
    at = step % period
    return at if at < count else period - at


def slope_per_minute(times_s: Sequence[float], values: Sequence[float]) -> float | None:
    """Least-squares slope of values a minute; None below three samples."""
    if len(times_s) < 3:
        return None
    return float(60 * np.polyfit(np.asarray(times_s), np.asarray(values), 1)[0])

"""A drive through a room: a velocity-limited differential robot on the free loop around the room's middle.

Frames: ``world`` (REP-103, metres), ``base`` (base_link: x forward, z up, on the floor), ``camera`` (camera_link: x
along the view) and ``optical`` (camera_optical_frame: z along the view, x right, y down).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from reconx_ros.core import SE3, InvalidInputError, PinholeCamera
from reconx_ros.core.settings import Settings, setting
from reconx_ros.sim.room import Room

NS_PER_S = 1_000_000_000
_ARC_STEPS = 4000


@dataclass(frozen=True, kw_only=True)
class DriveConfig(Settings):
    """How the robot drives, and what it carries."""

    duration_s: float = setting(20.0, "Simulated time from start to stop.", unit="s", ge=0.1, le=3600.0)
    speed_mps: float = setting(0.2, "Largest forward speed.", unit="m/s", ge=0.01, le=2.0)
    acceleration_mps2: float = setting(0.3, "Largest change of speed.", unit="m/s^2", ge=0.01, le=10.0)
    turn_rate_rps: float = setting(0.6, "Largest rate of turn.", unit="rad/s", ge=0.01, le=10.0)
    start_deg: float = setting(
        -160.0, "Place on the loop where the drive starts, from +x, counter-clockwise.", unit="deg", ge=-360.0, le=360.0
    )
    start_stamp_s: float = setting(10.0, "Simulated time at the start.", unit="s", ge=0.0, le=1e9)
    pose_rate_hz: float = setting(50.0, "Poses in a second of simulated time.", unit="Hz", ge=1.0, le=1000.0)
    robot_radius_m: float = setting(0.22, "Radius of the robot seen from above.", unit="m", ge=0.01, le=1.0)
    camera_height_m: float = setting(1.0, "Height of the camera above the floor.", unit="m", ge=0.05, le=2.2)
    camera_yaw_deg: float = setting(90.0, "Turn of the camera to the left of the way.", unit="deg", ge=-180.0, le=180.0)
    camera_tilt_deg: float = setting(10.0, "Tilt of the camera downwards.", unit="deg", ge=-80.0, le=80.0)


@dataclass(frozen=True, kw_only=True)
class TimedPose:
    """Where the robot's base is at one time, in nanoseconds."""

    stamp_ns: int
    world_from_base: SE3


@dataclass(frozen=True, kw_only=True)
class CameraMount:
    """How the camera sits on the robot."""

    base_from_camera: SE3
    camera_from_optical: SE3

    @property
    def base_from_optical(self) -> SE3:
        """Pose of the optical frame on the robot."""
        return self.base_from_camera @ self.camera_from_optical


class Drive:
    """The motion along the loop as a function of time.

    Args:
        room: in which the robot drives, counter-clockwise.
        config: speeds and start.

    Attributes:
        length_m: way from start to stop.

    Raises:
        InvalidInputError: when the way comes closer to a wall or furniture than the robot's radius.
    """

    def __init__(self, room: Room, config: DriveConfig | None = None) -> None:
        self.config = config or DriveConfig()
        self._axes = room.loop_axes_m
        angle = math.radians(self.config.start_deg) + np.linspace(0, 2 * np.pi, _ARC_STEPS + 1)
        points = np.stack([self._axes[0] * np.cos(angle), self._axes[1] * np.sin(angle)], axis=-1)
        steps = np.linalg.norm(np.diff(points, axis=0), axis=-1)
        self._angle, self._way = angle, np.concatenate([[0.0], np.cumsum(steps)])
        self._speed = self._top_speed()
        self.length_m = self._speed * (self.config.duration_s - self._speed / self.config.acceleration_mps2)
        driven = points[self._way <= max(self.length_m, steps[0])]
        clearance = float(room.clearance(driven, self.config.camera_height_m + 0.1).min())
        if clearance < self.config.robot_radius_m:
            raise InvalidInputError(
                f"robot of radius {self.config.robot_radius_m} m comes within {clearance:.2f} m of an obstacle, "
                "expected a free way: choose another room seed, start or a smaller robot"
            )

    def pose_at(self, seconds: float) -> SE3:
        """world_from_base after a time since the start; it stands still before the start and after the stop."""
        way = self._driven(seconds) % self._way[-1]
        angle = float(np.interp(way, self._way, self._angle))
        a, b = self._axes
        yaw = math.atan2(b * math.cos(angle), -a * math.sin(angle))
        return SE3(rotation=_about_z(yaw), translation=np.array([a * math.cos(angle), b * math.sin(angle), 0.0]))

    def pose_at_stamp(self, stamp_ns: int) -> SE3:
        """world_from_base at a simulated time in nanoseconds."""
        return self.pose_at((stamp_ns - self.start_ns) / NS_PER_S)

    @property
    def start_ns(self) -> int:
        """Simulated time of the start in nanoseconds."""
        return round(self.config.start_stamp_s * NS_PER_S)

    def stamps(self, rate_hz: float) -> list[int]:
        """Times in nanoseconds from start to stop, at a rate."""
        count = math.floor(self.config.duration_s * rate_hz + 1e-9) + 1
        return [self.start_ns + round(k * NS_PER_S / rate_hz) for k in range(count)]

    def poses(self) -> list[TimedPose]:
        """The whole drive at ``pose_rate_hz``."""
        return [
            TimedPose(stamp_ns=stamp, world_from_base=self.pose_at_stamp(stamp))
            for stamp in self.stamps(self.config.pose_rate_hz)
        ]

    def _top_speed(self) -> float:
        """Speed on the level part: limited by the configuration, the sharpest bend and the time to brake."""
        long, short = max(self._axes), min(self._axes)
        bend = self.config.turn_rate_rps * short**2 / long
        return min(self.config.speed_mps, bend, self.config.acceleration_mps2 * self.config.duration_s / 2)

    def _driven(self, seconds: float) -> float:
        total, ramp = self.config.duration_s, self._speed / self.config.acceleration_mps2
        t = min(max(seconds, 0.0), total)
        if t < ramp:
            return 0.5 * self.config.acceleration_mps2 * t**2
        if t <= total - ramp:
            return self._speed * (t - ramp / 2)
        return self.length_m - 0.5 * self.config.acceleration_mps2 * (total - t) ** 2


def drive(room: Room, config: DriveConfig | None = None) -> list[TimedPose]:
    """The base's poses along the drive through a room; see ``Drive``.

    Raises:
        InvalidInputError: when the way is not free.
    """
    return Drive(room, config).poses()


def camera_mount(config: DriveConfig | None = None) -> CameraMount:
    """The camera of a configuration: above the base's middle, turned and tilted."""
    config = config or DriveConfig()
    tilt = math.radians(config.camera_tilt_deg)
    c, s = math.cos(tilt), math.sin(tilt)
    pitch = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])  # about y: downwards for positive angles
    rotation = _about_z(math.radians(config.camera_yaw_deg)) @ pitch
    base_from_camera = SE3(rotation=rotation, translation=np.array([0.0, 0.0, config.camera_height_m]))
    optical = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])  # REP-103
    camera_from_optical = SE3(rotation=optical, translation=np.zeros(3))
    return CameraMount(base_from_camera=base_from_camera, camera_from_optical=camera_from_optical)


def default_camera(width: int = 320, height: int = 240, fov_deg: float = 70.0) -> PinholeCamera:
    """The simulated camera: centred, square pixels, horizontal field of view in degrees.

    Raises:
        InvalidInputError: for a field of view outside (1, 170) degrees.
    """
    if not 1 < fov_deg < 170:
        raise InvalidInputError(f"field of view is {fov_deg} degrees, expected a number between 1 and 170")
    focal = 0.5 * width / math.tan(math.radians(fov_deg) / 2)
    return PinholeCamera(width=width, height=height, fx=focal, fy=focal, cx=(width - 1) / 2, cy=(height - 1) / 2)


def pose_at(poses: Sequence[TimedPose], stamp_ns: int) -> SE3:
    """world_from_base at a time between timed poses, interpolated as tf2 does it; held at the ends.

    Raises:
        InvalidInputError: when there are no poses.
    """
    if not poses:
        raise InvalidInputError("there are no poses to interpolate, expected at least one")
    after = bisect_right(poses, stamp_ns, key=lambda p: p.stamp_ns)
    if after == 0 or after == len(poses):
        return poses[min(after, len(poses) - 1)].world_from_base
    a, b = poses[after - 1], poses[after]
    fraction = (stamp_ns - a.stamp_ns) / (b.stamp_ns - a.stamp_ns)
    return a.world_from_base.interpolate(b.world_from_base, fraction)


def _about_z(yaw_rad: float) -> np.ndarray:
    c, s = math.cos(yaw_rad), math.sin(yaw_rad)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])

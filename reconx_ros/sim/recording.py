"""What a simulated robot saw on its drive, with the exact poses beside those that its odometry gave."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from reconx_ros.core import SE3, Frame, InvalidInputError, PinholeCamera
from reconx_ros.sim.noise import NoiseConfig, noisy_depth, noisy_image, noisy_odometry
from reconx_ros.sim.path import CameraMount, Drive, TimedPose, camera_mount, default_camera, pose_at
from reconx_ros.sim.raycast import RgbdImage, RoomRenderer


@dataclass(frozen=True, kw_only=True, eq=False)
class RecordedView:
    """One picture of the drive.

    Attributes:
        stamp_ns: simulated time.
        truth: exact picture, depth and pose.
        rgb_u8: [H, W, 3] what the camera delivered.
        depth_m: [H, W] what the depth camera delivered, 0 where nothing.
        world_from_cam: the pose by odometry; exact where no drift is simulated.
    """

    stamp_ns: int
    truth: RgbdImage
    rgb_u8: np.ndarray  # [H, W, 3]
    depth_m: np.ndarray  # [H, W]
    world_from_cam: SE3

    def frame(self, *, exact_pose: bool = True, depth: bool = True) -> Frame:
        """The delivered picture as a Frame, with the exact or the odometry's pose."""
        return Frame(
            rgb_u8=self.rgb_u8,
            camera=self.truth.camera,
            stamp_ns=self.stamp_ns,
            world_from_cam=self.truth.world_from_cam if exact_pose else self.world_from_cam,
            depth_m=self.depth_m if depth else None,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class RecordedDrive:
    """A whole drive.

    Attributes:
        camera: intrinsics of all views.
        mount: how the camera sits on the robot.
        views: in order of time.
        poses: exact poses of the base, at the drive's pose rate.
        odometry: the same by odometry.
        seed: of the room.
    """

    camera: PinholeCamera
    mount: CameraMount
    views: tuple[RecordedView, ...]
    poses: tuple[TimedPose, ...]
    odometry: tuple[TimedPose, ...]
    seed: int


class DriveRecorder:
    """Takes the views of a drive one after the other.

    Args:
        renderer: of the room.
        drive: the motion.
        camera: intrinsics; None takes ``default_camera()``.
        noise: errors of the sensors; None for none.
        supersample: as ``RoomRenderer.render``.

    Attributes:
        mount, poses, odometry: as in RecordedDrive.
    """

    def __init__(
        self,
        renderer: RoomRenderer,
        drive: Drive,
        camera: PinholeCamera | None = None,
        noise: NoiseConfig | None = None,
        supersample: int = 2,
    ) -> None:
        self.camera = camera or default_camera()
        self.mount = camera_mount(drive.config)
        self.poses = tuple(drive.poses())
        self._renderer, self._drive, self._supersample = renderer, drive, supersample
        self._noise = noise or NoiseConfig()
        self.odometry = tuple(noisy_odometry(self.poses, self._noise))

    def view(self, stamp_ns: int) -> RecordedView:
        """The view at a simulated time; depends on nothing but the time and the seeds."""
        world_from_cam = self._drive.pose_at_stamp(stamp_ns) @ self.mount.base_from_optical
        truth = self._renderer.render(self.camera, world_from_cam, self._supersample)
        number = (stamp_ns - self._drive.start_ns) // 1000
        return RecordedView(
            stamp_ns=stamp_ns,
            truth=truth,
            rgb_u8=noisy_image(truth.rgb_u8, self._noise, abs(number)),
            depth_m=noisy_depth(truth.depth_m, self._noise, abs(number)),
            world_from_cam=self._guessed(stamp_ns, world_from_cam),
        )

    def recording(self, stamps_ns: Sequence[int], on_view: Callable[[int, int], None] | None = None) -> RecordedDrive:
        """All views at some times; ``on_view`` is called with (done, all) after each.

        Raises:
            InvalidInputError: when there are no times.
        """
        if not stamps_ns:
            raise InvalidInputError("the recording has no times, expected at least one")
        views = []
        for stamp in stamps_ns:
            views.append(self.view(stamp))
            if on_view is not None:
                on_view(len(views), len(stamps_ns))
        return RecordedDrive(
            camera=self.camera,
            mount=self.mount,
            views=tuple(views),
            poses=self.poses,
            odometry=self.odometry,
            seed=self._renderer.room.config.seed,
        )

    def _guessed(self, stamp_ns: int, exact: SE3) -> SE3:
        if not (self._noise.drift_translation or self._noise.drift_yaw_deg):
            return exact
        return pose_at(self.odometry, stamp_ns) @ self.mount.base_from_optical


def evenly(stamps_ns: Sequence[int], count: int) -> list[int]:
    """``count`` of the times, evenly spread from the first to the last.

    Raises:
        InvalidInputError: when there are fewer.
    """
    if not 1 <= count <= len(stamps_ns):
        raise InvalidInputError(f"{count} of {len(stamps_ns)} times are wanted, expected a number from 1 to all")
    return [stamps_ns[round(k)] for k in np.linspace(0, len(stamps_ns) - 1, count)]

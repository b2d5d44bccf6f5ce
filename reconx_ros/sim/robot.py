"""What the simulated robot needs and ROS does not: its settings, what it renders, and the record of the truth."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reconx_ros.core import StorageError
from reconx_ros.core.files import write_bytes
from reconx_ros.core.settings import Settings, setting, to_mapping
from reconx_ros.io.images import MILLIMETRE, write_depth, write_image
from reconx_ros.sim.noise import NOISE_LEVELS, noise_level
from reconx_ros.sim.path import Drive, DriveConfig, default_camera
from reconx_ros.sim.raycast import RenderConfig, RoomRenderer
from reconx_ros.sim.recording import DriveRecorder, RecordedView
from reconx_ros.sim.room import RoomConfig, make_room


@dataclass(frozen=True, kw_only=True)
class SimRobotConfig(Settings):
    """Settings of the simulated robot; each is a parameter of the node ``sim_robot``."""

    seed: int = setting(0, "Seed of the room and of all noise.", ge=0)
    room_length_m: float = setting(5.0, "Extent of the room along x, varied by the seed.", unit="m", ge=3.6, le=12.0)
    room_width_m: float = setting(4.0, "Extent of the room along y, varied by the seed.", unit="m", ge=3.2, le=12.0)
    clutter: float = setting(0.7, "Share of the places on furniture that hold small things.", ge=0.0, le=1.0)
    width: int = setting(320, "Columns of the images.", unit="px", ge=16, le=4096)
    height: int = setting(240, "Rows of the images.", unit="px", ge=16, le=4096)
    fov_deg: float = setting(70.0, "Horizontal field of view.", unit="deg", ge=10.0, le=150.0)
    supersample: int = setting(2, "Rays per pixel side at the outlines of things.", ge=1, le=8)
    texel_m: float = setting(0.005, "Edge of a texel on all surfaces.", unit="m", ge=0.001, le=0.1)
    rate_hz: float = setting(10.0, "Images in a second of simulated time.", unit="Hz", ge=0.1, le=200.0)
    duration_s: float = setting(20.0, "Simulated time from start to stop.", unit="s", ge=0.1, le=3600.0)
    speed_mps: float = setting(0.2, "Largest forward speed.", unit="m/s", ge=0.01, le=2.0)
    start_deg: float = setting(-160.0, "Place on the loop where the drive starts.", unit="deg", ge=-360.0, le=360.0)
    camera_height_m: float = setting(1.0, "Height of the camera above the floor.", unit="m", ge=0.05, le=2.2)
    camera_yaw_deg: float = setting(90.0, "Turn of the camera to the left of the way.", unit="deg", ge=-180.0, le=180.0)
    camera_tilt_deg: float = setting(10.0, "Tilt of the camera downwards.", unit="deg", ge=-80.0, le=80.0)
    noise: str = setting("none", "Errors of camera, depth and odometry.", choices=tuple(NOISE_LEVELS))
    publish_depth: bool = setting(False, "Publish depth images.")
    hold_out_every: int = setting(0, "Every k-th image is not published but kept as truth; 0 publishes all.", ge=0)
    real_time_factor: float = setting(1.0, "Simulated over real time; slow rendering lowers it.", ge=0.01, le=100.0)
    render_ahead: int = setting(64, "Images rendered before they are due.", ge=1, le=4096)
    wait_for: tuple[str, ...] = setting(
        ("image", "camera_info", "tf"),
        "What needs a subscriber before the robot starts: image, camera_info, depth, tf, done.",
        choices=("image", "camera_info", "depth", "tf", "done", ""),
    )
    wait_timeout_s: float = setting(120.0, "Longest wait for subscribers; then the robot gives up.", unit="s", ge=0.0)
    linger_s: float = setting(1.0, "Time between the end of the drive and the end of the node.", unit="s", ge=0.0)
    truth_dir: str = setting("", "Folder for truth.json and the held-out images; empty writes none.")

    def room(self) -> RoomConfig:
        """The room to build."""
        return RoomConfig(seed=self.seed, length_m=self.room_length_m, width_m=self.room_width_m, clutter=self.clutter)

    def drive(self) -> DriveConfig:
        """The drive through it."""
        return DriveConfig(
            duration_s=self.duration_s,
            speed_mps=self.speed_mps,
            start_deg=self.start_deg,
            camera_height_m=self.camera_height_m,
            camera_yaw_deg=self.camera_yaw_deg,
            camera_tilt_deg=self.camera_tilt_deg,
        )

    def recorder(self) -> tuple[DriveRecorder, list[int]]:
        """What renders the views, and the simulated times of all of them, in nanoseconds.

        Raises:
            InvalidInputError: for a room without a free way.
            BackendUnavailableError: when embreex is not installed.
        """
        room = make_room(self.room())
        drive = Drive(room, self.drive())
        camera = default_camera(self.width, self.height, self.fov_deg)
        renderer = RoomRenderer(room, RenderConfig(texel_m=self.texel_m))
        noise = noise_level(self.noise, self.seed)
        return DriveRecorder(renderer, drive, camera, noise, self.supersample), drive.stamps(self.rate_hz)

    def is_held_out(self, number: int) -> bool:
        """Whether the image of this number is kept back."""
        return self.hold_out_every > 0 and number % self.hold_out_every == self.hold_out_every // 2


class TruthWriter:
    """Keeps the exact poses of a drive, and the exact pictures at its held-out poses.

    Writes ``truth.json`` (room, camera, ``published`` and ``held_out`` views with stamp and poses) and
    ``truth/NNNN.png`` with ``truth/NNNN_depth.png`` (16-bit millimetres) for each held-out view.

    Args:
        folder: made if it does not exist.
        config: of the robot.
        recorder: of the drive.

    Raises:
        StorageError: when something cannot be written.
    """

    def __init__(self, folder: Path | str, config: SimRobotConfig, recorder: DriveRecorder) -> None:
        self._root = Path(folder)
        try:
            (self._root / "truth").mkdir(parents=True, exist_ok=True)
        except OSError as err:
            raise StorageError(f"truth folder {self._root} cannot be made: {err.strerror}") from err
        camera = recorder.camera
        self._document: dict[str, Any] = {
            "convention": "OpenCV camera axes; pixel (0, 0) is the centre of the first pixel; metres",
            "depth_unit_m": MILLIMETRE,
            "settings": to_mapping(config),
            "camera": {key: getattr(camera, key) for key in ("width", "height", "fx", "fy", "cx", "cy")},
            "base_from_optical": recorder.mount.base_from_optical.matrix.tolist(),
            "published": [],
            "held_out": [],
        }

    def add(self, number: int, view: RecordedView, *, published: bool) -> None:
        """Note one view; its pictures are written when it was held out."""
        entry: dict[str, Any] = {
            "number": number,
            "stamp_ns": view.stamp_ns,
            "world_from_cam": view.truth.world_from_cam.matrix.tolist(),
            "world_from_cam_odometry": view.world_from_cam.matrix.tolist(),
        }
        if not published:
            entry.update(image=f"truth/{number:04d}.png", depth=f"truth/{number:04d}_depth.png")
            write_image(self._root / entry["image"], view.truth.rgb_u8)
            write_depth(self._root / entry["depth"], view.truth.depth_m)
        self._document["published" if published else "held_out"].append(entry)

    def finish(self) -> None:
        """Write truth.json."""
        write_bytes(self._root / "truth.json", json.dumps(self._document, indent=1).encode())

"""What crosses between robot, server and worker process, as plain data. Needs no ROS, so that the worker loads none."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field

import numpy as np

from reconx_ros.core import SE3, Frame, InvalidInputError, Keyframe, PinholeCamera, PointCloud
from reconx_ros.io.guards import announced_size, safe_rgb
from reconx_ros.io.images import encode_depth_png, encode_jpeg
from reconx_ros.jobs.encoding import DEPTH_UNIT, safe_depth_png

MAX_KEYFRAMES = 1024


class ErrorCode(enum.IntEnum):
    """Why a job failed; the numbers of Reconstruct.action's result."""

    NONE = 0
    INVALID_GOAL = 1
    BACKEND_UNAVAILABLE = 2
    INSUFFICIENT_PARALLAX = 3
    RECONSTRUCTION_FAILED = 4
    OUT_OF_MEMORY = 5
    CANCELLED = 6
    SUPERSEDED = 7
    NO_DISK = 8
    WORKER_DIED = 9

    @property
    def worth_retrying(self) -> bool:
        """Whether the same job may succeed later without anybody doing anything."""
        return self in (ErrorCode.WORKER_DIED, ErrorCode.OUT_OF_MEMORY, ErrorCode.SUPERSEDED)


@dataclass(frozen=True, kw_only=True)
class EncodedView:
    """A picture with its camera, ready for the network.

    Attributes:
        camera: intrinsics of the picture.
        pose: map_from_optical; None when unknown.
        image: JPEG or PNG, RGB.
        depth: 16-bit PNG in thousandths of a map unit (millimetres where metric); None without depth.
        provenance: 8-bit PNG of Provenance values; None without.
    """

    camera: PinholeCamera
    pose: SE3 | None
    image: bytes
    depth: bytes | None = None
    provenance: bytes | None = None


@dataclass(frozen=True, kw_only=True)
class EncodedKeyframe:
    """A keyframe ready for the network."""

    id: int
    stamp_ns: int
    camera_name: str
    view: EncodedView

    @classmethod
    def of(cls, keyframe: Keyframe, jpeg_quality: int) -> EncodedKeyframe:
        """Encode one."""
        frame = keyframe.frame
        depth = None if frame.depth_m is None else encode_depth_png(frame.depth_m, DEPTH_UNIT)
        image = encode_jpeg(frame.rgb_u8, jpeg_quality)
        view = EncodedView(camera=frame.camera, pose=frame.world_from_cam, image=image, depth=depth)
        return cls(id=keyframe.id, stamp_ns=frame.stamp_ns, camera_name=frame.camera_name, view=view)

    def decoded(self) -> Keyframe:
        """The keyframe again; its sharpness is not known any more.

        Raises:
            InvalidInputError: for damaged pictures or pictures of another size than the camera's.
        """
        view, name = self.view, f"keyframe {self.id}"
        size = announced_size(view.image, f"image of {name}")
        if size != view.camera.size:
            width, height = view.camera.size
            raise InvalidInputError(f"image of {name} is {size[0]}x{size[1]}, expected {width}x{height} as announced")
        frame = Frame(
            rgb_u8=safe_rgb(view.image, f"image of {name}"),
            camera=view.camera,
            stamp_ns=self.stamp_ns,
            world_from_cam=view.pose,
            depth_m=safe_depth_png(view.depth, f"depth of {name}") if view.depth else None,
            camera_name=self.camera_name,
        )
        return Keyframe(id=self.id, frame=frame, sharpness=math.nan, reason="received")


@dataclass(frozen=True, kw_only=True)
class JobRequest:
    """One job: keyframes and how to reconstruct them.

    Attributes:
        client: who sends it; a newer job of the same client takes its place.
        compress_cloud: the result's cloud travels packed, see ``cloud_codec``.
    """

    job_id: str
    frame_id: str
    stamp_ns: int
    keyframes: tuple[EncodedKeyframe, ...]
    preset: str = ""
    options_yaml: str = ""
    preview: bool = False
    metric_poses: bool = True
    client: str = ""
    compress_cloud: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class JobOutcome:
    """What became of a job; a failed one may still hold a cloud.

    Attributes:
        keyframe_poses: map_from_optical of each keyframe as the reconstruction left it.
        report_json: the run's report.
        scene_path: folder on the server's computer; empty when nothing was written.
        received_bytes: what the result took on the way; 0 before it travelled.
    """

    error_code: ErrorCode = ErrorCode.NONE
    error_msg: str = ""
    cloud: PointCloud = field(default_factory=PointCloud.empty)
    keyframe_poses: dict[int, SE3] = field(default_factory=dict)
    novel_views: tuple[EncodedView, ...] = ()
    metric_scale: bool = False
    scene_path: str = ""
    report_json: str = ""
    received_bytes: int = 0

    @property
    def succeeded(self) -> bool:
        """Whether the job ended without an error."""
        return self.error_code == ErrorCode.NONE

    @classmethod
    def failure(cls, code: ErrorCode, message: str) -> JobOutcome:
        """An outcome without a result."""
        return cls(error_code=code, error_msg=message)


@dataclass(frozen=True, kw_only=True, eq=False)
class DrawnView:
    """A picture drawn on request.

    Attributes:
        rgb_u8: [H, W, 3] uint8.
        depth: [H, W] float32 map units, NaN where nothing is drawn.
        provenance: [H, W] uint8, values of Provenance.
        seconds: time the renderer took.
    """

    rgb_u8: np.ndarray  # [H, W, 3]
    depth: np.ndarray  # [H, W]
    provenance: np.ndarray  # [H, W]
    seconds: float

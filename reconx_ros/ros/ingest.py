"""From messages to frames: decoding, rectifying, pairing with calibration, depth and pose. Runs outside callbacks.

A frame waits in a bounded queue until its calibration, its depth and its transform are there, or its time is over;
every frame that is thrown away is counted with its reason:

    busy            more frames came than could be looked at          no_camera_info  no calibration came in time
    bad_camera_info the calibration cannot be used                    no_pose         no transform came in time
    pose_too_old    the transform's history no longer reaches back    bad_image       the picture cannot be used
    time_jump       the clock jumped back                             paused          paused by the service
    error           something unexpected, see the diagnostics
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from reconx_ros.core import SE3, Frame, InvalidInputError
from reconx_ros.geometry.tf_tree import PastExtrapolationError, TransformError
from reconx_ros.io.rectify import Rectifier
from reconx_ros.io.scenes import shrunken_frame
from reconx_ros.pipeline.config import ReconxConfig
from reconx_ros.ros.conversions import (
    depth_of_compressed,
    depth_of_image,
    rectifier_of_info,
    rgb_of_compressed,
    rgb_of_image,
    stamp_ns_of,
)
from reconx_ros.ros.conversions.cameras import calibrated_key
from reconx_ros.ros.mailbox import DropCounter

Lookup = Callable[[str, str, int], SE3]
"""target_from_source at a stamp, as PoseLookup.lookup."""

JUMP_BACK_NS = 1_000_000_000


class BadCalibrationError(InvalidInputError):
    """A camera_info that cannot be used."""


class _NotYetError(Exception):
    """Something that belongs to a frame has not come yet."""

    def __init__(self, reason: str, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason


@dataclass
class Pending:
    """An image that waits for what belongs to it."""

    camera: CameraInput
    msg: Image | CompressedImage
    stamp_ns: int
    arrived_s: float
    waits_for: str = ""
    sentence: str = ""


@dataclass
class CameraInput:
    """One camera: its newest calibration, the recent depth images, and the rectifier in use.

    Attributes:
        name: namespace as configured.
        info: set by the callback; any thread may replace it.
        depths: set by the callback; the newest last.
        newest_ns: stamp of the newest image, 0 before the first and after a jump of the clock.
    """

    name: str
    info: CameraInfo | None = None
    depths: deque[Image | CompressedImage] = field(default_factory=lambda: deque(maxlen=10))
    newest_ns: int = 0
    _suspect_ns: int | None = None
    _key: tuple[object, ...] = ()
    _rectifier: Rectifier | None = None
    _error: str = ""

    def jumped_back_ns(self, stamp_ns: int) -> int:
        """How far time went back with this image's stamp; 0 when it did not.

        One image with an old stamp is a fault of its own, only a second one in a row is a jump: a bag that starts over.
        """
        back_ns = self.newest_ns - stamp_ns
        if back_ns > JUMP_BACK_NS and (self._suspect_ns is None or stamp_ns < self._suspect_ns):
            self._suspect_ns = stamp_ns
            return 0
        self._suspect_ns, self.newest_ns = None, stamp_ns
        return back_ns if back_ns > JUMP_BACK_NS else 0

    def rectifier(self, *, rectified: bool) -> Rectifier:
        """The rectifier of the newest calibration, made when its numbers change.

        Raises:
            BadCalibrationError: for a calibration that cannot be used.
        """
        assert self.info is not None
        key = calibrated_key(self.info)
        if key != self._key:
            self._key, self._rectifier, self._error = key, None, ""
            try:
                self._rectifier = rectifier_of_info(self.info, rectified=rectified)
            except InvalidInputError as error:
                self._error = str(error)
        if self._rectifier is None:
            raise BadCalibrationError(self._error)
        return self._rectifier

    def depth_at(self, stamp_ns: int, tolerance_ns: int) -> Image | CompressedImage | None:
        """The depth image nearest to a stamp, if it is near enough."""
        candidates = list(self.depths)
        if not candidates:
            return None
        nearest = min(candidates, key=lambda m: abs(stamp_ns_of(m.header.stamp) - stamp_ns))
        return nearest if abs(stamp_ns_of(nearest.header.stamp) - stamp_ns) <= tolerance_ns else None

    def depth_passed(self, stamp_ns: int, tolerance_ns: int) -> bool:
        """Whether a depth image came that is so new that none for the stamp will follow."""
        candidates = list(self.depths)
        return bool(candidates) and stamp_ns_of(candidates[-1].header.stamp) > stamp_ns + tolerance_ns


class Ingest:
    """The queue of waiting frames; used by one thread.

    Args:
        lookup: transforms.
        drops: where drops are counted.
        on_jump: called with a sentence when the stamps of a camera jump back.

    Attributes:
        problems: reason to newest sentence, of the frames dropped or waiting.
    """

    def __init__(self, lookup: Lookup, drops: DropCounter, on_jump: Callable[[str], None]) -> None:
        self._lookup = lookup
        self._drops = drops
        self._on_jump = on_jump
        self._pending: deque[Pending] = deque()
        self.problems: dict[str, str] = {}

    @property
    def waiting(self) -> tuple[Pending, ...]:
        """Frames that wait, oldest first."""
        return tuple(self._pending)

    def clear(self, reason: str) -> None:
        """Throw all waiting frames away."""
        if self._pending:
            self._drops.add(reason, len(self._pending))
        self._pending.clear()

    def put(self, camera: CameraInput, msg: Image | CompressedImage, arrived_s: float, capacity: int) -> None:
        """A new image; the oldest waiting one gives way when there are too many."""
        stamp_ns = stamp_ns_of(msg.header.stamp)
        back_ns = camera.jumped_back_ns(stamp_ns)
        if back_ns:
            self._on_jump(f"the stamps of camera '{camera.name}' jumped back by {back_ns / 1e9:.3f} s")
        self._pending.append(Pending(camera=camera, msg=msg, stamp_ns=stamp_ns, arrived_s=arrived_s))
        while len(self._pending) > capacity:
            oldest = self._pending.popleft()
            self._drop(oldest.waits_for or "busy", oldest.sentence)

    def take_ready(self, config: ReconxConfig, now_s: float) -> list[tuple[Frame, str]]:
        """(frame, its optical frame's name) of all whose parts have come; those whose time is over are dropped."""
        frames, waiting = [], deque[Pending]()
        for pending in self._pending:
            frame = self._frame(pending, config, now_s)
            if frame is not None:
                frames.append((frame, config.ros.optical_frame or pending.msg.header.frame_id))
            elif pending.waits_for:
                waiting.append(pending)
        self._pending = waiting
        return frames

    def _frame(self, pending: Pending, config: ReconxConfig, now_s: float) -> Frame | None:
        """The frame if all its parts are there; else it is marked as waiting, or counted as dropped."""
        pending.waits_for = ""
        late = now_s - pending.arrived_s >= config.ros.tf_timeout_s
        try:
            return self._complete(pending, config, late)
        except _NotYetError as error:
            self._wait(pending, late, error.reason, str(error))
        except PastExtrapolationError as error:
            self._drop("pose_too_old", str(error))
        except TransformError as error:
            self._wait(pending, late, "no_pose", str(error))
        except BadCalibrationError as error:
            self._drop("bad_camera_info", str(error))
        except InvalidInputError as error:
            self._drop("bad_image", str(error))
        except Exception as error:  # the frame must go whatever happened, or it would come back for ever
            self._drop("error", f"a frame failed unexpectedly: {type(error).__name__}: {error}")
        return None

    def _complete(self, pending: Pending, config: ReconxConfig, late: bool) -> Frame:
        camera = pending.camera
        if camera.info is None:
            raise _NotYetError("no_camera_info", f"no camera_info of camera '{camera.name}' has come")
        rectifier = camera.rectifier(rectified=config.ros.rectified)
        pose = self._pose(pending, config)
        if config.ros.use_depth and not late and self._depth_may_come(pending, config):
            raise _NotYetError("no_depth", f"depth of camera '{camera.name}' has not come")
        return self._decoded(pending, rectifier, pose, config)

    def _wait(self, pending: Pending, late: bool, reason: str, sentence: str) -> None:
        self.problems[reason] = sentence
        if late:
            self._drop(reason, sentence)
        else:
            pending.waits_for, pending.sentence = reason, sentence

    def _drop(self, reason: str, sentence: str) -> None:
        self._drops.add(reason)
        if sentence:
            self.problems[reason] = sentence

    def _pose(self, pending: Pending, config: ReconxConfig) -> SE3 | None:
        if config.ros.pose_source == "none":
            return None
        optical = config.ros.optical_frame or pending.msg.header.frame_id
        return self._lookup(config.ros.map_frame, optical, pending.stamp_ns)

    def _depth_may_come(self, pending: Pending, config: ReconxConfig) -> bool:
        tolerance_ns = int(config.ros.depth_tolerance_s * 1e9)
        there = pending.camera.depth_at(pending.stamp_ns, tolerance_ns) is not None
        return not there and not pending.camera.depth_passed(pending.stamp_ns, tolerance_ns)

    def _decoded(self, pending: Pending, rectifier: Rectifier, pose: SE3 | None, config: ReconxConfig) -> Frame:
        msg = pending.msg
        rgb = rgb_of_compressed(msg) if isinstance(msg, CompressedImage) else rgb_of_image(msg)
        depth = self._depth(pending, rectifier, config) if config.ros.use_depth else None
        rgb = np.ascontiguousarray(rectifier.image(rgb))
        frame = Frame(
            rgb_u8=rgb,
            camera=rectifier.camera,
            stamp_ns=pending.stamp_ns,
            world_from_cam=pose,
            depth_m=depth,
            camera_name=pending.camera.name,
        )
        self.problems.clear()
        return shrunk(frame, config.keyframes.max_size)

    def _depth(self, pending: Pending, rectifier: Rectifier, config: ReconxConfig) -> np.ndarray | None:
        msg: Any = pending.camera.depth_at(pending.stamp_ns, int(config.ros.depth_tolerance_s * 1e9))
        if msg is None:
            self._drops.add("frame_without_depth")
            return None
        depth = depth_of_compressed(msg) if isinstance(msg, CompressedImage) else depth_of_image(msg)
        return np.ascontiguousarray(rectifier.depth(depth))


def shrunk(frame: Frame, max_size: int) -> Frame:
    """The frame at the size in which keyframes are stored; never enlarged, always a copy of the message's buffer."""
    small = shrunken_frame(frame, max_size)
    return replace(frame, rgb_u8=frame.rgb_u8.copy()) if small is frame else small

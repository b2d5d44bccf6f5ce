"""From messages to frames: decoding, rectifying, pairing with calibration, depth and pose. Runs outside callbacks.

A frame waits in a bounded queue until its calibration, its depth and its transform are there, or its time is over;
every frame that is thrown away is counted with its reason:

    busy            more frames came than could be looked at          no_camera_info  no calibration came in time
    bad_camera_info the calibration cannot be used                    no_depth        gave way while it waited for depth
    no_pose         no transform came in time                         bad_image       the picture cannot be used
    pose_too_old    the transform's history no longer reaches back    pose_gap        the transform has a gap there
    bad_pose        the transform is no rigid motion                  zero_stamp      the image has no stamp
    future_stamp    the stamp is ahead of the node's clock, and no    time_jump       the clock jumped back
                    transform came for it in time                     paused          paused by the service
    error           something unexpected, see the diagnostics
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from sensor_msgs.msg import CameraInfo, CompressedImage

from reconx_ros.core import SE3, Frame, InvalidInputError
from reconx_ros.geometry.tf_tree import (
    FutureExtrapolationError,
    GapError,
    PastExtrapolationError,
    TransformError,
)
from reconx_ros.io.rectify import Rectifier
from reconx_ros.io.scenes import shrunken_frame
from reconx_ros.jobs.encoding import announced_size
from reconx_ros.pipeline.config import ReconxConfig, RosConfig
from reconx_ros.ros.conversions import (
    depth_from_compressed,
    depth_from_image,
    ns_from_stamp,
    rgb_from_compressed,
    rgb_from_image,
)
from reconx_ros.ros.robot.camera_input import AnyImage, BadCalibrationError, CameraInput, NotYetError
from reconx_ros.ros.robot.mailbox import DropCounter

Lookup = Callable[[str, str, int], SE3]
"""target_from_source at a stamp, as PoseLookup.lookup."""

_AHEAD_NS = 500_000_000  # a stamp this far ahead of the node's clock is of the future; /clock may tick slowly
_REASON_OF = {PastExtrapolationError: "pose_too_old", GapError: "pose_gap"}


class _DropError(Exception):
    """A frame that waiting cannot cure."""

    def __init__(self, reason: str, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason


@dataclass(frozen=True, kw_only=True)
class Now:
    """The time of a look at the queue.

    Attributes:
        steady_s: monotonic clock, by which waiting is measured.
        ros_ns: the node's clock, against which stamps are held; 0 where it is not known (no /clock yet).
        simulated: whether that comes from /clock.
    """

    steady_s: float
    ros_ns: int = 0
    simulated: bool = False

    @property
    def clock(self) -> str:
        """What the node's clock is, for people."""
        return "the simulated clock of this node (/clock)" if self.simulated else "the system clock of this node"


@dataclass(eq=False)
class Pending:
    """An image that waits for what belongs to it.

    Attributes:
        arrived_s: steady time.
        size: (width, height) that the message announces.
        info, depth: what has been found for it; kept, since newer messages push older ones out.
        no_depth: it is settled that no depth will come.
        waits_for, sentence: reason of the last look; empty before the first.
    """

    camera: CameraInput
    msg: AnyImage
    stamp_ns: int
    arrived_s: float
    size: tuple[int, int] | None = None
    info: CameraInfo | None = None
    depth: AnyImage | None = None
    no_depth: bool = False
    waits_for: str = ""
    sentence: str = ""


class Ingest:
    """The queue of waiting frames; used by one thread.

    Args:
        lookup: transforms.
        drops: where drops are counted.
        on_jump: called with a sentence and the new time [ns] when the stamps of a camera jump back.
    """

    def __init__(self, lookup: Lookup, drops: DropCounter, on_jump: Callable[[str, int], None]) -> None:
        self._lookup = lookup
        self._drops = drops
        self._on_jump = on_jump
        self._pending: deque[Pending] = deque()

    @property
    def waiting(self) -> tuple[Pending, ...]:
        """Frames that wait, oldest first."""
        return tuple(self._pending)

    def clear(self, reason: str) -> None:
        """Throw all waiting frames away."""
        if self._pending:
            self._drops.add(reason, len(self._pending))
        self._pending.clear()

    def put(self, camera: CameraInput, msg: AnyImage, arrived_s: float, capacity: int) -> None:
        """A new image; the camera's oldest waiting one gives way when there are more than ``capacity``."""
        stamp_ns = ns_from_stamp(msg.header.stamp)
        pending = Pending(camera=camera, msg=msg, stamp_ns=stamp_ns, arrived_s=arrived_s)
        if stamp_ns <= 0:
            self._drop(pending, "zero_stamp", _zero_stamp(camera, stamp_ns), arrived_s)
            return
        back_ns = camera.stamps.jumped_back_ns(stamp_ns)
        if back_ns:
            self._on_jump(f"the stamps of camera '{camera.name}' jumped back by {back_ns / 1e9:.3f} s", stamp_ns)
        self._pending.append(pending)
        same = [p for p in self._pending if p.camera is camera]
        for oldest in same[: max(0, len(same) - capacity)]:
            self._pending.remove(oldest)
            self._drop(oldest, oldest.waits_for or "busy", oldest.sentence, arrived_s)

    def take_ready(self, config: ReconxConfig, now: Now) -> list[tuple[Frame, str]]:
        """(frame, its optical frame's name) of all whose parts have come; those whose time is over are dropped."""
        frames, waiting = [], deque[Pending]()
        for pending in self._pending:
            frame = self._frame(pending, config, now)
            if frame is not None:
                frames.append((frame, config.ros.optical_frame or pending.msg.header.frame_id))
            elif pending.waits_for:
                waiting.append(pending)
        self._pending = waiting
        return frames

    def _frame(self, pending: Pending, config: ReconxConfig, now: Now) -> Frame | None:
        """The frame if all its parts are there; else it is marked as waiting, or counted as dropped."""
        pending.waits_for = ""
        try:
            return self._complete(pending, config, now)
        except NotYetError as error:
            self._wait(pending, config.ros, error, now.steady_s)
        except _DropError as error:
            self._drop(pending, error.reason, str(error), now.steady_s)
        except BadCalibrationError as error:
            self._drop(pending, "bad_camera_info", str(error), now.steady_s)
        except InvalidInputError as error:
            self._drop(pending, "bad_image", str(error), now.steady_s)
        except Exception as error:  # the frame must go whatever happened, or it would come back for ever
            sentence = f"a frame failed unexpectedly: {type(error).__name__}: {error}"
            self._drop(pending, "error", sentence, now.steady_s)
        return None

    def _complete(self, pending: Pending, config: ReconxConfig, now: Now) -> Frame:
        camera, waited_s = pending.camera, now.steady_s - pending.arrived_s
        if pending.info is None:
            pending.info = camera.info_for(pending.stamp_ns, waited_s)
        if pending.size is None:
            pending.size = _size_from_msg(pending.msg)
        rectifier = camera.rectifier(pending.info, pending.size, rectified=config.ros.rectified)
        missing = self._find_depth(pending, config.ros, now.steady_s) if config.ros.use_depth else None
        pose = self._pose(pending, config.ros, now)
        if missing is not None and waited_s < config.ros.tf_timeout_s:
            raise missing
        return self._decoded(pending, rectifier, pose, config)

    def _wait(self, pending: Pending, ros: RosConfig, error: NotYetError, now_s: float) -> None:
        if now_s - pending.arrived_s >= ros.tf_timeout_s:
            self._drop(pending, error.reason, str(error), now_s)
            return
        pending.waits_for, pending.sentence = error.reason, str(error)
        pending.camera.troubled(error.reason, str(error), now_s, dropped=False)

    def _drop(self, pending: Pending, reason: str, sentence: str, now_s: float) -> None:
        self._drops.add(reason)
        if sentence:
            pending.camera.troubled(reason, sentence, now_s, dropped=True)

    def _find_depth(self, pending: Pending, ros: RosConfig, now_s: float) -> NotYetError | None:
        """Attach the depth of an image; what it still waits for, None when that is settled."""
        if pending.depth is not None or pending.no_depth:
            return None
        silent = now_s - pending.camera.depth_arrived_s > ros.tf_timeout_s  # nobody sends depth: do not wait for it
        exact = ros.depth_sync == "exact"
        tolerance_ns = 0 if exact else int(ros.depth_tolerance_s * 1e9)
        try:
            pending.depth = pending.camera.depth_for(pending.stamp_ns, tolerance_ns, now_s - pending.arrived_s)
        except NotYetError as error:
            if not silent:
                return error
        pending.no_depth = pending.depth is None
        return None

    def _pose(self, pending: Pending, ros: RosConfig, now: Now) -> SE3 | None:
        ahead = _ahead_of_clock(pending, now)
        if ros.pose_source == "none":
            if ahead:
                raise NotYetError("future_stamp", ahead)
            return None
        optical = ros.optical_frame or pending.msg.header.frame_id
        if not optical:
            raise InvalidInputError(
                f"image of camera '{pending.camera.name}' has an empty frame_id, expected the name of its optical "
                "frame: set header.frame_id in its driver, or ros.optical_frame"
            )
        try:
            return self._lookup(ros.map_frame, optical, pending.stamp_ns)
        except (PastExtrapolationError, GapError) as error:
            raise _DropError(_REASON_OF[type(error)], str(error)) from None
        except FutureExtrapolationError as error:
            if ahead:
                raise NotYetError("future_stamp", f"{ahead}; {error}") from None
            raise NotYetError("no_pose", str(error)) from None
        except TransformError as error:
            raise NotYetError("no_pose", str(error)) from None
        except InvalidInputError as error:
            raise _DropError("bad_pose", str(error)) from None

    def _decoded(self, pending: Pending, rectifier: Rectifier, pose: SE3 | None, config: ReconxConfig) -> Frame:
        msg = pending.msg
        rgb = rgb_from_compressed(msg) if isinstance(msg, CompressedImage) else rgb_from_image(msg)
        depth = self._depth(pending, rectifier) if config.ros.use_depth else None
        rgb = np.ascontiguousarray(rectifier.image(rgb))
        frame = Frame(
            rgb_u8=rgb,
            camera=rectifier.camera,
            stamp_ns=pending.stamp_ns,
            world_from_cam=pose,
            depth_m=depth,
            camera_name=pending.camera.name,
        )
        pending.camera.problems = {}
        return shrunk(frame, config.keyframes.max_size)

    def _depth(self, pending: Pending, rectifier: Rectifier) -> np.ndarray | None:
        msg = pending.depth
        if msg is None:
            self._drops.add("frame_without_depth")
            return None
        depth = depth_from_compressed(msg) if isinstance(msg, CompressedImage) else depth_from_image(msg)
        return np.ascontiguousarray(rectifier.depth(depth))


def _size_from_msg(msg: AnyImage) -> tuple[int, int]:
    """(width, height) that an image message announces."""
    if isinstance(msg, CompressedImage):
        return announced_size(bytes(msg.data), "compressed image")
    return int(msg.width), int(msg.height)


def _zero_stamp(camera: CameraInput, stamp_ns: int) -> str:
    if stamp_ns < 0:
        return f"image of camera '{camera.name}' is stamped {stamp_ns / 1e9:.3f} s, expected a positive time"
    return (
        f"image of camera '{camera.name}' has stamp zero, its driver leaves header.stamp empty: expected the time of "
        "exposure, or ros.zero_stamps: arrival to take the time of arrival"
    )


def _ahead_of_clock(pending: Pending, now: Now) -> str:
    """One sentence about a stamp from the future of the node's clock; empty when it is not."""
    ahead_ns = pending.stamp_ns - now.ros_ns
    if not now.ros_ns or ahead_ns <= _AHEAD_NS:
        return ""
    return (
        f"image of camera '{pending.camera.name}' is stamped {pending.stamp_ns / 1e9:.3f} s, {ahead_ns / 1e9:.3f} s "
        f"ahead of {now.clock} ({now.ros_ns / 1e9:.3f} s): the camera's clock and this one differ"
    )


def shrunk(frame: Frame, max_size: int) -> Frame:
    """The frame at the size in which keyframes are stored; never enlarged, always a copy of the message's buffer."""
    small = shrunken_frame(frame, max_size)
    return replace(frame, rgb_u8=frame.rgb_u8.copy()) if small is frame else small

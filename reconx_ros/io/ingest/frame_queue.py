"""The queue in which images wait for their calibration, their depth and their pose. Runs outside callbacks.

A frame waits, bounded, until all its parts are there or its time is over; every frame that is thrown away is counted
with its reason:

    busy            more frames came than could be looked at          no_camera_info  no calibration came in time
    bad_camera_info the calibration cannot be used                    no_depth        gave way while it waited for depth
    no_pose         no transform came in time                         bad_image       the picture cannot be used
    pose_too_old    the transform's history no longer reaches back    pose_gap        the transform has a gap there
    bad_pose        the transform is no rigid motion                  zero_stamp      the image has no stamp
    body_frame      the image's frame looks along x, not along z      time_jump       the clock jumped back
    future_stamp    the stamp is ahead of the node's clock, and no    paused          paused by the service
                    transform came for it in time                     error           something unexpected

A frame that is used without its depth is counted beside them: frame_without_depth where none came, depth_refused where
it could not be used, and the camera's problems say why.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from reconx_ros.core import SE3, Frame, InvalidInputError
from reconx_ros.geometry.tf_tree import (
    FutureExtrapolationError,
    GapError,
    PastExtrapolationError,
    TransformError,
)
from reconx_ros.io.ingest.camera_input import PAIR_WAIT_S, BadCalibrationError, CameraInput, NotYetError
from reconx_ros.io.ingest.depth import depth_on_image
from reconx_ros.io.ingest.drops import DropCounter
from reconx_ros.io.ingest.frames import BodyFrames, Transforms, map_frame_hint
from reconx_ros.io.ingest.pixels import rgb_from_msg, size_from_msg
from reconx_ros.io.ingest.settings import IngestSettings
from reconx_ros.io.ingest.stamped import ns_from_stamp
from reconx_ros.io.rectify import Rectifier
from reconx_ros.io.scenes import shrunken_frame

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
        info, depth, depth_info: what has been found for it; kept, since newer messages push older ones out.
        no_depth: it is settled that no depth will come.
        waits_for, sentence: reason of the last look; empty before the first.
    """

    camera: CameraInput
    msg: Any
    stamp_ns: int
    arrived_s: float
    size: tuple[int, int] | None = None
    info: Any = None
    depth: Any = None
    depth_info: Any = None
    no_depth: bool = False
    waits_for: str = ""
    sentence: str = ""


class Ingest:
    """The queue of waiting frames; used by one thread.

    Args:
        transforms: where poses come from.
        drops: where drops are counted.
        on_jump: called with a sentence and the new time [ns] when the stamps of a camera jump back.
    """

    def __init__(self, transforms: Transforms, drops: DropCounter, on_jump: Callable[[str, int], None]) -> None:
        self._transforms = transforms
        self._body_frames = BodyFrames(transforms)
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

    def put(self, camera: CameraInput, msg: Any, arrived_s: float, capacity: int) -> None:
        """A new image; the camera's oldest waiting one gives way when there are more than ``capacity``."""
        stamp_ns = ns_from_stamp(msg.header.stamp)
        camera.image_came(arrived_s)
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

    def take_ready(self, settings: IngestSettings, max_size: int, now: Now) -> list[tuple[Frame, str]]:
        """(frame, its optical frame's name) of all whose parts have come; those whose time is over are dropped.

        Args:
            settings: the parameters as they are now.
            max_size: longer side at which frames are given, pixels.
            now: time of this look.
        """
        frames, waiting = [], deque[Pending]()
        for pending in self._pending:
            frame = self._frame(pending, settings, now)
            if frame is not None:
                frames.append((shrunk(frame, max_size), settings.optical_frame or pending.msg.header.frame_id))
            elif pending.waits_for:
                waiting.append(pending)
        cameras = {p.camera for p in self._pending}
        self._pending = waiting
        for camera in cameras:
            camera.settle({p.waits_for for p in waiting if p.camera is camera})
        return frames

    def _frame(self, pending: Pending, settings: IngestSettings, now: Now) -> Frame | None:
        """The frame if all its parts are there; else it is marked as waiting, or counted as dropped."""
        pending.waits_for = ""
        try:
            return self._complete(pending, settings, now)
        except NotYetError as error:
            self._wait(pending, settings, error, now.steady_s)
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

    def _complete(self, pending: Pending, settings: IngestSettings, now: Now) -> Frame:
        camera, waited_s = pending.camera, now.steady_s - pending.arrived_s
        if pending.info is None:
            pending.info = camera.lens.at(pending.stamp_ns, waited_s)
        if pending.size is None:
            pending.size = size_from_msg(pending.msg)
        rectifier = camera.lens.rectifier(pending.info, pending.size, rectified=settings.rectified)
        missing = self._find_depth(pending, settings, now.steady_s) if settings.use_depth else None
        pose = self._pose(pending, settings, now)
        if missing is not None and waited_s < settings.tf_timeout_s:
            raise missing
        return self._decoded(pending, rectifier, pose, settings, now.steady_s)

    def _wait(self, pending: Pending, settings: IngestSettings, error: NotYetError, now_s: float) -> None:
        if now_s - pending.arrived_s >= settings.tf_timeout_s:
            self._drop(pending, error.reason, str(error), now_s)
            return
        pending.waits_for, pending.sentence = error.reason, str(error)
        pending.camera.troubled(error.reason, str(error), now_s, dropped=False)

    def _drop(self, pending: Pending, reason: str, sentence: str, now_s: float) -> None:
        self._drops.add(reason, sentence=sentence)
        if sentence:
            pending.camera.troubled(reason, sentence, now_s, dropped=True)

    def _find_depth(self, pending: Pending, settings: IngestSettings, now_s: float) -> NotYetError | None:
        """Attach the depth of an image and its calibration; what it still waits for, None when that is settled."""
        camera, waited_s = pending.camera, now_s - pending.arrived_s
        tolerance_ns = 0 if settings.depth_sync == "exact" else int(settings.depth_tolerance_s * 1e9)
        try:
            if pending.depth is None and not pending.no_depth:
                pending.depth = camera.depth_for(pending.stamp_ns, tolerance_ns, waited_s)
            if pending.depth is not None and pending.depth_info is None:
                pending.depth_info = _depth_info(pending, waited_s)
        except NotYetError as error:
            if camera.sends_depth(now_s, settings.tf_timeout_s):
                return NotYetError("no_depth", str(error))
        pending.no_depth = pending.depth is None
        return None

    def _pose(self, pending: Pending, settings: IngestSettings, now: Now) -> SE3 | None:
        ahead = _ahead_of_clock(pending, now)
        if settings.pose_source == "none":
            if ahead:
                raise NotYetError("future_stamp", ahead)
            return None
        optical = self._optical_frame(pending, settings)
        try:
            return self._transforms.lookup(settings.map_frame, optical, pending.stamp_ns)
        except (PastExtrapolationError, GapError) as error:
            raise _DropError(_REASON_OF[type(error)], str(error)) from None
        except FutureExtrapolationError as error:
            if ahead:
                raise NotYetError("future_stamp", f"{ahead}; {error}") from None
            raise NotYetError("no_pose", str(error)) from None
        except TransformError as error:
            hint = map_frame_hint(self._transforms, settings.map_frame, optical)
            raise NotYetError("no_pose", f"{error}; {hint}" if hint else str(error)) from None
        except InvalidInputError as error:
            raise _DropError("bad_pose", str(error)) from None

    def _optical_frame(self, pending: Pending, settings: IngestSettings) -> str:
        """The frame of the image, which must look along z."""
        if settings.optical_frame:
            return settings.optical_frame
        name, frame = f"image of camera '{pending.camera.name}'", str(pending.msg.header.frame_id)
        if not frame:
            raise InvalidInputError(
                f"{name} has an empty frame_id, expected the name of its optical frame: set header.frame_id in its "
                "driver, or ros.optical_frame"
            )
        complaint = self._body_frames.complaint(name, frame)
        if complaint:
            raise _DropError("body_frame", complaint)
        return frame

    def _decoded(
        self, pending: Pending, rectifier: Rectifier, pose: SE3 | None, settings: IngestSettings, now_s: float
    ) -> Frame:
        depth = self._depth(pending, rectifier, settings, now_s) if settings.use_depth else None
        frame = Frame(
            rgb_u8=np.ascontiguousarray(rectifier.image(rgb_from_msg(pending.msg))),
            camera=rectifier.camera,
            stamp_ns=pending.stamp_ns,
            world_from_cam=pose,
            depth_m=depth,
            camera_name=pending.camera.name,
        )
        kept = {r: p for r, p in pending.camera.problems.items() if r == "depth_refused" and depth is None}
        pending.camera.problems = kept
        return frame

    def _depth(
        self, pending: Pending, rectifier: Rectifier, settings: IngestSettings, now_s: float
    ) -> np.ndarray | None:
        """Depth on the grid of the image; None where there is none or it cannot be used, which is counted."""
        if pending.depth is None:
            self._drops.add("frame_without_depth")
            return None
        try:
            return depth_on_image(pending, rectifier, settings, self._transforms, self._body_frames)
        except (InvalidInputError, TransformError) as error:
            self._drop(pending, "depth_refused", str(error), now_s)
            return None


def _depth_info(pending: Pending, waited_s: float) -> Any:
    """The calibration of the depth that was found; None where none is published, as with registered depth."""
    lens, depth = pending.camera.depth_lens, pending.depth.header
    elsewhere = str(depth.frame_id).lstrip("/") != str(pending.msg.header.frame_id).lstrip("/")
    if lens.infos or (elsewhere and waited_s < PAIR_WAIT_S):
        return lens.at(ns_from_stamp(depth.stamp), waited_s)
    return None


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

"""What is known about one camera: its calibrations, its recent depth images, its stamps, and what is wrong with it."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from reconx_ros.core import InvalidInputError
from reconx_ros.io.ingest.calibration import image_size_from_info, lens_key, rectifier_from_info
from reconx_ros.io.ingest.stamped import ns_from_stamp
from reconx_ros.io.rectify import Rectifier

JUMP_BACK_NS = 1_000_000_000
_LEAP_NS = 10_000_000_000
PAIR_WAIT_S = 0.25  # how long an image waits for the camera_info of its own stamp, and for a depth that fits better
_RECENT = 30
_LONGEST = 600  # characters of a sentence: a broken message may carry names of any length


class BadCalibrationError(InvalidInputError):
    """A camera_info that cannot be used."""


class NotYetError(Exception):
    """Something that belongs to a frame has not come yet; ``reason`` is the identifier under which it is counted."""

    def __init__(self, reason: str, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason


@dataclass(frozen=True, kw_only=True)
class InputProblem:
    """Why frames of a camera wait or were dropped, since the last good one.

    Attributes:
        sentence: the newest.
        since_s: steady time of the first of this kind.
        dropped: frames lost to it.
    """

    sentence: str
    since_s: float
    dropped: int = 0


class StampWatch:
    """Notices when the stamps of a stream jump back.

    One odd stamp is a fault of its own: only a second one in a row is a jump, of a bag that starts over or a clock that
    was set. A lone stamp from far in the future is as little believed as a lone one from the past.
    """

    def __init__(self) -> None:
        self.newest_ns = 0
        self._suspect: tuple[int, bool] | None = None  # stamp, whether it went back

    def jumped_back_ns(self, stamp_ns: int) -> int:
        """How far time went back with this stamp; 0 when it did not."""
        back_ns = self.newest_ns - stamp_ns
        back, leap = back_ns > JUMP_BACK_NS, self.newest_ns > 0 and -back_ns > _LEAP_NS
        if (back or leap) and not self._confirms(stamp_ns, back):
            self._suspect = (stamp_ns, back)
            return 0
        self._suspect, self.newest_ns = None, stamp_ns
        return back_ns if back else 0

    def _confirms(self, stamp_ns: int, back: bool) -> bool:
        return self._suspect is not None and self._suspect[1] == back and stamp_ns >= self._suspect[0]

    def start_over(self) -> None:
        """Another time has begun."""
        self.newest_ns, self._suspect = 0, None


class Calibrations:
    """Recent camera_info messages of one lens, and the rectifier of the one used last.

    Args:
        camera: its name, for sentences.
        topic: where they come from, for sentences.

    Attributes:
        infos: the newest last.
    """

    def __init__(self, camera: str, topic: str) -> None:
        self._camera = camera
        self.topic = topic
        self.infos: deque[Any] = deque(maxlen=_RECENT)
        self._paired = False
        self._key: tuple[object, ...] = ()
        self._rectifier: Rectifier | None = None
        self._error = ""

    def put(self, info: Any) -> None:
        """Keep a camera_info."""
        self.infos.append(info)

    def start_over(self) -> None:
        """The time jumped back: the newest one still holds."""
        for info in list(self.infos)[-1:]:
            self.infos.clear()
            self.infos.append(info)

    def at(self, stamp_ns: int, waited_s: float) -> Any:
        """The calibration of an image: that of the same stamp, else the nearest.

        A camera whose calibrations carried the stamps of its images so far is given a moment to send this one too, so
        that a change of mode in the middle of a run takes effect with the right image.

        Raises:
            NotYetError: none has come, or the one of this stamp may still come.
        """
        infos = list(self.infos)
        if not infos:
            raise NotYetError("no_camera_info", f"no camera_info of camera '{self._camera}' has come on {self.topic}")
        nearest = min(reversed(infos), key=lambda m: abs(ns_from_stamp(m.header.stamp) - stamp_ns))
        if ns_from_stamp(nearest.header.stamp) == stamp_ns:
            self._paired = True
        elif self._paired and ns_from_stamp(infos[-1].header.stamp) < stamp_ns:
            if waited_s < PAIR_WAIT_S:
                sentence = f"camera_info of camera '{self._camera}' for stamp {stamp_ns / 1e9:.3f} s has not come"
                raise NotYetError("no_camera_info", f"{sentence} on {self.topic}")
            self._paired = False
        return nearest

    def rectifier(self, info: Any, size: tuple[int, int], *, rectified: bool) -> Rectifier:
        """The rectifier of a calibration, made when its numbers change.

        Args:
            info: calibration.
            size: width and height of the image it is for, checked before anything costly is made.
            rectified: whether images come rectified.

        Raises:
            BadCalibrationError: for a calibration that cannot be used.
            InvalidInputError: for an image of another size than the calibration's.
        """
        _check_size(info, size)
        key = lens_key(info, rectified=rectified)
        if key != self._key:
            self._key, self._rectifier, self._error = key, None, ""
            try:
                self._rectifier = rectifier_from_info(info, rectified=rectified)
            except InvalidInputError as error:
                self._error = str(error)
            except Exception as error:  # OpenCV and numpy may choke on numbers that no lens has
                self._error = f"camera_info cannot be used: {type(error).__name__}: {error}"
        if self._rectifier is None:
            raise BadCalibrationError(self._error)
        return self._rectifier


def _check_size(info: Any, size: tuple[int, int]) -> None:
    try:
        wanted = image_size_from_info(info)
    except InvalidInputError as error:
        raise BadCalibrationError(str(error)) from None
    if size != wanted:
        raise InvalidInputError(
            f"image is {size[0]}x{size[1]}, expected {wanted[0]}x{wanted[1]} as its camera_info says"
        )


class CameraInput:
    """One camera. Callbacks put messages in, one other thread takes them out.

    Args:
        name: namespace as configured.
        info_topic, depth_topic, depth_info_topic: where calibrations and depth come from; for sentences.

    Attributes:
        lens, depth_lens: calibrations of the images, and of the depth images.
        depths: recent depth images, the newest last.
        depthless_since_s: steady time of the first image since the newest depth image; None where depth is newer.
        stamps: of the images.
        problems: by reason; replaced as a whole, so that other threads may read it.
    """

    def __init__(
        self,
        name: str,
        info_topic: str = "camera_info",
        depth_topic: str = "depth",
        depth_info_topic: str = "depth/camera_info",
    ) -> None:
        self.name = name
        self.depth_topic = depth_topic
        self.lens = Calibrations(name, info_topic)
        self.depth_lens = Calibrations(name, depth_info_topic)
        self.depths: deque[Any] = deque(maxlen=_RECENT)
        self.depthless_since_s: float | None = None
        self.stamps = StampWatch()
        self.problems: dict[str, InputProblem] = {}

    def start_over(self) -> None:
        """The time jumped back: depth of the former time is useless, the newest calibrations still hold."""
        self.stamps.start_over()
        self.depths.clear()
        self.lens.start_over()
        self.depth_lens.start_over()

    def image_came(self, arrived_s: float) -> None:
        """Take note of an image."""
        if self.depthless_since_s is None:
            self.depthless_since_s = arrived_s

    def put_depth(self, msg: Any) -> None:
        """Keep a depth image."""
        self.depths.append(msg)
        self.depthless_since_s = None

    def sends_depth(self, now_s: float, timeout_s: float) -> bool:
        """Whether depth may still come: images have not come without any for longer than the timeout."""
        since_s = self.depthless_since_s
        return since_s is None or now_s - since_s <= timeout_s

    def depth_for(self, stamp_ns: int, tolerance_ns: int, waited_s: float) -> Any:
        """The depth image nearest to a stamp, as soon as no nearer one can come; None when none will.

        Raises:
            NotYetError: one that fits, or fits better, may still come.
        """
        candidates = list(self.depths)
        gap_ns = {id(m): ns_from_stamp(m.header.stamp) - stamp_ns for m in candidates}
        nearest = min(candidates, key=lambda m: abs(gap_ns[id(m)]), default=None)
        newer_came = bool(candidates) and gap_ns[id(candidates[-1])] > 0
        if nearest is not None and abs(gap_ns[id(nearest)]) <= tolerance_ns:
            if gap_ns[id(nearest)] == 0 or newer_came or waited_s >= PAIR_WAIT_S:
                return nearest
        elif newer_came and gap_ns[id(candidates[-1])] > tolerance_ns:
            return None
        raise NotYetError("no_depth", f"depth of camera '{self.name}' has not come on {self.depth_topic}")

    def troubled(self, reason: str, sentence: str, now_s: float, *, dropped: bool) -> None:
        """Remember why a frame waits or was dropped."""
        known = self.problems.get(reason)
        since_s, count = (known.since_s, known.dropped) if known is not None else (now_s, 0)
        problem = InputProblem(sentence=sentence[:_LONGEST], since_s=since_s, dropped=count + int(dropped))
        self.problems = {**self.problems, reason: problem}

    def settle(self, waiting: Collection[str]) -> None:
        """Forget the reasons that no frame waits for any more and that cost none."""
        over = [r for r, p in self.problems.items() if not p.dropped and r not in waiting]
        if over:
            self.problems = {r: p for r, p in self.problems.items() if r not in over}

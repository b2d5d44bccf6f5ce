"""Frames out of a ROS 2 bag, without ROS: its messages go to the ingest of the nodes, at the times of their recording.

Time is that of the recording: a frame waits for its calibration, depth and transform as long as it would wait in a
node, and is given or refused for the same reasons. Only static transforms come first, wherever they were recorded; a
replay through the nodes plays them first, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from reconx_ros.core import Frame, ReconxError
from reconx_ros.geometry.tf_tree import TransformBuffer
from reconx_ros.io.bag_choice import BagTopics
from reconx_ros.io.bag_decode import Decoder
from reconx_ros.io.bag_messages import BagMessage
from reconx_ros.io.bag_topics import ODOMETRY_TYPE
from reconx_ros.io.bags import BagReader
from reconx_ros.io.ingest.camera_input import CameraInput
from reconx_ros.io.ingest.drops import POSE_REASONS, DropCounter, first_reason, lost_frames
from reconx_ros.io.ingest.frame_queue import Ingest, Now
from reconx_ros.io.ingest.settings import IngestSettings
from reconx_ros.io.ingest.stamped import ns_from_stamp, stamp_on_arrival, take_odometry, take_transforms

LOOK_S = 0.02
"""Time between two looks at waiting frames, as the node has it."""
_MANY = 8  # different sentences about refused messages that are kept


@dataclass
class BagSummary:
    """What happened while frames were read; complete after the last one.

    Attributes:
        frames_in: images of the bag.
        frames: how many frames were given.
        drops: images that were not used, and those used without depth, by reason.
        sentences: what was said first of each reason.
        refused: what was said of transforms that were not taken, and messages that could not be read.
        problem: what could not be read of the bag, as one sentence.
    """

    frames_in: int = 0
    frames: int = 0
    drops: dict[str, int] = field(default_factory=dict)
    sentences: dict[str, str] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)
    problem: str | None = None

    def warnings(self) -> tuple[str, ...]:
        """Sentences for a report."""
        told = [f"{n} frames: {self.sentences.get(r, r)}" for r, n in lost_frames(self.drops).items()]
        used = [f"{n} frames are used without their depth: {self.sentences[r]}" for r, n in self.drops.items()
                if r == "depth_refused"]  # fmt: skip
        refused = [f"{n} times: {sentence}" for sentence, n in self.refused.items()]
        return (*([self.problem] if self.problem else []), *told, *used, *refused)


def _ignore(sentence: str, now_ns: int) -> None:
    del sentence, now_ns


class BagFrames:
    """Frames of an open bag, decoded one at a time; each iteration starts over.

    Args:
        reader: the bag; stays open as long as frames are read.
        topics: which topics to use.
        settings: the parameters of the nodes.
        max_size: longer side of the frames, pixels.
        on_jump: called with a sentence and the new time [ns] when the time jumps back.

    Attributes:
        summary: of the newest iteration.
    """

    def __init__(
        self,
        reader: BagReader,
        topics: BagTopics,
        settings: IngestSettings,
        *,
        max_size: int,
        on_jump: Callable[[str, int], None] = _ignore,
    ) -> None:
        self._reader = reader
        self.topics = topics
        self.settings = settings
        self._max_size = max_size
        self._on_jump = on_jump
        self.summary = BagSummary()

    def __iter__(self) -> Iterator[Frame]:
        """Frames in the order in which a node would take them; also updates ``summary``."""
        run = _Run(self._reader, self.topics, self.settings, self._max_size, self._on_jump)
        self.summary = run.summary
        yield from run.frames()

    def lost(self) -> str:
        """The first reason why frames of the newest iteration were lost, as one sentence with their number."""
        sentence = first_reason(self.summary.drops, self.summary.frames_in, self.summary.sentences)
        return with_missing_poses(sentence, self.summary.drops, self._reader, self.topics, self.settings)


def with_missing_poses(
    sentence: str, drops: dict[str, int], reader: BagReader, topics: BagTopics, settings: IngestSettings
) -> str:
    """A sentence about lost frames, and where poses are missing, what the bag lacks or has instead of transforms."""
    reason = next(iter(lost_frames(drops)), "")
    if reason not in POSE_REASONS or not sentence:
        return sentence
    absent = [name for name, topic in (("/tf", topics.tf), ("/tf_static", topics.tf_static)) if topic is None]
    if absent:
        head, _, said = sentence.partition(": ")
        sentence = f"{head}: the bag holds no {' and no '.join(absent)}" + (f", and {said}" if said else "")
    if settings.pose_source == "tf" and topics.odometry is not None:
        sentence += f"; the bag holds {ODOMETRY_TYPE} on {topics.odometry}: ros.pose_source: odometry takes its poses"
    return sentence


class _Run:
    """One passage through the messages of a bag."""

    def __init__(
        self,
        reader: BagReader,
        topics: BagTopics,
        settings: IngestSettings,
        max_size: int,
        on_jump: Callable[[str, int], None],
    ) -> None:
        self._reader, self._topics, self._settings, self._max_size = reader, topics, settings, max_size
        self._tell_jump = on_jump
        self._decode = Decoder()
        self._buffer = TransformBuffer(max_gap_ns=int(settings.max_pose_gap_s * 1e9))
        self._drops = DropCounter()
        self._ingest = Ingest(self._buffer, self._drops, self._jumped)
        self._camera = CameraInput(
            "", topics.camera_info, topics.depth or "depth", topics.depth_info or "the depth's camera_info"
        )
        self._start_ns: int | None = None
        self._clock_ns = 0
        self.summary = BagSummary()
        self._take = self._takers()

    def _takers(self) -> dict[str, Callable[[Any, Now], None]]:
        """What is done with the messages of each topic."""
        topics, settings = self._topics, self._settings
        takers: dict[str | None, Callable[[Any, Now], None]] = {
            topics.image: self._on_image,
            topics.camera_info: lambda msg, now: self._camera.lens.put(msg),
            topics.tf: lambda msg, now: take_transforms(self._buffer, msg, static=False, refused=self._refused),
            topics.clock: self._on_clock,
        }
        if settings.use_depth:
            takers[topics.depth] = self._on_depth
            if topics.depth_info != topics.camera_info:
                takers[topics.depth_info] = lambda msg, now: self._camera.depth_lens.put(msg)
        if settings.pose_source == "odometry":
            takers[topics.odometry] = lambda msg, now: take_odometry(self._buffer, msg, self._refused)
        return {name: take for name, take in takers.items() if name is not None}

    def frames(self) -> Iterator[Frame]:
        """All of them."""
        self._take_static()
        now = Now(steady_s=0.0)
        for message in self._reader.messages(set(self._take)):
            upcoming = self._now(message.stamp_ns)
            yield from self._looks(now, upcoming.steady_s)
            now = upcoming
            self._on_message(message, now)
            yield from self._look(now)
        yield from self._looks(now, float("inf"))
        self.summary.drops, self.summary.sentences = self._drops.snapshot(), self._drops.sentences()
        self.summary.problem = self._reader.problem

    def _take_static(self) -> None:
        if self._topics.tf_static is None:
            return
        for message in self._reader.messages({self._topics.tf_static}):
            content = self._content(message)
            if content is not None:
                take_transforms(self._buffer, content, static=True, refused=self._refused)

    def _now(self, stamp_ns: int) -> Now:
        if self._start_ns is None:
            self._start_ns = stamp_ns
        ros_ns = stamp_ns if self._topics.clock is None else self._clock_ns
        return Now(steady_s=(stamp_ns - self._start_ns) / 1e9, ros_ns=ros_ns, simulated=True)

    def _looks(self, now: Now, until_s: float) -> Iterator[Frame]:
        """Looks at waiting frames until a time, or until none waits any more."""
        while self._ingest.waiting and now.steady_s + LOOK_S < until_s:
            now = Now(steady_s=now.steady_s + LOOK_S, ros_ns=now.ros_ns + int(LOOK_S * 1e9), simulated=True)
            yield from self._look(now)

    def _look(self, now: Now) -> Iterator[Frame]:
        for frame, _ in self._ingest.take_ready(self._settings, self._max_size, now):
            self.summary.frames += 1
            yield frame

    def _on_message(self, message: BagMessage, now: Now) -> None:
        self.summary.frames_in += message.topic == self._topics.image
        content = self._content(message)
        if content is not None:
            self._take[message.topic](content, now)
        elif message.topic == self._topics.image:
            self._drops.add("bad_image")

    def _content(self, message: BagMessage) -> Any:
        """The message; None where it cannot be read, which is told."""
        try:
            return self._decode(message)
        except ReconxError as err:
            self._refused(str(err))
            return None

    def _on_image(self, msg: Any, now: Now) -> None:
        self._stamp_if_zero(msg, now)
        self._ingest.put(self._camera, msg, now.steady_s, self._settings.queue_size)

    def _on_depth(self, msg: Any, now: Now) -> None:
        self._stamp_if_zero(msg, now)
        self._camera.put_depth(msg)

    def _stamp_if_zero(self, msg: Any, now: Now) -> None:
        if self._settings.zero_stamps == "arrival":
            stamp_on_arrival(msg, now.ros_ns)

    def _on_clock(self, msg: Any, now: Now) -> None:
        before, self._clock_ns = self._clock_ns, ns_from_stamp(msg.clock)
        if self._clock_ns < before:
            self._jumped(f"the clock jumped back by {(before - self._clock_ns) / 1e9:.3f} s", self._clock_ns)

    def _jumped(self, sentence: str, now_ns: int) -> None:
        """What belongs to the former time is forgotten, as in the node."""
        self._buffer.clear()
        self._ingest.clear("time_jump")
        self._camera.start_over()
        self._tell_jump(sentence, now_ns)

    def _refused(self, sentence: str) -> None:
        refused = self.summary.refused
        if sentence in refused or len(refused) < _MANY:
            refused[sentence] = refused.get(sentence, 0) + 1

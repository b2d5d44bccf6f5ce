"""A bag read offline and the same messages taken as a node takes them give the same frames, keyframes and counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from bag_maker import (
    DEPTH,
    DEPTH_INFO,
    IMAGE,
    INFO,
    OPTICAL,
    START,
    STEP,
    Recording,
    base_pose,
    camera_info,
    compressed,
    image,
    odometry,
    transforms,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from reconx_ros.core import SE3, Frame
from reconx_ros.core.settings import updated
from reconx_ros.geometry.tf_tree import TransformBuffer
from reconx_ros.io.bag_choice import choose_topics
from reconx_ros.io.bag_frames import BagFrames
from reconx_ros.io.bags import open_bag
from reconx_ros.io.images import encode_png
from reconx_ros.io.ingest.camera_input import CameraInput
from reconx_ros.io.ingest.drops import DropCounter
from reconx_ros.io.ingest.frame_queue import Ingest, Now
from reconx_ros.io.ingest.stamped import stamp_on_arrival, take_odometry, take_transforms
from reconx_ros.pipeline.config import ReconxConfig
from reconx_ros.pipeline.mapper import KeyframeMapper

POLL_S = 0.02
MS = 1_000_000
DELAYS_MS = (0, 3, 130, 710, 3100)
PICTURES, DEPTHS = ("png", "rgb16 big", "padded bgr8", "yuyv"), ("plain", "half", "float big")
LENSES = ("plain", "binned", "window", "distorted", "changing")


@dataclass
class Taken:
    """What came of the messages."""

    frames: list[Frame] = field(default_factory=list)
    drops: dict[str, int] = field(default_factory=dict)

    def facts(self) -> list[Any]:
        poses = [None if f.world_from_cam is None else f.world_from_cam.matrix.round(9).tolist() for f in self.frames]
        depths = [None if f.depth_m is None else np.nan_to_num(f.depth_m).tobytes() for f in self.frames]
        pictures = [f.rgb_u8.tobytes() for f in self.frames]
        cameras = [f.camera for f in self.frames]
        return [[f.stamp_ns for f in self.frames], cameras, poses, pictures, depths, self.keyframes(), self.drops]

    def keyframes(self) -> list[tuple[int, int]]:
        mapper = KeyframeMapper(ReconxConfig())
        kept = (mapper.add_frame(frame).keyframe for frame in self.frames)
        return [(k.id, k.frame.stamp_ns) for k in kept if k is not None]


class Node:
    """The parts of the node that take messages, with callbacks and a mapping thread that looks on its own clock."""

    def __init__(self, config: ReconxConfig) -> None:
        self.ros, self.max_size = config.ros, config.keyframes.max_size
        self.buffer = TransformBuffer(max_gap_ns=int(self.ros.max_pose_gap_s * 1e9))
        self.counter = DropCounter()
        self.ingest = Ingest(self.buffer, self.counter, lambda sentence, now_ns: self.jumped())
        self.camera = CameraInput("")
        self.mailbox: list[tuple[Any, float]] = []
        self.now_ns = START
        self.taken = Taken()

    def jumped(self) -> None:
        self.buffer.clear()
        self.ingest.clear("time_jump")
        self.camera.start_over()

    def on(self, topic: str, msg: Any) -> None:
        steady_s = (self.now_ns - START) / 1e9
        if topic in (IMAGE, DEPTH) and self.ros.zero_stamps == "arrival":
            stamp_on_arrival(msg, self.now_ns)
        callbacks: dict[str, Callable[[], object]] = {
            IMAGE: lambda: self.mailbox.append((msg, steady_s)),
            INFO: lambda: self.camera.lens.put(msg),
            "/tf": lambda: take_transforms(self.buffer, msg, static=False, refused=str),
            "/tf_static": lambda: take_transforms(self.buffer, msg, static=True, refused=str),
        }
        if self.ros.use_depth:
            callbacks[DEPTH] = lambda: self.camera.put_depth(msg)
            callbacks[DEPTH_INFO] = lambda: self.camera.depth_lens.put(msg)
        if self.ros.pose_source == "odometry":
            callbacks["/odom"] = lambda: take_odometry(self.buffer, msg, str)
        callbacks.get(topic, lambda: None)()

    def look(self) -> None:
        for msg, arrived_s in self.mailbox:
            self.ingest.put(self.camera, msg, arrived_s, self.ros.queue_size)
        self.mailbox = []
        now = Now(steady_s=(self.now_ns - START) / 1e9, ros_ns=self.now_ns, simulated=True)
        self.taken.frames += [f for f, _ in self.ingest.take_ready(self.ros, self.max_size, now)]


def taken_live(recording: Recording, config: ReconxConfig, poll_ns: int) -> Taken:
    """Every message is a callback, and wakes the thread, which also looks every ``poll_ns``."""
    node = Node(config)
    rows = recording.sorted()
    for _, topic, msg in rows:
        if topic == "/tf_static":
            node.on(topic, msg)
    for recorded, topic, msg in [row for row in rows if row[1] != "/tf_static"]:
        while node.ingest.waiting and node.now_ns + poll_ns < recorded:
            node.now_ns += poll_ns
            node.look()
        node.now_ns = recorded
        node.on(topic, msg)
        node.look()
    while node.ingest.waiting:
        node.now_ns += poll_ns
        node.look()
    node.taken.drops = node.counter.snapshot()
    return node.taken


def taken_offline(recording: Recording, config: ReconxConfig) -> Taken:
    with TemporaryDirectory() as folder, open_bag(recording.write(Path(folder) / "bag")) as reader:
        frames = BagFrames(reader, choose_topics(reader), config.ros, max_size=config.keyframes.max_size)
        found = list(frames)
        return Taken(found, frames.summary.drops)


# Bags of every kind ---------------------------------------------------------------------------------------------


def pictures(k: int, kind: str, stamp: int, frame: str) -> Any:
    rgb = np.random.default_rng(k).integers(0, 255, (12, 16, 3), np.uint8)
    if kind == "png":
        return compressed(stamp, encode_png(rgb), "rgb8; png compressed bgr8", frame)
    if kind == "rgb16 big":
        return image(stamp, (16, 12), (rgb.astype(">u2") * 257).tobytes(), "rgb16", 96, frame, big=True)
    if kind == "padded bgr8":
        rows = [row[:, ::-1].tobytes() + b"pad!" for row in rgb]
        return image(stamp, (16, 12), b"".join(rows), "bgr8", 52, frame)
    return image(stamp, (16, 12), rgb[..., 0].tobytes() * 2, "yuyv", 0, frame)


def depths(k: int, kind: str, stamp: int, frame: str) -> Any:
    metres = np.random.default_rng(k).uniform(0.4, 4, (12, 16)).astype(np.float32)
    if kind == "half":
        half = (metres[::2, ::2] * 1000).astype("<u2")
        return image(stamp, (8, 6), half.tobytes(), "16UC1", 16, frame)
    if kind == "float big":
        return image(stamp, (16, 12), metres.astype(">f4").tobytes(), "32FC1", 64, frame, big=True)
    return image(stamp, (16, 12), (metres * 1000).astype("<u2").tobytes(), "16UC1", 32, frame)


def infos(kind: str, stamp: int, k: int, frame: str) -> Any:
    if kind == "binned":
        return camera_info(stamp, size=(32, 24), focal=28.0, centre=(15.5, 11.5), binning=2, frame=frame)
    if kind == "window":
        return camera_info(stamp, size=(20, 18), focal=14, centre=(9.5, 8.5), roi=(2, 3, 16, 12), frame=frame)
    if kind == "distorted":
        return camera_info(stamp, size=(16, 12), focal=14, centre=(7.5, 5.5), d=(-0.1, 0.0, 0, 0, 0), frame=frame)
    focal = 14.0 if kind != "changing" or k < 4 else 20.0
    return camera_info(stamp, size=(16 + (kind == "wrong"), 12), focal=focal, centre=(7.5, 5.5), frame=frame)


@st.composite
def cases(draw: Any) -> tuple[Recording, ReconxConfig]:
    """A recording of eight images with any mixture of conditions, and the parameters it is read with."""

    def pick(*choices: Any) -> Any:
        return draw(st.sampled_from(choices))

    def seldom(value: Any, other: Any) -> Any:
        return value if draw(st.integers(0, 5)) == 0 else other

    recording = Recording()
    odd, delays = pick(0, 1, 2, 3), [seldom(pick(*DELAYS_MS), pick(0, 3, 130)) for _ in range(4)]
    frame, depth_frame = ("base" if odd == 1 else "optical"), pick("optical", "beside")
    picture, depth, lens = pick(*PICTURES), pick(*DEPTHS), seldom("wrong", pick(*LENSES))
    source = pick("tf", "odometry")
    beside = SE3.exp(np.zeros(3), np.array([0.05, 0.0, 0.0]))
    if seldom(False, True):
        edges = (("base", "optical", OPTICAL), ("optical", "beside", beside))
        recording.add("/tf_static", transforms(START, *edges), START + pick(0, 900) * MS)
    order = draw(st.permutations(range(8))) if odd == 2 else list(range(8))
    gap, zero, only_one = seldom(60, 1), odd == 3, pick(False, True)
    for place, k in enumerate(order):
        stamp, arrival = (START + (n + (gap if n > 3 else 0)) * 5 * STEP for n in (k, place))
        recording.add(IMAGE, pictures(k, picture, 0 if zero else stamp, frame), arrival + delays[0] * MS)
        if not only_one or place == 0:
            recording.add(INFO, infos(lens, stamp, k, frame), arrival + delays[1] * MS + 1)
        if seldom(False, True):
            at = stamp + pick(0, 3, 15, 40) * MS
            recording.add(DEPTH, depths(k, depth, at, depth_frame), arrival + delays[2] * MS + 2)
            if depth_frame != "optical" and seldom(False, True):
                recording.add(DEPTH_INFO, infos("plain", at, k, depth_frame), arrival + delays[2] * MS + 2)
    for k in [k for k in range(16 + gap) if not 4 < k < gap]:
        stamp, pose = START + k * 5 * STEP, base_pose(k / 3)
        topic, content = "/tf", transforms(stamp, ("map", "base", pose))
        if source == "odometry":
            topic, content = "/odom", odometry(stamp, "map", "base", pose)
        recording.add(topic, content, stamp + delays[3] * MS + 3)
    ros = {
        "use_depth": seldom(False, True),
        "depth_sync": seldom("exact", "approximate"),
        "pose_source": seldom("none", source),
        "map_frame": seldom("moon", "map"),
        "optical_frame": pick("", "optical"),
        "rectified": pick(False, True),
        "zero_stamps": seldom("refuse", "arrival"),
        "tf_timeout_s": pick(2.0, 0.5),
        "queue_size": pick(10, 3),
        "max_pose_gap_s": pick(2.0, 100.0),
    }
    return recording, updated(ReconxConfig(), {"ros": ros})


@settings(max_examples=60, deadline=None)
@given(cases(), st.sampled_from([20 * MS, 17 * MS, 5 * MS]))
def test_offline_and_live_are_one(case: tuple[Recording, ReconxConfig], poll_ns: int) -> None:
    recording, config = case
    offline = taken_offline(recording, config)
    live = taken_live(recording, config, poll_ns)
    assert offline.facts() == live.facts()


def samples(count: int) -> Iterator[Taken]:
    """What comes of a few plain recordings."""
    for seed in range(count):
        recording = Recording()
        recording.add("/tf_static", transforms(START, ("base", "optical", OPTICAL)), START)
        for k in range(8):
            stamp = START + k * 5 * STEP
            recording.add(IMAGE, pictures(k + seed, "png", stamp, "optical"), stamp)
            recording.add(INFO, infos("plain", stamp, k, "optical"), stamp)
            recording.add("/tf", transforms(stamp, ("map", "base", base_pose(k))), stamp + 10 * MS)
        yield taken_live(recording, ReconxConfig(), 20 * MS)


def test_the_cases_are_not_empty() -> None:
    assert all(len(taken.frames) == 8 and len(taken.keyframes()) > 2 and not taken.drops for taken in samples(2))

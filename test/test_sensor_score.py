"""A map against depth images that it was not made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bag_maker import (
    DEPTH,
    DEPTH_INFO,
    IMAGE,
    INFO,
    OPTICAL,
    START,
    STEP,
    H,
    Recording,
    W,
    camera_info,
    depth_image,
    picture,
    rgb_image,
    transforms,
)

from reconx_ros.core import SE3, PointCloud
from reconx_ros.core.settings import updated
from reconx_ros.evaluation.sensor_score import SensorScore, score_against_sensor
from reconx_ros.io.bag_choice import choose_topics
from reconx_ros.io.bags import open_bag
from reconx_ros.pipeline.config import ReconxConfig

WALL_M = 3.0
"""A wall across the x axis of the map, that the robot drives towards."""
BESIDE = SE3.exp(np.zeros(3), np.array([-0.2, 0.0, 0.1]))


def base(k: int) -> SE3:
    return SE3.exp(np.zeros(3), np.array([0.1 * k, 0.0, 0.0]))


def recorded(*, depth_at: range | tuple[int, ...] = range(4), frame: str = "optical", offset_ns: int = 0) -> Recording:
    """Four images of the wall, and depth images of it from where their camera is at their own stamp."""
    recording = Recording()
    edges = (("base", "optical", OPTICAL), ("optical", "beside", BESIDE))
    recording.add("/tf_static", transforms(START, *edges), START)
    behind = {"optical": 0.0, "beside": BESIDE.translation[2]}[frame]
    for k in range(5):
        stamp = START + k * STEP
        recording.add("/tf", transforms(stamp, ("map", "base", base(k))), stamp)
    for k in range(4):
        stamp = START + k * STEP
        recording.add(INFO, camera_info(stamp), stamp)
        recording.add(IMAGE, rgb_image(stamp, picture(k)), stamp)
    for k in depth_at:
        at = START + k * STEP + offset_ns
        distance = WALL_M - 0.1 * (k + offset_ns / STEP) - behind
        recording.add(DEPTH, depth_image(at, np.full((H, W), distance, np.float32), frame), at)
        recording.add(DEPTH_INFO, camera_info(at, frame=frame), at)
    return recording


def wall(error: float = 0.0) -> PointCloud:
    """Points of the wall, as each of four keyframes mapped them."""
    y, z = (v.ravel() for v in np.meshgrid(np.linspace(-0.6, 0.6, 60), np.linspace(-0.4, 0.4, 40)))
    one = np.stack([np.full_like(y, WALL_M * (1 + error)), y, z], -1)
    return PointCloud(
        points=np.tile(one, (4, 1)).astype(np.float32),
        rgb_u8=np.zeros((4 * len(y), 3), np.uint8),
        confidence=np.ones(4 * len(y), np.float32),
        provenance=np.ones(4 * len(y), np.uint8),
        keyframe_ids=np.repeat(np.arange(4, dtype=np.uint32), len(y)),
    )


def score(folder: Path, recording: Recording, cloud: PointCloud, keyframes: Any = range(4), **ros: Any) -> SensorScore:
    settings = updated(ReconxConfig(), {"ros": ros}).ros
    posed = {k: (START + k * STEP, base(k) @ OPTICAL) for k in keyframes}
    with open_bag(recording.write(folder / "bag")) as reader:
        return score_against_sensor(cloud, posed, reader, choose_topics(reader), settings)


@pytest.mark.parametrize("frame", ["optical", "beside"])
@pytest.mark.parametrize("offset_ns", [0, 3_000_000, 40_000_000])
def test_withheld_depth_judges_from_its_own_place_at_its_own_stamp(tmp_path: Path, frame: str, offset_ns: int) -> None:
    found = score(tmp_path, recorded(frame=frame, offset_ns=offset_ns), wall())
    assert found.statistics is not None and found.statistics["median"] < 1e-3
    assert found.sentence == "4 depth images withheld from the map" and "within 2 %: 100 %" in found.row()


def test_an_error_of_the_map_is_found(tmp_path: Path) -> None:
    found = score(tmp_path, recorded(), wall(0.05))
    assert found.statistics is not None and found.statistics["median"] == pytest.approx(0.05, rel=0.1)
    assert found.statistics["within_2pct"] == 0


def test_depth_that_is_in_the_map_judges_nothing(tmp_path: Path) -> None:
    between = score(tmp_path, recorded(), wall(), keyframes=(0, 3), use_depth=True)
    assert between.sentence == "2 depth images between the keyframes, which the map was not made of"
    (tmp_path / "all").mkdir()
    none = score(tmp_path / "all", recorded(), wall(), use_depth=True)
    assert none.statistics is None
    assert none.row().startswith("not computed: 4 of 4 depth images are in the map itself")


@pytest.mark.parametrize(
    ("recording", "ros", "why"),
    [
        (recorded(depth_at=()), {}, "the bag has no depth of this camera"),
        (recorded(), {"pose_source": "none"}, "the poses are not the bag's"),
        (recorded(depth_at=(40,)), {}, "no depth image is near a keyframe"),
        (recorded(), {"map_frame": "moon"}, "'moon' is not in the transform tree"),
    ],
)
def test_why_nothing_was_compared(tmp_path: Path, recording: Recording, ros: dict[str, Any], why: str) -> None:
    found = score(tmp_path, recording, wall(), **ros)
    assert found.statistics is None and why in found.row()


def test_what_the_map_hides_is_not_compared(tmp_path: Path) -> None:
    cloud = wall()
    near = np.s_[: len(cloud.points) // 8]  # half of what the first keyframe mapped has a second surface behind it
    behind = PointCloud(
        points=np.concatenate([cloud.points, cloud.points[near] * np.float32(1.3)]),
        rgb_u8=np.zeros((len(cloud.points) * 9 // 8, 3), np.uint8),
        confidence=np.ones(len(cloud.points) * 9 // 8, np.float32),
        provenance=np.ones(len(cloud.points) * 9 // 8, np.uint8),
        keyframe_ids=np.concatenate([cloud.keyframe_ids, cloud.keyframe_ids[near]]),
    )
    found = score(tmp_path, recorded(), behind)
    assert found.statistics is not None and found.statistics["within_2pct"] > 0.97

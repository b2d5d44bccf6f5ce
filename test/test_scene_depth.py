"""Depth of what a moving camera sees, from tracked corners; keyframes that do not hang on when the map comes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from reconx_ros.core import SE3, Frame, PinholeCamera, PointCloud, Provenance
from reconx_ros.pipeline.config import ReconxConfig
from reconx_ros.pipeline.mapper import KeyframeMapper
from reconx_ros.pipeline.scene_depth import DepthFromMotion

CAMERA = PinholeCamera(width=320, height=240, fx=260.0, fy=260.0, cx=159.5, cy=119.5)
STEP_NS = 100_000_000


def wall(distance: float, x: float, turn: float = 0.0, number: int = 0, blank: bool = False) -> Frame:
    """A textured wall at a distance from a camera at x, turned about its vertical axis."""
    v, u = np.mgrid[0:240, 0:320].astype(np.float64)
    pose = SE3.exp(np.array([0.0, turn, 0.0]), np.zeros(3))
    rays = np.stack([(u - CAMERA.cx) / CAMERA.fx, (v - CAMERA.cy) / CAMERA.fy, np.ones_like(u)], -1) @ pose.rotation.T
    where = rays[..., :2] / rays[..., 2:] * distance + [x, 0.0]
    rng = np.random.default_rng(3)
    waves = [(rng.uniform(-30, 30, 2) / distance, rng.uniform(0, 6)) for _ in range(30)]
    grey = sum(np.sin(where @ k + p) for k, p in waves)
    rgb = np.repeat(np.clip(128 + 25 * np.asarray(grey), 0, 255).astype(np.uint8)[..., None], 3, axis=-1)
    return Frame(
        rgb_u8=np.full_like(rgb, 90) if blank else rgb, camera=CAMERA, stamp_ns=1 + number * STEP_NS,
        world_from_cam=SE3(rotation=pose.rotation, translation=np.array([x, 0.0, 0.0])),
    )  # fmt: skip


@pytest.mark.parametrize("distance", [0.5, 2.5, 4000.0])
def test_the_depth_of_a_wall_is_found_in_any_unit(distance: float) -> None:
    motion = DepthFromMotion()
    found = [motion.update(wall(distance, 0.01 * distance * k, number=k)) for k in range(12)]
    assert found[0] is None and found[-1] == pytest.approx(distance, rel=0.03)


def test_a_camera_that_only_turns_or_sees_nothing_tells_no_depth() -> None:
    for frames in (
        [wall(2.0, 0.0, 0.01 * k, k) for k in range(8)],
        [wall(2.0, 0.05 * k, 0.0, k, blank=True) for k in range(8)],
    ):
        motion = DepthFromMotion()
        assert [motion.update(frame) for frame in frames] == [None] * 8


def test_what_is_known_stays_over_a_gap_and_after_a_jump_of_the_pose() -> None:
    motion = DepthFromMotion()
    for k in range(8):
        motion.update(wall(2.0, 0.03 * k, number=k))
    late = motion.update(wall(2.0, 0.3, number=100))
    assert late == pytest.approx(2.0, rel=0.03)
    jumped = replace(
        wall(2.0, 0.33, number=101), world_from_cam=SE3(rotation=np.eye(3), translation=np.array([0, 9.0, 0]))
    )
    assert motion.update(jumped) == late


def test_keyframes_do_not_hang_on_when_a_map_comes() -> None:
    frames = [wall(2.0, 0.045 * k, number=k) for k in range(40)]

    def kept(map_after: int | None) -> list[int]:
        mapper = KeyframeMapper(ReconxConfig())
        chosen = []
        for k, frame in enumerate(frames):
            if k == map_after:
                mapper.integrate(_cloud(), {0: SE3.identity()})
            if mapper.add_frame(frame).kept:
                chosen.append(k)
        return chosen

    without = kept(None)
    assert len(without) > 3
    assert kept(3) == kept(20) == without


def _cloud() -> PointCloud:
    """A map at half the true distance, which would call for twice as many keyframes."""
    x, y = np.meshgrid(np.linspace(-1, 3, 80), np.linspace(-1, 1, 40))
    points = np.stack([x.ravel(), y.ravel(), np.full(x.size, 1.0)], axis=-1).astype(np.float32)
    return PointCloud(
        points=points, rgb_u8=np.zeros((len(points), 3), np.uint8), confidence=np.ones(len(points), np.float32),
        provenance=np.full(len(points), int(Provenance.OBSERVED), np.uint8),
        keyframe_ids=np.zeros(len(points), np.uint32),
    )  # fmt: skip

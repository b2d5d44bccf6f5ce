"""How far away things are, from images and poses; keyframes do not hang on when a map comes, offline or live."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from pointmap_scenes import cast, look_at, pinhole, render, room

from reconx_ros.core import SE3, Frame, PointCloud, Provenance
from reconx_ros.core.settings import updated
from reconx_ros.pipeline.config import ReconxConfig
from reconx_ros.pipeline.mapper import KeyframeMapper
from reconx_ros.pipeline.scene_depth import SceneDepth

CAMERA = pinhole(240, 180)
STEPS = 24


def moved(x: float, turn: float = 0.0) -> SE3:
    """A camera that looks along z."""
    return SE3.exp(np.array([0.0, turn, 0.0]), np.array([x, 0.0, 0.0]))


def learnt(frames: list[Frame], assumed: float = 9.0) -> float:
    depth = SceneDepth(assumed)
    for frame in frames:
        depth.add_keyframe(frame)
    return depth.of(frames[-1])


def wall_frames(*poses: SE3) -> list[Frame]:
    """A textured wall at z = 1, a picture of 4 m by 4 m."""
    rng = np.random.default_rng(0)
    size = 1000
    wall = sum(cv2.resize(rng.random((n, n)).astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
               for n in (10, 40, 130, 300)) * 64.0  # fmt: skip
    return [wall_view(np.clip(wall, 0, 255), pose) for pose in poses]


def wall_view(wall: np.ndarray, pose: SE3) -> Frame:
    u, v = np.meshgrid(np.arange(CAMERA.width), np.arange(CAMERA.height))
    rays = np.stack([(u - CAMERA.cx) / CAMERA.fx, (v - CAMERA.cy) / CAMERA.fy, np.ones(u.shape)], -1) @ pose.rotation.T
    points = pose.translation + rays * ((1 - pose.translation[2]) / rays[..., 2:])
    at = ((points[..., :2] + 2.0) / 4.0 * len(wall)).astype(np.float32)
    grey = cv2.remap(wall, at[..., 0], at[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    return Frame(rgb_u8=np.repeat(grey[..., None], 3, 2).astype(np.uint8), camera=CAMERA, world_from_cam=pose)


def room_frames() -> list[Frame]:
    poses = [look_at((-1.8, -0.7 + 0.25 * i, 1.1), (1.0, 0.05 * i, 0.8)) for i in range(2)]
    return [k.frame for k in render(room(), [pinhole()] * 2, poses, noise=2.0).keyframes]


def test_two_keyframes_measure_a_wall_and_a_room() -> None:
    assert learnt(wall_frames(moved(0), moved(0.2))) == pytest.approx(1.0, rel=0.02)
    assert learnt(wall_frames(moved(0), moved(0.3, -0.2))) == pytest.approx(1.0, rel=0.05)
    frames = room_frames()
    assert frames[1].world_from_cam is not None
    _, depths = cast(room(), pinhole(), frames[1].world_from_cam)
    assert learnt(frames) == pytest.approx(np.median(depths), rel=0.15)


@pytest.mark.parametrize("unit", [1e-3, 1e4])
def test_depth_is_in_the_unit_of_the_poses_wherever_the_world_begins(unit: float) -> None:
    frames = wall_frames(moved(0), moved(0.2))
    turned = SE3.exp(np.array([0.3, -0.4, 1.0]), np.array([5.0, -2.0, 8.0]))
    there = []
    for frame in frames:
        assert frame.world_from_cam is not None
        placed = turned @ frame.world_from_cam
        there.append(
            replace(frame, world_from_cam=SE3(rotation=placed.rotation, translation=placed.translation * unit))
        )
    assert learnt(there) == pytest.approx(learnt(frames) * unit, rel=1e-3)


def test_what_cannot_be_measured_is_assumed() -> None:
    still, turned = wall_frames(moved(0), moved(0, 0.2))
    assert learnt([still]) == 9.0, "one view has no depth"
    assert learnt([still, turned]) == 9.0, "a camera that only turned has none"
    blank = replace(turned, rgb_u8=np.full_like(turned.rgb_u8, 90))
    assert learnt([still, blank]) == 9.0
    unposed = [replace(f, world_from_cam=None) for f in wall_frames(moved(0), moved(0.2))]
    assert learnt(unposed) == 9.0


def test_wrong_poses_give_no_depth() -> None:
    first, second = wall_frames(moved(0), moved(0.2))
    up = SE3.exp(np.zeros(3), np.array([0.0, 0.2, 0.0]))
    assert learnt([first, replace(second, world_from_cam=up)]) == 9.0


def test_the_newest_depth_of_a_camera_holds_until_the_next_and_a_sensor_is_believed() -> None:
    near, nearer = wall_frames(moved(0), moved(0.2))
    depth = SceneDepth(9.0)
    for frame in (near, nearer, replace(nearer, rgb_u8=np.zeros_like(nearer.rgb_u8))):
        depth.add_keyframe(frame)
    assert depth.of(near) == pytest.approx(1.0, rel=0.02)
    assert depth.of(replace(near, camera_name="rear")) == 9.0
    sensed = replace(near, depth_m=np.full((180, 240), 3.0, np.float32))
    assert depth.of(sensed) == 3.0
    assert depth.of(replace(sensed, depth_m=np.full((180, 240), np.nan, np.float32))) == pytest.approx(1.0, rel=0.02)


# Both paths -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def drive() -> list[Frame]:
    """Past a wall that is nearer than assumed."""
    frames = wall_frames(*(moved(0.07 * k) for k in range(STEPS)))
    return [replace(f, stamp_ns=(k + 1) * 1_000_000_000) for k, f in enumerate(frames)]


def map_of(keyframes: Any) -> tuple[PointCloud, dict[int, SE3]]:
    """A map that says that all is 20 cm away, which would make keyframes of all frames."""
    poses = {k.id: k.frame.world_from_cam for k in keyframes}
    near = np.random.default_rng(0).uniform((-0.1, -0.1, 0.1), (0.1, 0.1, 0.3), (500, 3))
    places = [pose.apply(near) for pose in poses.values()]
    count = 500 * len(poses)
    cloud = PointCloud(
        points=np.concatenate(places).astype(np.float32),
        rgb_u8=np.zeros((count, 3), np.uint8),
        confidence=np.ones(count, np.float32),
        provenance=np.full(count, Provenance.OBSERVED, np.uint8),
        keyframe_ids=np.repeat(np.array(list(poses), np.uint32), 500),
    )
    return cloud, poses


CONFIG = updated(ReconxConfig(), {"coverage.min_keyframes": 2, "keyframes.max_buffer": 5})


def kept_offline(frames: list[Frame], monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Every job ends before the next frame comes."""
    from reconx_ros.cli import replay_offline
    from reconx_ros.cli.common import Progress

    class Maps:
        def __init__(self, config: ReconxConfig) -> None:
            del config

        def run(self, keyframes: Any, **_: Any) -> SimpleNamespace:
            cloud, poses = map_of(keyframes)
            return SimpleNamespace(cloud=cloud, keyframe_poses=poses, report={})

    monkeypatch.setattr(replay_offline, "Reconstructor", Maps)
    run = replay_offline._Offline(CONFIG, Progress(quiet=True))
    for frame in frames:
        run.add(frame)
    assert run.mapper.reconstructions > 0
    return list(run.stamps.items())


class Robot:
    """The node's session, whose jobs end when the test says so."""

    absence, name = "", "robot"

    def __init__(self) -> None:
        from reconx_ros.ros.robot.map_session import MapSession

        self.requests: list[Any] = []
        self.kept: list[tuple[int, int]] = []
        silent: Any = SimpleNamespace(info=str, warning=str, error=str)
        self.session = MapSession(CONFIG, self, self, silent)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None

    def keyframe(self, keyframe: Any, *_: Any) -> None:
        """Published as an output."""
        self.kept.append((keyframe.id, keyframe.frame.stamp_ns))

    def start(self, request: Any) -> int:
        """Asked as a client."""
        self.requests.append(request)
        return 0

    def end_job(self) -> None:
        from reconx_ros.jobs.data import JobOutcome

        request = self.requests.pop()
        cloud, poses = map_of(
            SimpleNamespace(id=k.id, frame=SimpleNamespace(world_from_cam=k.view.pose)) for k in request.keyframes
        )
        self.session.take_outcome(request, JobOutcome(cloud=cloud, keyframe_poses=poses, report_json="{}"))


def kept_live(frames: list[Frame], job_frames: int) -> list[tuple[int, int]]:
    """A job ends when so many frames have come since it began."""
    robot, since = Robot(), 0
    for frame in frames:
        robot.session.add_frame(frame, "cam")
        since = since + 1 if robot.requests else 0
        if robot.requests and since > job_frames:
            robot.end_job()
    assert robot.session.facts.reconstructions or job_frames >= len(frames)
    return robot.kept


def test_offline_and_live_keep_the_same_frames_whenever_maps_come(
    drive: list[Frame], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("reconx_ros.msg")
    offline = kept_offline(drive, monkeypatch)
    assert 3 < len(offline) < len(drive)
    for job_frames in (0, 2, 5, 1000):
        assert kept_live(drive, job_frames) == offline


def test_a_loaded_map_changes_no_keyframes(drive: list[Frame]) -> None:
    fresh, loaded = KeyframeMapper(CONFIG), KeyframeMapper(CONFIG)
    cloud, poses = map_of([SimpleNamespace(id=0, frame=drive[0])])
    loaded.restore(cloud, poses)
    kept = [[mapper.add_frame(f).kept for f in drive] for mapper in (fresh, loaded)]
    assert kept[0] == kept[1]
    assert [k.frame.stamp_ns for k in fresh.keyframes] == [k.frame.stamp_ns for k in loaded.keyframes]

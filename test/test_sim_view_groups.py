"""Groups of simulated views for training: reproducible, overlapping, and never from rooms of the other split."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest

from reconx_ros.core import ConfigError, Frame, InvalidInputError
from reconx_ros.sim import view_groups
from reconx_ros.sim.view_groups import DIFFICULTIES, RoomViewGroups, ViewGroupConfig, difficulty

SMALL = {"width": 32, "height": 24, "open_rooms": 1, "texel_m": 0.1}


@pytest.fixture(scope="module")
def groups() -> RoomViewGroups:
    return RoomViewGroups(ViewGroupConfig(views=3, min_overlap=0.5, **SMALL))


def seen_share(first: Frame, other: Frame) -> float:
    """Share of the first view's pixels that the other view sees, by both depth maps."""
    assert first.depth_m is not None and other.depth_m is not None
    assert first.world_from_cam is not None and other.world_from_cam is not None
    v, u = np.indices(first.depth_m.shape)
    camera = first.camera
    rays = np.stack([(u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy, np.ones(u.shape)], axis=-1)
    points = (rays * first.depth_m[..., None]).reshape(-1, 3)
    cam = (other.world_from_cam.inverse() @ first.world_from_cam).apply(points)
    z = np.maximum(cam[:, 2], 1e-6)
    column = np.rint(other.camera.fx * cam[:, 0] / z + other.camera.cx)
    row = np.rint(other.camera.fy * cam[:, 1] / z + other.camera.cy)
    inside = (cam[:, 2] > 0) & (column >= 0) & (column < other.camera.width) & (row >= 0) & (row < other.camera.height)
    met = other.depth_m[row[inside].astype(int), column[inside].astype(int)]
    return float((np.abs(met / z[inside] - 1) < 0.08).sum() / len(z))


def test_views_overlap_at_the_asked_distance(groups: RoomViewGroups) -> None:
    for number in range(4):
        first, *others = groups(number)
        assert first.depth_m is not None and first.world_from_cam is not None
        assert first.depth_m.min() > 0 and np.median(first.depth_m) > 0.8
        assert len(others) == 2
        for other in others:
            assert other.world_from_cam is not None
            assert 0.1 <= first.world_from_cam.distance_to(other.world_from_cam) <= 0.6
            assert seen_share(first, other) > 0.35


def test_a_number_is_always_the_same_group(groups: RoomViewGroups) -> None:
    again = RoomViewGroups(groups.config)
    sent = copy.deepcopy(RoomViewGroups(groups.config))  # as to a worker process
    for source in (again, sent):
        for a, b in zip(groups(3), source(3), strict=True):
            assert np.array_equal(a.rgb_u8, b.rgb_u8) and np.array_equal(a.depth_m, b.depth_m)
            assert a.world_from_cam is not None and np.array_equal(a.world_from_cam.matrix, b.world_from_cam.matrix)
    assert not np.array_equal(groups(3)[0].rgb_u8, groups(2)[0].rgb_u8)


def test_rooms_of_the_splits_never_mix() -> None:
    train = RoomViewGroups(ViewGroupConfig(seed=3))
    held_out = RoomViewGroups(ViewGroupConfig(seed=3, split="validation"))
    seeds = [{source.room_seed(room) for room in range(500)} for source in (train, held_out)]
    assert not seeds[0] & seeds[1]
    assert all(len(s) == 500 for s in seeds)


def test_rooms_are_exchanged_one_after_the_other() -> None:
    source = RoomViewGroups(ViewGroupConfig(open_rooms=4, groups_per_room=8))
    rooms = [source.room(number) for number in range(200)]
    assert all(len(set(rooms[k : k + 4])) == 4 for k in range(0, 200, 4))
    new = [sum(r not in rooms[:k] for r in set(rooms[k : k + 8])) for k in range(8, 192, 8)]
    assert max(new) == 1
    assert max(rooms.count(room) for room in rooms) == 8


def test_harder_is_harder() -> None:
    easy, medium, hard = (DIFFICULTIES[name] for name in ("easy", "medium", "hard"))
    assert easy.max_baseline_m < medium.max_baseline_m < hard.max_baseline_m
    assert easy.min_overlap > medium.min_overlap > hard.min_overlap
    assert easy.plain < medium.plain < hard.plain and easy.lighting < medium.lighting < hard.lighting
    views = RoomViewGroups(replace(hard, **SMALL))(0)
    assert views[0].rgb_u8.std() > 5
    with pytest.raises(ConfigError, match="easy, medium, hard"):
        difficulty("impossible", DIFFICULTIES)


def test_room_without_such_views(groups: RoomViewGroups, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view_groups.RoomScene, "is_clear", lambda *_: False)
    with pytest.raises(InvalidInputError, match=r"3 views with an overlap of 0\.5 at 0\.1 m to 0\.6 m"):
        groups(0)

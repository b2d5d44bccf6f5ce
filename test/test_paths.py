"""Laws of camera paths."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reconx_ros.core import SE3, AlignedViews, InvalidInputError, PinholeCamera, PointMap
from reconx_ros.diffusion.clips.trajectory import length_per_radian, plan_trajectory
from reconx_ros.geometry.paths import PosePath, order_poses, pose_distance, poses_between, share_out, smooth_path

WEIGHT = 0.7


def pose(rng: np.random.Generator) -> SE3:
    return SE3.exp(rng.normal(size=3) * 0.5, rng.normal(size=3))


def keys(seed: int, count: int = 5) -> list[SE3]:
    rng = np.random.default_rng(seed)
    return [pose(rng) for _ in range(count)]


def arc(count: int) -> list[SE3]:
    """Cameras on a half circle of radius 2, turning with it."""
    angles = np.linspace(0, np.pi, count)
    return [SE3.exp(np.array([0, 0, a]), np.array([2 * np.cos(a), 2 * np.sin(a), 0])) for a in angles]


def close(a: SE3, b: SE3, tolerance: float = 1e-9) -> bool:
    return bool(np.allclose(a.matrix, b.matrix, atol=tolerance))


def walk(path: PosePath, per_segment: int) -> list[SE3]:
    return [path.at(k, t) for k in range(len(path.keys) - 1) for t in np.linspace(0, 1, per_segment, endpoint=False)]


@given(st.integers(0, 10_000))
def test_the_curve_passes_all_keys(seed: int) -> None:
    k = keys(seed)
    path = smooth_path(k, WEIGHT)
    for segment in range(4):
        assert close(path.at(segment, 0), k[segment])
        assert close(path.at(segment, 1), k[segment + 1], 1e-7)


@settings(max_examples=25)
@given(st.integers(0, 10_000))
def test_velocity_is_continuous_at_keys(seed: int) -> None:
    path = smooth_path(keys(seed), WEIGHT)
    eps = 1e-5
    for k in range(1, 4):
        before, key, after = path.at(k - 1, 1 - eps), path.at(k, 0), path.at(k, eps)
        left, right = path.knots[k] - path.knots[k - 1], path.knots[k + 1] - path.knots[k]
        coming = (key.translation - before.translation) / (eps * left)
        going = (after.translation - key.translation) / (eps * right)
        assert coming == pytest.approx(going, abs=1e-3 * (1 + float(np.linalg.norm(going))))
        assert before.angle_to(key) / left == pytest.approx(key.angle_to(after) / right, rel=1e-2, abs=1e-6)


@given(st.integers(0, 10_000), st.floats(0, 1))
def test_the_curve_moves_along_with_the_world(seed: int, fraction: float) -> None:
    k = keys(seed)
    other_from_world = pose(np.random.default_rng(seed + 1))
    path, moved = smooth_path(k, WEIGHT), smooth_path([other_from_world @ p for p in k], WEIGHT)
    assert close(moved.at(2, fraction), other_from_world @ path.at(2, fraction), 1e-7)


@given(st.integers(0, 10_000), st.floats(0, 1))
def test_the_way_back_is_the_same_curve(seed: int, fraction: float) -> None:
    k = keys(seed)
    there, back = smooth_path(k, WEIGHT), smooth_path(k[::-1], WEIGHT)
    assert close(there.at(1, fraction), back.at(2, 1 - fraction), 1e-6)


@given(st.integers(0, 10_000), st.floats(0, 1))
def test_two_keys_are_joined_as_tf2_would(seed: int, fraction: float) -> None:
    a, b = keys(seed, 2)
    assert close(smooth_path([a, b], WEIGHT).at(0, fraction), a.interpolate(b, fraction), 1e-7)


def test_even_keys_on_an_arc_stay_near_the_arc() -> None:
    path = smooth_path(arc(7), WEIGHT)
    for p in walk(path, 20):
        assert np.linalg.norm(p.translation) == pytest.approx(2, abs=0.03)
        radial = p.translation / np.linalg.norm(p.translation)
        assert p.rotation[:, 0] @ radial > 0.999


def test_uneven_keys_do_not_make_loops() -> None:
    xs = [0.0, 1.0, 1.01, 3.0, 3.001]
    path = smooth_path([SE3.exp(np.zeros(3), np.array([x, 0.1 * (k % 2), 0])) for k, x in enumerate(xs)], WEIGHT)
    travelled = [p.translation for p in walk(path, 50)]
    assert np.diff([t[0] for t in travelled]).min() > -0.02


@settings(max_examples=10)
@given(st.integers(0, 10_000), st.integers(0, 40))
def test_poses_lie_between_keys_at_even_steps(seed: int, count: int) -> None:
    path = smooth_path(keys(seed), WEIGHT)
    got = poses_between(path, count, WEIGHT)
    assert len(got) == count
    for p, key in itertools.product(got, path.keys):
        assert pose_distance(p, key, WEIGHT) > 1e-3


def test_steps_of_equal_length_agree_with_a_fine_walk() -> None:
    path = smooth_path(keys(3), WEIGHT)
    count = 23
    got = poses_between(path, count, WEIGHT)
    expected: list[SE3] = []
    fine = [[path.at(k, t) for t in np.linspace(0, 1, 501)] for k in range(4)]
    lengths = [sum(pose_distance(a, b, WEIGHT) for a, b in itertools.pairwise(f)) for f in fine]
    for f, length, share in zip(fine, lengths, share_out(count, lengths), strict=True):
        walked, targets = 0.0, [length * (j + 1) / (share + 1) for j in range(share)]
        for a, b in itertools.pairwise(f):
            walked += pose_distance(a, b, WEIGHT)
            while targets and walked >= targets[0]:
                expected.append(b)
                targets.pop(0)
    assert len(expected) == count
    for a, b in zip(got, expected, strict=True):
        assert pose_distance(a, b, WEIGHT) < 0.01 * max(lengths)


@given(st.integers(0, 200), st.lists(st.floats(0, 10), min_size=1, max_size=12))
def test_shares_are_whole_complete_and_fair(count: int, lengths: list[float]) -> None:
    shares = share_out(count, lengths)
    assert sum(shares) == count
    weights = np.array(lengths) if sum(lengths) > 0 else np.ones(len(lengths))
    assert np.abs(np.array(shares) - count * weights / weights.sum()).max() <= 1


@given(st.permutations(range(7)))
def test_shuffled_poses_of_an_arc_come_back_in_order(shuffle: list[int]) -> None:
    poses = arc(7)
    order = [shuffle[k] for k in order_poses([poses[k] for k in shuffle], WEIGHT)]
    assert order in (list(range(7)), list(range(7))[::-1])


@settings(max_examples=10)
@given(st.integers(0, 10_000))
def test_order_is_nearly_as_short_as_the_best_of_all(seed: int) -> None:
    poses = keys(seed, 6)

    def length(order: tuple[int, ...] | list[int]) -> float:
        return sum(pose_distance(poses[a], poses[b], WEIGHT) for a, b in itertools.pairwise(order))

    found = order_poses(poses, WEIGHT)
    assert sorted(found) == list(range(6))
    assert found[0] < found[-1]
    assert length(found) <= 1.15 * min(length(o) for o in itertools.permutations(range(6)))
    assert length(found) <= length(list(range(6))) + 1e-9


def test_degenerate_keys_do_not_break_anything() -> None:
    same = [SE3.identity()] * 3
    got = poses_between(smooth_path(same, WEIGHT), 5, WEIGHT)
    assert all(close(p, SE3.identity()) for p in got)
    assert order_poses([], WEIGHT) == []
    assert order_poses(same, WEIGHT) == [0, 1, 2]
    half_turn = [SE3.identity(), SE3.exp(np.array([0, 0, np.pi]), np.zeros(3))]
    assert len(poses_between(smooth_path(half_turn, WEIGHT), 3, WEIGHT)) == 3
    for bad in (lambda: smooth_path(same[:1], 1.0), lambda: smooth_path(same, -1.0)):
        with pytest.raises(InvalidInputError):
            bad()
    with pytest.raises(InvalidInputError, match="-1"):
        poses_between(smooth_path(same, WEIGHT), -1, WEIGHT)
    with pytest.raises(InvalidInputError, match="segment is 2"):
        smooth_path(same, WEIGHT).at(2, 0.5)


def views(poses: list[SE3], depth: float = 3.0) -> AlignedViews:
    camera = PinholeCamera(width=64, height=48, fx=50, fy=50, cx=31.5, cy=23.5)
    plane = torch.full((48, 64), depth)
    maps = tuple(
        PointMap(
            rgb=torch.zeros(48, 64, 3),
            depth=plane,
            confidence=torch.ones(48, 64),
            valid=torch.ones(48, 64, dtype=torch.bool),
            provenance=torch.ones(48, 64, dtype=torch.uint8),
            camera=camera,
            world_from_cam=p,
            keyframe_id=k,
        )
        for k, p in enumerate(poses)
    )
    return AlignedViews(views=maps, metric_scale=True, scale_source="test", backend="test")


def test_a_trajectory_visits_shuffled_keyframes_in_order() -> None:
    poses = arc(6)
    shuffled = [poses[k] for k in (3, 0, 5, 1, 4, 2)]
    trajectory = plan_trajectory(views(shuffled), 20, max_size=32)
    assert len(trajectory) == 20
    assert trajectory.camera.size == (32, 24)
    turned = [np.arctan2(p.translation[1], p.translation[0]) for p in trajectory.world_from_cams]
    assert (np.diff(turned) > 0).all() or (np.diff(turned) < 0).all()


def test_a_turn_is_worth_half_the_depth() -> None:
    assert length_per_radian(views(arc(2), depth=4.0)) == pytest.approx(2.0)


def test_a_trajectory_needs_two_views() -> None:
    with pytest.raises(InvalidInputError, match="at least 2"):
        plan_trajectory(views(arc(1)), 4, max_size=64)
    assert len(plan_trajectory(views(arc(2)), 0, max_size=64)) == 0

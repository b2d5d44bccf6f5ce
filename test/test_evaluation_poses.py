"""Pose errors on hand-worked cases, and the laws they keep."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconx_ros.core import SE3, InvalidInputError, Sim3
from reconx_ros.core.transforms import rotation_exp
from reconx_ros.evaluation.poses import (
    absolute_errors,
    binned_auc,
    pair_errors,
    pose_auc,
    relative_pose_errors,
    spatialcrafter_errors,
)


def at(*place: float, turn: tuple[float, float, float] = (0, 0, 0)) -> SE3:
    return SE3(rotation=rotation_exp(np.radians(turn)), translation=np.array(place, float))


def path(count: int = 6, seed: int = 0) -> list[SE3]:
    rng = np.random.default_rng(seed)
    return [SE3.exp(0.3 * rng.normal(size=3), rng.normal(size=3)) for _ in range(count)]


def noisy(poses: list[SE3], seed: int = 1) -> list[SE3]:
    rng = np.random.default_rng(seed)
    return [p @ SE3.exp(0.05 * rng.normal(size=3), 0.1 * rng.normal(size=3)) for p in poses]


def test_a_perfect_estimate_has_no_error() -> None:
    poses = path()
    assert absolute_errors(poses, poses).ate < 1e-12
    assert max(e.max() for e in relative_pose_errors(poses, poses)) < 1e-10
    pairs = pair_errors(poses, poses)
    assert len(pairs.rotation_deg) == 15 and pairs.worst_deg.max() < 1e-10
    assert max(spatialcrafter_errors(poses, poses)) < 1e-10
    assert pose_auc(pairs.worst_deg)[5.0] == pytest.approx(1.0)


@given(
    scale=st.floats(0.01, 100),
    turn=st.tuples(*[st.floats(-3, 3)] * 3),
    shift=st.tuples(*[st.floats(-50, 50)] * 3),
    count=st.integers(2, 7),
)
def test_errors_do_not_depend_on_the_world_of_the_estimate(scale: float, turn: tuple, shift: tuple, count: int) -> None:
    other = Sim3(scale=scale, rotation=rotation_exp(np.array(turn)), translation=np.array(shift))
    truth = path(count)
    estimate = noisy(truth)
    again = [other.apply_pose(p) for p in estimate]
    a, b = absolute_errors(estimate, truth), absolute_errors(again, truth)
    np.testing.assert_allclose(a.position, b.position, atol=1e-6)
    np.testing.assert_allclose(a.rotation_deg, b.rotation_deg, atol=1e-5)
    assert b.truth_from_estimate.scale == pytest.approx(a.truth_from_estimate.scale / scale, rel=1e-6)
    p, q = pair_errors(estimate, truth), pair_errors(again, truth)
    np.testing.assert_allclose(p.rotation_deg, q.rotation_deg, atol=1e-5)
    np.testing.assert_allclose(p.direction_deg, q.direction_deg, atol=1e-5)
    np.testing.assert_allclose(spatialcrafter_errors(estimate, truth), spatialcrafter_errors(again, truth), atol=1e-6)
    scaled = relative_pose_errors(again, truth, with_scale=True)
    np.testing.assert_allclose(scaled[0], relative_pose_errors(estimate, truth, with_scale=True)[0], atol=1e-6)


def test_a_rigid_alignment_keeps_the_unit() -> None:
    truth = [at(0, 0, 0), at(2, 0, 0), at(0, 2, 0), at(0, 0, 2)]
    doubled = [at(0, 0, 0), at(4, 0, 0), at(0, 4, 0), at(0, 0, 4)]
    assert absolute_errors(doubled, truth).ate < 1e-9
    assert absolute_errors(doubled, truth).truth_from_estimate.scale == pytest.approx(0.5)
    # Centred, each of the four points is as far from where it should be as the true one is from the mean.
    spread = np.array([p.translation for p in truth]) - 0.5
    assert absolute_errors(doubled, truth, align="se3").ate == pytest.approx(np.sqrt((spread**2).sum(axis=1).mean()))


def test_absolute_errors_without_alignment_by_hand() -> None:
    truth = [at(0, 0, 0), at(1, 0, 0)]
    estimate = [at(0, 0, 3), at(1, 4, 0, turn=(0, 90, 0))]
    errors = absolute_errors(estimate, truth, align="none")
    np.testing.assert_allclose(errors.position, [3, 4])
    np.testing.assert_allclose(errors.rotation_deg, [0, 90], atol=1e-9)
    assert errors.ate == pytest.approx(math.sqrt(12.5))


def test_relative_error_of_a_constant_drift_by_hand() -> None:
    truth = [at(i, 0, 0) for i in range(5)]
    estimate = [at(1.1 * i, 0, 0, turn=(0, 0, 2 * i)) for i in range(5)]
    moves, turns = relative_pose_errors(truth, truth, step=2)
    assert len(moves) == 3 and moves.max() == 0 and turns.max() == 0
    moves, turns = relative_pose_errors(estimate, truth)
    np.testing.assert_allclose(turns, 2.0, atol=1e-9)
    # Motion of the estimate in its own frame: 1.1 along the heading, against 1 straight ahead.
    wanted = [math.hypot(1.1 * math.cos(a) - 1, 1.1 * math.sin(a)) for a in np.radians([0, 2, 4, 6])]
    np.testing.assert_allclose(moves, wanted, atol=1e-9)


def test_pair_errors_by_hand() -> None:
    truth = [at(0, 0, 0), at(1, 0, 0)]
    turned = pair_errors([at(0, 0, 0), at(1, 1, 0, turn=(10, 0, 0))], truth)
    np.testing.assert_allclose([turned.rotation_deg[0], turned.direction_deg[0]], [10, 45], atol=1e-9)
    assert turned.worst_deg[0] == pytest.approx(45)
    backwards = [at(0, 0, 0), at(-1, 0, 0)]
    assert pair_errors(backwards, truth).direction_deg[0] == pytest.approx(180)
    assert pair_errors(backwards, truth, sign_free=True).direction_deg[0] == pytest.approx(0)
    assert pair_errors([at(0, 0, 0), at(0, 0, 0)], truth).direction_deg[0] == pytest.approx(180)


def test_missing_cameras_are_infinitely_wrong_and_true_standstill_has_no_direction() -> None:
    truth = [at(0, 0, 0), at(1, 0, 0), at(1, 0, 0)]
    errors = pair_errors([truth[0], None, truth[2]], truth)
    np.testing.assert_array_equal(errors.rotation_deg, [np.inf, 0, np.inf])
    standstill = pair_errors(truth, truth)
    assert np.isnan(standstill.direction_deg[2]) and standstill.worst_deg[2] == 0
    assert len(absolute_errors([truth[0], truth[1], None], truth).position) == 2


def test_area_under_the_curve_by_hand() -> None:
    # Recall rises linearly from (0, 0) to (2, 0.5), then to (4, 1), then stays: 0.5 + 1.5 + 6 of 10.
    assert pose_auc(np.array([4.0, 2.0]), [10.0])[10.0] == pytest.approx(0.8)
    assert pose_auc(np.array([np.inf, np.inf]), [5.0])[5.0] == 0
    assert pose_auc(np.zeros(3), [5.0])[5.0] == pytest.approx(1)
    # Half of the pairs at zero: half of the area; the next sample lies beyond the threshold.
    assert pose_auc(np.array([0.0, 30.0]), [10.0])[10.0] == pytest.approx(0.5)
    assert binned_auc(np.array([0.5, 2.5, 100.0, 100.0]), 4) == pytest.approx((0.25 + 0.25 + 0.5 + 0.5) / 4)
    assert np.isnan(pose_auc(np.zeros(0))[5.0]) and np.isnan(binned_auc(np.zeros(0), 5))


@given(errors=st.lists(st.floats(0, 180), min_size=1, max_size=30))
def test_area_is_monotone_and_bounded(errors: list[float]) -> None:
    areas = pose_auc(np.array(errors), (5.0, 10.0, 20.0))
    assert all(0 <= a <= 1 for a in areas.values())
    better = pose_auc(np.array(errors) * 0.5, (5.0, 10.0, 20.0))
    assert all(better[t] >= areas[t] - 1e-12 for t in areas)


def test_spatialcrafter_errors_by_hand() -> None:
    truth = [at(5, 5, 5), at(6, 5, 5), at(7, 5, 5)]
    estimate = [at(0, 0, 0), at(0, 1, 0, turn=(0, 0, 30)), at(4, 0, 0)]
    rotation, translation = spatialcrafter_errors(estimate, truth)
    assert rotation == pytest.approx(math.radians(30))
    assert translation == pytest.approx(math.hypot(0.5, 0.25))


def test_bad_input_is_refused_in_one_sentence() -> None:
    one, two = [at(0, 0, 0)], [at(0, 0, 0), at(1, 0, 0)]
    for call, text in (
        (lambda: absolute_errors(one, two), "1 estimated poses for 2"),
        (lambda: absolute_errors([None, at(1, 0, 0)], two), "1 of 2 cameras are registered"),
        (lambda: absolute_errors(two, two, align="affine"), "alignment is 'affine'"),
        (lambda: absolute_errors(two, two, centres_only=True), "2 points"),
        (lambda: relative_pose_errors(two, two, step=2), "step is 2 with 2 frames"),
        (lambda: spatialcrafter_errors([two[0], two[0]], two), "2 frames move by 0"),
    ):
        with pytest.raises(InvalidInputError, match=text):
            call()

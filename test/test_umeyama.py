"""Similarities between point sets and between sets of poses: recovered exactly, robust, refused where undetermined."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconx_ros.core import SE3, InvalidInputError, Sim3
from reconx_ros.core.transforms import rotation_exp
from reconx_ros.geometry.umeyama import align_poses, centred_spread, robust_align_poses, robust_umeyama, umeyama

SIMILARITY = Sim3(scale=2.5, rotation=rotation_exp(np.array([0.4, -1.1, 0.7])), translation=np.array([3.0, -20.0, 1.0]))


def cloud(count: int = 12, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 3))


def cameras(count: int, seed: int = 0, *, line: bool = False) -> list[SE3]:
    rng = np.random.default_rng(seed)
    places = np.outer(np.arange(count), [0.3, 0.1, 0.0]) if line else rng.normal(size=(count, 3))
    return [SE3(rotation=rotation_exp(0.5 * rng.normal(size=3)), translation=p) for p in places]


def moved(poses: list[SE3], similarity: Sim3 = SIMILARITY) -> list[SE3]:
    return [similarity.apply_pose(p) for p in poses]


def assert_same(found: Sim3, wanted: Sim3, atol: float = 1e-9) -> None:
    assert found.scale == pytest.approx(wanted.scale, rel=1e-9 if atol < 1e-6 else atol)
    np.testing.assert_allclose(found.rotation, wanted.rotation, atol=atol)
    np.testing.assert_allclose(found.translation, wanted.translation, atol=20 * atol)


@given(
    scale=st.floats(1e-3, 1e3),
    turn=st.tuples(*[st.floats(-3, 3)] * 3),
    shift=st.tuples(*[st.floats(-1e3, 1e3)] * 3),
    seed=st.integers(0, 50),
)
def test_any_similarity_is_recovered(scale: float, turn: tuple, shift: tuple, seed: int) -> None:
    wanted = Sim3(scale=scale, rotation=rotation_exp(np.array(turn)), translation=np.array(shift))
    points = cloud(5, seed)
    found = umeyama(wanted.apply(points), points)
    np.testing.assert_allclose(found.apply(points), wanted.apply(points), atol=1e-8 * max(1.0, scale, *np.abs(shift)))
    assert found.scale == pytest.approx(scale, rel=1e-6)


def test_a_mirror_image_in_a_plane_is_a_rotation_in_space() -> None:
    """The triangles of Umeyama 1991, sec. IV, laid into space."""
    a = np.array([[0.0, 0, 0], [-1, 0, 0], [0, 2, 0]])
    b = np.array([[0.0, 0, 0], [1, 0, 0], [0, 2, 0]])
    found = umeyama(a, b)
    assert found.scale == pytest.approx(1.0)
    np.testing.assert_allclose(found.rotation, np.diag([-1.0, 1.0, -1.0]), atol=1e-12)


def test_a_mirror_image_is_fitted_by_a_rotation() -> None:
    points = cloud()
    found = umeyama(points * [-1, 1, 1], points)
    assert np.linalg.det(found.rotation) == pytest.approx(1.0)
    assert found.scale < 1.0


def test_the_optimum_is_a_minimum() -> None:
    rng = np.random.default_rng(1)
    points, weights = cloud(), rng.uniform(0.1, 2, 12)
    noisy = SIMILARITY.apply(points) + 0.2 * rng.normal(size=points.shape)
    found = umeyama(noisy, points, weights=weights)

    def cost(similarity: Sim3) -> float:
        return float(weights @ ((similarity.apply(points) - noisy) ** 2).sum(axis=1))

    for turn in 1e-3 * rng.normal(size=(20, 3)):
        nudge = Sim3(scale=float(np.exp(turn[0])), rotation=rotation_exp(turn), translation=turn)
        assert cost(found) < cost(found @ nudge)
        assert cost(found) < cost(nudge @ found)


def test_without_scale_the_fit_is_rigid() -> None:
    rigid = Sim3(scale=1.0, rotation=SIMILARITY.rotation, translation=SIMILARITY.translation)
    assert_same(umeyama(rigid.apply(cloud()), cloud(), with_scale=False), rigid)
    assert umeyama(SIMILARITY.apply(cloud()), cloud(), with_scale=False).scale == 1.0


def test_weights_act_as_repetition_and_zero_leaves_out() -> None:
    a, b = SIMILARITY.apply(cloud()) + 0.1 * cloud(seed=3), cloud()
    weights = np.ones(12)
    weights[2], weights[5] = 3, 0
    keep = np.array([i for i in range(12) if i != 5] + [2, 2])
    assert_same(umeyama(a, b, weights=weights), umeyama(a[keep], b[keep]))


def test_wrong_points_do_not_move_the_robust_fit() -> None:
    a = SIMILARITY.apply(cloud(20))
    a[:8] += 5 * cloud(8, seed=2) + 10
    found, agree = robust_umeyama(a, cloud(20), threshold=0.1)
    assert_same(found, SIMILARITY)
    np.testing.assert_array_equal(agree, np.arange(20) >= 8)
    assert np.abs(umeyama(a, cloud(20)).rotation - SIMILARITY.rotation).max() > 0.2


def test_many_points_are_sampled_the_same_way_for_a_seed() -> None:
    a = SIMILARITY.apply(cloud(60)) + 0.02 * cloud(60, seed=4)
    a[:20] += 8
    first, agree = robust_umeyama(a, cloud(60), threshold=0.2, seed=7)
    second, _ = robust_umeyama(a, cloud(60), threshold=0.2, seed=7)
    assert first.scale == second.scale
    np.testing.assert_array_equal(first.rotation, second.rotation)
    assert agree[20:].all() and not agree[:20].any()


@pytest.mark.parametrize("line", [False, True])
@pytest.mark.parametrize("count", [2, 3, 7])
def test_poses_are_aligned_by_centres_and_orientations(count: int, line: bool) -> None:
    poses = cameras(count, line=line)
    assert_same(align_poses(moved(poses), poses), SIMILARITY)


def test_one_wrong_pose_of_five_is_found() -> None:
    poses = cameras(5)
    given = moved(poses)
    given[3] = SE3(rotation=given[3].rotation, translation=given[3].translation + np.array([9.0, -4.0, 2.0]))
    found, agree = robust_align_poses(given, poses, threshold=0.2)
    assert_same(found, SIMILARITY)
    assert agree.tolist() == [True, True, True, False, True]


def test_two_cameras_need_orientations() -> None:
    poses = cameras(2)
    with pytest.raises(InvalidInputError, match="2 points"):
        align_poses(moved(poses), poses, orientations=False)


def test_undetermined_fits_are_refused_in_one_sentence() -> None:
    line = np.outer(np.arange(5.0), [1.0, 2.0, 3.0])
    same = np.ones((5, 3))
    cases = [
        ((line, cloud(5)), "do not lie on one line"),
        ((cloud(5), line), "do not lie on one line"),
        ((same, cloud(5)), "spread of"),
        ((cloud(2), cloud(2)), "2 points"),
        ((cloud(4), cloud(5)), "points_b has shape"),
        ((np.full((4, 3), np.nan), cloud(4)), "NaN"),
    ]
    for points, text in cases:
        with pytest.raises(InvalidInputError, match=text):
            umeyama(*points)
        with pytest.raises(InvalidInputError, match=text):
            robust_umeyama(*points, threshold=1.0)
    still = [SE3.identity()] * 3
    with pytest.raises(InvalidInputError, match="different centres"):
        align_poses(still, cameras(3))
    with pytest.raises(InvalidInputError, match="some positive"):
        umeyama(cloud(), cloud(), weights=np.zeros(12))
    with pytest.raises(InvalidInputError, match="threshold is 0"):
        robust_umeyama(cloud(), cloud(), threshold=0.0)


def test_spread_is_the_deviation_along_the_axes() -> None:
    points = cloud(5000) * [3.0, 2.0, 0.5] + 100
    np.testing.assert_allclose(centred_spread(points), [3.0, 2.0, 0.5], rtol=0.05)

"""Pose of an image from points of the model and from directions that cross, with numbers of real few-view scenes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from pointmap_scenes import look_at, pinhole

from reconx_ros.core import SE3
from reconx_ros.pointmap.matching.features import Matches
from reconx_ros.pointmap.sfm.planar import nearest_rotation
from reconx_ros.pointmap.sfm.resection import _crossing, resect, resect_from_pairs
from reconx_ros.pointmap.sfm.two_view import TwoViewGeometry

Pairs = dict[tuple[int, int], TwoViewGeometry]
Vector = tuple[float, float, float]

# Four views of ``pointmap_scenes.room``, 320 x 240 with one grey level of noise, and what ``two_view.estimate`` made of
# each pair: rotation vector and translation of b_from_a, standard deviations in degrees.
EYES = ((-1.8, -0.5, 1.1), (-1.8, 0.1, 1.1), (-1.6, -0.2, 1.55), (-1.3, -0.35, 1.0))
ROOM: dict[tuple[int, int], tuple[Vector, Vector, tuple[float, float]]] = {
    (0, 1): ((0.0014, -0.1935, -0.0205), (0.9999, -0.0032, 0.0155), (0.078, 0.259)),
    (0, 2): ((0.1744, -0.0611, -0.0117), (0.477, 0.8615, -0.1741), (0.082, 0.234)),
    (0, 3): ((-0.0202, 0.0372, 0.0035), (0.075, -0.1046, -0.9917), (0.041, 0.225)),
    (1, 2): ((0.172, 0.1301, 0.0253), (-0.5558, 0.8292, -0.0595), (0.109, 0.241)),
    (1, 3): ((-0.0217, 0.2311, 0.0221), (-0.804, -0.0977, -0.5866), (0.078, 0.327)),
    (2, 3): ((-0.1933, 0.0976, 0.0179), (-0.3275, -0.8157, -0.4769), (0.118, 0.396)),
}
# Photographs of a table in a living room, far apart: every pair says that it is sure, and some are wrong.
TABLE: dict[tuple[int, int], tuple[Vector, Vector, tuple[float, float]]] = {
    (0, 3): ((-0.1144, 2.5382, 0.613), (-0.2154, -0.2593, 0.9414), (0.19, 0.12)),
    (1, 3): ((-0.1904, 0.7598, 1.3062), (0.7718, -0.1953, 0.6051), (0.25, 0.58)),
    (2, 3): ((0.0637, 0.3258, 0.2364), (-0.9774, 0.1948, 0.0826), (0.26, 0.39)),
    (1, 2): ((-0.1646, 0.4163, 0.6566), (0.9252, 0.3576, 0.1267), (0.75, 0.75)),
}


def pairs(numbers: Mapping[tuple[int, int], tuple[Vector, Vector, tuple[float, float]]]) -> Pairs:
    none = Matches(index=np.zeros((0, 2), int), ratio=np.zeros(0))
    return {
        pair: TwoViewGeometry(
            b_from_a=SE3.exp(np.array(turn), np.array(move)), sigma_deg=sigma, matches=none, raw=none,
            log_false_alarms=-50.0, parallax_deg=10.0, turned_only_px=5.0,
        )
        for pair, (turn, move, sigma) in numbers.items()
    }  # fmt: skip


@pytest.fixture
def room() -> Pairs:
    return pairs(ROOM)


@pytest.fixture
def cam_from_world() -> dict[int, SE3]:
    return {i: look_at(eye, (1.0, 0.05 * i, 0.8)).inverse() for i, eye in enumerate(EYES)}


def known(poses: dict[int, SE3], *images: int) -> dict[int, SE3]:
    return {i: poses[i] for i in images}


def assert_at(found: SE3 | None, truth: SE3, turn_deg: float = 0.15, move_m: float = 0.01) -> None:
    assert found is not None
    assert math.degrees(found.angle_to(truth)) < turn_deg
    assert np.linalg.norm(found.inverse().translation - truth.inverse().translation) < move_m


@pytest.mark.parametrize("image", range(4))
def test_an_image_is_placed_by_its_pairs_with_the_others(
    room: Pairs, cam_from_world: dict[int, SE3], image: int
) -> None:
    truth = cam_from_world.pop(image)
    assert_at(resect_from_pairs(image, room, cam_from_world), truth)
    for left_out in tuple(cam_from_world):
        two = {i: pose for i, pose in cam_from_world.items() if i != left_out}
        assert_at(resect_from_pairs(image, room, two), truth)


def test_the_order_within_a_pair_does_not_matter(room: Pairs, cam_from_world: dict[int, SE3]) -> None:
    turned = {(b, a): replace(g, b_from_a=g.b_from_a.inverse()) for (a, b), g in room.items()}
    # The inverse of a pose whose translation has length 1 has one of length 1 too.
    first, second = (resect_from_pairs(3, p, known(cam_from_world, 0, 1)) for p in (room, turned))
    assert first is not None and second is not None
    np.testing.assert_allclose(first.matrix, second.matrix, atol=1e-9)


def test_a_larger_and_moved_world_gives_the_same_image_in_it(room: Pairs, cam_from_world: dict[int, SE3]) -> None:
    other_from_world = SE3.exp(np.array([0.3, -0.2, 1.0]), np.array([4.0, -1.0, 2.0]))

    def moved(pose: SE3) -> SE3:
        grown = SE3(rotation=pose.rotation, translation=3 * pose.translation)
        return grown @ other_from_world.inverse()

    found = resect_from_pairs(2, room, known(cam_from_world, 0, 1, 3))
    again = resect_from_pairs(2, room, {i: moved(p) for i, p in known(cam_from_world, 0, 1, 3).items()})
    assert found is not None and again is not None
    np.testing.assert_allclose(again.matrix, moved(found).matrix, atol=1e-9)


def test_one_direction_is_not_enough(room: Pairs, cam_from_world: dict[int, SE3]) -> None:
    assert resect_from_pairs(3, room, known(cam_from_world, 0)) is None
    assert resect_from_pairs(3, {}, cam_from_world) is None
    assert resect_from_pairs(3, {(0, 1): room[0, 1]}, known(cam_from_world, 0, 1)) is None


def test_a_pair_that_is_not_sure_does_not_count(room: Pairs, cam_from_world: dict[int, SE3]) -> None:
    room[1, 3] = replace(room[1, 3], sigma_deg=(1.1, 0.3))
    assert resect_from_pairs(3, room, known(cam_from_world, 0, 1)) is None
    assert_at(resect_from_pairs(3, room, known(cam_from_world, 0, 1, 2)), cam_from_world[3])


@pytest.mark.parametrize(("turn_deg", "accepted"), [(4.0, True), (7.0, False)])
def test_pairs_that_disagree_about_the_rotation_are_refused(
    room: Pairs, cam_from_world: dict[int, SE3], turn_deg: float, accepted: bool
) -> None:
    wrong = SE3.exp(np.array([0.0, 0.0, math.radians(turn_deg)]), np.zeros(3))  # the mean takes half of it
    room[0, 3] = replace(room[0, 3], b_from_a=wrong @ room[0, 3].b_from_a)
    assert (resect_from_pairs(3, room, known(cam_from_world, 0, 1)) is not None) == accepted


def test_directions_that_cross_behind_an_image_are_refused(room: Pairs, cam_from_world: dict[int, SE3]) -> None:
    pose = room[1, 3].b_from_a
    room[1, 3] = replace(room[1, 3], b_from_a=SE3(rotation=pose.rotation, translation=-pose.translation))
    assert resect_from_pairs(3, room, known(cam_from_world, 0, 1)) is None


@pytest.mark.parametrize(("degrees", "accepted"), [(4.0, False), (6.0, True), (176.0, False), (174.0, True)])
def test_directions_must_cross_at_an_angle(degrees: float, accepted: bool) -> None:
    """Seen from ahead, or from between the two, an image on the line through both has no place."""
    angle = math.radians(degrees)
    directions = np.array([[1.0, 0.0, 0.0], [math.cos(angle), math.sin(angle), 0.0]])
    place = np.array([0.3, -0.2, 2.0])
    centres = place - np.array([[2.0], [1.5]]) * directions
    found = _crossing(np.stack([np.eye(3)] * 2), centres, directions)
    assert (found is not None) == accepted
    if found is not None:
        np.testing.assert_allclose(found.inverse().translation, place, atol=1e-9)


def test_the_crossing_is_nearest_to_all_directions() -> None:
    """Two lines that pass each other at a distance of 0.2: the middle between them."""
    directions = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    centres = np.array([[-1.0, 0.0, 0.1], [0.0, -1.0, -0.1]])
    rotations = np.stack([SE3.exp(np.array([0.0, 0.0, a]), np.zeros(3)).rotation for a in (0.02, -0.02)])
    found = _crossing(rotations, centres, directions)
    assert found is not None
    np.testing.assert_allclose(found.matrix, np.eye(4), atol=1e-9)


def test_photographs_whose_sure_pairs_contradict_each_other_are_not_placed() -> None:
    table = pairs(TABLE)
    poses = {
        0: SE3.exp(np.array([-0.1038, -0.1465, -0.3285]), np.array([-0.0601, 0.0271, 0.1256])),
        1: SE3.exp(np.array([-0.0163, 0.0018, 0.0557]), np.array([-0.0381, -0.034, 0.1084])),
        2: SE3.exp(np.array([-0.1706, 0.3569, 0.7141]), np.array([1.8407, 0.6712, 0.2828])),
    }
    assert resect_from_pairs(3, table, poses) is None  # the rotations are 26 to 64 degrees from their mean
    later = {2: SE3.identity(), 3: SE3.exp(np.array([0.0635, 0.3251, 0.2362]), np.array([-0.9687, 0.1923, 0.0879]))}
    assert resect_from_pairs(1, table, later) is None  # 11 degrees, and the directions cross behind


@pytest.mark.parametrize("reflected", [False, True])
def test_the_nearest_rotation(reflected: bool) -> None:
    truth = SE3.exp(np.array([0.4, -1.1, 0.3]), np.zeros(3)).rotation
    sizes = np.array([[2.0, 0.1, 0.0], [0.1, 1.5, 0.2], [0.0, 0.2, 1.0]])  # symmetric and positive: no turn
    if not reflected:
        np.testing.assert_allclose(nearest_rotation(truth @ sizes), truth, atol=1e-12)
    matrix = truth @ sizes @ np.diag([1, 1, -1 if reflected else 1])
    found = nearest_rotation(matrix)
    assert np.linalg.det(found) == pytest.approx(1) and np.allclose(found @ found.T, np.eye(3))
    rng = np.random.default_rng(0)
    for turn in rng.normal(0, 0.3, (50, 3)):
        other = SE3.exp(turn, np.zeros(3)).rotation @ found
        assert np.linalg.norm(matrix - found) < np.linalg.norm(matrix - other)


def seen_points(count: int, wrong: int) -> tuple[np.ndarray, np.ndarray, SE3]:
    """Points [N, 3] in front of a camera, where it sees them [N, 2] to 0.3 px, some anywhere; its pose."""
    rng = np.random.default_rng(3)
    camera, pose = pinhole(320, 240), look_at((-1.8, -0.5, 1.1), (1.0, 0.0, 0.8)).inverse()
    uv = rng.uniform([5, 5], [315, 235], (count, 2))
    depth = rng.uniform(1.5, 4.0, (count, 1))
    rays = np.column_stack([(uv - [camera.cx, camera.cy]) / camera.fx, np.ones(count)])
    points = pose.inverse().apply(depth * rays)
    uv += rng.normal(0, 0.3, uv.shape)
    uv[:wrong] = rng.uniform([5, 5], [315, 235], (wrong, 2))
    return points, uv, pose


def test_resection_with_a_third_of_wrong_points() -> None:
    points, uv, pose = seen_points(60, 20)
    assert_at(resect(pinhole(320, 240), points, uv, 2.0), pose, turn_deg=0.2, move_m=0.01)


@pytest.mark.parametrize(("count", "wrong"), [(9, 0), (60, 55), (16, 8)])
def test_resection_refuses_what_too_few_points_agree_on(count: int, wrong: int) -> None:
    points, uv, _ = seen_points(count, wrong)
    assert resect(pinhole(320, 240), points, uv, 2.0) is None

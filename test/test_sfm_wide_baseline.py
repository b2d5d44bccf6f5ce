"""The second look at images from very different directions: synthesised views, their matches, what a plane allows."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from pointmap_scenes import Scene, box, look_at, pinhole, plane, render
from test_structure_from_motion import pair_errors_deg, unposed

from reconx_ros.core import SE3, Job
from reconx_ros.pointmap.matching.features import Features, Matches
from reconx_ros.pointmap.matching.sift import extract, match
from reconx_ros.pointmap.matching.sift_slanted import _slanted, _spots, extract_slanted, match_slanted
from reconx_ros.pointmap.sfm.looks import nothing_seen, pairs_apart
from reconx_ros.pointmap.sfm.recover import recover_cameras
from reconx_ros.pointmap.sfm.twins import twin_share
from reconx_ros.pointmap.sfm.two_view import TwoViewGeometry, agreeing, estimate

CPU = torch.device("cpu")


def around(angle_deg: float, height: float = 1.5) -> SE3:
    """A camera on a circle that looks at things on the floor."""
    angle = math.radians(angle_deg)
    return look_at((1.7 * math.cos(angle), 1.7 * math.sin(angle), height), (0.0, 0.0, 0.15))


@pytest.fixture(scope="module")
def wide() -> Scene:
    """Two groups of two views, 66 degrees between the groups."""
    hits = [plane((0, 0, 1), 0.0), box((-0.3, -0.4, 0.0), (0.1, 0.1, 0.3)), box((0.2, 0.2, 0.0), (0.5, 0.6, 0.2))]
    poses = [around(a, h) for a, h in ((0, 1.5), (12, 1.4), (78, 1.5), (90, 1.4))]
    return render(hits, [pinhole(200, 150)] * 4, poses, noise=1.0)


def relative(scene: Scene, a: int, b: int) -> SE3:
    poses = [k.frame.world_from_cam for k in scene.keyframes]
    pose = poses[b].inverse() @ poses[a]
    return SE3(rotation=pose.rotation, translation=pose.translation / np.linalg.norm(pose.translation))


def test_slanted_views_match_what_plain_features_do_not(wide: Scene) -> None:
    a, b = wide.keyframes[1], wide.keyframes[2]
    plain = [extract(a), extract(b)]
    slanted = [extract_slanted(k, f) for k, f in zip((a, b), plain, strict=True)]
    truth = relative(wide, 1, 2)
    few = match(*plain)
    many = match_slanted(*slanted, device=CPU)
    true_few = int(agreeing(*plain, truth, few).sum())
    true_many = int(agreeing(*slanted, truth, many).sum())
    assert true_many > 2 * true_few and true_many > 40


def test_a_spot_is_matched_once_and_plain_features_keep_their_place(wide: Scene) -> None:
    a, b = wide.keyframes[:2]
    plain = extract(a)
    slanted, other = extract_slanted(a, plain), extract_slanted(b, extract(b))
    assert np.array_equal(slanted.uv[: len(plain)], plain.uv)
    assert len(slanted) > len(plain) and slanted.descriptors.spot.max() < len(slanted)
    found = match_slanted(slanted, other, device=CPU)
    assert all(len(np.unique(found.index[:, k])) == len(found) for k in (0, 1))
    assert bool((np.diff(found.ratio) >= 0).all())


def test_a_place_in_a_slanted_view_leads_back_to_the_image() -> None:
    rows, columns = np.mgrid[0:120, 0:160]
    for tilt, turn in ((2.0, 0.0), (1.5, 0.7), (3.0, 2.5)):
        blob = np.exp(-((columns - 70) ** 2 + (rows - 52) ** 2) / (2 * 6.0**2))
        view, _, back = _slanted((255 * blob).astype(np.uint8), tilt, turn)
        v, u = np.mgrid[0 : view.shape[0], 0 : view.shape[1]]
        weight = view.astype(float)
        middle = np.array([(u * weight).sum(), (v * weight).sum()]) / weight.sum()
        assert back[:, :2] @ middle + back[:, 2] == pytest.approx([70, 52], abs=0.25)


def test_spots_join_what_is_near() -> None:
    plain = np.array([[10.0, 10.0], [50.0, 50.0]])
    spot, fresh = _spots(plain, np.array([[10.5, 10.0], [30.0, 30.0], [30.6, 30.0], [90.0, 9.0]]), 1.0)
    assert spot.tolist() == [0, 2, 2, 3] and fresh.tolist() == [1, 3]


def made_pair(points: np.ndarray) -> tuple[Features, Features, TwoViewGeometry]:
    """Exact matches of points [N, 3] in frame a, and their true geometry."""
    camera = pinhole(640, 480)
    pose = SE3.exp(np.array([0.0, -0.35, 0.05]), np.array([0.9, 0.1, 0.3]))
    pose = SE3(rotation=pose.rotation, translation=pose.translation / np.linalg.norm(pose.translation))
    features = []
    for xyz in (points, pose.apply(points)):
        uv = xyz[:, :2] / xyz[:, 2:] * [camera.fx, camera.fy] + [camera.cx, camera.cy]
        features.append(Features(uv=uv, camera=camera))
    index = np.tile(np.arange(len(points))[:, None], (1, 2))
    matches = Matches(index=index, ratio=np.linspace(0.1, 0.7, len(points)))
    geometry = estimate(*features, matches)
    assert geometry is not None
    return (*features, geometry)


def test_a_plane_has_a_twin_and_a_scene_in_depth_has_none() -> None:
    rng = np.random.default_rng(1)
    xy = rng.uniform(-1, 1, (120, 2))
    flat = np.column_stack([0.4 * xy, 3 + 0.2 * xy[:, 0] + 0.1 * xy[:, 1]])
    assert twin_share(*made_pair(flat)) > 0.8  # on a plane through the middle between the cameras points fall behind
    deep = np.column_stack([xy, rng.uniform(2.5, 5, 120)])
    assert twin_share(*made_pair(deep)) < 0.6


def test_only_pairs_that_are_apart_get_a_second_look() -> None:
    seen = replace(nothing_seen([]), distinctive={(0, 2): 5, (1, 2): 9, (2, 3): 7})
    chosen = pairs_apart(4, {0, 1}, seen)
    assert chosen[:3] == [(1, 2), (2, 3), (0, 2)] and (0, 1) not in chosen
    assert pairs_apart(2, {0, 1}, nothing_seen([])) == []


def test_groups_that_plain_matching_leaves_apart_are_joined(wide: Scene) -> None:
    apart = recover_cameras(unposed(wide.keyframes), Job(), matcher="sift")
    found = recover_cameras(unposed(wide.keyframes), Job())
    assert len(apart.world_from_cam) < 4 and len(found.world_from_cam) == 4
    turn, swing = pair_errors_deg(found, wide.keyframes)
    assert turn < 1.0 and swing < 2.0

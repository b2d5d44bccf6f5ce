"""Cross-view check, confidence and choice of sources."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from pointmap_scenes import Scene, cast, look_at, pinhole, plane, room, room_scene

from reconx_ros.core import SE3, InsufficientParallaxError, Job
from reconx_ros.geometry.projection import backproject, project, transform_points
from reconx_ros.pointmap.stereo.coarse import look
from reconx_ros.pointmap.stereo.confidence import confidence, precision_trust, witness_trust
from reconx_ros.pointmap.stereo.consistency import DepthMap, ViewAgreement, agreement, round_trip
from reconx_ros.pointmap.stereo.kernels import TorchKernels
from reconx_ros.pointmap.stereo.pairs import angle_score, nearby_sources, pair_score, select_sources
from reconx_ros.pointmap.stereo.views import MatchView, normalised, prepare_views

CAMERA = pinhole(60, 44)
POSES = [look_at((-1.8, -0.5 + 0.2 * i, 1.1), (1.0, 0.0, 0.8)) for i in range(4)]


def exact_view(pose: SE3, factor: float = 1.0) -> DepthMap:
    depth = torch.from_numpy(cast(room(), CAMERA, pose)[1]).float()
    return DepthMap(depth=factor * depth, usable=depth > 0, camera=CAMERA, world_from_cam=pose)


@pytest.fixture(scope="module")
def views() -> list[DepthMap]:
    return [exact_view(pose) for pose in POSES]


def test_round_trip_equals_a_loop(views: list[DepthMap]) -> None:
    view, other = views[0], exact_view(POSES[1], 1.01)
    trip = round_trip(view, other)
    points = transform_points(view.world_from_cam, backproject(view.depth, CAMERA))
    for y, x in [(5, 7), (20, 30), (31, 40), (40, 12)]:
        uv, z = project(transform_points(other.world_from_cam.inverse(), points[y, x]), CAMERA)
        inside = -0.5 <= uv[0] <= CAMERA.width - 0.5 and -0.5 <= uv[1] <= CAMERA.height - 0.5
        assert bool(trip.seen[y, x]) == inside
        if not inside or not 0 < uv[0] < CAMERA.width - 1 or not 0 < uv[1] < CAMERA.height - 1:
            continue
        x0, y0 = int(uv[0]), int(uv[1])
        a, b = float(uv[0]) - x0, float(uv[1]) - y0
        corners = other.depth[y0 : y0 + 2, x0 : x0 + 2].numpy()
        found = np.array([1 - b, b]) @ corners @ np.array([1 - a, a])
        assert float(trip.relative[y, x]) == pytest.approx((found - float(z)) / float(z), abs=1e-4)


def test_exact_depths_agree_wherever_they_are_not_hidden(views: list[DepthMap]) -> None:
    told = agreement(views[1], [views[0], views[2], views[3]], 0.02)
    seen = told.sees >= 2
    assert float((told.agrees >= 2)[seen].float().mean()) > 0.9
    close = (told.depth / views[1].depth - 1).abs()
    assert float(close.max()) < 0.02


def test_agreement_does_not_depend_on_order_or_on_where_the_world_is(views: list[DepthMap]) -> None:
    first = agreement(views[0], views[1:], 0.02)
    turned = agreement(views[0], views[:0:-1], 0.02)
    move = SE3.exp(np.array([0.3, -1.0, 2.0]), np.array([5.0, -3.0, 1.0]))
    moved = [replace(v, world_from_cam=move @ v.world_from_cam) for v in views]
    elsewhere = agreement(moved[0], moved[1:], 0.02)
    for told in (turned, elsewhere):
        torch.testing.assert_close(told.depth, first.depth, atol=1e-4, rtol=1e-4)
        assert float((told.agrees == first.agrees).float().mean()) > 0.995


def test_a_point_in_the_air_is_denied(views: list[DepthMap]) -> None:
    near = replace(views[0], depth=0.7 * views[0].depth)
    told = agreement(near, views[1:], 0.02)
    seen = told.sees >= 2
    assert float(told.agrees[seen].mean()) < 0.1
    assert float((told.denies >= 1)[seen].float().mean()) > 0.8


def test_missing_depth_is_no_witness(views: list[DepthMap]) -> None:
    blind = replace(views[1], usable=torch.zeros_like(views[1].usable))
    told = agreement(views[0], [blind], 0.02)
    assert not told.sees.any() and not told.agrees.any()
    torch.testing.assert_close(told.depth, views[0].depth)


def verdict(sees: float, agrees: float, denies: float = 0.0, angle: float = 10.0) -> ViewAgreement:
    sees_, agrees_, denies_, angle_ = (torch.full((1, 1), v) for v in (sees, agrees, denies, angle))
    return ViewAgreement(sees=sees_, agrees=agrees_, denies=denies_, depth=torch.ones(1, 1), angle_deg=angle_)


def test_confidence_rises_with_witnesses_and_falls_with_contradiction() -> None:
    def trust(*args: float) -> float:
        return float(witness_trust(verdict(*args)))

    assert trust(1, 1) < trust(2, 2) < trust(4, 4) < 1
    assert trust(4, 4) > trust(4, 3) > trust(4, 2) > trust(4, 1)
    assert trust(4, 3) > trust(4, 3, 1)


def test_confidence_needs_an_angle_and_a_clear_match() -> None:
    margin = torch.full((1, 1), 0.3)
    sure = float(confidence(verdict(4, 4), margin, 280.0))
    assert sure > 0.8
    assert float(confidence(verdict(4, 4, 0.0, 0.0), margin, 280.0)) == 0
    assert float(confidence(verdict(4, 4), torch.zeros(1, 1), 280.0)) == 0
    assert float(precision_trust(torch.full((1, 1), 0.5), 280.0)) < 0.5 * sure


def match_views(scene: Scene) -> list[MatchView]:
    return prepare_views(scene.keyframes, 160, torch.device("cpu"))


@pytest.fixture(scope="module")
def room_views() -> list[MatchView]:
    return match_views(room_scene(4, pinhole(96, 72)))


def test_angle_score_prefers_moderate_angles() -> None:
    low, middle, high, none = angle_score(torch.tensor([1.0, 10.0, 45.0, 0.0])).tolist()
    assert middle == 1.0 and none == 0.0
    assert 0 < low < middle and 0 < high < middle


def test_views_that_look_away_are_not_sources(room_views: list[MatchView]) -> None:
    away = replace(room_views[1], world_from_cam=look_at((-1.8, 0.0, 1.1), (-5.0, 0.0, 1.0)))
    points = torch.rand(50, 3) * torch.tensor([0.5, 1.0, 1.0]) + torch.tensor([0.8, -0.5, 0.3])
    assert pair_score(room_views[0], away, points) == 0.0
    chosen = select_sources([room_views[0], away, room_views[2]], [points] * 3, 4)
    assert chosen == [[2], [], [0]]


def test_nearby_sources_skip_a_twin_at_the_same_place(room_views: list[MatchView]) -> None:
    chosen = nearby_sources([room_views[0], room_views[0], room_views[1], room_views[2]], 2)
    assert chosen[0] == [2, 3]


def test_the_first_look_finds_the_depth_range(room_views: list[MatchView]) -> None:
    views, unit = normalised(room_views)
    scene = look(TorchKernels(), views, Job())
    for view, (near, far) in zip(room_views, scene.depth_range, strict=True):
        depth = cast(room(), view.camera, view.world_from_cam)[1]
        low, high = np.percentile(depth, (3, 97))
        assert 0.3 * low < near * unit < low
        assert 0.95 * high < far * unit < 5 * high


def placed(view: MatchView, translation: np.ndarray) -> MatchView:
    return replace(view, world_from_cam=SE3(rotation=view.world_from_cam.rotation, translation=translation))


def test_normalising_undoes_scale_and_place(room_views: list[MatchView]) -> None:
    far = [placed(v, 5e5 + 1e3 * v.world_from_cam.translation) for v in room_views]
    views, unit = normalised(room_views)
    same, far_unit = normalised(far)
    assert far_unit == pytest.approx(1e3 * unit)
    for a, b in zip(views, same, strict=True):
        np.testing.assert_allclose(a.world_from_cam.translation, b.world_from_cam.translation, atol=1e-6)


def test_a_camera_that_stays_in_its_place_is_refused(room_views: list[MatchView]) -> None:
    still = [replace(v, world_from_cam=room_views[0].world_from_cam) for v in room_views]
    with pytest.raises(InsufficientParallaxError, match="largest baseline 0"):
        normalised(still)


def test_a_camera_that_hardly_moves_is_refused_with_numbers(room_views: list[MatchView]) -> None:
    start = room_views[0].world_from_cam.translation
    shaken = [placed(room_views[0], start + np.array([0, 1e-4 * i, 0])) for i in range(3)]
    views, unit = normalised(shaken)
    with pytest.raises(InsufficientParallaxError, match=r"baseline is 0.0002 against .* deg of parallax"):
        look(TorchKernels(), views, Job(), unit=unit)


def test_depth_limits_bound_the_search(room_views: list[MatchView]) -> None:
    for near, far in look(TorchKernels(), room_views, Job(), limits=(1.5, 4.0)).depth_range:
        assert (near, far) == (1.5, 4.0)


def test_plane_helper_hits_in_front_only() -> None:
    forward, backward = np.array([[0.0, 0.0, 1.0]]), np.array([[0.0, 0.0, -1.0]])
    wall = plane((0, 0, 1), 2.0)
    assert wall(np.zeros(3), forward)[0] == 2.0 and np.isinf(wall(np.zeros(3), backward)[0])

"""Bundle adjustment: exact recovery, gradients against differences, priors, laws."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from reconx_ros.core import SE3, PinholeCamera
from reconx_ros.pointmap.sfm import bundle
from reconx_ros.pointmap.sfm.bundle import adjust, robust_cost
from reconx_ros.pointmap.sfm.problem import BundleProblem, PosePrior, camera_coordinates, residuals_px
from reconx_ros.pointmap.sfm.tracks import build_tracks
from reconx_ros.pointmap.sfm.triangulation import triangulate, triangulate_many, widest_angles_deg

CAMERA = PinholeCamera(width=320, height=240, fx=300.0, fy=310.0, cx=159.5, cy=119.5)


def exact(views: int = 4, points: int = 60, seed: int = 0) -> BundleProblem:
    rng = np.random.default_rng(seed)
    world = rng.uniform([-1, -0.8, 2.5], [1, 0.8, 5], (points, 3))
    poses = tuple(
        SE3.exp(rng.normal(0, 0.05, 3), np.array([0.3 * k, 0.05 * k * k, 0.0])).inverse() for k in range(views)
    )
    camera, point = (a.ravel() for a in np.meshgrid(np.arange(views), np.arange(points)))
    problem = BundleProblem(
        cameras=(CAMERA,) * views, cam_from_worlds=poses, points=world, camera_index=camera, point_index=point,
        uv=np.zeros((len(camera), 2)), weights=np.ones(len(camera)), fixed_cameras=(0,),
    )  # fmt: skip
    return replace(problem, uv=residuals_px(problem)[0])


def shaken(problem: BundleProblem, size: float = 0.02, seed: int = 1) -> BundleProblem:
    rng = np.random.default_rng(seed)
    poses = tuple(
        p if k in problem.fixed_cameras else SE3.exp(rng.normal(0, size, 3), rng.normal(0, size, 3)) @ p
        for k, p in enumerate(problem.cam_from_worlds)
    )
    return replace(problem, cam_from_worlds=poses, points=problem.points + rng.normal(0, size, problem.points.shape))


def test_shaken_cameras_return_up_to_scale() -> None:
    truth = exact()
    found = adjust(shaken(truth), iterations=60, tolerance=1e-14).problem
    assert np.abs(residuals_px(found)[0]).max() < 1e-4
    a, b = truth.cam_from_worlds, found.cam_from_worlds
    factor = np.linalg.norm(b[3].inverse().translation) / np.linalg.norm(a[3].inverse().translation)
    for k in range(4):
        assert a[k].angle_to(b[k]) < 1e-6
        assert b[k].inverse().translation == pytest.approx(factor * a[k].inverse().translation, abs=1e-5)


def test_jacobians_agree_with_differences() -> None:
    problem = replace(exact(3, 12), focal_group=np.array([0, 0, -1]), log_focals=np.array([0.03]))
    _, by_camera, by_point = bundle._jacobians(problem)
    size = 1e-6
    for column in range(6):
        step = np.zeros(6)
        step[column] = size
        ends = []
        for sign in (1, -1):
            poses = tuple(bundle._exp(sign * step) @ p for p in problem.cam_from_worlds)
            ends.append(residuals_px(replace(problem, cam_from_worlds=poses))[0])
        assert by_camera[..., column] == pytest.approx((ends[0] - ends[1]) / (2 * size), rel=1e-4, abs=1e-3)
    ends = [residuals_px(replace(problem, log_focals=problem.log_focals + s * size))[0] for s in (1, -1)]
    own = problem.camera_index < 2
    assert by_camera[own, :, 6] == pytest.approx(((ends[0] - ends[1]) / (2 * size))[own], rel=1e-4, abs=1e-3)
    for column in range(3):
        step = np.zeros(3)
        step[column] = size
        ends = [residuals_px(replace(problem, points=problem.points + s * step))[0] for s in (1, -1)]
        assert by_point[..., column] == pytest.approx((ends[0] - ends[1]) / (2 * size), rel=1e-4, abs=1e-3)


def test_elimination_equals_the_dense_solution() -> None:
    problem = shaken(exact(3, 10))
    system = bundle._normal_equations(problem, 1.0)
    error, by_camera, by_point = bundle._jacobians(problem)
    _, weight = bundle.cauchy((error**2).sum(-1), 1.0)
    dense = np.zeros((2 * len(error), 18 + 30))
    for o, (c, p) in enumerate(zip(problem.camera_index, problem.point_index, strict=True)):
        if c not in problem.fixed_cameras:
            dense[2 * o : 2 * o + 2, 6 * c : 6 * c + 6] = by_camera[o, :, :6]
        dense[2 * o : 2 * o + 2, 18 + 3 * p : 21 + 3 * p] = by_point[o]
    root = np.sqrt(np.repeat(weight, 2))
    damping = 1e-3
    hessian = (root[:, None] * dense).T @ (root[:, None] * dense)
    diagonal = np.diag(hessian)
    damped = hessian + np.diag(np.where(diagonal > 0, damping * diagonal + 1e-12, 1.0))
    step = -np.linalg.solve(damped, (root[:, None] * dense).T @ (root * error.ravel()))
    moved = bundle._step(problem, system, damping)
    assert moved is not None
    assert moved.points == pytest.approx(problem.points + step[18:].reshape(-1, 3), abs=1e-8)
    for k in (1, 2):
        expected = bundle._exp(step[6 * k : 6 * k + 6]) @ problem.cam_from_worlds[k]
        assert moved.cam_from_worlds[k].matrix == pytest.approx(expected.matrix, abs=1e-8)


def test_outliers_do_not_pull() -> None:
    truth = exact()
    rng = np.random.default_rng(3)
    wrong = rng.random(len(truth.uv)) < 0.1
    bent = replace(truth, uv=truth.uv + wrong[:, None] * rng.uniform(-60, 60, truth.uv.shape))
    found = adjust(shaken(bent, 0.005), iterations=60, tolerance=1e-12).problem
    assert max(a.angle_to(b) for a, b in zip(truth.cam_from_worlds, found.cam_from_worlds, strict=True)) < 2e-3


def test_the_cost_never_rises_and_priors_hold_the_scale() -> None:
    truth = replace(exact(), fixed_cameras=())
    priors = tuple(
        PosePrior(camera=k, world_from_cam=p.inverse(), rotation_sigma_rad=0.01, position_sigma=0.02)
        for k, p in enumerate(truth.cam_from_worlds)
    )
    start = replace(shaken(truth), pose_priors=priors)
    result = adjust(start, iterations=40, tolerance=1e-13)
    assert result.cost <= robust_cost(start, 1.0)
    for a, b in zip(truth.cam_from_worlds, result.problem.cam_from_worlds, strict=True):
        assert a.inverse().distance_to(b.inverse()) < 1e-4


def test_a_wrong_focal_length_is_found() -> None:
    truth = exact(5, 80)
    given = replace(CAMERA, fx=CAMERA.fx * 0.85, fy=CAMERA.fy * 0.85)
    start = replace(
        shaken(truth, 0.003), cameras=(given,) * 5, focal_group=np.zeros(5, np.int64), log_focals=np.zeros(1),
        focal_sigma=0.3,
    )  # fmt: skip
    found = adjust(start, iterations=100, tolerance=1e-14).problem
    assert found.focals_px()[0] == pytest.approx([CAMERA.fx, CAMERA.fy], rel=0.01)


def test_points_behind_a_camera_stop_the_adjustment() -> None:
    problem = exact(2, 10)
    behind = replace(problem, points=problem.points * [1, 1, -1])
    assert robust_cost(behind, 1.0) == np.inf
    assert adjust(behind).iterations == 0


def test_triangulation_and_its_angles() -> None:
    problem = exact(3, 20)
    rays = camera_coordinates(problem)[0]
    rays = rays[:, :2] / rays[:, 2:]
    poses = list(problem.cam_from_worlds)
    many = triangulate_many(poses, problem.camera_index, problem.point_index, rays, 20)
    assert many == pytest.approx(problem.points, abs=1e-9)
    a, b = (rays[problem.camera_index == k] for k in (0, 2))
    in_a = triangulate(poses[2] @ poses[0].inverse(), a, b)
    assert poses[0].inverse().apply(in_a) == pytest.approx(problem.points, abs=1e-9)
    c = [p.inverse().translation for p in poses]
    x = problem.points[0]
    expected = max(
        np.degrees(np.arccos((x - c[i]) @ (x - c[j]) / np.linalg.norm(x - c[i]) / np.linalg.norm(x - c[j])))
        for i, j in ((0, 1), (0, 2), (1, 2))
    )
    assert widest_angles_deg(poses, problem.camera_index, problem.point_index, many)[0] == pytest.approx(expected)


def test_tracks_join_matches_and_drop_contradictions() -> None:
    matches = {(0, 1): np.array([[0, 3], [1, 1]]), (1, 2): np.array([[3, 2], [1, 0]]), (0, 2): np.array([[1, 1]])}
    tracks = build_tracks([4, 4, 4], matches)
    assert tracks.count == 1  # the other has features 0 and 1 of image 2
    assert list(zip(tracks.image, tracks.feature, strict=True)) == [(0, 0), (1, 3), (2, 2)]
    assert build_tracks([3, 3], {}).count == 0

"""Incremental mapping: a seed pair, then one image after the other, with a bundle adjustment after each.

Schoenberger and Frahm, "Structure-from-motion revisited" (CVPR 2016), cut down to a few images: every step can afford
a full adjustment, and several seeds are tried.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from reconx_ros.core import SE3, PinholeCamera
from reconx_ros.pointmap.matching.features import Features
from reconx_ros.pointmap.sfm.bundle import adjust
from reconx_ros.pointmap.sfm.problem import BundleProblem, residuals_px
from reconx_ros.pointmap.sfm.resection import resect, resect_from_pairs
from reconx_ros.pointmap.sfm.tracks import Tracks, build_tracks
from reconx_ros.pointmap.sfm.triangulation import triangulate_many, widest_angles_deg
from reconx_ros.pointmap.sfm.two_view import TwoViewGeometry, shows_parallax

_MIN_POINTS = 8
_MIN_ANGLE_DEG = 1.0  # of a point that others are placed by
_MAX_ERROR_SHARE = 1 / 160  # of the longer side: reprojection error up to which an observation is kept
_SEEDS = 3
_MIN_SEED_PARALLAX_DEG = 1.5
_MAX_SEED_SIGMA_DEG = (1.5, 6.0)

Pairs = Mapping[tuple[int, int], TwoViewGeometry]


@dataclass(frozen=True, kw_only=True, eq=False)
class Calibration:
    """What is known about focal lengths.

    Attributes:
        group: [V] index of the focal length that an image shares with others; -1 where it is calibrated.
        sigma: standard deviation of the logarithm of the unknown ones.
    """

    group: np.ndarray  # [V]
    sigma: float


@dataclass(frozen=True, kw_only=True, eq=False)
class SparseModel:
    """Cameras and points of the images that were joined.

    Attributes:
        cam_from_world: image index to pose, for the joined images.
        cameras: V intrinsics, with the focal lengths found.
        points: [P, 3] world; tracks that have none are NaN.
        observations: mask [O] of the tracks' observations that support their point.
    """

    cam_from_world: dict[int, SE3]
    cameras: tuple[PinholeCamera, ...]
    points: np.ndarray  # [P, 3]
    observations: np.ndarray  # [O]


class IncrementalMapper:
    """Grows sparse models from pair geometries; holds only its inputs."""

    def __init__(self, features: Sequence[Features], pairs: Pairs, calibration: Calibration) -> None:
        self.features = list(features)
        self.pairs = pairs
        self.calibration = calibration
        self.tracks: Tracks = build_tracks([len(f) for f in features], {k: g.matches.index for k, g in pairs.items()})
        self.uv = np.array([features[i].uv[f] for i, f in zip(self.tracks.image, self.tracks.feature, strict=True)])
        self._max_error = np.array([_MAX_ERROR_SHARE * max(f.camera.size) for f in features])

    def seeds(self) -> list[tuple[int, int]]:
        """The best pairs to start from: many matches, enough parallax, a pose that they fix well."""
        good = [
            pair
            for pair, g in self.pairs.items()
            if g.parallax_deg >= _MIN_SEED_PARALLAX_DEG
            and shows_parallax(self.features[pair[0]], self.features[pair[1]], g)
            and g.sigma_deg[0] < _MAX_SEED_SIGMA_DEG[0]
            and g.sigma_deg[1] < _MAX_SEED_SIGMA_DEG[1]
        ]
        value = {p: len(self.pairs[p].matches) * min(1.0, self.pairs[p].parallax_deg / 8) for p in good}
        return sorted(good, key=lambda p: (-value[p], p))

    def models(self, on_step: Callable[[str], None] = lambda _: None) -> list[SparseModel]:
        """One model per seed, for the best seeds that do not lie in an earlier model of all images."""
        models: list[SparseModel] = []
        for seed in self.seeds():
            if len(models) >= _SEEDS:
                break
            if sum(set(seed) <= m.cam_from_world.keys() for m in models) >= 2:
                continue
            model = self.grow(seed, on_step)
            if model is not None:
                models.append(model)
        return models

    def grow(self, seed: tuple[int, int], on_step: Callable[[str], None] = lambda _: None) -> SparseModel | None:
        """The model grown from one pair; None where the pair has too few good points."""
        a, b = seed
        model: SparseModel | None = self._with_points(
            SparseModel(
                cam_from_world={a: SE3.identity(), b: self.pairs[seed].b_from_a},
                cameras=tuple(f.camera for f in self.features),
                points=np.full((self.tracks.count, 3), np.nan),
                observations=np.zeros(len(self.tracks.track), bool),
            )
        )
        model = self._adjusted(model) if model is not None else None
        refused: set[int] = set()
        while model is not None and len(model.cam_from_world) < len(self.features):
            on_step(f"joining image {len(model.cam_from_world) + 1} of {len(self.features)}")
            chosen = self._next(model, refused)
            if chosen is None:
                break
            image, pose = chosen
            joined = self._with_points(replace(model, cam_from_world={**model.cam_from_world, image: pose}))
            joined = self._adjusted(joined) if joined is not None else None
            if joined is None or image not in joined.cam_from_world:
                refused.add(image)
            else:
                model, refused = joined, set()
        return model

    def reprojection_px(self, model: SparseModel) -> float:
        """Median reprojection error of the observations that support the model."""
        error, _ = residuals_px(self._problem(model, model.observations))
        return float(np.median(np.linalg.norm(error, axis=1)))

    def _next(self, model: SparseModel, refused: set[int]) -> tuple[int, SE3] | None:
        """The image that sees most points of the model and can be placed by them, or else by its pairs."""
        known = np.isfinite(model.points[:, 0])[self.tracks.track]
        waiting = [i for i in range(len(self.features)) if i not in model.cam_from_world and i not in refused]
        sees = {i: known & (self.tracks.image == i) for i in waiting}
        for image in sorted(waiting, key=lambda i: (-int(sees[i].sum()), i)):
            mine = sees[image]
            pose = resect(
                model.cameras[image], model.points[self.tracks.track[mine]], self.uv[mine], self._max_error[image]
            )
            if pose is not None:
                return image, pose
        for image in waiting:
            pose = resect_from_pairs(image, self.pairs, model.cam_from_world)
            if pose is not None:
                return image, pose
        return None

    def _with_points(self, model: SparseModel) -> SparseModel | None:
        """Triangulate every track seen by two joined images; None with too few good points."""
        tracks = self.tracks
        order = sorted(model.cam_from_world)
        slot = np.full(len(self.features), -1)
        slot[order] = np.arange(len(order))
        usable = slot[tracks.image] >= 0
        poses = [model.cam_from_world[i] for i in order]
        focal = np.array([[c.fx, c.fy, c.cx, c.cy] for c in model.cameras])[tracks.image]
        rays = (self.uv - focal[:, 2:]) / focal[:, :2]
        points = triangulate_many(poses, slot[tracks.image[usable]], tracks.track[usable], rays[usable], tracks.count)
        fresh = ~np.isfinite(model.points[:, 0])
        merged = np.where(fresh[:, None], points, model.points)
        return self._supported(replace(model, points=merged))

    def _supported(self, model: SparseModel) -> SparseModel | None:
        """Keep observations with small errors, points with a good angle, images with enough of both."""
        cam_from_world = dict(model.cam_from_world)
        while True:
            supported, points = self._support(replace(model, cam_from_world=cam_from_world))
            counts = np.bincount(self.tracks.image[supported], minlength=len(self.features))
            weak = [i for i in cam_from_world if counts[i] < _MIN_POINTS]
            if not weak:
                return replace(model, cam_from_world=cam_from_world, points=points, observations=supported)
            cam_from_world.pop(min(weak, key=lambda i: (counts[i], -i)))
            if len(cam_from_world) < 2:
                return None

    def _support(self, model: SparseModel) -> tuple[np.ndarray, np.ndarray]:
        """(observations [O] bool, points [P, 3]) that pass the tests."""
        tracks, order = self.tracks, sorted(model.cam_from_world)
        joined = np.isin(tracks.image, order) & np.isfinite(model.points[:, 0])[tracks.track]
        error, depth = residuals_px(self._problem(model, joined))
        fits = np.zeros(len(joined), bool)
        limit = self._max_error[tracks.image[joined]]
        with np.errstate(invalid="ignore"):
            fits[joined] = (depth > 0) & (np.linalg.norm(error, axis=1) < limit)
        slot = np.full(len(self.features), -1)
        slot[order] = np.arange(len(order))
        poses = [model.cam_from_world[i] for i in order]
        angle = widest_angles_deg(poses, slot[tracks.image[fits]], tracks.track[fits], model.points)
        seen = np.bincount(tracks.track[fits], minlength=tracks.count)
        good = (seen >= 2) & (angle > _MIN_ANGLE_DEG)
        points = np.where(good[:, None], model.points, np.nan)
        return fits & good[tracks.track], points

    def _problem(self, model: SparseModel, chosen: np.ndarray) -> BundleProblem:
        """The adjustment of the joined images over chosen observations; the first camera and the scale float."""
        order = sorted(model.cam_from_world)
        slot = np.full(len(self.features), -1)
        slot[order] = np.arange(len(order))
        used, point = np.unique(self.tracks.track[chosen], return_inverse=True)
        group = self.calibration.group[order]
        given = np.array([self.features[i].camera.fx for i in order])
        now = np.array([model.cameras[i].fx for i in order])
        groups = np.unique(group[group >= 0])
        logs = np.array([math.log(now[group == g][0] / given[group == g][0]) for g in groups])
        return BundleProblem(
            cameras=tuple(self.features[i].camera for i in order),
            cam_from_worlds=tuple(model.cam_from_world[i] for i in order),
            points=model.points[used],
            camera_index=slot[self.tracks.image[chosen]],
            point_index=point,
            uv=self.uv[chosen],
            weights=np.ones(int(chosen.sum())),
            fixed_cameras=(0,),
            focal_group=np.where(group >= 0, np.searchsorted(groups, group), -1),
            log_focals=logs,
            prior_log_focals=np.zeros(len(groups)),
            focal_sigma=self.calibration.sigma if len(groups) else 0.0,
        )

    def _adjusted(self, model: SparseModel) -> SparseModel | None:
        """Adjust, triangulate again, drop what does not fit, twice; None where too little is left."""
        result: SparseModel | None = model
        for _ in range(2):
            if result is None:
                return None
            problem = adjust(self._problem(result, result.observations), iterations=20, tolerance=1e-5).problem
            result = self._with_points(self._taken_over(result, problem))
        return result

    def _taken_over(self, model: SparseModel, problem: BundleProblem) -> SparseModel:
        """The model with adjusted poses and focal lengths; its points are to be found again."""
        order = sorted(model.cam_from_world)
        focals = dict(zip(order, problem.focals_px(), strict=True))
        cameras = tuple(
            replace(c, fx=float(focals[i][0]), fy=float(focals[i][1])) if i in focals else self._guess(model, i, focals)
            for i, c in enumerate(model.cameras)
        )
        points = np.full_like(model.points, np.nan)
        points[np.unique(self.tracks.track[model.observations])] = problem.points
        poses = dict(zip(order, problem.cam_from_worlds, strict=True))
        return replace(model, cam_from_world=poses, cameras=cameras, points=points)

    def _guess(self, model: SparseModel, image: int, focals: dict[int, np.ndarray]) -> PinholeCamera:
        """Camera of an image that is not joined: its group's focal length where one is known."""
        group, camera = self.calibration.group, model.cameras[image]
        same = [i for i in focals if group[i] == group[image] >= 0]
        if not same:
            return camera
        factor = float(focals[same[0]][0]) / self.features[same[0]].camera.fx
        given = self.features[image].camera
        return replace(camera, fx=given.fx * factor, fy=given.fy * factor)

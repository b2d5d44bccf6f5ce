"""Where alignment starts: a spanning tree over the pairs, focal lengths from own pointmaps, and what is known.

DUSt3R (Wang et al., CVPR 2024), sec. 3.3: the most confident pairs first, each joined by a similarity to what is there.
Every focal length comes from pointmaps of its own image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from reconx_ros.core import SE3, InvalidInputError, PinholeCamera, ReconstructionError, Sim3
from reconx_ros.geometry.focal import weiszfeld_focal
from reconx_ros.geometry.pnp import PnpResult, solve_pnp, solve_pnp_unknown_focal
from reconx_ros.geometry.umeyama import align_poses, umeyama
from reconx_ros.pointmap.alignment.graph import spanning_tree
from reconx_ros.pointmap.alignment.newton import FocalTie
from reconx_ros.pointmap.alignment.problem import AlignmentProblem, KnownGeometry, principal_point
from reconx_ros.pointmap.alignment.state import State
from reconx_ros.pointmap.pairwise import PairPredictions

_PIXELS = 4000  # per image, enough for similarities
_ROUNDS = 6  # of reweighting, for the sum of distances instead of squares
_MIN_WEIGHTED = 3
_FOCAL_FLOOR = 1e-6  # relative; float32 maps say no more
_PNP_THRESHOLD = 0.01  # over the longer side
_FEWEST_INLIERS = 0.5  # of points, for a pose from perspective-n-point
_NEAREST = 1e-3  # smallest initial depth over the median

_Map = tuple[np.ndarray, np.ndarray]  # points [p, 3], weights [p]


@dataclass(frozen=True, kw_only=True, eq=False)
class FocalEvidence:
    """What the pointmaps of which an image is first say about its focal length.

    Attributes:
        log_focals: per image, one value per map.
        variances: per image, the variance of each of them from the scatter of pixels within the map.
    """

    log_focals: tuple[np.ndarray, ...]
    variances: tuple[np.ndarray, ...]

    def tie(self, loss: float, pixels: int) -> FocalTie:
        """The evidence as a term of the loss.

        Residuals are taken to be distributed as exp(-|r| / b) in space, so that the loss over b, times the number of
        observed pixels, is a negative log-likelihood; the evidence is Gaussian with the larger of its two variances,
        within maps and between them.

        Args:
            loss: current value of eq. 2.
            pixels: number of pixels of one side of all pairs.
        """
        values = np.array([float(v.mean()) if len(v) else 0.0 for v in self.log_focals])
        variance = np.array([self._variance(n) for n in range(len(values))])
        return FocalTie(values=values, stiffness=np.where(np.isfinite(variance), loss / (6 * pixels) / variance, 0.0))

    def _variance(self, n: int) -> float:
        votes = self.log_focals[n]
        if not len(votes):
            return float("inf")
        between = float(votes.var(ddof=1)) if len(votes) > 1 else 0.0
        return max(between, float(self.variances[n].mean()), _FOCAL_FLOOR**2) / len(votes)


@dataclass(frozen=True, kw_only=True, eq=False)
class Start:
    """Initial unknowns: cameras and pairs, depth [P] of each image, and what maps say about focal lengths."""

    state: State
    depths: list[torch.Tensor]
    evidence: FocalEvidence


@dataclass(eq=False)
class _Tree:
    """What the spanning tree has reached.

    ``sources`` says from which pair, and by which similarity, an image's points came into the world.
    """

    points: dict[int, np.ndarray]
    sources: dict[int, tuple[int, Sim3]]
    poses: dict[int, SE3]


def fit_similarity(targets: np.ndarray, points: np.ndarray, weights: np.ndarray, what: str) -> Sim3:
    """The similarity that minimises the weighted sum of distances (not squared) from points [P, 3] to targets [P, 3].

    Raises:
        ReconstructionError: when the points do not determine one; ``what`` names them.
    """
    try:
        found = umeyama(targets, points, weights=weights)
        for _ in range(_ROUNDS):
            distance = np.linalg.norm(found.apply(points) - targets, axis=1)
            floor = 0.1 * np.median(distance[weights > 0]) + 1e-9 * np.abs(targets).max()
            found = umeyama(targets, points, weights=weights / np.maximum(distance, floor))
    except InvalidInputError as error:
        raise ReconstructionError(f"{what} cannot be registered: {error}") from error
    return found


def initialise(
    predictions: PairPredictions, problem: AlignmentProblem, known: KnownGeometry, scores: Sequence[float]
) -> Start:
    """Initial cameras, pair similarities and depths.

    Args:
        predictions: pairs that connect all images.
        problem: the same as a problem.
        known: with one entry per image.
        scores: trust in each pair.

    Raises:
        ReconstructionError: when a map that is needed is degenerate, or no camera explains an image.
    """
    thin = problem.thinned(_PIXELS)
    maps = _read_maps(thin)
    tree = _grow_tree(problem, maps, scores)
    _complete_poses(problem, maps, tree, scores)
    evidence = focal_evidence(predictions, problem, known)
    focals = [_focal(n, problem, known, evidence, tree, maps, thin) for n in range(len(problem.images))]
    poses, depths = _in_known_frame(problem, known, tree)
    if known.depth_fixes_unit() and not known.poses_fix_unit():
        poses, depths = _in_unit_of_depth(problem, known, poses, depths)
    depths = [
        depth if image.known_depth is None else torch.where(image.known_depth > 0, image.known_depth, depth)
        for image, depth in zip(problem.images, depths, strict=True)
    ]
    edges = _edges(problem, thin, maps, poses, focals, depths)
    state = State.from_transforms(poses, focals, edges)
    if problem.scale_is_free:
        growth = state.conventional_scale()
        state, depths = state.scaled(growth), [growth * d for d in depths]
    return Start(state=state, depths=depths, evidence=evidence)


def _read_maps(problem: AlignmentProblem) -> dict[tuple[int, int], _Map]:
    """Points and weights of every map by (pair, image), float64."""
    cpu = torch.device("cpu")
    maps = {}
    for n, image in enumerate(problem.images):
        for observation in image.observations:
            points, weights = observation.read(slice(None), cpu)
            maps[observation.edge, n] = (points.double().numpy(), weights.double().numpy())
    return maps


def _grow_tree(problem: AlignmentProblem, maps: dict[tuple[int, int], _Map], scores: Sequence[float]) -> _Tree:
    order = spanning_tree(len(problem.images), problem.pairs, scores)
    i, j = problem.pairs[order[0]]
    tree = _Tree(
        points={n: maps[order[0], n][0] for n in (i, j)},
        sources={n: (order[0], Sim3.identity()) for n in (i, j)},
        poses={i: SE3.identity()},
    )
    for e in order[1:]:
        i, j = problem.pairs[e]
        there, new = (i, j) if i in tree.points else (j, i)
        world = _register(problem, maps, tree, e, there)
        tree.points[new] = world.apply(maps[e, new][0])
        tree.sources[new] = (e, world)
        tree.poses.setdefault(i, SE3(rotation=world.rotation, translation=world.translation))
    return tree


def _register(problem: AlignmentProblem, maps: dict[tuple[int, int], _Map], tree: _Tree, e: int, n: int) -> Sim3:
    """world_from_pair by the points of image n, which the tree has."""
    points, weights = maps[e, n]
    source_weights = maps[tree.sources[n][0], n][1]
    return fit_similarity(
        tree.points[n], points, weights * (source_weights > 0), f"image {n} of pair {problem.pairs[e]}"
    )


def _complete_poses(
    problem: AlignmentProblem, maps: dict[tuple[int, int], _Map], tree: _Tree, scores: Sequence[float]
) -> None:
    """Poses of images that the tree holds only as second: from the best pair that has them first."""
    for n in range(len(problem.images)):
        own = [e for e, pair in enumerate(problem.pairs) if pair[0] == n]
        if n not in tree.poses and own:
            best = max(own, key=lambda e: (scores[e], problem.pairs[e]))
            world = _register(problem, maps, tree, best, n)
            tree.poses[n] = SE3(rotation=world.rotation, translation=world.translation)


def focal_evidence(predictions: PairPredictions, problem: AlignmentProblem, known: KnownGeometry) -> FocalEvidence:
    """Weiszfeld's focal length of every map in its own camera's frame, with its variance."""
    votes: list[list[tuple[float, float]]] = [[] for _ in problem.images]
    for (i, _), points in zip(predictions.pairs, predictions.pts3d_1, strict=True):
        if not problem.fixed_focal[i]:
            vote = _focal_vote(points.float().cpu(), problem, i, known)
            votes[i] += [] if vote is None else [vote]
    return FocalEvidence(
        log_focals=tuple(np.array([v[0] for v in per_image]) for per_image in votes),
        variances=tuple(np.array([v[1] for v in per_image]) for per_image in votes),
    )


def _focal_vote(
    points: torch.Tensor, problem: AlignmentProblem, n: int, known: KnownGeometry
) -> tuple[float, float] | None:
    """Log focal length and its variance; None where the map has no usable focal length."""
    centre = principal_point(problem.sizes[n], known.cameras[n])
    usable = (points[..., 2] > 0).float()
    focal = weiszfeld_focal(points, centre, weights=usable)
    if not (np.isfinite(focal) and focal > 0):
        return None
    seen = torch.nan_to_num(points[..., :2] / points[..., 2:], posinf=0.0, neginf=0.0).reshape(-1, 2) * focal
    error = float(((problem.images[n].offsets - seen).norm(dim=1) * usable.flatten()).sum() / usable.sum())
    reach = float(((seen**2).sum(dim=1) * usable.flatten()).sum())
    return float(np.log(focal)), error**2 / max(reach, 1e-12)


def _focal(
    n: int,
    problem: AlignmentProblem,
    known: KnownGeometry,
    evidence: FocalEvidence,
    tree: _Tree,
    maps: dict[tuple[int, int], _Map],
    thin: AlignmentProblem,
) -> float:
    """Focal length in pixels: known, from own maps, or with the pose from perspective-n-point.

    An image that is first in no pair, and hence has no pose yet, gets it here.
    """
    camera = known.cameras[n]
    votes = evidence.log_focals[n]
    if n in tree.poses and (camera is not None or len(votes)):
        return camera.fx if camera is not None else float(np.exp(np.median(votes)))
    weights = maps[tree.sources[n][0], n][1]
    found = _camera_by_pnp(n, problem, camera, tree.points[n][weights > 0], thin.images[n].offsets[weights > 0])
    tree.poses.setdefault(n, found.world_from_cam)
    return found.camera.fx


def _camera_by_pnp(
    n: int, problem: AlignmentProblem, camera: PinholeCamera | None, points: np.ndarray, offsets: torch.Tensor
) -> PnpResult:
    height, width = problem.sizes[n]
    focal = camera.fx if camera else 1.0  # offsets are in units of fx, and relative to the principal point
    guess = PinholeCamera(width=width, height=height, fx=focal, fy=focal, cx=0, cy=0)
    solver = solve_pnp_unknown_focal if camera is None else solve_pnp
    threshold_px = max(1.0, _PNP_THRESHOLD * max(width, height))
    found = solver(points, offsets.double().numpy(), guess, threshold_px=threshold_px)
    share = 0.0 if found is None else float(found.inliers.mean())
    if found is None or share < _FEWEST_INLIERS:
        raise ReconstructionError(
            f"image {n} is first in no usable pair, and {100 * share:.0f} % of its {len(points)} weighted points fall "
            f"on their pixels under any pose, expected at least {100 * _FEWEST_INLIERS:.0f} %: use a symmetrised pair "
            "graph"
        )
    return found


def _in_known_frame(
    problem: AlignmentProblem, known: KnownGeometry, tree: _Tree
) -> tuple[list[SE3], list[torch.Tensor]]:
    """Poses and depths [P] in the frame of the known poses, these as they are."""
    found = [tree.poses[n] for n in range(len(problem.images))]
    world = _known_from_tree(found, known)
    poses = [k if k is not None else world.apply_pose(p) for k, p in zip(known.world_from_cams, found, strict=True)]
    depths = []
    for n, pose in enumerate(poses):
        edge, tree_from_pair = tree.sources[n]
        depths.append(_initial_depth(problem, n, world @ tree_from_pair, edge, pose))
    return poses, depths


def _in_unit_of_depth(
    problem: AlignmentProblem, known: KnownGeometry, poses: Sequence[SE3], depths: Sequence[torch.Tensor]
) -> tuple[list[SE3], list[torch.Tensor]]:
    """The same scaled about the known pose, if any, by the median ratio of known depth to the tree's."""
    ratios = [
        (image.known_depth / depth)[image.known_depth > 0]
        for image, depth in zip(problem.images, depths, strict=True)
        if image.known_depth is not None
    ]
    factor = float(torch.cat(ratios).median())
    anchor = next((p.translation for p in known.world_from_cams if p is not None), np.zeros(3))
    scaled = [
        k if k is not None else SE3(rotation=p.rotation, translation=anchor + factor * (p.translation - anchor))
        for k, p in zip(known.world_from_cams, poses, strict=True)
    ]
    return scaled, [factor * d for d in depths]


def _known_from_tree(poses: Sequence[SE3], known: KnownGeometry) -> Sim3:
    """The similarity that brings the tree's poses to the known ones."""
    held = [(k, p) for k, p in zip(known.world_from_cams, poses, strict=True) if k is not None]
    if not held:
        return Sim3.identity()
    if known.poses_fix_unit():
        try:
            return align_poses([k for k, _ in held], [p for _, p in held])
        except InvalidInputError as error:
            raise ReconstructionError(f"the pair predictions do not agree with the known poses: {error}") from error
    world_from_tree = held[0][0] @ held[0][1].inverse()
    return Sim3(scale=1.0, rotation=world_from_tree.rotation, translation=world_from_tree.translation)


def _initial_depth(problem: AlignmentProblem, n: int, world_from_pair: Sim3, edge: int, pose: SE3) -> torch.Tensor:
    """z-depth [P] in image n of the points by which the tree reached it; positive everywhere."""
    observation = next(o for o in problem.images[n].observations if o.edge == edge)
    down = world_from_pair.scale * (pose.rotation.T @ world_from_pair.rotation)[2]
    shift = float(pose.rotation.T[2] @ (world_from_pair.translation - pose.translation))
    depth = observation.points.float().cpu() @ torch.tensor(down, dtype=torch.float32) + shift
    usable = torch.isfinite(depth) & (depth > 0)
    middle = float(depth[usable].median()) if bool(usable.any()) else 1.0
    return torch.where(usable, depth, middle).clamp_min(_NEAREST * middle)


def _edges(
    problem: AlignmentProblem,
    thin: AlignmentProblem,
    maps: dict[tuple[int, int], _Map],
    poses: Sequence[SE3],
    focals: Sequence[float],
    depths: Sequence[torch.Tensor],
) -> list[Sim3]:
    """world_from_pair of every pair, from both its images' points in the world."""
    world = []
    for image, size, pose, focal, depth in zip(thin.images, problem.sizes, poses, focals, depths, strict=True):
        step = image.pixel_stride
        z = depth.reshape(size)[step // 2 :: step, step // 2 :: step].double().numpy().reshape(-1, 1)
        rays = np.concatenate([image.offsets.double().numpy() / focal, np.ones_like(z)], axis=1)
        world.append(pose.apply(z * rays))
    edges = []
    for e, (i, j) in enumerate(problem.pairs):
        points, weights = (np.concatenate([maps[e, i][k], maps[e, j][k]]) for k in (0, 1))
        edges.append(fit_similarity(np.concatenate([world[i], world[j]]), points, weights, f"pair ({i}, {j})"))
    return edges

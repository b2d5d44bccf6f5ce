"""Global alignment: pairwise pointmaps to one world (ReconX, sec. 4.2, eq. 2)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from reconx_ros.core import SE3, InvalidInputError, Job, PinholeCamera, ReconstructionError, Sim3
from reconx_ros.pointmap.alignment.graph import connected_parts
from reconx_ros.pointmap.alignment.initialise import FocalEvidence, initialise
from reconx_ros.pointmap.alignment.memory import check_memory
from reconx_ros.pointmap.alignment.newton import FocalTie
from reconx_ros.pointmap.alignment.problem import AlignmentProblem, KnownGeometry, build_problem, principal_point
from reconx_ros.pointmap.alignment.solve import AlignmentSettings, Solution, solve
from reconx_ros.pointmap.alignment.state import State
from reconx_ros.pointmap.pairwise import PairPredictions, edge_scores, finite_confidence, image_confidences

_FEWEST_PIXELS = 3
_NO_WEIGHT = "have no confident pixels"
_BEHIND = "put most of their first image behind its own camera"
_AT_THE_CAMERA = 1e-3  # depth over the median depth, below which a point was pushed against the camera


@dataclass(frozen=True, kw_only=True, eq=False)
class Alignment:
    """Images and pairs in one world.

    Attributes:
        cameras: N intrinsics; the principal point is (W / 2, H / 2) where the camera was not known.
        world_from_cams: N poses.
        depths: N z-depth maps [H, W] float32, positive.
        confidences: N maps [H, W] of raw confidence, the largest of all pairs; 1 where depth is not determined.
        pairs: the pairs that were used.
        world_from_pairs: their similarities.
        initial_loss, loss: eq. 2 before and after; None where no optimiser ran.
        iterations: Newton steps on all pixels, and on a subset before.
        passes: evaluations of the loss on all pixels, and on a subset before.
        history: eq. 2 along the way.
        unit_source: what fixes the unit: "poses" or "depth"; None where it is a convention.
        warnings: sentences for the report.
    """

    cameras: tuple[PinholeCamera, ...]
    world_from_cams: tuple[SE3, ...]
    depths: tuple[torch.Tensor, ...]
    confidences: tuple[torch.Tensor, ...]
    pairs: tuple[tuple[int, int], ...]
    world_from_pairs: tuple[Sim3, ...]
    initial_loss: float | None
    loss: float | None
    iterations: tuple[int, int] = (0, 0)
    passes: tuple[int, int] = (0, 0)
    history: tuple[float, ...] = ()
    unit_source: str | None = None
    warnings: tuple[str, ...] = ()


def align(
    predictions: PairPredictions,
    *,
    known: KnownGeometry | None = None,
    settings: AlignmentSettings | None = None,
    device: torch.device | None = None,
    job: Job | None = None,
) -> Alignment:
    """Find cameras, depths and pair similarities that agree best with pairwise pointmaps (eq. 2).

    Same inputs give the same result. Predictions are read in chunks and never copied whole, so that they may stay on
    the CPU while ``device`` computes.

    Args:
        predictions: pointmaps of pairs that connect all images.
        known: cameras, poses and depths to hold; none when None.
        settings: of the solver.
        device: where torch computes; the CPU when None.
        job: progress and cancellation.

    Raises:
        InvalidInputError: for known geometry that does not fit, or a memory limit that is too small.
        ReconstructionError: when usable pairs do not connect all images, or a map is degenerate.
        CancelledError: when the job was cancelled.
    """
    settings = settings or AlignmentSettings()
    job = job or Job(stage="alignment")
    check_memory(predictions.pairs, predictions.sizes, settings.max_memory_gb, coarse_pixels=settings.coarse_pixels)
    known = (known or KnownGeometry()).for_images(predictions.sizes)
    used, warnings = _usable_pairs(predictions)
    origin = _origin(known)
    held = replace(
        known, world_from_cams=tuple(None if p is None else _moved(p, -origin) for p in known.world_from_cams)
    )
    problem = build_problem(used, held)
    job.step(0.0, "initial cameras")
    start = initialise(used, problem, held, edge_scores(used))
    solution = solve(
        problem,
        start.state,
        start.depths,
        settings,
        _focal_terms(start.evidence, problem, settings),
        device=device or torch.device("cpu"),
        job=job,
    )
    job.step(1.0, "aligned")
    return _result(used, problem, known, solution, origin, warnings)


def alignment_loss(predictions: PairPredictions, alignment: Alignment) -> float:
    """Eq. 2 of an alignment, evaluated plainly: the readable twin of the solver's sums."""
    sides = [0.0, 0.0]
    totals = [0, 0]
    maps = {pair: e for e, pair in enumerate(predictions.pairs)}
    for pair, world_from_pair in zip(alignment.pairs, alignment.world_from_pairs, strict=True):
        e = maps[pair]
        views = ((predictions.pts3d_1[e], predictions.conf_1[e]), (predictions.pts3d_2[e], predictions.conf_2[e]))
        for side, (points, confidence) in enumerate(views):
            n = pair[side]
            camera, depth = alignment.cameras[n], alignment.depths[n].double().numpy()
            v, u = np.mgrid[: camera.height, : camera.width]
            rays = np.stack([(u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy, np.ones(u.shape)], axis=-1)
            world = alignment.world_from_cams[n].apply(depth[..., None] * rays)
            distance = np.linalg.norm(world - world_from_pair.apply(points.double().cpu().numpy()), axis=-1)
            weights = np.log(finite_confidence(confidence).double().cpu().numpy())
            sides[side] += float(np.where(np.isfinite(distance), weights * distance, 0.0).sum())
            totals[side] += distance.size
    return sides[0] / totals[0] + sides[1] / totals[1]


def _usable_pairs(predictions: PairPredictions) -> tuple[PairPredictions, list[str]]:
    """The pairs whose maps weigh something, the first one in front of its camera; they must connect all images."""
    faults = {pair: _fault(predictions, e) for e, pair in enumerate(predictions.pairs)}
    used = [e for e, pair in enumerate(predictions.pairs) if faults[pair] is None]
    warnings = []
    for fault in (_NO_WEIGHT, _BEHIND):
        named = [str(pair) for pair in predictions.pairs if faults[pair] == fault]
        if named:
            warnings.append(
                f"{len(named)} of {len(predictions)} pairs {fault} and were left out: {', '.join(named[:8])}"
            )
    parts = connected_parts(predictions.images, [predictions.pairs[e] for e in used])
    if len(parts) > 1:
        named_parts = " | ".join(", ".join(map(str, p[:20])) + (", ..." if len(p) > 20 else "") for p in parts)
        raise ReconstructionError(
            f"the usable pairs leave the images in {len(parts)} parts that no pair connects ({named_parts}), expected "
            f"one part: add pairs between them, or reconstruct them apart{'; '.join(['', *warnings])}"
        )
    return (predictions if not warnings else predictions.select(used)), warnings


def _fault(predictions: PairPredictions, e: int) -> str | None:
    """Why a pair cannot be used, or None."""
    maps = ((predictions.pts3d_1[e], predictions.conf_1[e]), (predictions.pts3d_2[e], predictions.conf_2[e]))
    masks = [(finite_confidence(c) > 1) & torch.isfinite(p).all(dim=-1) for p, c in maps]
    if min(int(m.sum()) for m in masks) < _FEWEST_PIXELS:
        return _NO_WEIGHT
    in_front = (predictions.pts3d_1[e][..., 2] > 0) & masks[0]
    return _BEHIND if 2 * int(in_front.sum()) < int(masks[0].sum()) else None


def _origin(known: KnownGeometry) -> np.ndarray:
    """A point amid the known cameras: map coordinates may be too large for float32."""
    centres = [p.translation for p in known.world_from_cams if p is not None]
    return np.mean(centres, axis=0) if centres else np.zeros(3)


def _moved(pose: SE3, shift: np.ndarray) -> SE3:
    return SE3(rotation=pose.rotation, translation=pose.translation + shift)


def _focal_terms(
    evidence: FocalEvidence, problem: AlignmentProblem, settings: AlignmentSettings
) -> Callable[[float], FocalTie]:
    pixels = sum(problem.images[i].pixels for i, _ in problem.pairs)
    use = float(settings.focal_from_pointmaps)

    def tie(loss: float) -> FocalTie:
        found = evidence.tie(loss, pixels)
        return FocalTie(values=found.values, stiffness=use * found.stiffness)

    return tie


def _result(
    used: PairPredictions,
    problem: AlignmentProblem,
    known: KnownGeometry,
    solution: Solution,
    origin: np.ndarray,
    warnings: list[str],
) -> Alignment:
    state: State = solution.state
    middle = float(torch.cat([d[:: max(1, len(d) // 1000)] for d in solution.depths]).median())
    confidences = []
    for n, (fused, depth) in enumerate(zip(image_confidences(used), solution.depths, strict=True)):
        determined = (depth > _AT_THE_CAMERA * middle).reshape(problem.sizes[n])
        confidences.append(torch.where(determined, fused, 1.0))
        share = 1 - float(determined.float().mean())
        if share > 0.01:
            warnings.append(f"{100 * share:.0f} % of image {n} would lie at or behind its camera and has no depth")
    if not solution.converged:
        warnings.append(f"global alignment stopped after {sum(solution.iterations)} iterations before it had converged")
    if not np.isfinite(solution.loss):
        raise InvalidInputError(f"global alignment ended at a loss of {solution.loss}, expected finite predictions")
    return Alignment(
        cameras=tuple(_camera(problem, known, state, n) for n in range(len(problem.images))),
        world_from_cams=tuple(
            _moved(p, origin) if k is None else k for p, k in zip(state.poses, known.world_from_cams, strict=True)
        ),
        depths=tuple(d.reshape(s) for d, s in zip(solution.depths, problem.sizes, strict=True)),
        confidences=tuple(confidences),
        pairs=problem.pairs,
        world_from_pairs=tuple(
            Sim3(scale=e.scale, rotation=e.rotation, translation=e.translation + origin) for e in state.edges
        ),
        initial_loss=solution.initial_loss,
        loss=solution.loss,
        iterations=solution.iterations,
        passes=solution.passes,
        history=solution.history,
        unit_source=_unit_source(problem, known),
        warnings=tuple(warnings),
    )


def _unit_source(problem: AlignmentProblem, known: KnownGeometry) -> str | None:
    if problem.scale_is_free:
        return None
    return "poses" if known.poses_fix_unit() else "depth"


def _camera(problem: AlignmentProblem, known: KnownGeometry, state: State, n: int) -> PinholeCamera:
    camera = known.cameras[n]
    if camera is not None:
        return camera
    height, width = problem.sizes[n]
    focal = float(np.exp(state.log_focals[n]))
    cx, cy = principal_point(problem.sizes[n], None)
    return PinholeCamera(width=width, height=height, fx=focal, fy=focal, cx=cx, cy=cy)

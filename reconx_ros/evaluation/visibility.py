"""Which pixels of a held-out view show a surface that some input picture saw: where no input looked, a method guesses.

The true depth of the held-out view is back-projected into every input; a pixel is observed where one of them holds the
same depth there. Depth is the sensor's. Where a scene has none, it is the reference depth: multi-view stereo over all
pictures of the split with their true poses, inputs and held-out ones, so that it does not depend on what is judged.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from reconx_ros.core import SE3, CancelledError, Frame, Job, Keyframe, PinholeCamera, PointMap, ReconxError
from reconx_ros.core.settings import updated
from reconx_ros.evaluation.heldout import HeldOutTask, posed
from reconx_ros.geometry.projection import backproject, project, transform_points
from reconx_ros.geometry.resize import resize_nearest
from reconx_ros.pipeline.config import ReconxConfig
from reconx_ros.pipeline.reconstructor import Reconstructor
from reconx_ros.pointmap.completion.base import NONE as NO_COMPLETION

_log = logging.getLogger(__name__)

SENSOR, REFERENCE, NOTHING = "sensor depth", "reference depth of all pictures", ""
AGREEMENT = 0.05  # relative difference of depth up to which two views see the same surface
_MIN_CONFIDENCE = 0.3
_GROUP = 12  # held-out views whose reference depth is made together, which bounds the memory


@dataclass(frozen=True, kw_only=True, eq=False)
class TrueDepthView:
    """A view with true depth.

    Attributes:
        depth: [H, W] float32 z-depth in the unit of the poses; 0 or NaN where unknown.
        camera, world_from_cam: of exactly this depth map.
    """

    depth: np.ndarray  # [H, W]
    camera: PinholeCamera
    world_from_cam: SE3


@dataclass(frozen=True, kw_only=True, eq=False)
class Observed:
    """Pixels of one held-out view.

    Attributes:
        seen: [H, W] bool, some input saw the surface.
        unseen: [H, W] bool, its depth is known and no input saw it. The rest is unknown.
    """

    seen: np.ndarray  # [H, W]
    unseen: np.ndarray  # [H, W]

    @property
    def judged(self) -> float:
        """Share of the pixels that are known to be either."""
        return float((self.seen | self.unseen).mean())

    @property
    def share(self) -> float | None:
        """Observed share of the pixels that are known; None without any."""
        known = int(self.seen.sum()) + int(self.unseen.sum())
        return float(self.seen.sum()) / known if known else None


def observed_pixels(
    target: TrueDepthView, inputs: Sequence[TrueDepthView], *, agreement: float = AGREEMENT
) -> Observed:
    """Split the pixels of a view into those that an input saw and those that none did.

    Where an input's own depth is unknown at the place a surface falls on, nothing tells whether something hides it: the
    pixel is unknown, unless another input saw it.

    Args:
        target: the held-out view.
        inputs: the inputs, poses in the same world.
        agreement: relative difference of depth up to which a surface is the same.
    """
    depth = np.where(np.isfinite(target.depth), target.depth, 0.0)
    points = backproject(torch.from_numpy(depth.astype(np.float32)), target.camera).double()
    known = depth > 0
    seen, maybe = np.zeros_like(known), np.zeros_like(known)
    for view in inputs:
        uv, z = project(transform_points(view.world_from_cam.inverse() @ target.world_from_cam, points), view.camera)
        column, row = np.rint(uv[..., 0].numpy()), np.rint(uv[..., 1].numpy())
        with np.errstate(invalid="ignore"):
            inside = known & (z.numpy() > 0) & (column >= 0) & (column < view.camera.width)
            inside &= (row >= 0) & (row < view.camera.height)
        same, known_there = _compared(
            view.depth, row[inside].astype(int), column[inside].astype(int), z.numpy()[inside]
        )
        seen[inside] |= same <= agreement
        maybe[inside] |= ~known_there
    return Observed(seen=seen, unseen=known & ~seen & ~maybe)


def _compared(depth: np.ndarray, row: np.ndarray, column: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least relative difference [P] between depths z and those of the 3x3 pixels about a place, and which have any.

    The neighbours, since a slanted surface changes by more than the tolerance from pixel to pixel of a small picture.
    """
    padded = np.pad(np.where(np.isfinite(depth) & (depth > 0), depth, np.nan), 1, constant_values=np.nan)
    near = np.stack([padded[row + i, column + j] for i in range(3) for j in range(3)])  # [9, P]
    difference = np.abs(near - z) / z
    known = np.isfinite(near).any(axis=0)
    return np.where(np.isfinite(difference), difference, np.inf).min(axis=0), known


def observed_masks(
    task: HeldOutTask, config: ReconxConfig, *, job: Job | None = None
) -> tuple[list[Observed | None], str]:
    """Masks of all held-out views, and what told them: ``SENSOR``, ``REFERENCE`` or ``NOTHING``.

    The sensor's depth is taken where every picture of the split has one.

    Raises:
        CancelledError: when the job was cancelled.
    """
    if all(d is not None for d in task.depths) and all(f.depth_m is not None for f in task.tests):
        inputs = [
            _sensor_view(k.frame, depth, pose)
            for k, depth, pose in zip(task.keyframes, task.depths, task.truth, strict=True)
        ]
        return [observed_pixels(_sensor_view(f, f.depth_m, posed(f)), inputs) for f in task.tests], SENSOR
    try:
        return _reference_masks(task, config, job), REFERENCE
    except CancelledError:
        raise
    except ReconxError as err:
        _log.warning("observed and unobserved pixels of %s cannot be told apart: %s", task.scene, err)
        return [None] * len(task.tests), NOTHING


def _sensor_view(frame: Frame, depth_m: np.ndarray | None, pose: SE3) -> TrueDepthView:
    assert depth_m is not None
    return TrueDepthView(depth=depth_m, camera=frame.camera, world_from_cam=pose)


def _reference_masks(task: HeldOutTask, config: ReconxConfig, job: Job | None) -> list[Observed | None]:
    masks: list[Observed | None] = []
    settings = updated(config, {"pointmap": {"backend": "auto", "refine_poses": False}})
    given = [replace(k.frame, world_from_cam=p) for k, p in zip(task.keyframes, task.truth, strict=True)]
    for start in range(0, len(task.tests), _GROUP):
        group = [task.tests[i] for i in range(start, min(start + _GROUP, len(task.tests)))]
        depths = _stereo_depths([*given, *group], settings, job)
        masks += [observed_pixels(view, depths[: len(given)]) for view in depths[len(given) :]]
    return masks


def _stereo_depths(frames: Sequence[Frame], config: ReconxConfig, job: Job | None) -> list[TrueDepthView]:
    """Depth of every frame from all of them, on the frames' own grids; 0 where it is unsure."""
    keyframes = [Keyframe(id=i, frame=replace(f, depth_m=None), sharpness=0.0) for i, f in enumerate(frames)]
    measured = updated(config, {"pointmap": {"completion": NO_COMPLETION}})
    found = Reconstructor(measured).align(keyframes, metric_poses=False, job=job)
    by_id = {v.keyframe_id: v for v in found.views}
    return [_stereo_view(by_id[i], frame) for i, frame in enumerate(frames)]


def _stereo_view(view: PointMap, frame: Frame) -> TrueDepthView:
    depth = torch.where(view.valid & (view.confidence >= _MIN_CONFIDENCE), view.depth, 0.0)
    depth = resize_nearest(depth, frame.camera.width, frame.camera.height)
    return TrueDepthView(depth=depth.numpy(), camera=frame.camera, world_from_cam=posed(frame))

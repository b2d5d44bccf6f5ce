"""Runs the clips of a plan through a video model, one after the other."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from reconx_ros.core import AlignedViews, DoesNotFitError, InvalidInputError, Job, Trajectory, check_shape
from reconx_ros.core.memory import is_out_of_memory
from reconx_ros.diffusion.base import InBetweenView
from reconx_ros.diffusion.clips.pictures import picture_through, render_path
from reconx_ros.diffusion.clips.plan import ClipPlan, KeyframeRef, PictureRef
from reconx_ros.diffusion.clips.render_guidance import RenderTarget, render_target
from reconx_ros.diffusion.config import DiffusionConfig
from reconx_ros.geometry.projection import pointmap_world, transform_points
from reconx_ros.geometry.view_blending import BlendedView
from reconx_ros.geometry.visibility import Surface


@dataclass(frozen=True, kw_only=True, eq=False)
class ClipRequest:
    """What a video model is given for one clip.

    Attributes:
        first, second: [H, W, 3] in [0, 1], its known pictures.
        second_frame: where the second one stands.
        trajectory: a camera for each frame.
        points_cam: [P, 3] points of the scene in the frame of the first camera; None without.
        target: renders that frames are held to; None leaves them free.
        seed: of the noise.
    """

    first: torch.Tensor  # [H, W, 3]
    second: torch.Tensor  # [H, W, 3]
    second_frame: int
    trajectory: Trajectory
    points_cam: torch.Tensor | None  # [P, 3]
    target: RenderTarget | None
    seed: int


@dataclass(frozen=True, kw_only=True, eq=False)
class ClipFrames:
    """What a video model gave back: [T, H, W, 3] in [0, 1] on the CPU, and sentences for the report."""

    frames: torch.Tensor  # [T, H, W, 3]
    warnings: tuple[str, ...] = ()


class ClipModel(Protocol):
    """A loaded video model."""

    uses_points: bool

    def follows_path(self, config: DiffusionConfig) -> bool:
        """Whether it is told the planned poses, so that its frames can be taken to be seen from there."""
        ...

    def frame_count(self, config: DiffusionConfig) -> int:
        """Frames of one clip. Raises InvalidInputError for a number that it cannot make."""
        ...

    def check(self, plans: Sequence[ClipPlan], config: DiffusionConfig) -> None:
        """Refuse, before anything is computed, what cannot be run.

        Raises:
            InvalidInputError: for sizes and paths that the model cannot make.
            DoesNotFitError: when it would need more memory than there is.
        """
        ...

    def fill(self, request: ClipRequest, config: DiffusionConfig, job: Job) -> ClipFrames:
        """All frames of a clip. Raises as ``check``, and CancelledError."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class PlacedFrame:
    """An in-between view, and what the keyframes' surfaces look like from its planned pose."""

    frame: InBetweenView
    render: BlendedView


def run_clips(
    model: ClipModel,
    plans: Sequence[ClipPlan],
    views: AlignedViews,
    surfaces: Sequence[Surface],
    config: DiffusionConfig,
    job: Job,
) -> tuple[list[PlacedFrame], tuple[str, ...]]:
    """The kept frames of all clips, in order of the path, and the models' warnings, each once.

    Known pictures stand in the frames bit for bit.

    Raises:
        As ``ClipModel.fill``; InvalidInputError when a model returns frames of another shape.
    """
    points, notes = _points(model, views, config)
    clips: list[torch.Tensor] = []
    placed: list[PlacedFrame] = []
    for k, plan in enumerate(plans):
        part = part_of(job, k / len(plans), (k + 1) / len(plans), f"clip {k + 1} of {len(plans)}, ")
        part.step(0.0, "rendering the points")
        renders = render_path(surfaces, plan.trajectory)
        known = {j: _picture(ref, views, clips, plan) for j, ref in plan.known.items()}
        result = model.fill(_request(plan, known, renders, points, config, config.actual_seed + k), config, part)
        clips.append(_with_known(result.frames, known, plan))
        notes.extend(result.warnings)
        poses = plan.trajectory.world_from_cams
        for j in plan.kept:
            frame = InBetweenView(rgb=clips[-1][j], camera=plan.trajectory.camera, world_from_cam=poses[j])
            placed.append(PlacedFrame(frame=frame, render=renders[j]))
    return placed, tuple(dict.fromkeys(notes))


def _request(
    plan: ClipPlan,
    known: dict[int, torch.Tensor],
    renders: Sequence[BlendedView],
    points_world: torch.Tensor | None,
    config: DiffusionConfig,
    seed: int,
) -> ClipRequest:
    target = None
    if max(config.render_guidance, config.render_guidance_end) > 0:
        target = render_target(
            renders, known, config.render_guidance_confidence, config.render_guidance, config.render_guidance_end
        )
    first_from_world = plan.trajectory.world_from_cams[0].inverse()
    return ClipRequest(
        first=known[0],
        second=known[plan.second_frame],
        second_frame=plan.second_frame,
        trajectory=plan.trajectory,
        points_cam=None if points_world is None else transform_points(first_from_world, points_world),
        target=target,
        seed=seed,
    )


def _picture(ref: PictureRef, views: AlignedViews, clips: Sequence[torch.Tensor], plan: ClipPlan) -> torch.Tensor:
    if isinstance(ref, KeyframeRef):
        return picture_through(views.views[ref.view], plan.trajectory.camera)
    if not 0 <= ref.clip < len(clips):
        raise InvalidInputError(f"a clip begins with a frame of clip {ref.clip}, which has not been made yet")
    return clips[ref.clip][ref.frame]


def _with_known(frames: torch.Tensor, known: dict[int, torch.Tensor], plan: ClipPlan) -> torch.Tensor:
    camera = plan.trajectory.camera
    check_shape("frames of the video model", frames, len(plan), camera.height, camera.width, 3)
    frames = frames.clone()
    for j, picture in known.items():
        frames[j] = picture
    return frames


def _points(model: ClipModel, views: AlignedViews, config: DiffusionConfig) -> tuple[torch.Tensor | None, list[str]]:
    if config.structure_points == 0 or not model.uses_points:
        return None, []
    points = scene_points(views, config.min_confidence, config.structure_points, config.actual_seed)
    if len(points):
        return points, []
    return None, [
        f"no point of the scene has a confidence of {config.min_confidence:g}: frames are made without structure"
    ]


def scene_points(views: AlignedViews, min_confidence: float, count: int, seed: int) -> torch.Tensor:
    """World points [P, 3] of all sure pixels, thinned at random to at most ``count``; none where none is sure."""
    sure = [pointmap_world(v)[v.valid & (v.confidence >= min_confidence)] for v in views.views]
    points = torch.cat(sure).float().cpu()
    if len(points) <= count:
        return points
    chosen = torch.randperm(len(points), generator=torch.Generator().manual_seed(seed))[:count]
    return points[chosen]


def part_of(job: Job, start: float, end: float, prefix: str = "") -> Job:
    """A handle whose progress runs from start to end of the given one's."""

    def forward(stage: str, fraction: float, message: str) -> None:
        job.on_progress(stage, start + (end - start) * fraction, prefix + message)

    return Job(stage=job.stage, on_progress=forward, token=job.token)


@contextlib.contextmanager
def memory_errors(what: str) -> Iterator[None]:
    """Turn an allocation that fails, on a GPU or not, into one sentence.

    Raises:
        DoesNotFitError: in its place.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
    else:
        return
    raise DoesNotFitError(_advice(what))


def _advice(what: str) -> str:
    return (
        f"{what} ran out of memory: take fewer frames (diffusion.clip_frames), a smaller size (diffusion.width and"
        " height), less precision (diffusion.precision) or offload parts (diffusion.offload)"
    )

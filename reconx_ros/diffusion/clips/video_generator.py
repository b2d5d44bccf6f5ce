"""What all generators with a video model do: plan clips, run them, place and judge their frames."""

from __future__ import annotations

import gc
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace

import torch

from reconx_ros.core import (
    AlignedViews,
    CancelledError,
    DoesNotFitError,
    InvalidInputError,
    Job,
    ReconxError,
    SequenceView,
    Trajectory,
    ViewSequence,
)
from reconx_ros.core.registry import create
from reconx_ros.diffusion.base import FrameEstimator, FrameGeometry, ViewGenerator
from reconx_ros.diffusion.clips.judge import judged_view
from reconx_ros.diffusion.clips.pictures import keyframe_view, render_path, shared_camera, surfaces_from_views
from reconx_ros.diffusion.clips.plan import plan_clips
from reconx_ros.diffusion.clips.run import (
    ClipModel,
    PlacedFrame,
    memory_errors,
    part_of,
    run_clips,
)
from reconx_ros.diffusion.config import NO_FALLBACK, DiffusionConfig
from reconx_ros.diffusion.registry import registry
from reconx_ros.geometry.visibility import Surface
from reconx_ros.weights.cache import ModelCache

_LOADED, _MADE = 0.05, 0.9  # shares of the progress


class VideoGenerator(ABC):
    """Base of the generators that run a video model clip by clip; see ``ViewGenerator``.

    Subclasses name themselves and load their model. Instances hold nothing between calls but the estimator and the
    cache that models stay in.

    Where the model is not told the planned poses, stage 1 is asked where its frames are seen from, as in the paper.

    Attributes:
        name: of the backend.
    """

    name = ""

    def __init__(self, estimator: FrameEstimator | None = None, models: ModelCache | None = None) -> None:
        self._estimator = estimator
        self._models = models or ModelCache()

    def with_estimator(self, estimator: FrameEstimator) -> VideoGenerator:
        """The same generator, which asks that estimator about its frames."""
        return type(self)(estimator, self._models)

    def with_models(self, models: ModelCache) -> VideoGenerator:
        """The same generator, which takes its model from that cache."""
        return type(self)(self._estimator, models)

    @abstractmethod
    def load(self, config: DiffusionConfig, device: torch.device) -> ClipModel:
        """The video model that the configuration names.

        Raises:
            WeightsError: without weights.
            InvalidInputError: for weights that are not what this generator runs.
        """

    def generate(
        self, views: AlignedViews, trajectory: Trajectory, config: DiffusionConfig, *, device: torch.device, job: Job
    ) -> ViewSequence:
        """Keyframes, then in-between views; see ``ViewGenerator``.

        Pixels of in-between views are GENERATED, but those that ``config.observed_confidence`` lets the points explain.
        """
        if len(views.views) < 2:
            raise InvalidInputError(f"a video model needs at least 2 keyframes to go between, got {len(views.views)}")
        reason = ""
        try:
            if config.max_memory_gb:  # what other models hold makes no difference
                return self._generate(views, config, device, job)
            return self._models.with_room(lambda: self._generate(views, config, device, job))
        except DoesNotFitError as error:
            if config.fallback == NO_FALLBACK:
                raise
            reason = str(error)
        _release(device)
        other: ViewGenerator = create(registry(), config.fallback, kind="diffusion backend")
        sequence = other.generate(views, trajectory, config, device=device, job=job)
        note = f"views are made by '{other.name}' instead of '{self.name}' (diffusion.fallback): {reason}"
        return replace(sequence, warnings=(note, *sequence.warnings))

    def _generate(self, views: AlignedViews, config: DiffusionConfig, device: torch.device, job: Job) -> ViewSequence:
        with memory_errors(f"video model '{self.name}'"):
            return self._made(views, config, device, job)

    def _made(self, views: AlignedViews, config: DiffusionConfig, device: torch.device, job: Job) -> ViewSequence:
        job.step(0.0, "loading the video model")
        model = self.load(config, device)
        camera = shared_camera(views.views, config.width, config.height)
        plans = plan_clips(views, config, camera, model.frame_count(config))
        model.check(plans, config)
        surfaces = surfaces_from_views(views, config.min_confidence, device)
        placed, notes = run_clips(model, plans, views, surfaces, config, part_of(job, _LOADED, _MADE))
        made, more = self._judged(
            placed, views, surfaces, config, device, part_of(job, _MADE, 1.0), follows=model.follows_path(config)
        )
        job.step(1.0, "done")
        keyframes = [keyframe_view(v) for v in views.views]
        return ViewSequence(
            views=(*keyframes, *made), backend=self.name, generates=bool(made), warnings=(*notes, *more)
        )

    def _judged(
        self,
        placed: Sequence[PlacedFrame],
        views: AlignedViews,
        surfaces: Sequence[Surface],
        config: DiffusionConfig,
        device: torch.device,
        job: Job,
        *,
        follows: bool,
    ) -> tuple[list[SequenceView], tuple[str, ...]]:
        """Frames with pose, confidence and provenance, and sentences about them."""
        found, notes = self._estimated(placed, views, config, device, job, follows=follows)
        made = []
        for k, (item, geometry) in enumerate(zip(placed, found, strict=True)):
            job.step(k / len(placed), f"judging frame {k + 1} of {len(placed)}")
            frame, render = item.frame, item.render
            if geometry is not None and geometry.world_from_cam is not frame.world_from_cam:
                frame = replace(frame, world_from_cam=geometry.world_from_cam)
                path = Trajectory(camera=frame.camera, world_from_cams=(frame.world_from_cam,))
                render = render_path(surfaces, path)[0]
            made.append(
                judged_view(
                    frame,
                    render,
                    geometry,
                    prior=config.generated_confidence,
                    observed_from=config.observed_confidence,
                    placed=follows or geometry is not None,
                )
            )
        return made, notes

    def _estimated(
        self,
        placed: Sequence[PlacedFrame],
        views: AlignedViews,
        config: DiffusionConfig,
        device: torch.device,
        job: Job,
        *,
        follows: bool,
    ) -> tuple[Sequence[FrameGeometry | None], tuple[str, ...]]:
        """Stage 1's answer per frame, or None where it was not asked or had none."""
        nothing: tuple[FrameGeometry | None, ...] = (None,) * len(placed)
        if not placed or (follows and config.check != "stage1"):
            return nothing, ()
        lack = (
            "poses of in-between views are those of the planned path, not measured"
            if not follows
            else ("in-between views are compared with the keyframes' surfaces instead")
        )
        if self._estimator is None:
            return nothing, (f"stage 1 was not at hand to look at in-between views: {lack}",)
        frames = [p.frame for p in placed]
        try:
            found = self._estimator(views, frames, find_poses=not follows, device=device, job=job)
        except CancelledError:
            raise
        except ReconxError as error:
            return nothing, (f"stage 1 cannot use the in-between views ({error}): {lack}",)
        missing = sum(f is None for f in found)
        if not missing:
            return found, ()
        return found, (
            f"stage 1 could not join {missing} of {len(placed)} in-between views to the keyframes: for these, {lack}",
        )


def _release(device: torch.device) -> None:
    """Give the memory of a run that failed back to the device."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()

"""The three stages in a row: keyframes in, cloud, Gaussians and novel views out.

All that goes in and comes out is in the world of the keyframes; the stages work where single precision suffices
(``reconx_ros.pipeline.working_frame``).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from reconx_ros.core import (
    AlignedViews,
    GaussianScene,
    InvalidInputError,
    Job,
    Keyframe,
    PinholeCamera,
    PointCloud,
    Trajectory,
    ViewSequence,
)
from reconx_ros.core.transforms import SE3
from reconx_ros.diffusion.base import ViewGenerator
from reconx_ros.diffusion.clips.trajectory import plan_trajectory
from reconx_ros.pipeline.clouds import generated_cloud, pointmap_cloud, require_confident
from reconx_ros.pipeline.config import ReconxConfig, with_stage_seeds
from reconx_ros.pipeline.report import build_report
from reconx_ros.pipeline.selection import choose_completer, choose_device, choose_generator, choose_pointmap
from reconx_ros.pipeline.stages import StageRecorder
from reconx_ros.pipeline.working_frame import centred, working
from reconx_ros.pointmap.base import PointmapBackend
from reconx_ros.pointmap.completion.base import DepthCompleter
from reconx_ros.pointmap.completion.complete import completed, without_guesses
from reconx_ros.pointmap.config import PointmapConfig
from reconx_ros.pointmap.inputs import usable_keyframes
from reconx_ros.pointmap.memory import MemoryPlan, plan_memory
from reconx_ros.pointmap.scale import scale_to_metric, with_pose_unit
from reconx_ros.splatting.base import Rasterizer
from reconx_ros.splatting.fit import FitResult, fit
from reconx_ros.splatting.init import initial_scene
from reconx_ros.splatting.losses import PerceptualLoss
from reconx_ros.splatting.lpips import perceptual_from_config
from reconx_ros.splatting.render import RenderedView, render_scene
from reconx_ros.splatting.select import select_rasterizer
from reconx_ros.weights.cache import ModelCache

_ALIGN_SHARE = 0.6  # of stage 1's progress, where depth is completed after it
_SPLATTING_BYTES = 2e9  # that should be free when stage 3 starts; at usual sizes it takes less
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class Reconstruction:
    """Everything one run produced.

    Attributes:
        keyframes: its input.
        views: stage 1, one pointmap per keyframe.
        sequence: stage 2, the keyframes and the in-between views.
        scene: stage 3; positions in double precision where the world's origin is far.
        cloud: points of all kinds with at least the exported or coverage confidence, whichever is lower.
        trajectory: poses of the novel views.
        novel_views: pictures of the scene along the trajectory.
        report: plain dictionaries for JSON: config, versions, stages, counts, warnings.
    """

    keyframes: tuple[Keyframe, ...]
    views: AlignedViews
    sequence: ViewSequence
    scene: GaussianScene
    cloud: PointCloud
    trajectory: Trajectory
    novel_views: tuple[RenderedView, ...]
    report: dict[str, Any]

    @property
    def metric_scale(self) -> bool:
        """Whether lengths are metres."""
        return self.views.metric_scale

    @property
    def keyframe_poses(self) -> dict[int, SE3]:
        """world_from_cam of every keyframe as stage 1 left it."""
        return {v.keyframe_id: v.world_from_cam for v in self.views.views}


class Reconstructor:
    """Runs the stages that a configuration names.

    Args:
        config: of all stages.
        models: where networks stay loaded between runs; None makes a cache for this object alone.
    """

    def __init__(self, config: ReconxConfig, models: ModelCache | None = None) -> None:
        self._config = with_stage_seeds(config)
        self._device = choose_device(config.device)
        self._models = models or ModelCache()

    def run(
        self, keyframes: Sequence[Keyframe], *, metric_poses: bool = True, job: Job | None = None
    ) -> Reconstruction:
        """Reconstruct.

        Args:
            keyframes: at least two, each with a pose unless the stage-1 backend recovers poses itself.
            metric_poses: whether the poses are in metres; a scale that comes from other poses is not called metric.
            job: progress and cancellation; stages are "pointmap", "diffusion", "splatting", "render".

        Raises:
            InvalidInputError: for keyframes that cannot be used.
            InsufficientParallaxError: when the camera never moved sideways enough to see depth.
            BackendUnavailableError: when a named backend cannot run here.
            ReconstructionError: when a stage's outcome is empty, or no pixel's depth is sure.
            CancelledError: when the job was cancelled; nothing is returned and nothing written.
        """
        if len(keyframes) < 2:
            raise InvalidInputError(f"got {len(keyframes)} keyframe, a reconstruction needs at least 2")
        job = job or Job()
        config, device = self._config, self._device
        keyframes = usable_keyframes(keyframes, config.pointmap)
        backend = choose_pointmap(config, keyframes, self._models)
        completer = choose_completer(config.pointmap, self._models)
        generator = choose_generator(config, self._models)
        rasterizer, stages = select_rasterizer(config.splatting, device), StageRecorder(device, self._models)
        before = self._models.load_seconds
        perceptual = self._perceptual()  # before any work, so that a wrong file costs none
        perceptual_seconds = self._models.load_seconds - before
        with stages.measure("pointmap", backend.name):
            memory = plan_memory(backend, keyframes, config.pointmap, device=device)
            aligning, completing = _shared(job.for_stage("pointmap"), completer)
            views = self._align(backend, keyframes, memory, metric_poses, aligning)
            require_confident(views, config.output.min_confidence, given_poses=_all_posed(keyframes))
            views = self._completed(views, completer, memory.config, completing)
        frame = working(views)
        mapped = frame.views(views)
        local = without_guesses(mapped)
        with stages.measure("diffusion", generator.name):
            sequence = self._generate(generator, local, job.for_stage("diffusion"))
        with stages.measure("splatting", rasterizer.name, loaded_seconds=perceptual_seconds):
            fitted = self._fit(local, sequence, rasterizer, perceptual, job.for_stage("splatting"))
        with stages.measure("render", rasterizer.name):
            trajectory, novel_views = self._render(local, fitted.scene, rasterizer, job.for_stage("render"))
        cloud, fitted = frame.back.cloud(self._cloud(mapped, sequence)), frame.back.fitted(fitted)
        report = build_report(
            config, device=device, keyframes=keyframes, views=views, sequence=sequence, fitted=fitted, cloud=cloud,
            novel_views=len(novel_views), stages=stages.records, memory=memory,
        )  # fmt: skip
        return Reconstruction(
            keyframes=tuple(keyframes), views=views, sequence=frame.back.sequence(sequence), scene=fitted.scene,
            cloud=cloud, trajectory=frame.back.trajectory(trajectory), novel_views=frame.back.rendered(novel_views),
            report={**report, "working_frame": frame.described()},
        )  # fmt: skip

    def align(
        self, keyframes: Sequence[Keyframe], *, metric_poses: bool = True, job: Job | None = None
    ) -> AlignedViews:
        """Stage 1 alone: geometry and cameras, in metres where a source of scale agrees; arguments as ``run``.

        Raises:
            InvalidInputError, InsufficientParallaxError, BackendUnavailableError, ReconstructionError, CancelledError:
                as ``run``.
        """
        keyframes = usable_keyframes(keyframes, self._config.pointmap)
        backend = choose_pointmap(self._config, keyframes, self._models)
        completer = choose_completer(self._config.pointmap, self._models)
        memory = plan_memory(backend, keyframes, self._config.pointmap, device=self._device)
        aligning, completing = _shared(job or Job(stage="pointmap"), completer)
        views = self._align(backend, keyframes, memory, metric_poses, aligning)
        return self._completed(views, completer, memory.config, completing)

    def generate(self, views: AlignedViews, *, job: Job | None = None) -> ViewSequence:
        """Stage 2 alone: the views of stage 1 and the in-between views.

        Raises:
            InvalidInputError, BackendUnavailableError, CancelledError: as ``run``.
        """
        views = without_guesses(views)
        frame, generator = working(views), choose_generator(self._config, self._models)
        made = self._generate(generator, frame.views(views), job or Job(stage="diffusion"))
        return frame.back.sequence(made)

    def fit(self, views: AlignedViews, sequence: ViewSequence, *, job: Job | None = None) -> FitResult:
        """Stage 3 alone: Gaussians that start from the pointmaps of stage 1 and look like the frames of stage 2.

        Raises:
            InvalidInputError, BackendUnavailableError, ReconstructionError, CancelledError: as ``run``.
        """
        views = without_guesses(views)
        rasterizer, frame = select_rasterizer(self._config.splatting, self._device), working(views)
        local, job = frame.views(views), job or Job(stage="splatting")
        return frame.back.fitted(self._fit(local, frame.sequence(sequence), rasterizer, self._perceptual(), job))

    def _perceptual(self) -> PerceptualLoss | None:
        return perceptual_from_config(self._config.splatting, self._models, self._device)

    def _align(
        self,
        backend: PointmapBackend,
        keyframes: Sequence[Keyframe],
        memory: MemoryPlan,
        metric_poses: bool,
        job: Job,
    ) -> AlignedViews:
        torch.manual_seed(memory.config.seed)
        self._models.make_room(memory.estimated_bytes or 0, self._device)
        frame = centred(keyframes)
        near = frame.keyframes(keyframes)
        views = self._models.with_room(lambda: backend.reconstruct(near, memory.config, device=self._device, job=job))
        views = with_pose_unit(views, metric_poses=metric_poses)
        views = replace(views, warnings=(*memory.warnings, *views.warnings))
        views = scale_to_metric(
            views,
            near,
            memory.config,
            metric_poses=metric_poses,
            device=self._device,
            job=job,
            models=self._models,
        )
        return frame.back.views(views)

    def _completed(
        self, views: AlignedViews, completer: DepthCompleter | None, config: PointmapConfig, job: Job
    ) -> AlignedViews:
        """The views with a depth at every pixel, where somebody guesses the depth of what was not measured."""
        if completer is None or all(bool(view.valid.all()) for view in views.views):
            return views
        return self._models.with_room(lambda: completed(views, completer, config, device=self._device, job=job))

    def _generate(self, generator: ViewGenerator, views: AlignedViews, job: Job) -> ViewSequence:
        config = self._config
        torch.manual_seed(config.diffusion.seed)
        path = plan_trajectory(views, config.diffusion.frames, max_size=config.splatting.max_size)
        return generator.generate(views, path, config.diffusion, device=self._device, job=job)

    def _fit(
        self,
        views: AlignedViews,
        sequence: ViewSequence,
        rasterizer: Rasterizer,
        perceptual: PerceptualLoss | None,
        job: Job,
    ) -> FitResult:
        config, seed = self._config, self._config.splatting.seed
        torch.manual_seed(seed)
        self._models.make_room(_SPLATTING_BYTES, self._device, keep=perceptual)
        start = initial_scene(views, config.splatting, seed=seed)
        return self._models.with_room(
            lambda: fit(
                start,
                sequence,
                config.splatting,
                rasterizer=rasterizer,
                device=self._device,
                job=job,
                seed=seed,
                perceptual=perceptual,
            )
        )

    def _render(
        self, views: AlignedViews, scene: GaussianScene, rasterizer: Rasterizer, job: Job
    ) -> tuple[Trajectory, tuple[RenderedView, ...]]:
        output = self._config.output
        if output.novel_views == 0:
            return Trajectory(camera=views.views[0].camera, world_from_cams=()), ()
        trajectory = plan_trajectory(views, output.novel_views, max_size=output.novel_view_size)
        rendered = render_scene(
            scene,
            trajectory,
            rasterizer=rasterizer,
            device=self._device,
            antialiased=self._config.splatting.antialiased,
            fill_holes=output.fill_holes,
            job=job,
        )
        return trajectory, tuple(rendered)

    def _cloud(self, views: AlignedViews, sequence: ViewSequence) -> PointCloud:
        floor = min(self._config.output.min_confidence, self._config.coverage.min_confidence)
        mapped = pointmap_cloud(views, floor)
        if not sequence.generates:
            return mapped
        return PointCloud.concatenate([mapped, generated_cloud(sequence, views, floor)])


def _shared(job: Job, completer: DepthCompleter | None) -> tuple[Job, Job]:
    """What aligning and completing report of their progress in stage 1, so that it never goes back."""
    return (job, job) if completer is None else (job.part(0.0, _ALIGN_SHARE), job.part(_ALIGN_SHARE, 1.0))


def _all_posed(keyframes: Sequence[Keyframe]) -> bool:
    return all(k.frame.world_from_cam is not None for k in keyframes)


class SceneRenderer:
    """Pictures of a finished scene from any pose."""

    def __init__(self, scene: GaussianScene, config: ReconxConfig) -> None:
        self._device = choose_device(config.device)
        self._scene = scene.to(self._device)
        self._rasterizer = select_rasterizer(config.splatting, self._device)
        self._antialiased = config.splatting.antialiased
        self._fill_holes = config.output.fill_holes

    def render(self, camera: PinholeCamera, world_from_cam: SE3) -> RenderedView:
        """One picture with depth, confidence and provenance."""
        trajectory = Trajectory(camera=camera, world_from_cams=(world_from_cam,))
        return render_scene(
            self._scene,
            trajectory,
            rasterizer=self._rasterizer,
            device=self._device,
            antialiased=self._antialiased,
            fill_holes=self._fill_holes,
            job=Job(stage="render"),
        )[0]

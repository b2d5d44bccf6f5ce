"""One scene in one setting: reconstruct from the inputs, render what was held back, score it beside the baselines."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from reconx_ros.core import (
    SE3,
    AlignedViews,
    CancelledError,
    Frame,
    GaussianScene,
    InsufficientParallaxError,
    Job,
    ReconstructionError,
    ReconxError,
    Sim3,
    ViewSequence,
)
from reconx_ros.core.settings import to_mapping, updated
from reconx_ros.evaluation.ablation import Row
from reconx_ros.evaluation.baselines import WarpedNearest, mean_baseline, nearest_inputs, nearest_picture
from reconx_ros.evaluation.camera_placement import ALIGNED, GIVEN, OPTIMISED, map_from_truth, optimised_pose
from reconx_ros.evaluation.geometry_scores import cloud_scores, depth_scores, pose_scores
from reconx_ros.evaluation.heldout import HeldOutTask, posed
from reconx_ros.evaluation.layout import (
    NEAREST,
    OPTIMISED_SUFFIX,
    WARPED,
    MethodResult,
    Run,
    RunFolder,
    RunSetting,
    TestView,
    ViewScore,
)
from reconx_ros.evaluation.metrics import figure, in_words
from reconx_ros.evaluation.pictures import PictureWriter
from reconx_ros.evaluation.scores import load_judge, mean_scores, score_picture
from reconx_ros.evaluation.sparse import fit_sparse, sparse_points
from reconx_ros.evaluation.visibility import Observed, observed_masks
from reconx_ros.pipeline.clouds import pointmap_cloud
from reconx_ros.pipeline.config import ReconxConfig, stages
from reconx_ros.pipeline.reconstructor import Reconstructor, SceneRenderer
from reconx_ros.pipeline.report import versions
from reconx_ros.pipeline.selection import choose_device
from reconx_ros.pipeline.stages import StageRecorder
from reconx_ros.pointmap.completion.complete import without_guesses
from reconx_ros.splatting.fit import FitResult
from reconx_ros.splatting.lpips import Lpips
from reconx_ros.splatting.render import MIN_ALPHA_KNOWN, RenderedView
from reconx_ros.splatting.select import select_rasterizer
from reconx_ros.weights.cache import ModelCache

_log = logging.getLogger(__name__)

Paint = Callable[[int, Frame], tuple[np.ndarray, RenderedView | None]]
"""Picture [H, W, 3] uint8 of a held-out view, and its layers where it comes from a map."""


def seeded(config: ReconxConfig, seed: int) -> ReconxConfig:
    """The configuration with every seed moved on by ``seed``; stages without one of their own follow the first."""
    own = {f"{name}.seed": stage.seed + seed for name, stage in stages(config).items() if stage.seed >= 0}
    return updated(config, {"seed": config.seed + seed, **own})


def evaluate_setting(
    task: HeldOutTask,
    setting: RunSetting,
    rows: Sequence[Row],
    *,
    folder: RunFolder | None = None,
    fingerprint: str = "",
    job: Job | None = None,
) -> Run:
    """Score the method, the baselines and the rows of an ablation on one split.

    Stages 1 and 2 run once; rows that change stage 2 run it again. A row that fails is a row with its sentence.

    Args:
        task: inputs and held-out views.
        setting: names the run.
        rows: of ``method_rows``, with the seed of the setting; the first one is the method.
        folder: where the pictures go; None writes none.
        fingerprint: goes into the record.
        job: progress and cancellation.

    Raises:
        BackendUnavailableError, ConfigError, StorageError: when a backend that was named cannot run, or the disk is
            full.
        CancelledError: when the job was cancelled.
    """
    started = time.perf_counter()
    config, job = rows[0].config, job or Job(stage="evaluate")
    stages = StageRecorder(choose_device(config.device))
    judge, lpips = load_judge(config.splatting, stages.models)
    masks, observed_by = observed_masks(task, config, job=job.for_stage("visibility"))
    session = _Session(task=task, judge=judge, masks=masks, writer=PictureWriter(folder), job=job)
    session.write_truth()
    head = Run(
        setting=setting, protocol=task.protocol, fingerprint=fingerprint, metric_scale=task.metric_scale,
        observed_by=observed_by, lpips=lpips, inputs=task.input_names, tests=test_views(task, masks),
        config=to_mapping(config), versions=versions(),
    )  # fmt: skip
    nearest = session.scored(NEAREST, "nearest input", "baseline", GIVEN, session.nearest)
    try:
        mapped = _mapped(task, config, stages, job)
    except (ReconstructionError, InsufficientParallaxError) as err:
        refused = MethodResult(
            key=rows[0].key, title=rows[0].title, kind="method", protocol=_placed(task), status="refused",
            message=str(err),
        )  # fmt: skip
        return replace(head, status="refused", message=str(err), methods=(refused, nearest), seconds=_since(started))
    methods: list[MethodResult] = []
    for row in rows:
        methods += session.row(row, mapped, stages)
    warped = WarpedNearest(task, without_guesses(mapped.views), fill_holes=config.output.fill_holes)
    paint: Paint = lambda i, f: (warped.picture(f.camera, posed(f), mapped.pose(f)), None)  # noqa: E731
    methods += [nearest, session.scored(WARPED, "depth-warped nearest input", "baseline", _placed(task), paint)]
    return replace(
        head,
        methods=tuple(methods),
        matchers=mapped.views.matchers,
        poses=pose_scores(task, mapped.views),
        depth=depth_scores(task, mapped.views, mapped.to_map),
        cloud=cloud_scores(task, mapped.views, mapped.to_map, config.output.min_confidence),
        stages=tuple(record.as_dict() for record in stages.records),
        warnings=(*mapped.views.warnings, *mapped.sequence.warnings),
        seconds=_since(started),
    )


def test_views(task: HeldOutTask, masks: Sequence[Observed | None]) -> tuple[TestView, ...]:
    """What the held-out views are: how far from the inputs, and how much of them the inputs saw."""
    unit = mean_baseline(task)
    found = []
    for name, frame, mask in zip(task.test_names, task.tests, masks, strict=True):
        near = task.truth[nearest_inputs(task, posed(frame))[0]]
        distance = near.distance_to(posed(frame))
        found.append(
            TestView(
                image=name,
                distance=distance,
                distance_relative=distance / unit if unit > 0 else None,
                angle_deg=float(np.degrees(near.angle_to(posed(frame)))),
                judged_share=0.0 if mask is None else mask.judged,
                observed_share=None if mask is None else mask.share,
            )
        )
    return tuple(found)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Mapped:
    """What stages 1 and 2 made, and where the held-out cameras stand in it."""

    views: AlignedViews
    sequence: ViewSequence
    to_map: Sim3

    def pose(self, frame: Frame) -> SE3:
        return self.to_map.apply_pose(posed(frame))


def _mapped(task: HeldOutTask, config: ReconxConfig, stages: StageRecorder, job: Job) -> _Mapped:
    """Stages 1 and 2. Depth and pictures are made at the task's size, whatever size the cameras are found from."""
    size = max(max(k.frame.camera.size) for k in task.keyframes)
    config = updated(config, {"pointmap": {"max_size": min(config.pointmap.max_size, size)}})
    reconstructor = Reconstructor(config, stages.models)
    inputs = task.originals or task.keyframes
    with stages.measure("pointmap"):
        views = reconstructor.align(inputs, metric_poses=task.metric_scale, job=job.for_stage("pointmap"))
    to_map = map_from_truth(task, views)
    with stages.measure("diffusion"):
        sequence = reconstructor.generate(views, job=job.for_stage("diffusion"))
    return _Mapped(views=views, sequence=sequence, to_map=to_map)


def _placed(task: HeldOutTask) -> str:
    return GIVEN if task.poses == "given" else ALIGNED


def _since(started: float) -> float:
    return time.perf_counter() - started


@dataclass(frozen=True, kw_only=True, eq=False)
class _Session:
    """What all methods of one run share."""

    task: HeldOutTask
    judge: Lpips | None
    masks: Sequence[Observed | None]
    writer: PictureWriter
    job: Job

    def write_truth(self) -> None:
        for i, keyframe in enumerate(self.task.keyframes):
            self.writer.input(i, keyframe.frame.rgb_u8)
        for i, frame in enumerate(self.task.tests):
            self.writer.truth(i, frame.rgb_u8, self.masks[i])

    def nearest(self, index: int, frame: Frame) -> tuple[np.ndarray, None]:
        del index
        return nearest_picture(self.task, frame.camera, posed(frame)), None

    def scored(
        self, key: str, title: str, kind: str, protocol: str, paint: Paint, seconds: float | None = None, **facts: Any
    ) -> MethodResult:
        """Paint and score every held-out view; one picture is in memory at a time."""
        scores: list[ViewScore] = []
        for i, frame in enumerate(self.task.tests):
            picture, view = paint(i, frame)
            filled = None if view is None else float((view.alpha >= MIN_ALPHA_KNOWN).mean())
            scores.append(score_picture(picture, frame.rgb_u8, self.masks[i], self.judge, filled))
            self.writer.method(i, key, picture, frame.rgb_u8)
            if view is not None:
                self.writer.layers(i, key, view)
        return MethodResult(
            key=key, title=title, kind=kind, protocol=protocol, mean=mean_scores(scores), views=tuple(scores),
            seconds=seconds, facts=facts,
        )  # fmt: skip

    def row(self, row: Row, mapped: _Mapped, stages: StageRecorder) -> list[MethodResult]:
        """The row with test cameras as they are given or aligned, and for the method also optimised ones."""
        blank = MethodResult(key=row.key, title=row.title, kind=row.kind, protocol=_placed(self.task))
        if row.unavailable:
            return [replace(blank, status="unavailable", message=row.unavailable)]
        started = time.perf_counter()
        try:
            with stages.measure(f"splatting, {row.title}" if row.kind != "method" else "splatting"):
                fitted = self._fitted(row, mapped, stages.models)
        except (CancelledError, MemoryError):
            raise
        except ReconxError as err:
            _log.info("%s of %s: %s", row.title, self.task.scene, err)
            return [replace(blank, status="failed", message=str(err))]
        facts = {"gaussians": len(fitted.scene), "terms": fitted.terms, "psnr_inputs": fitted.psnr_inputs}
        seconds = _since(started)
        renderer = SceneRenderer(fitted.scene, row.config)

        def paint(index: int, frame: Frame) -> tuple[np.ndarray, RenderedView]:
            del index
            view = renderer.render(frame.camera, mapped.pose(frame))
            return view.rgb_u8, view

        results = [self.scored(row.key, row.title, row.kind, blank.protocol, paint, seconds, **facts)]
        if row.kind == "method":
            self._overview(results[0], row.config, mapped, renderer)
        if self.task.poses != "given" and row.kind == "method":
            results.append(self._optimised(row, fitted.scene, mapped, renderer))
        return results

    def _overview(self, result: MethodResult, config: ReconxConfig, mapped: _Mapped, renderer: SceneRenderer) -> None:
        """overview.png of the run; nothing without a folder."""
        from reconx_ros.evaluation.overview import shown_views, write_run_overview

        if self.writer.folder is None:
            return
        tests, cloud = self.task.tests, pointmap_cloud(mapped.views, config.output.min_confidence)
        chosen = [(i, tests[i]) for i in shown_views(len(tests))]
        psnr = [figure(view, "psnr") for view in result.views]
        write_run_overview(
            self.writer.folder.overview, mapped.views, cloud,
            [renderer.render(f.camera, mapped.pose(f)) for _, f in chosen], [f.rgb_u8 for _, f in chosen],
            [mapped.pose(f) for f in tests], title=self.task.scene,
            lines=[self.task.protocol, f"{in_words(result.mean, headlines_only=True)} on the mean of "
                   f"{len(tests)} withheld pictures  |  {len(cloud):,} points"],
            captions=[f"{Path(self.task.test_names[i]).name}: {psnr[i]:.1f} dB" for i, _ in chosen],
        )  # fmt: skip

    def _fitted(self, row: Row, mapped: _Mapped, models: ModelCache) -> FitResult:
        job = self.job.for_stage(f"splatting, {row.title}")
        sequence, reconstructor = mapped.sequence, Reconstructor(row.config, models)
        if row.regenerate:
            sequence = reconstructor.generate(mapped.views, job=self.job.for_stage("diffusion"))
        if row.start == "pointmaps":
            return reconstructor.fit(mapped.views, sequence, job=job)
        device = choose_device(row.config.device)
        return fit_sparse(
            sparse_points(self.task.keyframes, mapped.views), sequence, row.config,
            rasterizer=select_rasterizer(row.config.splatting, device), device=device,
            with_in_between_views=row.regenerate, job=job,
        )  # fmt: skip

    def _optimised(self, row: Row, scene: GaussianScene, mapped: _Mapped, renderer: SceneRenderer) -> MethodResult:
        config = row.config.splatting
        device = choose_device(row.config.device)
        rasterizer = select_rasterizer(config, device)
        job = self.job.for_stage("test poses")
        moved: list[float] = []
        started = time.perf_counter()

        def paint(index: int, frame: Frame) -> tuple[np.ndarray, RenderedView]:
            del index
            start = mapped.pose(frame)
            pose = optimised_pose(scene, frame, start, config, rasterizer=rasterizer, device=device, job=job)
            moved.append(float(np.degrees(start.angle_to(pose))))
            view = renderer.render(frame.camera, pose)
            return view.rgb_u8, view

        found = self.scored(
            row.key + OPTIMISED_SUFFIX, f"{row.title}, test poses optimised", row.kind, OPTIMISED, paint
        )
        facts = {"turned_deg_median": float(np.median(moved))}
        return replace(found, seconds=_since(started), facts=facts)

"""Many runs: scenes, numbers of views, kinds of poses, seeds; kept as they finish, so that a stopped suite goes on."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from reconx_ros.core import Job, ReconxError
from reconx_ros.core.files import write_text
from reconx_ros.core.machine import machine
from reconx_ros.core.settings import to_mapping
from reconx_ros.evaluation import metrics
from reconx_ros.evaluation.ablation import Row, method_rows
from reconx_ros.evaluation.heldout import HeldOutTask, heldout_task, thumbnail
from reconx_ros.evaluation.layout import (
    FORMAT,
    EvaluationFolder,
    Metrics,
    Run,
    RunFolder,
    RunSetting,
    as_json,
    run_from_json,
)
from reconx_ros.evaluation.protocol import evaluate_setting, seeded
from reconx_ros.evaluation.summary import markdown, summarise
from reconx_ros.pipeline.config import ReconxConfig
from reconx_ros.pipeline.report import versions
from reconx_ros.pipeline.sound_positions import require_sound_positions


@dataclass(frozen=True, kw_only=True)
class Suite:
    """What is evaluated.

    Attributes:
        scenes: folders.
        views, poses, seeds: numbers of inputs, kinds of poses, and how many seeds from 0 on.
        max_size: longer side of the pictures in pixels. Cameras that are not given are found from inputs as large as
            keyframes are stored (``keyframes.max_size``).
        ablation, extras: rows beside the method and the baselines, as in ``method_rows``.
        reading: options of ``read_scene``.
        skip_missing: leave out settings whose split or odometry a scene does not have, instead of failing.
    """

    scenes: tuple[Path, ...]
    views: tuple[int, ...] = (3,)
    poses: tuple[str, ...] = ("given",)
    seeds: int = 1
    max_size: int = 320
    ablation: bool = False
    extras: bool = False
    reading: dict[str, Any] = field(default_factory=dict)
    skip_missing: bool = False


def run_suite(
    suite: Suite,
    config: ReconxConfig,
    *,
    out: Path | None = None,
    command: str = "",
    on_run: Callable[[Run, bool], None] | None = None,
    job: Job | None = None,
) -> Metrics:
    """Every setting of a suite.

    With a folder, each run is written when it is done and skipped when it is found there with equal settings, inputs
    and versions; metrics.json and metrics.csv are written anew after each run.

    Args:
        suite: what.
        config: how.
        out: where results go; None keeps them in memory only.
        command: noted in metrics.json.
        on_run: told of each run, and whether it was found done.
        job: progress and cancellation.

    Raises:
        InvalidInputError: for a scene that cannot be evaluated.
        StorageError: when a file cannot be read or written.
        CancelledError: when the job was cancelled; finished runs stay.
        BackendUnavailableError, ConfigError: as ``evaluate_setting``.
    """
    started = time.perf_counter()
    folder = None if out is None else EvaluationFolder(root=out)
    metrics = Metrics(runs=(), summary=(), command=command, versions=versions(), machine=machine())
    for scene, views, poses in _settings(suite):
        task = _task(suite, scene, views, poses, config.keyframes.max_size)
        if task is None:
            continue
        if task.source is not None:
            require_sound_positions(task.source, task.true_keyframes, config, job)
        for seed in range(suite.seeds):
            rows = method_rows(seeded(config, seed), ablation=suite.ablation, extras=suite.extras)
            setting = RunSetting(scene=task.scene, views=views, poses=poses, seed=seed)
            run, found = _run(task, setting, rows, None if folder is None else folder.run(setting), job)
            runs = (*metrics.runs, run)
            metrics = replace(metrics, runs=runs, summary=summarise(runs), seconds=time.perf_counter() - started)
            if folder is not None:
                write_metrics(metrics, folder)
            if on_run is not None:
                on_run(run, found)
    return metrics


def _settings(suite: Suite) -> Iterable[tuple[Path, int, str]]:
    return ((s, v, p) for s in suite.scenes for p in suite.poses for v in suite.views)


def _task(suite: Suite, scene: Path, views: int, poses: str, camera_size: int) -> HeldOutTask | None:
    size, reading = suite.max_size, suite.reading
    try:
        return heldout_task(scene, views, poses=poses, max_size=size, camera_size=camera_size, **reading)
    except ReconxError:
        if suite.skip_missing:
            return None
        raise


def _run(
    task: HeldOutTask, setting: RunSetting, rows: Sequence[Row], folder: RunFolder | None, job: Job | None
) -> tuple[Run, bool]:
    """(the run, whether it was found done)."""
    mark = fingerprint(task, setting, rows)
    done = None if folder is None else finished(folder, mark)
    if done is not None:
        return done, True
    run = evaluate_setting(task, setting, rows, folder=folder, fingerprint=mark, job=job)
    if folder is not None:
        write_text(folder.run_json, json.dumps(as_json(run), indent=1) + "\n")
    return run, False


def finished(folder: RunFolder, mark: str) -> Run | None:
    """The run in a folder if it is complete and has this fingerprint."""
    try:
        run = run_from_json(json.loads(folder.run_json.read_text()))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return run if run.fingerprint == mark else None


def fingerprint(task: HeldOutTask, setting: RunSetting, rows: Sequence[Row]) -> str:
    """Of everything that a run depends on: pictures, cameras, poses, setting, configurations, versions."""
    content = hashlib.sha256()
    for frame in chain((k.frame for k in (*task.keyframes, *task.originals)), task.tests):
        content.update(thumbnail(frame.rgb_u8).tobytes())
        content.update(np.round(frame.camera.matrix, 6).tobytes() + bytes(str(frame.camera.size), "ascii"))
        content.update(b"" if frame.depth_m is None else frame.depth_m[::7, ::7].tobytes())
        content.update(b"" if frame.world_from_cam is None else np.round(frame.world_from_cam.matrix, 9).tobytes())
    for pose in task.truth:
        content.update(np.round(pose.matrix, 9).tobytes())
    settings = [(r.key, r.start, r.regenerate, r.unavailable, to_mapping(r.config)) for r in rows]
    about = [FORMAT, vars(setting), task.protocol, settings, versions()]
    content.update(json.dumps(about, sort_keys=True, default=str).encode())
    return content.hexdigest()[:16]


def write_metrics(found: Metrics, folder: EvaluationFolder) -> None:
    """metrics.json, metrics.csv and metrics.md, each whole or not at all.

    Raises:
        StorageError: when they cannot be written.
    """
    write_text(folder.metrics_json, json.dumps(as_json(found), indent=1) + "\n")
    write_text(folder.metrics_csv, csv_text(found.runs))
    write_text(folder.metrics_md, markdown(found.summary))


def csv_text(runs: Sequence[Run]) -> str:
    """One line per run, method and protocol; a figure that does not exist is an empty field."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    head = ("scene", "views", "poses", "seed", "protocol", "method", "kind", "status", "message")
    names = [metric.name for metric in metrics.METRICS]
    table.writerow([*head, *names, "seconds", "gaussians"])
    for run in runs:
        where = (run.setting.scene, run.setting.views, run.setting.poses, run.setting.seed)
        for m in run.methods:
            figures = ["" if m.mean.get(n) is None else f"{m.mean[n]:.6g}" for n in names]
            seconds = "" if m.seconds is None else f"{m.seconds:.3f}"
            row = [*where, m.protocol, m.key, m.kind, m.status, m.message, *figures, seconds]
            table.writerow([*row, m.facts.get("gaussians", "")])
    return text.getvalue()

"""How good stage 1 is on scene folders with known poses: cameras, depth and scale, for few views, with the failures.

One row per scene, number of views and kind of poses. A run that is refused or fails is a row too, with its sentence.
Figures that do not apply to a row are absent from it, never 0.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from reconx_ros.core import (
    SE3,
    AlignedViews,
    CancelledError,
    Frame,
    InsufficientParallaxError,
    InvalidInputError,
    Job,
    Keyframe,
    Provenance,
    ReconstructionError,
    ReconxError,
)
from reconx_ros.core.figures import Figure
from reconx_ros.evaluation.depth import depth_ratios, depth_statistics
from reconx_ros.evaluation.heldout import with_world_from_cams
from reconx_ros.evaluation.poses import absolute_errors, binned_auc, pair_errors, pose_auc
from reconx_ros.io.cameras_json import pose_key
from reconx_ros.io.readers.layouts import OWN_LAYOUT
from reconx_ros.io.scenes import Scene, read_scene
from reconx_ros.pipeline.config import ReconxConfig
from reconx_ros.pipeline.keyframes import chosen_keyframe
from reconx_ros.pipeline.reconstructor import Reconstructor
from reconx_ros.pipeline.sound_positions import require_sound_positions

VIEW_COUNTS = (2, 3, 6, 9)
MIN_CONFIDENCE = 0.5


@dataclass(frozen=True, kw_only=True, eq=False)
class GeometryTask:
    """What goes into stage 1, and what its result is compared with.

    Attributes:
        keyframes: the inputs; ids are places in the lists below.
        truth: their reference poses.
        depths: their sensor depth [H, W] in metres; None where there is none.
        metric_scale: whether the unit of the reference is the metre.
    """

    keyframes: tuple[Keyframe, ...]
    truth: tuple[SE3, ...]
    depths: tuple[np.ndarray | None, ...]
    metric_scale: bool


def evaluate_geometry(
    scene_folder: Path | str,
    views: int,
    poses: str,
    config: ReconxConfig,
    *,
    use_depth: bool = False,
    job: Job | None = None,
) -> dict[str, Any]:
    """Run stage 1 on a few views of a scene folder and compare it with the folder's poses and depth.

    Inputs are the scene's own split of that size where it has one, else images spread evenly.

    Args:
        scene_folder: with reference poses under ``c2w``.
        views: number of inputs.
        poses: what the inputs carry: "none", "odometry" (``c2w_dataset``) or "given" (the reference itself).
        config: settings; ``pointmap`` and ``device`` matter.
        use_depth: give the sensor's depth to stage 1 instead of withholding it for the comparison.
        job: cancellation.

    Returns:
        A row of plain values. Always: scene, views, poses, depth_input, status ("ok", "refused" or "failed"),
        seconds. If not ok: message. If ok: what ``score_geometry`` gives.

    Raises:
        CancelledError: when the job was cancelled.
    """
    row: dict[str, Any] = {
        "scene": Path(scene_folder).name,
        "views": views,
        "poses": poses,
        "depth_input": use_depth,
        "status": "ok",
    }
    started = time.perf_counter()
    try:
        scene = read_scene(scene_folder, poses="c2w")
        task = geometry_task(scene, views, poses, use_depth=use_depth)
        require_sound_positions(scene, with_world_from_cams(task.keyframes, task.truth), config, job)
        found = Reconstructor(config).align(task.keyframes, metric_poses=task.metric_scale, job=job)
        row.update(score_geometry(found, task))
    except CancelledError:
        raise
    except (InsufficientParallaxError, ReconstructionError) as err:
        row.update(status="refused", message=str(err))
    except ReconxError as err:
        row.update(status="failed", message=str(err))
    return {**row, "seconds": time.perf_counter() - started}


def geometry_task(scene: Scene, views: int, poses: str, *, use_depth: bool = False) -> GeometryTask:
    """Choose the inputs of a scene that was read with its reference poses; arguments as ``evaluate_geometry``.

    Raises:
        InvalidInputError: for an unknown kind of poses, a scene with fewer images, or an image that lacks a pose.
    """
    pose_key(poses)
    names = scene.inputs(views)
    frames = [scene.frame(name) for name in names]
    truth = [_pose(f, name, scene) for f, name in zip(frames, names, strict=True)]
    carried = list(_carried_poses(scene, names, truth, poses))
    return GeometryTask(
        keyframes=tuple(_keyframe(i, f, p, use_depth) for i, (f, p) in enumerate(zip(frames, carried, strict=True))),
        truth=tuple(truth),
        depths=tuple(f.depth_m for f in frames),
        metric_scale=scene.metric_scale,
    )


def score_geometry(found: AlignedViews, task: GeometryTask) -> dict[str, Any]:
    """Compare a result of stage 1 with the reference.

    Returns:
        backend, matchers, registered (share of the inputs), metric_scale, warnings;
        where at least two are registered: rotation_deg and direction_deg (median and max over pairs of
        registered cameras), auc_5, auc_10, auc_20 and auc_30_binned (over all pairs, those that are not
        registered count as infinitely wrong), position (RMS after a rigid fit where both are metric, else a
        similarity; in the reference's unit) and position_relative (the same over the reference's RMS extent).
        For posed inputs: position_before, the same error of the poses that went in. With sensor depth:
        depth_median, depth_within_2pct, depth_pixels, depth_bias (median of d / d* - 1: sensor and poses may
        not agree on the metre) and depth_within_2pct_unbiased (that taken off): of confident pixels that were
        measured. Whatever their confidence: observed_share, observed_within_5pct, inferred_share,
        inferred_median, inferred_within_10pct, all_within_10pct. Where the result is metric and so is the
        reference: scale_error (relative), and scale_source.
    """
    by_id = {v.keyframe_id: v for v in found.views}
    estimate = [by_id[i].world_from_cam if i in by_id else None for i in range(len(task.truth))]
    row: dict[str, Any] = {
        "backend": found.backend,
        "registered": len(by_id) / len(task.truth),
        "metric_scale": found.metric_scale,
        "matchers": list(found.matchers),
        "warnings": list(found.warnings),
    }
    if len(by_id) < 2:
        return row
    metric = found.metric_scale and task.metric_scale
    fit = absolute_errors(estimate, task.truth)
    row.update(_pair_figures(estimate, task.truth))
    row.update(_position_figures(estimate, task, rigid=metric))
    row.update(_depth_figures(found, task, 1.0 if metric else fit.truth_from_estimate.scale))
    if metric:
        row.update(scale_error=abs(1 / fit.truth_from_estimate.scale - 1), scale_source=found.scale_source)
    if found.scale is not None:
        row.update(scale_spread=found.scale.spread)
    return row


def geometry_table(
    folders: Iterable[Path | str],
    *,
    config: ReconxConfig,
    views: Sequence[int] = VIEW_COUNTS,
    poses: Sequence[str] = ("none", "odometry", "given"),
    use_depth: bool = False,
    on_row: Callable[[dict[str, Any]], None] | None = None,
    job: Job | None = None,
) -> list[dict[str, Any]]:
    """``evaluate_geometry`` over scenes, numbers of views and kinds of poses.

    Numbers of views that a scene has too few images for, and "odometry" for scenes without it, are left out.

    Args:
        folders: scene folders.
        config, use_depth, job: as ``evaluate_geometry``.
        views, poses: what is tried.
        on_row: called with each row as soon as it is there.

    Raises:
        StorageError, InvalidInputError: for a folder that cannot be read.
        CancelledError: when the job was cancelled.
    """
    rows = []
    for folder in folders:
        scene = read_scene(folder, poses=None, depth=False, max_size=32)
        has_odometry = _has_odometry(scene)
        for kind in poses:
            for count in views:
                if count > len(scene.names) or (kind == "odometry" and not has_odometry):
                    continue
                rows.append(evaluate_geometry(folder, count, kind, config, use_depth=use_depth, job=job))
                if on_row is not None:
                    on_row(rows[-1])
    return rows


def _has_odometry(scene: Scene) -> bool:
    """Whether the scene has other poses than its reference, which only our own layout can hold."""
    if scene.layout != OWN_LAYOUT:
        return False
    noisy = read_scene(scene.root, poses=pose_key("odometry"), depth=False, max_size=32)
    return any(view.world_from_cam is not None for view in noisy.views)


def geometry_markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as a Markdown table; "-" where a figure does not apply, the sentence where a run gave none."""
    lines = ["| " + " | ".join(title for title, _ in _COLUMNS) + " |", "|---" * len(_COLUMNS) + "|"]
    lines += ["| " + " | ".join(_cell(show, row) for _, show in _COLUMNS) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _pose(frame: Frame, name: str, scene: Scene) -> SE3:
    if frame.world_from_cam is None:
        raise InvalidInputError(f"image {name} of scene {scene.name} has no pose c2w, expected one to compare with")
    return frame.world_from_cam


def _carried_poses(scene: Scene, names: Sequence[str], truth: Sequence[SE3], poses: str) -> Sequence[SE3 | None]:
    if poses == "none":
        return [None] * len(names)
    if poses == "given":
        return truth
    odometry = read_scene(scene.root, poses=pose_key(poses), depth=False, names=names)
    missing = [n for n, f in zip(names, odometry.frames, strict=True) if f.world_from_cam is None]
    if missing:
        raise InvalidInputError(f"image {missing[0]} of scene {scene.name} has no pose c2w_dataset, expected odometry")
    return [f.world_from_cam for f in odometry.frames]


def _keyframe(index: int, frame: Frame, pose: SE3 | None, use_depth: bool) -> Keyframe:
    frame = replace(frame, world_from_cam=pose, depth_m=frame.depth_m if use_depth else None)
    return chosen_keyframe(index, frame)


def _pair_figures(estimate: Sequence[SE3 | None], truth: Sequence[SE3]) -> dict[str, float]:
    errors = pair_errors(estimate, truth)
    known = np.isfinite(errors.rotation_deg)
    turn, way = errors.rotation_deg[known], errors.direction_deg[known]
    way = way[np.isfinite(way)] if np.isfinite(way).any() else np.full(1, np.nan)
    return {
        "rotation_deg_median": float(np.median(turn)),
        "rotation_deg_max": float(turn.max()),
        "direction_deg_median": float(np.median(way)),
        "direction_deg_max": float(way.max()),
        **{f"auc_{t:g}": area for t, area in pose_auc(errors.worst_deg).items()},
        "auc_30_binned": binned_auc(errors.worst_deg, 30),
    }


def _position_figures(estimate: Sequence[SE3 | None], task: GeometryTask, *, rigid: bool) -> dict[str, float]:
    align = "se3" if rigid else "sim3"
    position = absolute_errors(estimate, task.truth, align=align).ate
    places = np.stack([p.translation for p in task.truth])
    extent = float(np.sqrt(((places - places.mean(axis=0)) ** 2).sum(axis=1).mean()))
    figures = {"position": position, "position_relative": position / extent if extent > 0 else float("nan")}
    given = [k.frame.world_from_cam for k in task.keyframes]
    if any(p is not None for p in given):
        registered = [g if e is not None else None for g, e in zip(given, estimate, strict=True)]
        figures["position_before"] = absolute_errors(registered, task.truth, align=align).ate
    return figures


def _depth_figures(found: AlignedViews, task: GeometryTask, scale: float) -> dict[str, Any]:
    """Figures over the pixels of all views that have sensor depth, kinds apart; depth is scaled first."""
    found_ratios, confident, pixels = [], 0, 0
    for view in found.views:
        truth = task.depths[view.keyframe_id]
        measured = view.valid & (view.provenance == int(Provenance.OBSERVED))
        confident += int((measured & (view.confidence >= MIN_CONFIDENCE)).sum())
        pixels += view.valid.numel()
        if truth is not None and task.metric_scale:
            found_ratios.append(depth_ratios(view, truth, min_confidence=MIN_CONFIDENCE, kind=Provenance.OBSERVED))
    figures: dict[str, Any] = {"confident_share": confident / pixels, **_kind_figures(found, task, scale)}
    ratios = scale * np.concatenate(found_ratios) if found_ratios else np.zeros(0)
    if len(ratios):
        statistics, bias = depth_statistics(np.abs(ratios - 1)), float(np.median(ratios))
        figures.update(
            depth_median=statistics["median"],
            depth_within_2pct=statistics["within_2pct"],
            depth_bias=bias - 1,
            depth_within_2pct_unbiased=depth_statistics(np.abs(ratios / bias - 1))["within_2pct"],
            depth_pixels=int(statistics["count"]),
        )
    return figures


def _kind_figures(found: AlignedViews, task: GeometryTask, scale: float) -> dict[str, float]:
    """What was measured and what was inferred, whatever its confidence, against sensor depth."""
    told = [(v, task.depths[v.keyframe_id]) for v in found.views]
    known = [(v, truth) for v, truth in told if truth is not None] if task.metric_scale else []
    figures: dict[str, float] = {}
    errors: dict[Provenance, np.ndarray] = {}
    for kind in (Provenance.OBSERVED, Provenance.INFERRED):
        share = [float((v.provenance == int(kind)).float().mean()) for v in found.views]
        figures[f"{kind.word}_share"] = float(np.mean(share))
        ratios = [depth_ratios(v, truth, min_confidence=0.0, kind=kind) for v, truth in known]
        errors[kind] = np.abs(scale * np.concatenate([*ratios, np.zeros(0)]) - 1)
    if len(errors[Provenance.OBSERVED]):
        figures["observed_within_5pct"] = float((errors[Provenance.OBSERVED] <= 0.05).mean())
    if len(errors[Provenance.INFERRED]):
        inferred = errors[Provenance.INFERRED]
        figures["inferred_median"] = float(np.median(inferred))
        figures["inferred_within_10pct"] = float((inferred <= 0.1).mean())
        figures["all_within_10pct"] = float((np.concatenate(list(errors.values())) <= 0.1).mean())
    return figures


def _median_and_max(key: str) -> Callable[[dict[str, Any]], str]:
    median, largest = (Figure(name=f"{key}_{which}", title=key, digits=2) for which in ("median", "max"))
    return lambda row: f"{_shown(median)(row)} / {_shown(largest)(row)}" if median.name in row else "-"


def _shown(figure: Figure) -> Callable[[dict[str, Any]], str]:
    return lambda row: figure.written(row.get(figure.name))


def _outcome(row: dict[str, Any]) -> str:
    return "ok" if row["status"] == "ok" else f"{row['status']}: {row['message']}"


def _cell(show: Callable[[dict[str, Any]], str], row: dict[str, Any]) -> str:
    return show(row).replace("|", "\\|").replace("\n", " ")


_REGISTERED = Figure(name="registered", title="registered", unit="%", digits=0, factor=100)
_FIGURES = (
    Figure(name="auc_5", title="AUC@5", digits=2),
    Figure(name="auc_20", title="AUC@20", digits=2),
    Figure(name="position_before", title="position before", unit="mm or milliunits", digits=1, factor=1000),
    Figure(name="position", title="position", unit="mm or milliunits", digits=1, factor=1000),
    Figure(name="depth_median", title="depth median", unit="%", digits=2, factor=100),
    Figure(name="depth_within_2pct", title="depth within 2 %", unit="%", digits=0, factor=100),
    Figure(name="depth_bias", title="depth bias", unit="%", digits=2, factor=100),
    Figure(name="depth_within_2pct_unbiased", title="within 2 % without bias", unit="%", digits=0, factor=100),
    Figure(name="confident_share", title="confident", unit="%", digits=0, factor=100),
    Figure(name="observed_share", title="observed", unit="%", digits=0, factor=100),
    Figure(name="observed_within_5pct", title="of these within 5 %", unit="%", digits=0, factor=100),
    Figure(name="inferred_median", title="inferred: median error", unit="%", digits=1, factor=100),
    Figure(name="inferred_within_10pct", title="inferred within 10 %", unit="%", digits=0, factor=100),
    Figure(name="all_within_10pct", title="all within 10 %", unit="%", digits=0, factor=100),
    Figure(name="scale_error", title="scale error", unit="%", digits=2, factor=100),
    Figure(name="seconds", title="time", unit="s", digits=1),
)
_COLUMNS: tuple[tuple[str, Callable[[dict[str, Any]], str]], ...] = (
    ("scene", lambda row: str(row["scene"])),
    ("views", lambda row: str(row["views"])),
    ("poses", lambda row: f"{row['poses']}{' + depth' if row['depth_input'] else ''}"),
    ("backend", lambda row: str(row.get("backend", "-"))),
    ("matchers", lambda row: ", ".join(row.get("matchers", ())) or "-"),
    (_REGISTERED.heading, _shown(_REGISTERED)),
    ("rotation deg (median / max)", _median_and_max("rotation_deg")),
    ("direction deg (median / max)", _median_and_max("direction_deg")),
    *((figure.heading, _shown(figure)) for figure in _FIGURES),
    ("outcome", _outcome),
)

"""The terms of stage 3, each left out in turn, scored on held-out views (the paper's ablation, on one scene)."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from reconx_ros.core import SE3, Job, Keyframe
from reconx_ros.core.settings import updated
from reconx_ros.evaluation.heldout import HeldOutTask, score_pictures
from reconx_ros.pipeline.config import ReconxConfig
from reconx_ros.pipeline.reconstructor import Reconstructor, SceneRenderer

FULL, NEAREST = "full", "nearest input"
_TERMS: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("no confidence", {"use_confidence": False}),
    ("no SSIM", {"weight_ssim": 0.0}),
    ("no LPIPS", {"weight_lpips": 0.0}),
    ("no pointmap initialisation", {"use_pointmap_init": False}),
    ("no frames between", {"generated_weight": 0.0}),
)
_EXTRAS: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("with guesses of unsure depth", {"fill_unsure": True}),
    ("with depth term", {"weight_depth": 0.1}),
    ("with pose refinement", {"refine_poses": True}),
    ("with exposure refinement", {"refine_exposure": True}),
)


def variants(config: ReconxConfig, *, extras: bool = False) -> dict[str, ReconxConfig]:
    """The configuration itself ("full") and, by name, with one term changed; terms that are off already are left out.

    Args:
        config: what "full" means.
        extras: also what is off by default, switched on.
    """
    rows = {FULL: config}
    for name, change in (*_TERMS, *(_EXTRAS if extras else ())):
        changed = updated(config, {"splatting": dict(change)})
        lpips_absent = name == "no LPIPS" and not config.splatting.lpips_trunk
        if changed != config and not lpips_absent:
            rows[name] = changed
    return rows


def ablate(
    task: HeldOutTask, configs: Mapping[str, ReconxConfig], *, job: Job | None = None
) -> dict[str, dict[str, Any]]:
    """Scores of each configuration, and of the nearest input picture, on the held-out views of one scene.

    Stages 1 and 2 are run once, with the first configuration: the others may differ in ``splatting`` only.

    Args:
        task: inputs and held-out views.
        configs: by name.
        job: progress and cancellation.

    Returns:
        Per name what ``score_pictures`` says, and "seconds" of stage 3, "gaussians" and "terms".

    Raises:
        ReconstructionError and others: as ``Reconstructor.run``.
    """
    job = job or Job(stage="evaluate")
    first = Reconstructor(next(iter(configs.values())))
    views = first.align(task.keyframes, metric_poses=task.metric_scale, job=job.for_stage("pointmap"))
    sequence = first.generate(views, job=job.for_stage("diffusion"))
    rows: dict[str, dict[str, Any]] = {NEAREST: score_pictures(nearest_pictures(task), task)}
    for name, config in configs.items():
        started = time.perf_counter()
        fitted = Reconstructor(config).fit(views, sequence, job=job.for_stage(f"splatting, {name}"))
        seconds = time.perf_counter() - started
        renderer = SceneRenderer(fitted.scene, config)
        pictures = [renderer.render(camera, pose).rgb_u8 for camera, pose in task.cameras]
        rows[name] = score_pictures(pictures, task)
        rows[name] |= {"seconds": seconds, "gaussians": len(fitted.scene), "terms": fitted.terms}
    return rows


def nearest_pictures(task: HeldOutTask) -> list[np.ndarray]:
    """For every held-out view the input picture taken from nearest by, in its size: the least a method must beat.

    Nearest is the smallest sum of the distance, in mean distances between inputs, and of the angle in radians.
    """
    import cv2

    posed = [(k, k.frame.world_from_cam) for k in task.keyframes if k.frame.world_from_cam is not None]
    unit = float(np.mean([a.distance_to(b) for _, a in posed for _, b in posed if a is not b] or [1.0])) or 1.0

    def away(entry: tuple[Keyframe, SE3], pose: SE3) -> float:
        return entry[1].distance_to(pose) / unit + entry[1].angle_to(pose)

    chosen = [(camera, min(posed, key=lambda entry: away(entry, pose))[0]) for camera, pose in task.cameras]
    return [cv2.resize(k.frame.rgb_u8, camera.size, interpolation=cv2.INTER_AREA) for camera, k in chosen]


def mean_rows(scenes: Sequence[Mapping[str, Mapping[str, Any]]]) -> dict[str, dict[str, float]]:
    """PSNR and SSIM of each name, on the mean over scenes that all have it."""
    names = [n for n in scenes[0] if all(n in rows for rows in scenes)] if scenes else []
    return {n: {m: float(np.mean([rows[n][m] for rows in scenes])) for m in ("psnr", "ssim")} for n in names}

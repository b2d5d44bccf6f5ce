"""Small evaluation folders for tests: known pictures, known figures."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from reconx_ros.evaluation.layout import (
    OBSERVED,
    TRUTH,
    EvaluationFolder,
    MethodResult,
    Metrics,
    Run,
    RunSetting,
    SummaryRow,
    TestView,
    ViewScore,
    as_json,
)
from reconx_ros.io.images import write_image

SIZE = (48, 64)
COLOURS = {TRUTH: (40, 160, 60), "ours": (60, 140, 70), "nearest": (200, 40, 40)}


def view_score(psnr: float, observed_share: float) -> ViewScore:
    """Unobserved pixels are 1 dB worse than the picture, observed ones what the share then leaves."""
    left = (1 - (1 - observed_share) * 10**0.1) / observed_share
    observed = psnr - 10 * math.log10(left)
    return {"psnr": psnr, "ssim": psnr / 40, "psnr_observed": observed, "psnr_unobserved": psnr - 1}


def method(key: str, title: str, scores: list[float], **extra: Any) -> MethodResult:
    views = tuple(view_score(psnr, 1 - 0.2 * k) for k, psnr in enumerate(scores))
    names = ("psnr", "ssim", "psnr_observed", "psnr_unobserved")
    mean = {name: float(np.mean([v[name] for v in views])) for name in names if views}
    values = {"kind": "baseline", "seconds": 1.5, "mean": mean, "views": views}
    return MethodResult(key=key, title=title, **{**values, **extra})


def run(scene: str = "room", **extra: Any) -> Run:
    """Four test views, each farther away and drawn worse than the one before; the baseline wins on the last."""
    tests = tuple(
        TestView(
            image=f"images/{k:04d}.jpg", distance=0.3 * k, distance_relative=0.25 * k, angle_deg=5.0 * k,
            judged_share=1.0, observed_share=1 - 0.2 * k,
        )
        for k in range(4)
    )  # fmt: skip
    ours = method("ours", "Ours", [26.0, 22.0, 18.0, 12.0], kind="method", facts={"gaussians": 1234})
    nearest = method("nearest", "Nearest input view", [15.0, 14.0, 13.0, 14.0])
    missing = MethodResult(
        key="no_video", title="Without video", kind="ablation", status="unavailable", message="its weights are not here"
    )
    values: dict[str, Any] = {
        "setting": RunSetting(scene=scene, views=3, poses="given", seed=0),
        "protocol": "3 input views, poses given",
        "fingerprint": "1",
        "metric_scale": True,
        "observed_by": "sensor depth",
        "inputs": ("images/a.jpg", "images/b.jpg", "images/c.jpg"),
        "tests": tests,
        "methods": (ours, nearest, missing),
        "stages": ({"name": "pointmap", "backend": "multiview", "seconds": 2.5, "peak_mb": 321.0},),
        "config": {"seed": 0},
        "warnings": ("beware of <script>alert(1)</script>",),
    }
    return Run(**{**values, **extra})


def write_folder(root: Path, *runs: Run, **extra: Any) -> EvaluationFolder:
    """Pictures and metrics.json."""
    folder = EvaluationFolder(root=root)
    for one in runs:
        _write_pictures(folder, one)
    rows = [
        SummaryRow(
            scene=one.setting.scene, views=one.setting.views, poses=one.setting.poses, protocol=m.protocol, key=m.key,
            title=m.title, kind=m.kind, seeds=1, mean=m.mean, spread={}, status=m.status, message=m.message,
        )
        for one in runs
        for m in one.methods
    ]  # fmt: skip
    metrics = Metrics(runs=tuple(runs), summary=tuple(rows), command="reconx evaluate room", **extra)
    folder.metrics_json.write_text(json.dumps(as_json(metrics)))
    return folder


def _write_pictures(folder: EvaluationFolder, run: Run) -> None:
    paths = folder.run(run.setting)
    for k in range(len(run.tests)):
        paths.picture(k, TRUTH).parent.mkdir(parents=True, exist_ok=True)
        write_image(paths.picture(k, OBSERVED), np.full((*SIZE, 3), 255, np.uint8))
        for key, colour in COLOURS.items():
            write_image(paths.picture(k, key), np.full((*SIZE, 3), colour, np.uint8))
        for key in ("ours", "nearest"):
            write_image(paths.layer(k, key, "error"), np.full((*SIZE, 3), (250, 250, 0), np.uint8))

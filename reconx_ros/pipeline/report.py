"""What a run did, as plain dictionaries: configuration, versions, stages, counts, warnings."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

import reconx_ros
from reconx_ros.core import BY_TRUST, AlignedViews, Keyframe, PointCloud, ViewSequence
from reconx_ros.core.memory import GIGABYTE
from reconx_ros.core.settings import to_mapping
from reconx_ros.pipeline.clouds import confident_share
from reconx_ros.pipeline.config import ReconxConfig
from reconx_ros.pipeline.registries import registries
from reconx_ros.pipeline.stages import StageRecord
from reconx_ros.pointmap.memory import MemoryPlan
from reconx_ros.pointmap.scale import in_given_frame
from reconx_ros.splatting.fit import FitResult


def build_report(
    config: ReconxConfig,
    *,
    device: torch.device,
    keyframes: Sequence[Keyframe],
    views: AlignedViews,
    sequence: ViewSequence,
    fitted: FitResult,
    cloud: PointCloud,
    novel_views: int,
    stages: Sequence[StageRecord],
    memory: MemoryPlan,
) -> dict[str, Any]:
    """Assemble the report of one run; every value is a plain JSON type."""
    rasterizer = next(s.backend for s in stages if s.name == "splatting")
    return {
        "keyframes": len(keyframes),
        "keyframe_ids": [k.id for k in keyframes],
        "keyframe_ids_joined": [v.keyframe_id for v in views.views],
        "matchers": list(views.matchers),
        "pose_corrections": [asdict(c) for c in views.pose_corrections],
        "points": len(cloud),
        **{f"points_{kind.word}": int((cloud.provenance == int(kind)).sum()) for kind in BY_TRUST},
        "gaussians": len(fitted.scene),
        **{f"gaussians_{kind.word}": int((fitted.scene.provenance == int(kind)).sum()) for kind in BY_TRUST},
        "novel_views": novel_views,
        "metric_scale": views.metric_scale,
        "scale_source": views.scale_source,
        "scale": None if views.scale is None else asdict(views.scale),
        "pointmap_memory": _memory(memory),
        "generates": sequence.generates,
        "confident_share": confident_share(views, config.output.min_confidence),
        "psnr_inputs": fitted.psnr_inputs,
        "terms": dict(fitted.terms),
        "view_corrections": _corrections(fitted, views),
        "backends": {"pointmap": views.backend, "diffusion": sequence.backend, "splatting": rasterizer},
        "licences": _licences(views.backend, sequence.backend, rasterizer),
        "stages": [record.as_dict() for record in stages],
        "warnings": _warnings(keyframes, views, sequence),
        "device": str(device),
        "versions": versions(),
        "config": to_mapping(config),
    }


def versions() -> dict[str, str]:
    """Versions of this package and of what its numbers depend on."""
    return {
        "reconx_ros": reconx_ros.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
    }


def _corrections(fitted: FitResult, views: AlignedViews) -> list[dict[str, Any]] | None:
    """What stage 3 changed about the keyframes' poses and exposure; None where it was told to change neither."""
    if not fitted.corrections:
        return None
    pairs = zip(views.views, fitted.corrections, strict=False)  # keyframes come first in the sequence
    return [
        {
            "keyframe": v.keyframe_id,
            "moved": c.moved,
            "turned_deg": c.turned_deg,
            "gain": list(c.gain),
            "bias": list(c.bias),
        }
        for v, c in pairs
    ]


def _memory(plan: MemoryPlan) -> dict[str, float | None]:
    """What stage 1 was expected to take, and what it was allowed to."""
    estimate = plan.estimated_bytes
    return {
        "estimated_gb": None if estimate is None else estimate / GIGABYTE,
        "limit_gb": plan.config.max_memory_gb or None,
    }


def _warnings(keyframes: Sequence[Keyframe], views: AlignedViews, sequence: ViewSequence) -> list[str]:
    warnings = [*views.warnings, *sequence.warnings]
    if not views.metric_scale:
        unit = "the unit of the given poses" if in_given_frame(views, keyframes) else "an arbitrary unit"
        warnings.append(f"the scale is unknown: lengths are in {unit}, not metres")
    return warnings


def _licences(pointmap: str, diffusion: str, splatting: str) -> dict[str, dict[str, str]]:
    chosen = {"pointmap": pointmap, "diffusion": diffusion, "splatting": splatting}
    rows = {stage: table.get(chosen[stage]) for stage, table in registries().items()}
    return {
        stage: {"code": row.licence_code, "weights": row.licence_weights or "none"}
        for stage, row in rows.items()
        if row is not None
    }

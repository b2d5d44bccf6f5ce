"""Rows of the evaluation's table: the method, the paper's ablation (its Table 3), and switches that are off by default.

Some rows need an ingredient that may be missing here (weights of a video model, of LPIPS): they are in the table all
the same and say why they have no figures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from reconx_ros.core.settings import updated
from reconx_ros.evaluation.layout import OURS, SPARSE
from reconx_ros.pipeline.config import ReconxConfig

_NO_VIDEO = "no weights of a video model (diffusion.weights), so that nothing is generated"
_NO_LPIPS = "no LPIPS weights (splatting.lpips_trunk, splatting.lpips_heads), every row is without it"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One way to make a map.

    Attributes:
        key: names its pictures.
        title: for people.
        kind: "method", "baseline" or "ablation".
        config: what it runs with.
        start: "pointmaps" (stage 1's), or "points" (sparse ones, plain 3DGS).
        regenerate: whether stage 2 differs from that of the method.
        unavailable: why it cannot run here; empty where it can.
    """

    key: str
    title: str
    kind: str
    config: ReconxConfig
    start: str = "pointmaps"
    regenerate: bool = False
    unavailable: str = ""


@dataclass(frozen=True)
class _Change:
    key: str
    title: str
    values: Mapping[str, Any] = field(default_factory=dict)


_TERMS = (
    _Change("no_pointmap_init", "no pointmap initialisation", {"splatting.use_pointmap_init": False}),
    _Change("no_confidence", "no confidence", {"splatting.use_confidence": False}),
    _Change("no_ssim", "no SSIM", {"splatting.weight_ssim": 0.0}),
    _Change("no_in_between_views", "no in-between views", {"splatting.generated_weight": 0.0}),
)
_EXTRAS = (
    _Change("with_fill", "with guesses of unsure depth", {"splatting.fill_unsure": True}),
    _Change("with_depth_term", "with depth term", {"splatting.weight_depth": 0.1}),
    _Change("with_pose_refinement", "with pose refinement", {"splatting.refine_poses": True}),
    _Change("with_exposure_refinement", "with exposure refinement", {"splatting.refine_exposure": True}),
)


def method_rows(config: ReconxConfig, *, ablation: bool = False, extras: bool = False) -> list[Row]:
    """The method, plain 3DGS from sparse points, and what else is asked for.

    Terms that are off in ``config`` anyway have no row.

    Args:
        config: what the method runs with.
        ablation: the paper's ablation table.
        extras: what is off by default, switched on.
    """
    rows = [
        Row(key=OURS, title="ours", kind="method", config=config),
        Row(key=SPARSE, title="3DGS from sparse points", kind="baseline", config=config, start="points"),
    ]
    if ablation:
        rows += [*_video_rows(config), _lpips_row(config), *_changed(config, _TERMS)]
    if extras:
        rows += _changed(config, _EXTRAS)
    return rows


def _changed(config: ReconxConfig, changes: tuple[_Change, ...]) -> list[Row]:
    rows = [Row(key=c.key, title=c.title, kind="ablation", config=updated(config, dict(c.values))) for c in changes]
    return [row for row in rows if row.config != config]


def _video_rows(config: ReconxConfig) -> list[Row]:
    """Plain 3DGS with in-between views (no geometry in either), and everything but the 3-D condition."""
    missing = "" if config.diffusion.weights else _NO_VIDEO
    blind = updated(config, {"diffusion.structure_points": 0, "diffusion.render_guidance": 0.0})
    return [
        Row(
            key="video", title="3DGS from sparse points + video", kind="ablation", config=blind, start="points",
            regenerate=True, unavailable=missing,
        ),
        Row(
            key="no_3d_condition", title="no 3D condition", kind="ablation", config=blind, regenerate=True,
            unavailable=missing,
        ),
    ]  # fmt: skip


def _lpips_row(config: ReconxConfig) -> Row:
    there = bool(config.splatting.lpips_trunk) and config.splatting.weight_lpips > 0
    off = updated(config, {"splatting.weight_lpips": 0.0})
    return Row(key="no_lpips", title="no LPIPS", kind="ablation", config=off, unavailable="" if there else _NO_LPIPS)

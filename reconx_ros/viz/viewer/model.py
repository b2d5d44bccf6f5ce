"""Which points and Gaussians are shown, and in which colours. Pure: arrays in, arrays out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from reconx_ros.core import GaussianScene, PointCloud, Provenance
from reconx_ros.splatting.harmonics import SH_C0
from reconx_ros.splatting.projection import covariances
from reconx_ros.viz.canvas import colour_bar, confidence_picture
from reconx_ros.viz.palette import KIND_LEGEND, provenance_picture

POINTS, SPLATS, BOTH = "points", "splats", "both"
LAYERS = (POINTS, SPLATS, BOTH)
RGB, CONFIDENCE, PROVENANCE = "RGB", "confidence", "provenance"
COLOURS = (RGB, CONFIDENCE, PROVENANCE)
DEFAULT_BUDGET = 1_000_000
"""Points, and Gaussians, that a browser is handed at most unless the user says otherwise."""

_LEGEND = '<div style="display:flex;gap:8px;align-items:center;font-size:12px;padding:2px 10px 6px">{body}</div>'
_SWATCH = '<span style="width:12px;height:12px;border-radius:3px;background:rgb{colour}"></span><span>{name}</span>'
_HALF_FLOAT_STD = 0.1  # covariances travel as half floats, which resolve best around 0.01 = 0.1 squared


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What the user wants to see.

    Attributes:
        layer: of LAYERS.
        colour: of COLOURS.
        kinds: what is shown, by how its place is known.
        min_confidence: leave out what is less sure, in [0, 1].
        cameras, pictures, path: show frustums, the pictures in them, and the path of the novel views.
        point_size: multiple of the size at which neighbouring pixels of a keyframe just touch.
    """

    layer: str = POINTS
    colour: str = RGB
    kinds: frozenset[Provenance] = frozenset(Provenance)
    min_confidence: float = 0.0
    cameras: bool = True
    pictures: bool = True
    path: bool = True
    point_size: float = 1.0


@dataclass(frozen=True, kw_only=True, eq=False)
class ShownPoints:
    """Points to draw.

    Attributes:
        points: [P, 3] float32, world.
        rgb_u8: [P, 3] uint8.
        passed: how many points pass the filters; more than P where the budget cut them.
        total: how many there are.
    """

    points: np.ndarray  # [P, 3]
    rgb_u8: np.ndarray  # [P, 3]
    passed: int
    total: int

    def __len__(self) -> int:
        return len(self.points)


@dataclass(frozen=True, kw_only=True, eq=False)
class ShownSplats:
    """Gaussians to draw; their colour is the one from all directions (harmonics of degree 0).

    Attributes:
        centres: [N, 3] float32, world, divided by ``unit``.
        covariances: [N, 3, 3] float32 in ``unit`` squared.
        rgb_u8: [N, 3] uint8.
        opacities: [N] float32 in [0, 1].
        unit: length in the world that counts as 1, such that half floats hold the covariances well.
        passed, total: as in ShownPoints.
    """

    centres: np.ndarray  # [N, 3]
    covariances: np.ndarray  # [N, 3, 3]
    rgb_u8: np.ndarray  # [N, 3]
    opacities: np.ndarray  # [N]
    unit: float
    passed: int
    total: int

    def __len__(self) -> int:
        return len(self.centres)


def shown_points(cloud: PointCloud, choice: Selection, budget: int) -> ShownPoints:
    """The points that pass the filters, evenly thinned to the budget.

    Which points a budget keeps does not depend on the filters, so that moving a slider never makes points flicker.
    """
    passing = np.flatnonzero(_passing_points(cloud, choice))
    kept = _thinned(passing, len(cloud), budget)
    return ShownPoints(
        points=np.ascontiguousarray(cloud.points[kept], np.float32),
        rgb_u8=coloured(cloud.rgb_u8[kept], cloud.confidence[kept], cloud.provenance[kept], choice.colour),
        passed=len(passing),
        total=len(cloud),
    )


def shown_splats(scene: GaussianScene, choice: Selection, budget: int) -> ShownSplats:
    """The Gaussians that pass the filters; beyond the budget, those that cover the most are kept."""
    confidence, provenance = scene.confidence.cpu().numpy(), scene.provenance.cpu().numpy()
    passing = np.flatnonzero(_passes(confidence, provenance, choice))
    kept = passing
    if len(passing) > budget:
        weight = _weights(scene)[passing]
        kept = np.sort(passing[np.argpartition(weight, len(weight) - budget)[len(weight) - budget :]])
    part = scene.select(torch.from_numpy(kept))
    unit = _unit(part)
    rgb = (0.5 + SH_C0 * part.sh[:, 0]).clamp(0, 1).mul(255).round().to(torch.uint8).cpu().numpy()
    return ShownSplats(
        centres=(part.means / unit).cpu().numpy().astype(np.float32),
        covariances=covariances(part.quats_wxyz, part.log_scales.exp() / unit).cpu().numpy(),
        rgb_u8=coloured(rgb, confidence[kept], provenance[kept], choice.colour),
        opacities=part.logit_opacities.sigmoid().cpu().numpy(),
        unit=unit,
        passed=len(passing),
        total=len(scene),
    )


def pickable(cloud: PointCloud, scene: GaussianScene | None, choice: Selection) -> np.ndarray:
    """World positions [P, 3] that a click may mean: points that pass, or solid Gaussians where no points are shown."""
    if len(cloud) and (choice.layer != SPLATS or scene is None):
        return cloud.points[_passing_points(cloud, choice)]
    if scene is None:
        return np.zeros((0, 3), np.float32)
    passes = _passes(scene.confidence.cpu().numpy(), scene.provenance.cpu().numpy(), choice)
    return np.asarray(scene.means.cpu().numpy()[passes & (scene.logit_opacities.cpu().numpy() > 0)])


def coloured(rgb_u8: np.ndarray, confidence: np.ndarray, provenance: np.ndarray, colour: str) -> np.ndarray:
    """Colours [P, 3] uint8: as seen, by confidence (viridis) or by provenance."""
    if colour == CONFIDENCE:
        return confidence_picture(np.maximum(confidence, 1e-6)[None])[0]
    if colour == PROVENANCE:
        return provenance_picture(provenance[None])[0]
    return rgb_u8


def legend_html(colour: str) -> str:
    """What the colours mean, as HTML; empty for RGB."""
    if colour == CONFIDENCE:
        steps = ", ".join(f"rgb{tuple(c.tolist())}" for c in colour_bar("confidence", 9, 1)[0])
        bar = (
            f'<span style="flex:1;height:10px;border-radius:3px;background:linear-gradient(to right, {steps})"></span>'
        )
        return _LEGEND.format(body=f"<span>unsure 0</span>{bar}<span>1 sure</span>")
    if colour == PROVENANCE:
        return "".join(_LEGEND.format(body=_SWATCH.format(colour=c, name=n)) for c, n in KIND_LEGEND)
    return ""


def counts_line(what: str, shown: int, passed: int, total: int) -> str:
    """One sentence on how many are shown of how many, and why not all."""
    if total == 0:
        return f"no {what}"
    line = f"{shown:,} of {total:,} {what}"
    reasons = []
    if passed < total:
        reasons.append(f"{total - passed:,} filtered out")
    if shown < passed:
        reasons.append(f"{passed - shown:,} over the limit")
    return f"{line} ({', '.join(reasons)})" if reasons else f"all {total:,} {what}"


def _passing_points(cloud: PointCloud, choice: Selection) -> np.ndarray:
    """[P] bool; points that are not finite never pass."""
    return _passes(cloud.confidence, cloud.provenance, choice) & np.isfinite(cloud.points).all(axis=1)


def _passes(confidence: np.ndarray, provenance: np.ndarray, choice: Selection) -> np.ndarray:
    """[P] bool."""
    return (confidence >= choice.min_confidence) & np.isin(provenance, [int(kind) for kind in choice.kinds])


def _thinned(passing: np.ndarray, total: int, budget: int) -> np.ndarray:
    """At most ``budget`` of the passing indices: those with the smallest of fixed random numbers."""
    if len(passing) <= budget:
        return passing
    order = np.random.default_rng(0).random(total, np.float32)[passing]
    return np.sort(passing[np.argpartition(order, budget)[:budget]])


def _weights(scene: GaussianScene) -> np.ndarray:
    """[N] opacity times the area of the ellipsoid's largest shadow."""
    longest = scene.log_scales.topk(2, dim=-1).values.sum(dim=-1)
    return np.asarray((scene.logit_opacities.sigmoid() * longest.exp()).cpu().numpy())


def _unit(scene: GaussianScene) -> float:
    if len(scene) == 0:
        return 1.0
    return max(1e-9, float(scene.log_scales.median().exp()) / _HALF_FLOAT_STD)

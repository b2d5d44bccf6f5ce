"""A picture from a new place out of the pictures of others (image-based rendering).

Each source's surface is seen from the target (``visibility``); where they disagree, the nearest surface counts that no
other source looks through. Colours are then read from the sources themselves at the surface's projection and blended:
sources that look from nearly the same direction and distance count most (Buehler et al., "Unstructured lumigraph
rendering", SIGGRAPH 2001). Pixels that no source saw stay empty.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from reconx_ros.core import BY_TRUST, SE3, InvalidInputError, PinholeCamera
from reconx_ros.geometry.kinds import surest_majority
from reconx_ros.geometry.projection import backproject, inside_image, project, transform_points
from reconx_ros.geometry.visibility import Surface, splat_depth
from reconx_ros.geometry.warping import sample

MAX_CONFIDENCE = 0.98
_BORDER_SHARE = 0.04
_EDGE_TRUST = 0.5


@dataclass(frozen=True, kw_only=True)
class BlendSettings:
    """How sources are compared and mixed.

    Attributes:
        max_step: relative step of depth that separates two surfaces.
        agreement: relative difference of depth at which a source's agreement has fallen to 1/e.
        blend_angle_deg: angle between the source's and the target's ray at which a source's weight has fallen to 1/e.
        trust_angle_deg: the same for the confidence.
        edge_weight: weight of source pixels beside a cut.
        max_sources: sources used for one picture, those that see most of it first.
    """

    max_step: float = 0.05
    agreement: float = 0.02
    blend_angle_deg: float = 6.0
    trust_angle_deg: float = 30.0
    edge_weight: float = 0.05
    max_sources: int = 4


@dataclass(frozen=True, kw_only=True, eq=False)
class BlendedView:
    """A picture from a new place.

    Attributes:
        rgb: [H, W, 3] float32 in [0, 1]; black where nothing was hit.
        depth: [H, W] float32 z-depth; 0 where nothing was hit.
        confidence: [H, W] float32 in [0, MAX_CONFIDENCE]: of the sources, times agreement, times nearness in angle.
        provenance: [H, W] uint8, the kind of most of what was blended; NONE where nothing was hit.
        hit: [H, W] bool.
    """

    rgb: torch.Tensor  # [H, W, 3]
    depth: torch.Tensor  # [H, W]
    confidence: torch.Tensor  # [H, W]
    provenance: torch.Tensor  # [H, W]
    hit: torch.Tensor  # [H, W]


def blend_views(
    surfaces: Sequence[Surface], camera: PinholeCamera, world_from_cam: SE3, settings: BlendSettings | None = None
) -> BlendedView:
    """Render a picture from a new place.

    Args:
        surfaces: sources, at least one, all on one device.
        camera, world_from_cam: the target view.
        settings: None takes the defaults.

    Raises:
        InvalidInputError: without sources.
    """
    if not surfaces:
        raise InvalidInputError("no source views to render from, expected at least one")
    settings = settings or BlendSettings()
    chosen = best_sources(surfaces, camera, world_from_cam, settings.max_sources)
    layers = [splat_depth(s, camera, world_from_cam, max_step=settings.max_step) for s in chosen]
    depth, agreement = _choose_surface(chosen, layers, camera, world_from_cam, settings)
    return _colour(chosen, depth, agreement, camera, world_from_cam, settings)


def best_sources(surfaces: Sequence[Surface], camera: PinholeCamera, world_from_cam: SE3, count: int) -> list[Surface]:
    """The sources of which the target sees most from nearly their own direction."""
    if len(surfaces) <= count:
        return list(surfaces)
    scores = [_overlap(s, camera, world_from_cam) for s in surfaces]
    ranked = sorted(range(len(surfaces)), key=lambda k: (-scores[k], k))[:count]
    return [surfaces[k] for k in sorted(ranked)]


def _overlap(surface: Surface, camera: PinholeCamera, world_from_cam: SE3) -> float:
    points = backproject(surface.depth, surface.camera)[::6, ::6][surface.depth[::6, ::6] > 0]
    if len(points) == 0:
        return 0.0
    uv, z = project(transform_points(world_from_cam.inverse() @ surface.world_from_cam, points), camera)
    apart = world_from_cam.distance_to(surface.world_from_cam) / float(points[:, 2].median())
    return float(inside_image(uv, z, camera).float().mean()) / (1 + 2 * apart)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Look:
    """How one source sees target points: all [H, W] or [H, W, C] on the target's grid.

    Attributes:
        uv: [2, H, W] pixel in the source.
        ratio: depth that the source measured there over the depth of the point; 0 where it measured none.
        weight: confidence of that pixel, small beside cuts, 0 where it knows nothing.
        confidence: confidence of that pixel, halved beside cuts.
        pixel: its flat index.
    """

    uv: torch.Tensor
    ratio: torch.Tensor
    weight: torch.Tensor
    confidence: torch.Tensor
    pixel: torch.Tensor


def _look(source: Surface, points_world: torch.Tensor, known: torch.Tensor, settings: BlendSettings) -> _Look:
    uv, z = project(transform_points(source.world_from_cam.inverse(), points_world), source.camera)
    seen = known & inside_image(uv, z, source.camera)
    column = torch.where(seen, uv[..., 0], 0.0).round().long().clamp_max(source.camera.width - 1)
    row = torch.where(seen, uv[..., 1], 0.0).round().long().clamp_max(source.camera.height - 1)
    pixel = row.clamp_min(0) * source.camera.width + column.clamp_min(0)
    depth, confidence = source.depth.flatten()[pixel], torch.where(seen, source.confidence.flatten()[pixel], 0.0)
    edge = source.at_edge.flatten()[pixel]
    weight = torch.where(edge, settings.edge_weight * confidence, confidence)
    return _Look(
        uv=torch.where(seen[..., None], uv, 0.0).permute(2, 0, 1),
        ratio=torch.where(confidence > 0, depth / z.clamp_min(1e-6), 0.0),
        weight=weight,
        confidence=torch.where(edge, _EDGE_TRUST * confidence, confidence),
        pixel=pixel,
    )


def _choose_surface(
    sources: list[Surface], layers: list[torch.Tensor], camera: PinholeCamera, world_from_cam: SE3, s: BlendSettings
) -> tuple[torch.Tensor, torch.Tensor]:
    """(depth [H, W], share in [0, 1] of the sources' votes for it [H, W]).

    A source votes for a layer where it measured that depth, and against it where it measured something behind, which it
    could not have seen through a surface. What lies hidden behind something else, or outside its picture, gets no vote.
    """
    shares = [_vote_share(sources, layer, camera, world_from_cam, s) for layer in layers]
    depths, votes = torch.stack(layers), torch.stack(shares)  # [L, H, W]
    bar = torch.minimum(votes.amax(dim=0), torch.full_like(votes[0], 0.5))
    accepted = (depths > 0) & (votes >= bar) & (votes > 0)
    nearest = torch.where(accepted, depths, math.inf).amin(dim=0)
    same = accepted & (depths <= nearest * (1 + s.agreement))
    weight = torch.where(same, votes, 0.0)
    total = weight.sum(dim=0)
    hit = total > 0
    depth = torch.where(hit, torch.where(same, weight * depths, 0.0).sum(dim=0) / total.clamp_min(1e-9), 0.0)
    return depth, torch.where(same, votes, 0.0).amax(dim=0)


def _vote_share(
    sources: list[Surface], layer: torch.Tensor, camera: PinholeCamera, world_from_cam: SE3, s: BlendSettings
) -> torch.Tensor:
    known = layer > 0
    points = transform_points(world_from_cam, backproject(layer, camera))
    votes_for, votes_against = torch.zeros_like(layer), torch.zeros_like(layer)
    for source in sources:
        look = _look(source, points, known, s)
        agrees = (look.ratio - 1).abs() <= 2 * s.agreement
        votes_for += torch.where(agrees, look.weight, 0.0)
        votes_against += torch.where(look.ratio > 1 + s.max_step, look.weight, 0.0)
    return torch.where(known, votes_for / (votes_for + votes_against).clamp_min(1e-9), 0.0)


def _colour(
    sources: list[Surface],
    depth: torch.Tensor,
    agreement: torch.Tensor,
    camera: PinholeCamera,
    world_from_cam: SE3,
    s: BlendSettings,
) -> BlendedView:
    known = depth > 0
    points = transform_points(world_from_cam, backproject(depth, camera))
    rgb, trust = torch.zeros(*depth.shape, 3, device=depth.device), torch.zeros_like(depth)
    total, shares = torch.zeros_like(depth), {kind: torch.zeros_like(depth) for kind in BY_TRUST}
    for source in sources:
        look = _look(source, points, known, s)
        fit = torch.exp(-(((look.ratio - 1) / s.agreement) ** 2))
        angle, nearer = _relation(source, points, world_from_cam)
        weight = look.weight * fit * torch.exp(-angle / s.blend_angle_deg) * nearer * _border(look.uv, source.camera)
        rgb += weight[..., None] * sample(source.rgb.permute(2, 0, 1), look.uv).permute(1, 2, 0)
        trust += weight * look.confidence * fit * torch.exp(-((angle / s.trust_angle_deg) ** 2))
        total += weight
        kinds = source.provenance.flatten()[look.pixel]
        for kind, share in shares.items():
            share += weight * (kinds == int(kind))
    hit = known & (total > 1e-6)
    scale = torch.where(hit, 1 / total.clamp_min(1e-9), 0.0)
    return BlendedView(
        rgb=(rgb * scale[..., None]).clamp(0, 1),
        depth=torch.where(hit, depth, 0.0),
        confidence=(trust * scale * agreement).clamp(0, MAX_CONFIDENCE),
        provenance=torch.where(hit, surest_majority(shares, total), 0).to(torch.uint8),
        hit=hit,
    )


def _relation(source: Surface, points_world: torch.Tensor, world_from_cam: SE3) -> tuple[torch.Tensor, torch.Tensor]:
    """(angle in degrees between the source's and the target's ray, ratio in (0, 1] of the distances), both [H, W]."""
    to_target = points_world - _vector(world_from_cam.translation, points_world)
    to_source = points_world - _vector(source.world_from_cam.translation, points_world)
    far_target, far_source = to_target.norm(dim=-1).clamp_min(1e-9), to_source.norm(dim=-1).clamp_min(1e-9)
    cosine = (to_target * to_source).sum(dim=-1) / (far_target * far_source)
    ratio = torch.minimum(far_target / far_source, far_source / far_target)
    return torch.rad2deg(torch.arccos(cosine.clamp(-1, 1))), ratio


def _border(uv: torch.Tensor, camera: PinholeCamera) -> torch.Tensor:
    """Weight [H, W] that falls towards the border of the source, so that no seam shows where it ends."""
    u, v = uv[0], uv[1]
    inwards = torch.minimum(torch.minimum(u, camera.width - 1 - u), torch.minimum(v, camera.height - 1 - v)) + 1
    return (inwards / (_BORDER_SHARE * max(camera.size))).clamp(0.02, 1)


def _vector(values: np.ndarray, like: torch.Tensor) -> torch.Tensor:
    return torch.tensor(values.tolist(), dtype=like.dtype, device=like.device)

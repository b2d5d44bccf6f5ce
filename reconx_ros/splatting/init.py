"""First Gaussians: one per pixel of the pointmaps (ReconX section 4.4), thinned to a budget."""

from __future__ import annotations

from dataclasses import replace

import torch

from reconx_ros.core import AlignedViews, GaussianScene, PointMap, Provenance, ReconstructionError
from reconx_ros.geometry.completion import complete_depth
from reconx_ros.geometry.projection import pointmap_world
from reconx_ros.splatting.config import SplattingConfig
from reconx_ros.splatting.harmonics import sh_from_rgb
from reconx_ros.splatting.surface import frames_on_normals, pixel_normals

_MAX_SLANT = 4.0  # a disc grows at most this much along the slope of its surface
_RANDOM_OPACITY = 0.1


def initial_scene(views: AlignedViews, config: SplattingConfig, *, seed: int = 0) -> GaussianScene:
    """Gaussians from the pointmaps, or scattered at random where ``config.use_pointmap_init`` is off.

    Args:
        views: stage 1's result.
        config: budget, degree of the harmonics, kind of initialisation.
        seed: for the random kind.

    Returns:
        At most ``config.max_gaussians`` Gaussians on the CPU, of the kinds of their pixels; at random NONE.

    Raises:
        ReconstructionError: when no pointmap has a valid pixel of positive confidence.
    """
    if config.use_pointmap_init:
        return gaussians_from_pointmaps(views, config)
    return random_gaussians(views, config, seed=seed)


def gaussians_from_pointmaps(views: AlignedViews, config: SplattingConfig) -> GaussianScene:
    """One disc per kept pixel, on its surface, in its colour.

    If there are more pixels than the budget allows, every view is divided into square cells of one size, and each cell
    keeps its most confident pixel, so that coverage stays even. A surface that several views see is taken from all of
    them: their depth errors differ, and the fit settles between (taking it from the best view only cost 1 to 2 dB on
    held-out views). Pixels without a depth get a guessed one if ``config.fill_unsure`` says so.

    Args:
        views: stage 1's result.
        config: ``max_gaussians``, ``sh_degree``, ``fill_unsure``, ``fill_confidence``.

    Raises:
        ReconstructionError: when no pointmap has a valid pixel of positive confidence.
    """
    if not any(bool(_usable(v).any()) for v in views.views):
        raise ReconstructionError("no pointmap has a valid pixel of positive confidence, expected at least one")
    maps = tuple(completed(v, config.fill_confidence) for v in views.views) if config.fill_unsure else views.views
    usable = [_usable(v) for v in maps]
    cell_px = _cell_size(maps, usable, config.max_gaussians)
    picked = [_best_per_cell(v.confidence, mask, cell_px) for v, mask in zip(maps, usable, strict=True)]
    scenes = [_discs(v, index, cell_px, config) for v, index in zip(maps, picked, strict=True)]
    scene = GaussianScene.concatenate(scenes)
    if len(scene) > config.max_gaussians:
        scene = scene.select(
            torch.argsort(scene.confidence, descending=True, stable=True)[: config.max_gaussians].sort()[0]
        )
    return scene


def _usable(view: PointMap) -> torch.Tensor:
    return view.valid & (view.confidence > 0)  # [H, W]


def completed(view: PointMap, confidence: float) -> PointMap:
    """The pointmap with a guess of this confidence, INFERRED, at every pixel without depth (``geometry.completion``).

    A picture from a place between the cameras has no holes then where only the depth, not the colour, was unknown. A
    view without any usable pixel stays as it is.
    """
    known = _usable(view)
    if not bool(known.any()) or bool(known.all()):
        return view
    guess = complete_depth(view.depth, torch.where(known, view.confidence, 0.0), view.rgb)
    return replace(
        view,
        depth=torch.where(known, view.depth, guess),
        confidence=torch.where(known, view.confidence.clamp_min(confidence), confidence),
        valid=torch.ones_like(view.valid),
        provenance=torch.where(known, view.provenance, int(Provenance.INFERRED)).to(torch.uint8),
    )


def _cell_size(views: tuple[PointMap, ...], usable: list[torch.Tensor], budget: int) -> float:
    """Smallest side in pixels, at least 1, of cells whose count keeps the budget."""
    low, high = 1.0, float(max(max(v.camera.size) for v in views))
    if sum(int(mask.sum()) for mask in usable) <= budget:
        return low
    for _ in range(12):
        middle = (low * high) ** 0.5
        if sum(len(torch.unique(_cells(mask, middle)[mask])) for mask in usable) > budget:
            low = middle
        else:
            high = middle
    return high


def _cells(mask: torch.Tensor, cell_px: float) -> torch.Tensor:
    """Number [H, W] of the cell that each pixel is in."""
    rows = (torch.arange(mask.shape[0]) / cell_px).long()
    columns = (torch.arange(mask.shape[1]) / cell_px).long()
    return rows[:, None] * (int(columns[-1]) + 1) + columns


def _best_per_cell(confidence: torch.Tensor, mask: torch.Tensor, cell_px: float) -> torch.Tensor:
    """Flat indices, rising, of the most confident pixel of each cell; of equals, the one nearest to the middle."""
    index = torch.nonzero(mask.flatten()).squeeze(-1)
    rows, columns = index // mask.shape[1], index % mask.shape[1]
    off_centre = ((rows / cell_px) % 1 - 0.5).abs() + ((columns / cell_px) % 1 - 0.5).abs()
    order = torch.argsort(confidence.flatten()[index] - 1e-3 * off_centre, descending=True, stable=True)
    cells = _cells(mask, cell_px).flatten()[index][order]
    sorted_cells, position = torch.sort(cells, stable=True)
    first = torch.ones_like(sorted_cells, dtype=torch.bool)
    first[1:] = sorted_cells[1:] != sorted_cells[:-1]
    return index[order[position[first]]].sort()[0]


def _discs(view: PointMap, index: torch.Tensor, cell_px: float, config: SplattingConfig) -> GaussianScene:
    """Gaussians of the pixels ``index`` [N] of one view, which are ``cell_px`` apart."""
    points = pointmap_world(view).reshape(-1, 3)[index]
    normals, cosines = pixel_normals(view)  # [H, W, 3], [H, W]
    normals, cosines = normals.reshape(-1, 3)[index], cosines.flatten()[index]
    spacing = view.depth.flatten()[index] * (2 * cell_px / (view.camera.fx + view.camera.fy))
    radius = config.init_scale * spacing  # [N]
    along_slope = radius / cosines.clamp_min(1 / _MAX_SLANT)
    scales = torch.stack([along_slope, radius, config.init_flatness * radius], dim=-1)
    confidence = view.confidence.flatten()[index]
    return _scene(
        points,
        frames_on_normals(normals, _viewing_directions(view, points)),
        scales,
        0.5 + 0.45 * confidence,
        view.rgb.reshape(-1, 3)[index],
        view.provenance.flatten()[index],
        confidence,
        torch.full_like(index, view.keyframe_id),
        config,
    )


def _viewing_directions(view: PointMap, points: torch.Tensor) -> torch.Tensor:
    centre = torch.tensor(view.world_from_cam.translation, dtype=points.dtype)
    return torch.nn.functional.normalize(points - centre, dim=-1)


def _scene(
    means: torch.Tensor,
    quats_wxyz: torch.Tensor,
    scales: torch.Tensor,
    opacities: torch.Tensor,
    rgb: torch.Tensor,
    provenance: torch.Tensor,
    confidence: torch.Tensor,
    keyframe_ids: torch.Tensor,
    config: SplattingConfig,
) -> GaussianScene:
    sh = means.new_zeros(len(means), (config.sh_degree + 1) ** 2, 3)
    sh[:, 0] = sh_from_rgb(rgb)
    return GaussianScene(
        means=means.contiguous(),
        quats_wxyz=quats_wxyz,
        log_scales=scales.clamp_min(1e-7).log(),
        logit_opacities=torch.logit(opacities),
        sh=sh,
        provenance=provenance.to(torch.uint8),
        confidence=confidence.float(),
        keyframe_ids=keyframe_ids.long(),
    )


def random_gaussians(views: AlignedViews, config: SplattingConfig, *, seed: int = 0) -> GaussianScene:
    """``config.max_gaussians`` balls of random colour, even in the box that holds the cameras and the pointmaps.

    This is the ablation "without pointmap initialisation": of the pointmaps it takes the extent only.

    Raises:
        ReconstructionError: when no pointmap has a valid pixel.
    """
    seen = [pointmap_world(v)[v.valid] for v in views.views]
    if not any(len(points) for points in seen):
        raise ReconstructionError("no pointmap has a valid pixel, expected at least one")
    centres = torch.stack([torch.tensor(v.world_from_cam.translation) for v in views.views])
    corners = torch.cat([*seen, centres.to(seen[0].dtype)])
    low, high = corners.amin(dim=0), corners.amax(dim=0)
    generator = torch.Generator().manual_seed(seed)
    count = config.max_gaussians
    means = low + (high - low) * torch.rand(count, 3, generator=generator)
    spacing = ((high - low).clamp_min(1e-6).prod() / count) ** (1 / 3)
    upright = torch.tensor([1.0, 0.0, 0.0, 0.0]).expand(count, 4).clone()
    rgb = torch.rand(count, 3, generator=generator)
    anyone = torch.randint(len(views.views), (count,), generator=generator)
    ids = torch.tensor([v.keyframe_id for v in views.views])[anyone]
    scales = (0.5 * spacing).expand(count, 3)
    opacities, none = torch.full((count,), _RANDOM_OPACITY), torch.zeros(count)
    return _scene(means, upright, scales, opacities, rgb, none, none, ids, config)

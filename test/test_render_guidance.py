"""Holding sampled latents to renders of the points: strength, masks, holes."""

from __future__ import annotations

import pytest
import torch
from stage2_scenes import CAMERA, room_pose, room_views

from reconx_ros.core import InvalidInputError, Trajectory
from reconx_ros.diffusion.clips.pictures import fill_holes, render_path, surfaces_from_views
from reconx_ros.diffusion.clips.render_guidance import (
    LatentGuide,
    cell_mask,
    render_target,
    standard_noise,
    strength_at,
)

SHAPE = (1, 4, 3, 8, 8)


def noise(seed: int) -> torch.Tensor:
    return standard_noise(SHAPE, seed)


def guide(start: float, end: float, mask: torch.Tensor | None = None) -> LatentGuide:
    return LatentGuide(
        clean=noise(1), noise=noise(2), mask=torch.ones(SHAPE) if mask is None else mask, start=start, end=end
    )


def half_mask() -> torch.Tensor:
    mask = torch.zeros(1, 1, 3, 8, 8)
    mask[..., :4] = 1
    return mask


def test_full_strength_gives_the_render_itself_and_leaves_the_rest() -> None:
    latents = noise(3)
    held = guide(1.0, 1.0, half_mask()).held(latents, 1, 2, 1.0, 0.0)
    assert torch.equal(held[..., :4], noise(1)[..., :4])
    assert torch.equal(held[..., 4:], latents[..., 4:])
    noisy = guide(1.0, 1.0, half_mask()).held(latents, 0, 2, 0.6, 0.8)
    assert torch.equal(noisy[..., :4], (0.6 * noise(1) + 0.8 * noise(2))[..., :4])


def test_no_strength_changes_no_bit() -> None:
    latents = noise(3)
    assert guide(0.0, 0.0).held(latents, 0, 5, 0.5, 0.5) is latents
    assert guide(1.0, 0.0).held(latents, 4, 5, 1.0, 0.0) is latents
    assert not guide(0.0, 0.0).active and not guide(1.0, 1.0, torch.zeros(SHAPE)).active and guide(0.0, 0.1).active


def test_strength_falls_linearly_and_mixes_linearly() -> None:
    assert [strength_at(k, 5, 0.8, 0.0) for k in range(5)] == pytest.approx([0.8, 0.6, 0.4, 0.2, 0.0])
    assert strength_at(0, 1, 0.7, 0.1) == 0.7
    latents = noise(3)
    held = guide(0.25, 0.25).held(latents, 0, 2, 1.0, 0.0)
    assert torch.allclose(held, 0.75 * latents + 0.25 * noise(1), atol=1e-6)


def test_cells_are_explained_when_all_their_pixels_are() -> None:
    explained = torch.ones(5, 16, 24, dtype=torch.bool)
    explained[0, 9, 17] = False
    explained[3, 0, 0] = False
    mask = cell_mask(explained, 8, 2)
    assert mask.shape == (1, 1, 3, 2, 3)
    wanted = torch.ones(3, 2, 3)
    wanted[0, 1, 2] = wanted[2, 0, 0] = 0
    assert torch.equal(mask[0, 0], wanted)
    assert torch.equal(cell_mask(explained, 8)[0, 0].sum((1, 2)), torch.tensor([5.0, 6, 6, 5, 6]))
    with pytest.raises(InvalidInputError, match="5 frames of 24x16 do not divide into cells of 8 px and 3 frames"):
        cell_mask(explained, 8, 3)


def slow_cell_mask(explained: torch.Tensor, stride: int, temporal: int) -> torch.Tensor:
    """The readable twin of ``cell_mask``."""
    frames, height, width = explained.shape
    mask = torch.zeros(1, 1, (frames - 1) // temporal + 1, height // stride, width // stride)
    for t, row, column in torch.cartesian_prod(*(torch.arange(n) for n in mask.shape[2:])).tolist():
        those = slice(0, 1) if t == 0 else slice(1 + (t - 1) * temporal, 1 + t * temporal)
        rows, columns = (slice(k * stride, (k + 1) * stride) for k in (row, column))
        mask[0, 0, t, row, column] = float(explained[those, rows, columns].all())
    return mask


@pytest.mark.parametrize(("frames", "stride", "temporal"), [(5, 8, 1), (9, 4, 4), (7, 2, 3), (2, 8, 1)])
def test_cells_agree_with_the_readable_twin(frames: int, stride: int, temporal: int) -> None:
    explained = torch.rand(frames, 16, 24, generator=torch.Generator().manual_seed(frames)) > 0.5 / stride**2
    mask = cell_mask(explained, stride, temporal)
    assert torch.equal(mask, slow_cell_mask(explained, stride, temporal)) and 0 < float(mask.mean()) < 1


def test_holes_continue_what_is_known() -> None:
    rgb = torch.rand(2, 13, 17, 3, generator=torch.Generator().manual_seed(0))
    known = torch.rand(2, 13, 17, generator=torch.Generator().manual_seed(1)) > 0.7
    filled = fill_holes(rgb, known)
    assert torch.allclose(filled[known], rgb[known], atol=1e-6)
    assert float(filled.min()) >= 0 and float(filled.max()) <= 1
    flat = fill_holes(torch.full((1, 13, 17, 3), 0.3), known[:1])
    assert torch.allclose(flat, torch.full_like(flat, 0.3), atol=1e-6)
    assert torch.allclose(fill_holes(rgb, known & False), torch.full_like(rgb, 0.5))


def test_targets_show_the_scene_where_it_is_known_and_pictures_where_they_stand() -> None:
    views = room_views(2)
    path = Trajectory(camera=CAMERA, world_from_cams=(room_pose(0), room_pose(0.5), room_pose(40)))
    renders = render_path(surfaces_from_views(views, 0.3, torch.device("cpu")), path)
    target = render_target(renders, {0: views.views[0].rgb}, 0.5, 1.0, 0.0)
    assert torch.equal(target.rgb[0], views.views[0].rgb) and bool(target.explained[0].all())
    assert 0.5 < target.explained[1].float().mean() < 1
    assert target.explained[2].float().mean() < 0.1
    sure = target.explained[1]
    assert torch.allclose(target.rgb[1][sure], renders[1].rgb[sure], atol=1e-6)
    nothing = render_path([], path)
    assert not bool(render_target(nothing, {}, 0.0, 1.0, 1.0).explained.any())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"start": 1.5}, "render guidance's start is 1.5, expected 0 to 1"),
        ({"end": float("nan")}, "render guidance's end is nan"),
        ({"noise": torch.zeros(1, 4, 3, 8, 7)}, "noise of the render guidance has shape"),
        ({"clean": torch.full(SHAPE, torch.nan)}, "latents of the renders has 768 values that are NaN"),
    ],
)
def test_refuses(change: dict[str, object], message: str) -> None:
    values: dict[str, object] = {
        "clean": noise(1),
        "noise": noise(2),
        "mask": torch.ones(SHAPE),
        "start": 1.0,
        "end": 0.0,
    }
    with pytest.raises(InvalidInputError, match=message):
        LatentGuide(**{**values, **change})  # type: ignore[arg-type]


def test_nan_in_the_samplers_latents_is_named() -> None:
    with pytest.raises(InvalidInputError, match="latents after sampling step 2 has 768 values that are NaN"):
        guide(1.0, 1.0).held(torch.full(SHAPE, torch.nan), 1, 5, 0.5, 0.5)

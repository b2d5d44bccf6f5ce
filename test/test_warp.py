"""Rendering of pointmaps from new places, and the view generator that generates nothing."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from reconx_ros.core import (
    SE3,
    AlignedViews,
    CancelledError,
    CancelToken,
    InvalidInputError,
    Job,
    PinholeCamera,
    PointMap,
    Provenance,
    Trajectory,
)
from reconx_ros.diffusion.backends.warp import WarpGenerator
from reconx_ros.diffusion.config import DiffusionConfig
from reconx_ros.geometry.projection import camera_rays
from reconx_ros.geometry.view_blending import MAX_CONFIDENCE, BlendSettings, best_sources, blend_views
from reconx_ros.geometry.visibility import (
    Surface,
    close_small_gaps,
    continuous_cells,
    make_surface,
    splat_depth,
    surface_samples,
)

CAMERA = PinholeCamera(width=48, height=36, fx=40.0, fy=41.0, cx=23.1, cy=17.8)
WALL, BOX = 4.0, 2.0
STEP = 0.05


def at(x: float = 0.0, y: float = 0.0, z: float = 0.0, turn: float = 0.0) -> SE3:
    return SE3.exp(np.array([0.0, turn, 0.0]), np.array([x, y, z]))


def colour_of(points: torch.Tensor) -> torch.Tensor:
    x, y, z = points.unbind(-1)
    return torch.stack([0.5 + 0.3 * torch.sin(2 * x), 0.5 + 0.3 * torch.cos(2 * y), 0.5 + 0.1 * (z - 3)], dim=-1)


def look(pose: SE3, camera: PinholeCamera = CAMERA, *, box: bool = True, confidence: float = 0.9) -> PointMap:
    """A wall at z = 4 with a square board at z = 2 before it, ray-cast exactly."""
    rays = camera_rays(camera).double() @ torch.tensor(pose.rotation.tolist(), dtype=torch.float64).T
    origin = torch.tensor(pose.translation.tolist(), dtype=torch.float64)
    wall = (WALL - origin[2]) / rays[..., 2]
    board = (BOX - origin[2]) / rays[..., 2]
    on_board = ((origin + board[..., None] * rays)[..., :2].abs() < 0.4).all(dim=-1) & (board > 0)
    depth = torch.where(on_board & box, board, wall)
    return PointMap(
        rgb=colour_of(origin + depth[..., None] * rays).float(),
        depth=depth.float(),
        confidence=torch.full(depth.shape, confidence),
        valid=torch.ones(depth.shape, dtype=torch.bool),
        provenance=torch.ones(depth.shape, dtype=torch.uint8),
        camera=camera,
        world_from_cam=pose,
        keyframe_id=0,
    )


def surface(view: PointMap) -> Surface:
    return make_surface(view, min_confidence=0.1, max_step=STEP)


def aligned(*views: PointMap) -> AlignedViews:
    return AlignedViews(views=views, metric_scale=True, scale_source="test", backend="test")


# Slow twins ------------------------------------------------------------------------------------------------------


def splat_slowly(view: PointMap, camera: PinholeCamera, pose: SE3) -> np.ndarray:
    """splat_depth pixel by pixel, without closing gaps."""
    depth, source = view.depth.double().numpy(), view.camera
    to_target = pose.inverse() @ view.world_from_cam

    def cast(u: float, v: float, inverse: float) -> tuple[float, float, float]:
        x, y, z = to_target.apply(np.array([(u - source.cx) / source.fx, (v - source.cy) / source.fy, 1]) / inverse)
        return camera.fx * x / z + camera.cx, camera.fy * y / z + camera.cy, z

    samples = [cast(u, v, 1 / depth[v, u]) for v in range(source.height) for u in range(source.width)]
    for v in range(source.height - 1):
        for u in range(source.width - 1):
            corners = depth[v : v + 2, u : u + 2]
            if corners.max() > corners.min() * (1 + STEP):
                continue
            (u0, v0, _), (u1, v1, _), (u2, v2, _) = (
                cast(u + a, v + b, 1 / corners[b, a]) for a, b in ((0, 0), (1, 0), (0, 1))
            )
            spacing = max(math.hypot(u1 - u0, v1 - v0), math.hypot(u2 - u0, v2 - v0))
            steps = min(max(math.ceil(1.4 * spacing), 1), 4)
            for i in range(steps):
                for j in range(steps):
                    if i or j:
                        a, b = i / steps, j / steps
                        weights = np.outer([1 - a, a], [1 - b, b])
                        samples.append(cast(u + b, v + a, float((weights / corners).sum())))
    hits: dict[tuple[int, int], list[float]] = {}
    for u, v, z in samples:
        if z > 0 and 0 <= round(u) < camera.width and 0 <= round(v) < camera.height:
            hits.setdefault((round(v), round(u)), []).append(z)
    out = np.zeros((camera.height, camera.width))
    for pixel, depths in hits.items():
        out[pixel] = np.mean([z for z in depths if z <= min(depths) * (1 + STEP)])
    return out


def blend_slowly(source: PointMap, camera: PinholeCamera, pose: SE3) -> tuple[np.ndarray, np.ndarray]:
    """(rgb, hit) of blend_views with a single source, pixel by pixel."""
    settings, made = BlendSettings(), surface(source)
    depth = splat_depth(made, camera, pose, max_step=settings.max_step).double().numpy()
    rgb, hit = np.zeros((camera.height, camera.width, 3)), np.zeros((camera.height, camera.width), bool)
    image, measured = source.rgb.double().numpy(), made.depth.double().numpy()
    height, width = measured.shape
    for v, u in np.argwhere(depth > 0):
        point = depth[v, u] * np.array([(u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy, 1])
        x, y, z = source.world_from_cam.inverse().apply(pose.apply(point))
        p, q = source.camera.fx * x / z + source.camera.cx, source.camera.fy * y / z + source.camera.cy
        if not (-0.5 <= p <= width - 0.5 and -0.5 <= q <= height - 0.5):
            continue
        there = measured[min(max(round(q), 0), height - 1), min(max(round(p), 0), width - 1)]
        if abs(there / z - 1) > 2 * settings.agreement:
            continue
        hit[v, u] = True
        p, q = min(max(p, 0), width - 1), min(max(q, 0), height - 1)
        i, j = min(int(q), height - 2), min(int(p), width - 2)
        weights = np.outer([1 - (q - i), q - i], [1 - (p - j), p - j])
        rgb[v, u] = (weights[..., None] * image[i : i + 2, j : j + 2]).sum(axis=(0, 1))
    return rgb, hit


POSES = [at(0.15), at(0.3, 0.1, 0.2, turn=-0.08), at(-0.2, -0.2, 0.6, turn=0.1), at(0, 0, -0.7)]


@pytest.mark.parametrize("pose", POSES)
def test_depth_agrees_with_the_slow_twin(pose: SE3) -> None:
    view = look(at())
    fast = splat_depth(surface(view), CAMERA, pose, max_step=STEP)
    slow = splat_slowly(view, CAMERA, pose)
    closed = close_small_gaps(torch.from_numpy(slow).float(), STEP)
    differs = (fast - closed).abs() > 1e-3
    assert differs.float().mean() < 0.003  # a sample on the border of two pixels may round either way


@pytest.mark.parametrize("pose", POSES)
def test_colours_agree_with_the_slow_twin(pose: SE3) -> None:
    view = look(at())
    fast = blend_views([surface(view)], CAMERA, pose)
    rgb, hit = blend_slowly(view, CAMERA, pose)
    assert (fast.hit.numpy() != hit).mean() < 0.003
    both = fast.hit.numpy() & hit
    assert np.abs(fast.rgb.numpy() - rgb)[both].max() < 2e-3


# Laws ------------------------------------------------------------------------------------------------------------


def test_from_its_own_place_a_view_is_itself() -> None:
    view = look(at(0.1, -0.2, 0.3, turn=0.2))
    got = blend_views([surface(view)], CAMERA, view.world_from_cam)
    assert bool(got.hit.all())
    assert torch.allclose(got.depth, view.depth, rtol=0.03)
    flat = ~surface(view).at_edge
    assert torch.allclose(got.depth[flat], view.depth[flat], rtol=3e-3)
    assert torch.allclose(got.rgb, view.rgb, atol=2e-3)
    assert float(got.confidence[flat].min()) > 0.85


@pytest.mark.parametrize("pose", POSES)
def test_two_sources_show_what_is_there(pose: SE3) -> None:
    sources = [surface(look(p)) for p in (at(-0.4), at(0.4))]
    got, truth = blend_views(sources, CAMERA, pose), look(pose)
    assert got.hit.float().mean() > 0.8
    error = (got.rgb - truth.rgb).abs().amax(dim=-1)[got.hit]
    assert error.mean() < 0.015
    assert (error > 0.1).float().mean() < 0.05  # the rim of the board, one pixel wide
    wrong = ((got.depth - truth.depth).abs() > 0.03 * truth.depth)[got.hit]
    assert wrong.float().mean() < 0.05


def test_what_no_source_saw_stays_empty() -> None:
    pose = at(0.5)
    got, truth = blend_views([surface(look(at()))], CAMERA, pose), look(pose)
    behind = torch.zeros(CAMERA.height, CAMERA.width, dtype=torch.bool)
    points = camera_rays(CAMERA) * truth.depth[..., None] + torch.tensor([0.5, 0, 0])
    seen = points * (BOX / points[..., 2:])  # where the ray from the source crosses the board's plane
    behind = (truth.depth > 3) & (seen[..., :2].abs() < 0.35).all(dim=-1)
    assert behind.sum() > 19
    assert not bool(got.hit[behind].any())
    assert not bool(got.rgb[~got.hit].any())
    assert not bool(got.depth[~got.hit].any())
    assert not bool(got.confidence[~got.hit].any())


def test_the_near_board_hides_the_wall() -> None:
    pose = at(0.2)
    got, truth = blend_views([surface(look(p)) for p in (at(), at(0.4))], CAMERA, pose), look(pose)
    inside = torch.nn.functional.max_pool2d((truth.depth > 3).float()[None], 3, 1, 1)[0] == 0
    assert torch.allclose(got.depth[inside], truth.depth[inside], rtol=0.01)


def test_coming_nearer_leaves_no_holes() -> None:
    got = blend_views([surface(look(at(), box=False))], CAMERA, at(z=2.4))
    assert bool(got.hit.all())
    assert torch.allclose(got.depth, torch.full_like(got.depth, WALL - 2.4), rtol=1e-3)


def test_a_slanted_plane_is_rendered_exactly() -> None:
    pose = at(0.3, turn=0.3)
    got = splat_depth(surface(look(at(), box=False)), CAMERA, pose, max_step=STEP)
    truth = look(pose, box=False).depth
    hit = got > 0
    assert (got[hit] / truth[hit] - 1).abs().max() < 0.02
    assert (got[hit] / truth[hit] - 1).mean().abs() < 2e-3


def test_a_floater_that_others_look_through_is_not_shown() -> None:
    clean = [surface(look(at(x), box=False)) for x in (-0.4, 0.4)]
    wrong = look(at(), box=False)
    depth = wrong.depth.clone()
    depth[10:20, 20:30] = 1.5
    wrong = PointMap(**{**wrong.__dict__, "depth": depth})
    got = blend_views([*clean, surface(wrong)], CAMERA, at(0.1))
    assert float(got.depth[got.hit].min()) > 3.5


def test_confidence_falls_with_angle_and_stays_below_one() -> None:
    source = surface(look(at(), box=False, confidence=1.0))
    means = []
    for x in (0.0, 0.5, 1.0, 2.0):
        got = blend_views([source], CAMERA, at(x, turn=-math.atan2(x, WALL)))
        assert float(got.confidence.max()) < MAX_CONFIDENCE + 1e-6 < 1
        means.append(float(got.confidence[got.hit].mean()))
    assert means == sorted(means, reverse=True)
    assert means[0] > 0.9
    assert means[-1] < 0.6


def test_unsure_pixels_lend_less_and_too_unsure_ones_nothing() -> None:
    sure, unsure = look(at(), confidence=0.9), look(at(), confidence=0.4)
    strong, weak = (blend_views([surface(v)], CAMERA, at(0.1)) for v in (sure, unsure))
    assert weak.confidence[weak.hit].mean() < 0.5 * strong.confidence[strong.hit].mean()
    none = make_surface(unsure, min_confidence=0.5, max_step=STEP)
    assert not bool(blend_views([none], CAMERA, at(0.1)).hit.any())


def test_gaps_are_closed_within_a_surface_only() -> None:
    depth = torch.full((7, 12), 2.0)
    depth[:, 4] = 0
    depth[:, 7:9] = 0
    assert bool((close_small_gaps(depth, STEP) == 2).all())
    step = depth.clone()
    step[:, 5:] = torch.where(step[:, 5:] > 0, 3.0, 0.0)
    closed = close_small_gaps(step, STEP)
    assert bool((closed[:, 4] == 0).all())
    assert bool((closed[:, 7:9] == 3).all())
    wide = depth.clone()
    wide[:, 3:8] = 0
    assert bool((close_small_gaps(wide, STEP)[:, 4:7] == 0).any())


def test_cells_are_cut_where_depth_jumps() -> None:
    depth = torch.full((4, 6), 2.0)
    depth[:, 3:] = 2.05
    assert bool(continuous_cells(depth, STEP).all())
    depth[:, 3:] = 2.2
    assert continuous_cells(depth, STEP).sum() == 3 * 4
    depth[0, 0] = 0
    assert not bool(continuous_cells(depth, STEP)[0, 0])
    with pytest.raises(InvalidInputError, match="depth step"):
        make_surface(look(at()), min_confidence=0, max_step=0)


def test_nothing_behind_the_camera_is_drawn() -> None:
    back = at(0, 0, 5)
    assert len(surface_samples(surface(look(at())), CAMERA, back.inverse())[0]) == 0
    assert not bool(blend_views([surface(look(at()))], CAMERA, back).hit.any())
    with pytest.raises(InvalidInputError, match="no source"):
        blend_views([], CAMERA, at())


def test_the_best_sources_are_those_nearby() -> None:
    sources = [surface(look(at(x))) for x in (-2.0, -0.3, 0.1, 0.2, 3.0)]
    assert best_sources(sources, CAMERA, at(), 3) == sources[1:4]
    assert best_sources(sources, CAMERA, at(), 9) == sources


# The generator ---------------------------------------------------------------------------------------------------


def generate(views: AlignedViews, poses: list[SE3], **options: object) -> object:
    trajectory = Trajectory(camera=CAMERA.scaled_to(32, 24), world_from_cams=tuple(poses))
    job = options.pop("job", Job())
    return WarpGenerator().generate(views, trajectory, DiffusionConfig(**options), device=torch.device("cpu"), job=job)


def test_keyframes_come_first_and_are_observed_where_they_were_measured() -> None:
    views = aligned(look(at(-0.3)), look(at(0.3)))
    sequence = generate(views, [at(0.0), at(0.1)])
    assert [v.is_input for v in sequence.views] == [True, True, False, False]
    assert sequence.backend == "warp"
    for made, view in zip(sequence.views, views.views, strict=False):
        assert torch.equal(made.rgb, view.rgb)
        assert bool((made.confidence == 1).all())
        assert bool((made.provenance == int(Provenance.OBSERVED)).all())
        assert made.camera == view.camera
    whole = views.views[0]
    half = replace(whole, valid=whole.valid.clone(), provenance=whole.provenance.clone())
    half.valid[:10], half.provenance[:10], half.provenance[10:20] = False, 0, int(Provenance.INFERRED)
    kinds = generate(aligned(half, look(at(0.3))), []).views[0].provenance
    assert bool((kinds[:20] == int(Provenance.INFERRED)).all())  # seen by the camera, not measured
    assert torch.equal(kinds[20:], whole.provenance[20:])


def test_views_between_are_of_the_kind_of_what_they_show() -> None:
    guessed = [replace(v, provenance=torch.full_like(v.provenance, 3)) for v in (look(at(-0.3)), look(at(0.3)))]
    for views, kind in (((guessed[0], guessed[1]), 3), ((look(at(-0.3)), look(at(0.3))), 1)):
        between = generate(aligned(*views), [at(0.0)]).views[2]
        assert set(between.provenance[between.confidence > 0].unique().tolist()) == {kind}


def test_small_gaps_that_are_closed_are_inferred() -> None:
    view = look(at(0.0))
    holed = replace(view, valid=view.valid.clone(), provenance=view.provenance.clone())
    holed.valid[20, 20:22], holed.provenance[20, 20:22] = False, 0
    surface = make_surface(holed, min_confidence=0.1, max_step=0.05)
    assert bool((surface.provenance[20, 20:22] == int(Provenance.INFERRED)).all())
    assert int((surface.provenance == int(Provenance.OBSERVED)).sum()) == view.valid.numel() - 2


def test_views_between_say_what_was_seen() -> None:
    sequence = generate(aligned(look(at(-0.3)), look(at(0.3))), [at(0.0), at(0, 1.5)])
    for view in sequence.views[2:]:
        seen = view.provenance == int(Provenance.OBSERVED)
        assert set(view.provenance.unique().tolist()) <= {int(Provenance.NONE), int(Provenance.OBSERVED)}
        assert view.camera.size == (32, 24)
        assert bool((view.confidence[~seen] == 0).all())
        assert float(view.confidence.max()) < 1
        assert view.depth is not None
        assert bool(((view.depth > 0) == seen).all())
    assert (sequence.views[3].provenance == int(Provenance.NONE)).float().mean() > 0.2


def test_it_says_that_it_generates_nothing() -> None:
    sequence = generate(aligned(look(at(-0.3)), look(at(0.3))), [at()])
    assert not sequence.generates
    assert "generates nothing" in sequence.warnings[0]
    assert len(generate(aligned(look(at())), []).views) == 1


def test_progress_and_cancellation() -> None:
    token, heard = CancelToken(), []

    def listen(stage: str, fraction: float, message: str) -> None:
        heard.append(fraction)
        if len(heard) == 2:
            token.cancel()

    job = Job(stage="diffusion", on_progress=listen, token=token)
    with pytest.raises(CancelledError):
        generate(aligned(look(at(-0.3)), look(at(0.3))), [at()] * 5, job=job)
    assert heard == [0.0, 0.2]


def test_neighbours_of_recorded_frames_are_predicted(reconx_data: Path) -> None:
    from reconx_ros.io.scenes import read_scene

    names = [f"images/{k:04d}.jpg" for k in (6, 7, 8)]
    frames = read_scene(reconx_data / "hololens_kitchen_table", names=names, max_size=270).frames
    made = []
    for frame in frames:
        assert frame.depth_m is not None
        assert frame.world_from_cam is not None
        depth = torch.from_numpy(frame.depth_m)
        made.append(
            PointMap(
                rgb=frame.rgb(), depth=depth, confidence=(depth > 0).float(), valid=depth > 0,
                provenance=Provenance.OBSERVED.where(depth > 0), camera=frame.camera,
                world_from_cam=frame.world_from_cam, keyframe_id=len(made),
            )
        )  # fmt: skip
    got = blend_views([surface(made[0]), surface(made[2])], made[1].camera, made[1].world_from_cam)
    error = ((got.rgb - made[1].rgb) ** 2).mean(dim=-1)[got.hit].mean()
    assert got.hit.float().mean() > 0.5
    assert -10 * math.log10(float(error)) > 19

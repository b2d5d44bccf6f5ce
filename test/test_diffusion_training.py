"""Training of the video network: clips and conditions, parts that learn, curriculum, averaged weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from video_training import CONFIG, CPU, FRAMES, NETWORK, SIDE, batch_of, clip, training_run

from reconx_ros.core import (
    SE3,
    ConfigError,
    InvalidInputError,
    Job,
)
from reconx_ros.diffusion.network.camera_condition import plucker_rays
from reconx_ros.diffusion.network.patches import PatchCodec, picture_tokens
from reconx_ros.diffusion.network.structure_encoder import normalize_points
from reconx_ros.diffusion.training.clips import ClipBatch, clip_arrays, collated, points_from_depth
from reconx_ros.diffusion.training.curriculum import Curriculum
from reconx_ros.diffusion.training.losses import dropped_conditions
from reconx_ros.diffusion.training.model import VideoModel, conditions, ray_maps
from reconx_ros.diffusion.training.parts import Phase, names_in, phases, select
from reconx_ros.diffusion.training.step import predictor
from reconx_ros.learning.stream import Reuse
from reconx_ros.learning.weights import AveragedWeights

pytest.importorskip("diffusers")
pytest.importorskip("accelerate")

from reconx_ros.diffusion.training.backends.folder import fresh
from reconx_ros.diffusion.training.trainer import VideoTrainer

# Clips and conditions -------------------------------------------------------------------------------------------


def test_points_lie_where_the_depth_says_in_the_first_camera() -> None:
    frames = clip(3)
    turned = SE3.exp(np.array([0.1, 0.2, 0.3]), np.array([1.0, 2.0, 3.0]))
    moved = [replace(f, world_from_cam=turned @ f.world_from_cam) for f in frames if f.world_from_cam is not None]
    points = points_from_depth(moved[0], moved[-1])
    assert points.shape == (2 * SIDE * SIDE, 3)
    depth = frames[0].depth_m
    assert depth is not None and np.allclose(points[:, 2], depth[0, 0], atol=1e-6)
    assert np.allclose(points, points_from_depth(frames[0], frames[-1]), atol=1e-6)  # whatever the world frame


def test_clip_arrays_pad_and_mask_points() -> None:
    frames = clip(0)
    hole = np.zeros((SIDE, SIDE), np.float32)
    hole[2, 3:8] = 2.0
    ends = [replace(frames[0], depth_m=hole), frames[1], replace(frames[2], depth_m=0 * hole)]
    found = clip_arrays(ends, 32, np.random.default_rng(0))
    assert found["point_mask"].sum() == 5 and not found["points"][~found["point_mask"]].any()
    assert found["fps"] == 10 and found["images"].shape == (FRAMES, 3, SIDE, SIDE)


def test_ray_maps_equal_those_of_the_pipeline() -> None:
    batch = batch_of(1, 2)
    maps = ray_maps(batch, 2 * SIDE, 2 * SIDE)
    for k in range(2):
        path = batch.trajectory(k)
        scaled = replace(path, camera=path.camera.scaled_to(2 * SIDE, 2 * SIDE))
        unit = float(normalize_points(batch.points[k : k + 1])[1])
        assert torch.allclose(maps[k], plucker_rays(scaled, unit), atol=1e-5)


def test_exchanged_points_are_those_of_another_clip_and_nothing_else_changes() -> None:
    batch, prepared = batch_of(1, 2, 3), fresh(NETWORK, FRAMES, 0)
    config = prepared.model.unet.unet_config
    own, other, none = (
        conditions(batch, prepared.frozen, config, structure=s, cameras=True) for s in ("own", "exchanged", "none")
    )
    assert own.points is not None and other.points is not None and none.points is None
    assert torch.equal(other.points[1], own.points[0]) and not torch.equal(other.points[1], own.points[1])
    assert torch.equal(own.cameras["rays"], other.cameras["rays"]) and torch.equal(own.x0, other.x0)
    assert torch.equal(own.known[:, :, 0], own.x0[:, :, 0]) and not own.known[:, :, 1:-1].any()


def test_first_picture_alone_stands_in_every_frame() -> None:
    batch, prepared = batch_of(1, 2), fresh(NETWORK, FRAMES, 0)
    config = prepared.model.unet.unet_config
    given = conditions(batch, prepared.frozen, config, structure="own", cameras=False, known="first")
    assert all(torch.equal(given.known[:, :, k], given.x0[:, :, 0]) for k in range(FRAMES)) and not given.cameras


def test_points_that_are_not_centred_keep_their_directions() -> None:
    points = torch.randn(2, 50, 3, generator=torch.Generator().manual_seed(0)) + torch.tensor([0.0, 0.5, 3.0])
    mask = torch.arange(50) < 40
    normal, mean = normalize_points(points, mask.expand(2, -1), centred=False)
    assert torch.allclose(normal[:, :40] * mean[:, None, None], points[:, :40], atol=1e-5) and not normal[:, 40:].any()
    assert torch.allclose(normal[:, :40].norm(dim=-1).mean(dim=1), torch.ones(2), atol=1e-5)
    scaled, _ = normalize_points(7 * points, mask.expand(2, -1), centred=False)
    assert torch.allclose(scaled, normal, atol=1e-5)
    assert NETWORK.structure_config() is not None and not NETWORK.structure_config().centred  # type: ignore[union-attr]


def test_folded_pixels_come_back_exactly_and_tokens_say_their_place() -> None:
    pixels = batch_of(1).pixels()
    codec = PatchCodec(4)
    assert codec.encode(pixels).shape == (1, 48, FRAMES, 4, 4)
    assert torch.equal(codec.decode(codec.encode(pixels)), pixels)
    tokens = picture_tokens(pixels[:, 0], 2)
    assert tokens.shape == (1, 4, 52) and torch.equal(tokens[0, :, 48:], torch.eye(4))
    flat = torch.full((1, 3, SIDE, SIDE), 0.25)
    assert torch.allclose(picture_tokens(flat, 2)[..., :48], torch.tensor(0.25))
    with pytest.raises(InvalidInputError, match="multiples of the patch of 5"):
        PatchCodec(5).encode(pixels)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f[:1], r"has 1 picture\(s\), expected at least 2"),
        (lambda f: [f[0], replace(f[1], world_from_cam=None), f[2]], "picture 1 of a training clip has no pose"),
        (lambda f: [*f[:2], replace(f[2], depth_m=None)], "last picture of a training clip has no pose or no depth"),
        (lambda f: [f[0], *clip(0, side=8)[1:]], r"sizes \[\(8, 8\), \(16, 16\)\], expected one size"),
        (lambda f: [replace(x, depth_m=np.full((SIDE, SIDE), np.nan, np.float32)) for x in f], "has no points"),
    ],
)
def test_clips_that_cannot_be_used_are_named(change: Any, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        clip_arrays(change(clip(0)), 8, np.random.default_rng(0))


def test_clips_of_different_lengths_make_no_batch() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(InvalidInputError, match="clips of a batch have the shapes"):
        collated([clip_arrays(clip(0), 8, rng), clip_arrays(clip(1, frames=4), 8, rng)])


# What learns, and when ------------------------------------------------------------------------------------------


def full_model() -> VideoModel:
    network = replace(NETWORK.unet_config(FRAMES), epipolar_levels=(0,))
    from reconx_ros.diffusion.network.structure_encoder import StructureEncoder
    from reconx_ros.diffusion.network.unet import VideoUNet

    structure = NETWORK.structure_config()
    assert structure is not None
    return VideoModel(VideoUNet(network), StructureEncoder(structure))


def test_parts_name_what_the_recipe_says() -> None:
    model = full_model()
    attention = names_in(model, ["image_attention"])
    assert attention and all(".attn2.to_k_image" in n or ".attn2.to_v_image" in n for n in attention)
    assert len(attention) == 2 * sum(
        n.endswith("to_q.weight") and ".spatial." in n and "attn2" in n for n in _names(model)
    )
    structure = names_in(model, ["structure"])
    assert any(n.startswith("structure_encoder.embed") for n in structure)
    assert sum(n.endswith("structure_gate") for n in structure) == len(attention) // 2
    rest = set(_names(model)) - set(names_in(model, ["spatial", "structure", "camera"]))
    assert all(".spatial." not in n and "epipolar" not in n for n in rest)
    assert any(".temporal." in n for n in rest) and any(".res." in n for n in rest)
    assert set(names_in(model, ["all"])) == set(_names(model))


def _names(model: torch.nn.Module) -> list[str]:
    return [name for name, _ in model.named_parameters()]


def test_only_the_phase_s_parameters_get_gradients_and_reach_the_optimiser(tmp_path: Path) -> None:
    config = replace(CONFIG, image_attention_steps=2, parts=("spatial", "structure"), drop=0.0)
    seen: list[tuple[int, set[str], set[str]]] = []

    class Watched(VideoTrainer):
        def _advance(self, model: Any, optimiser: Any, batch: ClipBatch) -> float:
            value = super()._advance(model, optimiser, batch)
            held = {id(p) for group in optimiser.param_groups for p in group["params"]}
            with_gradient = {n for n, p in self.model.named_parameters() if p.grad is not None}
            seen.append((self.step, with_gradient, {n for n, p in self.model.named_parameters() if id(p) in held}))
            return value

    run = training_run(tmp_path / "run", config)
    start = {n: p.detach().clone() for n, p in run.prepared.model.named_parameters()}
    trainer = Watched(run, CPU)
    trainer.fit(Job())
    for step, with_gradient, held in seen:
        wanted = set(names_in(trainer.model, phases(4, 2, config.parts)[0 if step <= 2 else 1].parts))
        assert held == wanted and with_gradient <= wanted and with_gradient
    moved = {n for n, p in trainer.model.named_parameters() if not torch.equal(p, start[n])}
    assert moved and moved <= set(names_in(trainer.model, ["image_attention", "spatial", "structure"]))


def test_phases_and_select_refuse_what_cannot_be() -> None:
    assert phases(10, 0, ("all",)) == (Phase(start=0, stop=10, parts=("all",)),)
    with pytest.raises(ConfigError, match="image_attention_steps is 10, expected less than the 10 steps"):
        phases(10, 10, ("all",))
    bare = VideoModel(full_model().unet.down[0].blocks[0].res, None)  # type: ignore[index,union-attr,arg-type]
    with pytest.raises(ConfigError, match="the network has no such parameters"):
        select(bare, Phase(start=0, stop=1, parts=("camera",)))


def test_conditions_are_dropped_at_the_asked_rates() -> None:
    image, structure = dropped_conditions(40_000, 0.05, torch.Generator().manual_seed(0))
    for share, mask in ((0.05, image & ~structure), (0.05, structure & ~image), (0.05, image & structure)):
        assert float(mask.float().mean()) == pytest.approx(share, abs=0.005)


def test_dropped_conditions_are_what_the_network_is_not_told() -> None:
    prepared, batch = fresh(NETWORK, FRAMES, 0), batch_of(1, 2)
    torch.nn.init.normal_(prepared.model.unet.conv_out.weight)
    for name, p in prepared.model.unet.named_parameters():
        if name.endswith("proj_out.weight"):
            torch.nn.init.normal_(p, std=0.1)
    config = prepared.model.unet.unet_config
    given = conditions(batch, prepared.frozen, config, structure="own", cameras=True)
    blind = conditions(batch, prepared.frozen, config, structure="none", cameras=True)
    noisy, at = torch.randn(given.x0.shape, generator=torch.Generator().manual_seed(1)), torch.tensor([500, 500])
    only_second = torch.tensor([False, True])
    with torch.no_grad():
        mixed = predictor(prepared.model, given, None, only_second)(noisy, at)
        told, untold = predictor(prepared.model, given)(noisy, at), predictor(prepared.model, blind)(noisy, at)
        no_image = predictor(prepared.model, given, only_second)(noisy, at)
    assert torch.allclose(mixed[0], told[0], atol=1e-5) and torch.allclose(mixed[1], untold[1], atol=1e-5)
    assert not torch.allclose(told[1], untold[1], atol=1e-4)
    assert torch.allclose(no_image[0], told[0], atol=1e-5) and not torch.allclose(no_image[1], told[1], atol=1e-4)


def test_intervals_are_small_then_grow_then_are_random() -> None:
    course = Curriculum(smooth=0.2, growth=0.4, seed=1)
    assert [course.interval(d, 7) for d in (0.0, 0.1, 0.19)] == [0.0, 0.0, 0.0]
    growing = [course.interval(d, 7) for d in np.linspace(0.2, 0.59, 20)]
    assert growing == sorted(growing) and growing[0] == pytest.approx(0) and growing[-1] == pytest.approx(0.975)
    late = [course.interval(0.8, n) for n in range(2000)]
    assert np.mean(late) == pytest.approx(0.5, abs=0.03) and min(late) < 0.05 and max(late) > 0.95
    assert course.interval(0.8, 3) == course.interval(0.9, 3)


def test_first_step_is_where_an_example_becomes_available() -> None:
    for reuse in (Reuse(batch=4, times=2, window=8, seed=0), Reuse(batch=3, times=1, window=3, seed=0)):
        for number in range(20):
            step = reuse.first_step(number)
            assert number in reuse.available(step) and (step == 0 or number not in reuse.available(step - 1))


def test_averaged_weights_follow_the_formula_for_the_named_ones() -> None:
    network = torch.nn.Linear(2, 2)
    average = AveragedWeights(network, 0.9, ["weight"])
    expected = network.weight.detach().clone()
    for step in range(200):
        with torch.no_grad():
            network.weight.add_(1.0)
        average.update(network, step)
        keep = min(0.9, (1 + step) / (10 + step))
        expected = keep * expected + (1 - keep) * network.weight.detach()
    assert list(average.state) == ["weight"] and torch.allclose(average.state["weight"], expected, rtol=1e-4)

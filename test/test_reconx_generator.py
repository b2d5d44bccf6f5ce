"""The reconx view generator with a small random network of the real classes, from a folder as users have it."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from stage2_scenes import SIZE, circle_views, room_views
from video_models import TINY, tiny_pipeline

from reconx_ros.core import (
    BackendUnavailableError,
    CancelledError,
    CancelToken,
    InvalidInputError,
    Job,
    Provenance,
    ReconstructionError,
    ViewSequence,
)
from reconx_ros.core.settings import updated
from reconx_ros.diffusion.clips.trajectory import plan_trajectory
from reconx_ros.diffusion.config import DiffusionConfig
from reconx_ros.diffusion.network.generator_settings import ReconXGeneratorSettings
from reconx_ros.pipeline.config import ReconxConfig
from reconx_ros.pipeline.selection import choose_generator

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from reconx_ros.diffusion.backends.reconx import ReconXClips, ReconXGenerator, _held_to
from reconx_ros.diffusion.clips.render_guidance import LatentGuide, standard_noise
from reconx_ros.diffusion.network.conditions import known_latents

FULL = replace(TINY, structure_dim=32, camera_channels=8)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reconx_weights")
    tiny_pipeline(FULL).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def pipeline() -> Any:
    return tiny_pipeline(FULL)


def generate(weights: Path | str, count: int = 2, job: Job | None = None, **options: Any) -> ViewSequence:
    views = room_views(count)
    own = {"reconx.image_guidance": 1.0, "reconx.structure_guidance": 1.0}
    values = {"weights": str(weights), "width": SIZE, "height": SIZE, "steps": 2, **own, **options}
    config = updated(DiffusionConfig(), values)
    path = plan_trajectory(views, 2, max_size=SIZE)
    return ReconXGenerator().generate(views, path, config, device=CPU, job=job or Job())


def frames(sequence: ViewSequence) -> list[torch.Tensor]:
    return [v.rgb for v in sequence.views if not v.is_input]


@pytest.fixture(scope="module")
def base(folder: Path) -> torch.Tensor:
    return frames(generate(folder))[0]


def test_frames_between_three_keyframes_from_a_folder(folder: Path, base: torch.Tensor) -> None:
    sequence = generate(folder, 3)
    assert sequence.backend == "reconx" and sequence.generates and sequence.warnings == ()
    assert [v.is_input for v in sequence.views] == [True] * 3 + [False] * 4
    for view in sequence.views[3:]:
        assert bool((view.provenance == int(Provenance.GENERATED)).all())
        assert bool(torch.isfinite(view.rgb).all()) and float(view.confidence.min()) >= 0
    assert not torch.equal(frames(sequence)[0], base)  # other points


def test_the_seed_and_every_condition_reach_the_network(folder: Path, base: torch.Tensor) -> None:
    assert torch.equal(frames(generate(folder))[0], base)
    for change in (
        {"seed": 1},
        {"structure_points": 0},
        {"reconx.camera_conditioning": False},
        {"path": "beyond", "beyond_share": 0.3},
        {"render_guidance": 1.0},
    ):
        assert not torch.equal(frames(generate(folder, **change))[0], base)


@pytest.mark.slow
def test_an_orbit_with_the_network(folder: Path) -> None:
    views = circle_views((0, 100))
    config = DiffusionConfig(weights=str(folder), width=SIZE, height=SIZE, steps=1, path="orbit")
    config = config.with_own(ReconXGeneratorSettings(image_guidance=1.0, structure_guidance=1.0))
    path = plan_trajectory(views, 2, max_size=SIZE)
    sequence = ReconXGenerator().generate(views, path, config, device=CPU, job=Job())
    assert any("frame 2 of 4: frames past it need weights" in w for w in sequence.warnings)
    assert len(sequence.views) > 6 and all(bool(torch.isfinite(v.rgb).all()) for v in sequence.views)


def test_the_choice_follows_the_weights(folder: Path) -> None:
    config = ReconxConfig()
    assert choose_generator(config).name == "warp"
    config = replace(config, diffusion=replace(config.diffusion, weights=str(folder)))
    assert choose_generator(config).name == "reconx"


# Held to renders -------------------------------------------------------------------------------------------------


def sampled(pipeline: Any, guide: LatentGuide | None, eta: float = 1.0) -> torch.Tensor:
    views = room_views(2).views
    result = pipeline(
        views[0].rgb,
        views[1].rgb,
        generator=torch.Generator().manual_seed(0),
        steps=3,
        image_guidance=1.0,
        eta=eta,
        memory_limit_bytes=10**12,
        callback_on_step_end=None if guide is None else _held_to(guide),
    )
    latents: torch.Tensor = result.latents
    return latents


def guide_of(pipeline: Any, start: float, end: float) -> LatentGuide:
    pictures = [v.rgb for v in room_views(4).views]
    with torch.no_grad():
        clean = known_latents(pipeline.vae, pictures, range(4), 4, CPU)
    mask = torch.zeros(1, 1, 4, 8, 8)
    mask[..., 2:6, :] = 1
    return LatentGuide(clean=clean, noise=standard_noise(clean.shape, 9), mask=mask, start=start, end=end)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_held_latents_end_as_the_renders(pipeline: Any, eta: float) -> None:
    guide = guide_of(pipeline, 1.0, 1.0)
    latents = sampled(pipeline, guide, eta)
    assert torch.equal(latents[..., 2:6, :], guide.clean[..., 2:6, :])
    free = sampled(pipeline, None, eta)
    assert not torch.equal(latents[..., :2, :], free[..., :2, :])  # the rest sees what is held
    assert torch.equal(sampled(pipeline, guide_of(pipeline, 0.0, 0.0), eta), free)


@pytest.mark.slow
def test_weak_guidance_comes_nearer_to_the_renders(pipeline: Any) -> None:
    distances = []
    for strength in (0.0, 0.5, 1.0):
        guide = guide_of(pipeline, strength, strength)
        distances.append(float((sampled(pipeline, guide) - guide.clean)[..., 2:6, :].square().mean()))
    assert distances[0] > 1.5 * distances[1] > 0 and distances[2] == 0


def test_levels_of_signal_and_noise_are_those_of_the_sampler(pipeline: Any) -> None:
    scheduler = pipeline.scheduler
    scheduler.set_timesteps(5, 0.0)
    clean, noise = standard_noise((1, 4, 2, 3, 3), 0), standard_noise((1, 4, 2, 3, 3), 1)
    levels = [scheduler.level_after(k) for k in range(5)]
    assert levels[-1] == (1.0, 0.0) and all(a[0] < b[0] for a, b in itertools.pairwise(levels))
    for place in range(1, 4):
        signal, amount = levels[place - 1]
        index = 4 - place
        alpha = float(scheduler.tables.alphas[index])
        sample = signal * clean + amount * noise
        scaled = float(scheduler.tables.scales[index]) * clean
        output = alpha**0.5 * noise - (1 - alpha) ** 0.5 * scaled  # the true velocity
        following, _ = scheduler.step(output, place, sample)
        signal, amount = levels[place]
        assert torch.allclose(following, signal * clean + amount * noise, atol=1e-4)


# Bad input -------------------------------------------------------------------------------------------------------


def test_weights_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(BackendUnavailableError, match=r"weights is empty.*make a folder with `reconx convert"):
        generate("")
    with pytest.raises(BackendUnavailableError, match=r"existing file or folder.*make a folder with `reconx convert"):
        generate(tmp_path / "nothing")
    with pytest.raises(InvalidInputError, match=r"which has no model_index\.json"):
        generate(tmp_path)


def test_weights_of_something_else(tmp_path: Path, folder: Path) -> None:
    index = tmp_path / "model_index.json"
    index.write_text(json.dumps({"_class_name": "WanImageToVideoPipeline"}))
    with pytest.raises(
        InvalidInputError, match=r"holds a WanImageToVideoPipeline.*take diffusion\.backend 'diffusers_flf2v_wan'"
    ):
        generate(tmp_path)
    index.write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    with pytest.raises(InvalidInputError, match="no view generator runs it"):
        generate(tmp_path)
    index.write_text("{")
    with pytest.raises(InvalidInputError, match="cannot be read as the index of a model"):
        generate(tmp_path)
    index.write_text((folder / "model_index.json").read_text())
    with pytest.raises(InvalidInputError, match="cannot be loaded"):
        generate(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 60}, "width and height are 60x64, expected multiples of 16"),
        ({"precision": "float16"}, "'float16' on a CPU"),
        ({"offload": True}, "nowhere to offload from"),
        ({"clip_frames": 2}, "clips have 2 frames, expected at least 3"),
        ({"prompt": "a kitchen"}, "prompt is 'a kitchen', but the model folder has no tokenizer"),
    ],
)
def test_refuses(folder: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        generate(folder, **change)


def test_memory_is_planned_before_the_run(folder: Path) -> None:
    with pytest.raises(ReconstructionError, match=r"4 frames of 64x64 need .* GB, 0.0 GB are free"):
        generate(folder, max_memory_gb=1e-3)
    sequence = generate(folder, max_memory_gb=1e-3, fallback="warp")
    assert sequence.backend == "warp" and "4 frames of 64x64 need" in sequence.warnings[0]


def test_cancelled_between_steps(folder: Path) -> None:
    token = CancelToken()
    job = Job(token=token, on_progress=lambda _, __, text: token.cancel() if text.endswith("step 2 of 2") else None)
    with pytest.raises(CancelledError):
        generate(folder, job=job)


def test_networks_without_branches_are_said_and_stage_1_is_missed() -> None:
    model = ReconXClips(tiny_pipeline(TINY))
    config = DiffusionConfig()
    assert not model.uses_points and not model.follows_path(config)
    assert model.follows_path(replace(config, render_guidance=0.5))
    notes = model._notes(config)
    assert "no structure branch" in notes[0] and "not told the camera path" in notes[1]


def test_nan_in_a_latent_is_named(pipeline: Any) -> None:
    weight = pipeline.unet.conv_out.bias
    kept = weight.detach().clone()
    try:
        with torch.no_grad():
            weight.fill_(torch.nan)
        with pytest.raises(InvalidInputError, match="prediction of the video network at step 999"):
            sampled(pipeline, None)
    finally:
        with torch.no_grad():
            weight.copy_(kept)

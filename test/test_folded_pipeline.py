"""Small models trained from scratch as view generators: the folder that training writes, run between keyframes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from stage2_scenes import SIZE, room_views
from video_models import randomize

from reconx_ros.core import InvalidInputError, Job
from reconx_ros.core.settings import updated
from reconx_ros.diffusion.clips.trajectory import plan_trajectory
from reconx_ros.diffusion.config import DiffusionConfig
from reconx_ros.diffusion.model_folders import FOLDED, generator_for
from reconx_ros.diffusion.network.generator_settings import ReconXGeneratorSettings

pytest.importorskip("diffusers")

from reconx_ros.diffusion.backends.reconx import ReconXGenerator, _held_to
from reconx_ros.diffusion.clips.render_guidance import LatentGuide, standard_noise
from reconx_ros.diffusion.network.folded import FoldedPipeline
from reconx_ros.diffusion.training.backends.folder import fresh, save_small
from reconx_ros.diffusion.training.config import VideoNetworkSettings
from reconx_ros.weights.cache import ModelCache

CPU = torch.device("cpu")
FRAMES = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("small")
    settings = VideoNetworkSettings(width=32, levels=(1, 1), head_dim=16, structure_tokens=8, structure_width=32)
    prepared = fresh(replace(settings, camera_channels=8), FRAMES, 0)
    randomize(prepared.model)
    card = {"licence": "Apache-2.0", "parameters": 1, "steps_done": 0, "data": {"source": "nothing"}}
    save_small(path, prepared, card)
    return path


def generate(folder: Path, **options: Any) -> list[torch.Tensor]:
    views = room_views(2)
    own = {"reconx.image_guidance": 1.0, "reconx.structure_guidance": 1.0}
    values = {"weights": str(folder), "width": 32, "height": 32, "steps": 2, **own, **options}
    config = updated(DiffusionConfig(), values)
    path = plan_trajectory(views, 2, max_size=SIZE)
    sequence = ReconXGenerator().generate(views, path, config, device=CPU, job=Job())
    assert sequence.backend == "reconx" and bool(sequence.warnings) == (
        not config.own(ReconXGeneratorSettings).camera_conditioning
    )
    return [v.rgb for v in sequence.views if not v.is_input]


def test_frames_between_keyframes_and_every_condition_matters(folder: Path) -> None:
    assert generator_for(str(folder)) == "reconx"
    base = generate(folder)
    assert len(base) == FRAMES - 2 and torch.equal(generate(folder)[0], base[0])
    for change in (
        {"structure_points": 0},
        {"reconx.camera_conditioning": False},
        {"reconx.image_guidance": 3.0},
        {"seed": 1},
    ):
        assert not torch.equal(generate(folder, **change)[0], base[0])


def test_the_model_stays_loaded_for_each_precision(folder: Path) -> None:
    models, views = ModelCache(), room_views(2)
    path = plan_trajectory(views, 2, max_size=SIZE)

    def frames(precision: str) -> list[torch.Tensor]:
        own = ReconXGeneratorSettings(image_guidance=1.0, structure_guidance=1.0)
        config = DiffusionConfig(weights=str(folder), precision=precision, width=32, height=32, steps=2).with_own(own)
        generator = ReconXGenerator().with_models(models)
        sequence = generator.generate(views, path, config, device=CPU, job=Job())
        return [v.rgb for v in sequence.views if not v.is_input]

    first, took = frames("float32"), models.load_seconds
    second = frames("float32")
    assert len(models.keys) == 1 and models.load_seconds - took < 0.1 * took
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    frames("bfloat16")
    assert [key.dtype for key in models.keys] == [torch.float32, torch.bfloat16]
    assert all(torch.equal(a, b) for a, b in zip(first, frames("float32"), strict=True))


def test_what_the_network_is_told_is_what_it_was_trained_on(folder: Path) -> None:
    from reconx_ros.diffusion.network.settings import GenerationSettings

    pipeline = FoldedPipeline.from_folder(folder, CPU, torch.float32)
    pictures = torch.stack([v.rgb for v in room_views(FRAMES).views])
    latents = pipeline.latents_from_pictures(pictures)
    plan = pipeline.plan(FRAMES, SIZE, SIZE)
    assert torch.allclose(pipeline.decode(latents, plan, Job()), pictures, atol=1e-6)
    told = pipeline.encode(pictures[0], pictures[-1], (0, FRAMES - 1), FRAMES, GenerationSettings())
    assert torch.equal(told.known[:, :, 0], latents[:, :, 0]) and torch.equal(told.known[:, :, -1], latents[:, :, -1])
    assert not bool(told.known[:, :, 1:-1].any())


def test_frames_held_to_renders_are_the_renders(folder: Path) -> None:
    pipeline = FoldedPipeline.from_folder(folder, CPU, torch.float32)
    pictures = torch.stack([v.rgb for v in room_views(FRAMES).views])
    clean = pipeline.latents_from_pictures(pictures)
    guide = LatentGuide(
        clean=clean, noise=standard_noise(clean.shape, 3), mask=torch.ones_like(clean), start=1.0, end=1.0
    )
    result = pipeline(
        pictures[0],
        pictures[-1],
        generator=torch.Generator().manual_seed(0),
        steps=2,
        image_guidance=1.0,
        callback_on_step_end=_held_to(guide),
    )
    assert torch.allclose(result.frames, pictures, atol=1e-6)


def test_refuses(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="prompt is 'a room', but a model trained from scratch reads none"):
        generate(folder, prompt="a room")
    (tmp_path / FOLDED).write_text("{}")
    with pytest.raises(InvalidInputError, match="does not describe folded pixels"):
        generate(tmp_path)
    (tmp_path / FOLDED).write_text((folder / FOLDED).read_text())
    with pytest.raises(InvalidInputError, match="cannot be loaded"):
        generate(tmp_path)

"""Training of the video network: overfitting, the loop, resuming, saving, fine-tuning, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from video_models import TINY, tiny_pipeline
from video_training import CONFIG, CPU, FRAMES, NETWORK, SIDE, batch_of, clip, same, training_run, weights_of

from reconx_ros.core import (
    CancelledError,
    CancelToken,
    ConfigError,
    Frame,
    InvalidInputError,
    Job,
    ReconstructionError,
    StorageError,
)
from reconx_ros.diffusion.network.sampler import ScheduleConfig
from reconx_ros.diffusion.training.config import PRESETS
from reconx_ros.diffusion.training.model import conditions
from reconx_ros.diffusion.training.parts import names_in
from reconx_ros.diffusion.training.step import predictor, step_generator, training_loss
from reconx_ros.diffusion.training.validation import psnr, sampled
from reconx_ros.learning.log import LOG_FILE

pytest.importorskip("diffusers")
pytest.importorskip("accelerate")

from reconx_ros.diffusion.training.backends.folder import CARD_FILE, fresh, load_small
from reconx_ros.diffusion.training.backends.pretrained import load_pretrained, prepared_pipeline, save_pretrained
from reconx_ros.diffusion.training.trainer import VideoTrainer

# The loop -------------------------------------------------------------------------------------------------------


def test_overfits_one_clip() -> None:
    prepared = fresh(NETWORK, FRAMES, 0)
    batch = batch_of(5)
    given = conditions(batch, prepared.frozen, prepared.model.unet.unet_config, structure="own", cameras=True)
    optimiser = torch.optim.Adam(prepared.model.parameters(), lr=6e-3)
    noise = torch.randn(given.x0.shape, generator=torch.Generator().manual_seed(9))

    def middle_psnr() -> float:
        with torch.no_grad():
            clean = sampled(predictor(prepared.model.eval(), given), prepared.schedule, noise, 1)
        return float(psnr((prepared.frozen.decode(clean) + 1) / 2, (batch.pixels() + 1) / 2)[0, 1])

    before = middle_psnr()
    for step in range(60):
        found = training_loss(
            prepared.model.train(), given, prepared.schedule, step_generator(0, step, 0, 0), drop=0.0, late=3.0
        )
        optimiser.zero_grad()
        found.loss.backward()
        optimiser.step()
    assert middle_psnr() > before + 6  # a middle frame of noise-like pixels is known by heart, or not at all


def test_sampler_finds_the_picture_that_a_perfect_network_knows() -> None:
    x0 = torch.randn(1, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    for schedule in (ScheduleConfig(base_scale=1.0), ScheduleConfig()):
        alphas, scales = schedule.alphas_cumprod(), schedule.scales()

        def perfect(noisy: torch.Tensor, at: torch.Tensor, alphas: Any = alphas, scales: Any = scales) -> torch.Tensor:
            alpha, clean = float(alphas[at[0]]), x0 * float(scales[at[0]])
            noise = (noisy - alpha**0.5 * clean) / (1 - alpha) ** 0.5
            return alpha**0.5 * noise - (1 - alpha) ** 0.5 * clean

        for steps in (1, 7):
            found = sampled(perfect, schedule, torch.randn(x0.shape), steps)
            assert torch.allclose(found, x0, atol=1e-3)


def test_run_writes_model_card_log_and_samples(tmp_path: Path) -> None:
    run = training_run(tmp_path / "run")
    trainer = VideoTrainer(run, CPU)
    card = trainer.fit(Job())
    assert json.loads((run.folder / CARD_FILE).read_text())["steps_done"] == 4
    assert card["licence"] == "Apache-2.0" and card["validation"]["loss"] > 0 and card["data"] == {"source": "test"}
    assert "license: apache-2.0" in (run.folder / "README.md").read_text()
    rows = [json.loads(line) for line in (run.folder / LOG_FILE).read_text().splitlines()]
    assert [r["step"] for r in rows if "loss" in r] == [1, 2, 3, 4]
    assert [r["step"] for r in rows if "validation.loss" in r] == [2, 4]
    import cv2

    sheet = cv2.imread(str(run.folder / "samples" / "000004.png"))
    assert sheet.shape == (2 * 2 * SIDE, FRAMES * SIDE, 3)
    loaded = load_small(run.folder)
    saved = dict(loaded.model.named_parameters())
    assert all(torch.equal(saved[name], value) for name, value in trainer.average.state.items())
    assert not same(dict(trainer.model.state_dict()), loaded.model.state_dict())  # the average, not the last weights
    assert (
        loaded.schedule == run.prepared.schedule and loaded.frozen.encode(torch.zeros(1, 3, 3, 16, 16)).shape[1] == 48
    )


@pytest.mark.parametrize("stop", [2, 3])
def test_resumed_run_equals_an_uninterrupted_one(tmp_path: Path, stop: int) -> None:
    config = replace(CONFIG, image_attention_steps=2, parts=("all",), reuse=2, window=4, checkpoint_every=1)
    VideoTrainer(training_run(tmp_path / "whole", config), CPU).fit(Job())
    token = CancelToken()
    run = training_run(tmp_path / "cut", config, on_log=lambda row: token.cancel() if row["step"] == stop else None)
    with pytest.raises(CancelledError):
        VideoTrainer(run, CPU).fit(Job(token=token))
    again = VideoTrainer(training_run(tmp_path / "cut", config), CPU, resume=True)
    assert again.step == stop
    again.fit(Job())
    assert same(weights_of(tmp_path / "whole"), weights_of(tmp_path / "cut"))


def test_validation_is_the_same_every_time_and_leaves_the_weights(tmp_path: Path) -> None:
    trainer = VideoTrainer(training_run(tmp_path / "run"), CPU)
    before = {n: p.clone() for n, p in trainer.model.state_dict().items()}
    first, second = trainer.validate(), trainer.validate()
    assert first == second and same(before, dict(trainer.model.state_dict()))
    assert set(first) == {"loss", "loss_500", "middle_loss", "psnr", "psnr_regression", "psnr_blend"}


def test_accumulated_and_checkpointed_steps_are_the_same_steps(tmp_path: Path) -> None:
    """The draws of a part differ from those of a whole batch, so only the sizes of gradients can be compared."""
    plain = training_run(tmp_path / "a", replace(CONFIG, drop=0.0))
    checkpointed = training_run(tmp_path / "b", replace(CONFIG, drop=0.0, gradient_checkpointing=True))
    VideoTrainer(plain, CPU).fit(Job())
    VideoTrainer(checkpointed, CPU).fit(Job())
    one, two = weights_of(tmp_path / "a"), weights_of(tmp_path / "b")
    assert all(torch.allclose(one[n], two[n], atol=1e-5) for n in one)
    card = VideoTrainer(training_run(tmp_path / "c", replace(CONFIG, accumulate=2)), CPU).fit(Job())
    assert card["steps_done"] == 4


def test_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    run = training_run(tmp_path / "run")
    with torch.no_grad():
        run.prepared.model.unet.conv_in.bias.fill_(torch.nan)
    with pytest.raises(ReconstructionError, match="loss is nan at step 0, expected a finite number"):
        VideoTrainer(run, CPU).fit(Job())


def test_runs_that_cannot_be_resumed_or_written_say_so(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="to resume from"):
        VideoTrainer(training_run(tmp_path / "none"), CPU, resume=True)
    VideoTrainer(training_run(tmp_path / "run"), CPU).fit(Job())
    with pytest.raises(InvalidInputError, match="batch was 2 and is 4"):
        VideoTrainer(training_run(tmp_path / "run", replace(CONFIG, batch=4)), CPU, resume=True)
    full = training_run(tmp_path / "full")
    (full.folder / "samples").write_text("in the way")
    with pytest.raises(StorageError, match=r"picture .* cannot be written"):
        VideoTrainer(full, CPU).fit(Job())

    def no_space(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    blocked = training_run(tmp_path / "blocked")
    blocked.prepared.model.unet.save_pretrained = no_space
    with pytest.raises(StorageError, match=r"model in .*blocked cannot be written: .*No space left"):
        VideoTrainer(blocked, CPU).fit(Job())


def test_settings_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    for change, message in (
        ({"parts": ("everything",)}, "parts is"),
        ({"accumulate": 3, "batch": 8}, "accumulate is 3, expected a divisor of batch"),
        ({"smooth_share": 0.7, "growth_share": 0.5}, "expected a sum of at most 1"),
        ({"structure": "exchanged", "batch": 1}, "expected at least 2 clips"),
    ):
        with pytest.raises(ConfigError, match=message):
            replace(CONFIG, **change)
    without = replace(NETWORK, structure_width=0)
    with pytest.raises(InvalidInputError, match="the model has no structure encoder"):
        VideoTrainer(training_run(tmp_path / "run", prepared=fresh(without, FRAMES, 0)), CPU)


def test_presets_are_the_recipe() -> None:
    recipe = PRESETS["reconx"]
    assert recipe.image_attention_steps == 2_000 and recipe.steps - 2_000 == 30_000 and recipe.drop == 0.05
    assert recipe.parts == ("spatial", "structure", "camera") and recipe.structure == "own"


# From public weights --------------------------------------------------------------------------------------------


def large_clip(number: int, interval: float = 1.0) -> Sequence[Frame]:
    return clip(number, interval, frames=TINY.temporal_length, side=32)


def test_fine_tuning_of_a_pipeline_moves_only_what_the_recipe_names(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    pipeline = tiny_pipeline(replace(TINY, structure_dim=32, camera_channels=8))
    frozen = {
        n: p.clone()
        for part in ("vae", "resampler", "image_encoder")
        for n, p in getattr(pipeline, part).named_parameters()
    }
    config = replace(
        CONFIG, image_attention_steps=1, parts=("spatial", "structure", "camera"), steps=2, validate_every=9,
        validation_levels=(500,), gradient_checkpointing=True,
    )  # fmt: skip
    run = training_run(
        tmp_path / "run", config, prepared=prepared_pipeline(pipeline, "tiny"), save=save_pretrained, train=large_clip,
        validation=large_clip,
    )  # fmt: skip
    before = {n: p.detach().clone() for n, p in run.prepared.model.named_parameters()}
    trainer = VideoTrainer(run, CPU)
    trainer.fit(Job())
    moved = {n for n, p in trainer.model.named_parameters() if not torch.equal(p, before[n])}
    assert moved and moved <= set(names_in(trainer.model, ["spatial", "structure", "camera"]))
    now = {
        n: p for part in ("vae", "resampler", "image_encoder") for n, p in getattr(pipeline, part).named_parameters()
    }
    assert all(torch.equal(frozen[n], now[n]) and now[n].grad is None for n in frozen)
    loaded = load_pretrained(run.folder)
    saved = dict(loaded.model.named_parameters())
    assert all(torch.equal(saved[n], v) for n, v in trainer.average.state.items())


def test_missing_weights_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be read"):
        load_pretrained(tmp_path / "nothing")
    with pytest.raises(StorageError, match=r"cannot be read.*patch_parts.json"):
        load_small(tmp_path)

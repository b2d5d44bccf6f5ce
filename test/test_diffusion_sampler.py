"""Noise schedule, DDIM steps, guidance and training loss: against the public code's tables, diffusers, and algebra."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import parity
import pytest
import torch
from video_models import arrays

from reconx_ros.core import ConfigError, InvalidInputError
from reconx_ros.diffusion.network.sampler import (
    ScheduleConfig,
    ddim_step,
    guided,
    sampler_tables,
    spaced_timesteps,
    velocity,
    x0_and_noise,
)
from reconx_ros.diffusion.network.unet_blocks import sinusoidal_embedding
from reconx_ros.diffusion.training.losses import denoising_loss, dropped_conditions

PUBLIC = ScheduleConfig()


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def largest_difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    assert ours.shape == theirs.shape
    return float((ours.double() - theirs.double()).abs().max())


@pytest.mark.parametrize("path", parity.recorded("video schedule"))
def test_parity_of_the_schedule(path: Path) -> None:
    tables = arrays(path)
    plain = replace(PUBLIC, zero_terminal_snr=False)
    assert largest_difference(PUBLIC.betas(), tables["betas_ztsnr"]) < 1e-12
    assert largest_difference(plain.betas(), tables["betas_plain"]) < 1e-12
    assert largest_difference(PUBLIC.alphas_cumprod(), tables["alphas_cumprod_ztsnr"]) < 1e-12
    assert largest_difference(plain.alphas_cumprod(), tables["alphas_cumprod_plain"]) < 1e-12
    assert largest_difference(PUBLIC.scales(), tables["scale_arr"][:1000]) < 1e-6
    steps = torch.tensor([0, 1, 24, 500, 999])
    assert largest_difference(sinusoidal_embedding(steps, 320), tables["temb_320"]) < 1e-4


@pytest.mark.parametrize("path", parity.recorded("video schedule"))
def test_parity_of_the_sampler_tables(path: Path) -> None:
    stored = arrays(path)
    pattern = re.compile(r"sig_(uniform|uniform_trailing)_(\d+)_eta([01])")
    runs = [found for name in stored if (found := pattern.fullmatch(name))]
    assert runs
    for spacing, steps, eta in (run.groups() for run in runs):
        name, ours = f"{spacing}_{steps}", "trailing" if spacing == "uniform_trailing" else "uniform"
        tables = sampler_tables(replace(PUBLIC, spacing=ours), int(steps), float(eta))
        assert torch.equal(tables.timesteps, stored[f"ts_{name}"]), name
        assert largest_difference(tables.alphas, stored[f"a_{name}"]) == 0, name
        assert largest_difference(tables.alphas_prev, stored[f"aprev_{name}"]) == 0, name
        assert largest_difference(tables.sigmas, stored[f"sig_{name}_eta{eta}"]) < 1e-7, name


@pytest.mark.parametrize("path", parity.recorded("video schedule of a checkpoint"))
def test_parity_of_the_tables_in_checkpoints(path: Path) -> None:
    stored = arrays(path)
    assert largest_difference(PUBLIC.betas(), stored["betas"]) < 1e-6
    assert largest_difference(PUBLIC.alphas_cumprod(), stored["alphas_cumprod"]) < 1e-7


def test_same_run_as_diffusers_where_both_apply() -> None:
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.DDIMScheduler(
        beta_start=PUBLIC.beta_start,
        beta_end=PUBLIC.beta_end,
        beta_schedule="scaled_linear",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        prediction_type="v_prediction",
        set_alpha_to_one=False,
        clip_sample=False,
    )
    config = replace(PUBLIC, base_scale=1.0)
    tables = sampler_tables(config, 50, 0.0)
    theirs.set_timesteps(50)
    assert torch.equal(theirs.timesteps, tables.timesteps.flip(0))
    ours = other = noise(1, 4, 2, 3, 3)
    for place, t in enumerate(theirs.timesteps):
        ours, x0 = ddim_step(config, tables, 49 - place, ours, torch.sin(ours + t / 100))
        result = theirs.step(torch.sin(other + t / 100), t, other, eta=0.0)
        other = result.prev_sample
        assert largest_difference(x0, result.pred_original_sample) < 1e-3
    assert largest_difference(ours, other) < 1e-3


def test_uniform_spacing_reaches_the_noise_for_any_number_of_steps() -> None:
    uniform = replace(PUBLIC, spacing="uniform")
    for steps in (3, 7, 600, 1000):
        chosen = spaced_timesteps(uniform, steps)
        assert chosen[-1] >= 999 - 1000 // steps and chosen[-1] <= 999 and len(chosen.unique()) == len(chosen)


@pytest.mark.parametrize("prediction", ["v", "epsilon"])
def test_a_perfect_prediction_leads_back_to_the_picture(prediction: str) -> None:
    config = ScheduleConfig(prediction=prediction, zero_terminal_snr=prediction == "v", base_scale=1.0)
    tables = sampler_tables(config, 10, 1.0)
    clean, sample = noise(2, 3, seed=1), noise(2, 3, seed=2)
    for index in reversed(range(10)):
        alpha = tables.alphas[index].float()
        eps = (sample - alpha.sqrt() * clean) / (1 - alpha).sqrt()
        output = velocity(clean, eps, alpha) if prediction == "v" else eps
        x0, direction = x0_and_noise(config, sample, output, float(alpha))
        assert torch.allclose(x0, clean, atol=2e-3) and torch.allclose(direction, eps, atol=1e-4)
        sample, _ = ddim_step(config, tables, index, sample, output, noise(2, 3, seed=index))
    last = float(tables.alphas_prev[0])
    assert torch.allclose(sample, last**0.5 * clean, atol=5 * (1 - last) ** 0.5)


def test_guidance_by_picture_and_structure() -> None:
    nothing, image, everything = (noise(2, 4, 3, seed=k) for k in range(3))
    scales: dict[str, Any] = {"image_scale": 5.0, "structure_scale": 2.0, "rescale": 0.0}
    expected = nothing + 5 * (image - nothing) + 2 * (everything - image)
    assert torch.allclose(guided(nothing, image, everything, **scales), expected)
    equal = {**scales, "structure_scale": 5.0}
    assert torch.allclose(
        guided(nothing, image, everything, **equal), guided(nothing, None, everything, **equal), atol=1e-5
    )
    one = {"image_scale": 1.0, "structure_scale": 1.0, "rescale": 0.7}
    assert torch.allclose(guided(nothing, image, everything, **one), everything, atol=1e-5)
    full = guided(nothing, image, everything, **{**scales, "rescale": 1.0})
    assert torch.allclose(full.std(dim=(1, 2)), everything.std(dim=(1, 2)), atol=1e-5)


def test_steps_refuse_bad_values() -> None:
    tables = sampler_tables(PUBLIC, 5, 1.0)
    sample = noise(1, 4)
    with pytest.raises(InvalidInputError, match="prediction of the video network at step 999 has 4 values"):
        ddim_step(PUBLIC, tables, 4, sample, sample * torch.nan, sample)
    with pytest.raises(InvalidInputError, match="noise is missing"):
        ddim_step(PUBLIC, tables, 4, sample, sample)
    for steps, eta in ((0, 0.0), (1001, 0.0), (5, 1.5)):
        with pytest.raises(InvalidInputError, match="expected"):
            sampler_tables(PUBLIC, steps, eta)
    for change in ({"prediction": "x0"}, {"prediction": "epsilon"}, {"base_scale": 0.0}, {"beta_start": 0.5}):
        with pytest.raises(ConfigError):
            replace(PUBLIC, **change)


def test_loss_of_a_perfect_network_is_zero_and_of_a_silent_one_is_the_target() -> None:
    x0, eps, t = noise(2, 4, 3, 2, 2), noise(2, 4, 3, 2, 2, seed=1), torch.tensor([0, 999])
    silent = denoising_loss(PUBLIC, lambda noisy, _: torch.zeros_like(noisy), x0, t, eps)
    assert float(silent.loss) == pytest.approx(float(silent.target.square().mean()))
    assert torch.allclose(silent.noisy[1], eps[1], atol=1e-6)  # nothing is left of the picture at the last step
    assert float(denoising_loss(PUBLIC, lambda *_: silent.target, x0, t, eps).loss) == 0
    with pytest.raises(InvalidInputError, match="timestep is"):
        denoising_loss(PUBLIC, lambda *_: x0, x0, torch.tensor([0, 1000]), eps)


def test_conditions_are_dropped_at_the_rate() -> None:
    image, structure = dropped_conditions(200_000, 0.05, torch.Generator().manual_seed(0))
    both = image & structure
    for share, expected in ((image, 0.1), (structure, 0.1), (both, 0.05)):
        assert float(share.float().mean()) == pytest.approx(expected, abs=0.005)
    with pytest.raises(InvalidInputError, match=r"rate of dropped conditions is 0\.5"):
        dropped_conditions(1, 0.5, torch.Generator())

"""How good a network is on clips that it never saw, with the same noise and timesteps every time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from reconx_ros.core import InvalidInputError
from reconx_ros.diffusion.network.sampler import ScheduleConfig, ddim_step, sampler_tables
from reconx_ros.diffusion.network.unet import UNetConfig
from reconx_ros.diffusion.training.clips import ClipBatch
from reconx_ros.diffusion.training.losses import denoising_loss
from reconx_ros.diffusion.training.model import Conditions, FrozenParts, conditions
from reconx_ros.diffusion.training.step import Network, predictor, step_generator

_STREAM = 2**31  # a step that no run reaches: keeps the numbers apart from those of training

Predict = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """What is measured.

    Attributes:
        levels: timesteps of the loss.
        sample_steps: of the sampler, deterministic, without guidance.
        structure, cameras, known: as TrainingConfig.
    """

    levels: tuple[int, ...]
    sample_steps: int
    structure: str
    cameras: bool
    known: str = "both"


@torch.no_grad()
def sampled(predict: Predict, schedule: ScheduleConfig, noise: torch.Tensor, steps: int) -> torch.Tensor:
    """Clean latents from noise [B, C, T, h, w] by DDIM without noise of its own.

    Raises:
        InvalidInputError: when the network says NaN.
    """
    tables = sampler_tables(schedule, steps, 0.0)
    latents = noise
    for index in reversed(range(steps)):
        timestep = tables.timesteps[index].repeat(len(noise)).to(noise.device)
        latents, clean = ddim_step(schedule, tables, index, latents, predict(latents, timestep))
    return clean / float(tables.scales_prev[0])


def psnr(pictures: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """PSNR [B, T] in dB of pictures [B, T, 3, H, W] in [0, 1], clipped to that range."""
    error = (pictures.clamp(0, 1) - truth).square().mean(dim=(2, 3, 4))
    return -10 * error.clamp_min(1e-10).log10()


@torch.no_grad()
def score(
    network: Network,
    frozen: FrozenParts,
    config: UNetConfig,
    schedule: ScheduleConfig,
    batches: Sequence[ClipBatch],
    protocol: Protocol,
) -> dict[str, float]:
    """Loss and PSNR on clips.

    Returns:
        ``loss`` over all levels and ``loss_T`` at each; ``middle_loss`` without the two known frames; ``psnr`` in dB of
        the middle pictures, mean over pictures; ``psnr_regression``, that of the mean that the network expects, seen
        from pure noise (only where the schedule ends in pure noise); ``psnr_blend``, that of fading from the first
        picture to the last, which needs no network.

    Raises:
        InvalidInputError: when there are no clips or clips have no middle pictures, or the network says NaN.
    """
    if not batches or batches[0].frames < 3:
        raise InvalidInputError("validation needs clips of at least 3 pictures, expected at least one such clip")
    rows: dict[str, list[float]] = {}
    for number, batch in enumerate(batches):
        given = _given(batch, frozen, config, protocol)
        predict = predictor(network, given)
        for name, value in _losses(predict, given, schedule, protocol.levels, number).items():
            rows.setdefault(name, []).append(value)
        for name, value in _pictures(predict, given, frozen, schedule, batch, protocol, number).items():
            rows.setdefault(name, []).append(value)
    found = {name: float(np.mean(values)) for name, values in rows.items()}
    return {"loss": float(np.mean([found[f"loss_{level}"] for level in protocol.levels])), **found}


def _given(batch: ClipBatch, frozen: FrozenParts, config: UNetConfig, protocol: Protocol) -> Conditions:
    return conditions(
        batch, frozen, config, structure=protocol.structure, cameras=protocol.cameras, known=protocol.known
    )


def _losses(
    predict: Predict, given: Conditions, schedule: ScheduleConfig, levels: Sequence[int], number: int
) -> dict[str, float]:
    found, middle = {}, []
    for level in levels:
        noise = _noise(given, number, level)
        timestep = torch.full((len(given.x0),), level, device=given.x0.device)
        said: list[torch.Tensor] = []

        def remembered(noisy: torch.Tensor, at: torch.Tensor, said: list[torch.Tensor] = said) -> torch.Tensor:
            said.append(predict(noisy, at))
            return said[-1]

        result = denoising_loss(schedule, remembered, given.x0, timestep, noise)
        found[f"loss_{level}"] = float(result.loss)
        middle.append(float((said[0] - result.target)[:, :, 1:-1].square().mean()))
    return {**found, "middle_loss": float(np.mean(middle))}


def _pictures(
    predict: Predict,
    given: Conditions,
    frozen: FrozenParts,
    schedule: ScheduleConfig,
    batch: ClipBatch,
    protocol: Protocol,
    number: int,
) -> dict[str, float]:
    truth, noise = (batch.pixels() + 1) / 2, _noise(given, number, schedule.train_steps)
    found = {"psnr": _middle_psnr(frozen, sampled(predict, schedule, noise, protocol.sample_steps), truth)}
    if schedule.zero_terminal_snr:
        found["psnr_regression"] = _middle_psnr(frozen, sampled(predict, schedule, noise, 1), truth)
    share = torch.linspace(0, 1, batch.frames, device=truth.device)[None, :, None, None, None]
    found["psnr_blend"] = float(psnr((1 - share) * truth[:, :1] + share * truth[:, -1:], truth)[:, 1:-1].mean())
    return found


def _middle_psnr(frozen: FrozenParts, latents: torch.Tensor, truth: torch.Tensor) -> float:
    return float(psnr((frozen.decode(latents) + 1) / 2, truth)[:, 1:-1].mean())


def _noise(given: Conditions, number: int, stream: int) -> torch.Tensor:
    generator = step_generator(_STREAM, number, 0, stream)
    return torch.randn(given.x0.shape, generator=generator).to(given.x0)


@torch.no_grad()
def contact_sheet(
    network: Network,
    frozen: FrozenParts,
    config: UNetConfig,
    schedule: ScheduleConfig,
    batch: ClipBatch,
    protocol: Protocol,
) -> np.ndarray:
    """Two rows per clip, true pictures above generated ones, left to right in time; [2 B H, T W, 3] uint8.

    The known pictures of the lower row are the given ones.
    """
    given = _given(batch, frozen, config, protocol)
    clean = sampled(predictor(network, given), schedule, _noise(given, 0, schedule.train_steps), protocol.sample_steps)
    made = ((frozen.decode(clean) + 1) * 127.5).clamp(0, 255).round().to(torch.uint8)
    for place in (0, -1) if protocol.known == "both" else (0,):
        made[:, place] = batch.images[:, place]
    rows = torch.stack([batch.images, made], dim=1)  # [B, 2, T, 3, H, W]
    b, _, t, _, h, w = rows.shape
    sheet = rows.permute(0, 1, 4, 2, 5, 3).reshape(b * 2 * h, t * w, 3)
    return np.ascontiguousarray(sheet.cpu().numpy())

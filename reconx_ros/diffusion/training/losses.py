"""The training objective of the video network (ReconX, arXiv:2408.16767, eq. 5)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from reconx_ros.core import InvalidInputError
from reconx_ros.diffusion.network.sampler import ScheduleConfig, velocity

Predictor = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True, kw_only=True, eq=False)
class DenoisingLoss:
    """What one evaluation of the objective made.

    Attributes:
        loss: mean squared error, a scalar with gradient.
        scaled: x0 after the dynamic rescale.
        noisy: what the network saw.
        target: what it should have said.
    """

    loss: torch.Tensor
    scaled: torch.Tensor
    noisy: torch.Tensor
    target: torch.Tensor


def denoising_loss(
    config: ScheduleConfig, predict: Predictor, x0: torch.Tensor, timestep: torch.Tensor, noise: torch.Tensor
) -> DenoisingLoss:
    """E || target - predict(x_t, t) ||^2, the target being noise or velocity as the schedule says.

    Args:
        config: of the schedule.
        predict: (noisy latents [B, C, T, H, W], timestep [B]) to the prediction; conditions are bound to it.
        x0: [B, C, T, H, W] clean latents.
        timestep: [B] int64.
        noise: standard normal, in the shape of x0.

    Raises:
        InvalidInputError: for a timestep outside the schedule.
    """
    if bool((timestep < 0).any()) or bool((timestep >= config.train_steps).any()):
        raise InvalidInputError(f"timestep is {timestep.tolist()}, expected 0 to {config.train_steps - 1}")
    place = (slice(None),) + (None,) * (x0.ndim - 1)
    at = timestep.cpu()
    alpha = config.alphas_cumprod()[at].to(x0)[place]
    scaled = x0 * config.scales()[at].to(x0)[place]
    noisy = alpha.sqrt() * scaled + (1 - alpha).sqrt() * noise
    target = velocity(scaled, noise, alpha) if config.prediction == "v" else noise
    loss = (predict(noisy, timestep) - target).square().mean()
    return DenoisingLoss(loss=loss, scaled=scaled, noisy=noisy, target=target)


def dropped_conditions(batch: int, rate: float, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Which sequences train without image and without structure tokens, so that guidance has something to subtract.

    Image alone, structure alone and both are each dropped with probability ``rate`` (0.05 as for the backbone).

    Returns:
        (without image [B] bool, without structure [B] bool), on the generator's device.

    Raises:
        InvalidInputError: for a rate outside [0, 1/3].
    """
    if not 0 <= rate <= 1 / 3:
        raise InvalidInputError(f"rate of dropped conditions is {rate}, expected 0 to 1/3")
    draw = torch.rand(batch, generator=generator, device=generator.device)
    both = (draw >= 2 * rate) & (draw < 3 * rate)
    return (draw < rate) | both, ((draw >= rate) & (draw < 2 * rate)) | both

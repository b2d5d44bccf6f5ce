"""The objective on a batch of clips: timesteps, noise and dropped conditions drawn from a step's own numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from reconx_ros.diffusion.network.sampler import ScheduleConfig
from reconx_ros.diffusion.training.losses import DenoisingLoss, denoising_loss, dropped_conditions
from reconx_ros.diffusion.training.model import Conditions

Network = Callable[..., torch.Tensor]


def step_generator(seed: int, step: int, process: int, part: int) -> torch.Generator:
    """Source of a step's random numbers; on the CPU, so that they are the same on every device."""
    state = np.random.SeedSequence([seed, step, process, part]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0] >> np.uint64(1)))


def training_loss(
    network: Network,
    given: Conditions,
    schedule: ScheduleConfig,
    generator: torch.Generator,
    *,
    drop: float,
    late: float = 1.0,
) -> DenoisingLoss:
    """Eq. 5 on a batch.

    Args:
        network: a VideoModel, possibly wrapped.
        given: the batch.
        schedule: of the noise.
        generator: on the CPU.
        drop: rate of dropped conditions.
        late: share u of the schedule is drawn as 1 - (1 - u)^late.
    """
    count = len(given.x0)
    share = 1 - (1 - torch.rand(count, generator=generator)) ** late
    timestep = (share * schedule.train_steps).long().clamp(max=schedule.train_steps - 1)
    noise = torch.randn(given.x0.shape, generator=generator).to(given.x0)
    no_image, no_structure = (drops.to(given.x0.device) for drops in dropped_conditions(count, drop, generator))
    predict = predictor(network, given, no_image, no_structure)
    return denoising_loss(schedule, predict, given.x0, timestep.to(given.x0.device), noise)


def predictor(
    network: Network,
    given: Conditions,
    no_image: torch.Tensor | None = None,
    no_structure: torch.Tensor | None = None,
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """The network with its conditions bound; [B] masks say for which clips they are dropped."""
    image = given.image
    if no_image is not None:
        image = torch.where(no_image.reshape(-1, *(1,) * (image.ndim - 1)), given.no_image, image)
    told: dict[str, Any] = {"text": given.text, "image": image, "fps": given.fps, **given.cameras}
    shows_points = None if no_structure is None else ~no_structure

    def predict(noisy: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        sample = torch.cat([noisy, given.known], dim=1)
        return network(sample, timestep, given.points, given.point_mask, shows_points, **told).float()

    return predict

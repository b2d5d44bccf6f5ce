"""Learning rate and initial weights."""

from __future__ import annotations

import math

import torch
from torch import nn

from reconx_ros.learning.schedule import warmup_cosine
from reconx_ros.pointmap.training.config import PointmapTrainingConfig


def learning_rate(step: int, config: PointmapTrainingConfig) -> float:
    """Rate at a step from 0; see ``warmup_cosine``."""
    return warmup_cosine(
        step, steps=config.steps, warmup=config.warmup_steps, peak=config.learning_rate, final=config.final_rate
    )


@torch.no_grad()
def initialise(network: nn.Module, seed: int) -> None:
    """Initial weights of a seed: Xavier-uniform matrices, zero biases, heads that start near one unit of distance."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in network.named_parameters():
        if parameter.ndim >= 2:
            fan_out, fan_in = parameter.shape[0], math.prod(parameter.shape[1:])
            bound = math.sqrt(6 / (fan_in + fan_out))
            if name.startswith("downstream_head"):
                bound *= 0.1
            parameter.copy_((torch.rand(parameter.shape, generator=generator) * 2 - 1) * bound)
        elif name.endswith("bias"):
            parameter.zero_()
        else:
            parameter.fill_(1.0)

"""Learning rate, parameter groups and averaged weights."""

from __future__ import annotations

import math

import torch
from torch import nn

from reconx_ros.pointmap.training.config import TrainingConfig


def learning_rate(step: int, config: TrainingConfig) -> float:
    """Rate at a step from 0: a linear rise over the warm-up, then half a cosine down to the final rate."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    share = 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
    return config.final_rate + (config.learning_rate - config.final_rate) * share


def parameter_groups(network: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Matrices with weight decay; biases and norms without."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]


class AveragedWeights:
    """Exponential moving average of a network's parameters.

    The share of the old grows with the number of steps up to ``decay``, so that the initial weights are soon forgotten.

    Attributes:
        state: name to averaged tensor.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.state = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Take in the parameters after a step, counted from 0."""
        keep = min(self.decay, (1 + step) / (10 + step))
        for name, tensor in network.state_dict().items():
            self.state[name].lerp_(tensor, 1 - keep)


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

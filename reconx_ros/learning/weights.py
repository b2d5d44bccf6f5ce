"""Groups of parameters for the optimiser, and averaged weights."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import nn


def parameter_groups(network: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Trainable matrices with weight decay; biases and norms without. What needs no gradient is left out."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]


class AveragedWeights:
    """Exponential moving average of a network's parameters.

    The share of the old grows with the number of steps up to ``decay``, so that the initial weights are soon forgotten.

    Args:
        network: whose parameters.
        decay: largest share of the old.
        names: which tensors; None takes all.

    Attributes:
        state: name to averaged tensor.
    """

    def __init__(self, network: nn.Module, decay: float, names: Collection[str] | None = None) -> None:
        self.decay = decay
        present = network.state_dict()
        self.state = {name: present[name].detach().clone() for name in present if names is None or name in names}

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Take in the parameters after a step, counted from 0."""
        keep = min(self.decay, (1 + step) / (10 + step))
        present = network.state_dict()
        for name, averaged in self.state.items():
            averaged.lerp_(present[name], 1 - keep)

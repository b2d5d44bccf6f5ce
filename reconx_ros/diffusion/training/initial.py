"""Initial weights of a structure branch that learns from scratch."""

from __future__ import annotations

import torch
from torch import nn

_EMBEDDING_GAIN = 1.5


@torch.no_grad()
def wake_structure(unet: nn.Module, encoder: nn.Module, gate: float, focus: float) -> None:
    """Let the structure condition matter from the first step on.

    With torch's initial weights all tokens of all scenes are nearly one and the same vector (most of it biases), all of
    them get the same attention, and the gate at zero keeps gradients from what lies behind it: a short run never finds
    out that the tokens say anything. That is as it should be beside a trained backbone, and wrong from scratch. Here
    the encoder gets Xavier matrices and no biases, the gate opens, and keys are large enough that a cell prefers some
    tokens to others. Random numbers come from torch's own generator.

    Args:
        unet: the network; its gates and structure keys are changed.
        encoder: the structure encoder.
        gate: alpha of every gate.
        focus: factor of the structure keys.
    """
    for name, parameter in encoder.named_parameters():
        if name.endswith("bias"):
            parameter.zero_()
        elif parameter.ndim == 2:
            nn.init.xavier_uniform_(parameter, gain=_EMBEDDING_GAIN if name.startswith("embed.") else 1.0)
    for name, parameter in unet.named_parameters():
        if name.endswith(".structure_gate"):
            parameter.fill_(gate)
        elif name.endswith(".to_k_structure.weight"):
            parameter.mul_(focus)

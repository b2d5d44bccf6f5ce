"""Which parameters learn, and when (ReconX, sec. 5.1): first the image attention, then spatial layers and structure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from reconx_ros.core import ConfigError

PARTS: dict[str, str] = {
    "all": r".*",
    "image_attention": r".*\.spatial\..*\.attn2\.to_[kv]_image\..*",
    "spatial": r".*\.spatial\..*",
    "structure": r"structure_encoder\..*|.*\.(to_[kv]_structure\..*|structure_gate)",
    "camera": r".*camera_encoder\..*|.*\.epipolar\..*",
}


@dataclass(frozen=True, kw_only=True)
class Phase:
    """Steps in which the same parts learn.

    Attributes:
        start, stop: first step, and the one after the last.
        parts: names out of PARTS.
    """

    start: int
    stop: int
    parts: tuple[str, ...]


def phases(steps: int, image_attention_steps: int, parts: tuple[str, ...]) -> tuple[Phase, ...]:
    """The phases of a run: the image attention alone, then ``parts``.

    Raises:
        ConfigError: when the first phase is as long as the run.
    """
    if image_attention_steps >= steps:
        raise ConfigError(f"image_attention_steps is {image_attention_steps}, expected less than the {steps} steps")
    main = Phase(start=image_attention_steps, stop=steps, parts=parts)
    if not image_attention_steps:
        return (main,)
    return (Phase(start=0, stop=image_attention_steps, parts=("image_attention",)), main)


def names_in(network: nn.Module, parts: Iterable[str]) -> list[str]:
    """Names of the parameters of some parts, in the network's order."""
    patterns = [re.compile(PARTS[part]) for part in parts]
    return [name for name, _ in network.named_parameters() if any(p.fullmatch(name) for p in patterns)]


def select(network: nn.Module, phase: Phase) -> list[str]:
    """Let the parameters of a phase learn and freeze all others; returns the names of those that learn.

    Raises:
        ConfigError: when the network has none of them.
    """
    chosen = set(names_in(network, phase.parts))
    if not chosen:
        raise ConfigError(f"parts are {', '.join(phase.parts)}, but the network has no such parameters")
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name in chosen)
        if name not in chosen:
            parameter.grad = None
    return [name for name, _ in network.named_parameters() if name in chosen]

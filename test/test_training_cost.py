"""What a training step is said to take, held against what it takes."""

from __future__ import annotations

import dataclasses
import functools

import pytest
import torch

from reconx_ros.core import ConfigError
from reconx_ros.diffusion.network.cost import unet_cost
from reconx_ros.diffusion.network.unet import UNetConfig
from reconx_ros.diffusion.training.cost import TrainingCost, unet_training_cost

TINY = UNetConfig(
    model_channels=32, head_dim=16, context_dim=64, channel_mult=(1, 2), attention_levels=(0, 1), num_res_blocks=1
)
STRUCTURED = dataclasses.replace(TINY, structure_dim=24)


@functools.cache
def cost(config: UNetConfig = TINY, frames: int = 4, **settings: object) -> TrainingCost:
    return unet_training_cost(config, frames, 16, 16, **settings)  # type: ignore[arg-type]


def test_counts_without_values_are_those_with_values() -> None:
    assert cost() == cost(device="cpu")
    assert cost(gradient_checkpointing=True) == cost(gradient_checkpointing=True, device="cpu")


def test_backward_takes_about_twice_the_forward_pass() -> None:
    forward, step = unet_cost(TINY, 4, 16, 16), cost()
    assert 2.9 < step.flops / forward.flops < 3.2
    assert step.activation_bytes > 4 * forward.activation_bytes


def test_checkpointing_trades_one_more_forward_pass_for_memory() -> None:
    forward, kept, recomputed = unet_cost(TINY, 4, 16, 16), cost(), cost(gradient_checkpointing=True)
    assert 0.8 < (recomputed.flops - kept.flops) / forward.flops <= 1.0
    assert recomputed.activation_bytes < 0.5 * kept.activation_bytes


def test_activations_grow_with_the_clip_and_shrink_with_precision() -> None:
    short, long = cost(frames=4), cost(frames=8)
    assert 1.8 < long.activation_bytes / short.activation_bytes < 2.1
    half = cost(dtype=torch.bfloat16)
    assert half.activation_bytes < 0.6 * short.activation_bytes
    assert half.weight_bytes == 1.5 * short.weight_bytes and half.state_bytes == short.state_bytes


def test_only_what_learns_has_gradients_and_moments() -> None:
    whole, some = (cost(STRUCTURED, parts=parts, structure_tokens=8) for parts in (("all",), ("structure",)))
    assert whole.learning == whole.weights and some.learning < 0.1 * some.weights
    assert some.state_bytes == 16 * some.learning
    assert some.flops < whole.flops and some.peak_bytes < whole.peak_bytes
    with pytest.raises(ConfigError, match="no such parameters"):
        cost(TINY, parts=("structure",))


def test_backward_of_attention_is_five_products_after_two() -> None:
    """Twice the tokens of the structure: what is added is its attention and its keys, forwards and backwards."""
    tokens = [cost(STRUCTURED, structure_tokens=n).flops for n in (64, 128)]
    forward = [unet_cost(STRUCTURED, 4, 16, 16, structure_tokens=n).flops for n in (64, 128)]
    ratio = (tokens[1] - tokens[0]) / (forward[1] - forward[0])
    assert 3.0 < ratio < 3.5

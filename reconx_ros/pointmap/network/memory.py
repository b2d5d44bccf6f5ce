"""How much memory inference takes, before it starts, and how much of it is done at a time.

Counted are float32 activations that are alive together. Half precision takes less; what convolutions need besides is
covered by ``_WORKSPACE``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from reconx_ros.core import InvalidInputError
from reconx_ros.core.memory import free_bytes
from reconx_ros.pointmap.network.architecture import NetworkConfig

Size = tuple[int, int]  # (height, width) in pixels

_FLOAT = 4
_MIB = 2**20
_WORKSPACE = 1.25
_OUTPUTS = 4  # x, y, z, confidence
_ATTENTION_TOKENS = 11  # copies of the tokens alive inside a block: residual, norm, q k v, turned q k, their parts
_ROTARY = 4  # tables of one head's size: positions, angles, cosines, sines
_DPT_CHANNELS = (
    4 * 128
)  # full-resolution channels at the end of a dense-prediction head, its convolution's copy included
_LINEAR_CHANNELS = 3 * _OUTPUTS
AUTO_SHARE = 0.5  # of the free memory, when no budget is given
_UNKNOWN_BUDGET = 2**31  # where the system does not say what is free
_MOST_AT_A_TIME = 16  # larger batches are no faster


@dataclass(frozen=True, kw_only=True)
class PairMemoryPlan:
    """How inference is split.

    Attributes:
        images_at_a_time, pairs_at_a_time: batch sizes.
        peak_bytes: estimate of the highest use, weights included.
        budget_bytes: what it was made for.
    """

    images_at_a_time: int
    pairs_at_a_time: int
    peak_bytes: int
    budget_bytes: int


def feature_bytes(config: NetworkConfig, size: Size) -> int:
    """One encoded image."""
    return _FLOAT * config.enc_embed_dim * _tokens(config, size)


def encode_bytes(config: NetworkConfig, size: Size) -> int:
    """Activations of encoding one image."""
    copies = max(_ATTENTION_TOKENS, 3 + 2 * config.mlp_ratio)
    turns = _ROTARY * config.enc_embed_dim // config.enc_num_heads * _tokens(config, size)
    return _FLOAT * (3 * size[0] * size[1] + turns) + copies * feature_bytes(config, size)


def decode_bytes(config: NetworkConfig, size1: Size, size2: Size) -> int:
    """Activations of decoding one pair, its results included."""
    tokens1, tokens2 = _tokens(config, size1), _tokens(config, size2)
    larger, both = max(tokens1, tokens2), tokens1 + tokens2
    held = 2 + len(config.hooks)  # the tokens of two layers and the levels that the heads read
    level_dim = max(config.dec_embed_dim, config.enc_embed_dim if 0 in config.hooks else 0)
    inside = max(_ATTENTION_TOKENS, 3 + 2 * config.mlp_ratio) * config.dec_embed_dim * larger
    turns = _ROTARY * config.dec_embed_dim // config.dec_num_heads * both
    blocks = turns + inside + both * (held * level_dim + config.enc_embed_dim)
    pixels1, pixels2 = size1[0] * size1[1], size2[0] * size2[1]
    channels = _DPT_CHANNELS if config.head_type == "dpt" else _LINEAR_CHANNELS
    heads = both * held * level_dim + 2 * _OUTPUTS * (pixels1 + pixels2) + channels * max(pixels1, pixels2)
    return _FLOAT * max(blocks, heads)


def result_bytes(size1: Size, size2: Size) -> int:
    """Points and confidences of one pair."""
    return _FLOAT * _OUTPUTS * (size1[0] * size1[1] + size2[0] * size2[1])


def plan_memory(
    config: NetworkConfig,
    weights_bytes: int,
    sizes: Sequence[Size],
    pairs: Sequence[tuple[int, int]],
    budget_bytes: int,
    *,
    results_on_device: bool = True,
) -> PairMemoryPlan:
    """Split inference so that it stays within a budget.

    Args:
        config: of the network.
        weights_bytes: memory of its parameters.
        sizes: of the images.
        pairs: of image indices.
        budget_bytes: what may be used, weights included.
        results_on_device: whether the results of all pairs count (they do on the CPU, not beside a GPU).

    Raises:
        InvalidInputError: when not even one pair at a time fits; the message says what would.
    """
    results = sum(result_bytes(sizes[i], sizes[j]) for i, j in pairs) if results_on_device else 0
    fixed = weights_bytes + results + sum(feature_bytes(config, size) for size in sizes)
    per_image = int(_WORKSPACE * max(encode_bytes(config, size) for size in sizes))
    per_pair = int(_WORKSPACE * max(decode_bytes(config, sizes[i], sizes[j]) for i, j in pairs))
    needed = fixed + max(per_image, per_pair)
    if needed > budget_bytes:
        height, width = max(sizes, key=lambda size: size[0] * size[1])
        raise InvalidInputError(
            f"network needs {needed / _MIB:.0f} MiB for {len(sizes)} images of up to {width}x{height} px and "
            f"{len(pairs)} pairs, one pair at a time, and may use {budget_bytes / _MIB:.0f} MiB, expected a larger "
            "pointmap.max_memory_gb, fewer keyframes or pairs, or a smaller pointmap.network_size"
        )
    spare = budget_bytes - fixed
    at_a_time = [max(1, min(_MOST_AT_A_TIME, spare // each)) for each in (per_image, per_pair)]
    at_a_time = [min(at_a_time[0], len(sizes)), min(at_a_time[1], len(pairs))]
    return PairMemoryPlan(
        images_at_a_time=at_a_time[0],
        pairs_at_a_time=at_a_time[1],
        peak_bytes=fixed + max(at_a_time[0] * per_image, at_a_time[1] * per_pair),
        budget_bytes=budget_bytes,
    )


def free_memory_budget(device: torch.device) -> int:
    """Half of the memory in bytes that is free on a device now."""
    free = free_bytes(device)
    return _UNKNOWN_BUDGET if free is None else int(AUTO_SHARE * free)


def _tokens(config: NetworkConfig, size: Size) -> int:
    return (size[0] // config.patch_size) * (size[1] // config.patch_size)

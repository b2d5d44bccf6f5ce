"""What a step of training would take: memory and floating-point operations, counted without computing it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from reconx_ros.diffusion.network.attention import CrossAttention, EpipolarAttention, SelfAttention
from reconx_ros.diffusion.network.cost import FusedAttention, LiveBytes, evaluate_unet
from reconx_ros.diffusion.network.unet import UNetConfig, VideoUNet
from reconx_ros.diffusion.training.parts import Phase, select

_FP32_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class TrainingCost:
    """Of one step with one clip.

    Attributes:
        weights: number of parameters.
        learning: how many of them learn.
        weight_bytes: the fp32 weights, and their copies in the precision of the computation where that is another.
        state_bytes: gradients, both moments of Adam and the averaged weights, fp32, of what learns.
        activation_bytes: highest sum of all other tensors alive at one time, in the precision of the computation.
        flops: multiplications and additions of the pass forwards and backwards.
    """

    weights: int
    learning: int
    weight_bytes: int
    state_bytes: int
    activation_bytes: int
    flops: int

    @property
    def peak_bytes(self) -> int:
        """All of it; a little too much, for gradients fill up while activations go."""
        return self.weight_bytes + self.state_bytes + self.activation_bytes


def _inside(mode: FusedAttention, forward: Callable[..., Any]) -> Callable[..., Any]:
    def wrapped(*args: Any) -> Any:
        with mode:
            return forward(*args)

    return wrapped


def _count_attention(network: torch.nn.Module, mode: FusedAttention) -> None:
    """Put every attention inside the mode: autograd evaluates checkpointed blocks again without modes around it."""
    for module in network.modules():
        if isinstance(module, (SelfAttention, CrossAttention, EpipolarAttention)):
            module.forward = _inside(mode, module.forward)  # type: ignore[method-assign]


def _forget_gradients(network: torch.nn.Module) -> None:
    """Let go of every parameter's gradient as soon as it is there; they are counted on their own."""

    def forget(parameter: torch.Tensor) -> None:
        parameter.grad = None

    for parameter in network.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(forget)


def unet_training_cost(
    config: UNetConfig,
    frames: int,
    height: int,
    width: int,
    *,
    parts: tuple[str, ...] = ("all",),
    dtype: torch.dtype = torch.float32,
    gradient_checkpointing: bool = False,
    structure_tokens: int = 0,
    device: str = "meta",
) -> TrainingCost:
    """Cost of a step of the video network with one clip; autoencoder and encoders, which do not learn, are left out.

    Args:
        config: of the network.
        frames: T.
        height, width: of the latents.
        parts: what learns; see ``parts.PARTS``.
        dtype: of the computation; weights and optimiser stay fp32.
        gradient_checkpointing: compute activations twice instead of keeping them.
        structure_tokens: L; 0 leaves the branch out.
        device: "meta" computes nothing; another one does, with the same counts.

    Raises:
        ConfigError: when the network has none of the parts.
    """

    def run(network: torch.nn.Module) -> None:
        evaluate_unet(network, frames, height, width, dtype, structure_tokens).sum().backward()

    def build() -> VideoUNet:
        network = VideoUNet(config).to(dtype).train()
        network.gradient_checkpointing = gradient_checkpointing
        select(network, Phase(start=0, stop=1, parts=parts))
        return network

    return _measure(build, run, torch.device(device), copies=0 if dtype is torch.float32 else dtype.itemsize)


def _measure(
    build: Callable[[], torch.nn.Module], run: Callable[[torch.nn.Module], None], device: torch.device, copies: int
) -> TrainingCost:
    """Runs twice, since what counts operations holds on to tensors."""
    with device:
        network, attention = build(), FusedAttention()
        _forget_gradients(network)
        _count_attention(network, attention)
        parameters = list(network.parameters())
        with LiveBytes(parameters) as live:
            run(network)
        attention.flops = 0
        with FlopCounterMode(display=False) as counted:
            run(network)
    weights = sum(p.numel() for p in parameters)
    learning = sum(p.numel() for p in parameters if p.requires_grad)
    return TrainingCost(
        weights=weights,
        learning=learning,
        weight_bytes=weights * (_FP32_BYTES + copies),
        state_bytes=4 * _FP32_BYTES * learning,
        activation_bytes=live.peak,
        flops=int(counted.get_total_flops()) + attention.flops,
    )

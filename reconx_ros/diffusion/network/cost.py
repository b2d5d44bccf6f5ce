"""Memory and floating-point operations of a run of a network, estimated before it starts, and whether it fits."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from reconx_ros.core import InvalidInputError, ReconstructionError
from reconx_ros.core.memory import GIGABYTE
from reconx_ros.diffusion.network.unet import UNetConfig, VideoUNet

_TEXT_TOKENS, _IMAGE_TOKENS = 77, 16
_BACKWARD_PRODUCTS = 2.5  # scores again, and gradients of scores, values, queries, keys: 5 matrix products after 2
_MARGIN = 1.2  # workspaces of convolutions and fragmentation


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of one evaluation of a network.

    Attributes:
        weights: number of parameters.
        weight_bytes: their size.
        activation_bytes: highest sum of all other tensors alive at one time; attention is counted without its matrix of
            scores, as fused kernels run it.
        flops: multiplications and additions of matrix products, convolutions and attention.
    """

    weights: int
    weight_bytes: int
    activation_bytes: int
    flops: int


class LiveBytes(TorchDispatchMode):
    """Sums up the storages that operations make, as long as they live; not those of the weights, nor views of them."""

    def __init__(self, weights: list[torch.nn.Parameter]) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen: dict[int, Any] = {}
        self._weights = [p.untyped_storage() for p in weights]
        self._seen.update((id(storage), None) for storage in self._weights)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self.add(leaf)
        return out

    def add(self, tensor: torch.Tensor) -> None:
        """Count a tensor's storage once."""
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes()
        if key in self._seen:
            return
        self._seen[key] = weakref.ref(storage, lambda _: self._drop(key, size))
        self.now += size
        self.peak = max(self.peak, self.now)

    def _drop(self, key: int, size: int) -> None:
        self._seen.pop(key, None)
        self.now -= size


class _Attention(torch.autograd.Function):
    """Shapes of a fused kernel's attention: it keeps its inputs and its result, and computes scores again."""

    @staticmethod
    def forward(ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, count: Any) -> torch.Tensor:
        out = q.new_empty((*q.shape[:-1], v.shape[-1]))
        ctx.save_for_backward(q, k, v, out)
        ctx.count, ctx.flops = count, 2 * q.shape[:-1].numel() * k.shape[-2] * (q.shape[-1] + v.shape[-1])
        count(ctx.flops)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
        q, k, v, _ = ctx.saved_tensors
        ctx.count(int(_BACKWARD_PRODUCTS * ctx.flops))
        return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v), None


class FusedAttention(TorchFunctionMode):
    """Attention without a matrix of scores, as kernels for real tensors run it; adds up what they would compute."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def count(self, flops: int) -> None:
        """Add operations."""
        self.flops += flops

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not torch.nn.functional.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        return _Attention.apply(*args[:3], self.count)


def measure(build: Callable[[], torch.nn.Module], run: Callable[[torch.nn.Module], Any], dtype: torch.dtype) -> Cost:
    """Cost of ``run(build())`` on tensors that have shapes but no values.

    Args:
        build: makes the network; called where tensors take no memory.
        run: evaluates it on inputs that it makes.
        dtype: of the weights.
    """
    counted, attention = FlopCounterMode(display=False), FusedAttention()
    with torch.no_grad(), torch.device("meta"):
        network = build().to(dtype).eval()
        parameters = list(network.parameters())
        live = LiveBytes(parameters)
        with counted, live, attention:
            run(network)
    return Cost(
        weights=sum(p.numel() for p in parameters),
        weight_bytes=sum(p.numel() * p.element_size() for p in parameters),
        activation_bytes=live.peak,
        flops=int(counted.get_total_flops()) + attention.flops,
    )


def evaluate_unet(
    network: torch.nn.Module, frames: int, height: int, width: int, dtype: torch.dtype, structure_tokens: int
) -> torch.Tensor:
    """Evaluate a VideoUNet once on inputs of the right shapes, on the default device; see ``unet_cost``."""
    config = cast("VideoUNet", network).unet_config
    tokens = torch.empty(1, structure_tokens, config.structure_dim, dtype=dtype) if structure_tokens else None
    if tokens is not None and torch.is_grad_enabled():
        tokens.requires_grad_()
    return network(
        torch.empty(1, config.in_channels, frames, height, width, dtype=dtype),
        torch.zeros(1, dtype=torch.int64),
        text=torch.empty(1, _TEXT_TOKENS, config.context_dim, dtype=dtype),
        image=torch.empty(1, frames, _IMAGE_TOKENS, config.context_dim, dtype=dtype),
        structure=tokens,
    )


@functools.lru_cache(maxsize=64)
def unet_cost(
    config: UNetConfig,
    frames: int,
    height: int,
    width: int,
    dtype: torch.dtype = torch.float32,
    structure_tokens: int = 0,
) -> Cost:
    """Cost of one evaluation of the video network for one sequence, without gradients.

    Args:
        config: of the network.
        frames: T.
        height, width: of the latents.
        dtype: of weights and activations.
        structure_tokens: L; 0 leaves the branch out.
    """

    def run(network: torch.nn.Module) -> torch.Tensor:
        return evaluate_unet(network, frames, height, width, dtype, structure_tokens)

    return measure(lambda: VideoUNet(config), run, dtype)


@dataclass(frozen=True, kw_only=True)
class VideoMemoryPlan:
    """How a run fits into memory.

    Attributes:
        step_bytes: one evaluation of the video network, with its weights where they are not on the device yet.
        decode_bytes: one frame's decoding, tiles where tiled.
        tiled: whether the autoencoder works tile by tile.
        notes: what was made smaller.
    """

    step_bytes: int
    decode_bytes: int
    tiled: bool
    notes: tuple[str, ...] = ()

    @property
    def peak_bytes(self) -> int:
        """What the run needs at its highest, with a margin."""
        return int(_MARGIN * max(self.step_bytes, self.decode_bytes))


def plan_memory(
    *, step: Cost, moved_bytes: int, decode_bytes: int, tile_bytes: int, frames: int, size: str, available: int | None
) -> VideoMemoryPlan:
    """Choose how to run, or refuse.

    Args:
        step: of the video network.
        moved_bytes: weights that must be brought to the device first.
        decode_bytes: of one whole frame.
        tile_bytes: of one tile.
        frames: asked for.
        size: of the pictures, for messages.
        available: free memory; None accepts everything.

    Raises:
        ReconstructionError: when the network does not fit; names the number of frames that would.
        InvalidInputError: when the available memory is not positive.
    """
    if available is not None and available <= 0:
        raise InvalidInputError(f"available memory is {available} bytes, expected a positive number")
    needed = step.activation_bytes + moved_bytes
    room = None if available is None else available / _MARGIN
    if room is not None and needed > room:
        fitting = int(max(room - moved_bytes, 0) / (step.activation_bytes / frames))
        advice = f"{fitting} frames would fit" if fitting >= 2 else "not even 2 frames would fit"
        raise ReconstructionError(
            f"{frames} frames of {size} need {_MARGIN * needed / GIGABYTE:.1f} GB, "
            f"{(available or 0) / GIGABYTE:.1f} GB are free; {advice}"
        )
    tiled = room is not None and decode_bytes > room
    notes = ("frames are decoded tile by tile, since one does not fit into memory at once",) if tiled else ()
    return VideoMemoryPlan(
        step_bytes=needed, decode_bytes=tile_bytes if tiled else decode_bytes, tiled=tiled, notes=notes
    )

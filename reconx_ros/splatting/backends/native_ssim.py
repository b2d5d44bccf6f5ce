"""Structural similarity and its gradient in one compiled pass: several times faster than convolutions in torch."""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import torch

from reconx_ros.core import InvalidInputError, ReconstructionError, check_shape
from reconx_ros.native import library
from reconx_ros.native.contexts import ContextPool


@functools.cache
def _pool(kernels: ctypes.CDLL) -> ContextPool:
    return ContextPool(kernels)


def native_ssim_loss(
    image: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor,
    known: torch.Tensor | None = None,
    normalizer: torch.Tensor | None = None,
    *,
    threads: int | None = None,
) -> torch.Tensor:
    """Mean over pixels of ``weight * (1 - SSIM)``, SSIM being the mean over the channels; differentiable in the image.

    SSIM of Wang et al. (2004): Gaussian window of 11 pixels, sigma 1.5, values in [0, 1]; outside of the image
    everything is zero, as in the convolution with padding 5 that 3-D Gaussian splatting uses.

    Args:
        image: [H, W, 3] float.
        target: [H, W, 3].
        weight: [H, W].
        known: [H, W] factor on both images, 0 where the target is unknown; None is 1.
        normalizer: [H, W] factor on all window sums: 1 / (share of the window that is known) leaves unknown pixels and
            the border out of the statistics; None is 1.
        threads: how many to use; None is torch's number.

    Returns:
        A scalar, float32.

    Raises:
        InvalidInputError: for wrong shapes or tensors that are not on the CPU.
        BackendUnavailableError: when the kernels are not compiled and cannot be.
    """
    prepared = _prepared(image, target, weight, known, normalizer)
    return _SsimLoss.apply(threads or library.default_threads(), *prepared)


def native_weighted_ssim(
    image: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor,
    known: torch.Tensor | None = None,
    normalizer: torch.Tensor | None = None,
    *,
    threads: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The map ``weight * SSIM`` per pixel and channel, and the gradient of its sum in the image, both [H, W, 3].

    Arguments and errors are those of ``native_ssim_loss``; the result is outside of any graph.
    """
    prepared = _prepared(image, target, weight, known, normalizer)
    weighted = torch.empty_like(prepared[0])
    _, gradient = _run(threads or library.default_threads(), prepared, weighted=weighted, with_gradient=True)
    assert gradient is not None
    return weighted, gradient


def _prepared(
    image: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor,
    known: torch.Tensor | None,
    normalizer: torch.Tensor | None,
) -> list[Any]:
    dims = check_shape("SSIM image", image, "H", "W", 3)
    check_shape("SSIM target", target, "H", "W", 3, dims=dims)
    for name, value in (("weight", weight), ("mask", known), ("normalizer", normalizer)):
        if value is not None:
            check_shape(f"SSIM {name}", value, "H", "W", dims=dims)
    tensors = (image, target, weight, known, normalizer)
    if any(t is not None and t.device.type != "cpu" for t in tensors):
        raise InvalidInputError("the native SSIM runs on the CPU, but a tensor is elsewhere")
    if image.numel() == 0:
        raise InvalidInputError(f"SSIM image has shape {list(image.shape)}, expected at least one pixel")
    return [None if t is None else t.to(torch.float32).contiguous() for t in tensors]


def _run(
    threads: int, tensors: list[Any], *, weighted: torch.Tensor | None = None, with_gradient: bool
) -> tuple[float, torch.Tensor | None]:
    """Sum of ``weight * SSIM`` over pixels and channels, and its gradient [H, W, 3]."""
    image = tensors[0]
    gradient = torch.empty_like(image) if with_gradient else None
    total = ctypes.c_double()
    call = library.SsimCall(
        image.shape[1],
        image.shape[0],
        threads,
        *(None if t is None else t.data_ptr() for t in (*tensors, weighted, gradient)),
        ctypes.addressof(total),
    )
    pool = _pool(library.load_library())
    with pool.borrow() as context:
        status = pool.library.reconx_ssim(context.handle, call)
    if status != 0:
        raise ReconstructionError("there is no memory left for the structural similarity")
    return total.value, gradient


class _SsimLoss(torch.autograd.Function):
    """The gradient comes with the value, so that backward only scales it."""

    @staticmethod
    def forward(ctx: Any, threads: int, *tensors: Any) -> torch.Tensor:
        image, weight = tensors[0], tensors[2]
        total, gradient = _run(threads, list(tensors), with_gradient=bool(ctx.needs_input_grad[1]))
        pixels = weight.numel()
        if gradient is not None:
            ctx.save_for_backward(gradient.mul_(-1 / (3 * pixels)))
        return (weight.mean() - total / (3 * pixels)).to(image.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, slope: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        gradient = ctx.saved_tensors[0] * slope if ctx.needs_input_grad[1] else None
        return (None, gradient, None, None, None, None)

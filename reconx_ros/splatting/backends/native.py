"""The compiled CPU rasteriser: hand-written gradients, all cores, the same rules as the reference twin."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch

from reconx_ros.core import InvalidInputError, ReconstructionError, check_finite, check_shape
from reconx_ros.native import library
from reconx_ros.native.contexts import BorrowedContext, ContextPool
from reconx_ros.splatting.backends.native_ssim import native_ssim_loss
from reconx_ros.splatting.base import Rendering
from reconx_ros.splatting.losses import SsimTarget

_MAX_SIDE_PX = 1 << 20
_MAX_GAUSSIANS = 1 << 30
_INPUT_BITS = {1: "means", 2: "quats_wxyz", 4: "scales", 8: "opacities", 16: "sh"}


class NativeRasterizer:
    """EWA splatting and front-to-back alpha compositing in C, as in gsplat v1.5.3's classic mode.

    Works in float32 on the CPU; results do not depend on the number of threads. Memory of finished calls is kept for
    the next ones. Calls from several threads at once are safe.

    Args:
        threads: how many to use; None is torch's number at each call.

    Raises:
        BackendUnavailableError: when the kernels are not compiled and cannot be.
    """

    name = "native"

    def __init__(self, threads: int | None = None) -> None:
        self._threads = library.checked_threads(threads)
        self._pool = ContextPool(library.load_library())

    @staticmethod
    def unavailable_reason() -> str | None:
        """Why it cannot run here, in one sentence with the cure; None when it can."""
        return library.unavailable_reason()

    def render(
        self,
        *,
        means: torch.Tensor,  # [N, 3]
        quats_wxyz: torch.Tensor,  # [N, 4]
        scales: torch.Tensor,  # [N, 3]
        opacities: torch.Tensor,  # [N]
        sh: torch.Tensor,  # [N, K, 3]
        cam_from_world: torch.Tensor,  # [C, 4, 4]
        intrinsics: torch.Tensor,  # [C, 3, 3]
        width: int,
        height: int,
        background: torch.Tensor | None = None,  # [C, 3]
        antialiased: bool = False,
        near: float = 0.0,
    ) -> Rendering:
        """Render C cameras of one size; see ``Rasterizer.render``. Pictures are float32 whatever the inputs are."""
        tensors = (means, quats_wxyz, scales, opacities, sh, cam_from_world, intrinsics, background)
        _check(tensors, width, height, near)
        prepared = [None if t is None else t.to(torch.float32).contiguous() for t in tensors]
        call = _Call(prepared, width, height, antialiased, near, self._threads or library.default_threads())
        if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in prepared):
            rgb, alpha, depth = _Render.apply(self._pool, call, *prepared)
        else:
            with self._pool.borrow() as context:
                rgb, alpha, depth = call.forward(self._pool.library, context, prepared, keep=False)
        return Rendering(rgb=rgb, alpha=alpha, depth=depth)

    def ssim_loss(self, image: torch.Tensor, target: SsimTarget, weight: torch.Tensor) -> torch.Tensor:
        """As ``ComputesSsim``."""
        return native_ssim_loss(
            image, target.image, weight, target.known[..., 0], target.normalizer[..., 0], threads=self._threads
        )


def _check(tensors: Sequence[torch.Tensor | None], width: int, height: int, near: float) -> None:
    """Check all but the finiteness of the Gaussians, which the kernel does while it reads them."""
    means, quats, scales, opacities, sh, poses, intrinsics, background = tensors
    dims = check_shape("gaussian means", means, "N", 3)
    check_shape("gaussian quats_wxyz", quats, "N", 4, dims=dims)
    check_shape("gaussian scales", scales, "N", 3, dims=dims)
    check_shape("gaussian opacities", opacities, "N", dims=dims)
    dims = check_shape("gaussian sh", sh, "N", "K", 3, dims=dims)
    dims = check_shape("cam_from_world", poses, "C", 4, 4, dims=dims)
    check_shape("intrinsics", intrinsics, "C", 3, 3, dims=dims)
    if background is not None:
        check_shape("background", background, "C", 3, dims=dims)
        check_finite("background", background)
    check_finite("cam_from_world", poses)
    check_finite("intrinsics", intrinsics)
    if dims["K"] not in (1, 4, 9, 16):
        raise InvalidInputError(f"gaussian sh has {dims['K']} bases, expected 1, 4, 9 or 16")
    if dims["N"] >= _MAX_GAUSSIANS:
        raise InvalidInputError(f"the scene has {dims['N']} Gaussians, expected fewer than {_MAX_GAUSSIANS}")
    if not (1 <= width <= _MAX_SIDE_PX and 1 <= height <= _MAX_SIDE_PX):
        raise InvalidInputError(f"picture size is {width}x{height}, expected at least 1x1 pixel")
    if not near >= 0:
        raise InvalidInputError(f"near plane is {near}, expected a number of at least 0")
    _check_devices(tensors)
    if not bool((intrinsics.detach()[:, (0, 1), (0, 1)] > 0).all()):  # type: ignore[union-attr]
        raise InvalidInputError("intrinsics has a focal length that is not positive")


def _check_devices(tensors: Sequence[torch.Tensor | None]) -> None:
    for tensor in tensors:
        if tensor is not None and tensor.device.type != "cpu":
            raise InvalidInputError(f"the native rasteriser runs on the CPU, but a tensor is on '{tensor.device}'")


class _Call:
    """Sizes and options of one call."""

    def __init__(
        self,
        tensors: Sequence[torch.Tensor | None],
        width: int,
        height: int,
        antialiased: bool,
        near: float,
        threads: int,
    ) -> None:
        means, sh, poses = tensors[0], tensors[4], tensors[5]
        assert means is not None
        assert sh is not None
        assert poses is not None
        self._sizes = (means.shape[0], sh.shape[1], poses.shape[0], width, height, int(antialiased), threads, near)
        self._shape = (poses.shape[0], height, width)

    def _scene(self, tensors: Sequence[torch.Tensor | None]) -> library.NativeScene:
        return library.NativeScene(*self._sizes, *map(_pointer, tensors))

    def forward(
        self, kernels: ctypes.CDLL, context: BorrowedContext, tensors: Sequence[torch.Tensor | None], *, keep: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Colours [C, H, W, 3], alpha and depth [C, H, W]."""
        rgb, alpha, depth = torch.empty(*self._shape, 3), torch.empty(self._shape), torch.empty(self._shape)
        pictures = library.Pictures(*map(_pointer, (rgb, alpha, depth)))
        _raise_status(kernels.reconx_forward(context.handle, self._scene(tensors), pictures, int(keep)), tensors)
        return rgb, alpha, depth

    def backward(
        self,
        kernels: ctypes.CDLL,
        context: BorrowedContext,
        tensors: Sequence[torch.Tensor | None],
        slopes: Sequence[torch.Tensor | None],
        needed: Sequence[bool],
    ) -> list[torch.Tensor | None]:
        """Gradients of those tensors that need one."""
        slopes = [None if s is None else s.to(torch.float32).contiguous() for s in slopes]
        results = [torch.empty_like(t) if n and t is not None else None for t, n in zip(tensors, needed, strict=True)]
        pictures, gradients = library.Pictures(*map(_pointer, slopes)), library.Gradients(*map(_pointer, results))
        _raise_status(kernels.reconx_backward(context.handle, self._scene(tensors), pictures, gradients), tensors)
        return results


def _pointer(tensor: torch.Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _raise_status(status: int, tensors: Sequence[torch.Tensor | None]) -> None:
    if status > 0:
        for index, (bit, name) in enumerate(_INPUT_BITS.items()):
            if status & bit:
                check_finite(f"gaussian {name}", tensors[index])
    if status == -2:
        raise InvalidInputError("the Gaussians cover too many tiles of the picture: render fewer, smaller ones")
    if status != 0:
        raise ReconstructionError("there is no memory left for the rasteriser")


class _Render(torch.autograd.Function):
    """The kernels as one step of a graph."""

    @staticmethod
    def forward(ctx: Any, pool: ContextPool, call: _Call, *tensors: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.pool, ctx.call, ctx.context = pool, call, pool.borrow()
        ctx.save_for_backward(*tensors)
        return call.forward(pool.library, ctx.context, tensors, keep=True)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *slopes: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        tensors, needed = ctx.saved_tensors, ctx.needs_input_grad[2:]
        return (None, None, *ctx.call.backward(ctx.pool.library, ctx.context, tensors, slopes, needed))

"""gsplat's CUDA kernels (https://github.com/nerfstudio-project/gsplat, v1.5) behind our Rasterizer."""

from __future__ import annotations

import importlib.util
import shutil
from typing import Any

import torch

from reconx_ros.core import InvalidInputError
from reconx_ros.splatting.backends.reference import check_render_arguments
from reconx_ros.splatting.base import Rendering

_DEGREES = {1: 0, 4: 1, 9: 2, 16: 3}  # of the spherical harmonics, by their number
_INSTALL = "pip install 'reconx_ros[gpu]'"


class GsplatRasterizer:
    """EWA splatting and front-to-back alpha compositing on a CUDA device, in float32.

    gsplat has no gradient with respect to intrinsics; all other tensors get one.
    """

    name = "gsplat"

    @staticmethod
    def unavailable_reason() -> str | None:
        """Why it cannot run here, in one sentence with the cure; None when it can. Compiles nothing."""
        if importlib.util.find_spec("gsplat") is None:
            return f"rasterizer 'gsplat' needs the Python package gsplat: run {_INSTALL}"
        if not torch.cuda.is_available():
            return "rasterizer 'gsplat' needs a CUDA GPU and PyTorch with CUDA, and none is visible here"
        if not _has_kernels():
            return (
                "rasterizer 'gsplat' has no compiled CUDA kernels and no nvcc to build them with: install a gsplat "
                "wheel with kernels from https://docs.gsplat.studio/whl, or the CUDA toolkit of PyTorch's version"
            )
        return None

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
        """Render C cameras of one size; see ``Rasterizer.render``. Pictures are float32 whatever the inputs are.

        Raises:
            InvalidInputError: for wrong shapes, NaN or infinite values, tensors that are not all on one CUDA device,
                or intrinsics that want a gradient.
        """
        check_render_arguments(means, quats_wxyz, scales, opacities, sh, cam_from_world, intrinsics, background)
        tensors = (means, quats_wxyz, scales, opacities, sh, cam_from_world, intrinsics, background)
        _check_devices(*tensors)
        arguments = pack_arguments(*tensors, width=width, height=height, antialiased=antialiased, near=near)
        if not (len(means) and len(cam_from_world)):
            return _nothing(arguments)
        from gsplat import rasterization

        colors, alphas, _ = rasterization(**arguments)
        return Rendering(rgb=colors[..., :3], alpha=alphas[..., 0], depth=colors[..., 3])


def pack_arguments(
    means: torch.Tensor,  # [N, 3]
    quats_wxyz: torch.Tensor,  # [N, 4]
    scales: torch.Tensor,  # [N, 3]
    opacities: torch.Tensor,  # [N]
    sh: torch.Tensor,  # [N, K, 3]
    cam_from_world: torch.Tensor,  # [C, 4, 4]
    intrinsics: torch.Tensor,  # [C, 3, 3]
    background: torch.Tensor | None,  # [C, 3]
    *,
    width: int,
    height: int,
    antialiased: bool,
    near: float,
) -> dict[str, Any]:
    """Arguments of ``gsplat.rasterization`` in gsplat's own conventions; needs neither gsplat nor a GPU.

    gsplat puts the centre of the first pixel at (0.5, 0.5), so that the principal point moves by half a pixel. Its
    quaternions are (w, x, y, z) of any length, its ``viewmats`` are cam_from_world, its ``scales`` standard deviations.

    Args:
        means, quats_wxyz, scales, opacities, sh, cam_from_world, intrinsics, background: as in ``Rasterizer.render``.
        width, height, antialiased, near: as in ``Rasterizer.render``.

    Raises:
        InvalidInputError: for intrinsics that want a gradient, a number of harmonics other than 1, 4, 9 or 16, an
            empty picture, or a near plane that is negative.
    """
    _check_options(sh, intrinsics, width, height, near)
    names = ("means", "quats", "scales", "opacities", "colors", "viewmats", "Ks", "backgrounds")
    values = (means, quats_wxyz, scales, opacities, sh, cam_from_world, _corner_origin(intrinsics), background)
    tensors = {n: None if v is None else v.to(torch.float32).contiguous() for n, v in zip(names, values, strict=True)}
    return {
        **tensors,
        "width": width,
        "height": height,
        "near_plane": near,
        "sh_degree": _DEGREES[sh.shape[1]],
        "packed": False,
        "render_mode": "RGB+ED",
        "rasterize_mode": "antialiased" if antialiased else "classic",
        "camera_model": "pinhole",
    }


def _corner_origin(intrinsics: torch.Tensor) -> torch.Tensor:
    """K [C, 3, 3] with the centre of the first pixel at (0.5, 0.5) instead of (0, 0)."""
    shifted = intrinsics.clone()
    shifted[:, :2, 2] += 0.5
    return shifted


def _check_options(sh: torch.Tensor, intrinsics: torch.Tensor, width: int, height: int, near: float) -> None:
    if sh.shape[1] not in _DEGREES:
        raise InvalidInputError(f"gaussian sh has {sh.shape[1]} bases, expected 1, 4, 9 or 16")
    if width < 1 or height < 1:
        raise InvalidInputError(f"picture size is {width}x{height}, expected at least 1x1 pixel")
    if not near >= 0:
        raise InvalidInputError(f"near plane is {near}, expected a number of at least 0")
    if torch.is_grad_enabled() and intrinsics.requires_grad:
        raise InvalidInputError(
            "intrinsics want a gradient, which rasterizer 'gsplat' does not have: use native or reference"
        )


def _check_devices(*tensors: torch.Tensor | None) -> None:
    devices = sorted({str(tensor.device) for tensor in tensors if tensor is not None})
    if len(devices) != 1 or not devices[0].startswith("cuda"):
        raise InvalidInputError(f"rasterizer 'gsplat' got tensors on {', '.join(devices)}, expected one CUDA device")


def _has_kernels() -> bool:
    """Whether gsplat was installed with compiled kernels or can compile them at its first call."""
    from torch.utils import cpp_extension

    if importlib.util.find_spec("gsplat.csrc") is not None:
        return True
    return shutil.which("nvcc") is not None or cpp_extension.CUDA_HOME is not None


def _nothing(arguments: dict[str, Any]) -> Rendering:
    """Pictures of a scene without Gaussians, or of no camera: the kernels are not made for these."""
    means, background = arguments["means"], arguments["backgrounds"]
    shape = (len(arguments["viewmats"]), arguments["height"], arguments["width"])
    empty = means.new_zeros(shape) + means.sum() * 0.0  # keeps the picture in the graph
    rgb = empty[..., None].expand(*shape, 3)
    return Rendering(rgb=rgb if background is None else rgb + background[:, None, None], alpha=empty, depth=empty)

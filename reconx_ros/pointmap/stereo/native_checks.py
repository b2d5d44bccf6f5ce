"""The compiled cross-view check and clean-up of depth maps: the rules of consistency.py and filters.py on all cores."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as nnf

from reconx_ros.core import SE3, InvalidInputError, check_shape
from reconx_ros.native import library
from reconx_ros.pointmap.stereo.consistency import MAX_REPROJECTION_PX, DepthMap, ViewAgreement


def native_agreement(
    kernels: ctypes.CDLL, view: DepthMap, others: Sequence[DepthMap], tolerance: float, threads: int
) -> ViewAgreement:
    """What other views say about every pixel of one view, as ``consistency.agreement``.

    Raises:
        InvalidInputError: for a depth map or mask that is not of its camera's size.
    """
    for one in (view, *others):
        for name, value in (("depth", one.depth), ("mask", one.usable)):
            check_shape(f"{name} of a view", value, one.camera.height, one.camera.width)
    depth, usable = prepared(view.depth), view.usable.to(torch.uint8).contiguous()
    holed = [torch.where(o.usable, prepared(o.depth), torch.nan) for o in others]
    padded = [nnf.pad(h[None], (0, 1, 0, 1), mode="replicate")[0] for h in holed]
    rows = (library.Witness * len(others))(*map(_witness, [view] * len(others), others, padded))
    out = torch.empty(5, *depth.shape)  # sees, agrees, denies, depth, tangent
    camera = view.camera
    call = library.AgreementCall(
        *(camera.width, camera.height, len(others), threads),
        *(camera.fx, camera.fy, camera.cx, camera.cy, tolerance, MAX_REPROJECTION_PX),
        *(depth.data_ptr(), usable.data_ptr(), ctypes.addressof(rows), *(t.data_ptr() for t in out)),
    )
    kernels.reconx_agreement(call)
    sees, agrees, denies, mean, half_tangent = out
    angle = torch.rad2deg(2 * torch.atan(half_tangent))
    return ViewAgreement(sees=sees, agrees=agrees, denies=denies, depth=mean, angle_deg=angle)


def native_components(kernels: ctypes.CDLL, depth: torch.Tensor, mask: torch.Tensor, tolerance: float) -> torch.Tensor:
    """Label [H, W] of smooth patches, as ``filters.connected_components``."""
    dims = check_shape("depth", depth, "H", "W")
    check_shape("mask", mask, "H", "W", dims=dims)
    depth, mask = prepared(depth), mask.to(torch.uint8).contiguous()
    label = torch.empty(depth.shape, dtype=torch.int32)
    kernels.reconx_components(dims["W"], dims["H"], depth.data_ptr(), mask.data_ptr(), tolerance, label.data_ptr())
    return label.long()


def native_median3(kernels: ctypes.CDLL, values: torch.Tensor, threads: int) -> torch.Tensor:
    """Median over 3 x 3 pixels of [H, W], as ``filters.median_filter``."""
    dims = check_shape("values of a median filter", values, "H", "W")
    values = prepared(values)
    out = torch.empty_like(values)
    kernels.reconx_median3(dims["W"], dims["H"], values.data_ptr(), out.data_ptr(), threads)
    return out


def prepared(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor as the kernels read it: float32, one piece of memory.

    Raises:
        InvalidInputError: when it is not on the CPU.
    """
    if tensor.device.type != "cpu":
        raise InvalidInputError(f"the native stereo kernels run on the CPU, but a tensor is on '{tensor.device}'")
    return tensor.to(torch.float32).contiguous()


def _witness(view: DepthMap, other: DepthMap, depth: torch.Tensor) -> library.Witness:
    other_from_view = other.world_from_cam.inverse() @ view.world_from_cam
    camera = other.camera
    row = library.Witness(fx=camera.fx, fy=camera.fy, cx=camera.cx, cy=camera.cy, depth=depth.data_ptr())
    row.width, row.height = camera.width, camera.height
    row.other_from_view[:], row.view_from_other[:] = _rows(other_from_view), _rows(other_from_view.inverse())
    return row


def _rows(pose: SE3) -> list[float]:
    """[3, 4] row-major."""
    values: list[float] = np.concatenate([pose.rotation, pose.translation[:, None]], axis=1).ravel().tolist()
    return values

"""The heavy steps of multi-view stereo, and the choice of who computes them: torch or the compiled kernels."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Protocol

import torch

from reconx_ros.core import BackendUnavailableError, ConfigError
from reconx_ros.native import library
from reconx_ros.pointmap.stereo.consistency import DepthMap, ViewAgreement, agreement
from reconx_ros.pointmap.stereo.filters import median_filter, without_speckles
from reconx_ros.pointmap.stereo.sgm import Choice, Smoothness, choose, smooth_costs
from reconx_ros.pointmap.stereo.sweep import sweep
from reconx_ros.pointmap.stereo.views import MatchView

_LOG = logging.getLogger(__name__)


class StereoKernels(Protocol):
    """The steps of stage 1 that touch every pixel many times."""

    name: str

    def match(
        self,
        reference: MatchView,
        sources: Sequence[MatchView],
        inverse_depths: torch.Tensor,
        window: int,
        smoothness: Smoothness,
        *,
        on_chunk: Callable[[float], None] | None = None,
    ) -> Choice:
        """The winning inverse depth of every pixel: plane sweep, then smoothing along four directions.

        Args:
            reference: view whose pixels are matched.
            sources: views it is matched against, at least one.
            inverse_depths: [D, H, W], or [D, 1, 1] for fronto-parallel planes.
            window: side of the matching window in pixels, odd.
            smoothness: penalties of the smoothing.
            on_chunk: called with the fraction done after each bounded piece of work.

        Raises:
            InvalidInputError: for no source, no plane, an even window, or an image of a wrong size or not finite.
        """
        ...

    def median_filter(self, values: torch.Tensor) -> torch.Tensor:
        """Median over 3 x 3 pixels of [H, W]; the border is repeated."""
        ...

    def agreement(self, view: DepthMap, others: Sequence[DepthMap], tolerance: float) -> ViewAgreement:
        """What other views say about every pixel of one view, as ``consistency.agreement``."""
        ...

    def without_speckles(
        self, depth: torch.Tensor, mask: torch.Tensor, *, tolerance: float, min_pixels: int
    ) -> torch.Tensor:
        """The mask [H, W] less its smooth patches of fewer than ``min_pixels`` pixels."""
        ...


class TorchKernels:
    """Plain torch, on any device: the readable twin of the compiled kernels."""

    name = "torch"

    def match(
        self,
        reference: MatchView,
        sources: Sequence[MatchView],
        inverse_depths: torch.Tensor,
        window: int,
        smoothness: Smoothness,
        *,
        on_chunk: Callable[[float], None] | None = None,
    ) -> Choice:
        """As ``StereoKernels.match``."""
        cost = sweep(reference, sources, inverse_depths, window, on_chunk=on_chunk)
        return choose(cost, smooth_costs(cost, reference.grey, smoothness))

    def median_filter(self, values: torch.Tensor) -> torch.Tensor:
        """As ``StereoKernels.median_filter``."""
        return median_filter(values)

    def agreement(self, view: DepthMap, others: Sequence[DepthMap], tolerance: float) -> ViewAgreement:
        """As ``StereoKernels.agreement``."""
        return agreement(view, others, tolerance)

    def without_speckles(
        self, depth: torch.Tensor, mask: torch.Tensor, *, tolerance: float, min_pixels: int
    ) -> torch.Tensor:
        """As ``StereoKernels.without_speckles``."""
        return without_speckles(depth, mask, tolerance=tolerance, min_pixels=min_pixels)


def select_kernels(name: str, device: torch.device) -> StereoKernels:
    """The kernels that a configuration names, or the fastest that run on a device for ``auto``.

    ``auto`` takes the compiled kernels on the CPU where they can run, and torch elsewhere; it logs its choice and why.

    Raises:
        ConfigError: for an unknown name.
        BackendUnavailableError: when the named ones cannot run here.
    """
    if name == "auto":
        name, reason = fastest_kernels(device)
        slow = name == "torch" and device.type == "cpu"
        _LOG.log(logging.WARNING if slow else logging.INFO, "stereo kernels auto: chose %s, %s", name, reason)
    if name == "torch":
        return TorchKernels()
    if name != "native":
        raise ConfigError(f"unknown stereo kernels '{name}', expected auto, native or torch")
    if device.type != "cpu":
        raise BackendUnavailableError(f"the native stereo kernels run on the CPU, not on '{device}': choose torch")
    from reconx_ros.pointmap.stereo.native import NativeKernels

    return NativeKernels()


def fastest_kernels(device: torch.device) -> tuple[str, str]:
    """Name of the fastest kernels that run on a device, and why these."""
    if device.type != "cpu":
        return "torch", f"which runs on device {device.type}"
    reason = library.unavailable_reason()
    if reason is not None:
        return "torch", f"which is slow on the CPU, because {reason}"
    return "native", "the fastest for device cpu"

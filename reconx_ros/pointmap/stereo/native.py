"""The compiled plane sweep and semi-global smoothing: the rules of sweep.py, zncc.py and sgm.py on all cores.

What happens between views is in native_checks.py.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as nnf

from reconx_ros.core import InvalidInputError, ReconstructionError, check_shape
from reconx_ros.native import library
from reconx_ros.pointmap.stereo.consistency import DepthMap, ViewAgreement
from reconx_ros.pointmap.stereo.filters import without_small_patches
from reconx_ros.pointmap.stereo.native_checks import native_agreement, native_components, native_median3, prepared
from reconx_ros.pointmap.stereo.sgm import Choice, Smoothness
from reconx_ros.pointmap.stereo.sweep import UNSEEN_COST, check_sweep
from reconx_ros.pointmap.stereo.views import MatchView
from reconx_ros.pointmap.stereo.zncc import NOISE_VARIANCE, ReferenceWindows

_GROUP = 16  # PLANE_GROUP of stereo.h: rows and planes are padded to a multiple of it
_MAX_WINDOW = 31
_CHUNK_MATCHES = 64_000_000  # pixels times planes times sources between two progress calls: some 50 ms


class NativeKernels:
    """The compiled kernels, on the CPU; results do not depend on the number of threads.

    Args:
        threads: how many to use; None is torch's number at each call.

    Raises:
        BackendUnavailableError: when the kernels are not compiled and cannot be.
    """

    name = "native"

    def __init__(self, threads: int | None = None) -> None:
        self._threads = library.checked_threads(threads)
        self._library = library.load_library()

    def _thread_count(self) -> int:
        return self._threads or library.default_threads()

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
        volume = self.sweep(reference, sources, inverse_depths, window, on_chunk=on_chunk)
        return self.choose(volume, inverse_depths.shape[0], reference.grey, smoothness)

    def median_filter(self, values: torch.Tensor) -> torch.Tensor:
        """As ``StereoKernels.median_filter``."""
        return native_median3(self._library, values, self._thread_count())

    def agreement(self, view: DepthMap, others: Sequence[DepthMap], tolerance: float) -> ViewAgreement:
        """As ``StereoKernels.agreement``."""
        return native_agreement(self._library, view, others, tolerance, self._thread_count())

    def without_speckles(
        self, depth: torch.Tensor, mask: torch.Tensor, *, tolerance: float, min_pixels: int
    ) -> torch.Tensor:
        """As ``StereoKernels.without_speckles``."""
        return without_small_patches(native_components(self._library, depth, mask, tolerance), mask, min_pixels)

    def sweep(
        self,
        reference: MatchView,
        sources: Sequence[MatchView],
        inverse_depths: torch.Tensor,
        window: int,
        *,
        keep: int = 2,
        on_chunk: Callable[[float], None] | None = None,
    ) -> torch.Tensor:
        """Matching cost volume of a reference view, as the function of that name in sweep.py.

        Returns:
            [H, W, P]: D costs in [0, 1] per pixel, then infinity up to a multiple of 16.
        """
        check_sweep(reference, sources, inverse_depths, window)
        if window > _MAX_WINDOW:
            raise InvalidInputError(f"matching window is {window} pixels, expected at most {_MAX_WINDOW}")
        (height, width), planes = reference.grey.shape, inverse_depths.shape[0]
        per_pixel = inverse_depths.numel() != planes
        if per_pixel:
            check_shape("inverse depths of a sweep", inverse_depths, planes, height, width)
        shift = reference.grey.mean()
        windows, depths = _reference_rows(reference.grey, window), prepared(inverse_depths)
        images = [nnf.pad((prepared(s.grey) - shift)[None], (0, 1, 0, 1), mode="replicate")[0] for s in sources]
        rows = (library.SweepSource * len(sources))(*map(_source, [reference] * len(sources), sources, images))
        volume = torch.empty(height, width, _padded(planes))
        sizes = (width, height, windows.shape[-1], planes, volume.shape[-1])
        options = (len(sources), window, keep, int(per_pixel), self._thread_count())
        data = (windows.data_ptr(), depths.data_ptr(), ctypes.addressof(rows), volume.data_ptr())
        chunk = max(_GROUP, _CHUNK_MATCHES // (width * height * len(sources)) // _GROUP * _GROUP)
        for start in range(0, planes, chunk):
            stop = min(planes, start + chunk)
            call = library.SweepCall(*sizes, start, stop, *options, NOISE_VARIANCE, UNSEEN_COST, *data)
            _require_memory(self._library.reconx_sweep(call))
            if on_chunk is not None:
                on_chunk(stop / planes)
        return volume

    def choose(self, volume: torch.Tensor, planes: int, image: torch.Tensor, smoothness: Smoothness) -> Choice:
        """Smooth a volume of ``sweep`` along four directions and let the winner take all.

        Args:
            volume: [H, W, P].
            planes: D, how many of P are costs.
            image: [H, W] grey values in [0, 1] that steer the jump penalty.
            smoothness: penalties.
        """
        label, chosen, margin = torch.empty(3, *image.shape)
        self._smooth(volume, planes, image, smoothness, [label, chosen, margin])
        return Choice(label=label, cost=chosen, margin=margin)

    def smooth(self, volume: torch.Tensor, planes: int, image: torch.Tensor, smoothness: Smoothness) -> torch.Tensor:
        """Mean path cost [H, W, P] over four directions; arguments as ``choose``."""
        return self._smooth(volume, planes, image, smoothness, None) / 4

    def _smooth(
        self,
        volume: torch.Tensor,
        planes: int,
        image: torch.Tensor,
        smoothness: Smoothness,
        out: Sequence[torch.Tensor] | None,
    ) -> torch.Tensor:
        check_shape("cost volume", volume, "H", "W", _padded(planes), dims=check_shape("image", image, "H", "W"))
        height, width = image.shape
        volume, image, total = prepared(volume), prepared(image), torch.empty(volume.shape)
        penalties = (smoothness.p1, smoothness.p2, smoothness.p2_min, smoothness.edge)
        data = [volume.data_ptr(), image.data_ptr(), total.data_ptr(), *(t.data_ptr() for t in out or ())]
        sizes = (width, height, planes, volume.shape[-1], self._thread_count())
        _require_memory(self._library.reconx_sgm(library.SgmCall(*sizes, *penalties, *data)))
        return total


def _padded(count: int) -> int:
    return -(-count // _GROUP) * _GROUP


def _require_memory(status: int) -> None:
    if status != 0:
        raise ReconstructionError("there is no memory left for the plane sweep")


def _reference_rows(grey: torch.Tensor, window: int) -> torch.Tensor:
    """What sweep.c needs of the reference: [4, H, stride], zeros beyond the width."""
    of = ReferenceWindows.of(prepared(grey), window)
    rows = torch.stack([of.centred, of.mean, of.variance + NOISE_VARIANCE, of.weight])
    return nnf.pad(rows, (0, _padded(grey.shape[1]) - grey.shape[1])).contiguous()


def _source(reference: MatchView, source: MatchView, image: torch.Tensor) -> library.SweepSource:
    """Where the reference's rays fall, as ``geometry.warping.ray_projection`` says, and what is there."""
    source_from_reference = source.world_from_cam.inverse() @ reference.world_from_cam
    at_infinity = source.camera.matrix @ source_from_reference.rotation @ np.linalg.inv(reference.camera.matrix)
    offset = source.camera.matrix @ source_from_reference.translation
    camera = source.camera
    row = library.SweepSource(image=image.data_ptr(), width=camera.width, height=camera.height)
    row.at_infinity[:], row.per_inverse_depth[:] = at_infinity.ravel().tolist(), offset.tolist()
    return row

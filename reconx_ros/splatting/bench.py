"""How fast the compiled kernels are, each beside its plain-torch twin in the same run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from reconx_ros.splatting.backends.native import NativeRasterizer
from reconx_ros.splatting.backends.native_ssim import native_ssim_loss
from reconx_ros.splatting.backends.reference import ReferenceRasterizer
from reconx_ros.splatting.base import Rasterizer
from reconx_ros.splatting.losses import SsimTarget, ssim_map

CASES = ((256, 256, 10_000), (256, 256, 50_000), (256, 256, 100_000), (512, 320, 50_000))
SSIM_SIZES = ((256, 256), (512, 320))
_LEARNED = ("means", "quats_wxyz", "scales", "opacities", "sh")


def run_bench(
    cases: Sequence[tuple[int, int, int]] = CASES,
    ssim_sizes: Sequence[tuple[int, int]] = SSIM_SIZES,
    *,
    repeats: int = 15,
    baseline_repeats: int = 2,
) -> list[dict[str, Any]]:
    """Time one training step's rendering and SSIM, forward and backward, on torch's number of threads.

    Args:
        cases: width, height, Gaussians.
        ssim_sizes: width, height.
        repeats: timed runs of ours; the median counts.
        baseline_repeats: timed runs of the baseline, after one that is not timed.

    Returns:
        One row per case: what, size, gaussians and native_forward_ms (None for SSIM), threads, native_ms and torch_ms
        (forward and backward), ratio (torch / native).

    Raises:
        BackendUnavailableError: when the kernels are not compiled and cannot be.
    """
    native, reference = NativeRasterizer(), ReferenceRasterizer()
    rows = [_raster_row(native, reference, *case, repeats, baseline_repeats) for case in cases]
    return rows + [_ssim_row(width, height, repeats, baseline_repeats) for width, height in ssim_sizes]


def random_scene(width: int, height: int, count: int, *, bases: int = 4, seed: int = 0) -> dict[str, Any]:
    """Arguments of ``Rasterizer.render``: Gaussians all over one picture, as wide as their mean spacing.

    Args:
        width, height: picture size in pixels.
        count: number of Gaussians.
        bases: harmonics per channel.
        seed: of the random numbers.
    """
    rng = torch.Generator().manual_seed(seed)
    focal, depth = 0.9 * width, 1.5 + 3 * torch.rand(count, generator=rng)
    spot = (torch.rand(count, 2, generator=rng) - 0.5) * torch.tensor([width, height])
    sigma = (width * height / max(count, 1)) ** 0.5 * depth / focal
    intrinsics = torch.tensor([[focal, 0, width / 2 - 0.5], [0, focal, height / 2 - 0.5], [0, 0, 1]])
    return {
        "means": torch.cat([spot / focal * depth[:, None], depth[:, None]], dim=-1),
        "quats_wxyz": torch.randn(count, 4, generator=rng),
        "scales": sigma[:, None] * torch.exp(0.3 * torch.randn(count, 3, generator=rng)),
        "opacities": torch.sigmoid(1.5 * torch.randn(count, generator=rng)),
        "sh": 0.3 * torch.randn(count, bases, 3, generator=rng),
        "cam_from_world": torch.eye(4)[None],
        "intrinsics": intrinsics[None],
        "width": width,
        "height": height,
    }


def _raster_row(
    native: Rasterizer, reference: Rasterizer, width: int, height: int, count: int, repeats: int, baseline_repeats: int
) -> dict[str, Any]:
    scene = random_scene(width, height, count)
    slope = torch.randn(1, height, width, 3, generator=torch.Generator().manual_seed(1))
    for name in _LEARNED:
        scene[name].requires_grad_()

    def step(rasterizer: Rasterizer) -> Callable[[], None]:
        def run() -> None:
            rasterizer.render(**scene).rgb.backward(slope)
            for name in _LEARNED:
                scene[name].grad = None

        return run

    forward_ms = _median_ms(lambda: native.render(**scene), repeats)
    row = {"what": "rasterizer", "size": f"{width}x{height}", "gaussians": count, "threads": torch.get_num_threads()}
    return row | {"native_forward_ms": forward_ms} | _compared(step(native), step(reference), repeats, baseline_repeats)


def _ssim_row(width: int, height: int, repeats: int, baseline_repeats: int) -> dict[str, Any]:
    rng = torch.Generator().manual_seed(0)
    image, target = torch.rand(2, height, width, 3, generator=rng)
    weight = torch.rand(height, width, generator=rng)
    prepared = SsimTarget.of(target, torch.ones(height, width, dtype=torch.bool))
    image.requires_grad_()

    def ours() -> None:
        native_ssim_loss(image, target, weight).backward()

    def theirs() -> None:
        (weight * (1 - ssim_map(image, prepared))).mean().backward()

    row = {"what": "ssim", "size": f"{width}x{height}", "gaussians": None, "threads": torch.get_num_threads()}
    return row | {"native_forward_ms": None} | _compared(ours, theirs, repeats, max(baseline_repeats, 5))


def _compared(
    ours: Callable[[], Any], theirs: Callable[[], Any], repeats: int, baseline_repeats: int
) -> dict[str, float]:
    native_ms, torch_ms = _median_ms(ours, repeats), _median_ms(theirs, baseline_repeats)
    return {"native_ms": native_ms, "torch_ms": torch_ms, "ratio": torch_ms / native_ms}


def _median_ms(run: Callable[[], Any], repeats: int) -> float:
    """Median wall-clock time in milliseconds, after one run that is not timed."""
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)

"""How fast the compiled stereo kernels are, each beside its plain-torch twin in the same run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as nnf

from reconx_ros.core import SE3, Frame, Job, Keyframe, PinholeCamera
from reconx_ros.geometry.completion import complete_depth
from reconx_ros.native.timing import compared
from reconx_ros.pointmap.completion.inputs import completion_view, scene_scale
from reconx_ros.pointmap.completion.network import CompletionConfig, CompletionNetwork
from reconx_ros.pointmap.completion.predict import predict
from reconx_ros.pointmap.config import PointmapConfig
from reconx_ros.pointmap.stereo.consistency import DepthMap
from reconx_ros.pointmap.stereo.kernels import StereoKernels, TorchKernels
from reconx_ros.pointmap.stereo.multiview import multiview_depth
from reconx_ros.pointmap.stereo.native import NativeKernels
from reconx_ros.pointmap.stereo.settings import MultiviewSettings
from reconx_ros.pointmap.stereo.sgm import Smoothness, choose, smooth_costs
from reconx_ros.pointmap.stereo.sweep import inverse_depth_planes, sweep
from reconx_ros.pointmap.stereo.views import MatchView, normalised, prepare_views

# Width, height, sources, planes, window.
SWEEP_CASES = ((320, 240, 2, 64, 5), (320, 240, 4, 96, 5), (320, 240, 4, 96, 9), (640, 480, 4, 96, 5))
SGM_CASES = ((320, 240, 64), (320, 240, 96), (640, 480, 96))  # width, height, planes
VIEW_CASES = ((320, 240, 6),)  # width, height, views
_CPU = torch.device("cpu")
_DISPARITY_PX = 6  # between two views
_WITNESSES = 4


def run_bench(
    sweep_cases: Sequence[tuple[int, int, int, int, int]] = SWEEP_CASES,
    sgm_cases: Sequence[tuple[int, int, int]] = SGM_CASES,
    view_cases: Sequence[tuple[int, int, int]] = VIEW_CASES,
    *,
    repeats: int = 9,
    baseline_repeats: int = 2,
) -> list[dict[str, Any]]:
    """Time the steps of multi-view stereo, and all of it per view, on torch's number of threads.

    Args:
        sweep_cases: width, height, sources, planes, window.
        sgm_cases: width, height, planes: smoothing and the choice of a plane; then the cross-view check at that size.
        view_cases: width, height, views of a whole reconstruction, and of the completion of its depth.
        repeats: timed runs of ours; the median counts.
        baseline_repeats: timed runs of the baseline, after one that is not timed.

    Returns:
        One row per case: what, size, sources, planes, window (None where they say nothing), threads, native_ms,
        torch_ms, ratio (torch / native), and native_cpu_ms and torch_cpu_ms, the processor time of all threads, which
        other work on the computer disturbs less. Milliseconds of "whole view" are per view.

    Raises:
        BackendUnavailableError: when the kernels are not compiled and cannot be.
    """
    native = NativeKernels()
    rows = [_sweep_row(native, case, repeats, baseline_repeats) for case in sweep_cases]
    rows += [_sgm_row(native, case, repeats, baseline_repeats) for case in sgm_cases]
    sizes = dict.fromkeys((width, height) for width, height, _ in sgm_cases)
    rows += [_agreement_row(native, size, repeats, baseline_repeats) for size in sizes]
    rows += [_view_row(case, repeats) for case in view_cases]
    return rows + [_completion_row(case, repeats) for case in view_cases]


def wall_keyframes(width: int, height: int, count: int, *, seed: int = 0) -> list[Keyframe]:
    """Keyframes of a textured wall 2 m away, seen by a camera that moves sideways; exact to the grey level.

    Args:
        width, height: picture size in pixels.
        count: number of keyframes.
        seed: of the texture.
    """
    rng = torch.Generator().manual_seed(seed)
    size = (height, width + _DISPARITY_PX * (count - 1))
    octaves = [
        nnf.interpolate(torch.rand(1, 3, *(-(-s // step) + 1 for s in size), generator=rng), size, mode="bilinear")[0]
        for step in (2, 6, 20)
    ]
    texture = (255 * torch.stack(octaves).mean(dim=0)).round().to(torch.uint8).permute(1, 2, 0).numpy()
    camera = PinholeCamera(
        width=width, height=height, fx=0.9 * width, fy=0.9 * width, cx=(width - 1) / 2, cy=(height - 1) / 2
    )
    keyframes = []
    for i in range(count):
        left = _DISPARITY_PX * i
        pose = SE3(rotation=np.eye(3), translation=np.array([2.0 * left / camera.fx, 0.0, 0.0]))
        rgb = np.ascontiguousarray(texture[:, left : left + width])
        keyframes.append(Keyframe(id=i, frame=Frame(rgb_u8=rgb, camera=camera, world_from_cam=pose), sharpness=1.0))
    return keyframes


def _views(width: int, height: int, count: int) -> list[MatchView]:
    return normalised(prepare_views(wall_keyframes(width, height, count), max(width, height), _CPU))[0]


def _sweep_row(
    native: NativeKernels, case: tuple[int, int, int, int, int], repeats: int, baseline_repeats: int
) -> dict[str, Any]:
    width, height, sources, planes, window = case
    view, *others = _views(width, height, sources + 1)
    grid = inverse_depth_planes(2.0, 100.0, planes)
    row = _row("sweep", width, height, sources, planes, window)
    return row | compared(
        lambda: native.sweep(view, others, grid, window),
        lambda: sweep(view, others, grid, window),
        repeats,
        baseline_repeats,
    )


def _sgm_row(native: NativeKernels, case: tuple[int, int, int], repeats: int, baseline_repeats: int) -> dict[str, Any]:
    width, height, planes = case
    view, other = _views(width, height, 2)
    volume = native.sweep(view, [other], inverse_depth_planes(2.0, 100.0, planes), 5)
    cost, smoothness = volume[..., :planes].permute(2, 0, 1).contiguous(), Smoothness()
    return _row("sgm, 4 paths", width, height, None, planes, None) | compared(
        lambda: native.choose(volume, planes, view.grey, smoothness),
        lambda: choose(cost, smooth_costs(cost, view.grey, smoothness)),
        repeats,
        baseline_repeats,
    )


def _agreement_row(native: NativeKernels, size: tuple[int, int], repeats: int, baseline_repeats: int) -> dict[str, Any]:
    def checked(kernels: StereoKernels) -> Callable[[], Any]:
        return lambda: kernels.agreement(view, others, 0.02)

    view, *others = (
        DepthMap(
            depth=torch.full_like(k.grey, 2.0),
            usable=torch.ones_like(k.grey, dtype=torch.bool),
            camera=k.camera,
            world_from_cam=k.world_from_cam,
        )
        for k in prepare_views(wall_keyframes(*size, _WITNESSES + 1), max(size), _CPU)
    )
    row = _row("cross-view check", *size, _WITNESSES, None, None)
    return row | compared(checked(native), checked(TorchKernels()), repeats, baseline_repeats)


def _view_row(case: tuple[int, int, int], repeats: int) -> dict[str, Any]:
    width, height, count = case
    keyframes = wall_keyframes(width, height, count)

    def reconstruct(kernels: str) -> Callable[[], Any]:
        config = PointmapConfig(max_size=max(width, height)).with_own(MultiviewSettings(kernels=kernels))
        return lambda: multiview_depth(keyframes, config, device=_CPU, job=Job(), backend="bench")

    own = MultiviewSettings()
    row = _row(f"whole view, of {count}", width, height, min(own.sources, count - 1), own.planes, own.window)
    return row | _per_view(compared(reconstruct("native"), reconstruct("torch"), min(repeats, 3), 1), count)


def _completion_row(case: tuple[int, int, int], repeats: int) -> dict[str, Any]:
    """The completion network, both passes, beside the guess without learning; its speed hangs on no weights."""
    width, height, count = case
    views = multiview_depth(
        wall_keyframes(width, height, count), PointmapConfig(max_size=max(width, height)), device=_CPU, job=Job(),
        backend="bench",
    ).views  # fmt: skip
    network = CompletionNetwork(CompletionConfig()).eval()
    given = [completion_view(view, network.config.size) for view in views]
    unit = scene_scale(given) or 1.0
    row = _row(f"completed view, of {count}; beside it the smooth guess", width, height, None, None, None)
    times = compared(
        lambda: predict(network, given, unit),
        lambda: [complete_depth(view.depth, view.confidence, view.rgb) for view in views],
        min(repeats, 3),
        1,
    )
    return row | _per_view(times, count)


def _per_view(times: dict[str, float], count: int) -> dict[str, float]:
    """Times of a run over a number of views, for one of them."""
    return {name: value if name == "ratio" else value / count for name, value in times.items()}


def _row(
    what: str, width: int, height: int, sources: int | None, planes: int | None, window: int | None
) -> dict[str, Any]:
    size = {"what": what, "size": f"{width}x{height}", "sources": sources, "planes": planes, "window": window}
    return size | {"threads": torch.get_num_threads()}

"""How fast the compiled kernels are, each beside its plain-torch twin in the same run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from reconx_ros.core import SE3, GaussianScene, Job, PinholeCamera, SequenceView, ViewSequence
from reconx_ros.native.timing import compared, median_ms
from reconx_ros.splatting.backends.native import NativeRasterizer
from reconx_ros.splatting.backends.native_ssim import native_ssim_loss
from reconx_ros.splatting.backends.reference import ReferenceRasterizer
from reconx_ros.splatting.base import Rasterizer, Rendering
from reconx_ros.splatting.config import SplattingConfig
from reconx_ros.splatting.fit import fit
from reconx_ros.splatting.losses import SsimTarget, ssim_map
from reconx_ros.splatting.render import RenderedView, render_scene

CASES = (
    *((256, 256, count) for count in (10_000, 50_000, 100_000, 200_000, 500_000)),
    *((side, side, 50_000) for side in (128, 512, 1024)),
    (512, 320, 50_000),
)
SSIM_SIZES = ((256, 256), (512, 320))
_LEARNED = ("means", "quats_wxyz", "scales", "opacities", "sh")


def run_bench(
    cases: Sequence[tuple[int, int, int]] = CASES,
    ssim_sizes: Sequence[tuple[int, int]] = SSIM_SIZES,
    *,
    repeats: int = 15,
    baseline_repeats: int = 2,
    fit_steps: int = 1000,
) -> list[dict[str, Any]]:
    """Time one training step's rendering and SSIM, forward and backward, on torch's number of threads.

    Args:
        cases: width, height, Gaussians.
        ssim_sizes: width, height.
        repeats: timed runs of ours; the median counts.
        baseline_repeats: timed runs of the baseline, after one that is not timed.
        fit_steps: length of the fit whose parts are timed; 0 leaves it out.

    Returns:
        One row per case: what, size, gaussians and native_forward_ms (None for SSIM), threads, native_ms and torch_ms
        (forward and backward), ratio (torch / native). The last row is a fit: native_ms is a whole step and
        rasterizer_share the rasteriser's part of it, in [0, 1]; it has no baseline.

    Raises:
        BackendUnavailableError: when the kernels are not compiled and cannot be.
    """
    native, reference = NativeRasterizer(), ReferenceRasterizer()
    rows = [_raster_row(native, reference, *case, repeats, baseline_repeats) for case in cases]
    rows += [_ssim_row(width, height, repeats, baseline_repeats) for width, height in ssim_sizes]
    return rows + ([fit_row(256, 256, 50_000, fit_steps)] if fit_steps else [])


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

    forward_ms, _ = median_ms(lambda: native.render(**scene), repeats)
    row = {"what": "rasterizer", "size": f"{width}x{height}", "gaussians": count, "threads": torch.get_num_threads()}
    return row | {"native_forward_ms": forward_ms} | compared(step(native), step(reference), repeats, baseline_repeats)


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
    return row | {"native_forward_ms": None} | compared(ours, theirs, repeats, max(baseline_repeats, 5))


class _Stopwatch(torch.autograd.Function):
    """Passes tensors through; notes when their gradients pass on the way back."""

    @staticmethod
    def forward(ctx: Any, times: list[float], *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        ctx.times = times
        return tuple(t.view_as(t) for t in tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[Any, ...]:
        ctx.times.append(time.perf_counter())
        return (None, *gradients)


class TimedRasterizer:
    """A rasteriser that adds up its own time, forward and backward, in ``seconds``."""

    def __init__(self, rasterizer: Rasterizer) -> None:
        self.name = rasterizer.name
        self._rasterizer = rasterizer
        self._forward = 0.0
        self._starts: list[float] = []
        self._ends: list[float] = []

    @property
    def seconds(self) -> float:
        """Seconds spent since the start."""
        return self._forward + sum(self._ends) - sum(self._starts)

    def render(self, **arguments: Any) -> Rendering:
        """Render as the rasteriser does; see ``Rasterizer.render``."""
        learned = [n for n, v in arguments.items() if isinstance(v, torch.Tensor) and v.requires_grad]
        if learned and torch.is_grad_enabled():
            passed = _Stopwatch.apply(self._ends, *(arguments[n] for n in learned))
            arguments |= dict(zip(learned, passed, strict=True))
        start = time.perf_counter()
        out = self._rasterizer.render(**arguments)
        self._forward += time.perf_counter() - start
        if not out.rgb.requires_grad:
            return out
        rgb, alpha, depth = _Stopwatch.apply(self._starts, out.rgb, out.alpha, out.depth)
        return Rendering(rgb=rgb, alpha=alpha, depth=depth)


def fit_row(width: int, height: int, count: int, steps: int) -> dict[str, Any]:
    """A fit with L1, SSIM and Adam to three pictures of another random scene: time per step and the rasteriser's share.

    Args:
        width, height: size of the pictures.
        count: Gaussians.
        steps: steps of one picture each.
    """
    config = SplattingConfig(steps=steps, max_size=max(width, height), sh_degree=1)
    timed = TimedRasterizer(NativeRasterizer())
    scene, truth = (_as_scene(random_scene(width, height, count, seed=s)) for s in (0, 1))
    camera = PinholeCamera(
        width=width, height=height, fx=0.9 * width, fy=0.9 * width, cx=(width - 1) / 2, cy=(height - 1) / 2
    )
    poses = [SE3(rotation=np.eye(3), translation=np.array([0.1 * k, 0.0, 0.0])) for k in range(3)]
    pictures = render_scene(truth, [(camera, p) for p in poses], rasterizer=timed, device=torch.device("cpu"))
    sequence = ViewSequence(views=tuple(_as_input(p) for p in pictures), backend="bench", generates=False)
    before, after = timed.seconds, []
    job = Job(stage="bench", on_progress=lambda *_: after.append(timed.seconds))
    fitted = fit(scene, sequence, config, rasterizer=timed, device=torch.device("cpu"), job=job)
    parts = ("render", "loss", "backward", "optimizer")
    step_s = sum(fitted.seconds[part] for part in parts) / steps
    inside = (after[-1] - before) / steps / step_s  # the last report comes after the last step
    row = {"what": f"fit, {steps} steps", "size": f"{width}x{height}", "gaussians": count}
    return row | {"threads": torch.get_num_threads(), "native_ms": 1e3 * step_s, "rasterizer_share": inside}


def _as_scene(arguments: dict[str, Any]) -> GaussianScene:
    count = len(arguments["means"])
    return GaussianScene(
        means=arguments["means"],
        quats_wxyz=arguments["quats_wxyz"],
        log_scales=arguments["scales"].log(),
        logit_opacities=torch.logit(arguments["opacities"]),
        sh=arguments["sh"],
        provenance=torch.ones(count, dtype=torch.uint8),
        confidence=torch.ones(count),
        keyframe_ids=torch.zeros(count, dtype=torch.int64),
    )


def _as_input(picture: RenderedView) -> SequenceView:
    return SequenceView(
        rgb=torch.from_numpy(picture.rgb_u8).float() / 255,
        confidence=torch.ones(picture.rgb_u8.shape[:2]),
        provenance=torch.ones(picture.rgb_u8.shape[:2], dtype=torch.uint8),
        camera=picture.camera,
        world_from_cam=picture.world_from_cam,
        is_input=True,
    )

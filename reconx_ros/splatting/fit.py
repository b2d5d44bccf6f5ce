"""The optimisation of stage 3: Gaussians that look like the view sequence (ReconX section 4.4)."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from reconx_ros.core import CancelledError, GaussianScene, InvalidInputError, Job, ReconstructionError, ViewSequence
from reconx_ros.core.checks import check_finite
from reconx_ros.splatting.attribution import attribute
from reconx_ros.splatting.base import ComputesSsim, Rasterizer, Rendering
from reconx_ros.splatting.config import SplattingConfig
from reconx_ros.splatting.corrections import ViewCorrection, ViewCorrections
from reconx_ros.splatting.losses import (
    LossWeights,
    PerceptualLoss,
    SsimLoss,
    torch_ssim_loss,
    view_loss,
)
from reconx_ros.splatting.parameters import SceneParameters, scene_extent
from reconx_ros.splatting.targets import TrainingView, training_views

_PROGRESS_EVERY = 20  # steps


@dataclass(frozen=True, kw_only=True, eq=False)
class FitResult:
    """Outcome of a fit.

    Attributes:
        scene: the Gaussians, on the CPU, with provenance and confidence.
        losses: loss of every step.
        seconds: wall time per part: "prepare", "render", "loss", "backward", "optimizer", "attribution".
        psnr_inputs: mean PSNR in dB over the camera images (over all views if none is), on known pixels, with clipped
            colours, at the training size; None for a fit that was cancelled.
        terms: per term of the loss "on", "off" (weight 0) or "unavailable" (no LPIPS network here).
        corrections: what poses and exposure of each view were changed by, in the order of the sequence; empty unless
            one of them was refined. The scene belongs to the corrected poses.
    """

    scene: GaussianScene
    losses: tuple[float, ...]
    seconds: dict[str, float]
    psnr_inputs: float | None
    terms: dict[str, str]
    corrections: tuple[ViewCorrection, ...] = ()


class FitCancelledError(CancelledError):
    """A fit was cancelled; ``partial`` holds what it had reached.

    The partial scene has the provenance and confidence that the fit was started with.
    """

    def __init__(self, message: str, partial: FitResult) -> None:
        super().__init__(message)
        self.partial = partial


def fit(
    scene: GaussianScene,
    sequence: ViewSequence,
    config: SplattingConfig,
    *,
    rasterizer: Rasterizer,
    device: torch.device,
    job: Job | None = None,
    seed: int = 0,
    perceptual: PerceptualLoss | None = None,
) -> FitResult:
    """Optimise a scene so that it looks like the views.

    No densification, no pruning, no opacity reset. Pixels of provenance NONE have no weight. The same seed gives the
    same order of views.

    Args:
        scene: first Gaussians; all of its parameters but the count change.
        sequence: supervising views.
        config: steps, loss weights, learning rates.
        rasterizer: what renders; it must take tensors of ``device``.
        device: where torch computes.
        job: told of progress about every 20 steps; cancellation is noticed at every step.
        seed: for the order of views.
        perceptual: LPIPS or the like; without it that term is reported as "unavailable".

    Raises:
        InvalidInputError: for a scene with NaN, no view, or no pixel of positive weight.
        ReconstructionError: when the loss stops being finite.
        FitCancelledError: when the job was cancelled; its ``partial`` attribute holds the scene so far.
    """
    run = _Fit(scene, sequence, config, rasterizer, device, perceptual)
    try:
        run.optimize(job or Job(stage="splatting"), seed)
    except CancelledError as error:
        raise FitCancelledError(str(error), run.result(run.parameters.scene().to("cpu"), None)) from error
    return run.finished()


class _Fit:
    """State of one run."""

    def __init__(
        self,
        scene: GaussianScene,
        sequence: ViewSequence,
        config: SplattingConfig,
        rasterizer: Rasterizer,
        device: torch.device,
        perceptual: PerceptualLoss | None,
    ) -> None:
        _check_scene(scene)
        self.seconds = dict.fromkeys(("prepare", "render", "loss", "backward", "optimizer", "attribution"), 0.0)
        self.losses: list[float] = []
        self.config, self.rasterizer, self.perceptual = config, rasterizer, perceptual
        self.ssim_loss = ssim_loss_for(rasterizer)
        with self._timed("prepare"):
            self.views = training_views(sequence, config, device)
            extent = scene_extent(scene, self.views)
            self.parameters = SceneParameters.of(scene, extent, device)
            self.corrections = ViewCorrections(self.views, config, extent)
        self.weights = LossWeights(
            l1=config.weight_l1, ssim=config.weight_ssim, lpips=config.weight_lpips, depth=config.weight_depth
        )

    @contextlib.contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[part] += time.perf_counter() - start

    def optimize(self, job: Job, seed: int) -> None:
        steps = self.config.steps if len(self.parameters.anchors) else 0
        adam, schedule = self.parameters.optimizer(self.config, steps, self.corrections.leaves)
        useful = [i for i, v in enumerate(self.views) if bool((v.target.weight > 0).any())]
        order = _mixed(useful, [v.is_input for v in self.views], self.config.input_share, seed)
        colours = torch.Generator().manual_seed(seed)
        for step in range(steps):
            if step % _PROGRESS_EVERY == 0 or job.token.cancelled:
                last = f", loss {self.losses[-1]:.4f}" if self.losses else ""
                job.step(step / steps, f"step {step} of {steps}{last}")
                job.show(self._preview)
            batch = [next(order) for _ in range(self.config.batch_views)]
            self.losses.append(sum(self._accumulate(index, self._background(colours)) for index in batch) / len(batch))
            _check_loss(self.losses[-1], step, steps)
            with self._timed("optimizer"):
                adam.step()
                schedule.step()
                adam.zero_grad(set_to_none=True)
        job.step(1.0, f"fitted {len(self.parameters.anchors)} Gaussians")

    def _background(self, colours: torch.Generator) -> torch.Tensor | None:
        """Another colour [1, 3] at every step, so that leaving a pixel empty never explains it; None for black."""
        if not self.config.random_background:
            return None
        return torch.rand(1, 3, generator=colours).to(self.views[0].intrinsics)

    def _accumulate(self, index: int, background: torch.Tensor | None) -> float:
        """Add one view's gradients; returns its loss."""
        target = self.views[index].target
        with self._timed("render"):
            picture = self._render(index, background)
        with self._timed("loss"):
            rgb = self.corrections.exposed(index, self.views[index], picture.rgb[0])
            loss = view_loss(rgb, picture.depth[0], target, self.weights, self.perceptual, self.ssim_loss)
        with self._timed("backward"):
            (loss / self.config.batch_views).backward()
        return float(loss.detach())

    def _render(self, index: int, background: torch.Tensor | None = None) -> Rendering:
        view = self.views[index]
        pose = self.corrections.cam_from_world(index, view)
        return self.parameters.render(
            self.rasterizer, view, pose, antialiased=self.config.antialiased, background=background
        )

    @torch.no_grad()
    def _preview(self) -> np.ndarray:
        """The first view as the scene shows it now, [H, W, 3] uint8."""
        pixels = (255 * self._render(0).rgb[0].clamp(0, 1)).round().to(torch.uint8)
        return np.asarray(pixels.cpu().numpy())

    def finished(self) -> FitResult:
        with self._timed("attribution"):
            views = self._corrected_views()
            scene = attribute(self.parameters.scene(), views, self.rasterizer, antialiased=self.config.antialiased)
            psnr = self._psnr_inputs()
        return self.result(scene.to("cpu"), psnr)

    @torch.no_grad()
    def _corrected_views(self) -> list[TrainingView]:
        pairs = enumerate(self.views)
        return [replace(view, cam_from_world=self.corrections.cam_from_world(i, view)) for i, view in pairs]

    @torch.no_grad()
    def _psnr_inputs(self) -> float:
        chosen = [i for i, v in enumerate(self.views) if v.is_input] or range(len(self.views))
        values = []
        for index in chosen:
            view = self.views[index]
            known = view.target.ssim.known[..., 0] > 0
            rgb = self.corrections.exposed(index, view, self._render(index).rgb[0])
            error = (rgb.clamp(0, 1) - view.target.rgb)[known]
            if error.numel():
                values.append(-10 * math.log10(max(float(error.square().mean()), 1e-10)))
        return sum(values) / max(len(values), 1)

    def result(self, scene: GaussianScene, psnr: float | None) -> FitResult:
        refined = enumerate(self.views) if self.corrections.leaves else ()
        return FitResult(
            scene=scene,
            losses=tuple(self.losses),
            seconds=dict(self.seconds),
            psnr_inputs=psnr,
            terms=self._terms(),
            corrections=tuple(self.corrections.report(i, view) for i, view in refined),
        )

    def _terms(self) -> dict[str, str]:
        terms = {name: "on" if getattr(self.weights, name) > 0 else "off" for name in ("l1", "ssim", "lpips", "depth")}
        if terms["lpips"] == "on" and self.perceptual is None:
            terms["lpips"] = "unavailable"
        if terms["depth"] == "on" and all(v.target.depth is None for v in self.views):
            terms["depth"] = "unavailable"
        return terms


def ssim_loss_for(rasterizer: Rasterizer) -> SsimLoss:
    """The rasteriser's own SSIM where it has one, torch's beside any other."""
    return rasterizer.ssim_loss if isinstance(rasterizer, ComputesSsim) else torch_ssim_loss


def _check_scene(scene: GaussianScene) -> None:
    for name in ("means", "quats_wxyz", "log_scales", "logit_opacities", "sh"):
        check_finite(f"gaussian {name}", getattr(scene, name))
    if scene.provenance.dtype != torch.uint8:
        raise InvalidInputError(f"gaussian provenance has type {scene.provenance.dtype}, expected torch.uint8")


def _check_loss(loss: float, step: int, steps: int) -> None:
    if not math.isfinite(loss):
        raise ReconstructionError(
            f"the loss became {loss} at step {step} of {steps}, expected a finite number: lower the learning rates, or "
            "check the views for NaN"
        )


def _mixed(useful: list[int], is_input: list[bool], share: float, seed: int) -> Iterator[int]:
    """Useful views for ever: camera images for a share of the steps, evenly spread, in-between views for the others."""
    kinds = [[i for i in useful if is_input[i] == wanted] for wanted in (True, False)]
    if not all(kinds):
        yield from _shuffled(useful, seed)
    inputs, between = (_shuffled(kind, seed + k) for k, kind in enumerate(kinds))
    due = 0.0
    while True:
        due += share
        is_due = due >= 1 - 1e-9
        due -= is_due
        yield next(inputs if is_due else between)


def _shuffled(items: list[int], seed: int) -> Iterator[int]:
    """All items again and again, each round in another order."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        for place in torch.randperm(len(items), generator=generator).tolist():
            yield items[place]

"""Newton's method with damping on a loss that is smoothed less and less, on few pixels first, then on all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from reconx_ros.core import InvalidInputError, Job
from reconx_ros.pointmap.alignment.newton import FocalTie, assemble, free_unknowns, newton_step
from reconx_ros.pointmap.alignment.normal_equations import ImageSums, PassSettings, image_pass
from reconx_ros.pointmap.alignment.problem import AlignmentProblem
from reconx_ros.pointmap.alignment.state import State

_COLD_ROUNDS = 20  # of the search along rays, from initial depths
_WARM_ROUNDS = 6
_LAST_ROUNDS = 40
_RESOLUTION = 3e-7  # mean residual over mean depth that float32 cannot resolve
_NEAREST = 1e-4  # smallest depth over the median depth
_FIRST_DAMPING, _LEAST_DAMPING, _MOST_DAMPING = 1e-6, 1e-9, 1e3


@dataclass(frozen=True, kw_only=True)
class AlignmentSettings:
    """How the alignment is solved.

    Attributes:
        levels: smoothing lengths, falling, in units of the mean weighted residual.
        max_iterations: most Newton steps per level.
        tolerance: relative decrease of the loss below which a level ends.
        coarse_pixels: pixels per image of the subset that the first levels see; images about this size are used whole.
        focal_from_pointmaps: add what each image's own pointmaps say about its focal length, weighted by their scatter;
            False leaves exactly eq. 2.
        max_memory_gb: refuse to start where the estimate is above; 0 for no limit.
    """

    levels: tuple[float, ...] = (1.0, 0.1, 0.01)
    max_iterations: int = 30
    tolerance: float = 2e-6
    coarse_pixels: int = 12_000
    focal_from_pointmaps: bool = True
    max_memory_gb: float = 0.0

    def __post_init__(self) -> None:
        falling = all(a > b for a, b in zip(self.levels, self.levels[1:], strict=False))
        if not self.levels or not falling or self.levels[-1] <= 0:
            raise InvalidInputError(f"smoothing levels are {self.levels}, expected falling positive numbers")
        for name in ("max_iterations", "coarse_pixels"):
            if getattr(self, name) < 1:
                raise InvalidInputError(f"{name} is {getattr(self, name)}, expected at least 1")
        if self.tolerance <= 0 or self.max_memory_gb < 0:
            raise InvalidInputError(
                f"tolerance is {self.tolerance} and max_memory_gb {self.max_memory_gb}, expected a positive number and "
                "one of at least 0"
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class Solution:
    """Where the solver ended.

    Attributes:
        state: cameras and pairs.
        depths: per image, [P] z-depth.
        initial_loss: eq. 2 at the start, before any depth moved.
        loss: eq. 2 at the end.
        iterations: accepted Newton steps on all pixels and on the subset.
        passes: evaluations of the loss on all pixels, and on the subset.
        history: eq. 2 after each evaluation that was kept, on all pixels.
        converged: whether every level ended by its tolerance.
    """

    state: State
    depths: list[torch.Tensor]
    initial_loss: float
    loss: float
    iterations: tuple[int, int]
    passes: tuple[int, int]
    history: tuple[float, ...]
    converged: bool


@dataclass(eq=False)
class _Run:
    """Newton's method on one set of pixels."""

    problem: AlignmentProblem
    settings: AlignmentSettings
    focals: Callable[[float], FocalTie]
    device: torch.device
    report: Callable[[], None]
    state: State
    sums: list[ImageSums]
    lowest: float
    passes: int = 0
    iterations: int = 0
    converged: bool = True
    history: list[float] = field(default_factory=list)

    @property
    def loss(self) -> float:
        return sum(s.loss for s in self.sums)

    @property
    def mean_residual(self) -> float:
        return self.loss / max(sum(s.weight for s in self.sums), 1e-30)

    def evaluate(
        self, state: State, depths: Sequence[torch.Tensor], smoothing: float, rounds: int, *, accumulate: bool = True
    ) -> list[ImageSums]:
        how = PassSettings(
            smoothing=smoothing, rounds=rounds, accumulate=accumulate, lowest_depth=self.lowest, device=self.device
        )
        self.passes += 1
        sums = []
        for n in range(len(self.problem.images)):
            self.report()
            sums.append(image_pass(self.problem, state, n, depths[n], how))
        return sums

    def depths(self) -> list[torch.Tensor]:
        return [s.depth for s in self.sums]

    def level(self, smoothing: float) -> None:
        """Minimise the loss smoothed by a length."""
        tie = self.focals(self.loss)
        free = free_unknowns(self.problem)
        damping = _FIRST_DAMPING
        self.sums = self.evaluate(self.state, self.depths(), smoothing, _WARM_ROUNDS)
        cost = self._cost(self.sums, self.state, tie)
        for _ in range(self.settings.max_iterations):
            system = assemble(self.problem, self.sums, self.state.log_focals, tie)
            while True:
                step, promise = newton_step(self.problem, system, free, damping)
                if promise <= 0.1 * self.settings.tolerance * cost or damping > _MOST_DAMPING:
                    return
                state = self.state.moved(step)
                sums = self.evaluate(state, self.depths(), smoothing, _WARM_ROUNDS)
                reached = self._cost(sums, state, tie)
                if reached < cost:
                    break
                damping = max(10 * damping, _FIRST_DAMPING)
            decrease, cost = (cost - reached) / cost, reached
            self.state, self.sums, self.iterations = state, sums, self.iterations + 1
            self.history.append(self.loss)
            damping = max(damping / 10, _LEAST_DAMPING)
            if decrease < self.settings.tolerance:
                return
        self.converged = False

    def _cost(self, sums: Sequence[ImageSums], state: State, tie: FocalTie) -> float:
        return sum(s.smoothed for s in sums) + tie.cost(state.log_focals)


def solve(
    problem: AlignmentProblem,
    state: State,
    depths: Sequence[torch.Tensor],
    settings: AlignmentSettings,
    focals: Callable[[float], FocalTie],
    *,
    device: torch.device,
    job: Job,
) -> Solution:
    """Minimise eq. 2 from an initial state.

    The first levels look at a regular subset of pixels where images are large; the remaining ones, all pixels. At the
    end depth is solved for with the plain norm.

    Args:
        problem: observations and what is held.
        state: initial cameras and pairs, with the conventional scale where the unit is free.
        depths: initial z-depths [P], positive.
        settings: how.
        focals: what own pointmaps say, given the current loss.
        device: where torch computes.
        job: progress and cancellation, asked at every image of every pass.

    Raises:
        CancelledError: when the job was cancelled.
    """
    middle = float(torch.cat([d[:: max(1, len(d) // 1000)] for d in depths]).median())
    thin = problem.thinned(settings.coarse_pixels)
    whole_levels = settings.levels if thin is problem else settings.levels[-1:]
    expected = 2 + 4 * len(settings.levels) * len(problem.images)
    progress = _Progress(job, expected * (1 if thin is problem else 2))

    def begin(part: AlignmentProblem, start: State) -> _Run:
        return _Run(
            problem=part,
            settings=settings,
            focals=focals,
            device=device,
            report=progress.advance,
            state=start,
            sums=[],
            lowest=_NEAREST * middle,
        )

    coarse_iterations = coarse_passes = 0
    converged = True
    if thin is not problem:
        run = begin(thin, state)
        picked = [_picked(d, i.pixel_stride, s) for d, i, s in zip(depths, thin.images, problem.sizes, strict=True)]
        run.sums = run.evaluate(state, picked, 0.0, _COLD_ROUNDS, accumulate=False)
        _descend(run, settings.levels, middle)
        coarse_iterations, coarse_passes, converged = run.iterations, run.passes, run.converged
        state = run.state
    run = begin(problem, state)
    run.sums = run.evaluate(state, depths, 0.0, 0, accumulate=False)
    initial = run.loss
    run.sums = run.evaluate(state, run.depths(), 0.0, _COLD_ROUNDS, accumulate=False)
    run.history = [initial, run.loss]
    _descend(run, whole_levels, middle)
    run.sums = run.evaluate(run.state, run.depths(), 0.0, _LAST_ROUNDS, accumulate=False)
    run.history.append(run.loss)
    return Solution(
        state=run.state,
        depths=run.depths(),
        initial_loss=initial,
        loss=run.loss,
        iterations=(run.iterations, coarse_iterations),
        passes=(run.passes, coarse_passes),
        history=tuple(run.history),
        converged=converged and run.converged,
    )


def _descend(run: _Run, levels: Sequence[float], middle: float) -> None:
    """Go through the levels; what is already exact to float32's resolution stays as it is."""
    residual = run.mean_residual
    if residual <= _RESOLUTION * middle:
        return
    for level in levels:
        run.level(max(level * residual, _RESOLUTION * middle))
        residual = min(residual, run.mean_residual)


def _picked(depth: torch.Tensor, stride: int, size: tuple[int, int]) -> torch.Tensor:
    return depth.reshape(size)[stride // 2 :: stride, stride // 2 :: stride].flatten()


class _Progress:
    """Reports a fraction that approaches 1 as work proceeds whose amount is only roughly known."""

    def __init__(self, job: Job, expected: int) -> None:
        self._job, self._expected, self._done = job, expected, 0

    def advance(self) -> None:
        self._done += 1
        self._job.step(1 - float(np.exp(-self._done / self._expected)), "global alignment")

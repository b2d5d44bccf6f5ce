"""The slow, readable twin of the solver: eq. 2 by automatic differentiation and Adam, as DUSt3R minimises it.

Unknowns are log depth, log focal length, unit quaternions, translations in a signed logarithm, and log scales.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from reconx_ros.core import Job
from reconx_ros.core.transforms import quaternion_wxyz_from_rotation
from reconx_ros.geometry.rotations import rotations_from_quaternions_wxyz
from reconx_ros.pointmap.alignment.problem import AlignmentProblem
from reconx_ros.pointmap.alignment.state import LOG_MEAN_SCALE, State

_FOCAL_UNIT = 20.0  # unknown per unit of log focal length
_LAST_RATE = 1e-6


@dataclass(frozen=True, kw_only=True, eq=False)
class AdamResult:
    """Where Adam ended.

    Attributes:
        state, depths: cameras, pairs and z-depths [P].
        losses: eq. 2 before each step, and at the end.
    """

    state: State
    depths: list[torch.Tensor]
    losses: list[float]


def signed_log(values: torch.Tensor) -> torch.Tensor:
    """sign(x) log(1 + |x|)."""
    return values.sign() * values.abs().log1p()


def signed_exp(values: torch.Tensor) -> torch.Tensor:
    """Inverse of ``signed_log``."""
    return values.sign() * values.abs().expm1()


class _Unknowns:
    def __init__(
        self, problem: AlignmentProblem, state: State, depths: Sequence[torch.Tensor], dtype: torch.dtype
    ) -> None:
        def leaf(values: np.ndarray | torch.Tensor) -> torch.Tensor:
            return torch.as_tensor(values).to(dtype).clone().requires_grad_()

        def quaternions(rotations: np.ndarray) -> torch.Tensor:
            return leaf(np.stack([quaternion_wxyz_from_rotation(r) for r in rotations]))

        self._problem = problem
        self.log_depths = [leaf(d.log()) for d in depths]
        self.turns, self.centres = quaternions(state.rotations), leaf(signed_log(torch.tensor(state.centres)))
        self.log_focals = leaf(_FOCAL_UNIT * state.log_focals)
        self.edge_turns = quaternions(state.edge_rotations)
        shifts = torch.tensor(state.edge_translations / np.exp(state.edge_log_scales)[:, None])
        self.edge_shifts, self.log_scales = leaf(signed_log(shifts)), leaf(state.edge_log_scales)

    def all(self) -> list[torch.Tensor]:
        return [
            *self.log_depths,
            self.turns,
            self.centres,
            self.log_focals,
            self.edge_turns,
            self.edge_shifts,
            self.log_scales,
        ]

    def hold(self) -> None:
        """No step for what is known."""
        for n, (pose, focal) in enumerate(zip(self._problem.fixed_pose, self._problem.fixed_focal, strict=True)):
            for values, fixed in ((self.turns, pose), (self.centres, pose), (self.log_focals, focal)):
                if fixed and values.grad is not None:
                    values.grad[n] = 0

    def edge_log_scales(self) -> torch.Tensor:
        if not self._problem.scale_is_free:
            return self.log_scales
        return self.log_scales - self.log_scales.mean() + LOG_MEAN_SCALE

    def loss(self) -> torch.Tensor:
        turns, edge_turns, scales = (
            rotations_from_quaternions_wxyz(self.turns),
            rotations_from_quaternions_wxyz(self.edge_turns),
            self.edge_log_scales().exp(),
        )
        centres, shifts = signed_exp(self.centres), signed_exp(self.edge_shifts)
        total = self.log_scales.new_zeros(())
        for n, image in enumerate(self._problem.images):
            rays = image.offsets.to(self.log_scales.dtype) / (self.log_focals[n] / _FOCAL_UNIT).exp()
            rays = torch.cat([rays, torch.ones_like(rays[:, :1])], dim=1)
            points = (self.log_depths[n].exp()[:, None] * rays) @ turns[n].T + centres[n]
            for o in image.observations:
                predicted, weights = o.read(slice(None), torch.device("cpu"))
                moved = scales[o.edge] * (predicted.to(points.dtype) @ edge_turns[o.edge].T + shifts[o.edge])
                total = total + (weights * (points - moved).norm(dim=1)).sum()
        return total

    def state(self) -> State:
        scales = self.edge_log_scales().detach().double()
        return State(
            rotations=rotations_from_quaternions_wxyz(self.turns).detach().double().numpy(),
            centres=signed_exp(self.centres).detach().double().numpy(),
            log_focals=(self.log_focals / _FOCAL_UNIT).detach().double().numpy(),
            edge_rotations=rotations_from_quaternions_wxyz(self.edge_turns).detach().double().numpy(),
            edge_translations=(scales.exp()[:, None] * signed_exp(self.edge_shifts).detach().double()).numpy(),
            edge_log_scales=scales.numpy(),
        )


def solve_adam(
    problem: AlignmentProblem,
    state: State,
    depths: Sequence[torch.Tensor],
    *,
    iterations: int = 300,
    learning_rate: float = 0.01,
    dtype: torch.dtype = torch.float32,
    job: Job | None = None,
) -> AdamResult:
    """Minimise eq. 2 by Adam with betas (0.9, 0.9) and a cosine schedule.

    Known depth is not supported: it is the fast solver's own.
    """
    job = job or Job(stage="alignment")
    unknowns = _Unknowns(problem, state, depths, dtype)
    optimiser = torch.optim.Adam(unknowns.all(), lr=learning_rate, betas=(0.9, 0.9), eps=1e-8)
    losses = []
    for k in range(iterations):
        job.step(k / iterations, "Adam")
        rate = _LAST_RATE + (learning_rate - _LAST_RATE) * (1 + np.cos(np.pi * k / iterations)) / 2
        optimiser.param_groups[0]["lr"] = rate
        optimiser.zero_grad()
        loss = unknowns.loss()
        loss.backward()
        unknowns.hold()
        optimiser.step()
        losses.append(float(loss.detach()))
    with torch.no_grad():
        losses.append(float(unknowns.loss()))
    return AdamResult(state=unknowns.state(), depths=[d.detach().exp() for d in unknowns.log_depths], losses=losses)

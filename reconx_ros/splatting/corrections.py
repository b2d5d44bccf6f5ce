"""What may be wrong with the views themselves: their poses and their exposure, refined together with the scene."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from reconx_ros.core import SE3
from reconx_ros.geometry.rotations import rotations_exp
from reconx_ros.splatting.config import SplattingConfig
from reconx_ros.splatting.targets import TrainingView


@dataclass(frozen=True, kw_only=True)
class ViewCorrection:
    """How much one view was changed by the fit.

    Attributes:
        moved: distance that the camera centre moved, world unit.
        turned_deg: angle that the camera turned, degrees.
        gain: factor on red, green and blue that turns the scene's colours into this view's.
        bias: what is added to them then.
        world_from_cam: the corrected pose.
    """

    moved: float
    turned_deg: float
    gain: tuple[float, float, float]
    bias: tuple[float, float, float]
    world_from_cam: SE3


class ViewCorrections:
    """Corrections of all views as leaves of the graph; the identity until a step was taken.

    A camera turns about its own centre, in world axes. Corrections are taken relative to their mean over the views, so
    that neither the map frame nor the brightness of the scene drifts: a motion or a gain that all views share is none.
    Exposure is corrected for camera images only.

    Attributes:
        leaves: learning rate and tensor of what is optimised; empty when nothing is refined.
    """

    def __init__(self, views: list[TrainingView], config: SplattingConfig, extent: float) -> None:
        count, device = len(views), views[0].cam_from_world.device
        self._poses_on, self._exposure_on = config.refine_poses, config.refine_exposure
        self._extent = extent
        self._inputs = torch.tensor([v.is_input for v in views], device=device)[:, None]
        zeros = torch.zeros(count, 3, device=device)
        self._turns, self._moves, self._log_gains, self._biases = (zeros.clone().requires_grad_() for _ in range(4))
        self.leaves: list[tuple[float, torch.Tensor]] = []
        if self._poses_on:
            self.leaves += [(config.lr_pose, self._turns), (config.lr_pose, self._moves)]
        if self._exposure_on:
            self.leaves += [(config.lr_exposure, self._log_gains), (config.lr_exposure, self._biases)]

    def cam_from_world(self, index: int, view: TrainingView) -> torch.Tensor:
        """Pose [1, 4, 4] of a view with its correction."""
        if not self._poses_on:
            return view.cam_from_world
        turn = self._turns[index] - self._turns.mean(dim=0)
        move = self._extent * (self._moves[index] - self._moves.mean(dim=0))
        rotation = view.cam_from_world[0, :3, :3]  # cam from world
        centre = -rotation.T @ view.cam_from_world[0, :3, 3]
        turned = rotation @ rotations_exp(turn).T
        top = torch.cat([turned, -(turned @ (centre + move))[:, None]], dim=1)
        return torch.cat([top, view.cam_from_world[0, 3:]])[None]

    def exposed(self, index: int, view: TrainingView, rgb: torch.Tensor) -> torch.Tensor:
        """Colours [..., 3] of the scene as this view would have taken them."""
        if not (self._exposure_on and view.is_input):
            return rgb
        gain, bias = self._exposure(index)
        return rgb * gain + bias

    def _exposure(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        share = self._inputs / self._inputs.sum().clamp_min(1)
        gain = torch.exp(self._log_gains[index] - (share * self._log_gains).sum(dim=0))
        return gain, self._biases[index] - (share * self._biases).sum(dim=0)

    @torch.no_grad()
    def report(self, index: int, view: TrainingView) -> ViewCorrection:
        """What the fit made of one view."""
        before = double_pose(view.cam_from_world[0]).inverse()
        after = double_pose(self.cam_from_world(index, view)[0]).inverse() if self._poses_on else before
        gain, bias = (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)
        if self._exposure_on and view.is_input:
            gain, bias = (tuple(values.tolist()) for values in self._exposure(index))
        return ViewCorrection(
            moved=before.distance_to(after),
            turned_deg=math.degrees(before.angle_to(after)),
            gain=gain,
            bias=bias,
            world_from_cam=after,
        )


def double_pose(matrix: torch.Tensor) -> SE3:
    """The pose of a matrix [4, 4] in double precision, its rotation orthonormal again."""
    return SE3.from_matrix(matrix.double().cpu().numpy())

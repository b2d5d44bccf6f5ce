"""The numbers that are optimised, and the optimiser that knows their step sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from reconx_ros.core import GaussianScene
from reconx_ros.geometry.working_frame import near_plane
from reconx_ros.splatting.base import Rasterizer, Rendering
from reconx_ros.splatting.config import SplattingConfig
from reconx_ros.splatting.targets import TrainingView

_HIGHER_HARMONICS = 0.05  # their step over that of the constant colour, as in 3DGS
_FINAL_STEP = 0.01  # last step of a position over its first
_UNSURE_BOOST = 4.0  # a position of confidence 0 moves this many times further than one of confidence 1


@dataclass(frozen=True, kw_only=True, eq=False)
class SceneParameters:
    """Parameters of N Gaussians as leaves of the graph.

    Positions are ``anchors + reach * offsets``, so that one Adam step moves each Gaussian by its own length.

    Attributes:
        initial: the scene they started from.
        anchors: [N, 3] first positions.
        reach: [N, 1] length of a unit offset.
        offsets: [N, 3].
        quats_wxyz, log_scales, logit_opacities: as in GaussianScene.
        sh_constant: [N, 1, 3].
        sh_rest: [N, K - 1, 3].
        near: near plane in world units.
    """

    initial: GaussianScene
    anchors: torch.Tensor
    reach: torch.Tensor
    offsets: torch.Tensor
    quats_wxyz: torch.Tensor
    log_scales: torch.Tensor
    logit_opacities: torch.Tensor
    sh_constant: torch.Tensor
    sh_rest: torch.Tensor
    near: float

    @classmethod
    def of(cls, scene: GaussianScene, extent: float, device: torch.device) -> SceneParameters:
        """Copy a scene; ``extent`` is its size in world units.

        Unsure Gaussians reach further (InstantSplat's idea: a surer point needs less correction).
        """
        s = scene.to(device)
        boost = 1 + (_UNSURE_BOOST - 1) * (1 - s.confidence.float().clamp(0, 1))
        return cls(
            initial=s,
            anchors=s.means.float(),
            reach=(extent * boost)[:, None],
            offsets=torch.zeros_like(s.means, dtype=torch.float32).requires_grad_(),
            quats_wxyz=_leaf(s.quats_wxyz),
            log_scales=_leaf(s.log_scales),
            logit_opacities=_leaf(s.logit_opacities),
            sh_constant=_leaf(s.sh[:, :1]),
            sh_rest=_leaf(s.sh[:, 1:]),
            near=near_plane(s.means),
        )

    def render(
        self,
        rasterizer: Rasterizer,
        view: TrainingView,
        cam_from_world: torch.Tensor,
        *,
        antialiased: bool,
        background: torch.Tensor | None = None,
    ) -> Rendering:
        """Picture of one view from a pose [1, 4, 4], in the graph, before a colour [1, 3] (None is black)."""
        return rasterizer.render(
            means=self.anchors + self.reach * self.offsets,
            quats_wxyz=self.quats_wxyz,
            scales=self.log_scales.exp(),
            opacities=self.logit_opacities.sigmoid(),
            sh=torch.cat([self.sh_constant, self.sh_rest], dim=1),
            cam_from_world=cam_from_world,
            intrinsics=view.intrinsics,
            width=view.camera.width,
            height=view.camera.height,
            background=background,
            antialiased=antialiased,
            near=self.near,
        )

    def scene(self) -> GaussianScene:
        """The scene as it is now, detached, with the provenance and confidence it started with."""
        with torch.no_grad():
            return GaussianScene(
                means=self.anchors + self.reach * self.offsets,
                quats_wxyz=self.quats_wxyz.detach().clone(),
                log_scales=self.log_scales.detach().clone(),
                logit_opacities=self.logit_opacities.detach().clone(),
                sh=torch.cat([self.sh_constant, self.sh_rest], dim=1),
                provenance=self.initial.provenance,
                confidence=self.initial.confidence,
                keyframe_ids=self.initial.keyframe_ids,
            )

    def optimizer(
        self, config: SplattingConfig, steps: int, decaying: Sequence[tuple[float, torch.Tensor]] = ()
    ) -> tuple[torch.optim.Adam, torch.optim.lr_scheduler.LambdaLR]:
        """Adam with one step size per kind of parameter; that of positions and of ``decaying`` ones falls to 1 %.

        Args:
            config: step sizes.
            steps: length of the optimisation.
            decaying: further (step size, parameter) pairs.
        """
        groups = [
            {"params": [self.offsets], "lr": config.lr_position},
            {"params": [self.quats_wxyz], "lr": config.lr_rotation},
            {"params": [self.log_scales], "lr": config.lr_scale},
            {"params": [self.logit_opacities], "lr": config.lr_opacity},
            {"params": [self.sh_constant], "lr": config.lr_color},
            {"params": [self.sh_rest], "lr": _HIGHER_HARMONICS * config.lr_color},
        ]
        constant = len(groups) - 1
        groups += [{"params": [leaf], "lr": rate} for rate, leaf in decaying]
        fused = self.anchors.device.type in ("cpu", "cuda")
        adam = torch.optim.Adam(groups, eps=1e-15, fused=fused)

        def decay(step: int) -> float:
            return float(_FINAL_STEP ** (step / max(steps, 1)))

        schedule = [decay, *[lambda _: 1.0] * constant, *[decay] * len(decaying)]
        return adam, torch.optim.lr_scheduler.LambdaLR(adam, schedule)


def _leaf(value: torch.Tensor) -> torch.Tensor:
    return value.detach().float().clone().requires_grad_()


def scene_extent(scene: GaussianScene, views: list[TrainingView]) -> float:
    """Median distance of the Gaussians from the mean camera, in world units; 1 for an empty scene."""
    if not len(scene):
        return 1.0
    centres = torch.cat([torch.linalg.inv(v.cam_from_world)[:, :3, 3] for v in views]).cpu()
    distances = (scene.means.detach().cpu().float() - centres.mean(dim=0)).norm(dim=-1)
    return max(float(distances.median()), 1e-6)

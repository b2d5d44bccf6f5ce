"""Where the held-out cameras stand in the map of a method that found the poses of its inputs itself.

(a) Sim(3)-aligned: the similarity that brings the true input poses onto the found ones carries the true test poses into
the map. (b) Test poses optimised: from there each test pose is moved until the frozen map looks most like the test
picture, which forgives a warped map; it uses the held-out picture, so its figures are never mixed with those of (a).
"""

from __future__ import annotations

import torch

from reconx_ros.core import SE3, AlignedViews, Frame, GaussianScene, InvalidInputError, Job, ReconstructionError, Sim3
from reconx_ros.evaluation.heldout import HeldOutTask
from reconx_ros.geometry.rotations import rotations_exp
from reconx_ros.geometry.umeyama import align_poses
from reconx_ros.geometry.working_frame import in_single_precision, near_plane
from reconx_ros.splatting.base import Rasterizer
from reconx_ros.splatting.config import SplattingConfig
from reconx_ros.splatting.corrections import double_pose
from reconx_ros.splatting.losses import SsimTarget, torch_ssim_loss, weighted_l1

GIVEN, ALIGNED, OPTIMISED = "given poses", "Sim(3)-aligned poses", "test poses optimised"
STEPS = 100
_FIRST_STEP = 5e-3  # radians, and shares of the median depth
_LAST_SHARE = 0.02
_WEIGHT_L1, _WEIGHT_SSIM = 0.8, 0.2


def map_from_truth(task: HeldOutTask, views: AlignedViews) -> Sim3:
    """The similarity from the world of the true poses to that of the map; the identity for given poses.

    Raises:
        ReconstructionError: when fewer than two inputs were joined, or they share one place.
    """
    if task.poses == "given":
        return Sim3.identity()
    joined = {v.keyframe_id: v.world_from_cam for v in views.views}
    ids = sorted(joined)
    try:
        return align_poses([joined[i] for i in ids], [task.truth[i] for i in ids])
    except InvalidInputError as err:
        raise ReconstructionError(
            f"the found poses of {len(ids)} inputs cannot be aligned with the true ones: {err}"
        ) from err


def optimised_pose(
    scene: GaussianScene,
    frame: Frame,
    start: SE3,
    config: SplattingConfig,
    *,
    rasterizer: Rasterizer,
    device: torch.device,
    steps: int = STEPS,
    job: Job | None = None,
) -> SE3:
    """The pose near ``start`` from which the frozen scene looks most like the frame (L1 and SSIM, as the fit).

    Pixels that the scene leaves empty do not count. The best pose of all steps is taken, so that the loss never rises.

    Args:
        scene: on any device; not changed.
        frame: the held-out picture.
        start: world_from_cam to begin with.
        config: ``antialiased``.
        rasterizer, device: who renders, and where.
        steps: of Adam.
        job: cancellation.
    """
    near_origin, local_from_world = in_single_precision(scene)
    fixed = near_origin.to(device)
    truth = frame.rgb().to(device)
    target = SsimTarget.of(truth, torch.ones(truth.shape[:2], dtype=torch.bool, device=device))
    local = start if local_from_world is None else local_from_world @ start
    base = torch.as_tensor(local.matrix, dtype=torch.float32, device=device)
    intrinsics = torch.as_tensor(frame.camera.matrix, dtype=torch.float32, device=device)[None]
    unit = _median_depth(fixed, base)
    turn, move = (torch.zeros(3, device=device, requires_grad=True) for _ in range(2))
    adam = torch.optim.Adam([turn, move], lr=_FIRST_STEP)
    decay = torch.optim.lr_scheduler.LambdaLR(adam, lambda step: _LAST_SHARE ** (step / max(steps, 1)))
    best, least = base, float("inf")
    for step in range(steps + 1):
        if job is not None:
            job.step(step / (steps + 1), "moving a test camera")
        pose = _moved(base, turn, unit * move)
        picture = rasterizer.render(
            means=fixed.means, quats_wxyz=fixed.quats_wxyz, scales=fixed.log_scales.exp(),
            opacities=fixed.logit_opacities.sigmoid(), sh=fixed.sh, cam_from_world=_inverse(pose)[None],
            intrinsics=intrinsics, width=frame.camera.width, height=frame.camera.height,
            antialiased=config.antialiased, near=near_plane(fixed.means),
        )  # fmt: skip
        weight = (picture.alpha[0].detach() >= 0.5).float()
        scale = weight.numel() / weight.sum().clamp_min(1)
        loss = scale * (
            _WEIGHT_L1 * weighted_l1(picture.rgb[0], truth, weight)
            + _WEIGHT_SSIM * torch_ssim_loss(picture.rgb[0], target, weight)
        )
        if float(loss.detach()) < least:
            best, least = pose.detach().clone(), float(loss.detach())
        adam.zero_grad()
        loss.backward()
        adam.step()
        decay.step()
    found = double_pose(best)
    return found if local_from_world is None else local_from_world.inverse() @ found


def _median_depth(scene: GaussianScene, world_from_cam: torch.Tensor) -> float:
    depth = (scene.means - world_from_cam[:3, 3]) @ world_from_cam[:3, 2]
    front = depth[depth > 0]
    return float(front.median()) if len(front) else 1.0


def _moved(base: torch.Tensor, turn: torch.Tensor, move: torch.Tensor) -> torch.Tensor:
    """The pose turned about the camera's own centre and moved, both in the camera's axes."""
    top = torch.cat([base[:3, :3] @ rotations_exp(turn), (base[:3, 3] + base[:3, :3] @ move)[:, None]], dim=1)
    return torch.cat([top, base[3:]])


def _inverse(pose: torch.Tensor) -> torch.Tensor:
    rotation = pose[:3, :3].T
    return torch.cat([torch.cat([rotation, -(rotation @ pose[:3, 3:])], dim=1), pose[3:]])

"""Pictures of a fitted scene, each with depth, confidence and provenance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from reconx_ros.core import BY_TRUST, SE3, GaussianScene, Job, PinholeCamera, Provenance, Trajectory
from reconx_ros.geometry.kinds import surest_majority
from reconx_ros.geometry.working_frame import in_single_precision, near_plane
from reconx_ros.splatting.base import Rasterizer
from reconx_ros.splatting.harmonics import sh_from_rgb
from reconx_ros.splatting.holes import push_pull

_BLACK = (0.0, 0.0, 0.0)
MIN_ALPHA_KNOWN = 0.5  # below it a pixel counts as empty: provenance NONE, depth and confidence 0
_CHANNELS = 3  # of a picture


@dataclass(frozen=True, kw_only=True, eq=False)
class RenderedView:
    """One picture of a scene, as numpy arrays at the edge of the library.

    Attributes:
        rgb_u8: [H, W, 3] uint8.
        depth: [H, W] float32 expected z-depth in the world's unit, 0 where the pixel is empty.
        alpha: [H, W] float32 in [0, 1].
        confidence: [H, W] float32 in [0, 1], blended from the Gaussians; 0 where the pixel is empty.
        provenance: [H, W] uint8: the surest kind whose Gaussians, with those of surer kinds, make up more than half of
            the pixel's alpha; NONE where the pixel is empty, or its Gaussians are of no known kind.
        camera, world_from_cam: where it was rendered from.
    """

    rgb_u8: np.ndarray  # [H, W, 3]
    depth: np.ndarray  # [H, W]
    alpha: np.ndarray  # [H, W]
    confidence: np.ndarray  # [H, W]
    provenance: np.ndarray  # [H, W]
    camera: PinholeCamera
    world_from_cam: SE3


def render_scene(
    scene: GaussianScene,
    views: Trajectory | Sequence[tuple[PinholeCamera, SE3]],
    *,
    rasterizer: Rasterizer,
    device: torch.device,
    background: tuple[float, float, float] = _BLACK,
    antialiased: bool = True,
    fill_holes: bool = False,
    job: Job | None = None,
) -> list[RenderedView]:
    """Render a scene along a trajectory, or from single cameras of any sizes.

    Args:
        scene: N Gaussians; one in double precision is drawn about its own centre.
        views: a trajectory, or pairs of (camera, world_from_cam).
        rasterizer: what renders; it must take tensors of ``device``.
        device: where torch computes.
        background: colour in [0, 1] behind the scene.
        antialiased: as the scene was fitted (``SplattingConfig.antialiased``); the other way, Gaussians smaller than a
            pixel look wrong. Scenes of other programs mostly want False.
        fill_holes: paint what the scene leaves empty with the colours around it (``holes.push_pull``) instead of the
            background; such pixels still have depth and confidence 0 and provenance NONE.
        job: told of progress; cancellation is noticed between pictures.

    Returns:
        One view per pose, in order.

    Raises:
        InvalidInputError: for NaN or infinite parameters.
        CancelledError: when the job was cancelled.
    """
    pairs = [(views.camera, p) for p in views.world_from_cams] if isinstance(views, Trajectory) else list(views)
    job = job or Job(stage="render")
    near_origin, local_from_world = in_single_precision(scene)
    on_device = near_origin.to(device)
    marks = _marks(on_device)
    out = []
    with torch.no_grad():
        for i, (camera, pose) in enumerate(pairs):
            job.step(i / len(pairs), f"view {i + 1} of {len(pairs)}")
            local = pose if local_from_world is None else local_from_world @ pose
            view = _view(on_device, marks, camera, local, rasterizer, background, antialiased, fill_holes)
            out.append(replace(view, world_from_cam=pose))
    return out


@dataclass(frozen=True, kw_only=True, eq=False)
class _Marks:
    """What is drawn beside colours.

    Attributes:
        kinds: those of the scene but its last, whose share is what the others leave of alpha.
        last: the kind that is left.
        harmonics: [N, 1, 3] each, whose colours are, one channel after another: the confidence, a 0 or 1 per kind.
    """

    kinds: tuple[Provenance, ...]
    last: Provenance
    harmonics: tuple[torch.Tensor, ...]

    def shares(self, drawn: Sequence[torch.Tensor], alpha: torch.Tensor) -> dict[Provenance, torch.Tensor]:
        """Alpha [H, W] of each kind, out of the channels that follow the confidence."""
        shares = dict(zip(self.kinds, drawn, strict=False))
        rest = alpha - sum(shares.values(), torch.zeros_like(alpha))
        return {**shares, self.last: rest}


def _marks(scene: GaussianScene) -> _Marks:
    present = set(scene.provenance.unique().tolist())
    kinds = [k for k in (*BY_TRUST, Provenance.NONE) if int(k) in present] or [Provenance.NONE]
    channels = [scene.confidence.float(), *((scene.provenance == int(k)).float() for k in kinds[:-1])]
    channels += [torch.zeros_like(channels[0])] * (-len(channels) % _CHANNELS)
    drawn = sh_from_rgb(torch.stack(channels, dim=-1))[:, None].split(_CHANNELS, dim=-1)
    return _Marks(kinds=tuple(kinds[:-1]), last=kinds[-1], harmonics=tuple(d.contiguous() for d in drawn))


def _view(
    scene: GaussianScene,
    marks: _Marks,
    camera: PinholeCamera,
    world_from_cam: SE3,
    rasterizer: Rasterizer,
    background: tuple[float, float, float],
    antialiased: bool,
    fill_holes: bool,
) -> RenderedView:
    device = scene.means.device
    pose = torch.as_tensor(world_from_cam.inverse().matrix, dtype=torch.float32, device=device)[None]
    intrinsics = torch.as_tensor(camera.matrix, dtype=torch.float32, device=device)[None]
    near = near_plane(scene.means)
    pictures = [
        rasterizer.render(
            means=scene.means,
            quats_wxyz=scene.quats_wxyz,
            scales=scene.log_scales.exp(),
            opacities=scene.logit_opacities.sigmoid(),
            sh=sh,
            cam_from_world=pose,
            intrinsics=intrinsics,
            width=camera.width,
            height=camera.height,
            background=torch.tensor([colour], dtype=torch.float32, device=device),
            antialiased=antialiased,
            near=near,
        )
        for sh, colour in ((scene.sh, _BLACK if fill_holes else background), *((h, _BLACK) for h in marks.harmonics))
    ]
    rgb = pictures[0].rgb[0]
    if fill_holes:
        rgb = push_pull(rgb, pictures[0].alpha[0])
    rgb = (rgb.clamp(0, 1) * 255).round().to(torch.uint8)
    depth, alpha = pictures[0].depth[0], pictures[0].alpha[0]
    confidence, *drawn = torch.cat([p.rgb[0] for p in pictures[1:]], dim=-1).unbind(dim=-1)
    kind = surest_majority(marks.shares(drawn, alpha), alpha)
    return _assembled(rgb, depth, alpha, confidence, kind, camera, world_from_cam)


def _assembled(
    rgb_u8: torch.Tensor,
    depth: torch.Tensor,
    alpha: torch.Tensor,
    confidence: torch.Tensor,
    kind: torch.Tensor,
    camera: PinholeCamera,
    world_from_cam: SE3,
) -> RenderedView:
    known = alpha >= MIN_ALPHA_KNOWN
    return RenderedView(
        rgb_u8=rgb_u8.cpu().numpy(),
        depth=(depth * known).float().cpu().numpy(),
        alpha=alpha.float().clamp(0, 1).cpu().numpy(),
        confidence=(confidence * known).float().clamp(0, 1).cpu().numpy(),
        provenance=(kind * known).cpu().numpy(),
        camera=camera,
        world_from_cam=world_from_cam,
    )

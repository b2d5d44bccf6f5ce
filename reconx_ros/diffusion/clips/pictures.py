"""Keyframes as a video model takes them: one camera and size for all, renders of the scene, holes filled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import torch
import torch.nn.functional as nnf

from reconx_ros.core import (
    AlignedViews,
    InvalidInputError,
    PinholeCamera,
    PointMap,
    Provenance,
    SequenceView,
    Trajectory,
)
from reconx_ros.geometry.projection import pixel_grid
from reconx_ros.geometry.resize import resize_area
from reconx_ros.geometry.view_blending import BlendedView, BlendSettings, blend_views
from reconx_ros.geometry.visibility import Surface, make_surface
from reconx_ros.geometry.warping import sample


def shared_camera(views: Sequence[PointMap], width: int, height: int) -> PinholeCamera:
    """A camera with square pixels that sees as much as possible of what every view's camera sees.

    For views of one camera with square pixels, this is the crop in the middle of the wanted shape.

    Raises:
        InvalidInputError: when the views' fields of view have nothing in common.
    """
    cameras = [v.camera for v in views]
    left, right = max((-0.5 - c.cx) / c.fx for c in cameras), min((c.width - 0.5 - c.cx) / c.fx for c in cameras)
    top, bottom = max((-0.5 - c.cy) / c.fy for c in cameras), min((c.height - 0.5 - c.cy) / c.fy for c in cameras)
    if right <= left or bottom <= top:
        raise InvalidInputError("the keyframes' cameras have no field of view in common, expected similar cameras")
    focal = max(width / (right - left), height / (bottom - top))
    return PinholeCamera(
        width=width,
        height=height,
        fx=focal,
        fy=focal,
        cx=(width - 1) / 2 - focal * (left + right) / 2,
        cy=(height - 1) / 2 - focal * (top + bottom) / 2,
    )


def keyframe_view(view: PointMap) -> SequenceView:
    """A keyframe as a view of the sequence, with confidence 1 everywhere, for a camera took every pixel.

    Pixels are of the pointmap's kind, and INFERRED where it has no depth.
    """
    height, width = view.depth.shape
    return SequenceView(
        rgb=view.rgb.cpu(),
        confidence=torch.ones(height, width),
        provenance=torch.where(view.valid, view.provenance, int(Provenance.INFERRED)).to(torch.uint8).cpu(),
        camera=view.camera,
        world_from_cam=view.world_from_cam,
        is_input=True,
        depth=torch.where(view.valid, view.depth, 0.0).cpu(),
        depth_confidence=view.confidence.cpu(),
    )


def picture_through(view: PointMap, camera: PinholeCamera) -> torch.Tensor:
    """What another camera would have seen from the same pose: [H, W, 3] in [0, 1].

    Shrunk by area first, then sampled bicubically; bit for bit the view's picture where the cameras are equal.
    """
    if camera == view.camera:
        return view.rgb
    ratio = min(1.0, max(camera.fx / view.camera.fx, camera.fy / view.camera.fy))
    source = view.camera.scaled_to(max(1, round(view.camera.width * ratio)), max(1, round(view.camera.height * ratio)))
    rgb = resize_area(view.rgb, source.width, source.height)
    uv = pixel_grid(camera.width, camera.height)
    u = (uv[..., 0] - camera.cx) * (source.fx / camera.fx) + source.cx
    v = (uv[..., 1] - camera.cy) * (source.fy / camera.fy) + source.cy
    picture = sample(rgb.permute(2, 0, 1), torch.stack([u, v]), mode="bicubic")
    return picture.permute(1, 2, 0).clamp(0, 1).contiguous()


def surfaces_from_views(views: AlignedViews, min_confidence: float, device: torch.device) -> list[Surface]:
    """The pointmaps as surfaces that can be rendered; those without a sure pixel are left out."""
    step = BlendSettings().max_step
    made = [make_surface(v, min_confidence=min_confidence, max_step=step, device=device) for v in views.views]
    return [s for s in made if bool((s.depth > 0).any())]


def render_path(surfaces: Sequence[Surface], trajectory: Trajectory) -> tuple[BlendedView, ...]:
    """What the surfaces look like from every pose of a path, on the CPU; nothing is hit where there are none."""
    camera = trajectory.camera
    if not surfaces:
        return (_nothing(camera),) * len(trajectory)
    made = []
    for pose in trajectory.world_from_cams:
        view = blend_views(surfaces, camera, pose)
        made.append(BlendedView(**{f.name: getattr(view, f.name).cpu() for f in fields(view)}))
    return tuple(made)


def _nothing(camera: PinholeCamera) -> BlendedView:
    empty = torch.zeros(camera.height, camera.width)
    return BlendedView(
        rgb=empty[..., None].expand(-1, -1, 3), depth=empty, confidence=empty, provenance=empty.byte(), hit=empty > 0
    )


def fill_holes(rgb: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Pictures [..., H, W, 3] whose unknown pixels take a smooth continuation of the known ones (push-pull pyramid).

    Args:
        rgb: in [0, 1], anything where not known.
        known: [..., H, W] bool. Pictures without a known pixel become grey.
    """
    shape = rgb.shape
    colour = torch.where(known[..., None], rgb, 0.0).reshape(-1, *shape[-3:]).permute(0, 3, 1, 2)
    weight = known.to(rgb.dtype).reshape(-1, 1, *shape[-3:-1])
    return _filled(colour, weight).permute(0, 2, 3, 1).reshape(shape)


def _filled(colour: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """[N, 3, H, W] weighted colours (0 where the weight is 0), weight 0 or 1 at the finest level."""
    if bool((weight > 0).all()):
        return colour / weight
    height, width = colour.shape[-2:]
    if max(height, width) == 1:
        return torch.where(weight > 0, colour / weight.clamp_min(1e-12), 0.5)
    pooled = [nnf.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False) for x in (colour, weight)]
    coarse = _filled(pooled[0], pooled[1])
    wide = nnf.interpolate(coarse, size=(height, width), mode="bilinear", align_corners=False)
    return torch.where(weight > 0, colour / weight.clamp_min(1e-12), wide)

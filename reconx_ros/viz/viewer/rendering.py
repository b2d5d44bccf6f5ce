"""Pictures of a result's scene, drawn by our own rasteriser rather than by the browser."""

from __future__ import annotations

import numpy as np

from reconx_ros.core import SE3, InvalidInputError, PinholeCamera
from reconx_ros.pipeline.selection import choose_device
from reconx_ros.splatting.config import SplattingConfig
from reconx_ros.splatting.render import render_scene
from reconx_ros.splatting.select import select_rasterizer
from reconx_ros.viz.canvas import confidence_picture, depth_picture, depth_range
from reconx_ros.viz.palette import provenance_picture
from reconx_ros.viz.viewer.data import Render, RenderedPicture, ViewerData

PICTURE, DEPTH, CONFIDENCE, PROVENANCE = "picture", "depth", "confidence", "provenance"
KINDS = (PICTURE, DEPTH, CONFIDENCE, PROVENANCE)


def scene_renderer(data: ViewerData) -> Render | None:
    """What draws the scene of a result; None where it has none.

    Raises:
        BackendUnavailableError: when no rasteriser runs here.
    """
    scene = data.scene
    if scene is None:
        return None
    device = choose_device("auto")
    rasterizer = select_rasterizer(SplattingConfig(), device)

    def render(camera: PinholeCamera, world_from_cam: SE3) -> RenderedPicture:
        views = [(camera, world_from_cam)]
        view = render_scene(scene, views, rasterizer=rasterizer, device=device, antialiased=data.antialiased)[0]
        return RenderedPicture(
            rgb_u8=view.rgb_u8, depth=view.depth, provenance=view.provenance, confidence=view.confidence
        )

    return render


def picture_from_render(rendered: RenderedPicture, kind: str) -> np.ndarray:
    """One layer of a rendering as [H, W, 3] uint8.

    Raises:
        InvalidInputError: for confidence that the renderer did not tell.
    """
    if kind == DEPTH:
        return depth_picture(rendered.depth, *depth_range([rendered.depth]))
    if kind == PROVENANCE:
        return provenance_picture(rendered.provenance)
    if kind == CONFIDENCE:
        if rendered.confidence is None:
            raise InvalidInputError(
                "the server's pictures come without confidence: choose picture, depth or provenance"
            )
        return confidence_picture(rendered.confidence)
    return rendered.rgb_u8

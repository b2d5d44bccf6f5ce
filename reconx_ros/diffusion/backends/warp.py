"""The view generator that generates nothing: in-between views show what the keyframes saw."""

from __future__ import annotations

import torch

from reconx_ros.core import AlignedViews, Job, Provenance, SequenceView, Trajectory, ViewSequence
from reconx_ros.diffusion.clips.pictures import keyframe_view
from reconx_ros.diffusion.config import DiffusionConfig
from reconx_ros.geometry.view_blending import BlendSettings, blend_views
from reconx_ros.geometry.visibility import make_surface


class WarpGenerator:
    """Renders the pointmaps along the path; pixels that no keyframe saw stay empty."""

    name = "warp"

    def generate(
        self, views: AlignedViews, trajectory: Trajectory, config: DiffusionConfig, *, device: torch.device, job: Job
    ) -> ViewSequence:
        """Frames along the trajectory; see ``ViewGenerator``.

        Keyframes have confidence 1 everywhere (``keyframe_view``). Pixels of in-between views are of the kind of the
        surfaces that they show, with a confidence below 1, and NONE where no keyframe has a surface.
        """
        settings = BlendSettings()
        surfaces = [
            make_surface(v, min_confidence=config.min_confidence, max_step=settings.max_step, device=device)
            for v in views.views
        ]
        frames = [keyframe_view(v) for v in views.views]
        for k, world_from_cam in enumerate(trajectory.world_from_cams):
            job.step(k / len(trajectory), f"view {k + 1} of {len(trajectory)}")
            view = blend_views(surfaces, trajectory.camera, world_from_cam, settings)
            frames.append(
                SequenceView(
                    rgb=view.rgb.cpu(),
                    confidence=view.confidence.cpu(),
                    provenance=view.provenance.cpu(),
                    camera=trajectory.camera,
                    world_from_cam=world_from_cam,
                    is_input=False,
                    depth=view.depth.cpu(),
                )
            )
        job.step(1.0, "done")
        warning = _warning(frames[len(views.views) :])
        return ViewSequence(views=tuple(frames), backend=self.name, generates=False, warnings=(warning,))


def _warning(between: list[SequenceView]) -> str:
    text = "the warp backend generates nothing: in-between views show only what a keyframe saw"
    if not between:
        return text
    empty = sum(float((v.provenance == int(Provenance.NONE)).float().mean()) for v in between) / len(between)
    return f"{text}, and {100 * empty:.0f} % of their pixels are empty"

"""What the stages hand to each other, into the frame they work in and back (``reconx_ros.geometry.working_frame``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from reconx_ros.core import (
    SE3,
    AlignedViews,
    GaussianScene,
    Keyframe,
    PointCloud,
    Sim3,
    Trajectory,
    ViewSequence,
)
from reconx_ros.geometry.working_frame import moved_cloud, moved_scene, working_from_world
from reconx_ros.pointmap.scale import transformed
from reconx_ros.splatting.fit import FitResult
from reconx_ros.splatting.render import RenderedView

_SAMPLE = 4096


@dataclass(frozen=True, kw_only=True)
class Moved:
    """Brings stage results from one frame to another of the same axes; None changes nothing.

    Attributes:
        new_from_old: what is applied.
    """

    new_from_old: Sim3 | None

    @property
    def back(self) -> Moved:
        """The other way."""
        return Moved(new_from_old=None if self.new_from_old is None else self.new_from_old.inverse())

    def pose(self, pose: SE3) -> SE3:
        """A camera."""
        return pose if self.new_from_old is None else self.new_from_old.apply_pose(pose)

    def keyframes(self, keyframes: Sequence[Keyframe]) -> list[Keyframe]:
        """Keyframes; those without a pose, and all depth, stay as they are."""
        return [
            k
            if k.frame.world_from_cam is None
            else replace(k, frame=replace(k.frame, world_from_cam=self.pose(k.frame.world_from_cam)))
            for k in keyframes
        ]

    def views(self, views: AlignedViews) -> AlignedViews:
        """Stage 1's result."""
        to = self.new_from_old
        if to is None:
            return views
        return replace(
            views,
            views=tuple(transformed(v, to) for v in views.views),
            pose_corrections=tuple(replace(c, moved=to.scale * c.moved) for c in views.pose_corrections),
        )

    def sequence(self, sequence: ViewSequence) -> ViewSequence:
        """Stage 2's result."""
        to = self.new_from_old
        if to is None:
            return sequence
        views = tuple(
            replace(
                v,
                world_from_cam=to.apply_pose(v.world_from_cam),
                depth=None if v.depth is None else to.scale * v.depth,
            )
            for v in sequence.views
        )
        return replace(sequence, views=views)

    def fitted(self, fitted: FitResult) -> FitResult:
        """Stage 3's result."""
        to = self.new_from_old
        if to is None:
            return fitted
        corrections = tuple(replace(c, moved=to.scale * c.moved) for c in fitted.corrections)
        return replace(fitted, scene=self.scene(fitted.scene), corrections=corrections)

    def scene(self, scene: GaussianScene) -> GaussianScene:
        """Gaussians."""
        return scene if self.new_from_old is None else moved_scene(scene, self.new_from_old)

    def cloud(self, cloud: PointCloud) -> PointCloud:
        """Points."""
        return cloud if self.new_from_old is None else moved_cloud(cloud, self.new_from_old)

    def trajectory(self, path: Trajectory) -> Trajectory:
        """Poses of novel views."""
        return replace(path, world_from_cams=tuple(self.pose(p) for p in path.world_from_cams))

    def rendered(self, views: Sequence[RenderedView]) -> tuple[RenderedView, ...]:
        """Pictures of a scene."""
        to = self.new_from_old
        if to is None:
            return tuple(views)
        return tuple(
            replace(v, world_from_cam=to.apply_pose(v.world_from_cam), depth=np.float32(to.scale) * v.depth)
            for v in views
        )

    def described(self) -> dict[str, Any] | None:
        """For the report: where the working frame's origin lies in the world, and its unit in world units."""
        if self.new_from_old is None:
            return None
        world_from_working = self.new_from_old.inverse()
        return {"origin": world_from_working.translation.tolist(), "unit": world_from_working.scale}


def centred(keyframes: Sequence[Keyframe]) -> Moved:
    """To a frame about the mean of the given cameras, where they lie far from the origin; the unit stays."""
    poses = [k.frame.world_from_cam for k in keyframes if k.frame.world_from_cam is not None]
    return Moved(new_from_old=working_from_world(poses) if poses else None)


def working(views: AlignedViews) -> Moved:
    """To the frame that stages 2 and 3 work in."""
    return Moved(new_from_old=working_from_world([v.world_from_cam for v in views.views], _median_depth(views)))


def _median_depth(views: AlignedViews) -> float | None:
    depths = torch.cat([v.depth[v.valid][:: 1 + int(v.valid.sum()) // _SAMPLE] for v in views.views])
    return float(depths.median()) if len(depths) else None

"""What a third party would install: a matcher, here one that knows where the cameras of a test stood."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from test_structure_from_motion import arc

from reconx_ros.core import Keyframe
from reconx_ros.core.registry import BackendInfo
from reconx_ros.geometry.projection import project
from reconx_ros.pointmap.matching.features import Features, Matches

_POINTS = np.random.default_rng(0).uniform((0.0, -1.5, 0.2), (3.0, 1.5, 1.8), (150, 3))
_CAM_FROM_WORLD = [pose.inverse() for pose in arc(6)]

ROW = BackendInfo(name="oracle", target="oracle_matcher:OracleMatcher", summary="knows the answer", licence_code="MIT")


class OracleMatcher:
    """Projects made-up points into the cameras of ``arc``; a descriptor is a point's number."""

    name = "oracle"
    cost_s = 0.001
    doubtful = False

    def features(
        self, keyframes: Sequence[Keyframe], *, device: torch.device, limit: int | None = None
    ) -> Iterator[Features]:
        """The points that each camera sees."""
        for keyframe in keyframes:
            camera = keyframe.frame.camera
            points_cam = torch.from_numpy(_CAM_FROM_WORLD[keyframe.id].apply(_POINTS)).to(device)
            uv, depth = (t.numpy() for t in project(points_cam, camera))
            inside = (uv > 0).all(axis=1) & (uv < np.array(camera.size) - 1).all(axis=1) & (depth > 0)
            numbers = np.flatnonzero(inside)[:limit]
            yield Features(uv=uv[numbers], camera=camera, descriptors=numbers)

    def match(self, pairs: Sequence[tuple[Features, Features]], *, device: torch.device) -> Iterator[Matches]:
        """The points that both see."""
        for a, b in pairs:
            _, ia, ib = np.intersect1d(a.descriptors, b.descriptors, return_indices=True)
            yield Matches(index=np.stack([ia, ib], axis=1), ratio=np.full(len(ia), 0.1))

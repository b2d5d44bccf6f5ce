"""RGB-D keyframes as they are: the sensor's depth on the working grid, with a confidence."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as nnf

from reconx_ros.core import AlignedViews, InvalidInputError, Job, Keyframe, PointMap, ReconstructionError
from reconx_ros.geometry.resize import resize_area, resize_nearest
from reconx_ros.pointmap.confidence import TRUSTED_ERROR
from reconx_ros.pointmap.config import PointmapConfig
from reconx_ros.pointmap.views import pose_of

_EDGE_BEND = 0.03  # relative bend of inverse depth at which trust falls to 1 / e
_HOLE_BEND = 0.02  # bend assumed next to a hole: flying pixels gather there


def range_trust(depth_m: torch.Tensor) -> torch.Tensor:
    """Chance [H, W] that sensor noise stays below 2 % of the depth.

    Axial noise of structured-light and stereo sensors, sigma = 1.2 mm + 1.9 mm / m^2 * (z - 0.4 m)^2 (Nguyen, Izadi
    and Lovell, "Modeling Kinect sensor noise for improved 3D reconstruction and tracking", 3DIMPVT 2012).
    """
    sigma_m = 0.0012 + 0.0019 * (depth_m - 0.4) ** 2
    return torch.erf(TRUSTED_ERROR * depth_m / (sigma_m * 2**0.5))


def surface_bend(depth: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Relative second difference [H, W] of inverse depth, the larger of both axes; zero on every plane, slanted or not.

    Next to a hole, where it cannot be measured, a moderate bend is assumed.
    """
    inverse = torch.where(valid, 1 / depth.clamp_min(1e-6), torch.nan)
    padded = nnf.pad(inverse[None, None], (1, 1, 1, 1), mode="replicate")[0, 0]
    middle = padded[1:-1, 1:-1]
    across = (padded[1:-1, 2:] + padded[1:-1, :-2] - 2 * middle).abs() / middle
    along = (padded[2:, 1:-1] + padded[:-2, 1:-1] - 2 * middle).abs() / middle
    return torch.maximum(across, along).nan_to_num(_HOLE_BEND)


def _require_usable(keyframes: Sequence[Keyframe], config: PointmapConfig) -> None:
    if not keyframes:
        raise InvalidInputError("depth_sensor got no keyframes, expected at least one")
    if not config.use_depth:
        raise InvalidInputError("pointmap backend is depth_sensor but use_depth is false, expected use_depth: true")
    missing = [str(k.id) for k in keyframes if k.frame.depth_m is None]
    if missing:
        raise InvalidInputError(
            f"{len(missing)} of {len(keyframes)} keyframes have no depth image (keyframe {', '.join(missing[:8])}), "
            "expected depth on every keyframe, or the backend multiview"
        )


def _pointmap(keyframe: Keyframe, config: PointmapConfig, device: torch.device) -> PointMap:
    frame = keyframe.frame
    camera = frame.camera.fitted_to(config.max_size)
    raw = torch.from_numpy(np.array(frame.depth_m, dtype=np.float32)).to(device)
    depth = resize_nearest(raw, camera.width, camera.height)
    far = config.max_depth or torch.inf
    valid = torch.isfinite(depth) & (depth > max(config.min_depth, 0.0)) & (depth <= far)
    depth = torch.where(valid, depth, 1.0)
    trust = range_trust(depth) * torch.exp(-surface_bend(depth, valid) / _EDGE_BEND)
    return PointMap(
        rgb=resize_area(frame.rgb().to(device), camera.width, camera.height).cpu(),
        depth=depth.cpu(),
        confidence=(trust.clamp(0, 1) * valid).cpu(),
        valid=valid.cpu(),
        camera=camera,
        world_from_cam=pose_of(keyframe),
        keyframe_id=keyframe.id,
    )


class DepthSensorBackend:
    """Stage 1 for RGB-D frames with known poses: no matching, the depth image is the geometry.

    Depth goes to the working grid by nearest neighbour, so that no value is mixed across an edge; 0, NaN, infinity and
    what lies outside ``min_depth`` to ``max_depth`` are invalid.
    """

    name = "depth_sensor"

    def reconstruct(
        self, keyframes: Sequence[Keyframe], config: PointmapConfig, *, device: torch.device, job: Job
    ) -> AlignedViews:
        """Depth, confidence and camera of every keyframe, as ``PointmapBackend`` says; one keyframe is enough.

        Raises:
            InvalidInputError: for a keyframe without depth or pose, or when ``use_depth`` is off.
            ReconstructionError: when no depth image holds a usable value.
            CancelledError: when the job was cancelled.
        """
        _require_usable(keyframes, config)
        views = []
        for i, keyframe in enumerate(keyframes):
            job.step(i / len(keyframes), f"reading depth {i + 1} of {len(keyframes)}")
            views.append(_pointmap(keyframe, config, device))
        empty = [str(v.keyframe_id) for v in views if not bool(v.valid.any())]
        if len(empty) == len(views):
            raise ReconstructionError(
                f"none of the {len(views)} depth images has a usable value, expected metres between "
                f"{config.min_depth:g} and {config.max_depth or float('inf'):g}"
            )
        warnings = (f"the depth image of keyframe {', '.join(empty)} has no usable value",) if empty else ()
        return AlignedViews(
            views=tuple(views), metric_scale=True, scale_source="depth sensor", backend=self.name, warnings=warnings
        )

"""A sensor's depth: brought to the working grid, with a confidence, and its holes filled by depth of several views."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as nnf

from reconx_ros.core import (
    AlignedViews,
    InvalidInputError,
    Job,
    Keyframe,
    PointMap,
    Provenance,
    ReconstructionError,
)
from reconx_ros.geometry.resize import resize_area, resize_nearest
from reconx_ros.pointmap.config import PointmapConfig
from reconx_ros.pointmap.stereo.confidence import TRUSTED_ERROR
from reconx_ros.pointmap.stereo.consistency import agreement, tested
from reconx_ros.pointmap.stereo.views import known_pose

_EDGE_BEND = 0.03  # relative bend of inverse depth at which trust falls to 1 / e
_HOLE_BEND = 0.02  # bend assumed next to a hole: flying pixels gather there
_SURE = 0.5  # confidence from which a sensor's pixel judges depth from several views
_MIN_COMMON_PX = 100
_MIN_AGREEMENT = 0.3  # share of agreeing pixels below which the poses do not allow filling


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


def _require_usable(keyframes: Sequence[Keyframe], backend: str) -> None:
    if not keyframes:
        raise InvalidInputError(f"{backend} got no keyframes, expected at least one")
    if all(k.frame.depth_m is None for k in keyframes):
        raise InvalidInputError(
            f"none of the {len(keyframes)} keyframes has a depth image that may be used, expected pointmap.use_depth "
            f"and depth, or another backend than {backend}"
        )


def _pointmap(keyframe: Keyframe, config: PointmapConfig, device: torch.device) -> PointMap:
    frame = keyframe.frame
    camera = frame.camera.fitted_to(config.max_size)
    known = np.zeros((camera.height, camera.width)) if frame.depth_m is None else frame.depth_m
    raw = torch.from_numpy(np.array(known, dtype=np.float32)).to(device)
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
        provenance=Provenance.OBSERVED.where(valid).cpu(),
        camera=camera,
        world_from_cam=known_pose(keyframe),
        keyframe_id=keyframe.id,
    )


def _read(keyframes: Sequence[Keyframe], config: PointmapConfig, device: torch.device, job: Job) -> list[PointMap]:
    views = []
    for i, keyframe in enumerate(keyframes):
        job.step(i / len(keyframes), f"reading depth {i + 1} of {len(keyframes)}")
        views.append(_pointmap(keyframe, config, device))
    if not any(bool(v.valid.any()) for v in views):
        raise ReconstructionError(
            f"none of the {len(views)} depth images has a usable value, expected metres between "
            f"{config.min_depth:g} and {config.max_depth or float('inf'):g}"
        )
    return views


def sensor_depth(
    keyframes: Sequence[Keyframe], config: PointmapConfig, *, device: torch.device, job: Job, backend: str
) -> AlignedViews:
    """The depth images of posed frames as they are, on the working grid; one keyframe is enough.

    Depth goes there by nearest neighbour, so that no value is mixed across an edge; 0, NaN, infinity and what lies
    outside ``min_depth`` to ``max_depth`` are holes, and a keyframe without a depth image is one hole.

    Args:
        keyframes: with poses, at least one with depth.
        config: the stage's settings.
        device: where torch computes.
        job: progress and cancellation.
        backend: in whose name.

    Raises:
        InvalidInputError: for a keyframe without pose, or when none has depth.
        ReconstructionError: when no depth image holds a usable value.
        CancelledError: when the job was cancelled.
    """
    _require_usable(keyframes, backend)
    views = _read(keyframes, config, device, job)
    warnings = _absence(keyframes, views)
    return AlignedViews(views=tuple(views), metric_scale=True, scale_source="depth", backend=backend, warnings=warnings)


def _absence(keyframes: Sequence[Keyframe], views: Sequence[PointMap]) -> tuple[str, ...]:
    """Sentences about keyframes without a depth image, and about depth images that hold nothing."""
    absent = [str(k.id) for k in keyframes if k.frame.depth_m is None]
    empty = [str(v.keyframe_id) for v in views if not bool(v.valid.any()) and str(v.keyframe_id) not in absent]
    told = []
    if absent:
        told.append(f"keyframe {', '.join(absent)} has no depth image, so that the map lacks what only it shows")
    if empty:
        told.append(f"the depth image of keyframe {', '.join(empty)} has no usable value")
    return tuple(told)


def filled_depth(found: AlignedViews, swept: AlignedViews, tolerance: float) -> AlignedViews:
    """Sensor depth with holes filled where that can be trusted, at the poses of the depth from several views.

    A hole takes the depth that several views agree on, where no other sensor image contradicts it; sensor depth stays
    as it is.

    Args:
        found: of ``sensor_depth``.
        swept: of the same keyframes by multi-view stereo.
        tolerance: relative depth difference up to which two views agree.
    """
    views = [replace(v, world_from_cam=s.world_from_cam) for v, s in zip(found.views, swept.views, strict=True)]
    rates = [sensor_agreement(view, sweep) for view, sweep in zip(views, swept.views, strict=True)]
    return replace(
        found,
        views=tuple(
            filled_view(view, sweep, rate, [o for o in views if o is not view], tolerance)
            if rate is not None and rate.share >= _MIN_AGREEMENT
            else view
            for view, sweep, rate in zip(views, swept.views, rates, strict=True)
        ),
        warnings=(*found.warnings, *_fill_warnings(views, rates)),
        pose_corrections=swept.pose_corrections,
        matchers=swept.matchers,
    )


@dataclass(frozen=True, kw_only=True)
class SensorAgreement:
    """How depth from several views compares with the sensor's, where a view has both.

    Attributes:
        share: of these pixels within ``TRUSTED_ERROR``, in [0, 1].
        expected: mean confidence of the depth from several views there, which foretells that share.
        pixels: how many there are.
    """

    share: float
    expected: float
    pixels: int


def sensor_agreement(sensor: PointMap, swept: PointMap) -> SensorAgreement | None:
    """Compare two depth maps of one view; None where too few pixels are sure in both."""
    both = sensor.valid & swept.valid & (sensor.confidence >= _SURE)
    count = int(both.sum())
    if count < _MIN_COMMON_PX:
        return None
    error = (swept.depth[both] - sensor.depth[both]).abs() / sensor.depth[both]
    return SensorAgreement(
        share=float((error <= TRUSTED_ERROR).float().mean()),
        expected=float(swept.confidence[both].mean()),
        pixels=count,
    )


def filled_view(
    sensor: PointMap, swept: PointMap, rate: SensorAgreement, others: Sequence[PointMap], tolerance: float
) -> PointMap:
    """Sensor depth where there is any, else depth from several views that no other sensor image looks through.

    The confidence of a filled pixel is that of the depth from several views, lowered by as much as it promised more
    than it kept where the sensor could tell. Filled pixels are OBSERVED too: several views measured them.

    Args:
        sensor, swept: two maps of one view.
        rate: how they compare (``sensor_agreement``).
        others: sensor maps of other views.
        tolerance: relative depth difference up to which two views agree.
    """
    told = agreement(tested(swept), [tested(o) for o in others], tolerance)
    hole = ~sensor.valid & swept.valid & (told.denies <= told.agrees)
    kept = min(1.0, rate.share / max(rate.expected, 1e-6))
    return replace(
        sensor,
        depth=torch.where(hole, swept.depth, sensor.depth),
        confidence=torch.where(hole, swept.confidence * kept, sensor.confidence),
        valid=sensor.valid | hole,
        provenance=torch.where(hole, swept.provenance, sensor.provenance),
    )


def _fill_warnings(views: Sequence[PointMap], rates: Sequence[SensorAgreement | None]) -> tuple[str, ...]:
    unknown = [str(v.keyframe_id) for v, r in zip(views, rates, strict=True) if r is None]
    worse = [
        f"{v.keyframe_id} ({100 * r.share:.0f} %)"
        for v, r in zip(views, rates, strict=True)
        if r is not None and r.share < _MIN_AGREEMENT
    ]
    notes = []
    if unknown:
        notes.append(
            f"holes of the sensor's depth stay open in keyframe {', '.join(unknown)}: fewer than {_MIN_COMMON_PX} "
            "pixels have depth from the sensor and from several views"
        )
    if worse:
        notes.append(
            f"holes of the sensor's depth stay open in keyframe {', '.join(worse)}: so many pixels only agree within "
            f"{100 * TRUSTED_ERROR:.0f} % with depth from several views, expected {100 * _MIN_AGREEMENT:.0f} % (are "
            "the poses accurate?)"
        )
    return tuple(notes)

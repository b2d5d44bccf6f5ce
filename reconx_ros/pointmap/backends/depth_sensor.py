"""RGB-D keyframes as they are; on request, the sensor's holes are filled by multi-view stereo."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from reconx_ros.core import AlignedViews, InsufficientParallaxError, Job, Keyframe, ReconstructionError
from reconx_ros.pointmap.config import PointmapConfig
from reconx_ros.pointmap.sfm.posed_depth import posed_depth
from reconx_ros.pointmap.stereo.depth_sensor import filled_depth, sensor_depth
from reconx_ros.pointmap.stereo.memory import sensor_bytes
from reconx_ros.pointmap.stereo.settings import DepthSensorSettings

_READ_SHARE = 0.05  # of the progress bar, when holes are filled


class DepthSensorBackend:
    """Stage 1 for RGB-D frames with known poses: the depth image is the geometry, as ``sensor_depth``.

    With ``fill_depth``, holes take what ``posed_depth`` finds there, as ``filled_depth`` says.
    """

    name = "depth_sensor"

    def reconstruct(
        self, keyframes: Sequence[Keyframe], config: PointmapConfig, *, device: torch.device, job: Job
    ) -> AlignedViews:
        """Depth, confidence and camera of every keyframe, as ``PointmapBackend`` says; errors as ``sensor_depth``."""
        fills = config.own(DepthSensorSettings).fill_depth and len(keyframes) > 1
        reading = _part(job, 0.0, _READ_SHARE) if fills else job
        found = sensor_depth(keyframes, config, device=device, job=reading, backend=self.name)
        if not fills:
            return found
        filling = _part(job, _READ_SHARE, 1.0)
        try:
            swept = posed_depth(keyframes, config, device=device, job=filling, backend=self.name)
        except (InsufficientParallaxError, ReconstructionError) as err:
            return replace(found, warnings=(*found.warnings, f"holes of the sensor's depth stay open: {err}"))
        return filled_depth(found, swept, config.consistency)

    def estimate_bytes(
        self, keyframes: Sequence[Keyframe], config: PointmapConfig, *, device: torch.device
    ) -> float | None:
        """As ``EstimatesMemory``."""
        return sensor_bytes(keyframes, config, device)


def _part(job: Job, start: float, end: float) -> Job:
    """A job whose progress fills a part of another's."""

    def forward(stage: str, fraction: float, message: str) -> None:
        job.on_progress(stage, start + (end - start) * fraction, message)

    return Job(stage=job.stage, on_progress=forward, token=job.token)

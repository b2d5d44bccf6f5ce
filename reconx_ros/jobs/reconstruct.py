"""What the worker process runs for a job: configuration, reconstruction, result folder, encoded pictures. No ROS."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from reconx_ros.core import SE3, ConfigError, InvalidInputError, Job, PinholeCamera, PointCloud, StorageError
from reconx_ros.core.settings import updated
from reconx_ros.io.images import encode_depth_png, encode_jpeg
from reconx_ros.jobs.data import EncodedView, ErrorCode, JobOutcome, JobRequest
from reconx_ros.jobs.encoding import DEPTH_UNIT, encode_mask_png
from reconx_ros.pipeline.config import ReconxConfig, with_map_axes
from reconx_ros.pipeline.presets import preset_values

Draw = Callable[[PinholeCamera, SE3], Any]
"""Draws the finished scene: anything with rgb_u8, depth (0 where empty) and provenance, as RenderedView has."""

NOVEL_JPEG_QUALITY = 95
_STAGE_SHARES = {"pointmap": (0.0, 0.35), "diffusion": (0.35, 0.45), "splatting": (0.45, 0.92), "render": (0.92, 1.0)}


@dataclass(frozen=True, kw_only=True, eq=False)
class JobOutput:
    """What a worker target returns: the outcome, and how to draw the scene; None when it cannot be drawn."""

    outcome: JobOutcome
    draw: Draw | None = None


def overall_fraction(stage: str, fraction: float) -> float:
    """Progress of the whole job in [0, 1] from the progress of one stage."""
    low, high = _STAGE_SHARES.get(stage, (0.0, 1.0))
    return low + (high - low) * min(max(fraction, 0.0), 1.0)


def job_config(base: ReconxConfig, preset: str, options_yaml: str) -> ReconxConfig:
    """The server's configuration, changed by a preset and then by options as YAML text.

    Raises:
        InvalidInputError: for text that is no YAML mapping.
        ConfigError: for an unknown preset or key, or a value out of range.
    """
    try:
        options = yaml.safe_load(options_yaml) if options_yaml.strip() else {}
    except yaml.YAMLError as error:
        raise InvalidInputError(f"options_yaml is no YAML ({str(error).splitlines()[0]})") from None
    if not isinstance(options, dict):
        raise InvalidInputError(f"options_yaml holds a {type(options).__name__}, expected a mapping of parameters")
    return updated(updated(base, preset_values(preset)), options)


class Reconstructions:
    """Runs jobs with the real reconstruction, one after the other; networks stay loaded between them."""

    def __init__(self) -> None:
        from reconx_ros.weights.cache import ModelCache

        self._models = ModelCache()

    def prepare(self, config: ReconxConfig) -> str:
        """Load what jobs of a configuration will need; one sentence about it.

        Raises:
            ReconxError: as ``pipeline.preparation.prepare``.
        """
        from reconx_ros.pipeline.preparation import prepare

        return prepare(config, self._models)

    def run(self, request: JobRequest, config: ReconxConfig, job: Job, out_dir: Path) -> JobOutput:
        """Run one job.

        Args:
            request: keyframes and options.
            config: the server's configuration.
            job: progress and cancellation.
            out_dir: folder of this job's files, made here.

        Raises:
            ReconxError: as ``Reconstructor.run``.
        """
        from reconx_ros.pipeline.reconstructor import Reconstructor, SceneRenderer

        config = with_map_axes(_configured(config, request))
        keyframes = [keyframe.decoded() for keyframe in request.keyframes]
        result = Reconstructor(config, self._models).run(keyframes, metric_poses=request.metric_poses, job=job)
        outcome = JobOutcome(
            cloud=bounded(result.cloud, config.output.max_points),
            keyframe_poses=dict(result.keyframe_poses),
            novel_views=tuple(encoded_view(view) for view in result.novel_views),
            metric_scale=bool(result.metric_scale),
            report_json=json.dumps(result.report),
        )
        return JobOutput(outcome=_saved(result, outcome, out_dir), draw=SceneRenderer(result.scene, config).render)


def loaded_scene(path: Path, config: ReconxConfig) -> tuple[int, Draw]:
    """A saved scene: the number of its Gaussians, and what draws it.

    Raises:
        StorageError: when the file cannot be read.
        InvalidInputError: when it is no scene.
    """
    from reconx_ros.io.gaussians import read_scene_ply
    from reconx_ros.pipeline.reconstructor import SceneRenderer

    scene = read_scene_ply(path)
    return len(scene), SceneRenderer(scene, config).render


def _configured(config: ReconxConfig, request: JobRequest) -> ReconxConfig:
    try:
        return job_config(config, request.preset, request.options_yaml)
    except ConfigError as error:
        raise InvalidInputError(f"the goal's options cannot be used: {error}") from None


def _saved(result: Any, outcome: JobOutcome, out_dir: Path) -> JobOutcome:
    """The outcome with its folder; where the disk fails, what was computed is still returned."""
    from dataclasses import replace

    from reconx_ros.pipeline.result import save_reconstruction

    try:
        save_reconstruction(result, out_dir)
    except StorageError as error:
        return replace(outcome, error_code=ErrorCode.NO_DISK, error_msg=str(error))
    return replace(outcome, scene_path=str(out_dir))


def bounded(cloud: PointCloud, max_points: int) -> PointCloud:
    """At most this many points, evenly chosen: what a message between computers can carry."""
    if len(cloud) <= max_points:
        return cloud
    return cloud.select(np.linspace(0, len(cloud) - 1, max_points).astype(np.int64))


def encoded_view(view: Any) -> EncodedView:
    """A rendered view ready for the network."""
    return EncodedView(
        camera=view.camera,
        pose=view.world_from_cam,
        image=encode_jpeg(view.rgb_u8, NOVEL_JPEG_QUALITY),
        depth=encode_depth_png(view.depth, DEPTH_UNIT),
        provenance=encode_mask_png(view.provenance),
    )

"""The one configuration tree: node, server, command line and documentation all read it from here.

``node`` says which node reads a setting: the robot's, the server, or both. A section says it for all that is in it.
"""

from __future__ import annotations

from dataclasses import dataclass

from reconx_ros.core import BY_TRUST
from reconx_ros.core.settings import Settings, StageSettings, entries, section, setting, updated
from reconx_ros.diffusion.config import DiffusionConfig
from reconx_ros.pointmap.config import PointmapConfig
from reconx_ros.splatting.config import SplattingConfig


@dataclass(frozen=True, kw_only=True)
class KeyframeConfig(Settings):
    """Which frames are kept."""

    max_buffer: int = setting(64, "Keyframes held in memory; the most redundant is dropped first.", ge=2, le=4096)
    max_per_job: int = setting(12, "Keyframes sent to one reconstruction.", ge=2, le=128, dynamic=True)
    max_size: int = setting(640, "Longer side at which keyframe images are stored.", unit="px", ge=32, le=4096)
    max_overlap: float = setting(
        0.8, "A frame that shares more than this with the last keyframe is not kept.", ge=0.0, le=1.0, dynamic=True
    )
    min_rotation_deg: float = setting(
        15.0, "Turn of the camera that makes a keyframe by itself.", unit="deg", ge=0.0, le=180.0, dynamic=True
    )
    min_baseline_ratio: float = setting(
        0.15, "Move of the camera, over the median scene depth, that makes a keyframe by itself.", ge=0.0, dynamic=True
    )
    min_sharpness_ratio: float = setting(
        0.5,
        "Sharpness, relative to the recent median, below which a frame is too blurred.",
        ge=0.0,
        le=1.0,
        dynamic=True,
    )
    assumed_depth: float = setting(
        2.5,
        "Median scene depth assumed until a depth sensor, or two keyframes of a camera, give it.",
        unit="world unit",
        ge=1e-3,
    )


@dataclass(frozen=True, kw_only=True)
class CoverageConfig(Settings):
    """How well the map explains what the camera sees, and when to reconstruct."""

    grid_width: int = setting(32, "Columns of the coarse image grid.", ge=2, le=512)
    grid_height: int = setting(24, "Rows of the coarse image grid.", ge=2, le=512)
    recent_views: int = setting(8, "Views whose mean coverage decides.", ge=1, le=256, dynamic=True)
    min_confidence: float = setting(
        0.5, "Confidence from which a point explains what is seen.", ge=0.0, le=1.0, dynamic=True, node="both"
    )
    max_angle_deg: float = setting(
        40.0,
        "Largest angle between the present and the mapping view of a point.",
        unit="deg",
        ge=1.0,
        le=180.0,
        dynamic=True,
    )
    max_distance_ratio: float = setting(
        2.0, "Largest ratio between the present and the mapping distance of a point.", ge=1.0, le=100.0, dynamic=True
    )
    trigger_below: float = setting(0.6, "Coverage below which a reconstruction starts.", ge=0.0, le=1.0, dynamic=True)
    rearm_above: float = setting(0.75, "Coverage above which the trigger is armed again.", ge=0.0, le=1.0, dynamic=True)
    cooldown_s: float = setting(3.0, "Least time between two reconstructions.", unit="s", ge=0.0, dynamic=True)
    min_keyframes: int = setting(4, "Keyframes needed before the first reconstruction.", ge=2, le=128, dynamic=True)
    min_new_keyframes: int = setting(
        3, "Keyframes since the last reconstruction that make a further one worth it.", ge=1, le=128, dynamic=True
    )
    min_points: int = setting(3, "Points that must fall into a cell of the grid to explain it.", ge=1, le=10000)


@dataclass(frozen=True, kw_only=True)
class OutputConfig(Settings):
    """What is published and written."""

    min_confidence: float = setting(
        0.5, "Confidence from which a point is exported.", ge=0.0, le=1.0, dynamic=True, node="both"
    )
    kinds: tuple[str, ...] = setting(
        ("observed",),
        "How the place of a point may be known for the cloud to hold it: measured, guessed where a camera saw it, made "
        "up. Coverage counts measured ones only.",
        choices=tuple(kind.word for kind in BY_TRUST),
        formerly=("include_generated",),
        dynamic=True,
    )
    voxel_size: float = setting(
        0.0, "Edge of the voxels the cloud is thinned to; 0 keeps every point.", unit="world unit", ge=0.0, dynamic=True
    )
    max_points: int = setting(1000000, "Upper bound on the points of the cloud.", ge=1, dynamic=True, node="both")
    downsampled_voxel_size: float = setting(
        0.05,
        "Least edge of the voxels that the cloud on points_downsampled is thinned to.",
        unit="world unit",
        ge=0.001,
        dynamic=True,
    )
    max_cloud_bytes: int = setting(
        2000000,
        "Upper bound on the data of the cloud on points_downsampled; its voxels grow until it fits.",
        unit="B",
        ge=1000,
        dynamic=True,
    )
    fill_holes: bool = setting(
        True,
        "Paint the pixels of pictures that the map leaves empty with the colours around them; their provenance stays "
        "NONE, their depth and confidence 0.",
        dynamic=True,
        node="server",
    )
    novel_views: int = setting(12, "Pictures rendered along the path.", ge=0, le=512, node="both")
    novel_view_size: int = setting(
        320, "Longer side of the rendered pictures.", unit="px", ge=16, le=4096, dynamic=True, node="server"
    )


@dataclass(frozen=True, kw_only=True)
class RosConfig(Settings):
    """Topics, frames and timing of the nodes."""

    cameras: tuple[str, ...] = setting(
        ("",), "Namespaces of the cameras; an empty one subscribes to image and camera_info."
    )
    image_transport: str = setting("raw", "How images arrive.", choices=("raw", "compressed"))
    use_depth: bool = setting(False, "Subscribe to depth images.")
    depth_transport: str = setting("raw", "How depth images arrive.", choices=("raw", "compressedDepth"))
    depth_sync: str = setting(
        "approximate",
        "How an image finds its depth: the nearest stamp within depth_tolerance_s, or exactly the same stamp.",
        choices=("approximate", "exact"),
        dynamic=True,
    )
    depth_tolerance_s: float = setting(
        0.02, "Largest difference between the stamps of an image and its depth.", unit="s", ge=0.0, dynamic=True
    )
    rectified: bool = setting(
        False, "Images are rectified already: the projection matrix P is their camera, distortion is ignored."
    )
    map_frame: str = setting("map", "Frame the map is built in.")
    optical_frame: str = setting("", "Camera frame; empty takes the one of the image header.")
    pose_source: str = setting("tf", "Where poses come from.", choices=("tf", "odometry", "none"))
    metric_poses: bool = setting(True, "Lengths of the poses are metres.")
    tf_timeout_s: float = setting(2.0, "Longest time a frame waits for its transform.", unit="s", ge=0.0, dynamic=True)
    max_pose_gap_s: float = setting(
        2.0,
        "Longest time between two transforms across which the pose of a camera that moved is interpolated.",
        unit="s",
        ge=0.01,
    )
    zero_stamps: str = setting(
        "refuse",
        "What becomes of images stamped zero: refused with a reason, or stamped with the time of their arrival.",
        choices=("refuse", "arrival"),
    )
    queue_size: int = setting(
        10, "Frames of one camera that may wait for their transform or camera_info.", ge=1, le=1000
    )
    status_period_s: float = setting(0.5, "Time between two status messages.", unit="s", ge=0.01)
    input_timeout_s: float = setting(
        5.0, "Silence of a topic after which a warning names it.", unit="s", ge=0.1, dynamic=True
    )
    server: str = setting("reconstruction_server", "Name of the reconstruction server's node.")
    server_timeout_s: float = setting(
        30.0,
        "Silence of the server after which a running job is given up; a link that breaks for less costs nothing.",
        unit="s",
        ge=1.0,
        dynamic=True,
    )
    progress_timeout_s: float = setting(
        600.0,
        "Time without progress after which a running job is given up, though the server is heard.",
        unit="s",
        ge=1.0,
        dynamic=True,
    )
    result_timeout_s: int = setting(
        60, "How long the server keeps a finished result for a robot that lost the link.", unit="s", ge=1, node="server"
    )
    compress_cloud: bool = setting(
        False, "Let the server compress the cloud for the way to the robot: for a slow link.", dynamic=True
    )
    retry_s: float = setting(
        2.0, "First wait before a failed job is tried again; doubles up to a minute.", unit="s", ge=0.05, dynamic=True
    )
    autostart: bool = setting(
        True, "Configure and activate at start instead of waiting for a lifecycle manager.", node="both"
    )
    jpeg_quality: int = setting(
        92,
        "Quality of the keyframe images that are published and sent to the server; a change is for keyframes kept from "
        "then on.",
        ge=1,
        le=100,
        dynamic=True,
    )
    output_dir: str = setting(
        "",
        "Folder in which the server writes results, and the node its maps; empty takes a temporary one.",
        node="both",
    )
    keep_results: int = setting(
        20, "Result folders that the server keeps; the oldest of its own are removed.", ge=1, node="server"
    )
    worker_nice: int = setting(
        5,
        "Niceness of the server's worker process: higher leaves more time to other nodes.",
        ge=0,
        le=19,
        node="server",
    )
    worker_target: str = setting(
        "",
        "Function that runs a job in the worker process, as module:function; empty takes the reconstruction itself.",
        node="server",
    )
    cancel_timeout_s: float = setting(
        10.0,
        "Time a cancelled job has to stop before its worker process is ended.",
        unit="s",
        ge=0.1,
        dynamic=True,
        node="server",
    )


@dataclass(frozen=True, kw_only=True)
class ReconxConfig(Settings):
    """Everything that can be configured."""

    device: str = setting("auto", "Where torch computes: auto, cpu, cuda or cuda:N.", dynamic=True, node="server")
    seed: int = setting(
        0,
        "Seed of every random choice, of each stage that has no seed of its own.",
        ge=0,
        dynamic=True,
        node="server",
    )
    keyframes: KeyframeConfig = section(KeyframeConfig, "Which frames are kept.", node="robot")
    coverage: CoverageConfig = section(CoverageConfig, "When to reconstruct.", node="robot")
    pointmap: PointmapConfig = section(PointmapConfig, "Stage 1, geometry.", node="server", dynamic=True)
    diffusion: DiffusionConfig = section(DiffusionConfig, "Stage 2, in-between views.", node="server", dynamic=True)
    splatting: SplattingConfig = section(SplattingConfig, "Stage 3, Gaussians.", node="server", dynamic=True)
    output: OutputConfig = section(OutputConfig, "What is published and written.", node="robot")
    ros: RosConfig = section(RosConfig, "Topics, frames and timing of the nodes.", node="robot")


def stages(config: ReconxConfig) -> dict[str, StageSettings]:
    """The stages' settings by name."""
    return {name: value for name, value, _ in entries(config) if isinstance(value, StageSettings)}


def with_map_axes(config: ReconxConfig) -> ReconxConfig:
    """The configuration for keyframes of a robot or a bag: their map has z up (REP-105), unless the user says else."""
    if config.pointmap.up_axis != "auto":
        return config
    return updated(config, {"pointmap.up_axis": "z"})


def with_stage_seeds(config: ReconxConfig) -> ReconxConfig:
    """The configuration with ``seed`` for every stage that has no seed of its own: the one place that decides it."""
    unset = [name for name, stage in stages(config).items() if stage.seed < 0]
    return updated(config, {f"{name}.seed": config.seed for name in unset})

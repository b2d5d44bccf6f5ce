"""Settings of stage 1."""

from __future__ import annotations

from dataclasses import dataclass

from reconx_ros.core.precision import PRECISIONS
from reconx_ros.core.registry import sections_field
from reconx_ros.core.settings import Sections, StageSettings, setting
from reconx_ros.pointmap.registry import registry


@dataclass(frozen=True, kw_only=True)
class PointmapConfig(StageSettings):
    """Stage 1: frames to aligned views; what backends share, and a section for each that has settings of its own."""

    backend: str = setting(
        "auto",
        "Pointmap backend; auto takes structure_from_motion when a frame has no pose, depth_sensor "
        "when most frames have depth, else multiview.",
    )
    max_size: int = setting(320, "Longer side of the images the geometry is computed on.", unit="px", ge=32, le=4096)
    matcher: str = setting(
        "auto",
        "Matcher of images whose cameras are found or corrected (`reconx doctor` lists them); auto asks those that can "
        "run here in turn, the cheapest first, each about the images that those before left apart.",
    )
    min_depth: float = setting(0.0, "Nearest depth searched; 0 derives it from the scene.", unit="world unit", ge=0.0)
    max_depth: float = setting(0.0, "Farthest depth searched; 0 derives it from the scene.", unit="world unit", ge=0.0)
    consistency: float = setting(
        0.02, "Relative depth difference up to which two views agree on a point.", ge=1e-4, le=0.5
    )
    refine_poses: bool = setting(
        False, "Correct given poses by what the images say, near their priors; off takes them as they are."
    )
    prior_position_sigma: float = setting(
        0.01, "Standard deviation of given positions, over the median scene depth.", ge=1e-5, le=1.0
    )
    prior_rotation_sigma_deg: float = setting(
        1.0, "Standard deviation of given orientations.", unit="deg", ge=1e-3, le=45.0
    )
    seed: int = setting(-1, "Seed of the random sampling of stage 1; -1 takes that of `seed`.", ge=-1)
    completion: str = setting(
        "auto",
        "Who guesses the depth of pixels that were not measured (`reconx doctor` lists them); they are INFERRED. auto "
        "takes the network that comes with the package, none leaves such pixels empty.",
    )
    completion_weights: str = setting(
        "reconx-depth-small",
        "Network of `completion: learned`: a name of `reconx weights list`, or a folder of `reconx train depth`.",
    )
    up_axis: str = setting(
        "auto",
        "Axis of the world frame that points against gravity: it helps to guess depth. auto takes z for keyframes of a "
        "robot or a bag, whose maps have z up (REP-105), and leaves it open for others.",
        choices=("auto", "none", "x", "y", "z", "-x", "-y", "-z"),
    )
    use_depth: bool = setting(True, "Use sensor depth where frames carry it; off ignores it.")
    scale: str = setting(
        "auto",
        "Where the scale of geometry without a metric one comes from; auto takes given poses, else sensor depth, else "
        "the metric depth network if one is named.",
        choices=("auto", "none", "poses", "depth", "network"),
    )
    max_scale_spread: float = setting(
        0.08,
        "Relative spread of poses or sensor depth above which they do not tell the scale; twice that for a network.",
        ge=1e-3,
        le=1.0,
    )
    metric_network: str = setting(
        "",
        "Metric depth network in the format of transformers: a name of `reconx weights list`, a folder, or a hub name "
        "that is in the local cache.",
    )
    max_memory_gb: float = setting(
        0.0,
        "Memory that stage 1 may take; images are made smaller to stay below it, 0 sets no limit.",
        unit="GB",
        ge=0.0,
    )
    network_size: int = setting(
        0, "Longer side of the images a pointmap network sees; 0 takes the size it was trained at.", unit="px", ge=0
    )
    network_precision: str = setting(
        "auto",
        "Arithmetic of a pointmap network; auto takes half precision on a GPU.",
        choices=PRECISIONS,
    )
    network_confidence: float = setting(
        0.0,
        "Raw confidence above which a network's point is valid; 0 takes 3 for the published networks, the one in the "
        "training card for others.",
        ge=0.0,
    )
    network_holds_poses: bool = setting(
        True,
        "Pointmap networks take the keyframes' poses as they are where all have one; off: they find poses, and given "
        "ones only place and scale the result.",
    )
    pair_graph: str = setting(
        "auto",
        "Pairs of images a pointmap network sees: complete, swin-N, logwin-N, oneref-N; auto takes complete up to 8 "
        "images, swin-3-noncyclic above.",
    )
    sections: Sections = sections_field(registry)

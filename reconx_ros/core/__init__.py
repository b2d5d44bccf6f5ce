"""Nouns: frozen data types whose invariants are checked at birth, and nothing that computes with them."""

from reconx_ros.core.cameras import PinholeCamera
from reconx_ros.core.checks import check_finite, check_shape
from reconx_ros.core.errors import (
    BackendUnavailableError,
    CancelledError,
    ConfigError,
    DoesNotFitError,
    InsufficientParallaxError,
    InvalidInputError,
    ReconstructionError,
    ReconxError,
    StorageError,
    WeightsError,
)
from reconx_ros.core.frames import Frame, Keyframe
from reconx_ros.core.job import CancelToken, Job
from reconx_ros.core.provenance import (
    BY_TRUST,
    KIND_COMMENT,
    MEANINGS,
    PLACE_TOLERANCE,
    Provenance,
    check_provenance,
)
from reconx_ros.core.scene import (
    AlignedViews,
    GaussianScene,
    MatchingEvidence,
    PointCloud,
    PointMap,
    PoseCorrection,
    ScaleEstimate,
    SequenceView,
    Trajectory,
    ViewSequence,
)
from reconx_ros.core.transforms import SE3, Sim3

__all__ = [
    "BY_TRUST",
    "KIND_COMMENT",
    "MEANINGS",
    "PLACE_TOLERANCE",
    "SE3",
    "AlignedViews",
    "BackendUnavailableError",
    "CancelToken",
    "CancelledError",
    "ConfigError",
    "DoesNotFitError",
    "Frame",
    "GaussianScene",
    "InsufficientParallaxError",
    "InvalidInputError",
    "Job",
    "Keyframe",
    "MatchingEvidence",
    "PinholeCamera",
    "PointCloud",
    "PointMap",
    "PoseCorrection",
    "Provenance",
    "ReconstructionError",
    "ReconxError",
    "ScaleEstimate",
    "SequenceView",
    "Sim3",
    "StorageError",
    "Trajectory",
    "ViewSequence",
    "WeightsError",
    "check_finite",
    "check_provenance",
    "check_shape",
]

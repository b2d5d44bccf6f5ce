"""Global alignment of pairwise pointmaps: cameras, depths and one world out of two-view predictions."""

from reconx_ros.pointmap.alignment.fuse import clean_confidences, to_aligned_views, unit_confidence
from reconx_ros.pointmap.alignment.global_alignment import Alignment, align, alignment_loss
from reconx_ros.pointmap.alignment.memory import AlignmentMemory, check_memory, estimate_memory
from reconx_ros.pointmap.alignment.problem import KnownGeometry
from reconx_ros.pointmap.alignment.solve import AlignmentSettings
from reconx_ros.pointmap.alignment.two_views import align_two_views

__all__ = [
    "Alignment",
    "AlignmentMemory",
    "AlignmentSettings",
    "KnownGeometry",
    "align",
    "align_two_views",
    "alignment_loss",
    "check_memory",
    "clean_confidences",
    "estimate_memory",
    "to_aligned_views",
    "unit_confidence",
]

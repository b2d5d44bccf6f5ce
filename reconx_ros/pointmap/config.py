"""Settings of stage 1."""

from __future__ import annotations

from dataclasses import dataclass

from reconx_ros.core.settings import Settings, setting


@dataclass(frozen=True, kw_only=True)
class PointmapConfig(Settings):
    """Stage 1: frames to aligned views."""

    backend: str = setting(
        "auto", "Pointmap backend; auto takes depth_sensor when every frame has depth, else multiview."
    )
    max_size: int = setting(320, "Longer side of the images the geometry is computed on.", unit="px", ge=32, le=4096)
    planes: int = setting(96, "Number of inverse-depth planes of the sweep.", ge=8, le=1024)
    sources: int = setting(4, "Source views per reference view.", ge=1, le=16)
    window: int = setting(5, "Side of the square matching window.", unit="px", ge=3, le=15)
    min_depth: float = setting(0.0, "Nearest depth searched; 0 derives it from the scene.", unit="world unit", ge=0.0)
    max_depth: float = setting(0.0, "Farthest depth searched; 0 derives it from the scene.", unit="world unit", ge=0.0)
    consistency: float = setting(
        0.02, "Relative depth difference up to which two views agree on a point.", ge=1e-4, le=0.5
    )
    min_consistent: int = setting(
        2, "Other views that must agree before a pixel is valid (fewer when fewer see it).", ge=1
    )
    metric_poses: bool = setting(True, "Poses are in metres, as those of TF and odometry; off: any unit.")
    use_depth: bool = setting(True, "Use sensor depth where frames carry it; off ignores it.")

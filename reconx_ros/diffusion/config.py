"""Settings of stage 2."""

from __future__ import annotations

from dataclasses import dataclass

from reconx_ros.core.settings import Settings, setting


@dataclass(frozen=True, kw_only=True)
class DiffusionConfig(Settings):
    """Stage 2: aligned views to a dense view sequence along a path."""

    backend: str = setting("auto", "View generator; auto takes warp, which generates nothing and needs no weights.")
    frames: int = setting(32, "Views along the path between the keyframes.", ge=2, le=512)
    min_confidence: float = setting(0.3, "Pointmap confidence below which a pixel is not warped.", ge=0.0, le=1.0)

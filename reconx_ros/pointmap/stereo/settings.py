"""Settings of depth from several views and from sensors."""

from __future__ import annotations

from dataclasses import dataclass

from reconx_ros.core.settings import Settings, setting


@dataclass(frozen=True, kw_only=True)
class MultiviewSettings(Settings):
    """Multi-view stereo, whichever backend runs it."""

    kernels: str = setting(
        "auto",
        "Who computes multi-view stereo: auto, native (compiled, CPU) or torch.",
        choices=("auto", "native", "torch"),
    )
    planes: int = setting(96, "Number of inverse-depth planes of the sweep.", ge=8, le=1024)
    sources: int = setting(4, "Source views per reference view.", ge=1, le=16)
    window: int = setting(5, "Side of the square matching window.", unit="px", ge=3, le=15)
    min_consistent: int = setting(
        2, "Other views that must agree before a pixel is sure (fewer when fewer see it).", ge=1
    )


@dataclass(frozen=True, kw_only=True)
class DepthSensorSettings(Settings):
    """Sensor depth."""

    fill_depth: bool = setting(
        False, "Where the depth sensor saw nothing, take depth that several views agree on, by multi-view stereo."
    )

"""Settings of the view generator of the paper."""

from __future__ import annotations

from dataclasses import dataclass

from reconx_ros.core.settings import Settings, setting


@dataclass(frozen=True, kw_only=True)
class ReconXGeneratorSettings(Settings):
    """How ReconX' video model is sampled."""

    eta: float = setting(1.0, "Share of the stochastic sampler's noise; 0 is deterministic.", ge=0.0, le=1.0)
    image_guidance: float = setting(7.5, "Guidance by the pictures; 1 switches it off.", ge=0.0)
    structure_guidance: float = setting(
        7.5,
        "Guidance by the scene's points; another value than image_guidance costs half as much time again.",
        ge=0.0,
    )
    guidance_rescale: float = setting(
        0.7, "Share by which guidance is brought back to the contrast without it.", ge=0.0, le=1.0
    )
    camera_conditioning: bool = setting(
        True, "Tell the camera path to networks that have a branch for it; off: pictures and points only."
    )
    epipolar_threshold: float = setting(
        1.5, "Distance from the epipolar line up to which a cell is attended to.", unit="cells", ge=0.1
    )

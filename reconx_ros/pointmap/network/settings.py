"""Settings of the pointmap networks that are not those of all of them."""

from __future__ import annotations

from dataclasses import dataclass

from reconx_ros.core.settings import Settings, setting


@dataclass(frozen=True, kw_only=True)
class Dust3rSettings(Settings):
    """Published networks."""

    weights: str = setting(
        "", "DUSt3R or MASt3R checkpoint that you downloaded: a .pth or .safetensors file, or the hub's folder."
    )


@dataclass(frozen=True, kw_only=True)
class PointmapNetSettings(Settings):
    """Networks that were trained here."""

    weights: str = setting("", "Folder of a pointmap network from `reconx train pointmap`.")

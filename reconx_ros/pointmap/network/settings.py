"""Settings of the pointmap networks that are not those of all of them."""

from __future__ import annotations

from dataclasses import dataclass

from reconx_ros.core.settings import Settings, setting


@dataclass(frozen=True, kw_only=True)
class Dust3rSettings(Settings):
    """Published networks."""

    weights: str = setting(
        "",
        "DUSt3R or MASt3R weights that you downloaded: a name of `reconx weights list`, a .pth or .safetensors file, "
        "the hub's folder, or a hub name.",
        formerly=("dust3r_weights",),
    )


@dataclass(frozen=True, kw_only=True)
class PointmapNetSettings(Settings):
    """Networks that were trained here."""

    weights: str = setting(
        "",
        "Pointmap network: a folder from `reconx train pointmap`, or a name of `reconx weights list`.",
        formerly=("network_weights",),
    )

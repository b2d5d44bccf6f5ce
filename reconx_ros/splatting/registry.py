"""The rasterisers of stage 3, by name."""

from __future__ import annotations

from dataclasses import dataclass

from reconx_ros.core.registry import BackendInfo, with_entry_points


@dataclass(frozen=True, kw_only=True)
class RasterizerInfo(BackendInfo):
    """One rasteriser; they stand from the fastest to the slowest.

    Attributes:
        devices: types of the torch devices whose tensors it takes; empty for all.
    """

    devices: tuple[str, ...] = ()


_BUILTIN = {
    row.name: row
    for row in (
        RasterizerInfo(
            name="gsplat",
            target="reconx_ros.splatting.backends.gsplat:GsplatRasterizer",
            summary="gsplat's CUDA kernels",
            modules=("gsplat",),
            extra="gpu",
            needs=("cuda",),
            devices=("cuda",),
        ),
        RasterizerInfo(
            name="native",
            target="reconx_ros.splatting.backends.native:NativeRasterizer",
            summary="our C kernels for the CPU",
            needs=("compiler",),
            devices=("cpu",),
        ),
        RasterizerInfo(
            name="reference",
            target="reconx_ros.splatting.backends.reference:ReferenceRasterizer",
            summary="readable torch twin, slow",
        ),
    )
}


def registry() -> dict[str, RasterizerInfo]:
    """All known rasterisers by name."""
    return with_entry_points(_BUILTIN, "reconx_ros.splatting")

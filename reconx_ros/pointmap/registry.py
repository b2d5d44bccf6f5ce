"""The backends of stage 1, by name."""

from __future__ import annotations

from dataclasses import dataclass

from reconx_ros.core.registry import BackendInfo, with_entry_points


@dataclass(frozen=True, kw_only=True)
class PointmapInfo(BackendInfo):
    """One pointmap backend, and what ``auto`` and stage 2 go by.

    Attributes:
        takes_poses: it takes the keyframes' poses as they are.
        finds_poses: it takes keyframes without poses.
        needs_depth: every keyframe must have sensor depth.
        automatic: ``auto`` may choose it; the first row that suits the keyframes is chosen.
    """

    takes_poses: bool = True
    finds_poses: bool = False
    needs_depth: bool = False
    automatic: bool = False

    def suits(self, *, posed: bool, depth: bool) -> bool:
        """Whether it is made for keyframes that all have poses, or not all; and that all have depth, or not all."""
        return (self.takes_poses if posed else self.finds_poses) and (depth or not self.needs_depth)


_BUILTIN = {
    row.name: row
    for row in (
        PointmapInfo(
            name="depth_sensor",
            target="reconx_ros.pointmap.backends.depth_sensor:DepthSensorBackend",
            summary="RGB-D frames as they are",
            settings="reconx_ros.pointmap.stereo.settings:DepthSensorSettings",
            needs_depth=True,
            automatic=True,
        ),
        PointmapInfo(
            name="multiview",
            target="reconx_ros.pointmap.backends.multiview:MultiviewBackend",
            summary="plane sweep with semi-global smoothing on posed frames; no weights",
            settings="reconx_ros.pointmap.stereo.settings:MultiviewSettings",
            automatic=True,
        ),
        PointmapInfo(
            name="structure_from_motion",
            target="reconx_ros.pointmap.backends.structure_from_motion:StructureFromMotionBackend",
            summary="frames without poses: cameras from feature matches, then multiview; no weights",
            takes_poses=False,
            finds_poses=True,
            automatic=True,
        ),
        PointmapInfo(
            name="dust3r",
            target="reconx_ros.pointmap.backends.dust3r:Dust3rBackend",
            summary="frames with or without poses, by DUSt3R or MASt3R weights that you download",
            needs=("weights",),
            settings="reconx_ros.pointmap.network.settings:Dust3rSettings",
            licence_weights="CC-BY-NC-SA-4.0",
            finds_poses=True,
        ),
        PointmapInfo(
            name="pointmap_net",
            target="reconx_ros.pointmap.backends.dust3r:PointmapNetBackend",
            summary="the same by a network of your own from reconx train pointmap",
            modules=("safetensors",),
            extra="models",
            needs=("weights",),
            settings="reconx_ros.pointmap.network.settings:PointmapNetSettings",
            licence_weights="Apache-2.0",
            finds_poses=True,
        ),
    )
}


def registry() -> dict[str, PointmapInfo]:
    """All known pointmap backends by name."""
    return with_entry_points(_BUILTIN, "reconx_ros.pointmap")


def automatic(*, posed: bool, depth: bool) -> str:
    """Name of the backend that ``auto`` takes for keyframes that all have poses, or not all; with depth, or not."""
    return next(row.name for row in registry().values() if row.automatic and row.suits(posed=posed, depth=depth))

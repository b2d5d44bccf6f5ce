"""A result as a recording for the Rerun viewer (https://rerun.io).

Entities::

    about                             what it is, its unit, what is missing
    world/points/KIND                 clouds with colours; confidence and keyframe_id as components
    world/splats                      the Gaussians, where the installed Rerun knows them
    world/keyframes/NAME              where each keyframe was taken
    world/keyframe_path, novel_path   lines through the cameras
    world/camera, world/novel_camera  moving cameras with picture (rgb) and depth

The moving cameras are on the timelines ``keyframe`` and ``novel_view`` (counts), and ``stamp`` where the result knows
when its pictures were taken.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reconx_ros.core import BackendUnavailableError, GaussianScene, PointCloud, Provenance, StorageError
from reconx_ros.core.files import whole_file
from reconx_ros.io.images import read_depth
from reconx_ros.viz.canvas import INPUT_CAMERA, PATH
from reconx_ros.viz.map_view import up_direction
from reconx_ros.viz.viewer.data import ViewerCamera, ViewerData
from reconx_ros.viz.viewer.geometry import scene_sizes
from reconx_ros.viz.viewer.model import Selection, shown_splats


def write_rerun(path: Path, data: ViewerData) -> None:
    """Write a recording; it appears complete or not at all.

    Raises:
        BackendUnavailableError: without the Rerun SDK.
        StorageError: when the file cannot be written, or a picture of the result cannot be read.
        InvalidInputError: for a picture that is damaged.
    """
    if importlib.util.find_spec("rerun") is None:
        raise BackendUnavailableError(
            "a Rerun recording needs the Python package rerun-sdk: run pip install 'reconx_ros[rerun]'"
        )
    import rerun

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as temporary:
            recording = rerun.RecordingStream("reconx_ros", send_properties=True)
            recording.save(temporary)
            _Writer(rerun, recording, data).write()
            recording.flush()
            recording.disconnect()
    except OSError as err:
        if isinstance(err, StorageError):
            raise
        raise StorageError(f"cannot write {path}: {err.strerror or err}") from err


class _Writer:
    """Logs the parts of a result; ``rr`` is the rerun module."""

    def __init__(self, rr: Any, recording: Any, data: ViewerData) -> None:
        self._rr, self._recording, self._data = rr, recording, data
        self._sizes = scene_sizes(data)

    def write(self) -> None:
        """Log everything."""
        data = self._data
        self._about()
        for kind in Provenance:
            self._points(f"world/points/{kind.word}", data.cloud.select(data.cloud.provenance == int(kind)))
        if data.scene is not None:
            self._splats(data.scene)
        for camera in data.keyframes:
            self._frustum(f"world/keyframes/{camera.name}", camera, static=True)
        self._line("world/keyframe_path", data.keyframes, INPUT_CAMERA)
        self._line("world/novel_path", data.novel, PATH)
        self._moving("world/camera", "keyframe", data.keyframes)
        self._moving("world/novel_camera", "novel_view", data.novel)

    def _log(self, entity: str, *parts: Any, static: bool = False) -> None:
        self._recording.log(entity, *parts, static=static)

    def _about(self) -> None:
        scale = "Lengths are metres." if self._data.metric_scale else "The scale is unknown: lengths are not metres."
        text = "\n\n".join([f"# {self._data.title}", scale, *self._data.notes])
        self._log("about", self._rr.TextDocument(text, media_type="text/markdown"), static=True)
        up = up_direction([c.world_from_cam for c in self._data.keyframes])
        axis = int(np.argmax(np.abs(up)))
        name = f"RIGHT_HAND_{'XYZ'[axis]}_{'UP' if up[axis] > 0 else 'DOWN'}"
        self._log("world", getattr(self._rr.ViewCoordinates, name), static=True)

    def _points(self, entity: str, cloud: PointCloud) -> None:
        if len(cloud) == 0:
            return
        points = self._rr.Points3D(cloud.points, colors=cloud.rgb_u8, radii=0.5 * self._sizes.pixel)
        values = self._rr.AnyValues(
            confidence=cloud.confidence, provenance=cloud.provenance, keyframe_id=cloud.keyframe_ids
        )
        self._log(entity, points, values, static=True)

    def _splats(self, scene: GaussianScene) -> None:
        """With the colour from all directions; older versions of Rerun do not know Gaussians."""
        if not hasattr(self._rr, "GaussianSplats3D"):
            return
        shown = shown_splats(scene, Selection(), len(scene))
        alpha = np.rint(255 * shown.opacities[:, None]).astype(np.uint8)
        splats = self._rr.GaussianSplats3D(
            scene.means.cpu().numpy(),
            scales=scene.log_scales.exp().cpu().numpy(),
            quaternions=scene.quats_wxyz.cpu().numpy()[:, [1, 2, 3, 0]],
            colors=np.concatenate([shown.rgb_u8, alpha], axis=1),
        )
        self._log("world/splats", splats, static=True)

    def _frustum(self, entity: str, camera: ViewerCamera, *, static: bool) -> None:
        pose = camera.world_from_cam
        placed = self._rr.Transform3D(translation=pose.translation, mat3x3=pose.rotation)
        if camera.camera is None:
            self._log(entity, placed, static=static)
            return
        pinhole = self._rr.Pinhole(
            image_from_camera=camera.camera.corner_origin_matrix,  # Rerun's pixels begin at 0 and are centred at 0.5
            resolution=list(camera.camera.size),
            camera_xyz=self._rr.ViewCoordinates.RDF,
            image_plane_distance=self._sizes.frustum,
        )
        self._log(entity, placed, pinhole, static=static)

    def _line(self, entity: str, cameras: Sequence[ViewerCamera], colour: tuple[int, int, int]) -> None:
        if len(cameras) > 1:
            places = np.array([c.world_from_cam.translation for c in cameras])
            self._log(entity, self._rr.LineStrips3D([places], colors=[colour], radii=self._sizes.line), static=True)

    def _moving(self, entity: str, timeline: str, cameras: Sequence[ViewerCamera]) -> None:
        """One camera that goes from place to place, with what it sees there."""
        for index, camera in enumerate(cameras):
            self._recording.reset_time()
            self._recording.set_time(timeline, sequence=index)
            if camera.stamp_ns is not None:
                self._recording.set_time("stamp", timestamp=np.datetime64(camera.stamp_ns, "ns"))
            self._frustum(entity, camera, static=False)
            picture = camera.rgb_u8()
            if picture is not None:
                self._log(f"{entity}/rgb", self._rr.Image(picture).compress(jpeg_quality=90))
            if camera.depth is not None:
                self._log(
                    f"{entity}/depth", self._rr.DepthImage(read_depth(camera.depth, camera.depth_unit), meter=1.0)
                )
        self._recording.reset_time()

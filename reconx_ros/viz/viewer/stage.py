"""The 3-D part of the page: points, Gaussians, cameras, path, measurement."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from reconx_ros.core import ReconxError
from reconx_ros.viz.canvas import INPUT_CAMERA, PATH, shrunk
from reconx_ros.viz.viewer.data import ViewerCamera, ViewerData
from reconx_ros.viz.viewer.geometry import Sizes, Viewpoint, vertical_fov
from reconx_ros.viz.viewer.measure import Measurement
from reconx_ros.viz.viewer.model import BOTH, POINTS, SPLATS, Selection, counts_line, shown_points, shown_splats

if TYPE_CHECKING:
    import viser

_THUMBNAIL = 240  # pixels of the longer side of a picture in a frustum
_MARK = (255, 214, 10)
_FIRST_FOV = 0.9  # radians
_NEAR, _FAR = 1e-3, 50.0  # clipping planes in extents of the scene


class Stage:
    """Draws into viser's scene; used by one thread."""

    def __init__(self, server: viser.ViserServer) -> None:
        self._server = server
        self._scene = server.scene
        self._drawn: dict[str, tuple[Any, ...]] = {}  # what each layer shows now
        self._counts: dict[str, str] = {}  # of each layer drawn, also while it is hidden
        self._lines: dict[str, str] = {}  # of the layers that are seen
        self._points: Any = None
        self._splats: Any = None
        self._cameras: dict[str, tuple[ViewerCamera, float, Any]] = {}
        self._with_pictures = False
        self._path: tuple[ViewerCamera, ...] = ()
        self._path_handle: Any = None
        self._unreadable: dict[str, str] = {}

    def set_first_view(self, view: Viewpoint, sizes: Sizes) -> None:
        """Where a new visitor stands, and what "up" is."""
        self._scene.set_up_direction(view.up)
        start = self._server.initial_camera
        start.fov = _FIRST_FOV
        start.near, start.far = _NEAR * sizes.extent, _FAR * sizes.extent
        start.position, start.look_at, start.up = view.position, view.look_at, view.up

    def draw(self, data: ViewerData, choice: Selection, sizes: Sizes, budget: int) -> list[str]:
        """Show what was chosen; only what changed is sent.

        Args:
            data: everything.
            choice: which part of it.
            sizes: lengths to draw by.
            budget: points, and Gaussians, at most.

        Returns:
            Sentences on what is shown.
        """
        with self._server.atomic():
            self._draw_points(data, choice, sizes, budget)
            self._draw_splats(data, choice, budget)
            self._draw_cameras(data, choice, sizes)
            self._draw_path(data.novel, choice)
        return [*self._lines.values(), *self._unreadable.values()]

    def _draw_points(self, data: ViewerData, choice: Selection, sizes: Sizes, budget: int) -> None:
        wanted = len(data.cloud) > 0 and (choice.layer in (POINTS, BOTH) or data.scene is None)
        if self._points is not None:
            self._points.visible = wanted
        self._lines.pop(POINTS, None)
        if not wanted:
            return
        key = (data.cloud, choice.colour, choice.kinds, choice.min_confidence, budget)
        if self._drawn.get(POINTS) != key:
            shown = shown_points(data.cloud, choice, budget)
            self._drawn[POINTS] = key
            self._counts[POINTS] = counts_line("points", len(shown), shown.passed, shown.total)
            self._points = self._scene.add_point_cloud(
                "/points", shown.points, shown.rgb_u8, precision="float32", point_shape="circle", point_shading="flat"
            )
        self._points.point_size = float(choice.point_size * sizes.pixel)
        self._lines[POINTS] = self._counts[POINTS]

    def _draw_splats(self, data: ViewerData, choice: Selection, budget: int) -> None:
        scene = data.scene
        wanted = scene is not None and (choice.layer in (SPLATS, BOTH) or len(data.cloud) == 0)
        if self._splats is not None:
            self._splats.visible = wanted
        self._lines.pop(SPLATS, None)
        if scene is None or not wanted:
            return
        key = (scene, choice.colour, choice.kinds, choice.min_confidence, budget)
        if self._drawn.get(SPLATS) != key:
            shown = shown_splats(scene, choice, budget)
            self._drawn[SPLATS] = key
            self._counts[SPLATS] = counts_line("Gaussians", len(shown), shown.passed, shown.total)
            self._splats = self._scene.add_gaussian_splats(
                "/splats", shown.centres, shown.covariances, shown.rgb_u8, shown.opacities[:, None], scale=shown.unit
            )
        self._lines[SPLATS] = self._counts[SPLATS]

    def _draw_cameras(self, data: ViewerData, choice: Selection, sizes: Sizes) -> None:
        wanted = {f"/keyframes/{c.name}": c for c in data.keyframes}
        for name in [n for n in self._cameras if n not in wanted]:
            self._cameras.pop(name)[2].remove()
        for name, camera in wanted.items():
            drawn = self._cameras.get(name)
            if drawn is None or drawn[:2] != (camera, sizes.frustum) or choice.pictures != self._with_pictures:
                handle = self._camera(name, camera, sizes, choice.pictures)
                self._cameras[name] = (camera, sizes.frustum, handle)
            self._cameras[name][2].visible = choice.cameras
        self._with_pictures = choice.pictures

    def _camera(self, name: str, camera: ViewerCamera, sizes: Sizes, with_picture: bool) -> Any:
        pose = camera.world_from_cam
        place = {"position": pose.translation, "wxyz": pose.quaternion_wxyz}
        if camera.camera is None:
            return self._scene.add_frame(name, axes_length=sizes.frustum, axes_radius=sizes.line, **place)
        return self._scene.add_camera_frustum(
            name,
            fov=vertical_fov(camera.camera),
            aspect=(camera.camera.width / camera.camera.fx) / (camera.camera.height / camera.camera.fy),
            scale=sizes.frustum,
            thickness=2.0,
            thickness_units="screen",
            color=INPUT_CAMERA,
            image=self._thumbnail(camera) if with_picture else None,
            cast_shadow=False,
            receive_shadow=False,
            **place,
        )

    def _thumbnail(self, camera: ViewerCamera) -> np.ndarray | None:
        try:
            picture = camera.rgb_u8()
        except ReconxError as err:
            self._unreadable[camera.name] = str(err)
            return None
        return None if picture is None else shrunk(picture, _THUMBNAIL)

    def _draw_path(self, novel: tuple[ViewerCamera, ...], choice: Selection) -> None:
        if novel != self._path:
            if self._path_handle is not None:
                self._path_handle.remove()
            self._path, self._path_handle = novel, self._line("/novel_views", novel)
        if self._path_handle is not None:
            self._path_handle.visible = choice.path

    def _line(self, name: str, cameras: Sequence[ViewerCamera]) -> Any:
        places = np.array([c.world_from_cam.translation for c in cameras], np.float32)
        if len(places) < 2:
            return None
        pairs = np.stack([places[:-1], places[1:]], axis=1)  # [T - 1, 2, 3]
        return self._scene.add_line_segments(name, pairs, PATH, thickness=3.0, thickness_units="screen")

    def mark(self, places: Sequence[np.ndarray], measured: Measurement | None, sizes: Sizes) -> None:
        """Show the places clicked so far, and the line between two."""
        for name in ("start", "end", "line", "label"):
            self._scene.remove_by_name(f"/measure/{name}")
        for name, place in zip(("start", "end"), places, strict=False):
            self._scene.add_icosphere(
                f"/measure/{name}", radius=3 * sizes.line, color=_MARK, position=place, cast_shadow=False
            )
        if measured is not None:
            ends = np.array([[measured.start, measured.end]], np.float32)
            self._scene.add_line_segments("/measure/line", ends, _MARK, thickness=3.0, thickness_units="screen")
            self._scene.add_label("/measure/label", measured.text, position=ends[0].mean(axis=0))

"""The viewer: controls, 3-D view and data joined."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reconx_ros.core import SE3, InvalidInputError, ReconxError
from reconx_ros.viz.canvas import shrunk
from reconx_ros.viz.viewer.data import Feed, Render, ViewerCamera, ViewerData
from reconx_ros.viz.viewer.geometry import (
    Viewpoint,
    camera_viewpoint,
    distance_seen,
    first_viewpoint,
    fitting_fov,
    positions,
    scene_sizes,
    window_camera,
    window_pose,
)
from reconx_ros.viz.viewer.measure import Measurement, picked_point
from reconx_ros.viz.viewer.model import DEFAULT_BUDGET, pickable
from reconx_ros.viz.viewer.panel import KEYFRAMES, Panel
from reconx_ros.viz.viewer.rendering import picture_from_render
from reconx_ros.viz.viewer.server import close_server, open_server
from reconx_ros.viz.viewer.stage import Stage
from reconx_ros.viz.viewer.worker import NewestOnly

if TYPE_CHECKING:
    import viser

_PANEL_PICTURE = 480  # pixels of the longer side of pictures among the controls
_RENDERED = 640
_WAKE_S = 0.5
_HERE = 0.01  # of the typical distance to what is seen: as near counts as the same place
_CLICK_HINT = "Click on the first place."


class Viewer:
    """A page that shows a result or a running node until it is closed.

    Args:
        data: what to show first.
        host, port: where to serve; port 0 takes any free one.
        render: draws views of the scene; None where nothing can.
        budget: points, and Gaussians, that the browser is handed at most.

    Raises:
        InvalidInputError: for a budget below 1, or a host that is no address of this computer.
        StorageError: for a port that is in use.
        BackendUnavailableError: without viser.
    """

    def __init__(
        self,
        data: ViewerData,
        *,
        host: str = "127.0.0.1",
        port: int = 8080,
        render: Render | None = None,
        budget: int = DEFAULT_BUDGET,
    ) -> None:
        if budget < 1:
            raise InvalidInputError(f"the limit of points is {budget}, expected at least 1")
        self._server = open_server(host, port, data.title)
        self._data, self._render, self._budget = data, render, budget
        self._sizes = scene_sizes(data)
        self._at: tuple[str, str] = ("", "")  # the camera last stepped into: which list it is of, and its name
        self._standing: ViewerCamera | None = None  # that camera, until the user leaves its place
        self._arrived = False
        self._clicked: list[np.ndarray] = []
        self._placed = False
        self._closed = threading.Event()
        self._stage = Stage(self._server)
        self.panel = Panel(
            self._server,
            on_change=lambda: self._drawing.ask(),
            on_step=self._step,
            on_measure=self._measure,
            on_render=self._draw_view,
        )
        self._drawing = NewestOnly(self._draw, lambda err: self.panel.say_counts([f"Cannot be drawn: {err}"]))
        self._server.on_client_connect(lambda client: client.camera.on_update(self._moved))
        self.show(data)

    @property
    def server(self) -> viser.ViserServer:
        """The web server, with its scene and its clients."""
        return self._server

    @property
    def url(self) -> str:
        """Where to look."""
        host = self._server.get_host()
        shown = "127.0.0.1" if host in ("0.0.0.0", "::", "") else host
        return f"http://{f'[{shown}]' if ':' in shown else shown}:{self._server.get_port()}"

    def show(self, data: ViewerData) -> None:
        """Show other data; visitors stay where they stand, unless there was nothing to see before."""
        self._data, self._sizes = data, scene_sizes(data)
        self.panel.offer_layers(len(data.cloud) > 0, data.scene is not None)
        if not self._placed:
            self._place(data)
        self._drawing.ask()

    def wait_drawn(self, timeout_s: float) -> bool:
        """Wait until everything asked for was handed to the server; returns whether it was."""
        return self._drawing.wait_idle(timeout_s)

    def follow(self, feed: Feed) -> None:
        """Show what a running node publishes until the viewer is closed."""
        self._render = feed.render
        seen = 0
        while not self._closed.is_set():
            newest = feed.wait_for_change(seen, _WAKE_S)
            if newest != seen:
                seen = newest
                self.show(feed.data())
                self.wait_drawn(_WAKE_S)

    def wait_closed(self) -> None:
        """Serve until ``close`` is called, or the user interrupts."""
        while not self._closed.wait(_WAKE_S):
            pass

    def close(self) -> None:
        """Stop serving."""
        self._closed.set()
        self._drawing.close()
        close_server(self._server)

    def _place(self, data: ViewerData) -> None:
        """Visitors' first place, once there is something to look at."""
        view = first_viewpoint(data, self._sizes)
        self._stage.set_first_view(view, self._sizes)
        self._placed = bool(data.keyframes) or len(positions(data)) > 0
        for client in self._server.get_clients().values():
            self._move(client, view, None)

    def _draw(self) -> None:
        data = self._data
        choice = self.panel.choice()
        if self._standing is not None:  # drawn cameras and the path through them would stand before the eye
            choice = replace(choice, cameras=False, path=False)
        lines = self._stage.draw(data, choice, self._sizes, self._budget)
        if data.metric_scale is None:
            lines = [*lines, "Nobody says whether lengths are metres."]
        elif not data.metric_scale:
            lines = [*lines, "The scale is unknown: lengths are not metres."]
        self.panel.say_counts([*lines, *data.notes])

    # Cameras ----------------------------------------------------------------------------------------------------

    def _step(self, client: Any, by: int) -> None:
        through = self.panel.through.value
        cameras = self._data.keyframes if through == KEYFRAMES else self._data.novel
        if not cameras:
            self.panel.say_camera(f"There are no {through}.", None)
            return
        names = [c.name for c in cameras]
        listed, name = self._at
        index = 0 if by > 0 else len(names) - 1
        if listed == through and name in names:
            index = (names.index(name) + by) % len(names)
        self._at = (through, names[index])
        self._go_to(client, cameras[index], f"{through[:-1]} {index + 1} of {len(names)}: {names[index]}")

    def _go_to(self, client: Any, camera: ViewerCamera, text: str) -> None:
        self._standing, self._arrived = camera, False
        distance = distance_seen(camera, positions(self._data)) or self._sizes.distance
        clients = [client] if client is not None else list(self._server.get_clients().values())
        for one in clients:
            self._move(one, camera_viewpoint(camera, distance), camera)
        try:
            picture = camera.rgb_u8()
        except ReconxError as err:
            picture, text = None, f"{text}  \n{err}"
        self.panel.say_camera(text, None if picture is None else shrunk(picture, _PANEL_PICTURE))
        self._drawing.ask()

    def _move(self, client: Any, view: Viewpoint, camera: ViewerCamera | None) -> None:
        with client.atomic():
            client.camera.up_direction = view.up
            client.camera.position = view.position
            client.camera.look_at = view.look_at
            if camera is not None and camera.camera is not None:
                client.camera.fov = fitting_fov(camera.camera, client.camera.aspect)

    def _moved(self, window: viser.CameraHandle) -> None:
        """Notice that the user has left the camera that they stepped into."""
        standing = self._standing
        if standing is None:
            return
        away = float(np.linalg.norm(window.position - standing.world_from_cam.translation))
        if away < _HERE * self._sizes.distance:
            self._arrived = True
        elif self._arrived:
            self._standing = None
            self._drawing.ask()

    # Measuring --------------------------------------------------------------------------------------------------

    def _measure(self, on: bool) -> None:
        self._clicked = []
        self._server.scene.remove_click_callback()
        self._stage.mark([], None, self._sizes)
        self.panel.say_distance(_CLICK_HINT if on else "")
        if on:
            self._server.scene.on_click()(self._on_click)

    def _on_click(self, event: viser.SceneClickEvent) -> None:
        self.click(np.array(event.ray_origin), np.array(event.ray_direction))

    def click(self, origin: np.ndarray, direction: np.ndarray) -> Measurement | None:
        """A click while measuring, as a ray [3], [3] in the world; returns the measurement at the second place."""
        data = self._data
        place = picked_point(pickable(data.cloud, data.scene, self.panel.choice()), origin, direction)
        if place is None:
            self.panel.say_distance("There is nothing at that place; click on a point.")
            return None
        self._clicked = [place] if len(self._clicked) == 2 else [*self._clicked, place]
        measured = None
        if len(self._clicked) == 2:
            measured = Measurement(start=self._clicked[0], end=self._clicked[1], metric_scale=data.metric_scale)
        self._stage.mark(self._clicked, measured, self._sizes)
        self.panel.say_distance(f"**{measured.text}**" if measured else "Click on the second place.")
        return measured

    # Rendering --------------------------------------------------------------------------------------------------

    def _draw_view(self, client: Any) -> None:
        self.panel.render.disabled = True
        try:
            window = client.camera
            camera = window_camera(float(window.fov), float(window.aspect), _RENDERED)
            self.panel.say_rendered("...", None)
            started = time.perf_counter()
            picture = self.rendered(camera, window_pose(window.position, window.wxyz))
            seconds = time.perf_counter() - started
            self.panel.say_rendered(f"{camera.width} x {camera.height} pixels, {1000 * seconds:.0f} ms", picture)
        except ReconxError as err:
            self.panel.say_rendered(str(err), None)
        finally:
            self.panel.render.disabled = False

    def rendered(self, camera: Any, world_from_cam: SE3) -> np.ndarray:
        """The chosen layer of the scene from a place, [H, W, 3] uint8.

        Raises:
            ReconxError: when there is nothing to render, or it fails.
        """
        if self._render is None:
            raise InvalidInputError("there are no Gaussians to render: the result has no scene.ply")
        return picture_from_render(self._render(camera, world_from_cam), self.panel.kind.value)


def view_result(folder: Path, *, drop_bad: bool = False, **options: Any) -> Viewer:
    """A viewer of a result folder; ``drop_bad`` as of ``load_result``, other options as of ``Viewer``.

    Raises:
        ReconxError: as ``load_result`` and ``Viewer``.
    """
    from reconx_ros.viz.viewer.data import load_result
    from reconx_ros.viz.viewer.rendering import scene_renderer

    data = load_result(folder, drop_bad=drop_bad)
    return Viewer(data, render=scene_renderer(data), **options)

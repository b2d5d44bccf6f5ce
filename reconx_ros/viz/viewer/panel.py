"""The controls beside the 3-D view."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from reconx_ros.core import BY_TRUST, MEANINGS, Provenance
from reconx_ros.viz.viewer.model import BOTH, COLOURS, LAYERS, POINTS, RGB, Selection, legend_html
from reconx_ros.viz.viewer.rendering import KINDS, PICTURE

if TYPE_CHECKING:
    import viser

KEYFRAMES, NOVEL_VIEWS = "keyframes", "novel views"
_BLANK = np.full((3, 4, 3), 40, np.uint8)


class Panel:
    """All controls, as plain values and callbacks.

    Args:
        server: whose page it is on.
        on_change: called after any control of what is shown.
        on_step: called with (client or None, -1 or +1).
        on_measure: called when measuring is switched on or off.
        on_render: called with the client that wants a picture.
    """

    def __init__(
        self,
        server: viser.ViserServer,
        *,
        on_change: Callable[[], None],
        on_step: Callable[[Any, int], None],
        on_measure: Callable[[bool], None],
        on_render: Callable[[Any], None],
    ) -> None:
        gui = server.gui
        self._counts = gui.add_markdown("")
        with gui.add_folder("Show"):
            self._add_filters(gui, on_change)
        with gui.add_folder("Cameras"):
            self._add_cameras(gui, on_change, on_step)
        with gui.add_folder("Measure"):
            self._add_measure(gui, on_measure)
        with gui.add_folder("Render this view"):
            self._add_render(gui, on_render)

    def _add_filters(self, gui: Any, on_change: Callable[[], None]) -> None:
        self.layer = gui.add_dropdown("Layer", LAYERS, initial_value=POINTS, hint="the cloud, the Gaussians, or both")
        self.colour = gui.add_dropdown("Colour", COLOURS, initial_value=RGB)
        self._legend = gui.add_html("", visible=False)
        self.kinds = {
            k: gui.add_checkbox(k.word.capitalize(), True, hint=MEANINGS[k]) for k in (*BY_TRUST, Provenance.NONE)
        }
        self.min_confidence = gui.add_slider("Min confidence", 0.0, 1.0, 0.01, 0.0)
        self.point_size = gui.add_slider("Point size", 0.2, 5.0, 0.1, 1.0)
        for control in (self.layer, self.colour, *self.kinds.values(), self.min_confidence, self.point_size):
            control.on_update(lambda _: self._changed(on_change))

    def _changed(self, on_change: Callable[[], None]) -> None:
        legend = legend_html(self.colour.value)
        self._legend.content, self._legend.visible = legend, bool(legend)
        on_change()

    def _add_cameras(self, gui: Any, on_change: Callable[[], None], on_step: Callable[[Any, int], None]) -> None:
        self.cameras = gui.add_checkbox("Show cameras", True)
        self.pictures = gui.add_checkbox("With pictures", True)
        self.path = gui.add_checkbox("Path of novel views", True)
        for control in (self.cameras, self.pictures, self.path):
            control.on_update(lambda _: on_change())
        self.through = gui.add_dropdown("Step through", (KEYFRAMES, NOVEL_VIEWS), initial_value=KEYFRAMES)
        self.steps = gui.add_button_group("Go to", ("previous", "next"))
        self.steps.on_click(lambda event: on_step(event.client, 1 if event.target.value == "next" else -1))
        self._where = gui.add_markdown("")
        self._seen = gui.add_image(_BLANK, visible=False)

    def _add_measure(self, gui: Any, on_measure: Callable[[bool], None]) -> None:
        self.measuring = gui.add_checkbox("Measure", False, hint="then click on two places")
        self.measuring.on_update(lambda event: on_measure(bool(event.target.value)))
        self._distance = gui.add_markdown("")

    def _add_render(self, gui: Any, on_render: Callable[[Any], None]) -> None:
        self.kind = gui.add_dropdown("Image", KINDS, initial_value=PICTURE)
        self.render = gui.add_button("Render", hint="draw this view with the rasteriser that fitted the scene")
        self.render.on_click(lambda event: on_render(event.client))
        self._rendered = gui.add_image(_BLANK, visible=False)
        self._render_text = gui.add_markdown("")

    def choice(self) -> Selection:
        """What the controls say now."""
        return Selection(
            layer=self.layer.value,
            colour=self.colour.value,
            kinds=frozenset(kind for kind, box in self.kinds.items() if box.value),
            min_confidence=float(self.min_confidence.value),
            cameras=bool(self.cameras.value),
            pictures=bool(self.pictures.value),
            path=bool(self.path.value),
            point_size=float(self.point_size.value),
        )

    def offer_layers(self, has_points: bool, has_scene: bool) -> None:
        """Take away the choice between layers where there is only one."""
        self.layer.disabled = not (has_points and has_scene)
        self.layer.visible = has_points or has_scene
        if has_points and not has_scene and self.layer.value == BOTH:
            self.layer.value = POINTS

    def say_counts(self, lines: Sequence[str]) -> None:
        """What is shown, one sentence a line."""
        self._counts.content = "  \n".join(lines)

    def say_camera(self, text: str, picture: np.ndarray | None) -> None:
        """The camera that the user stands in."""
        self._where.content = text
        self._seen.visible = picture is not None
        if picture is not None:
            self._seen.image = picture

    def say_distance(self, text: str) -> None:
        """Result of, or hint for, measuring."""
        self._distance.content = text

    def say_rendered(self, text: str, picture: np.ndarray | None) -> None:
        """A rendered picture, or why there is none."""
        self._render_text.content = text
        self._rendered.visible = picture is not None
        if picture is not None:
            self._rendered.image = picture

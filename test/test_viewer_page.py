"""The viewer's page in headless Chromium: it draws, and its controls act on what is served and on the picture."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from browser import OpenPage, chromium
from viewer_results import camera_pose, write_result

pytest.importorskip("viser", reason="viser is not installed: pip install 'reconx_ros[viewer]'")

from reconx_ros.core import Provenance
from reconx_ros.viz.canvas import INPUT_CAMERA
from reconx_ros.viz.viewer import app

pytestmark = pytest.mark.long

TIMEOUT_S = 240.0  # a software renderer on a busy computer
CANVAS = "canvas[data-engine]"
SIZE = (800, 520)
# Of viser 1.1 and its three.js, and of a software renderer: none is about what is shown.
KNOWN = ("THREE.Clock", "THREE.BufferGeometry.computeBoundingSphere", "GPU stall", "WebGL", "software")


class Page:
    """The open page and the viewer behind it."""

    def __init__(self, viewer: app.Viewer, opened: OpenPage) -> None:
        self.viewer, self.page, self.problems = viewer, opened.page, opened.problems

    def colours(self) -> dict[str, int]:
        """How many pixels of the 3-D view are red, blue, of a drawn camera, or anything but background."""
        encoded = np.frombuffer(self.page.screenshot(clip=self.canvas()), np.uint8)
        bgr = cv2.imdecode(encoded, cv2.IMREAD_COLOR).astype(int)
        blue, green, red = bgr[..., 0], bgr[..., 1], bgr[..., 2]
        return {
            "red": int(((red > 120) & (green < 80) & (blue < 80)).sum()),
            "blue": int(((blue > 120) & (green < 80) & (red < 80)).sum()),
            "camera": int((np.abs(bgr - INPUT_CAMERA[::-1]).max(axis=-1) < 30).sum()),
            "drawn": int((np.abs(bgr - bgr[2, 2]).max(axis=-1) > 25).sum()),
        }

    def canvas(self) -> dict[str, float]:
        """Where the 3-D view is: x, y, width, height in pixels."""
        return self.page.locator(CANVAS).bounding_box()

    def until(self, what: str, condition: Callable[[], Any]) -> Any:
        """Look again and again until a condition holds; each look takes a picture or asks the page."""
        deadline = time.monotonic() + TIMEOUT_S
        while not (value := condition()):
            assert time.monotonic() < deadline, f"waited {TIMEOUT_S:g} s in vain until {what}: {self.colours()}"
            self.page.evaluate("new Promise(done => requestAnimationFrame(done))")
        return value

    def checkbox(self, label: str) -> Any:
        """The box in the row of a label."""
        return self.page.get_by_label(label, exact=True)

    def client(self) -> Any:
        """The server's handle of this browser."""
        (client,) = self.viewer.server.get_clients().values()
        return client


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    options = ("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist")
    with chromium(*options) as browser:
        folder: Path = write_result(tmp_path_factory.mktemp("result") / "wall")
        viewer = app.view_result(folder, port=0)
        try:
            opened = OpenPage(browser, f"{viewer.url}/", size=SIZE)
            opened.page.set_default_timeout(1000 * TIMEOUT_S)
            opened.page.wait_for_selector(CANVAS)
            made = Page(viewer, opened)
            for control in (viewer.panel.cameras, viewer.panel.pictures, viewer.panel.path):
                control.value = False  # they have the wall's colours
            yield made
        finally:
            viewer.close()


@pytest.fixture(autouse=True)
def _reset(page: Page) -> None:
    """Every test begins with all points in their own colours."""
    panel = page.viewer.panel
    panel.measuring.value = False
    for box in panel.kinds.values():
        box.value = True
    panel.min_confidence.value, panel.colour.value, panel.layer.value = 0.0, "RGB", "points"
    page.until("red and blue are seen", lambda: page.colours()["red"] > 500 and page.colours()["blue"] > 500)


def test_generated_points_vanish_and_come_back(page: Page) -> None:
    page.checkbox("Generated").click()
    page.until("blue has gone", lambda: page.colours()["blue"] < 50)
    assert page.viewer.panel.kinds[Provenance.GENERATED].value is False
    assert page.colours()["red"] > 500
    page.checkbox("Generated").click()
    page.until("blue is back", lambda: page.colours()["blue"] > 500)


def test_confidence_hides_what_is_unsure(page: Page) -> None:
    before = page.colours()["red"]
    page.viewer.panel.min_confidence.value = 0.5
    page.until("the lower half has gone", lambda: page.colours()["red"] < 0.7 * before)
    assert page.colours()["red"] > 0.2 * before


def test_colours_and_layers_change_the_picture(page: Page) -> None:
    page.viewer.panel.colour.value = "provenance"
    page.until("neither red nor blue is left", lambda: max(page.colours()["red"], page.colours()["blue"]) < 50)
    assert page.colours()["drawn"] > 1000
    page.page.get_by_text("generated: seen by no camera").wait_for()
    page.viewer.panel.colour.value = "RGB"
    page.viewer.panel.layer.value = "splats"
    page.until("Gaussians are drawn", lambda: page.colours()["red"] > 500 and page.colours()["blue"] > 500)
    page.page.get_by_text("2,501 Gaussians").wait_for()


def test_cameras_are_drawn_on_request(page: Page) -> None:
    assert page.colours()["camera"] < 20
    page.viewer.panel.cameras.value = True
    page.until("frustums are drawn", lambda: page.colours()["camera"] > 100)
    page.viewer.panel.cameras.value = False
    page.until("they have gone", lambda: page.colours()["camera"] < 20)


def test_next_steps_into_a_keyframe_and_shows_its_picture(page: Page) -> None:
    page.page.get_by_role("button", name="next", exact=True).click()
    page.page.get_by_text("keyframe 1 of 3: 0000").wait_for()
    place = camera_pose(-0.4)
    page.until(
        "the browser's camera has arrived",
        lambda: np.linalg.norm(page.client().camera.position - place.translation) < 1e-3,
    )
    assert abs(page.client().camera.wxyz @ place.quaternion_wxyz) == pytest.approx(1.0, abs=1e-4)
    page.page.locator("img[src^='blob:']").wait_for()  # the keyframe's own picture, beside the view
    page.until("the wall fills the view", lambda: page.colours()["red"] + page.colours()["blue"] > 20_000)


def test_two_clicks_measure_metres(page: Page) -> None:
    page.viewer.panel.measuring.value = True
    box = page.canvas()
    middle = box["x"] + 0.35 * box["width"], box["y"] + 0.5 * box["height"]
    page.page.get_by_text("Click on the first place").wait_for()
    page.page.mouse.click(*middle)
    page.page.get_by_text("Click on the second place").wait_for()
    page.page.mouse.click(middle[0] + 60, middle[1])
    page.until("both places are known", lambda: len(page.viewer._clicked) == 2)
    start, end = page.viewer._clicked
    assert 0.05 < np.linalg.norm(start - end) < 2.0 and start[0] == end[0] == pytest.approx(3.0)
    length = page.page.locator("strong").filter(has_text=" m")
    length.wait_for()
    assert length.inner_text() == f"{float(np.linalg.norm(start - end)):.4g} m"


def test_this_view_is_rendered_by_our_rasteriser(page: Page) -> None:
    page.page.get_by_role("button", name="Render", exact=True).click()
    page.page.get_by_text("pixels,").wait_for()
    picture = page.viewer.panel._rendered.image
    assert page.viewer.panel._rendered.visible and max(picture.shape) == 640
    assert (picture[..., 0] > 150).mean() > 0.1 and (picture[..., 2] > 150).mean() > 0.1


def test_the_console_stays_clean(page: Page) -> None:
    unknown = [p for p in page.problems if not any(k in p for k in KNOWN) and not p.startswith("asked for ws://")]
    assert unknown == []

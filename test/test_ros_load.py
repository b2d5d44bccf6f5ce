"""Two cameras at 30 Hz and transforms at 100 Hz in front of the real nodes while they reconstruct: nothing is lost.

Counts only: times depend on the computer, and ``reconx bench ros`` reports them.
"""

from __future__ import annotations

import pytest

pytest.importorskip("rclpy")
pytest.importorskip("reconx_ros.msg")
pytest.importorskip("embreex")

from reconx_ros.ros.tools.bench import run_load
from reconx_ros.ros.tools.load import simulated_scene

SECONDS = 20.0


@pytest.mark.long
def test_no_image_is_lost_before_the_mailbox(ros_domain: int) -> None:
    watched = run_load(simulated_scene(places=6), SECONDS)
    assert watched.sent.frames == 2 * 30 * SECONDS and watched.sent.transforms == 100 * SECONDS
    assert watched.lost == 0
    assert watched.busy_share > 0.5, "reconstructions ran meanwhile"
    assert not {"bad_image", "bad_camera_info", "error"} & set(watched.drops)

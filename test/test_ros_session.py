"""Processes that the commands start: ended as a whole, and scheduled together with their caller."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest.importorskip("rclpy")

from reconx_ros.core import ReconstructionError
from reconx_ros.ros.tools.session import NodeProcess


def test_a_node_is_in_a_group_of_its_own_and_in_the_callers_session(tmp_path: Path) -> None:
    """Linux gives each session its share of the processors, whatever niceness says within."""
    process = NodeProcess("http.server", {}, {}, name="http_server", folder=tmp_path, environment=dict(os.environ))
    try:
        assert os.getpgid(process.pid) == process.pid != os.getpgid(0)
        assert os.getsid(process.pid) == os.getsid(0)
    finally:
        process.stop()


def test_the_last_words_of_a_node_that_died_are_told(tmp_path: Path) -> None:
    process = NodeProcess(
        "reconx_ros.no_such_node", {}, {}, name="no_such_node", folder=tmp_path, environment=dict(os.environ)
    )
    process._process.wait(60)
    with pytest.raises(ReconstructionError, match=r"no_such_node ended with code 1: .*No module named"):
        process.check()
    process.stop()

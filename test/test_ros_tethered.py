"""Robot and server on different computers; what is tried is in tethered_cases.py.

Each case has a process of its own: Fast DDS looks at the network and reads its profile once in a process, and the node
of the test has to see those of the robot's computer.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("rclpy")
pytest.importorskip("reconx_ros.msg")

from ros_hosts import refusal

FILE = Path(__file__).with_name("tethered_cases.py")
CASES = [
    node.name
    for node in ast.parse(FILE.read_text()).body
    if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
]
LIMIT_S = 900.0


@pytest.mark.ros
@pytest.mark.long
@pytest.mark.skipif(bool(refusal()), reason=refusal() or "possible")
@pytest.mark.parametrize("case", CASES)
def test_tethered(case: str, tmp_path: Path) -> None:
    words = ["-q", "--tb=short", "-p", "no:cacheprovider", f"--basetemp={tmp_path / 'case'}", f"{FILE}::{case}"]
    command = [sys.executable, "-m", "pytest", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, env=os.environ, check=False)
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2000:]

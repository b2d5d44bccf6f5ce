"""Holds the package to its import and style rules, and shows that each rule notices what it is for."""

from __future__ import annotations

import ast
from pathlib import Path

import architecture as rules
import pytest

ROOT = Path(__file__).resolve().parent.parent

# Rule, name of the module, source that the rule must notice.
BAD = [
    (rules.core_imports_only_numpy_and_torch, "core.cameras", "import cv2"),
    (rules.core_imports_only_numpy_and_torch, "core.cameras", "def f():\n    from yaml import safe_load"),
    (rules.layers_point_down, "core.cameras", "from reconx_ros.geometry import projection"),
    (rules.layers_point_down, "core.cameras", "from ..geometry.projection import project"),
    (rules.layers_point_down, "geometry.pnp", "import reconx_ros.pointmap.base"),
    (rules.layers_point_down, "pointmap.scale", "from reconx_ros import diffusion"),
    (rules.layers_point_down, "diffusion.network.unet", "def f():\n    from ...splatting import base"),
    (rules.layers_point_down, "splatting.fit", "from reconx_ros.pipeline.config import Config"),
    (rules.layers_point_down, "pipeline.result", "from reconx_ros.viz import overview"),
    (rules.layers_point_down, "sim.robot", "from reconx_ros.pipeline import keyframes"),
    (rules.layers_point_down, "viz.viewer", "from reconx_ros.cli import main"),
    (rules.layers_point_down, "viz.report", "from reconx_ros.evaluation import layout"),
    (rules.layers_point_down, "jobs.worker", "from reconx_ros.evaluation import layout"),
    (rules.layers_point_down, "unknown.part", "from reconx_ros.core import SE3"),
    (rules.rooms_know_their_neighbours_only, "pointmap.stereo.sweep", "from reconx_ros.pointmap.sfm import tracks"),
    (rules.rooms_know_their_neighbours_only, "pointmap.network.model", "from reconx_ros.pointmap import backends"),
    (rules.rooms_know_their_neighbours_only, "evaluation.suite", "from reconx_ros.evaluation.report.page import write"),
    (rules.rooms_know_their_neighbours_only, "ros.graph.tf", "def f():\n    from ..robot import mailbox"),
    (rules.pipeline_imports_no_backend, "pipeline.reconstructor", "from reconx_ros.splatting.backends import native"),
    (rules.pipeline_imports_no_backend, "pipeline.reconstructor", "def f():\n    from ..pointmap import backends"),
    (rules.ros_is_imported_late_by_cli_only, "viz.viewer", "def f():\n    from reconx_ros.ros import conversions"),
    (rules.ros_is_imported_late_by_cli_only, "cli.demo", "from reconx_ros import ros"),
    (rules.ros_is_imported_late_by_cli_only, "", "from .ros.graph.tf import Buffer"),
    (rules.ros_messages_stay_in_ros, "io.bags", "def f():\n    import rclpy"),
    (rules.ros_messages_stay_in_ros, "sim.robot", "from sensor_msgs.msg import Image"),
    (rules.ros_messages_stay_in_ros, "cli.demo", "def f():\n    from reconx_ros.msg import Status"),
    (rules.ros_messages_stay_in_ros, "pipeline.config", "from ..srv import SaveMap"),
    (rules.optional_dependencies_are_late, "splatting.fit", "def f():\n    import gsplat"),
    (rules.optional_dependencies_are_late, "splatting.backends.gsplat", "from gsplat import rasterization"),
    (rules.optional_dependencies_are_late, "io.bags", "try:\n    import rosbags\nexcept ImportError:\n    pass"),
    (rules.no_sys_path_edits, "cli.main", "import sys\nsys.path.insert(0, '.')"),
    (rules.no_sys_path_edits, "cli.main", "import sys\nsys.path += ['.']"),
    (rules.no_sys_path_edits, "cli.main", "from sys import path"),
    (rules.no_foreign_code_execution, "io.scene", "eval('1')"),
    (rules.no_foreign_code_execution, "io.scene", "exec('1')"),
    (rules.no_foreign_code_execution, "io.scene", "def f():\n    import pickle"),
    (rules.no_foreign_code_execution, "io.scene", "torch.load(path)"),
    (rules.no_foreign_code_execution, "io.scene", "torch.load(path, weights_only=False)"),
    (rules.no_foreign_code_execution, "io.scene", "np.load(path, allow_pickle=True)"),
    (rules.no_print_outside_cli, "ros.robot.node", "def f():\n    print('x')"),
    (rules.no_mutable_module_state, "core.registry", "cache = {}"),
    (rules.no_mutable_module_state, "core.registry", "try:\n    pass\nexcept OSError:\n    seen: list[int] = []"),
    (rules.no_mutable_module_state, "core.registry", "from collections import deque\n_queue = deque(maxlen=3)"),
    (rules.no_mutable_module_state, "core.registry", "X = 1\ndef f():\n    global X"),
    (rules.no_device_literal, "splatting.fit", "device = 'cuda:0'"),
    (rules.files_are_short, "core.cameras", "x = 1\n" * 501),
    (rules.tests_do_not_sleep, "test_x", "import time\ntime.sleep(1)"),
    (rules.tests_do_not_sleep, "test_x", "from time import sleep"),
]

# Rule, name of the module, source that the rule must let pass.
GOOD = [
    (rules.core_imports_only_numpy_and_torch, "core.cameras", "import math\nimport torch\nfrom . import se3"),
    (rules.core_imports_only_numpy_and_torch, "geometry.pnp", "import cv2"),
    (rules.layers_point_down, "pointmap.scale", "from . import base\nfrom ..geometry import pnp"),
    (rules.layers_point_down, "pipeline.result", "from reconx_ros import __version__"),
    (rules.layers_point_down, "cli.demo", "from reconx_ros.evaluation import report"),
    (rules.rooms_know_their_neighbours_only, "pointmap.sfm.refine", "from reconx_ros.pointmap.stereo import views"),
    (rules.rooms_know_their_neighbours_only, "evaluation.report.page", "from reconx_ros.evaluation import layout"),
    (rules.rooms_know_their_neighbours_only, "ros.robot.node", "from reconx_ros.jobs import data"),
    (rules.pipeline_imports_no_backend, "pipeline.reconstructor", "from reconx_ros.splatting import base, config"),
    (rules.ros_is_imported_late_by_cli_only, "cli.demo", "def f():\n    from reconx_ros.ros.tools import sim_robot"),
    (rules.ros_messages_stay_in_ros, "ros.conversions", "import rclpy\nfrom reconx_ros.msg import Status"),
    (rules.optional_dependencies_are_late, "splatting.backends.gsplat", "def f():\n    import gsplat"),
    (rules.optional_dependencies_are_late, "viz.viewer", "if TYPE_CHECKING:\n    import viser"),
    (rules.no_sys_path_edits, "io.scene", "import os\nfrom os import path\nos.path.join('a')"),
    (rules.no_foreign_code_execution, "io.scene", "model.eval()\ntorch.load(p, weights_only=True)\nnp.load(p)"),
    (rules.no_print_outside_cli, "cli.main", "print('x')"),
    (rules.no_mutable_module_state, "core.registry", "__all__ = ['x']\n_ROWS = {}\ndef f():\n    cache = {}"),
    (rules.no_device_literal, "splatting.fit", "device = 'cuda'"),
    (rules.files_are_short, "core.cameras", "x = 1\n" * 500),
    (rules.tests_do_not_sleep, "test_x", "event.wait(timeout=1)"),
]


def snippet(name: str, source: str) -> rules.Module:
    full_name = f"{rules.PACKAGE}.{name}" if name else rules.PACKAGE
    return rules.Module(full_name, ast.parse(source), lines=len(source.splitlines()), is_package=not name)


def found_in(paths: list[Path], root: Path, rule: rules.Rule) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{line}: {what}" for path in paths for line, what in rule(rules.parse(path, root))
    ]


@pytest.mark.parametrize("rule", rules.PACKAGE_RULES, ids=lambda rule: rule.__name__)
def test_package_keeps_rule(rule: rules.Rule) -> None:
    found = found_in(sorted((ROOT / rules.PACKAGE).rglob("*.py")), ROOT, rule)
    assert not found, f"{rule.__doc__}\n" + "\n".join(found)


@pytest.mark.parametrize("rule", rules.TEST_RULES, ids=lambda rule: rule.__name__)
def test_tests_keep_rule(rule: rules.Rule) -> None:
    found = found_in(sorted((ROOT / "test").rglob("*.py")), ROOT, rule)
    assert not found, f"{rule.__doc__}\n" + "\n".join(found)


@pytest.mark.parametrize(("rule", "name", "source"), BAD)
def test_rule_notices(rule: rules.Rule, name: str, source: str) -> None:
    assert list(rule(snippet(name, source)))


@pytest.mark.parametrize(("rule", "name", "source"), GOOD)
def test_rule_lets_pass(rule: rules.Rule, name: str, source: str) -> None:
    assert not list(rule(snippet(name, source)))


def test_every_folder_has_its_rule() -> None:
    """A new room says what it may know before it is built."""
    folders = {
        ".".join(path.parent.relative_to(ROOT / rules.PACKAGE).parts) for path in (ROOT / rules.PACKAGE).rglob("*.py")
    }
    assert {folder for folder in folders if "." not in folder} == set(rules.MAY_IMPORT)
    nested = {folder for folder in folders if folder.count(".") == 1}
    assert nested == {room for room in rules.ROOMS if "." in room}


def test_every_rule_is_shown_to_notice_something() -> None:
    assert {rule for rule, _, _ in BAD} == {*rules.PACKAGE_RULES, *rules.TEST_RULES}

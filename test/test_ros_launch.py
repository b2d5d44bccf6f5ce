"""The launch files. ROS's own `launch` is not on PyPI, so two tests stand for it:

one that needs it and is skipped elsewhere, and one that runs the files against a small recording STUB of the names they
use. The stub proves that every executable and file that is named exists, not that the launch system takes them.
"""

from __future__ import annotations

import re
import runpy
import sys
import types
from collections.abc import ItemsView
from pathlib import Path
from typing import Any

import pytest

from reconx_ros.core.settings import walk
from reconx_ros.pipeline.config import ReconxConfig

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / "launch").glob("*.launch.py"))


class Recorded:
    """What a stubbed launch class was called with."""

    def __init__(self, *positional: Any, **named: Any) -> None:
        self.positional, self.named = positional, named


STUBBED = {
    "launch": ("LaunchDescription",),
    "launch.actions": (
        "DeclareLaunchArgument",
        "ExecuteProcess",
        "IncludeLaunchDescription",
        "SetEnvironmentVariable",
    ),
    "launch.conditions": ("IfCondition", "UnlessCondition"),
    "launch.launch_description_sources": ("PythonLaunchDescriptionSource",),
    "launch.substitutions": ("EnvironmentVariable", "LaunchConfiguration", "PathJoinSubstitution"),
    "launch_ros": (),
    "launch_ros.actions": ("Node",),
    "launch_ros.parameter_descriptions": ("ParameterValue",),
    "launch_ros.substitutions": ("FindPackageShare",),
}


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> None:
    for module_name, names in STUBBED.items():
        module = types.ModuleType(module_name)
        for name in names:
            setattr(module, name, type(name, (Recorded,), {}))
        monkeypatch.setitem(sys.modules, module_name, module)


def entities(file: Path) -> list[Recorded]:
    description = runpy.run_path(str(file))["generate_launch_description"]()
    return list(description.positional[0])


def of_kind(found: list[Recorded], name: str) -> list[Recorded]:
    return [e for e in found if type(e).__name__ == name]


def configurations(value: Any) -> set[str]:
    """Names of all launch arguments that something refers to."""
    if isinstance(value, Recorded):
        inner = [*value.positional, *value.named.values()]
        own = {value.positional[0]} if type(value).__name__ == "LaunchConfiguration" else set()
        return own.union(*map(configurations, inner))
    if isinstance(value, dict):
        return set().union(*map(configurations, value.values()))
    if isinstance(value, list | tuple | ItemsView):
        return set().union(*map(configurations, value))
    return set()


def shared_files(value: Any) -> set[Path]:
    """Every path below the package's share folder."""
    if isinstance(value, Recorded):
        if type(value).__name__ == "PathJoinSubstitution":
            package, *names = value.positional[0]
            assert package.positional == ("reconx_ros",)
            return {ROOT.joinpath(*names)}
        return set().union(*map(shared_files, [*value.positional, *value.named.values()]))
    if isinstance(value, list | tuple):
        return set().union(*map(shared_files, value))
    return set()


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.name)
def test_with_stub_every_name_in_a_launch_file_exists(file: Path, stub: None) -> None:
    found = entities(file)
    cmake = (ROOT / "CMakeLists.txt").read_text()
    executables = set(re.findall(r"install_command\((\w+)", cmake))
    for node in of_kind(found, "Node"):
        if node.named["package"] == "reconx_ros":
            assert node.named["executable"] in executables
    files = shared_files(found)
    assert files and all(f.is_file() for f in files), files
    declared = {a.positional[0] for a in of_kind(found, "DeclareLaunchArgument")}
    assert configurations(found) <= declared


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.name)
def test_with_stub_what_is_passed_to_an_included_file_is_declared_there(file: Path, stub: None) -> None:
    for included in of_kind(entities(file), "IncludeLaunchDescription"):
        (target,) = shared_files(included)
        declared = {a.positional[0]: a for a in of_kind(entities(target), "DeclareLaunchArgument")}
        for name, value in included.named["launch_arguments"]:
            choices = declared[name].named.get("choices")
            assert not isinstance(value, str) or choices is None or value in choices


def test_with_stub_the_server_side_starts_no_node_of_the_robot(stub: None) -> None:
    found = entities(ROOT / "launch" / "tethered.launch.py")
    (included,) = of_kind(found, "IncludeLaunchDescription")
    passed = dict(included.named["launch_arguments"])
    assert (passed["node"], passed["server"]) == ("false", "true") and "fastdds_profile" in passed
    defaults = {a.positional[0]: a.named["default_value"] for a in of_kind(found, "DeclareLaunchArgument")}
    assert {f.name for f in shared_files(defaults["fastdds_profile"])} == {"fastdds_tethered.xml"}
    variables = {v.positional[0] for v in of_kind(found, "SetEnvironmentVariable")}
    assert variables == {"ROS_STATIC_PEERS", "ROS_AUTOMATIC_DISCOVERY_RANGE"}


def test_with_stub_a_bag_is_played_once_or_again_and_again_with_its_clock(stub: None) -> None:
    found = entities(ROOT / "launch" / "bag.launch.py")
    (included,) = of_kind(found, "IncludeLaunchDescription")
    assert dict(included.named["launch_arguments"])["use_sim_time"] == "true"
    players = {type(p.named["condition"]).__name__: p.named["cmd"] for p in of_kind(found, "ExecuteProcess")}
    assert set(players) == {"IfCondition", "UnlessCondition"}
    for condition, words in players.items():
        assert words[:3] == ["ros2", "bag", "play"] and words[3].positional == ("bag",) and "--clock" in words
        assert ("--loop" in words) == (condition == "IfCondition")


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.name)
def test_with_stub_every_argument_is_described(file: Path, stub: None) -> None:
    arguments = of_kind(entities(file), "DeclareLaunchArgument")
    for argument in arguments:
        assert argument.named["description"].endswith("."), argument.positional
        choices = argument.named.get("choices")
        assert choices is None or argument.named["default_value"] in choices


def test_with_stub_the_package_launch_starts_both_nodes_with_known_parameters(stub: None) -> None:
    found = entities(ROOT / "launch" / "reconx.launch.py")
    nodes = [n.named["executable"] for n in of_kind(found, "Node")]
    assert nodes == ["reconx_node", "reconstruction_server", "rviz2"]
    known = {name for name, _, _ in walk(ReconxConfig())} | {"use_sim_time"}
    for node in of_kind(found, "Node"):
        for group in node.named["parameters"]:
            assert not isinstance(group, dict) or set(group) <= known
    variables = {v.positional[0] for v in of_kind(found, "SetEnvironmentVariable")}
    assert variables == {"FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE"}


def test_real_launch_loads_the_files() -> None:
    pytest.importorskip("launch_ros", reason="ROS's launch is not on PyPI; this runs on a ROS installation")
    for file in FILES:
        assert runpy.run_path(str(file))["generate_launch_description"]().entities

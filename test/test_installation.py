"""What a ROS workspace sees of the installed package; `make colcon` runs this on colcon's build."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("ament_index_python")
pytest.importorskip("reconx_ros.msg")

from ament_index_python import packages as index
from ros_graph import NodeProcess, graph

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = {"reconx", "reconx_node", "reconstruction_server", "sim_robot"}


@pytest.fixture(scope="module")
def prefix() -> Path:
    try:
        return Path(index.get_package_prefix("reconx_ros"))
    except LookupError:
        pytest.skip("reconx_ros is in no prefix of AMENT_PREFIX_PATH")


def test_the_index_knows_package_and_interfaces(prefix: Path) -> None:
    resources = prefix / "share" / "ament_index" / "resource_index"
    assert (resources / "packages" / "reconx_ros").is_file()
    listed = set((resources / "rosidl_interfaces" / "reconx_ros").read_text().split())
    ours = {f"{kind}/{path.name}" for kind in ("msg", "srv", "action") for path in (ROOT / kind).glob(f"*.{kind}")}
    assert ours <= listed


def test_shared_files_are_those_of_the_source(prefix: Path) -> None:
    share = Path(index.get_package_share_directory("reconx_ros"))
    assert (share / "package.xml").is_file()
    for folder in ("launch", "config"):
        source = {path.name: path.read_bytes() for path in (ROOT / folder).iterdir() if path.is_file()}
        installed = {path.name: path.read_bytes() for path in (share / folder).iterdir() if path.is_file()}
        assert installed == source, folder


def test_executables_are_where_ros2_run_looks(prefix: Path, tmp_path: Path) -> None:
    folder = prefix / "lib" / "reconx_ros"
    assert {path.name for path in folder.iterdir() if os.access(path, os.X_OK)} == COMMANDS
    done = subprocess.run([folder / "reconx", "--help"], capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 0 and "reconstruct" in done.stdout, done.stderr


def test_the_fast_dds_profile_is_found_without_the_source(prefix: Path, tmp_path: Path) -> None:
    code = "from reconx_ros.ros.graph.environment import fastdds_profile; print(fastdds_profile())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).read_bytes() == (ROOT / "config" / "fastdds.xml").read_bytes()


@pytest.mark.parametrize("name", ["reconx_node", "reconstruction_server"])
def test_an_installed_node_starts_and_ends(name: str, prefix: Path, ros_domain: int, tmp_path: Path) -> None:
    with graph(tmp_path) as made:
        words = ("--ros-args", "-p", "ros.worker_target:=ros_stub_jobs:quick")
        executable = prefix / "lib" / "reconx_ros" / name
        process = NodeProcess("", tmp_path / f"{name}.log", *words, executable=executable)
        made.processes.append(process)
        made.wait("the node to be active", lambda: "activate: done" in process.text(), 120.0)
        made.wait("the node in the graph", lambda: name in made.node.get_node_names())
        assert process.stop() == 0, process.text()

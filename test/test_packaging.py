"""The package's own files agree with each other: versions, interfaces, dependencies, profiles."""

from __future__ import annotations

import ast
import fnmatch
import json
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
import zipfile
from configparser import ConfigParser
from pathlib import Path

import architecture
import pytest
import torch
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.version import Version
from safetensors.torch import save_file

import reconx_ros

ROOT = Path(__file__).resolve().parent.parent
INTERFACES = sorted(path for kind in ("msg", "srv", "action") for path in (ROOT / kind).glob(f"*.{kind}"))
TF_MESSAGE_HASH = "RIHS01_e369d0f05a23ae52508854b66f6aa0437f3449d652e8cbf22d5abe85d020f087"
STAMPED = {"geometry_msgs/PoseArray", "sensor_msgs/Image", "sensor_msgs/CompressedImage", "sensor_msgs/PointCloud2"}
SOURCE_SUFFIXES = {".py", ".c", ".h", ".html", ".js", ".css", ".json", ".yaml", ".safetensors"}
MOST_MB_EACH, MOST_MB_TOGETHER = 12, 30  # of the networks in the package
# Installed by hand they break a CPU environment, or are not what their name says.
NEVER_REQUIRED = {"torchvision", "lpips", "launch", "cv-bridge", "open3d"}


def manifest() -> ET.Element:
    return ET.parse(ROOT / "package.xml").getroot()


def setup_cfg() -> ConfigParser:
    parser = ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def requirements(path: Path) -> list[Requirement]:
    lines = (line.split("#")[0].strip() for line in path.read_text().splitlines())
    return [Requirement(line) for line in lines if line]


def sections(path: Path) -> list[list[str]]:
    """The lines of an interface file: one list for a message, two for a service, three for an action."""
    parts: list[list[str]] = [[]]
    for line in path.read_text().splitlines():
        if line.strip() == "---":
            parts.append([])
        else:
            parts[-1].append(line)
    return parts


def fields(lines: list[str]) -> list[tuple[str, str, str]]:
    """(type, name, documentation) of each field and constant; the comment stands directly above."""
    found, comment = [], []
    for line in lines:
        if line.startswith("#"):
            comment.append(line.lstrip("# "))
        elif line.strip():
            kind, name = line.split()[:2]
            found.append((kind, name, " ".join(comment)))
            comment = []
        else:
            comment = []
    return found


def test_versions_agree() -> None:
    assert manifest().findtext("version") == reconx_ros.__version__
    assert setup_cfg()["metadata"]["version"] == "attr: reconx_ros.__version__"
    assert reconx_ros.__version__ in (ROOT / "CHANGELOG.rst").read_text()


def test_importing_the_package_does_not_import_torch() -> None:
    code = "import sys, reconx_ros; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)


def test_cmake_builds_every_interface() -> None:
    listed = set(re.findall(r'"((?:msg|srv|action)/\w+\.\w+)"', (ROOT / "CMakeLists.txt").read_text()))
    assert listed == {str(path.relative_to(ROOT)) for path in INTERFACES}


@pytest.mark.parametrize("path", INTERFACES, ids=lambda path: path.name)
def test_interface_documents_every_field(path: Path) -> None:
    for part in sections(path):
        for kind, name, documentation in fields(part):
            assert len(documentation) > 4, f"{path.name}: {kind} {name} has no comment above it"


@pytest.mark.parametrize("path", INTERFACES, ids=lambda path: path.name)
def test_interface_says_when_and_where(path: Path) -> None:
    parts = [fields(part) for part in sections(path)]
    with_header = [any(kind == "std_msgs/Header" or kind in STAMPED for kind, _, _ in part) for part in parts]
    if path.suffix == ".srv":
        assert any(with_header)
    else:
        firsts = [next(field for field in part if "=" not in field[1]) for part in parts]
        assert [first[:2] for first in firsts] == [("std_msgs/Header", "header")] * len(parts)


@pytest.mark.parametrize("path", INTERFACES, ids=lambda path: path.name)
def test_interface_has_no_array_of_structures(path: Path) -> None:
    for part in sections(path):
        for kind, name, _ in fields(part):
            assert not ("/" in kind and kind.endswith("]")), f"{path.name}: {name} is an array of {kind}"


@pytest.mark.ros
def test_tf_message_is_the_one_every_ros_knows() -> None:
    index = pytest.importorskip("ament_index_python")
    share = Path(index.get_package_share_directory("tf2_msgs"))
    description = share / "msg" / "TFMessage.json"
    if not description.is_file():
        pytest.skip("this ROS distribution has no type hashes")
    hashes = {row["type_name"]: row["hash_string"] for row in json.loads(description.read_text())["type_hashes"]}
    assert hashes["tf2_msgs/msg/TFMessage"] == TF_MESSAGE_HASH


def test_colcon_never_builds_the_stand_in_for_tf2_msgs() -> None:
    assert (ROOT / "cmake" / "tf2_msgs" / "COLCON_IGNORE").is_file()


def test_manifest_names_every_ros_package_that_is_imported() -> None:
    declared = {element.text for element in manifest() if element.tag.endswith("depend")}
    imported = {
        found.root
        for path in (ROOT / "reconx_ros").rglob("*.py")
        for found in architecture.imports(architecture.parse(path, ROOT))
        if found.root in architecture.ROS_MODULES or found.root.endswith("_msgs")
    }
    for path in (ROOT / "launch").glob("*.py"):
        tree = ast.parse(path.read_text())
        names = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        imported |= {name.split(".")[0] for name in names if name.split(".")[0] in architecture.ROS_MODULES}
    assert imported <= declared | {"tf2_py"}


def test_every_folder_with_modules_is_a_package() -> None:
    folders = {path.parent for path in (ROOT / "reconx_ros").rglob("*.py")}
    assert [str(folder.relative_to(ROOT)) for folder in folders if not (folder / "__init__.py").is_file()] == []


@pytest.mark.parametrize("python_version", ["3.10", "3.11", "3.12"])
def test_pins_lie_within_the_declared_ranges(python_version: str) -> None:
    environment = {**default_environment(), "python_version": python_version}
    pins = {}
    for name in ("torch.txt", "base.txt"):
        for pin in requirements(ROOT / "requirements" / name):
            if pin.marker is None or pin.marker.evaluate(environment):
                assert pin.name not in pins, f"{pin.name} is pinned twice for Python {python_version}"
                (specifier,) = pin.specifier
                assert specifier.operator == "=="
                pins[pin.name] = Version(specifier.version)
    for declared in map(Requirement, setup_cfg()["options"]["install_requires"].split("\n")[1:]):
        assert declared.specifier.contains(pins[declared.name]), f"{declared} does not admit {pins[declared.name]}"


def test_nothing_requires_a_package_that_breaks_the_environment() -> None:
    pinned = {r.name for path in (ROOT / "requirements").glob("*.txt") for r in requirements(path)}
    declared = {Requirement(line).name for line in setup_cfg()["options"]["install_requires"].split("\n")[1:]}
    assert not NEVER_REQUIRED & (pinned | declared)


def test_shared_memory_segment_holds_the_largest_usual_message() -> None:
    largest_bytes = 1_000_000 * 32  # a cloud of a million points
    namespace = {"dds": "http://www.eprosima.com"}
    (segment,) = ET.parse(ROOT / "config" / "fastdds.xml").getroot().iterfind(".//dds:segment_size", namespace)
    assert int(segment.text) > largest_bytes


def test_networks_in_the_package_are_small() -> None:
    sizes_mb = {path.name: path.stat().st_size / 1e6 for path in (ROOT / "reconx_ros").rglob("*.safetensors")}
    assert all(size <= MOST_MB_EACH for size in sizes_mb.values()), sizes_mb
    assert sum(sizes_mb.values()) <= MOST_MB_TOGETHER, sizes_mb


def test_cmake_installs_networks_and_their_cards() -> None:
    text = (ROOT / "CMakeLists.txt").read_text()
    (block,) = re.findall(
        r'install\(DIRECTORY "\$\{PROJECT_NAME\}/" DESTINATION "\$\{package_folder\}"(.*?)\n  \)', text, re.S
    )
    excluded = re.findall(r'PATTERN "([^"]+)" EXCLUDE', block)
    assert len(excluded) == len(block.strip().splitlines())  # all but what is excluded
    for name in ("weights", "reconx-depth-small.safetensors", "reconx-depth-small.json"):
        assert not any(fnmatch.fnmatch(name, pattern) for pattern in excluded)


@pytest.mark.slow
def test_wheel_holds_the_library_and_the_command(tmp_path: Path) -> None:
    source = tmp_path / "source"  # a copy: setuptools leaves its build folders beside setup.py
    shutil.copytree(ROOT / "reconx_ros", source / "reconx_ros", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "setup.cfg", "pyproject.toml", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, source)
    (source / "README.md").write_text("For the test.")
    save_file({"a": torch.zeros(3)}, source / "reconx_ros" / "weights" / "tiny.safetensors")
    (source / "reconx_ros" / "weights" / "tiny.json").write_text("{}")
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", tmp_path, source]
    subprocess.run(command, check=True, timeout=300, env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"})
    (wheel,) = tmp_path.glob("reconx_ros-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (entry_points,) = (name for name in names if name.endswith("entry_points.txt"))
        assert "reconx = reconx_ros.cli.main:main" in archive.read(entry_points).decode()
    copied = (path for path in (source / "reconx_ros").rglob("*") if path.suffix in SOURCE_SUFFIXES)
    sources = {str(path.relative_to(source)) for path in copied}
    assert sources - names == set()
    assert {f"reconx_ros/{name}" for name in ("py.typed", "weights/tiny.safetensors", "weights/tiny.json")} <= names
    assert shutil.which("cc") is None or any(name.endswith(".so") for name in names)
    assert not any(name.startswith(("test/", "launch/")) for name in names)

"""Fixtures and collection rules shared by all tests."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parent.parent
LAST_DOMAIN_ID = 101  # above it, DDS would use ports that the system hands out to others

settings.register_profile("reconx", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("reconx")


def _set_default_environment() -> None:
    """Sets what rclpy, Fast DDS and OpenMP read when they are loaded, where `make test` has not set it."""
    os.environ.setdefault("ROS_PYTHON_CHECK_FIELDS", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    from reconx_ros.ros.graph.environment import profile_variable  # imports torch, so only now

    os.environ.setdefault(profile_variable(os.environ), str(ROOT / "config" / "fastdds.xml"))
    if (Path(sys.prefix) / "share" / "ament_index").is_dir():
        os.environ.setdefault("AMENT_PREFIX_PATH", sys.prefix)


_set_default_environment()


def _missing_ros() -> str | None:
    for module in ("rclpy", "reconx_ros.msg"):
        if importlib.util.find_spec(module) is None:
            return f"{module} is not installed: run `make setup` or source a ROS 2 workspace"
    return None


def _missing_gpu() -> str | None:
    import torch

    return None if torch.cuda.is_available() else "needs a CUDA device"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks tests that take a ROS domain as `ros`, and skips what this computer cannot run."""
    for item in items:
        if "ros_domain" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.ros)
    for marker, missing in (("ros", _missing_ros), ("gpu", _missing_gpu)):
        marked = [item for item in items if item.get_closest_marker(marker)]
        reason = missing() if marked else None
        if reason:
            for item in marked:
                item.add_marker(pytest.mark.skip(reason=reason))


def _folder_from_environment(name: str) -> Path:
    value = os.environ.get(name)
    if not value:
        pytest.skip(f"{name} is not set")
    folder = Path(value)
    if not folder.is_dir():
        pytest.fail(f"{name} names a folder that does not exist: {folder}")
    return folder


@pytest.fixture(scope="session")
def reconx_data() -> Path:
    """Folder of recorded scenes and bags; the test is skipped where RECONX_DATA is not set."""
    return _folder_from_environment("RECONX_DATA")


@pytest.fixture(scope="session")
def reconx_parity() -> Path:
    """Folder of reference values of the original networks; the test is skipped where RECONX_PARITY is not set."""
    return _folder_from_environment("RECONX_PARITY")


@pytest.fixture
def ros_domain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[int]:
    """A ROS_DOMAIN_ID that no other test on this computer uses meanwhile, set in the environment.

    A locked file stands for each domain, so that test runs beside each other share nothing; the system releases the
    lock even if the run is killed. Logs of nodes go to the test's own folder.
    """
    locks = Path(tempfile.gettempdir()) / f"reconx_ros_domains_{os.getuid()}"
    locks.mkdir(exist_ok=True)
    for attempt in range(LAST_DOMAIN_ID):
        domain = 1 + (os.getpid() + attempt) % LAST_DOMAIN_ID
        with (locks / str(domain)).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            monkeypatch.setenv("ROS_DOMAIN_ID", str(domain))
            monkeypatch.setenv("ROS_LOG_DIR", str(tmp_path / "ros_log"))
            yield domain
            return
    pytest.fail(f"all {LAST_DOMAIN_ID} ROS domains are in use by other tests")


@pytest.fixture
def robot(ros_domain: int, tmp_path: Path) -> Iterator[Any]:
    """A graph with a ``ros_robot.Robot``, whose node is not started yet."""
    from ros_graph import graph
    from ros_robot import Robot

    with graph(tmp_path) as made:
        yield Robot(made)


@pytest.fixture
def camera(robot: Any) -> Any:
    """A ``ros_graph.FakeCamera`` beside the robot."""
    from ros_graph import FakeCamera

    return FakeCamera(robot.graph)

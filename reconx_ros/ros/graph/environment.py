"""Environment of ROS processes: where packages are, and a transport that does not lose images."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Mapping, MutableMapping
from importlib import metadata
from pathlib import Path

from reconx_ros.core import BackendUnavailableError, StorageError

_M_MMAP_THRESHOLD = -3  # malloc.h


def fastdds_profile() -> Path:
    """The Fast DDS profile of this package, from a source checkout or an installation.

    Raises:
        StorageError: when neither has it.
    """
    package = Path(__file__).resolve().parents[1]
    prefixes = [Path(p) for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p] + [Path(sys.prefix)]
    places = [package.parent / "config"] + [p / "share" / "reconx_ros" / "config" for p in prefixes]
    for place in places:
        if (place / "fastdds.xml").is_file():
            return place / "fastdds.xml"
    raise StorageError(f"Fast DDS profile config/fastdds.xml is not in any of {', '.join(map(str, places))}")


def profile_variable(environment: Mapping[str, str]) -> str:
    """The variable through which this ROS release takes a Fast DDS profile."""
    distro = environment.get("ROS_DISTRO", "")
    if not distro:
        try:
            distro = "jazzy" if metadata.version("ros-rclpy").startswith("7.") else "kilted"
        except metadata.PackageNotFoundError:
            distro = "kilted"
    old = distro in ("humble", "iron", "jazzy")
    return "FASTRTPS_DEFAULT_PROFILES_FILE" if old else "FASTDDS_DEFAULT_PROFILES_FILE"


def prepare(environment: MutableMapping[str, str], *, domain_id: int | None = None) -> MutableMapping[str, str]:
    """Fill in what ROS processes need and the user has not set; returns the same mapping.

    - ``AMENT_PREFIX_PATH``: ROS wheels in a virtual environment do not set it.
    - ``FASTDDS_DEFAULT_PROFILES_FILE`` (``FASTRTPS_DEFAULT_PROFILES_FILE`` up to Jazzy; later releases warn about it):
      best-effort images between processes are lost without a shared-memory segment larger than the image.
    - ``OMP_WAIT_POLICY=PASSIVE``: spinning OpenMP threads starve the other processes of a small computer.

    Args:
        environment: ``os.environ`` or a copy for a child process.
        domain_id: DDS domain to use; None keeps the present one.
    """
    environment.setdefault("AMENT_PREFIX_PATH", sys.prefix)
    environment.setdefault(profile_variable(environment), str(fastdds_profile()))
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if domain_id is not None:
        environment["ROS_DOMAIN_ID"] = str(domain_id)
        environment.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    return environment


def return_large_blocks() -> None:
    """Have the C library give freed blocks of 1 MiB and more back to the system at once, where it is glibc.

    It would otherwise raise that limit to 32 MiB as it goes, keep what clouds and pictures leave behind, and grow.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 1 << 20)


def require_ros() -> None:
    """Check that rclpy and our messages can be imported.

    Raises:
        BackendUnavailableError: when not; the sentence says how to get them.
    """
    try:
        import rclpy  # noqa: F401

        import reconx_ros.msg  # noqa: F401
    except ImportError as err:
        raise BackendUnavailableError(
            f"ROS 2 is not usable here ({err}): run make setup, or build the package with colcon in a sourced workspace"
        ) from None

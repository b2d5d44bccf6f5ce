"""``reconx doctor``: what is installed, what can run, what would enable the rest."""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import torch

from reconx_ros.cli.common import EXIT_OK, add_common_arguments, print_table, write_json
from reconx_ros.core.registry import BackendInfo
from reconx_ros.pipeline.registries import registries
from reconx_ros.pipeline.report import versions
from reconx_ros.pointmap.completion.base import registry as completers
from reconx_ros.pointmap.matching.base import registry as matchers

_OPTIONAL = {
    "opencv": ("cv2", "pip install opencv-python-headless"),
    "pillow": ("PIL", "pip install pillow"),
    "rosbags": ("rosbags", "pip install rosbags"),
    "embreex": ("embreex", "pip install embreex"),
    "viser": ("viser", "pip install 'reconx_ros[viewer]'"),
    "rerun": ("rerun", "pip install 'reconx_ros[rerun]'"),
    "rclpy": ("rclpy", "make setup, or source a ROS 2 installation"),
    "messages": ("reconx_ros.msg", "make setup, or colcon build"),
    "tf2_msgs": ("tf2_msgs", "make setup, or source a ROS 2 installation"),
    "tf2_ros": ("tf2_ros", "comes with a ROS 2 installation; our own buffer is used without it"),
    "cv_bridge": ("cv_bridge", "comes with a ROS 2 installation; our own conversions are used without it"),
}


def add_parser(commands: Any) -> None:
    """Add ``doctor`` to the commands."""
    parser = commands.add_parser(
        "doctor",
        help="what is installed, which backends can run, what would enable the others",
        description="Print what is installed, which backends can run here and what would enable the others.",
        epilog="example: reconx doctor --json doctor.json",
    )
    add_common_arguments(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print and optionally write the diagnosis; always succeeds."""
    diagnosis = diagnose()
    machine = [(k, str(v)) for k, v in diagnosis["machine"].items()]
    print_table("machine", machine)
    print_table("packages", [(k, v["version"] or f"missing: {v['cure']}") for k, v in diagnosis["packages"].items()])
    for kind, rows in diagnosis["backends"].items():
        lines = [
            (r["name"], f"{'ready' if r['ready'] else r['reason']} ({r['summary']}, {r['licence']})") for r in rows
        ]
        print_table(f"{kind} backends", lines)
    if arguments.json:
        write_json(arguments.json, diagnosis)
    return EXIT_OK


def diagnose() -> dict[str, Any]:
    """Everything ``doctor`` knows, as plain values."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    machine = {
        **versions(),
        "cores": len(os.sched_getaffinity(0)),
        "gpu": ", ".join(gpus) or "none visible to torch",
        "compiler": shutil.which("cc") or shutil.which("gcc") or "missing: apt install gcc",
        "ros_distro": os.environ.get("ROS_DISTRO", "not set"),
        "rmw": os.environ.get("RMW_IMPLEMENTATION", "default"),
    }
    tables = {**registries(), "matching": matchers(), "completion": completers()}
    return {
        "machine": machine,
        "packages": {name: _package(module, cure) for name, (module, cure) in _OPTIONAL.items()},
        "backends": {kind: _rows(rows) for kind, rows in tables.items()},
    }


def _package(module: str, cure: str) -> dict[str, str]:
    try:
        found = importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        found = False
    if not found:
        return {"version": "", "cure": cure}
    distribution = metadata.packages_distributions().get(module.split(".")[0], [""])[0]
    try:
        return {"version": metadata.version(distribution) if distribution else "found", "cure": ""}
    except metadata.PackageNotFoundError:
        return {"version": "found", "cure": ""}


def _rows(registry: Mapping[str, BackendInfo]) -> list[dict[str, Any]]:
    rows = []
    for info in registry.values():
        reason = info.missing()
        licence = info.licence_code + (f", weights {info.licence_weights}" if info.licence_weights else "")
        rows.append(
            {
                "name": info.name,
                "ready": reason is None,
                "reason": reason or "",
                "summary": info.summary,
                "licence": licence,
            }
        )
    return rows

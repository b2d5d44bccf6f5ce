"""Runs the real nodes as separate processes and a recorder beside them: the base of ``demo`` and ``replay``."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any

import rclpy
import yaml
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node

from reconx_ros.core import ReconstructionError
from reconx_ros.ros.graph.environment import prepare

_STOP_TIMEOUT_S = 10.0
# Before Python 3.11 a hook in the child does it, which is no good where other threads hold locks.
_OWN_GROUP: dict[str, Any] = {"process_group": 0} if sys.version_info >= (3, 11) else {"preexec_fn": os.setpgrp}
_WAKE_S = 0.25
_LAST_DOMAIN_ID = 101  # the highest that every system supports

PROGRAMS: Mapping[str, str] = MappingProxyType(
    {
        "reconx_node": "reconx_ros.ros.robot.node",
        "reconstruction_server": "reconx_ros.ros.server.node",
        "sim_robot": "reconx_ros.ros.tools.sim_robot",
    }
)
"""Module of each program, by the name of its node."""


class NodeProcess:
    """One node in a process of its own, its output in a log file."""

    def __init__(
        self,
        module: str,
        parameters: Mapping[str, Any],
        remaps: Mapping[str, str],
        *,
        name: str,
        folder: Path,
        environment: Mapping[str, str],
    ) -> None:
        self.name = name
        self.log = folder / f"{self.name}.log"
        parameter_file = folder / f"{self.name}.yaml"
        parameter_file.write_text(yaml.safe_dump({"/**": {"ros__parameters": dict(parameters)}}))
        command = [sys.executable, "-m", module, "--ros-args", "--params-file", str(parameter_file)]
        for source, target in remaps.items():
            command += ["-r", f"{source}:={target}"]
        with self.log.open("wb") as log:
            # A group of its own, to be ended as a whole, but the caller's session: niceness counts within a session.
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=dict(environment),
                **_OWN_GROUP,
            )  # fmt: skip

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    def check(self) -> None:
        """Raise ReconstructionError when the process ended with an error."""
        code = self._process.poll()
        if code not in (None, 0):
            lines = self.log.read_text(errors="replace").strip().splitlines()
            last = lines[-1] if lines else "no output"
            raise ReconstructionError(f"{self.name} ended with code {code}: {last} (log: {self.log})")

    def stop(self) -> None:
        """Ask the process to end, then insist."""
        for stop_signal in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            if self._process.poll() is not None:
                break
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, stop_signal)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_STOP_TIMEOUT_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)


class RosSession:
    """Our nodes in a DDS domain; use as a context manager.

    The domain is the user's where ``ROS_DOMAIN_ID`` is set, so that rviz2 in another terminal can watch; else a private
    one, drawn at random.

    Args:
        folder: for parameter files and logs; made when missing.

    Attributes:
        domain_id: the domain.
        context: the rclpy context of this process in that domain.
        folder: where parameter files and logs go.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        own = os.environ.get("ROS_DOMAIN_ID", "")
        self.domain_id = int(own) if own.isdigit() else random.SystemRandom().randint(1, _LAST_DOMAIN_ID)
        prepare(os.environ, domain_id=self.domain_id)
        self._processes: list[NodeProcess] = []
        self._nodes: list[Node] = []
        self._changed = threading.Condition()
        self._ending = threading.Event()

    def __enter__(self) -> RosSession:
        self.context = Context()
        rclpy.init(context=self.context, domain_id=self.domain_id)
        self._executor = SingleThreadedExecutor(context=self.context)
        self._thread = threading.Thread(target=self._spin, name="session", daemon=True)
        self._thread.start()
        return self

    def _spin(self) -> None:
        while self.context.ok() and not self._ending.is_set():
            self._executor.spin_once(timeout_sec=_WAKE_S)
            with self._changed:
                self._changed.notify_all()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in reversed(self._processes):
            process.stop()
        self._ending.set()
        self._thread.join(timeout=_STOP_TIMEOUT_S)  # before anything that its callbacks use is gone
        self._executor.shutdown()
        with contextlib.suppress(Exception):
            rclpy.shutdown(context=self.context)
        for node in self._nodes:
            node.destroy_node()

    def start(self, name: str, parameters: Mapping[str, Any], remaps: Mapping[str, str] | None = None) -> NodeProcess:
        """Start one of PROGRAMS as a process."""
        process = NodeProcess(
            PROGRAMS[name], parameters, remaps or {}, name=name, folder=self.folder, environment=os.environ
        )
        self._processes.append(process)
        return process

    def add_node(self, node: Node) -> None:
        """Spin a node of this process."""
        self._nodes.append(node)
        self._executor.add_node(node)

    def wait(
        self,
        condition: Callable[[], bool],
        what: str,
        *,
        timeout_s: float,
        on_wait: Callable[[], None] | None = None,
    ) -> None:
        """Wait until a condition on what the nodes received holds.

        Args:
            condition: evaluated whenever something may have happened.
            what: names what is waited for, in messages.
            timeout_s: longest wait.
            on_wait: called about four times a second, for progress.

        Raises:
            ReconstructionError: when a node process died or the time is over.
        """
        deadline = time.monotonic() + timeout_s
        while not condition():
            for process in self._processes:
                process.check()
            if time.monotonic() > deadline:
                raise ReconstructionError(f"waited {timeout_s:g} s in vain for {what} (logs: {self.folder})")
            if on_wait is not None:
                on_wait()
            with self._changed:
                self._changed.wait(timeout=_WAKE_S)

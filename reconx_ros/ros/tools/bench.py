"""``reconx bench ros``: how much input reconx_node takes while it reconstructs, and how fast clouds become messages."""

from __future__ import annotations

import os
import statistics
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rclpy.action import ActionClient
from rclpy.node import Node
from std_srvs.srv import Trigger

from reconx_ros.action import Reconstruct
from reconx_ros.core import ReconstructionError
from reconx_ros.core.machine import load_average, machine
from reconx_ros.core.settings import to_mapping
from reconx_ros.msg import Status
from reconx_ros.pipeline.config import ReconxConfig
from reconx_ros.ros.graph.qos import latched_qos
from reconx_ros.ros.server.feedback import resident_mib
from reconx_ros.ros.tools.cloud_bench import cloud_rows
from reconx_ros.ros.tools.load import LoadScene, LoadSource, Sent, simulated_scene, slope_per_minute
from reconx_ros.ros.tools.session import NodeProcess, RosSession

Row = dict[str, Any]
CAMERAS = ("left", "right")
_SETTLED = 4  # statuses without a new frame after which everything sent has arrived
_START_S = 300.0
_WARM_UP_S = 2.0
_FIRST_MAP_S = 900.0
_FIRST_MINUTE_S = 60.0


@dataclass
class Watched:
    """What a run of the load showed.

    Attributes:
        sent: by the source, warm-up left out.
        received: images that reached the mailbox meanwhile.
        drops: by reason, after the mailbox.
        p50_ms: of the image callback over the 1,000 frames before, one value for each status.
        p99_ms: likewise.
        jobs: reconstructions that succeeded meanwhile.
        busy_share: share of statuses in which a reconstruction ran.
        memory: process name to (seconds, MiB) samples.
        cpu: process name to processor seconds a second.
    """

    sent: Sent
    received: int = 0
    drops: dict[str, int] = field(default_factory=dict)
    p50_ms: list[float] = field(default_factory=list)
    p99_ms: list[float] = field(default_factory=list)
    jobs: int = 0
    busy_share: float = 0.0
    memory: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    cpu: dict[str, float] = field(default_factory=dict)

    @property
    def lost(self) -> int:
        """Images that never reached the mailbox."""
        return self.sent.frames - self.received

    def slope_mib_per_min(self, process: str) -> float | None:
        """Growth of a process after the first minute, or the first third of a shorter run."""
        samples = self.memory.get(process, [])
        if not samples:
            return None
        start_s = min(_FIRST_MINUTE_S, samples[-1][0] / 3)
        late = [s for s in samples if s[0] >= start_s]
        return slope_per_minute([t for t, _ in late], [mib for _, mib in late])


def run_bench(seconds: float = 180.0, *, points: int = 1_000_000, places: int = 16) -> list[Row]:
    """Run the load in front of the real nodes, then time clouds.

    Args:
        seconds: length of the load.
        points: of the cloud.
        places: at which the simulated robot stands.

    Returns:
        Rows of measure, value, unit; those of the cloud also have ratio, the baseline over ours.

    Raises:
        ReconstructionError: when a node dies or does not start.
        BackendUnavailableError: when embreex is not installed.
    """
    before = load_average()
    watched = run_load(simulated_scene(places), seconds)
    rows = load_rows(watched)
    rows += cloud_rows(points)
    here = machine()
    return [
        {"measure": "machine", "value": f"{here['processor']}, {here['cores']} cores"},
        {"measure": "load average before / after", "value": f"{before:.1f} / {load_average():.1f}"},
        *rows,
    ]


def run_load(scene: LoadScene, seconds: float, parameters: dict[str, Any] | None = None) -> Watched:
    """Publish a scene for some seconds while the nodes reconstruct without a pause; see ``run_bench``."""
    with tempfile.TemporaryDirectory(prefix="reconx_bench_") as folder, RosSession(Path(folder)) as session:
        values = {
            **to_mapping(ReconxConfig()),
            "ros.cameras": list(CAMERAS),
            "ros.output_dir": str(Path(folder) / "out"),
            "ros.keep_results": 1,
            **(parameters or {}),
        }
        server = session.start("reconstruction_server", values)
        node = session.start("reconx_node", values)
        watch = _Watch(session, {"reconx_node": node, "reconstruction_server": server})
        return watch.run(LoadSource(watch.node, scene), seconds)


class _Watch:
    """Listens to a node under load, and keeps it reconstructing."""

    def __init__(self, session: RosSession, processes: dict[str, NodeProcess]) -> None:
        self._session = session
        self._processes = processes
        self.node = Node("reconx_bench", context=session.context)
        self._statuses: list[Status] = []
        self.node.create_subscription(Status, "reconx_node/status", self._statuses.append, latched_qos(50))
        self._server = ActionClient(self.node, Reconstruct, "reconstruction_server/reconstruct")
        self._trigger = self.node.create_client(Trigger, "reconx_node/trigger")
        session.add_node(self.node)

    def run(self, source: LoadSource, seconds: float) -> Watched:
        """Warm up until there is a map, load, wait until everything has arrived."""
        self._session.wait(lambda: source.matched, "reconx_node to subscribe", timeout_s=_START_S)
        self._session.wait(self._server.server_is_ready, "the reconstruction server", timeout_s=_START_S)
        deadline_s = time.monotonic() + _FIRST_MAP_S
        while not any(s.reconstructions for s in self._statuses):
            if time.monotonic() > deadline_s:
                raise ReconstructionError(f"no reconstruction succeeded within {_FIRST_MAP_S:g} s, see the logs")
            self._send(source, _WARM_UP_S)
        first = self._settled()
        cpu = {name: _cpu_s(process.pid) for name, process in self._processes.items()}
        seen = len(self._statuses)
        watched = self._send(source, seconds)
        watched.cpu = {n: (_cpu_s(p.pid) - cpu[n]) / watched.sent.seconds for n, p in self._processes.items()}
        during = self._statuses[seen:]
        last = self._settled()
        watched.received = int(last.frames_in) - int(first.frames_in)
        watched.jobs = int(last.reconstructions) - int(first.reconstructions)
        before = dict(zip(first.drop_reasons, first.drop_counts, strict=True))
        drops = dict(zip(last.drop_reasons, last.drop_counts, strict=True))
        watched.drops = {reason: int(count) - int(before.get(reason, 0)) for reason, count in drops.items()}
        watched.p50_ms = [float(s.callback_p50_ms) for s in during]
        watched.p99_ms = [float(s.callback_p99_ms) for s in during]
        watched.busy_share = sum(s.state == Status.RECONSTRUCTING for s in during) / max(1, len(during))
        return watched

    def _send(self, source: LoadSource, seconds: float) -> Watched:
        results: list[Sent] = []
        thread = threading.Thread(target=lambda: results.append(source.send(seconds)), name="load", daemon=True)
        watched = Watched(sent=Sent())
        start_s = time.monotonic()
        thread.start()

        def look() -> None:
            self._keep_busy()
            for name, process in self._processes.items():
                memory = resident_mib(process.pid)
                if memory:
                    watched.memory.setdefault(name, []).append((time.monotonic() - start_s, float(memory)))

        self._session.wait(
            lambda: not thread.is_alive(), "the load to end", timeout_s=2 * seconds + _START_S, on_wait=look
        )
        watched.sent = results[0]
        return watched

    def _keep_busy(self) -> None:
        status = self._statuses[-1] if self._statuses else None
        if status is not None and status.state != Status.RECONSTRUCTING and status.keyframes > 1:
            self._trigger.call_async(Trigger.Request())

    def _settled(self) -> Status:
        """The first status after some in which no frame came any more."""

        def quiet() -> bool:
            recent = self._statuses[-_SETTLED:]
            return len(recent) == _SETTLED and recent[0].frames_in == recent[-1].frames_in > 0

        self._session.wait(quiet, "frames to arrive and to end", timeout_s=_START_S)
        return self._statuses[-1]


def load_rows(watched: Watched) -> list[Row]:
    """The table of a load."""
    sent, seconds = watched.sent, watched.sent.seconds
    late = sorted(sent.late_ms)
    rows: list[Row] = [
        {"measure": "images sent (two cameras, 640x480 rgb8)", "value": sent.frames},
        {"measure": "transforms sent", "value": sent.transforms},
        {"measure": "seconds", "value": seconds},
        {"measure": "ingest rate", "value": watched.received / seconds, "unit": "images/s"},
        {"measure": "lost before the mailbox", "value": watched.lost},
        {"measure": "thrown away after it, with reasons", "value": _words(watched.drops)},
        {"measure": "image callback, median", "value": statistics.median(watched.p50_ms), "unit": "ms"},
        {"measure": "image callback, p99, median of the run", "value": statistics.median(watched.p99_ms), "unit": "ms"},
        {"measure": "image callback, p99, worst 1,000 images", "value": max(watched.p99_ms), "unit": "ms"},
        {"measure": "reconstructions", "value": watched.jobs},
        {"measure": "share of time reconstructing", "value": watched.busy_share},
        {"measure": "source behind its clock, p99", "value": late[int(0.99 * (len(late) - 1))], "unit": "ms"},
    ]
    for name, cpu in watched.cpu.items():
        memory = watched.memory[name]
        rows += [
            {"measure": f"{name}: processor", "value": cpu, "unit": "cores"},
            {"measure": f"{name}: memory at the end", "value": memory[-1][1], "unit": "MiB"},
            {"measure": f"{name}: growth of memory", "value": watched.slope_mib_per_min(name), "unit": "MiB/min"},
        ]
    return rows


def _words(drops: dict[str, int]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in drops.items() if count) or "none"


def _cpu_s(pid: int) -> float:
    """Processor time that a process has taken, its children left out."""
    values = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return sum(int(v) for v in values[11:13]) / os.sysconf("SC_CLK_TCK")

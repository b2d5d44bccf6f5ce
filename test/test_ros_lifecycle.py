"""The life of both nodes as a lifecycle manager drives it, and what a transition leaves behind."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("reconx_ros.msg")

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from reconx_ros.msg import Status
from reconx_ros.srv import LoadMap
from ros_graph import TIMEOUT_S, FakeCamera, Graph, NodeProcess, graph
from test_model_cache import lpips_files

from reconx_ros.core import (
    SE3,
    BackendUnavailableError,
    ConfigError,
    PointCloud,
    ReconxError,
    WeightsError,
)
from reconx_ros.core.settings import updated
from reconx_ros.jobs import map_files
from reconx_ros.pipeline.config import ReconxConfig
from reconx_ros.pipeline.preparation import prepare
from reconx_ros.ros.graph.lifecycle import _spin_on
from reconx_ros.ros.graph.qos import latched_qos

SERVER, NODE = "reconstruction_server", "reconx_node"
POOL = 8  # threads that the executor makes when it first needs them
STUB = {"ros__worker_target": "ros_stub_jobs:quick"}


class Manager:
    """What nav2_lifecycle_manager does with bond_timeout 0: change_state and get_state of each node, in order.

    Follows LifecycleManager::startup, shutdown, reset, pause and resume of nav2: a transition counts when the service
    says so and get_state then names the expected state; going down, the nodes come in reverse order.
    """

    def __init__(self, made: Graph, names: tuple[str, ...]) -> None:
        self._graph = made
        self._names = names

    def state(self, name: str) -> int:
        return int(self._graph.call(GetState, f"{name}/get_state", GetState.Request()).current_state.id)

    def change(self, name: str, transition: int, expected: int) -> bool:
        request = ChangeState.Request(transition=Transition(id=transition))
        done = bool(self._graph.call(ChangeState, f"{name}/change_state", request).success)
        return done and self.state(name) == expected

    def _all(self, transition: int, expected: int, *, down: bool = False) -> bool:
        names = self._names[::-1] if down else self._names
        return all(self.change(name, transition, expected) for name in names)

    def startup(self) -> bool:
        unconfigured = all(self.state(name) == State.PRIMARY_STATE_UNCONFIGURED for name in self._names)
        configured = self._all(Transition.TRANSITION_CONFIGURE, State.PRIMARY_STATE_INACTIVE)
        return unconfigured and configured and self.resume()

    def resume(self) -> bool:
        return self._all(Transition.TRANSITION_ACTIVATE, State.PRIMARY_STATE_ACTIVE)

    def pause(self) -> bool:
        return self._all(Transition.TRANSITION_DEACTIVATE, State.PRIMARY_STATE_INACTIVE, down=True)

    def reset(self) -> bool:
        return self.pause() and self._all(Transition.TRANSITION_CLEANUP, State.PRIMARY_STATE_UNCONFIGURED, down=True)

    def shutdown(self) -> bool:
        return self.reset() and self._all(
            Transition.TRANSITION_UNCONFIGURED_SHUTDOWN, State.PRIMARY_STATE_FINALIZED, down=True
        )


@pytest.fixture
def made(ros_domain: int, tmp_path: Path) -> Iterator[Graph]:
    with graph(tmp_path) as found:
        yield found


def children(process: NodeProcess) -> list[str]:
    path = f"/proc/{process.process.pid}/task/{process.process.pid}/children"
    found = Path(path).read_text().split()
    for task in Path(f"/proc/{process.process.pid}/task").iterdir():
        found += (task / "children").read_text().split()
    return sorted(set(found))


def threads(process: NodeProcess) -> int:
    return len(list(Path(f"/proc/{process.process.pid}/task").iterdir()))


def descriptors(process: NodeProcess) -> int:
    return len(list(Path(f"/proc/{process.process.pid}/fd").iterdir()))


def resident_mib(process: NodeProcess) -> float:
    for line in Path(f"/proc/{process.process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("the process is gone")


class FailingExecutor:
    """Raises in the middle of its work, then ends."""

    def __init__(self, stop: threading.Event, *failures: Callable[[], None]) -> None:
        self.stop, self.failures = stop, list(failures)

    def spin(self) -> None:
        if self.failures:
            self.failures.pop(0)()
        self.stop.set()


class SilentNode:
    """Keeps what is logged."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.error = self.said.append

    def get_logger(self) -> SilentNode:
        return self


def broken_callback() -> None:
    raise ValueError("of a callback")


def add_to_wait_set() -> None:
    raise RuntimeError("action client pointer is invalid")


@pytest.mark.parametrize(
    ("failures", "said"),
    [
        ((broken_callback, broken_callback), 2),
        ((add_to_wait_set, broken_callback), 1),
        ((add_to_wait_set, add_to_wait_set), 1),  # at once again: it does not pass by itself
    ],
)
def test_what_a_callback_raises_is_told_and_what_rclpy_meets_in_passing_is_not(failures: Any, said: int) -> None:
    """rclpy raises where a callback destroys a client while the executor gathers what to wait for."""
    stop, node = threading.Event(), SilentNode()
    _spin_on(FailingExecutor(stop, *failures), node, stop)
    assert len(node.said) == said and stop.is_set()
    assert all(text.startswith("a callback failed: ") for text in node.said)


DEAF_MAIN_THREAD = """
import signal, threading
from reconx_ros.ros.graph.lifecycle import spin
from reconx_ros.ros.server.node import ReconstructionServer

class Signalled(ReconstructionServer):
    def __init__(self):
        super().__init__()
        self.create_timer(0.2, lambda: signal.pthread_kill(threading.get_ident(), signal.SIGTERM))
    def autostart(self):
        pass

raise SystemExit(spin(Signalled, 2))
"""


def test_a_signal_that_does_not_wake_the_main_thread_ends_the_process(ros_domain: int) -> None:
    """As one that comes just before the main thread begins to wait: Python's handler runs once that thread wakes."""
    ended = subprocess.run([sys.executable, "-c", DEAF_MAIN_THREAD], timeout=TIMEOUT_S, check=False)
    assert ended.returncode == 0


def test_a_lifecycle_manager_brings_both_nodes_up_and_down(made: Graph) -> None:
    statuses = made.listen(Status, f"{NODE}/status", latched_qos())
    server = made.start(SERVER, ros__autostart=False, **STUB)
    node = made.start(NODE, ros__autostart=False, ros__retry_s=0.1)
    made.wait("a status", lambda: bool(statuses))
    assert (statuses[-1].state, statuses[-1].state_text) == (Status.UNCONFIGURED, "unconfigured")
    camera, manager = FakeCamera(made), Manager(made, (SERVER, NODE))
    assert manager.startup()
    (worker,) = children(server)
    camera.ready()
    camera.walk(4)
    made.wait("a map", lambda: statuses[-1].reconstructions == 1)
    assert manager.pause()
    made.wait("the end of the subscription", lambda: camera.images.get_subscription_count() == 0)
    made.wait("word of the pause", lambda: statuses[-1].state == Status.IDLE)
    assert manager.resume()
    camera.ready()
    assert manager.reset()
    assert children(server) == [] and not Path(f"/proc/{worker}").exists()
    made.wait("word of it", lambda: statuses[-1].state == Status.UNCONFIGURED)
    assert manager.startup()
    camera.ready()
    camera.walk(2)
    made.wait("keyframes", lambda: statuses[-1].keyframes == 2)
    assert statuses[-1].reconstructions == 0  # cleanup forgot the map
    assert manager.shutdown()
    for process in (server, node):
        assert process.stop() == 0 and "Traceback" not in process.text()


@pytest.mark.parametrize(
    ("changes", "error", "sentence"),
    [
        ({"pointmap.backend": "dust3r"}, BackendUnavailableError, "pointmap.dust3r.weights is empty, expected weights"),
        ({"pointmap.backend": "dust4r"}, ConfigError, "unknown pointmap backend 'dust4r', the nearest known one is"),
        ({"diffusion.backend": "reconx"}, BackendUnavailableError, "diffusion.weights is empty, expected weights"),
        ({"diffusion.weights": "/nowhere"}, WeightsError, "diffusion.weights is '/nowhere', expected a name of"),
        ({"splatting.lpips_trunk": "/nowhere"}, ReconxError, "/nowhere"),
        ({"device": "cuda:99"}, BackendUnavailableError, "device is 'cuda:99', but torch sees"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_cannot_run_is_noticed_before_the_first_job(
    changes: dict[str, Any], error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        prepare(updated(ReconxConfig(), changes))


def test_what_jobs_will_run_is_told() -> None:
    config = updated(ReconxConfig(), {"device": "cpu", "pointmap.backend": "multiview"})
    assert re.fullmatch(r"jobs run multiview, warp, \w+ on cpu, without LPIPS", prepare(config))


def failure(made: Graph, name: str, diagnostics: list[Any]) -> Callable[[], DiagnosticStatus | None]:
    def found() -> DiagnosticStatus | None:
        for array in reversed(diagnostics):
            for status in array.status:
                if status.name == f"{name}: lifecycle":
                    return status if status.level == DiagnosticStatus.ERROR else None
        return None

    return found


@pytest.mark.parametrize(
    ("name", "parameters", "failing", "sentence"),
    [
        (
            SERVER,
            {"pointmap__backend": "dust3r", "pointmap__dust3r__weights": "/nowhere/weights.pth"},
            "configure",
            "is '/nowhere/weights.pth', expected a name of the catalogue",
        ),
        (NODE, {"ros__server": "no such name!"}, "configure", "no such name!"),
        (NODE, {"ros__cameras": ["left", "no such name!"]}, "activate", "no such name!"),
    ],
    ids=lambda value: value if isinstance(value, str) and " " not in value else "",
)
def test_a_transition_that_fails_says_why_and_leaves_nothing(
    made: Graph, name: str, parameters: dict[str, Any], failing: str, sentence: str
) -> None:
    diagnostics = made.listen(DiagnosticArray, "/diagnostics")
    process = made.start(name, **parameters)
    status = made.wait("the reason in diagnostics", failure(made, name, diagnostics))
    assert status.message.startswith(f"cannot {failing}: ") and sentence in status.message
    made.wait("the reason in the log", lambda: status.message in process.text())
    assert process.alive
    manager = Manager(made, (name,))
    state = {"configure": State.PRIMARY_STATE_UNCONFIGURED, "activate": State.PRIMARY_STATE_INACTIVE}[failing]
    assert manager.state(name) == state and children(process) == []
    if failing == "activate":
        assert made.node.count_subscribers("/left/image") == 0
        assert manager.change(name, Transition.TRANSITION_CLEANUP, State.PRIMARY_STATE_UNCONFIGURED)
    count = threads(process)
    for _ in range(2 if name == SERVER else POOL + 2):
        request = ChangeState.Request(transition=Transition(id=Transition.TRANSITION_CONFIGURE))
        made.call(ChangeState, f"{name}/change_state", request)
        if failing == "activate":
            manager.change(name, Transition.TRANSITION_CLEANUP, State.PRIMARY_STATE_UNCONFIGURED)
    assert threads(process) <= count + POOL and children(process) == []
    assert process.stop() == 0


def test_cycles_of_configuration_leave_no_thread_descriptor_or_memory(made: Graph, tmp_path: Path) -> None:
    map_files.save(tmp_path / "maps" / "large", large_map(), overwrite=False)
    node = made.start(NODE, ros__autostart=False, ros__output_dir=str(tmp_path / "maps"))
    server = made.start(SERVER, ros__autostart=False, **STUB)
    manager = Manager(made, (NODE,))

    def cycles(count: int) -> tuple[int, int, float]:
        for _ in range(count):
            assert manager.startup()
            loaded = made.call(LoadMap, f"{NODE}/load_map", LoadMap.Request(path="large"))
            assert loaded.success, loaded.message
            assert manager.reset()
        return threads(node), descriptors(node), resident_mib(node)

    first, then = cycles(3), cycles(8)
    assert then[0] <= first[0] + POOL and then[1] <= first[1], (first, then)
    assert then[2] - first[2] < 40.0, f"memory grew from {first[2]:.1f} to {then[2]:.1f} MiB in 8 cycles"

    manager = Manager(made, (SERVER,))
    assert manager.startup() and manager.reset()
    before = threads(server), descriptors(server)
    assert manager.startup() and len(children(server)) == 1
    assert manager.reset() and children(server) == []
    after = threads(server), descriptors(server)
    assert after[0] <= before[0] + POOL and after[1] <= before[1], (before, after)


def test_cleanup_gives_the_memory_of_networks_back_and_configure_loads_them_again(made: Graph, tmp_path: Path) -> None:
    trunk, heads = lpips_files(tmp_path)
    server = made.start(
        SERVER, ros__autostart=False, device="cpu", splatting__lpips_trunk=str(trunk), splatting__lpips_heads=str(heads)
    )
    manager = Manager(made, (SERVER,))
    assert manager.state(SERVER) == State.PRIMARY_STATE_UNCONFIGURED
    alone = resident_mib(server)
    assert manager.startup()
    (worker,) = children(server)
    assert manager.pause() and children(server) == [worker], "deactivate keeps what is loaded"
    assert manager.resume() and children(server) == [worker]
    assert manager.reset()
    assert children(server) == [] and not Path(f"/proc/{worker}").exists()
    assert resident_mib(server) - alone < 20.0
    assert server.text().count("with LPIPS") == 1
    away = trunk.rename(tmp_path / "away")
    assert not manager.startup(), "configure found a network that nobody had loaded again"
    assert manager.state(SERVER) == State.PRIMARY_STATE_UNCONFIGURED and children(server) == []
    away.rename(trunk)
    assert manager.startup()
    assert server.text().count("with LPIPS") == 2 and children(server) not in ([], [worker])
    assert server.stop() == 0


def large_map() -> map_files.SavedMap:
    """A map of 300,000 points: 8 MiB on disk, about 20 with what coverage makes of it."""
    count = 300_000
    cloud = PointCloud(
        points=np.random.default_rng(0).random((count, 3), np.float32),
        rgb_u8=np.zeros((count, 3), np.uint8),
        confidence=np.ones(count, np.float32),
        provenance=np.ones(count, np.uint8),
        keyframe_ids=np.zeros(count, np.uint32),
    )
    return map_files.SavedMap(cloud=cloud, poses={0: SE3.identity()}, frame_id="map", stamp_ns=1, metric_scale=True)

"""Processes killed in the middle of a job: the others stay up, nothing mapped is lost, and somebody says why."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("rclpy")
pytest.importorskip("reconx_ros.msg")

from diagnostic_msgs.msg import DiagnosticStatus
from reconx_ros.msg import Status
from ros_graph import FakeCamera, NodeProcess, graph
from test_ros_reconx_node import Robot

from reconx_ros.ros.conversions import cloud_from_msg

TARGET = "ros_stub_jobs:until_told"


class Bench:
    """Robot and server with a map, and a second job that runs until ``go`` is there."""

    def __init__(self, robot: Robot, folder: Path) -> None:
        self.robot = robot
        self.camera = FakeCamera(robot.graph)
        self.out = folder / "server"
        self.out.mkdir()
        self.go = self.out / "go"

    def start_server(self) -> NodeProcess:
        self.robot.start_server(TARGET, ros__output_dir=str(self.out))
        return self.robot.graph.processes[-1]

    def start_robot(self) -> NodeProcess:
        self.robot.start(ros__retry_s=0.2, ros__server_timeout_s=8.0)
        return self.robot.graph.processes[-1]

    def map_and_running_job(self) -> bytes:
        """The cloud's bytes while the second job runs."""
        self.go.touch()
        self.camera.ready()
        self.camera.walk(4)
        self.robot.status("a map", lambda s: s.reconstructions == 1)
        self.go.unlink()
        for i in range(4, 8):
            self.camera.send(self.camera.pose(0.5 * i))
        self.robot.status("all keyframes", lambda s: s.keyframes == 8)
        self.robot.trigger()
        self.robot.status("a running job", lambda s: s.state == Status.RECONSTRUCTING and s.job_stage == "splatting")
        self.robot.graph.wait("the cloud", lambda: self.robot.points and self.robot.points[-1].width == 800)
        return bytes(self.robot.points[-1].data)

    def worker_pid(self) -> int:
        def pid() -> int:
            for array in reversed(self.robot.diagnostics):
                for status in array.status:
                    for pair in status.values:
                        if pair.key == "worker process" and pair.value.isdigit():
                            return int(pair.value)
            return 0

        return self.robot.graph.wait("the worker's process id", pid)


@pytest.fixture
def bench(ros_domain: int, tmp_path: Path) -> Iterator[Bench]:
    with graph(tmp_path) as made:
        yield Bench(Robot(made), tmp_path)


@pytest.mark.parametrize("victim", ["worker", "server"])
def test_what_computes_is_killed_in_a_job(bench: Bench, victim: str) -> None:
    server = bench.start_server()
    node = bench.start_robot()
    before = bench.map_and_running_job()
    if victim == "worker":
        os.kill(bench.worker_pid(), 9)
        reason = "WORKER_DIED: the worker process ended unexpectedly (SIGKILL"
    else:
        server.process.kill()
        reason = "WORKER_DIED: the reconstruction server has been silent for"
    status = bench.robot.status("the reason", lambda s: reason in s.last_error)
    assert status.keyframes == 8 and status.points == 800 and status.reconstructions == 1
    assert bytes(bench.robot.points[-1].data) == before
    if victim == "server":
        absent = bench.robot.diagnosed("reconstruction", "the reconstruction server")
        assert absent.level in (DiagnosticStatus.WARN, DiagnosticStatus.ERROR)
        bench.start_server()
    else:
        bench.robot.diagnosed("reconstruction", reason)
        assert server.alive
    bench.go.touch()
    done = bench.robot.status("a second map", lambda s: s.reconstructions == 2)
    assert done.points == 1600 and node.alive
    bench.robot.diagnosed("reconstruction", "ready")


def test_a_node_killed_in_a_job_starts_clean_and_its_orphan_makes_room(bench: Bench) -> None:
    server = bench.start_server()
    node = bench.start_robot()
    bench.map_and_running_job()
    worker = bench.worker_pid()
    node.process.kill()
    node.process.wait(10)
    bench.robot.statuses.clear()
    bench.robot.points.clear()
    bench.start_robot()
    fresh = bench.robot.status("the new node", lambda s: s.state == Status.WAITING_FOR_INPUT)
    assert (fresh.keyframes, fresh.points, fresh.reconstructions, fresh.last_error) == (0, 0, 0, "")
    bench.camera.ready()
    bench.camera.walk(4)
    bench.robot.status("its own job", lambda s: s.state == Status.RECONSTRUCTING and s.job_stage == "splatting")
    assert "ended with SUPERSEDED: /reconx_node@" in server.text()
    bench.go.touch()
    bench.robot.status("its map", lambda s: s.reconstructions == 1)
    bench.robot.graph.wait("its cloud", lambda: bench.robot.points and bench.robot.points[-1].width == 800)
    assert set(cloud_from_msg(bench.robot.points[-1]).keyframe_ids.tolist()) == {0, 1, 2, 3}
    assert bench.worker_pid() == worker, "the orphan cost no worker"

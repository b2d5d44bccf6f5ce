"""Robot and server on different computers: namespaces on a switch whose cables are pulled (see ros_hosts).

``test_ros_tethered.py`` runs each of these in a process of its own. The node of the test sits on the robot's computer.
The server runs a stand-in for the reconstruction (see ros_stub_jobs).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from reconx_ros.msg import Status
from ros_graph import FakeCamera, NodeProcess, graph
from ros_hosts import Network, network
from test_ros_reconx_node import Robot

from reconx_ros.ros.graph.environment import profile_variable
from reconx_ros.ros.graph.qos import latched_qos

PROFILE = Path(__file__).resolve().parent.parent / "config" / "fastdds_tethered.xml"
TARGET = "ros_stub_jobs:until_told"
SLOW_S = 240.0


class Tether:
    """A robot's computer, on which the test sits, and one for the server."""

    def __init__(self, robot: Robot, net: Network, folder: Path) -> None:
        self.robot = robot
        self.net = net
        self.out = folder / "server"
        self.camera = FakeCamera(robot.graph)

    def start_robot(self, **parameters: Any) -> None:
        self.robot.start(ros__retry_s=0.5, ros__server_timeout_s=60.0, **parameters)
        self.camera.ready()
        self.camera.walk(4)
        self.robot.status("four keyframes", lambda s: s.keyframes == 4)

    def start_server(self, target: str = TARGET, *, wait: bool = True) -> NodeProcess:
        graph_ = self.robot.graph
        graph_.prefix = self.net.inside("server")
        process = graph_.start("reconstruction_server", ros__worker_target=target, ros__output_dir=str(self.out))
        graph_.prefix = ()
        if wait:
            graph_.wait("the server to be active", lambda: "activate: done" in process.text(), SLOW_S)
        return process

    def running(self) -> Status:
        found = self.robot.status(
            "a running job", lambda s: s.state == Status.RECONSTRUCTING and s.job_stage == "splatting"
        )
        assert found.job_bytes_sent > 1000
        return found

    def finish(self) -> None:
        """Let the job end."""
        self.out.mkdir(exist_ok=True)
        (self.out / "go").touch()

    def map(self) -> Status:
        return self.robot.status("a map", lambda s: s.reconstructions == 1 and s.points > 0)

    def said(self, words: str) -> None:
        self.robot.graph.wait(f"the log: {words}", lambda: words in self.robot.process.text(), SLOW_S)

    def jobs(self) -> int:
        return self.robot.process.text().count(" started with 4 keyframes")


@pytest.fixture
def net(monkeypatch: pytest.MonkeyPatch) -> Iterator[Network]:
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "SUBNET")
    monkeypatch.setenv(profile_variable(os.environ), str(PROFILE))
    with network(["robot", "server", "other"]) as made:
        yield made


@pytest.fixture
def tether(ros_domain: int, net: Network, tmp_path: Path) -> Iterator[Tether]:
    with net.here("robot"), graph(tmp_path) as made:
        yield Tether(Robot(made), net, tmp_path)


def test_a_server_that_comes_late_and_a_link_that_breaks_cost_one_job(tether: Tether) -> None:
    tether.start_robot()
    status = tether.robot.status("word of the absence", lambda s: "is not there" in s.last_error)
    assert status.keyframes == 4 and status.next_try_s >= 0 and "4 keyframes are kept" in status.last_error
    tether.robot.diagnosed("reconstruction", "the reconstruction server is not there")
    tether.start_server(wait=False)
    tether.said("the reconstruction server is there")
    tether.running()

    tether.net.cut("server")
    broken = tether.robot.status("word of the broken link", lambda s: "no word from the reconstr" in s.state_text)
    assert broken.state == Status.RECONSTRUCTING and broken.keyframes == 4
    tether.robot.diagnosed("reconstruction", "the job is kept until 60 s")
    tether.net.restore("server")
    tether.said("the reconstruction server is heard again, the job goes on")
    tether.finish()
    done = tether.map()
    assert tether.jobs() == 1 and done.keyframes == 4 and done.points == 800
    assert done.job_bytes_received > 800 * 28
    assert tether.robot.process.text().count("no word from the reconstruction server") == 1


def test_a_result_that_became_ready_while_the_link_was_cut_arrives_afterwards(tether: Tether) -> None:
    tether.start_server()
    tether.start_robot()
    tether.running()
    tether.net.cut("server")
    tether.robot.diagnosed("reconstruction", "and its action is gone")  # DDS has given the computer up
    server = tether.robot.graph.processes[0]
    tether.finish()
    tether.robot.graph.wait("the job's end", lambda: "made 800 points" in server.text())
    tether.net.restore("server")
    tether.map()
    assert tether.jobs() == 1 and "is given up" not in tether.robot.process.text()


def test_a_server_killed_in_a_job_and_started_anew_gets_it_again(tether: Tether) -> None:
    server = tether.start_server()
    tether.start_robot()
    tether.running()
    server.process.kill()
    tether.start_server()
    status = tether.robot.status("the reason", lambda s: "no longer knows the job" in s.last_error)
    assert status.keyframes == 4
    tether.running()
    tether.finish()
    tether.map()
    assert tether.jobs() == 2 and tether.robot.process.alive


@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "compressed"])
def test_a_large_cloud_crosses_and_says_what_it_took(tether: Tether, compressed: bool) -> None:
    tether.start_server("ros_stub_jobs:large")
    tether.start_robot(ros__compress_cloud=compressed)
    before = tether.net.received_bytes("robot")
    status = tether.map()
    taken = tether.net.received_bytes("robot") - before
    unpacked = 300_000 * 28
    assert status.points == 300_000
    assert (status.job_bytes_received < 0.5 * unpacked) == compressed
    assert taken < 1.5 * status.job_bytes_received + 1_000_000, "the network repeats itself"
    tether.robot.diagnosed("reconstruction", "ready")


def test_two_robots_share_a_server_and_both_get_their_maps(tether: Tether) -> None:
    graph_ = tether.robot.graph
    second = graph_.listen(Status, "/r2/reconx_node/status", latched_qos())
    other = FakeCamera(graph_, prefix="/r2/", frame="cam2")
    server = tether.start_server()
    tether.start_robot()
    tether.running()

    graph_.prefix = tether.net.inside("other")
    words = ["-r", "__ns:=/r2"]
    for topic in ("image", "camera_info"):
        words += ["-p", f"qos_overrides./r2/{topic}.subscription.reliability:=reliable"]
    process = graph_.start("reconx_node", *words, ros__server="/reconstruction_server", ros__server_timeout_s=60.0)
    graph_.prefix = ()
    other.ready()
    other.walk(4)
    graph_.wait(
        "the second robot's job in the queue",
        lambda: second and second[-1].state == Status.RECONSTRUCTING and second[-1].job_stage == "queued",
        SLOW_S,
    )
    tether.finish()
    assert tether.map().keyframes == 4
    graph_.wait("the second robot's map", lambda: second[-1].reconstructions == 1 and second[-1].points == 800, SLOW_S)
    assert tether.jobs() == 1 and "SUPERSEDED" not in server.text() and process.alive


def test_without_multicast_static_peers_find_each_other(
    ros_domain: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "SUBNET")
    monkeypatch.setenv(profile_variable(os.environ), str(PROFILE))
    with network(["robot", "server"], multicast=False) as net, net.here("robot"):
        assert not net.carries_multicast("server", "robot")
        monkeypatch.setenv("ROS_STATIC_PEERS", net.address("server"))
        with graph(tmp_path) as made:
            tether = Tether(Robot(made), net, tmp_path)
            with monkeypatch.context() as on_server:
                on_server.setenv("ROS_STATIC_PEERS", net.address("robot"))
                tether.start_server("ros_stub_jobs:quick")
            tether.start_robot()
            assert tether.map().points == 800

"""The reconstruction server as a process of its own, with a stand-in for the reconstruction (see ros_stub_jobs)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("reconx_ros.action")

from action_msgs.msg import GoalStatus
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.action import ActionClient
from reconx_ros.action import Reconstruct
from reconx_ros.srv import RenderView
from ros_graph import Graph, graph

from reconx_ros.core import SE3, Frame, Keyframe, PinholeCamera
from reconx_ros.jobs.data import EncodedKeyframe, ErrorCode, JobRequest
from reconx_ros.ros.conversions import camera_info_msg, header_msg, image_view, pose_msg
from reconx_ros.ros.conversions.action_messages import goal_from_request, outcome_from_result

CAMERA = PinholeCamera(width=32, height=24, fx=30, fy=30, cx=15.5, cy=11.5)
ACTION = "reconstruction_server/reconstruct"


def keyframe(number: int, x: float) -> Keyframe:
    rgb = np.random.default_rng(number).integers(0, 255, (24, 32, 3), np.uint8)
    pose = SE3.exp(np.zeros(3), np.array([x, 0.0, 0.0]))
    depth = np.full((24, 32), 2.0, np.float32)
    depth[0, 0] = np.nan
    frame = Frame(rgb_u8=rgb, camera=CAMERA, stamp_ns=number, world_from_cam=pose, depth_m=depth)
    return Keyframe(id=number, frame=frame, sharpness=1.0)


def goal(preset: str = "", job_id: str = "test") -> Reconstruct.Goal:
    keyframes = tuple(EncodedKeyframe.of(keyframe(i, 0.2 * i), 90) for i in range(3))
    return goal_from_request(
        JobRequest(job_id=job_id, frame_id="map", stamp_ns=77, keyframes=keyframes, preset=preset, metric_poses=True)
    )


@dataclass
class Server:
    graph: Graph
    client: ActionClient
    diagnostics: list[Any]

    def send(self, goal_msg: Reconstruct.Goal) -> tuple[Any, list[Any]]:
        """The accepted goal's handle, and the list its feedback goes to."""
        feedback: list[Any] = []

        def take(message: Any) -> None:
            feedback.append(message.feedback)
            self.graph.notify()

        handle = self.graph.result("goal answer", self.client.send_goal_async(goal_msg, feedback_callback=take))
        assert handle.accepted
        return handle, feedback

    def finish(self, handle: Any) -> Any:
        return self.graph.result("job result", handle.get_result_async())

    def run(self, goal_msg: Reconstruct.Goal) -> Any:
        return self.finish(self.send(goal_msg)[0])

    def worker_pid(self) -> int:
        def pid() -> int:
            for array in reversed(self.diagnostics):
                for status in array.status:
                    for pair in status.values:
                        if pair.key == "worker process" and pair.value.isdigit():
                            return int(pair.value)
            return 0

        return self.graph.wait("the worker's process id", pid)

    def render(self, **changes: Any) -> RenderView.Response:
        request = RenderView.Request(pose=pose_msg(SE3.identity()))
        request.camera_info = camera_info_msg(CAMERA, header_msg(0, "view"))
        for name, value in changes.items():
            setattr(request, name, value)
        return self.graph.call(RenderView, "reconstruction_server/render_view", request)


@pytest.fixture
def server(ros_domain: int, tmp_path: Path) -> Iterator[Server]:
    with graph(tmp_path) as made:
        diagnostics = made.listen(DiagnosticArray, "/diagnostics")
        made.start(
            "reconstruction_server",
            ros__worker_target="ros_stub_jobs:by_preset",
            ros__output_dir=str(tmp_path / "out"),
            ros__cancel_timeout_s=0.5,
        )
        yield Server(made, made.action(Reconstruct, ACTION), diagnostics)


def test_a_job_and_views_of_its_scene(server: Server) -> None:
    refused = server.render()
    assert (refused.success, refused.error_code) == (False, RenderView.Response.NO_SCENE)
    assert refused.message == "there is no scene yet: no reconstruction has succeeded"

    handle, feedback = server.send(goal())
    response = server.finish(handle)
    assert response.status == GoalStatus.STATUS_SUCCEEDED
    outcome = outcome_from_result(response.result)
    assert outcome.error_code == ErrorCode.NONE and outcome.metric_scale
    assert len(outcome.cloud) == 600 and sorted(outcome.keyframe_poses) == [0, 1, 2]
    assert len(outcome.novel_views) == 3 and all(v.provenance for v in outcome.novel_views)
    assert response.result.header.stamp.nanosec == 77 and response.result.header.frame_id == "map"
    stages = [f.stage for f in feedback]
    assert "pointmap" in stages and all(0 <= f.fraction <= 1 for f in feedback)

    drawn = server.render()
    assert drawn.success, drawn.message
    np.testing.assert_array_equal(image_view(drawn.depth), np.full((24, 32), 1.5, np.float32))
    assert image_view(drawn.image).shape == (24, 32, 3) and image_view(drawn.provenance).max() == 1
    assert drawn.image.header.frame_id == "view" and drawn.image.header.stamp.nanosec == 77

    huge = camera_info_msg(PinholeCamera(width=60_000, height=60_000, fx=1, fy=1, cx=0, cy=0), header_msg(0, ""))
    assert server.render(camera_info=huge).error_code == RenderView.Response.INVALID_VIEW
    other = server.render(header=header_msg(0, "elsewhere"))
    assert (other.error_code, other.message) == (
        RenderView.Response.UNKNOWN_FRAME,
        "view is in frame 'elsewhere', expected the scene's frame 'map'",
    )


def test_goals_that_cannot_be_used_are_aborted_with_one_sentence(server: Server) -> None:
    cases: list[tuple[Reconstruct.Goal, int, str]] = []
    empty = Reconstruct.Goal()
    cases.append((empty, ErrorCode.INVALID_GOAL, "goal has 0 keyframes, expected 1 to 1024"))
    short = goal()
    short.poses = short.poses[:-1]
    cases.append((short, ErrorCode.INVALID_GOAL, "goal poses has 20 entries, expected 21"))
    broken = goal()
    broken.image_data[40:60] = broken.image_data[:20]
    broken.image_sizes[0] -= 1
    cases.append((broken, ErrorCode.INVALID_GOAL, "expected"))
    absurd = goal()
    absurd.widths[1] = 4_000_000_000
    cases.append((absurd, ErrorCode.INVALID_GOAL, "size is 4000000000x24"))
    cases.append((goal("no_parallax"), ErrorCode.INSUFFICIENT_PARALLAX, "share one centre"))
    cases.append((goal("out_of_memory"), ErrorCode.OUT_OF_MEMORY, "99 GiB"))
    cases.append((goal("unheard of"), ErrorCode.RECONSTRUCTION_FAILED, "KeyError"))
    for message, code, sentence in cases:
        response = server.run(message)
        assert response.status == GoalStatus.STATUS_ABORTED
        assert response.result.error_code == code, response.result.error_msg
        assert sentence in response.result.error_msg and "\n" not in response.result.error_msg
    assert server.run(goal()).result.error_code == ErrorCode.NONE


def test_cancel_stops_a_job_also_one_that_does_not_listen(server: Server) -> None:
    for preset in ("endless", "deaf"):
        handle, feedback = server.send(goal(preset))
        server.graph.wait("the job to run", lambda heard=feedback: any(f.stage == "splatting" for f in heard))
        answer = server.graph.result("cancel answer", handle.cancel_goal_async())
        assert len(answer.goals_canceling) == 1
        response = server.finish(handle)
        assert response.status == GoalStatus.STATUS_CANCELED
        assert response.result.error_code == ErrorCode.CANCELLED
    assert server.run(goal()).result.error_code == ErrorCode.NONE


def test_newest_waiting_goal_takes_the_place_of_an_older_one(server: Server) -> None:
    running, feedback = server.send(goal("endless", "a"))
    server.graph.wait("the first job to run", lambda: any(f.stage == "splatting" for f in feedback))
    waiting, _ = server.send(goal("", "b"))
    newest, told = server.send(goal("", "c"))
    response = server.finish(waiting)
    assert response.status == GoalStatus.STATUS_ABORTED
    assert response.result.error_code == ErrorCode.SUPERSEDED
    server.graph.wait("word that it waits", lambda: any(f.stage == "queued" for f in told))
    server.graph.result("cancel answer", running.cancel_goal_async())
    assert server.finish(newest).result.error_code == ErrorCode.NONE


def test_a_killed_worker_fails_its_job_and_nothing_else(server: Server) -> None:
    pid = server.worker_pid()
    handle, feedback = server.send(goal("endless"))
    server.graph.wait("the job to run", lambda: any(f.stage == "splatting" for f in feedback))
    os.kill(pid, 9)
    response = server.finish(handle)
    assert response.status == GoalStatus.STATUS_ABORTED
    assert response.result.error_code == ErrorCode.WORKER_DIED
    assert re.search(r"ended unexpectedly \(SIGKILL, perhaps because the memory", response.result.error_msg)
    assert server.graph.processes[0].alive
    assert server.run(goal()).result.error_code == ErrorCode.NONE
    assert server.worker_pid() != 0


def test_the_worker_loads_no_ros_and_ends_with_its_server(server: Server) -> None:
    pid = server.worker_pid()
    assert server.run(goal()).result.error_code == ErrorCode.NONE
    libraries = Path(f"/proc/{pid}/maps").read_text()
    assert "torch" in libraries and "rclpy" not in libraries and "librcl" not in libraries
    server.graph.processes[0].process.kill()
    server.graph.wait("the worker to end", lambda: not Path(f"/proc/{pid}").exists() or _zombie(pid))


def _zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_server_ends_cleanly_when_asked_to(server: Server) -> None:
    server.send(goal("endless"))
    process = server.graph.processes[0]
    assert process.stop() == 0, process.text()
    assert "Traceback" not in process.text() and "terminate called" not in process.text()

"""Each node declares what it reads: with every file of config/, and for a backend that another package brings."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("reconx_ros.action")

import rclpy
import third_party
from pointmap_scenes import render, room
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import DescribeParameters, ListParameters, SetParameters
from rclpy.action import ActionClient
from rclpy.context import Context
from reconx_ros.action import Reconstruct
from ros_graph import Graph, graph
from test_structure_from_motion import CAMERA as ARC_CAMERA
from test_structure_from_motion import arc

from reconx_ros.cli.common import read_parameters
from reconx_ros.core import SE3, Frame, Keyframe, PinholeCamera
from reconx_ros.core.settings import from_mapping, walk
from reconx_ros.jobs.data import EncodedKeyframe, JobOutcome, JobRequest
from reconx_ros.pipeline.config import ReconxConfig
from reconx_ros.ros.conversions.action_messages import goal_from_request, outcome_from_result
from reconx_ros.ros.robot.node import ReconxNode
from reconx_ros.ros.server.node import ReconstructionServer

ROOT = Path(__file__).resolve().parents[1]
SERVER = "reconstruction_server"
CAMERA = PinholeCamera(width=32, height=24, fx=30, fy=30, cx=15.5, cy=11.5)


@pytest.fixture
def context(ros_domain: int) -> Iterator[Context]:
    made = Context()
    rclpy.init(context=made, domain_id=ros_domain)
    yield made
    rclpy.shutdown(context=made)


@pytest.mark.parametrize("name", sorted(p.name for p in (ROOT / "config").glob("*.yaml")))
@pytest.mark.parametrize(("kind", "role"), [(ReconxNode, "robot"), (ReconstructionServer, "server")])
def test_a_node_starts_with_every_parameter_file_and_takes_what_is_its_own(
    context: Context, kind: Any, role: str, name: str
) -> None:
    path = ROOT / "config" / name
    whole = from_mapping(ReconxConfig, read_parameters(path))
    node = kind(context=context, cli_args=["--ros-args", "--params-file", str(path)])
    try:
        assert not node.parameters.errors and not node.parameters.unknown
        own = {n: value for n, value, meta in walk(whole) if meta.node in (role, "both")}
        found = {n: value for n, value, _ in walk(node.parameters.config)}
        assert {n: found[n] for n in own} == own
        declared = {n for n in found if node.has_parameter(n)}
        assert declared == set(own)
    finally:
        node.destroy_node()


def noise() -> list[Keyframe]:
    """Two pictures that show nothing."""
    keyframes = []
    for i in range(2):
        rgb = np.random.default_rng(i).integers(0, 255, (24, 32, 3), np.uint8)
        pose = SE3.exp(np.zeros(3), np.array([0.2 * i, 0.0, 0.0]))
        frame = Frame(rgb_u8=rgb, camera=CAMERA, stamp_ns=i, world_from_cam=pose)
        keyframes.append(Keyframe(id=i, frame=frame, sharpness=1.0))
    return keyframes


def goal(job_id: str, keyframes: Sequence[Keyframe]) -> Reconstruct.Goal:
    sent = tuple(EncodedKeyframe.of(keyframe, 90) for keyframe in keyframes)
    return goal_from_request(JobRequest(job_id=job_id, frame_id="map", stamp_ns=1, keyframes=sent))


def run(made: Graph, client: ActionClient, job_id: str, keyframes: Sequence[Keyframe] = ()) -> JobOutcome:
    handle = made.result("goal answer", client.send_goal_async(goal(job_id, keyframes or noise())))
    outcome = outcome_from_result(made.result("job result", handle.get_result_async()).result)
    assert outcome.succeeded, outcome.error_msg
    return outcome


def set_double(made: Graph, name: str, value: float) -> Any:
    parameter = Parameter(name=name, value=ParameterValue(type=ParameterType.PARAMETER_DOUBLE, double_value=value))
    request = SetParameters.Request(parameters=[parameter])
    return made.call(SetParameters, f"{SERVER}/set_parameters", request).results[0]


def test_a_foreign_backend_runs_on_the_server_and_its_settings_change_between_jobs(
    ros_domain: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with third_party.installed(tmp_path / "site", monkeypatch), graph(tmp_path) as made:
        made.start(
            SERVER, device="cpu", pointmap__backend="flat", pointmap__flat__distance=3.25, splatting__steps=3,
            pointmap__matcher="oracle", splatting__max_size=32, diffusion__frames=2,
            output__novel_views=1, ros__output_dir=str(tmp_path / "out"),
        )  # fmt: skip
        client = made.action(Reconstruct, f"{SERVER}/reconstruct")
        first = run(made, client, "far")
        request = DescribeParameters.Request(names=["pointmap.flat.distance"])
        (found,) = made.call(DescribeParameters, f"{SERVER}/describe_parameters", request).descriptors
        assert "Distance of the wall. [m]" in found.description and not found.read_only
        assert found.floating_point_range[0].to_value == 100.0
        refused = set_double(made, "pointmap.flat.distance", 0.0)
        assert not refused.successful and "pointmap.flat.distance" in refused.reason
        assert set_double(made, "pointmap.flat.distance", 1.5).successful
        second = run(made, client, "near")
        listed = made.call(ListParameters, f"{SERVER}/list_parameters", ListParameters.Request()).result.names
    for outcome, distance in ((first, 3.25), (second, 1.5)):
        report = json.loads(outcome.report_json)
        assert report["config"]["pointmap"]["matcher"] == "oracle"
        assert report["backends"]["pointmap"] == "flat" and report["config"]["pointmap"]["flat"]["trust"] == 0.9
        np.testing.assert_allclose(outcome.cloud.points[:, 2], distance, rtol=1e-3)
    assert "keyframes.max_buffer" not in listed and "pointmap.multiview.planes" in listed


def test_a_foreign_matcher_finds_the_cameras_of_a_job(
    ros_domain: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keyframes = render(room(), [ARC_CAMERA] * 3, arc(3)).keyframes
    with third_party.installed(tmp_path / "site", monkeypatch), graph(tmp_path) as made:
        made.start(
            SERVER, device="cpu", pointmap__backend="structure_from_motion", pointmap__matcher="oracle",
            pointmap__max_size=96, splatting__steps=3, splatting__max_size=32, diffusion__frames=2,
            output__novel_views=1, ros__output_dir=str(tmp_path / "out"),
        )  # fmt: skip
        client = made.action(Reconstruct, f"{SERVER}/reconstruct")
        first = run(made, client, "asked", keyframes)
        value = ParameterValue(type=ParameterType.PARAMETER_STRING, string_value="sift")
        request = SetParameters.Request(parameters=[Parameter(name="pointmap.matcher", value=value)])
        assert made.call(SetParameters, f"{SERVER}/set_parameters", request).results[0].successful
        second = run(made, client, "ours", keyframes)
    for outcome, name in ((first, "oracle"), (second, "sift")):
        report = json.loads(outcome.report_json)
        assert report["backends"]["pointmap"] == "structure_from_motion" and report["matchers"] == [name]
        assert len(outcome.keyframe_poses) == 3

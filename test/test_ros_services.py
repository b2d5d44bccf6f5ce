"""Services, action and parameters of both nodes: each with success, refusal, and several clients at once."""

from __future__ import annotations

import array
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("reconx_ros.srv")

from geometry_msgs.msg import PoseArray
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import DescribeParameters, GetParameters, ListParameters, SetParameters
from reconx_ros.action import Reconstruct
from reconx_ros.msg import Status
from reconx_ros.srv import LoadMap, RenderView, SaveMap, ScoreViews
from ros_graph import FakeCamera, Graph, NodeProcess, graph
from sensor_msgs.msg import CameraInfo, PointCloud2
from std_srvs.srv import SetBool, Trigger

from reconx_ros.core import SE3, Frame, Keyframe, PinholeCamera
from reconx_ros.core.settings import walk
from reconx_ros.jobs.data import EncodedKeyframe, JobRequest
from reconx_ros.pipeline.config import ReconxConfig
from reconx_ros.ros.conversions import camera_info_msg, header_msg, image_view, pose_msg
from reconx_ros.ros.conversions.action_messages import goal_from_request
from reconx_ros.ros.graph.qos import latched_qos

CAMERA = PinholeCamera(width=32, height=24, fx=30, fy=30, cx=15.5, cy=11.5)
STORM = 200
IN_FLIGHT = 5  # the queue of a ROS service holds 10 requests and drops what is more


class Both:
    """Node and server, whose jobs wait while the file "hold" is there."""

    def __init__(self, made: Graph, folder: Path) -> None:
        self.graph = made
        self.maps = folder / "maps"
        self.hold = folder / "results" / "hold"
        self.hold.parent.mkdir()
        self.statuses = made.listen(Status, "reconx_node/status", latched_qos())
        self.points = made.listen(PointCloud2, "reconx_node/points", latched_qos())
        self.camera = FakeCamera(made)
        self.server = made.start(
            "reconstruction_server", ros__worker_target="ros_stub_jobs:held", ros__output_dir=str(self.hold.parent)
        )
        self.node: NodeProcess = made.start("reconx_node", ros__output_dir=str(self.maps), ros__retry_s=0.1)

    def call(self, kind: type, name: str, request: Any = None) -> Any:
        owner = "reconstruction_server" if name == "render_view" else "reconx_node"
        return self.graph.call(kind, f"{owner}/{name}", kind.Request() if request is None else request)  # type: ignore[attr-defined]

    def at_once(self, kind: type, name: str, requests: list[Any]) -> list[Any]:
        """Answers to requests that are all sent, each by a client of its own, before the first answer."""
        node = self.graph.node
        clients = [node.create_client(kind, name) for _ in requests]
        for client in clients:
            self.graph.wait(f"service {name}", client.service_is_ready)
        futures = [client.call_async(request) for client, request in zip(clients, requests, strict=True)]
        answers = [self.graph.result(f"an answer of {name}", future) for future in futures]
        for client in clients:
            node.destroy_client(client)
        return answers

    def status(self, what: str, state: int) -> None:
        self.graph.wait(what, lambda: self.statuses and self.statuses[-1].state == state)

    def walk(self, count: int) -> None:
        before = self.statuses[-1].keyframes if self.statuses else 0
        self.camera.ready()
        first = self.camera.count
        for i in range(count):
            self.camera.send(self.camera.pose(0.5 * (first + i)))
        wanted = before + count
        self.graph.wait(f"{wanted} keyframes", lambda: self.statuses and self.statuses[-1].keyframes >= wanted)


@pytest.fixture
def both(ros_domain: int, tmp_path: Path) -> Iterator[Both]:
    with graph(tmp_path) as made:
        yield Both(made, tmp_path)


def test_services_of_the_node(both: Both) -> None:
    both.status("an active node", Status.WAITING_FOR_INPUT)
    refusals_without_a_map(both)
    both.hold.touch()
    both.walk(4)
    both.status("a job", Status.RECONSTRUCTING)
    requests_during_a_job(both)
    both.graph.wait("the job to end", lambda: both.statuses[-1].reconstructions == 1)
    both.graph.wait("the map", lambda: both.points and both.points[-1].width == 800)
    several_clients_trigger_and_pause(both)
    several_clients_save_load_and_reset(both)
    views_are_scored(both)
    views_are_drawn(both)
    assert both.node.alive and both.server.alive
    libraries = Path(f"/proc/{both.node.process.pid}/maps").read_text()
    assert "libtorch" not in libraries, "what runs on the robot all the time must stay small"
    assert "Traceback" not in both.node.text() + both.server.text()


def refusals_without_a_map(both: Both) -> None:
    trigger = both.call(Trigger, "trigger")
    assert not trigger.success and "0 keyframe" in trigger.message
    saved = both.call(SaveMap, "save_map", SaveMap.Request(path="early"))
    assert (saved.success, saved.error_code) == (False, SaveMap.Response.NO_MAP)
    loaded = both.call(LoadMap, "load_map", LoadMap.Request(path="early", header=header_msg(0, "elsewhere")))
    assert (loaded.success, loaded.error_code) == (False, LoadMap.Response.INVALID_MAP)
    assert loaded.message == "frame is 'elsewhere', expected the map frame 'map'"
    drawn = both.call(RenderView, "render_view", view())
    assert (drawn.success, drawn.error_code) == (False, RenderView.Response.NO_SCENE)


def requests_during_a_job(both: Both) -> None:
    """A job runs, there is no map yet; in the end it is let go on."""
    for answer in both.at_once(Trigger, "reconx_node/trigger", [Trigger.Request()] * 2):
        assert (answer.success, answer.message) == (False, "a reconstruction is running already")
    early = both.call(SaveMap, "save_map", SaveMap.Request(path="during"))
    assert (early.success, early.error_code) == (False, SaveMap.Response.NO_MAP)
    busy = both.call(LoadMap, "load_map", LoadMap.Request(path="during"))
    assert (busy.success, busy.error_code) == (False, LoadMap.Response.BUSY)
    assert both.call(Trigger, "reset").success  # cancels the job; its result must not come back
    both.graph.wait("no keyframe", lambda: both.statuses[-1].keyframes == 0)
    both.walk(4)
    both.status("a new job", Status.RECONSTRUCTING)
    both.hold.unlink()


def several_clients_trigger_and_pause(both: Both) -> None:
    both.hold.touch()
    answers = both.at_once(Trigger, "reconx_node/trigger", [Trigger.Request()] * 3)
    assert sorted(a.success for a in answers) == [False, False, True]
    assert sum(a.message == "a reconstruction is running already" for a in answers) == 2
    during = both.call(SaveMap, "save_map", SaveMap.Request(path="during"))
    assert during.success and during.points == 800, during.message
    both.hold.unlink()
    both.graph.wait("the second job to end", lambda: both.statuses[-1].reconstructions == 2)
    answers = both.at_once(SetBool, "reconx_node/pause", [SetBool.Request(data=True)] * 2)
    assert all(a.success and a.message == "paused: images are ignored" for a in answers)
    both.status("the pause", Status.PAUSED)
    assert both.call(SetBool, "pause", SetBool.Request(data=False)).message == "resumed"


def several_clients_save_load_and_reset(both: Both) -> None:
    same = [SaveMap.Request(path="kitchen")] * 3
    answers = both.at_once(SaveMap, "reconx_node/save_map", same)
    assert sorted(a.error_code for a in answers) == [0, SaveMap.Response.EXISTS, SaveMap.Response.EXISTS]
    node = both.graph.node
    load = node.create_client(LoadMap, "reconx_node/load_map")
    save = node.create_client(SaveMap, "reconx_node/save_map")
    reset = node.create_client(Trigger, "reconx_node/reset")
    for client in (load, save, reset):
        both.graph.wait("the services", client.service_is_ready)
    futures = [
        save.call_async(SaveMap.Request(path="kitchen", overwrite=True)),
        reset.call_async(Trigger.Request()),
        load.call_async(LoadMap.Request(path="kitchen")),
        save.call_async(SaveMap.Request(path="cellar")),
    ]
    saved, cleared, loaded, later = [both.graph.result("an answer", future) for future in futures]
    # They are taken one after another, in whatever order they arrive: each sees the whole map or none.
    assert cleared.success and loaded.success and loaded.points == 800, loaded.message
    for answer in (saved, later):
        whole = answer.success and answer.points == 800
        assert whole or answer.error_code == SaveMap.Response.NO_MAP, answer.message
    assert both.call(LoadMap, "load_map", LoadMap.Request(path="kitchen")).points == 800
    assert sorted(p.name for p in both.maps.iterdir() if p.name.startswith(".")) == []
    both.graph.wait("the map", lambda: both.points[-1].width == 800)


def scored(both: Both, poses: list[SE3], camera: PinholeCamera, frame: str = "map") -> ScoreViews.Request:
    request = ScoreViews.Request(camera_info=camera_info_msg(camera, header_msg(0, "")))
    request.poses = PoseArray(header=header_msg(0, frame), poses=[pose_msg(p) for p in poses])
    return request


def views_are_scored(both: Both) -> None:
    camera = both.camera
    poses = [camera.pose(2.5), camera.pose(2.5, 180.0)]  # among the keyframes of the second walk
    good = scored(both, poses, camera.camera)
    for answer in both.at_once(ScoreViews, "reconx_node/score_views", [good] * 4):
        assert answer.success and len(answer.gains) == 2, answer.message
        assert answer.gains[1] == 1.0 and answer.gains[0] < 1.0
        np.testing.assert_allclose(np.array(answer.gains) + np.array(answer.coverage), 1.0, rtol=1e-6)
    nothing = both.call(ScoreViews, "score_views", scored(both, [], camera.camera))
    assert nothing.success and len(nothing.gains) == 0
    flat = scored(both, poses, camera.camera)
    flat.poses.poses[0].orientation.w = flat.poses.poses[0].orientation.x = 0.0
    flat.poses.poses[0].orientation.y = flat.poses.poses[0].orientation.z = 0.0
    no_camera = scored(both, poses, camera.camera)
    no_camera.camera_info = CameraInfo()
    many = scored(both, [], camera.camera)
    many.poses.poses = [pose_msg(SE3.identity())] * 10_001
    refusals = (
        (scored(both, poses, camera.camera, "odom"), "poses are in frame 'odom', expected the map frame 'map'"),
        (flat, "quaternion"),
        (no_camera, "camera_info size is 0x0"),
        (many, "got 10001 poses, expected at most 10000"),
    )
    for request, words in refusals:
        refused = both.call(ScoreViews, "score_views", request)
        assert not refused.success and words in refused.message and not refused.gains, refused.message


def view(camera: PinholeCamera = CAMERA, **numbers: float) -> RenderView.Request:
    request = RenderView.Request(pose=pose_msg(SE3.identity()))
    request.camera_info = camera_info_msg(camera, header_msg(0, "view"))
    for name, value in numbers.items():
        part, axis = name.split("_")
        setattr(getattr(request.pose, part), axis, value)
    return request


def sized(width: int, height: int) -> PinholeCamera:
    return PinholeCamera(width=width, height=height, fx=50, fy=50, cx=(width - 1) / 2, cy=(height - 1) / 2)


def views_are_drawn(both: Both) -> None:
    for size in ((1, 1), (3, 200), (641, 7), (320, 240)):
        request = view(sized(*size))
        request.pose = pose_msg(both.camera.pose(2.5, 10.0))
        drawn = both.call(RenderView, "render_view", request)
        assert drawn.success and image_view(drawn.image).shape == (size[1], size[0], 3), drawn.message
        assert image_view(drawn.depth).shape == image_view(drawn.provenance).shape == (size[1], size[0])
    seen = image_view(drawn.provenance) > 0
    assert seen.any() and set(image_view(drawn.provenance)[seen].tolist()) == {1}
    empty = both.call(RenderView, "render_view", view(position_x=1e6))
    assert empty.success and np.isnan(image_view(empty.depth)).all()
    infinite = view()
    infinite.camera_info.k = array.array("d", [np.nan] * 9)
    absurd = (
        (view(sized(4097, 10)), "view is 4097x10, expected at most 4096 a side"),
        (view(position_x=float("nan")), "position is [nan, 0.0, 0.0], expected"),
        (view(orientation_w=0.0), "quaternion"),
        (infinite, "expected"),
        (RenderView.Request(), "camera_info size is 0x0"),
    )
    for request, words in absurd:
        refused = both.call(RenderView, "render_view", request)
        assert (refused.success, refused.error_code) == (False, RenderView.Response.INVALID_VIEW), words
        assert words in refused.message and not refused.image.data, refused.message
    answers = both.at_once(RenderView, "reconstruction_server/render_view", [view()] * 6)
    codes = {a.error_code for a in answers}
    assert codes <= {RenderView.Response.NONE, RenderView.Response.BUSY} and RenderView.Response.NONE in codes


def test_parameter_storms_leave_the_last_valid_value_in_force(both: Both) -> None:
    both.camera.ready()
    node, name = both.graph.node, "coverage.trigger_below"
    described(both)
    client = node.create_client(SetParameters, "reconx_node/set_parameters")
    both.graph.wait("the service", client.service_is_ready)

    def setting(i: int) -> tuple[Parameter, bool]:
        """A value of each kind in turn, and whether it is valid."""
        double, string = ParameterType.PARAMETER_DOUBLE, ParameterType.PARAMETER_STRING
        kinds = (
            (name, ParameterValue(type=double, double_value=i / STORM), True),
            (name, ParameterValue(type=double, double_value=2.0 + i), False),
            (name, ParameterValue(type=double, double_value=float("nan")), False),
            (name, ParameterValue(type=string, string_value=str(i)), False),
            ("ros.map_frame", ParameterValue(type=string, string_value=str(i)), False),
            ("no.such.parameter", ParameterValue(type=double, double_value=1.0), False),
        )
        wanted, value, valid = kinds[i % len(kinds)]
        return Parameter(name=wanted, value=value), valid

    waiting: deque[tuple[Any, Parameter, bool]] = deque()

    def check_oldest() -> None:
        future, parameter, valid = waiting.popleft()
        (result,) = both.graph.result("an answer of set_parameters", future).results
        assert result.successful == valid, f"{parameter}: {result.reason}"
        assert valid or result.reason

    for i in range(STORM):
        parameter, valid = setting(i)
        waiting.append((client.call_async(SetParameters.Request(parameters=[parameter])), parameter, valid))
        if len(waiting) > IN_FLIGHT:
            check_oldest()
        if i % 10 == 0:
            both.camera.send(both.camera.pose(0.5 * i / 10))
    while waiting:
        check_oldest()
    last = max(i for i in range(STORM) if setting(i)[1]) / STORM
    request = GetParameters.Request(names=[name, "ros.map_frame"])
    values = both.call(GetParameters, "get_parameters", request).values
    assert values[0].double_value == last and values[1].string_value == "map"
    both.graph.wait("the keyframes", lambda: both.statuses and both.statuses[-1].keyframes >= 15)
    assert both.node.alive and "Traceback" not in both.node.text()


def described(both: Both) -> None:
    """Every setting that the robot reads is a parameter with a sentence, and with its range where it has one."""
    leaves = {n: (default, meta) for n, default, meta in walk(ReconxConfig())}
    settings = {n: leaf for n, leaf in leaves.items() if leaf[1].node != "server"}
    listed = set(both.call(ListParameters, "list_parameters").result.names)
    assert set(settings) == listed & set(leaves)
    request = DescribeParameters.Request(names=list(settings))
    for found in both.call(DescribeParameters, "describe_parameters", request).descriptors:
        default, meta = settings[found.name]
        assert meta.doc in found.description and meta.doc.endswith("."), found.name
        assert found.read_only == (not meta.dynamic), found.name
        bounds = [*found.integer_range, *found.floating_point_range]
        bounded = isinstance(default, int | float) and not isinstance(default, bool)
        assert bool(bounds) == (bounded and (meta.ge is not None or meta.le is not None)), found.name
        if bounds and meta.ge is not None:
            assert bounds[0].from_value == meta.ge, found.name
        if bounds and meta.le is not None:
            assert bounds[0].to_value == meta.le, found.name


def test_action_shows_previews_where_they_are_asked_for(both: Both) -> None:
    rgb = np.random.default_rng(0).integers(0, 255, (24, 32, 3), np.uint8)
    keyframes = []
    for i in range(2):
        pose = SE3.exp(np.zeros(3), np.array([0.2 * i, 0.0, 0.0]))
        frame = Frame(rgb_u8=rgb, camera=CAMERA, stamp_ns=i, world_from_cam=pose)
        keyframes.append(EncodedKeyframe.of(Keyframe(id=i, frame=frame, sharpness=1.0), 90))
    client = both.graph.action(Reconstruct, "reconstruction_server/reconstruct")
    for preview in (False, True):
        heard: list[Any] = []
        request = JobRequest(
            job_id=f"job-{preview}", frame_id="map", stamp_ns=7, keyframes=tuple(keyframes), preview=preview
        )
        sent = client.send_goal_async(
            goal_from_request(request), feedback_callback=lambda m, h=heard: (h.append(m.feedback), both.graph.notify())
        )
        handle = both.graph.result("the goal's answer", sent)
        response = both.graph.result("the result", handle.get_result_async())
        assert response.result.error_code == 0, response.result.error_msg
        if preview:  # feedback may come after the result, by another way
            both.graph.wait("a preview", lambda heard=heard: previews(heard))
        assert len(previews(heard)) == int(preview)
        for picture in previews(heard):
            assert picture.format == "jpeg" and picture.header.frame_id == "map"
            decoded = cv2.imdecode(np.frombuffer(picture.data, np.uint8), cv2.IMREAD_COLOR)
            assert decoded.shape == (24, 32, 3) and abs(float(decoded.mean()) - 90) < 2


def previews(heard: list[Any]) -> list[Any]:
    return [feedback.preview for feedback in heard if len(feedback.preview.data)]

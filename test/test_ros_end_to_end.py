"""Both real nodes and the real reconstruction on pictures of a simulated room: small, but nothing stands in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("reconx_ros.msg")
pytest.importorskip("embreex")

from reconx_ros.msg import Status
from reconx_ros.srv import LoadMap, RenderView, SaveMap
from ros_graph import FakeCamera, Graph, graph
from sensor_msgs.msg import Image, PointCloud2
from std_srvs.srv import Trigger

from reconx_ros.core import SE3
from reconx_ros.ros.conversions import camera_info_msg, cloud_from_msg, header_msg, image_view, pose_msg
from reconx_ros.ros.graph.qos import latched_qos
from reconx_ros.sim.raycast import RgbdImage, RoomRenderer
from reconx_ros.sim.room import make_room

SIZE = (128, 96)
JOB_TIMEOUT_S = 300.0


@pytest.fixture
def nodes(ros_domain: int, tmp_path: Path) -> Iterator[Graph]:
    with graph(tmp_path) as made:
        made.start(
            "reconstruction_server",
            device="cpu",
            pointmap__max_size=SIZE[0],
            pointmap__planes=48,
            diffusion__frames=6,
            splatting__steps=20,
            splatting__max_gaussians=4000,
            splatting__max_size=SIZE[0],
            output__novel_views=3,
            output__novel_view_size=SIZE[0],
            ros__output_dir=str(tmp_path / "out"),
        )
        made.start("reconx_node", ros__retry_s=0.2, output__min_confidence=0.3)
        yield made


class RoomCamera(FakeCamera):
    """The fake camera in a simulated room."""

    def __init__(self, made: Graph) -> None:
        super().__init__(made, size=SIZE)
        self._renderer = RoomRenderer(make_room())

    def see(self, pose: SE3) -> RgbdImage:
        return self._renderer.render(self.camera, pose)

    def show(self, pose: SE3) -> None:
        self.send(pose, pixels=self.see(pose).rgb_u8)


def test_the_real_reconstruction_maps_a_room(nodes: Graph, tmp_path: Path) -> None:
    statuses = nodes.listen(Status, "reconx_node/status", latched_qos())
    clouds = nodes.listen(PointCloud2, "reconx_node/points", latched_qos())
    views = nodes.listen(Image, "reconx_node/novel_view/image")
    camera = RoomCamera(nodes)
    camera.ready()
    poses = [camera.pose(0.25 * i - 0.5) for i in range(5)]
    for pose in poses:
        camera.show(pose)
    nodes.wait("keyframes", lambda: statuses and statuses[-1].keyframes >= 3)
    nodes.call(Trigger, "reconx_node/trigger", Trigger.Request())
    nodes.wait("a map", lambda: statuses[-1].reconstructions >= 1 or _failed(statuses[-1]), JOB_TIMEOUT_S)
    status = statuses[-1]
    assert status.reconstructions >= 1, status.last_error
    assert status.pointmap_backend == "multiview" and status.metric_scale

    nodes.wait("points", lambda: clouds and clouds[-1].width > 100)
    cloud = cloud_from_msg(clouds[-1])
    assert set(cloud.provenance.tolist()) == {1}
    truth = camera.see(poses[2])
    local = poses[2].inverse().apply(cloud.points)
    u = np.rint(local[:, 0] / local[:, 2] * camera.camera.fx + camera.camera.cx).astype(int)
    v = np.rint(local[:, 1] / local[:, 2] * camera.camera.fy + camera.camera.cy).astype(int)
    seen = (local[:, 2] > 0) & (u >= 0) & (u < SIZE[0]) & (v >= 0) & (v < SIZE[1])
    error = np.abs(local[seen, 2] / truth.depth_m[v[seen], u[seen]] - 1)
    assert np.median(error) < 0.05, f"median relative depth error {np.median(error):.3f}"

    nodes.wait("novel views", lambda: len(views) >= 3)
    assert image_view(views[0]).max() > 50

    request = RenderView.Request(pose=pose_msg(poses[2]), camera_info=camera_info_msg(camera.camera, header_msg(0, "")))
    drawn = nodes.call(RenderView, "reconstruction_server/render_view", request)
    assert drawn.success, drawn.message
    difference = np.abs(image_view(drawn.image).astype(float) - truth.rgb_u8).mean()
    assert difference < 40, f"mean absolute difference {difference:.1f} grey levels"

    (report,) = (tmp_path / "out").glob("job-*/report.json")
    saved = nodes.call(SaveMap, "reconx_node/save_map", SaveMap.Request(path=str(tmp_path / "map")))
    assert saved.success and (tmp_path / "map" / "scene.ply").is_file(), saved.message
    nodes.call(Trigger, "reconx_node/reset", Trigger.Request())
    loaded = nodes.call(LoadMap, "reconx_node/load_map", LoadMap.Request(path=str(report.parent)))
    assert loaded.success and loaded.points >= saved.points, loaded.message


def test_a_robot_that_only_turns_gets_one_sentence(nodes: Graph) -> None:
    statuses = nodes.listen(Status, "reconx_node/status", latched_qos())
    camera = RoomCamera(nodes)
    camera.ready()
    for i in range(5):
        camera.show(camera.pose(0.0, 18.0 * i))
    nodes.wait("the refusal", lambda: statuses and _failed(statuses[-1]), JOB_TIMEOUT_S)
    assert "INSUFFICIENT_PARALLAX" in statuses[-1].last_error
    assert "\n" not in statuses[-1].last_error
    assert statuses[-1].keyframes == 5 and all(p.alive for p in nodes.processes)


def _failed(status: Status) -> bool:
    return bool(status.state == Status.ERROR)

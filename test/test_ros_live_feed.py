"""What the live viewer hears of a running node: late joining, pictures as they come, damaged messages, rendering."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed: run `make setup`")

from nav_msgs.msg import Path as PathMsg
from reconx_ros.msg import Keyframe as KeyframeMsg
from reconx_ros.msg import Status
from reconx_ros.srv import RenderView
from ros_graph import TIMEOUT_S, FakeCamera, Graph, graph
from ros_robot import Robot
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from viewer_results import BLUE, camera_pose, wall_cloud
from visualization_msgs.msg import MarkerArray

from reconx_ros.core import (
    BackendUnavailableError,
    Frame,
    InvalidInputError,
    Keyframe,
    PinholeCamera,
    ReconstructionError,
)
from reconx_ros.io.images import encode_jpeg
from reconx_ros.ros.conversions import camera_info_msg, cloud_msg, frustum_markers, header_msg, image_msg, path_msg
from reconx_ros.ros.conversions.markers import camera_from_marker
from reconx_ros.ros.graph.qos import latched_qos, reliable_qos
from reconx_ros.ros.robot.outputs import NOVEL_VIEW_FRAME, keyframe_msg
from reconx_ros.ros.tools.live_feed import LiveFeed
from reconx_ros.viz.viewer.data import ViewerData

CAMERA = PinholeCamera(width=64, height=48, fx=50, fy=55, cx=30, cy=25)
STAMP_NS = 5_000_000_000


def keyframe(index: int) -> Keyframe:
    picture = np.full((48, 64, 3), 10 * index, np.uint8)
    frame = Frame(rgb_u8=picture, camera=CAMERA, world_from_cam=camera_pose(0.3 * index), stamp_ns=STAMP_NS + index)
    return Keyframe(id=index, frame=frame, sharpness=1.0)


class FakeNode:
    """The publishers of reconx_node that the viewer listens to."""

    def __init__(self, owner: Graph) -> None:
        def make(kind: type, topic: str, latched: bool = False):  # noqa: ANN202
            qos = latched_qos() if latched else reliable_qos(100)
            return owner.node.create_publisher(kind, f"reconx_node/{topic}", qos)

        self.points = make(PointCloud2, "points", latched=True)
        self.markers = make(MarkerArray, "keyframes", latched=True)
        self.path = make(PathMsg, "novel_view/path", latched=True)
        self.keyframe = make(KeyframeMsg, "keyframe")
        self.status = make(Status, "status")
        self.image = make(Image, "novel_view/image")
        self.camera_info = make(CameraInfo, "novel_view/camera_info")
        self._graph = owner

    def heard_by_the_feed(self) -> None:
        for publisher in (self.keyframe, self.status, self.image, self.camera_info):
            self._graph.wait("the feed", lambda p=publisher: p.get_subscription_count() > 0)


@pytest.fixture
def node(ros_domain: int, tmp_path: Path) -> Iterator[FakeNode]:
    with graph(tmp_path) as owner:
        yield FakeNode(owner)


def until(feed: LiveFeed, what: str, condition: Callable[[ViewerData], bool]) -> ViewerData:
    seen, deadline = -1, time.monotonic() + TIMEOUT_S
    while not condition(feed.data()):
        assert time.monotonic() < deadline, f"waited {TIMEOUT_S:g} s in vain for {what}"
        seen = feed.wait_for_change(seen, 0.5)
    return feed.data()


def test_a_late_viewer_hears_the_map_and_then_the_news(node: FakeNode) -> None:
    cloud = wall_cloud()
    node.points.publish(cloud_msg(cloud, header_msg(STAMP_NS, "map")))
    node.markers.publish(frustum_markers([keyframe(1), keyframe(2)], "map", 0.3, {1}))
    with LiveFeed("reconx_node", server="reconstruction_server") as feed:
        data = until(feed, "cloud and frustums", lambda d: len(d.cloud) > 0 and len(d.keyframes) == 2)
        assert (data.cloud.points == cloud.points).all() and (data.cloud.provenance == cloud.provenance).all()
        assert data.metric_scale is None and "nothing heard" in data.notes[0]
        first = data.keyframes[0]
        assert first.name == "0001" and first.picture is None and first.camera is not None
        assert first.world_from_cam.distance_to(camera_pose(0.3)) < 1e-6
        assert first.camera.width / first.camera.fx == pytest.approx(CAMERA.width / CAMERA.fx, rel=1e-3)

        node.heard_by_the_feed()
        node.keyframe.publish(keyframe_msg(keyframe(2), encode_jpeg(keyframe(2).frame.rgb_u8), "map", "cam"))
        node.status.publish(Status(metric_scale=True, state_text="collecting"))
        data = until(feed, "a picture", lambda d: d.metric_scale is True and d.keyframes[1].picture is not None)
        assert data.keyframes[1].stamp_ns == STAMP_NS + 2 and data.unit == "m" and "collecting" in data.notes[0]
        assert data.keyframes[0] is first  # as before: the viewer need not draw it again

        node.points.publish(PointCloud2(width=5, height=1, point_step=4))  # no x, y, z
        node.markers.publish(frustum_markers([], "map", 0.3, set()))
        data = until(feed, "the reset", lambda d: not d.keyframes)
        assert len(data.cloud) == len(cloud)


def test_novel_views_get_their_pictures_as_these_come(node: FakeNode) -> None:
    stamps = [STAMP_NS, STAMP_NS + 1]
    with LiveFeed("reconx_node", server="reconstruction_server") as feed:
        node.heard_by_the_feed()
        picture = np.full((48, 64, 3), BLUE, np.uint8)
        for stamp_ns in (1, stamps[1]):  # the first is of an older result
            header = header_msg(stamp_ns, NOVEL_VIEW_FRAME)
            node.image.publish(image_msg(picture, "rgb8", header))
            node.camera_info.publish(camera_info_msg(CAMERA, header))
        node.path.publish(path_msg([camera_pose(0.0), camera_pose(0.5)], stamps, "map", STAMP_NS))
        data = until(feed, "the second view", lambda d: len(d.novel) == 2 and d.novel[1].picture is not None)
        second = until(feed, "its camera", lambda d: d.novel[1].camera is not None).novel[1]
        assert data.novel[0].picture is None and second.rgb_u8()[0, 0].tolist() == list(BLUE)
        node.image.publish(image_msg(picture, "rgb8", header_msg(stamps[0], NOVEL_VIEW_FRAME)))
        data = until(feed, "the first view", lambda d: d.novel[0].picture is not None)
        assert data.novel[1] is second


def test_the_real_node_is_heard(ros_domain: int, tmp_path: Path) -> None:
    with graph(tmp_path) as owner, LiveFeed("reconx_node", server="reconstruction_server") as feed:
        robot, camera = Robot(owner), FakeCamera(owner)
        robot.start_server()
        robot.start(ros__output_dir=str(tmp_path / "maps"), ros__retry_s=0.1)
        camera.ready()
        camera.walk(4)
        data = until(feed, "the map", lambda d: len(d.cloud) == 800 and len(d.keyframes) == 4 and len(d.novel) == 3)
        assert data.keyframes[1].world_from_cam.distance_to(camera.pose(0.5)) < 1e-6
        camera.send(camera.pose(2.0))  # pictures of keyframes are sent once: those before may have come too early
        data = until(feed, "a keyframe's picture", lambda d: any(k.picture is not None for k in d.keyframes))
        assert all(k.stamp_ns is not None for k in data.keyframes if k.picture is not None)
        until(feed, "a novel view's picture", lambda d: any(v.picture is not None for v in d.novel))
        until(feed, "the scale", lambda d: d.metric_scale is True)


def test_the_server_draws_views_or_says_why_not(node: FakeNode) -> None:
    asked: list[RenderView.Request] = []

    def answer(request: RenderView.Request, response: RenderView.Response) -> RenderView.Response:
        asked.append(request)
        response.success = len(asked) == 1
        response.message = "" if response.success else "there is no scene yet"
        header, shape = header_msg(0, "view"), (request.camera_info.height, request.camera_info.width)
        response.image = image_msg(np.full((*shape, 3), BLUE, np.uint8), "rgb8", header)
        response.depth = image_msg(np.full(shape, 2.0, np.float32), "32FC1", header)
        response.provenance = image_msg(np.ones(shape, np.uint8), "mono8", header)
        return response

    with LiveFeed("reconx_node", server="reconstruction_server") as feed:
        with pytest.raises(BackendUnavailableError, match="nobody offers reconstruction_server/render_view"):
            feed.render(CAMERA, camera_pose(0.0))
        node._graph.node.create_service(RenderView, "reconstruction_server/render_view", answer)
        node._graph.wait("the client", feed._render_client.service_is_ready)
        drawn = feed.render(CAMERA, camera_pose(0.0))
        assert drawn.rgb_u8.shape == (48, 64, 3) and drawn.rgb_u8[0, 0].tolist() == list(BLUE)
        assert (drawn.depth == 2).all() and (drawn.provenance == 1).all() and drawn.confidence is None
        assert asked[0].camera_info.k[0] == CAMERA.fx and asked[0].pose.position.z == 1.0
        with pytest.raises(ReconstructionError, match="there is no scene yet"):
            feed.render(CAMERA, camera_pose(0.0))


def test_the_viewer_follows_the_node(node: FakeNode) -> None:
    pytest.importorskip("viser", reason="viser is not installed: pip install 'reconx_ros[viewer]'")
    from reconx_ros.viz.viewer.app import Viewer

    with LiveFeed("reconx_node", server="reconstruction_server") as feed:
        viewer = Viewer(feed.data(), port=0)
        following = threading.Thread(target=viewer.follow, args=(feed,))
        following.start()
        try:
            assert viewer.server.scene.get_handle_by_name("/points") is None
            node.points.publish(cloud_msg(wall_cloud(), header_msg(STAMP_NS, "map")))
            node.markers.publish(frustum_markers([keyframe(1)], "map", 0.3, {1}))
            shown = viewer.server.scene.get_handle_by_name
            node._graph.wait("the points on the page", lambda: shown("/points") is not None)
            node._graph.wait("the camera on the page", lambda: shown("/keyframes/0001") is not None)
            assert len(shown("/points").points) == len(wall_cloud())
        finally:
            viewer.close()
            following.join(10)
        assert not following.is_alive()


def test_markers_say_the_angles_of_the_camera() -> None:
    marker = frustum_markers([keyframe(1)], "map", 0.3, set()).markers[1]
    again = camera_from_marker(marker)
    for size, focal, middle in (("width", "fx", "cx"), ("height", "fy", "cy")):
        angles = [
            ((getattr(c, size) - 0.5 - getattr(c, middle)) / getattr(c, focal), getattr(c, size) / getattr(c, focal))
            for c in (CAMERA, again)
        ]
        assert angles[1] == pytest.approx(angles[0], rel=1e-6)
    marker.points = marker.points[:4]
    with pytest.raises(InvalidInputError, match="no camera frustum"):
        camera_from_marker(marker)

"""What an evaluation asks of running nodes: when clouds came, and pictures of the map from given places."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

from rclpy.context import Context
from rclpy.node import Node
from sensor_msgs.msg import PointCloud2

from reconx_ros.core import SE3, PinholeCamera, ReconstructionError
from reconx_ros.jobs.data import DrawnView
from reconx_ros.msg import Status
from reconx_ros.ros.conversions import (
    camera_info_msg,
    depth_from_image,
    header_msg,
    image_view,
    ns_from_stamp,
    pose_msg,
    rgb_from_image,
)
from reconx_ros.ros.tools.recorder import TopicRecorder
from reconx_ros.ros.tools.session import RosSession
from reconx_ros.srv import RenderView

_SERVICE_TIMEOUT_S = 30.0
_VIEW_TIMEOUT_S = 120.0
_BUSY_RETRIES = 20


class TimingTopicRecorder(TopicRecorder):
    """A recorder that also notes when each cloud was heard first.

    Attributes:
        cloud_heard_s: stamp in ns of a cloud, which is that of its newest keyframe, to the time on the monotonic clock
            at which the first cloud with that stamp arrived, in order of arrival.
        coverage_s: (time on the monotonic clock, mean coverage in the status) whenever it changed; 0 before a map.
    """

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.cloud_heard_s: dict[int, float] = {}
        self.coverage_s: list[tuple[float, float]] = []

    def _on_cloud(self, message: PointCloud2) -> None:
        self.cloud_heard_s.setdefault(ns_from_stamp(message.header.stamp), time.monotonic())
        super()._on_cloud(message)

    def _on_status(self, message: Status) -> None:
        super()._on_status(message)
        coverage = 0.0 if math.isnan(message.coverage) else float(message.coverage)
        if not self.coverage_s or self.coverage_s[-1][1] != coverage:
            self.coverage_s.append((time.monotonic(), coverage))


class ViewClient(Node):
    """Asks the reconstruction server for pictures, one at a time.

    Args:
        session: running nodes; spins this one.
        server: name of the server's node.
    """

    def __init__(self, session: RosSession, *, server: str = "reconstruction_server") -> None:
        super().__init__("reconx_view_client", context=session.context)
        self._session = session
        self._service = f"{server}/render_view"
        self._client = self.create_client(RenderView, self._service)
        session.add_node(self)

    def draw(
        self, views: Sequence[tuple[PinholeCamera, SE3]], *, on_view: Callable[[int], None] | None = None
    ) -> list[DrawnView | str]:
        """Pictures from places in the map frame.

        Args:
            views: camera and map_from_optical of each.
            on_view: told how many are done, for progress.

        Returns:
            Per view the picture, or the sentence with which the server refused it.

        Raises:
            ReconstructionError: when the service does not come or does not answer.
        """
        self._session.wait(self._client.service_is_ready, f"the service {self._service}", timeout_s=_SERVICE_TIMEOUT_S)
        drawn = []
        for index, (camera, pose) in enumerate(views):
            drawn.append(self._drawn(camera, pose))
            if on_view is not None:
                on_view(index + 1)
        return drawn

    def _drawn(self, camera: PinholeCamera, pose: SE3) -> DrawnView | str:
        request = RenderView.Request(pose=pose_msg(pose), camera_info=camera_info_msg(camera, header_msg(0, "optical")))
        for _ in range(_BUSY_RETRIES):
            response = self._answer(request)
            if response.success:
                return DrawnView(
                    rgb_u8=rgb_from_image(response.image),
                    depth=depth_from_image(response.depth),
                    provenance=image_view(response.provenance).copy(),
                    seconds=float(response.seconds),
                )
            if response.error_code != RenderView.Response.BUSY:
                return str(response.message)
        raise ReconstructionError(f"{self._service} was busy {_BUSY_RETRIES} times in a row: {response.message}")

    def _answer(self, request: RenderView.Request) -> RenderView.Response:
        future = self._client.call_async(request)
        self._session.wait(future.done, f"the answer of {self._service}", timeout_s=_VIEW_TIMEOUT_S)
        return future.result()

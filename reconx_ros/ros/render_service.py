"""Service ~/render_view: the newest scene as a camera at a given place would see it."""

from __future__ import annotations

from concurrent.futures import TimeoutError as FutureTimeoutError
from threading import Lock
from typing import Protocol

from rclpy.callback_groups import CallbackGroup
from rclpy.node import Node
from std_msgs.msg import Header

from reconx_ros.core import SE3, InvalidInputError, PinholeCamera
from reconx_ros.ros.conversions import image_msg, pinhole_of_info, se3_of_pose
from reconx_ros.ros.job_data import DrawnView, ErrorCode
from reconx_ros.ros.lifecycle import answered
from reconx_ros.ros.worker import NO_SCENE
from reconx_ros.ros.worker_process import DrawError, WorkerDiedError, WorkerProcess
from reconx_ros.srv import RenderView

MAX_SIDE = 4096
DRAW_TIMEOUT_S = 60.0


class SupportsActive(Protocol):
    """What the service asks of its node."""

    active: bool


class RenderService:
    """Draws one view at a time in the worker process.

    Args:
        node: serves in its name; nothing is drawn while it is not active.
        worker: has the scene.
        group: callback group of the service.

    Attributes:
        scene_header: frame and stamp of the newest scene; None before the first.
    """

    def __init__(self, node: Node, worker: WorkerProcess, group: CallbackGroup) -> None:
        self._node = node
        self._worker = worker
        self._lock = Lock()
        self.scene_header: Header | None = None
        self._service = node.create_service(
            RenderView, "~/render_view", answered(node, self._on_request), callback_group=group
        )

    def close(self) -> None:
        """Stop serving."""
        self._node.destroy_service(self._service)

    def _on_request(self, request: RenderView.Request, response: RenderView.Response) -> RenderView.Response:
        try:
            self._fill(request, response)
        except _RefusalError as refusal:
            response.success, response.error_code, response.message = False, int(refusal.code), str(refusal)
            self._node.get_logger().info(f"a view was not drawn: {refusal}")
        return response

    def _fill(self, request: RenderView.Request, response: RenderView.Response) -> None:
        header = self.scene_header
        if header is None or not getattr(self._node, "active", False):
            raise _RefusalError(RenderView.Response.NO_SCENE, "there is no scene yet: no reconstruction has succeeded")
        wanted = request.header.frame_id
        if wanted and wanted != header.frame_id:
            raise _RefusalError(
                RenderView.Response.UNKNOWN_FRAME,
                f"view is in frame '{wanted}', expected the scene's frame '{header.frame_id}'",
            )
        drawn = self._drawn(*_checked_view(request))
        optical = Header(stamp=header.stamp, frame_id=request.camera_info.header.frame_id)
        response.image = image_msg(drawn.rgb_u8, "rgb8", optical)
        response.depth = image_msg(drawn.depth, "32FC1", optical)
        response.provenance = image_msg(drawn.provenance, "mono8", optical)
        response.seconds, response.success = float(drawn.seconds), True

    def _drawn(self, camera: PinholeCamera, pose: SE3) -> DrawnView:
        codes = RenderView.Response
        if not self._lock.acquire(timeout=1.0):
            raise _RefusalError(codes.BUSY, "another view is being drawn, try again")
        try:
            return self._worker.draw(camera, pose).result(timeout=DRAW_TIMEOUT_S)
        except FutureTimeoutError:
            raise _RefusalError(codes.BUSY, f"the view was not drawn within {DRAW_TIMEOUT_S:g} s, try again") from None
        except WorkerDiedError as error:
            self.scene_header = None
            raise _RefusalError(codes.RENDER_FAILED, f"{error}, and the scene with it") from None
        except DrawError as error:
            raise self._refused(error) from None
        finally:
            self._lock.release()

    def _refused(self, error: DrawError) -> _RefusalError:
        codes = RenderView.Response
        if str(error) == NO_SCENE:
            self.scene_header = None
            return _RefusalError(codes.NO_SCENE, NO_SCENE)
        by_code = {ErrorCode.OUT_OF_MEMORY: codes.OUT_OF_MEMORY, ErrorCode.INVALID_GOAL: codes.INVALID_VIEW}
        return _RefusalError(by_code.get(error.code, codes.RENDER_FAILED), str(error))


class _RefusalError(Exception):
    def __init__(self, code: int, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


def _checked_view(request: RenderView.Request) -> tuple[PinholeCamera, SE3]:
    try:
        camera = pinhole_of_info(request.camera_info)
        if max(camera.size) > MAX_SIDE:
            raise InvalidInputError(f"view is {camera.width}x{camera.height}, expected at most {MAX_SIDE} a side")
        return camera, se3_of_pose(request.pose)
    except InvalidInputError as error:
        raise _RefusalError(RenderView.Response.INVALID_VIEW, str(error)) from None

"""Services ~/render_view, the newest scene as a camera at a given place would see it, and ~/load_scene, a saved one."""

from __future__ import annotations

from concurrent.futures import TimeoutError as FutureTimeoutError
from pathlib import Path
from threading import Lock
from typing import Any, Protocol

from rclpy.callback_groups import CallbackGroup
from rclpy.node import Node
from std_msgs.msg import Header

from reconx_ros.core import SE3, InvalidInputError, PinholeCamera
from reconx_ros.jobs.data import DrawnView, ErrorCode
from reconx_ros.jobs.folders import output_folder
from reconx_ros.jobs.map_files import SCENE_FILE, resolved
from reconx_ros.jobs.worker import NO_SCENE
from reconx_ros.jobs.worker_process import WorkerDiedError, WorkerProcess, WorkerRefusedError
from reconx_ros.ros.conversions import image_msg, pinhole_from_info, se3_from_pose
from reconx_ros.ros.graph.lifecycle import answered
from reconx_ros.ros.graph.parameters import NodeParameters
from reconx_ros.srv import LoadMap, RenderView

MAX_SIDE = 4096
DRAW_TIMEOUT_S = 60.0


LOAD_TIMEOUT_S = 60.0


class SupportsActive(Protocol):
    """What the services ask of their node."""

    active: bool
    parameters: NodeParameters


class RenderService:
    """Draws one view at a time in the worker process.

    Args:
        node: serves in its name; nothing is drawn while it is not active.
        worker: has the scene.
        group: callback group of the service.

    Attributes:
        scene_header: frame and stamp of the newest scene; None before the first.
    """

    def __init__(self, node: Any, worker: WorkerProcess, group: CallbackGroup) -> None:
        self._node: Node = node
        self._served: SupportsActive = node
        self._worker = worker
        self._lock = Lock()
        self.scene_header: Header | None = None
        served = ((RenderView, "~/render_view", self._on_request), (LoadMap, "~/load_scene", self._on_load))
        self._services = [
            node.create_service(kind, name, answered(node, callback), callback_group=group)
            for kind, name, callback in served
        ]

    def close(self) -> None:
        """Stop serving."""
        for service in self._services:
            self._node.destroy_service(service)
        self._services = []

    def _on_load(self, request: LoadMap.Request, response: LoadMap.Response) -> LoadMap.Response:
        try:
            points, path = self._loaded(request)
        except _RefusalError as refusal:
            response.success, response.error_code, response.message = False, int(refusal.code), str(refusal)
            self._node.get_logger().warning(f"a scene was not loaded: {refusal}")
            return response
        self.scene_header = response.header = request.header
        response.success, response.points, response.bytes = True, int(points), int(path.stat().st_size)
        response.message = f"{points} Gaussians are loaded from {path}"
        self._node.get_logger().info(response.message)
        return response

    def _loaded(self, request: LoadMap.Request) -> tuple[int, Path]:
        codes, config = LoadMap.Response, self._served.parameters.config
        if not self._served.active:
            raise _RefusalError(codes.BUSY, "the server is not active")
        try:
            path = resolved(request.path, output_folder(config.ros.output_dir))
            path = path / SCENE_FILE if path.is_dir() else path
            if not path.is_file():
                raise _RefusalError(codes.NOT_FOUND, f"there is no scene {path} on the server's computer")
            return self._worker.load_scene(path, config).result(timeout=LOAD_TIMEOUT_S), path
        except InvalidInputError as error:
            raise _RefusalError(codes.INVALID_MAP, str(error)) from None
        except FutureTimeoutError:
            raise _RefusalError(codes.BUSY, f"the scene was not loaded within {LOAD_TIMEOUT_S:g} s") from None
        except WorkerDiedError as error:
            self.scene_header = None
            raise _RefusalError(codes.OUT_OF_MEMORY, str(error)) from None
        except WorkerRefusedError as error:
            full = error.code == ErrorCode.OUT_OF_MEMORY
            raise _RefusalError(codes.OUT_OF_MEMORY if full else codes.INVALID_MAP, str(error)) from None

    def _on_request(self, request: RenderView.Request, response: RenderView.Response) -> RenderView.Response:
        try:
            self._fill(request, response)
        except _RefusalError as refusal:
            response.success, response.error_code, response.message = False, int(refusal.code), str(refusal)
            self._node.get_logger().info(f"a view was not drawn: {refusal}")
        return response

    def _fill(self, request: RenderView.Request, response: RenderView.Response) -> None:
        header = self.scene_header
        if header is None or not self._served.active:
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
        except WorkerRefusedError as error:
            raise self._refused(error) from None
        finally:
            self._lock.release()

    def _refused(self, error: WorkerRefusedError) -> _RefusalError:
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
        camera = pinhole_from_info(request.camera_info)
        if max(camera.size) > MAX_SIDE:
            raise InvalidInputError(f"view is {camera.width}x{camera.height}, expected at most {MAX_SIDE} a side")
        return camera, se3_from_pose(request.pose)
    except InvalidInputError as error:
        raise _RefusalError(RenderView.Response.INVALID_VIEW, str(error)) from None

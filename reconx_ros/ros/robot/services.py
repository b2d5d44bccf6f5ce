"""Services of reconx_node: each runs on the mapping thread, between two frames, and answers in one sentence."""

from __future__ import annotations

import array
from collections.abc import Callable
from concurrent.futures import CancelledError as FutureCancelledError
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any, TypeVar

from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node
from std_srvs.srv import SetBool, Trigger

from reconx_ros.core import InvalidInputError, StorageError
from reconx_ros.jobs import map_files
from reconx_ros.jobs.folders import output_folder
from reconx_ros.ros.conversions import header_msg, pinhole_from_info, se3_from_pose
from reconx_ros.ros.graph.lifecycle import answered
from reconx_ros.ros.robot.map_session import BusyError, MapSession, NoMapError
from reconx_ros.ros.robot.mapping_thread import MappingThread
from reconx_ros.ros.robot.scene_client import SceneClient
from reconx_ros.srv import LoadMap, SaveMap, ScoreViews

R = TypeVar("R")
_TIMEOUT_S = 60.0
_MAX_CANDIDATES = 10_000


class NodeServices:
    """Serves from configuration to cleanup.

    Args:
        node: serves in its name; its parameters are read at each request.
        session: the mapping.
        thread: where the session lives.
        on_pause: called with the wanted state; returns one sentence.
        on_reset: forgets what the node itself counts; runs on the mapping thread.
    """

    def __init__(
        self,
        node: Any,
        session: MapSession,
        thread: MappingThread,
        on_pause: Callable[[bool], str],
        on_reset: Callable[[], None],
    ) -> None:
        self._node = node
        self._session = session
        self._thread = thread
        self._on_pause = on_pause
        self._on_reset = on_reset
        group = ReentrantCallbackGroup()
        self._scenes = SceneClient(node, node.parameters.config.ros.server, group)
        served = (
            (Trigger, "trigger", self._trigger),
            (SetBool, "pause", self._pause),
            (Trigger, "reset", self._reset),
            (SaveMap, "save_map", self._save_map),
            (LoadMap, "load_map", self._load_map),
            (ScoreViews, "score_views", self._score_views),
        )
        self._services = [
            node.create_service(kind, f"~/{name}", answered(node, callback), callback_group=group)
            for kind, name, callback in served
        ]

    def close(self) -> None:
        """Stop serving."""
        node: Node = self._node
        for service in self._services:
            node.destroy_service(service)
        self._services = []
        self._scenes.close()

    def _on_thread(self, task: Callable[[], R]) -> R:
        try:
            return self._thread.submit(task).result(timeout=_TIMEOUT_S)
        except FutureTimeoutError:
            raise InvalidInputError(f"the node did not get to it within {_TIMEOUT_S:g} s, expected less work") from None
        except FutureCancelledError:
            raise InvalidInputError("the node is being cleaned up") from None

    def _trigger(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        del request
        if not self._node.active:
            response.success, response.message = False, "the node is not active"
            return response
        try:
            response.success, response.message = self._on_thread(lambda: self._session.start_job("asked for"))
        except InvalidInputError as error:
            response.success, response.message = False, str(error)
        return response

    def _pause(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        response.success, response.message = bool(self._node.active), self._on_pause(bool(request.data))
        return response

    def _reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        del request

        def reset() -> None:
            self._on_reset()  # first, so that no status tells of an empty map with old counters
            self._session.reset()

        try:
            self._on_thread(reset)
            response.success, response.message = True, "keyframes, map and counters are forgotten"
        except InvalidInputError as error:
            response.success, response.message = False, str(error)
        return response

    def _base(self) -> Any:
        return output_folder(self._node.parameters.config.ros.output_dir)

    def _frame(self) -> str:
        return str(self._node.parameters.config.ros.map_frame)

    def _save_map(self, request: SaveMap.Request, response: SaveMap.Response) -> SaveMap.Response:
        codes = SaveMap.Response
        try:
            folder = map_files.resolved(request.path, self._base())
            size, points = self._on_thread(lambda: self._session.save(folder, overwrite=bool(request.overwrite)))
        except FileExistsError as error:
            return _refused(response, codes.EXISTS, str(error))
        except NoMapError as error:
            return _refused(response, codes.NO_MAP, str(error))
        except InvalidInputError as error:
            return _refused(response, codes.INVALID_PATH, str(error))
        except map_files.DiskFullError as error:
            return self._failed(response, codes.NO_DISK, str(error))
        except StorageError as error:
            return self._failed(response, codes.WRITE_FAILED, str(error))
        response.header = header_msg(self._session.facts.stamp_ns, self._frame())
        response.success, response.bytes, response.points = True, int(size), int(points)
        response.message = self._stored(f"{points} points are saved in {folder}")
        return response

    def _failed(self, response: R, code: int, sentence: str) -> R:
        """As ``_refused``, where not the request but the storage is to blame: diagnostics tell it too."""
        self._session.note_storage(sentence, failed=True)
        self._node.get_logger().error(sentence)
        return _refused(response, code, sentence)

    def _stored(self, sentence: str) -> str:
        self._session.note_storage(sentence, failed=False)
        self._node.get_logger().info(sentence)
        return sentence

    def _load_map(self, request: LoadMap.Request, response: LoadMap.Response) -> LoadMap.Response:
        codes = LoadMap.Response
        frame, wanted = self._frame(), request.header.frame_id
        if wanted and wanted != frame:
            return _refused(response, codes.INVALID_MAP, f"frame is '{wanted}', expected the map frame '{frame}'")
        try:
            folder = map_files.resolved(request.path, self._base())
            loaded = self._on_thread(lambda: self._session.load(folder))
        except FileNotFoundError as error:
            return self._failed(response, codes.NOT_FOUND, str(error))
        except BusyError as error:
            return _refused(response, codes.BUSY, str(error))
        except (InvalidInputError, StorageError) as error:
            return self._failed(response, codes.INVALID_MAP, str(error))
        except MemoryError:
            return self._failed(response, codes.OUT_OF_MEMORY, f"the map {folder} does not fit into the memory")
        response.header = header_msg(loaded.stamp_ns, frame)
        response.success, response.points, response.metric_scale = True, len(loaded.cloud), bool(loaded.metric_scale)
        response.bytes = sum(int(file.stat().st_size) for file in folder.iterdir())
        other = "" if loaded.frame_id == frame else f"; they were saved in frame '{loaded.frame_id}'"
        drawn = self._scenes.load(loaded.scene, response.header)
        response.message = self._stored(f"{len(loaded.cloud)} points are loaded from {folder}{other}; {drawn}")
        return response

    def _score_views(self, request: ScoreViews.Request, response: ScoreViews.Response) -> ScoreViews.Response:
        frame, wanted = self._frame(), request.poses.header.frame_id
        try:
            if wanted and wanted != frame:
                raise InvalidInputError(f"poses are in frame '{wanted}', expected the map frame '{frame}'")
            if len(request.poses.poses) > _MAX_CANDIDATES:
                raise InvalidInputError(f"got {len(request.poses.poses)} poses, expected at most {_MAX_CANDIDATES}")
            camera = pinhole_from_info(request.camera_info)
            poses = [se3_from_pose(pose) for pose in request.poses.poses]
            scores = self._on_thread(lambda: self._session.score(camera, poses))
        except InvalidInputError as error:
            response.success, response.message = False, str(error)
            return response
        response.header = header_msg(self._session.facts.stamp_ns, frame)
        response.gains = array.array("f", [float(gain) for gain, _ in scores])
        response.coverage = array.array("f", [float(coverage) for _, coverage in scores])
        response.success = True
        return response


def _refused(response: R, code: int, sentence: str) -> R:
    response.success, response.error_code, response.message = False, int(code), sentence  # type: ignore[attr-defined]
    return response

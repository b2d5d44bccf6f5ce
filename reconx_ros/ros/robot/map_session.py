"""The robot's mapping, on one thread: frames go in, jobs go out, results become the map and are published."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from weakref import WeakKeyDictionary

from reconx_ros.core import SE3, Frame, InvalidInputError, Keyframe, PinholeCamera
from reconx_ros.jobs import map_files
from reconx_ros.jobs.backoff import Backoff
from reconx_ros.jobs.data import EncodedKeyframe, ErrorCode, JobOutcome, JobRequest
from reconx_ros.pipeline.config import ReconxConfig
from reconx_ros.pipeline.mapper import KeyframeMapper
from reconx_ros.ros.robot.outputs import Outputs
from reconx_ros.ros.robot.reconstruction_client import ReconstructionClient

_FRUSTUM_SHARE = 0.06  # height of the keyframe markers, share of the assumed scene depth


class NoMapError(InvalidInputError):
    """Nothing was mapped or loaded yet."""


class BusyError(InvalidInputError):
    """A reconstruction is running."""


class Log(Protocol):
    """The part of a node's logger that is used."""

    def info(self, message: str) -> object:
        """Log for the user."""
        ...

    def warning(self, message: str) -> object:
        """Log something odd."""
        ...

    def error(self, message: str) -> object:
        """Log a failure."""
        ...


@dataclass
class Facts:
    """What other threads may read; each field is replaced, never changed in place.

    Attributes:
        coverage: mean of the recent views; None before the first.
        failing: whether the newest job or try failed.
        backends: of the newest result, by stage.
        stamp_ns: newest keyframe in the map.
        last_job: one sentence.
        reason: what the trigger said last.
        scene_path: folder of the newest result on the server's computer.
        jump: what the newest jump of the clock did; empty before the first.
        notice: the same, until the next keyframe.
        bytes_sent: with the newest job.
        bytes_received: with the newest result.
        storage: how the newest saving or loading of a map went, one sentence.
        storage_failed: whether it failed.
    """

    keyframes: int = 0
    coverage: float | None = None
    reconstructions: int = 0
    points: int = 0
    metric_scale: bool = False
    backends: tuple[str, str, str] = ("", "", "")
    last_error: str = ""
    failing: bool = False
    stamp_ns: int = 0
    last_job: str = "none yet"
    reason: str = ""
    scene_path: str = ""
    jump: str = ""
    notice: str = ""
    bytes_sent: int = 0
    bytes_received: int = 0
    storage: str = "nothing was saved or loaded yet"
    storage_failed: bool = False


class MapSession:
    """Owns the KeyframeMapper; all methods are called on the mapping thread.

    Args:
        config: at the start; ``configure`` takes over changes.
        outputs: where results are published.
        client: where jobs are sent.
        log: the node's logger.
    """

    def __init__(self, config: ReconxConfig, outputs: Outputs, client: ReconstructionClient, log: Log) -> None:
        self._config = config
        self._outputs = outputs
        self._client = client
        self._log = log
        self._mapper = KeyframeMapper(config)
        self._encoded: WeakKeyDictionary[Keyframe, EncodedKeyframe] = WeakKeyDictionary()  # as long as in the buffer
        self._backoff = Backoff()
        self._running_id = ""
        self._absent = False
        self._newest_ns = 0
        self.facts = Facts()

    def configure(self, config: ReconxConfig) -> None:
        """Take over changed parameters."""
        self._config = config
        self._mapper.configure(config)
        if self.facts.points or self._mapper.map_poses:
            self._publish_map()

    # Frames ---------------------------------------------------------------------------------------------------

    def add_frame(self, frame: Frame, optical_frame: str) -> None:
        """Look at a frame: keep it or not, publish coverage, start a job when the trigger fires."""
        self._newest_ns = frame.stamp_ns
        decision = self._mapper.add_frame(frame)
        if decision.keyframe is not None:
            self._kept(decision.keyframe, optical_frame)
        fired = self._consider(frame.stamp_ns)
        report = self._mapper.coverage()
        self.facts.coverage = report.mean
        self.facts.keyframes = len(self._mapper.keyframes)
        self._outputs.coverage(report, self._config.coverage, frame, optical_frame, fired)

    def time_jumped(self, sentence: str, now_ns: int) -> None:
        """The clock went back: forget the keyframes of the future, keep the map, and say so.

        Args:
            sentence: what jumped, and by how much.
            now_ns: the new time.
        """
        forgotten = self._mapper.forget_after(now_ns)
        self._newest_ns = min(self._newest_ns, now_ns)
        self.facts.keyframes = len(self._mapper.keyframes)
        self.facts.jump = self.facts.notice = (
            f"{sentence} to {now_ns / 1e9:.3f} s: transforms and {forgotten} keyframes of the future were forgotten, "
            f"{self.facts.keyframes} keyframes and the map of {self.facts.points} points are kept"
        )
        self._log.warning(self.facts.notice)
        self._publish_markers()

    def _kept(self, keyframe: Keyframe, optical_frame: str) -> None:
        self.facts.notice = ""
        self._log.info(f"keyframe {keyframe.id}: {keyframe.reason}")
        ros = self._config.ros
        self._encoded[keyframe] = EncodedKeyframe.of(keyframe, ros.jpeg_quality)
        self._outputs.keyframe(keyframe, self._encoded[keyframe].view.image, ros.map_frame, optical_frame)
        self._publish_markers()

    def _publish_markers(self) -> None:
        depth = _FRUSTUM_SHARE * self._config.keyframes.assumed_depth
        mapped = set(self._mapper.map_poses)
        self._outputs.keyframes(self._mapper.keyframes, self._config.ros.map_frame, depth, mapped)

    def _consider(self, stamp_ns: int) -> bool:
        decision = self._mapper.should_reconstruct(stamp_ns)
        self.facts.reason = decision.reason
        if not decision.fire or self._backoff.waiting:
            return False
        return self.start_job(decision.reason)[0]

    # Jobs -----------------------------------------------------------------------------------------------------

    def step(self) -> None:
        """Try a failed job again when its time has come, notice a silent server, serve late subscribers."""
        self._client.check(self._config.ros)
        if self._absent and not self._client.absence:
            self._absent = False
            self._log.info("the reconstruction server is there")
            self._backoff.hurry(time.monotonic())
        if self._backoff.due(time.monotonic()) and not self._running_id:
            self.start_job("trying again")
        self._outputs.serve_late()

    def start_job(self, reason: str) -> tuple[bool, str]:
        """Send the keyframes to the server.

        Returns:
            Whether a job started, and one sentence.
        """
        if self._running_id:
            return False, "a reconstruction is running already"
        absence, kept = self._client.absence, len(self._mapper.keyframes)
        if absence and kept > 1:
            self._absent = True
            wait_s = self._backoff.failed(time.monotonic(), self._config.ros.retry_s)
            self.facts.last_error = f"{absence}; {kept} keyframes are kept"
            self._log.warning(f"{self.facts.last_error}, next try in {wait_s:.2g} s")
            return False, absence
        try:
            keyframes = self._mapper.job_keyframes()
        except InvalidInputError as error:
            self._backoff.stop()
            return False, str(error)
        self._backoff.stop()
        request = self._request(keyframes)
        self._running_id = request.job_id
        self._mapper.job_started(keyframes)
        self.facts.bytes_sent = self._client.start(request)
        sentence = f"job {request.job_id} started with {len(keyframes)} keyframes: {reason}"
        self._log.info(sentence)
        return True, sentence

    def _request(self, keyframes: Sequence[Keyframe]) -> JobRequest:
        ros = self._config.ros
        return JobRequest(
            job_id=f"job-{uuid.uuid4().hex[:8]}",
            frame_id=ros.map_frame,
            stamp_ns=max(k.frame.stamp_ns for k in keyframes),
            keyframes=tuple(self._encoded[k] for k in keyframes),
            metric_poses=ros.metric_poses,
            client=self._client.name,
            compress_cloud=ros.compress_cloud,
        )

    @property
    def next_try_s(self) -> float | None:
        """Seconds until a job is tried again; None when none waits for that. Any thread may ask."""
        return self._backoff.left_s(time.monotonic())

    def take_outcome(self, request: JobRequest, outcome: JobOutcome) -> None:
        """The job ended: integrate and publish its result, or remember why it failed."""
        if request.job_id != self._running_id:
            return
        self._running_id = ""
        self.facts.bytes_received = outcome.received_bytes or self.facts.bytes_received
        self._mapper.job_finished(self._newest_ns, succeeded=outcome.succeeded)
        if len(outcome.cloud) and outcome.error_code in (ErrorCode.NONE, ErrorCode.NO_DISK):
            self._integrate(request, outcome)
        if outcome.succeeded:
            self._backoff.succeeded()
            self.facts.failing = False
            self.facts.last_job = f"{request.job_id} succeeded with {len(outcome.cloud)} points"
            self._log.info(f"job {self.facts.last_job}")
        else:
            self._job_failed(request, outcome)

    def _job_failed(self, request: JobRequest, outcome: JobOutcome) -> None:
        sentence = f"job {request.job_id} ended with {outcome.error_code.name}: {outcome.error_msg}"
        if outcome.error_code.worth_retrying:
            wait_s = self._backoff.failed(time.monotonic(), self._config.ros.retry_s)
            sentence += f"; next try in {wait_s:.2g} s"
        self.facts.last_job = sentence
        self._failed(sentence)

    def _failed(self, sentence: str) -> None:
        self.facts.last_error, self.facts.failing = sentence, True
        self._log.error(sentence)

    def _integrate(self, request: JobRequest, outcome: JobOutcome) -> None:
        sent = {k.id: k.view.pose for k in request.keyframes if k.view.pose is not None}
        self._mapper.integrate(outcome.cloud, {**sent, **outcome.keyframe_poses})
        self.facts.metric_scale = outcome.metric_scale
        self.facts.reconstructions = self._mapper.reconstructions
        self.facts.scene_path = outcome.scene_path
        self.facts.backends = backends_from_report(outcome.report_json)
        self.facts.stamp_ns = max(self.facts.stamp_ns, request.stamp_ns)
        self._publish_map()
        self._outputs.novel_views(outcome.novel_views, request.stamp_ns, self._config.ros.map_frame)

    def _publish_map(self) -> None:
        cloud = self._mapper.cloud()
        self.facts.points = len(cloud)
        self.facts.coverage = self._mapper.coverage().mean
        self._outputs.points(cloud, self.facts.stamp_ns, self._config.ros.map_frame, self._config.output)
        self._publish_markers()

    # Requests -------------------------------------------------------------------------------------------------

    def save(self, folder: Path, *, overwrite: bool) -> tuple[int, int]:
        """Write the whole map; (bytes, points).

        Raises:
            NoMapError: when nothing was mapped or loaded.
            As ``map_files.save``.
        """
        if not self._mapper.map_poses:
            raise NoMapError("there is no map yet, expected at least one reconstruction")
        facts, frame_id = self.facts, self._config.ros.map_frame
        server_scene = str(Path(facts.scene_path) / map_files.SCENE_FILE) if facts.scene_path else ""
        saved = map_files.SavedMap(
            cloud=self._mapper.full_cloud(),
            poses=self._mapper.map_poses,
            frame_id=frame_id,
            stamp_ns=facts.stamp_ns,
            metric_scale=facts.metric_scale,
            scene_file=Path(server_scene) if server_scene else None,
            server_scene=server_scene,
        )
        return map_files.save(folder, saved, overwrite=overwrite), len(saved.cloud)

    def load(self, folder: Path) -> map_files.SavedMap:
        """Replace the map by a saved one; after an error the former map stays.

        Raises:
            BusyError: while a reconstruction runs, whose result belongs to the present map.
            As ``map_files.load``.
        """
        if self._running_id:
            raise BusyError("a reconstruction is running, try again when it has ended")
        loaded = map_files.load(folder)
        self._mapper.restore(loaded.cloud, loaded.poses)
        self.facts.scene_path = "" if loaded.scene is None else str(loaded.scene.parent)
        self.facts.metric_scale, self.facts.stamp_ns = loaded.metric_scale, loaded.stamp_ns
        self._publish_map()
        return loaded

    def note_storage(self, sentence: str, *, failed: bool) -> None:
        """Remember for diagnostics how saving or loading went."""
        self.facts.storage, self.facts.storage_failed = sentence, failed

    def score(self, camera: PinholeCamera, poses: Sequence[SE3]) -> list[tuple[float, float]]:
        """(gain, coverage) of each candidate."""
        return self._mapper.score_views(camera, poses)

    def reset(self) -> None:
        """Forget keyframes, map and errors; a running job is cancelled and its result ignored."""
        self._client.abandon()
        self._running_id = ""
        self._backoff.succeeded()
        self._mapper.reset()
        self.facts = Facts()
        self._publish_map()


def backends_from_report(report_json: str) -> tuple[str, str, str]:
    """(pointmap, diffusion, splatting) backend of a report; empty where it does not say."""
    try:
        backends = json.loads(report_json)["backends"]
        return str(backends["pointmap"]), str(backends["diffusion"]), str(backends["splatting"])
    except (ValueError, KeyError, TypeError):
        return "", "", ""

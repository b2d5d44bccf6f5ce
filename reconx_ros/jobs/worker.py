"""The worker process: runs jobs and draws pictures for the server, and loads no ROS.

``python -m reconx_ros.jobs.worker FD`` speaks over an inherited socket. Requests are tuples: ("run", key, JobRequest,
ReconxConfig, out_dir, target), ("cancel", key), ("draw", key, camera, world_from_cam), ("prepare", key, ReconxConfig,
target), ("load_scene", key, path, ReconxConfig). Answers: ("ready", device), ("progress", key, stage, fraction,
message), ("preview", key, jpeg), ("done", key, JobOutcome), ("answer", key, value | failed JobOutcome), ("log", level,
sentence). The process ends when the other side closes the socket.

A target is a function ``(JobRequest, ReconxConfig, Job, out_dir: Path) -> JobOutput``, named "module:function"; empty
for the reconstruction itself, whose networks stay loaded as long as the process lives.
"""

from __future__ import annotations

import importlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from reconx_ros.core import (
    SE3,
    BackendUnavailableError,
    CancelledError,
    CancelToken,
    InsufficientParallaxError,
    InvalidInputError,
    Job,
    PinholeCamera,
    ReconxError,
    StorageError,
)
from reconx_ros.core.job import Picture
from reconx_ros.core.memory import is_out_of_memory
from reconx_ros.io.images import encode_jpeg
from reconx_ros.jobs.data import DrawnView, ErrorCode, JobOutcome
from reconx_ros.jobs.reconstruct import Draw, JobOutput, Reconstructions, loaded_scene, overall_fraction
from reconx_ros.pipeline.config import ReconxConfig

NO_SCENE = "there is no scene yet: no reconstruction has succeeded in this worker process"
_PROGRESS_PERIOD_S = 0.1
_PREVIEW_PERIOD_S = 1.0
_CODES = (
    (CancelledError, ErrorCode.CANCELLED),
    (InsufficientParallaxError, ErrorCode.INSUFFICIENT_PARALLAX),
    (BackendUnavailableError, ErrorCode.BACKEND_UNAVAILABLE),
    (StorageError, ErrorCode.NO_DISK),
    (InvalidInputError, ErrorCode.INVALID_GOAL),
)


def outcome_from_error(error: BaseException) -> JobOutcome:
    """The outcome of a job that raised: its code and one sentence."""
    if is_out_of_memory(error):
        return JobOutcome.failure(ErrorCode.OUT_OF_MEMORY, f"the memory was not enough: {_first_line(error)}")
    for kind, code in _CODES:
        if isinstance(error, kind):
            return JobOutcome.failure(code, str(error))
    if isinstance(error, ReconxError):
        return JobOutcome.failure(ErrorCode.RECONSTRUCTION_FAILED, str(error))
    sentence = f"{type(error).__name__}: {_first_line(error)}"
    return JobOutcome.failure(ErrorCode.RECONSTRUCTION_FAILED, f"the reconstruction failed unexpectedly, {sentence}")


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "no message")


def device_name() -> str:
    """What torch can compute on, for people."""
    import torch

    return f"cuda: {torch.cuda.get_device_name()}" if torch.cuda.is_available() else "cpu"


def resolve(target: str) -> Callable[..., JobOutput]:
    """The function that "module:function" names.

    Raises:
        InvalidInputError: when there is none.
    """
    module, _, name = target.partition(":")
    try:
        function: Callable[..., JobOutput] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise InvalidInputError(f"worker_target is '{target}', expected module:function ({error})") from None
    return function


class Worker:
    """Answers requests on a connection; one thread runs the job, so that cancelling and drawing stay possible."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._send_lock = threading.Lock()
        self._token = CancelToken()
        self._running = ""
        self._draw: Draw | None = None
        self._reconstructions = Reconstructions()
        self._told: tuple[str, str, float] = ("", "", 0.0)  # key, stage, when
        self._shown_s = 0.0

    def serve(self) -> None:
        """Answer until the other side is gone."""
        self.send("ready", device_name())
        while True:
            try:
                kind, *arguments = self._connection.recv()
            except (EOFError, OSError):
                return
            if kind == "run":
                self._start(*arguments)
            elif kind == "cancel" and arguments[0] == self._running:
                self._token.cancel()
            elif kind == "draw":
                self._answer(arguments[0], self._drawn, *arguments[1:])
            elif kind in ("prepare", "load_scene"):
                task = self._prepared if kind == "prepare" else self._loaded
                threading.Thread(target=self._answer, args=(arguments[0], task, *arguments[1:]), daemon=True).start()

    def send(self, *message: Any) -> None:
        """Send an answer; the other side may be gone already."""
        try:
            with self._send_lock:
                self._connection.send(message)
        except OSError:
            return

    def _start(self, key: str, *arguments: Any) -> None:
        self._token, self._running = CancelToken(), key
        threading.Thread(target=self._run, args=(key, self._token, *arguments), daemon=True).start()

    def _run(self, key: str, token: CancelToken, request: Any, config: Any, out_dir: str, target: str) -> None:
        job = Job(stage="job", token=token, on_progress=lambda *step: self._progress(key, *step))
        if request.preview:
            job = replace(job, on_preview=lambda picture: self._preview(key, picture))
        try:
            function = resolve(target) if target else self._reconstructions.run
            output = function(request, config, job, Path(out_dir))
            if output.draw is not None:
                self._draw = output.draw
            outcome = output.outcome
        except Exception as error:
            logging.getLogger(__name__).debug("job %s failed", key, exc_info=True)
            outcome = outcome_from_error(error)
        self.send("done", key, outcome)

    def _progress(self, key: str, stage: str, fraction: float, message: str) -> None:
        now_s = time.monotonic()
        told_key, told_stage, told_s = self._told
        if (key, stage) != (told_key, told_stage) or now_s - told_s >= _PROGRESS_PERIOD_S:
            self._told = (key, stage, now_s)
            self.send("progress", key, stage, overall_fraction(stage, fraction), message)

    def _preview(self, key: str, picture: Picture) -> None:
        now_s = time.monotonic()
        if now_s - self._shown_s >= _PREVIEW_PERIOD_S:
            self._shown_s = now_s
            self.send("preview", key, encode_jpeg(picture()))

    def _answer(self, key: str, task: Callable[..., Any], *arguments: Any) -> None:
        try:
            self.send("answer", key, task(*arguments))
        except Exception as error:
            logging.getLogger(__name__).debug("%s failed", key, exc_info=True)
            self.send("answer", key, outcome_from_error(error))

    def _prepared(self, config: ReconxConfig, target: str) -> str:
        """One sentence about what jobs of this configuration will use, all of which is loaded now."""
        if not target:
            return self._reconstructions.prepare(config)
        resolve(target)
        return f"jobs run {target}"

    def _loaded(self, path: str, config: ReconxConfig) -> int:
        count, self._draw = loaded_scene(Path(path), config)
        return count

    def _drawn(self, camera: PinholeCamera, pose: SE3) -> DrawnView:
        if self._draw is None:
            raise ReconxError(NO_SCENE)
        start_s = time.perf_counter()
        view = self._draw(camera, pose)
        depth = view.depth.copy()
        depth[~(depth > 0)] = float("nan")
        seconds = time.perf_counter() - start_s
        return DrawnView(rgb_u8=view.rgb_u8, depth=depth, provenance=view.provenance, seconds=seconds)


class ForwardLogs(logging.Handler):
    """Sends log records to the server, which has the node's logger."""

    def __init__(self, worker: Worker) -> None:
        super().__init__(logging.INFO)
        self._worker = worker

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record."""
        self._worker.send("log", record.levelno, f"{record.name}: {record.getMessage()}")


def main() -> None:
    """Serve the socket whose descriptor is the first argument."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the server closes the socket
    worker = Worker(Connection(int(sys.argv[1])))
    root = logging.getLogger()
    root.setLevel(logging.INFO)
    root.addHandler(ForwardLogs(worker))
    worker.serve()
    os._exit(0)  # a running job must not keep the process


if __name__ == "__main__":
    main()

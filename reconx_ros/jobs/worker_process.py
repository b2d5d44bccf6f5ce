"""The server's handle on its worker process: starts it, talks to it, notices its death, starts it again. No ROS."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from reconx_ros.core import SE3, PinholeCamera, ReconxError
from reconx_ros.jobs.data import DrawnView, ErrorCode, JobOutcome, JobRequest
from reconx_ros.pipeline.config import ReconxConfig

OnProgress = Callable[[str, float, str], None]
OnPreview = Callable[[bytes], None]
OnLog = Callable[[int, str], None]
_STOP_S = 2.0


class WorkerDiedError(ReconxError):
    """The worker process ended while something was asked of it."""


class WorkerRefusedError(ReconxError):
    """The worker could not do what it was asked for; ``code`` says why."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code


class WorkerProcess:
    """One worker process, started when needed; safe to use from several threads.

    Args:
        on_log: called with (logging level, sentence) for each log record of the worker.
        nice: niceness of the process.

    Attributes:
        device: what the process computes on; empty before it is ready.
    """

    def __init__(self, on_log: OnLog, nice: int = 0) -> None:
        self._on_log = on_log
        self._nice = nice
        self._lock = threading.RLock()
        self._keys = itertools.count(1)
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._pending: dict[str, Future[Any]] = {}
        self._progress: dict[str, OnProgress] = {}
        self._preview: dict[str, OnPreview] = {}
        self._stopped = False
        self.device = ""

    @property
    def pid(self) -> int | None:
        """Process id; None when none runs."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def start(self) -> None:
        """Start the process if none runs and ``stop`` was not called; returns at once."""
        with self._lock:
            if self._stopped:
                return
            if self.pid is not None and self._connection is not None:
                return
            self._fail(list(self._pending), "the worker process ended unexpectedly")
            ours, theirs = socket.socketpair()
            self._process = subprocess.Popen(
                [sys.executable, "-m", "reconx_ros.jobs.worker", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env={**os.environ, "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE")},
                stdin=subprocess.DEVNULL,
            )
            theirs.close()
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, self._process.pid, self._nice)
            self._connection = Connection(ours.detach())
            arguments = (self._process, self._connection)
            threading.Thread(target=self._read, args=arguments, name="worker_reader", daemon=True).start()

    def run(
        self,
        request: JobRequest,
        config: ReconxConfig,
        out_dir: str,
        target: str,
        on_progress: OnProgress,
        on_preview: OnPreview | None = None,
    ) -> tuple[str, Future[JobOutcome]]:
        """Start a job; returns its key, for ``cancel``, and its future outcome.

        The future raises WorkerDiedError when the process ends before the job. Previews are JPEG pictures, made where
        the request asks for them.
        """
        return self._ask("run", request, config, out_dir, target, on_progress=on_progress, on_preview=on_preview)

    def draw(self, camera: PinholeCamera, world_from_cam: SE3) -> Future[DrawnView]:
        """Draw the newest scene; the future raises WorkerRefusedError or WorkerDiedError."""
        return self._ask("draw", camera, world_from_cam)[1]

    def prepare(self, config: ReconxConfig, target: str) -> Future[str]:
        """Load what jobs will need; a sentence about it. The future raises as that of ``draw``."""
        return self._ask("prepare", config, target)[1]

    def load_scene(self, path: Path, config: ReconxConfig) -> Future[int]:
        """Draw a saved scene from now on; the number of its Gaussians. The future raises as that of ``draw``."""
        return self._ask("load_scene", str(path), config)[1]

    def cancel(self, key: str) -> None:
        """Ask a job to stop at its next step."""
        with contextlib.suppress(OSError), self._lock:
            if self._connection is not None:
                self._connection.send(("cancel", key))

    def kill(self) -> None:
        """End the process at once; pending futures raise WorkerDiedError."""
        process = self._process
        if process is not None:
            process.kill()

    def stop(self) -> None:
        """Close the connection and wait for the process to end, for good: what is asked from now on is refused."""
        with self._lock:
            self._stopped = True
            process, connection = self._process, self._connection
            self._connection = None
        if process is None or connection is None:
            return
        with contextlib.suppress(OSError):
            _hang_up(connection)
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(_STOP_S)

    def _ask(
        self,
        kind: str,
        *arguments: Any,
        on_progress: OnProgress | None = None,
        on_preview: OnPreview | None = None,
    ) -> tuple[str, Future[Any]]:
        future: Future[Any] = Future()
        key = f"{kind}-{next(self._keys)}"
        with self._lock:
            if self._stopped:
                future.set_exception(WorkerDiedError("the worker process was stopped"))
                return key, future
            self.start()
            self._pending[key] = future
            if on_progress is not None:
                self._progress[key] = on_progress
            if on_preview is not None:
                self._preview[key] = on_preview
            try:
                assert self._connection is not None
                self._connection.send((kind, key, *arguments))
            except OSError:
                self._fail([key], "the worker process ended before it took the request")
        return key, future

    def _read(self, process: subprocess.Popen[bytes], connection: Connection) -> None:
        while True:
            try:
                message = connection.recv()
            except (EOFError, OSError):
                break
            self._take(*message)
        self._ended(process, connection)

    def _take(self, kind: str, *arguments: Any) -> None:
        if kind == "ready":
            self.device = str(arguments[0])
        elif kind in ("progress", "preview"):
            key, *told = arguments
            listeners: Mapping[str, Callable[..., None]] = self._progress if kind == "progress" else self._preview
            if (listener := listeners.get(key)) is not None:  # what comes after the end of a job is nobody's
                listener(*told)
        elif kind in ("done", "answer"):
            self._finish(arguments[0], arguments[1], refused=kind == "answer" and isinstance(arguments[1], JobOutcome))
        elif kind == "log":
            self._on_log(*arguments)

    def _finish(self, key: str, value: Any, *, refused: bool) -> None:
        with self._lock:
            future = self._pending.pop(key, None)
            self._progress.pop(key, None)
            self._preview.pop(key, None)
        if future is None:
            return
        if refused:
            future.set_exception(WorkerRefusedError(value.error_code, value.error_msg))
        else:
            future.set_result(value)

    def _ended(self, process: subprocess.Popen[bytes], connection: Connection) -> None:
        code = process.wait()
        with self._lock:
            if self._connection is connection:
                self._connection = None
            keys = list(self._pending) if self._process is process else []
            self._fail(keys, f"the worker process ended unexpectedly ({exit_words(code)})")
            connection.close()

    def _fail(self, keys: list[str], sentence: str) -> None:
        for key in keys:
            self._progress.pop(key, None)
            self._preview.pop(key, None)
            future = self._pending.pop(key, None)
            if future is not None:
                future.set_exception(WorkerDiedError(sentence))


def _hang_up(connection: Connection) -> None:
    """Make the reader of both sides see the end."""
    with socket.socket(fileno=os.dup(connection.fileno())) as copy:
        copy.shutdown(socket.SHUT_RDWR)


def exit_words(code: int) -> str:
    """An exit status in words."""
    if code < 0:
        name = signal.Signals(-code).name if -code in list(signal.Signals) else f"signal {-code}"
        hint = ", perhaps because the memory was not enough" if -code == signal.SIGKILL else ""
        return f"{name}{hint}"
    return f"exit status {code}"

"""The parts of ros/ that need no ROS: mailbox, job queue, map files, job data, worker process."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from reconx_ros.core import (
    SE3,
    BackendUnavailableError,
    CancelledError,
    ConfigError,
    Frame,
    InsufficientParallaxError,
    InvalidInputError,
    Keyframe,
    PinholeCamera,
    PointCloud,
    ReconstructionError,
    StorageError,
)
from reconx_ros.io.ingest.drops import DropCounter
from reconx_ros.jobs import map_files
from reconx_ros.jobs.data import EncodedKeyframe, EncodedView, ErrorCode, JobRequest
from reconx_ros.jobs.folders import KeptResults, job_folder, output_folder
from reconx_ros.jobs.job_queue import JobQueue, Turn
from reconx_ros.jobs.reconstruct import job_config, overall_fraction
from reconx_ros.jobs.worker import outcome_from_error
from reconx_ros.jobs.worker_process import WorkerDiedError, WorkerProcess, WorkerRefusedError, exit_words
from reconx_ros.pipeline.config import ReconxConfig
from reconx_ros.ros.robot.mailbox import Durations, InputCounters, Mailbox, RateMeter
from reconx_ros.ros.robot.mapping_thread import MappingThread

TIMEOUT_S = 60.0
CAMERA = PinholeCamera(width=32, height=24, fx=30, fy=30, cx=15.5, cy=11.5)


# Mailbox --------------------------------------------------------------------------------------------------------


def test_the_newest_messages_win_and_drops_are_counted() -> None:
    counter, woken = DropCounter(), []
    box = Mailbox[int](2, counter.add, lambda: woken.append(1))
    for i in range(5):
        box.put(i)
    assert box.take_all() == [3, 4] and counter.snapshot() == {"busy": 3} and len(woken) == 5
    box.put(9)
    box.clear("paused")
    assert not len(box) and counter.snapshot() == {"busy": 3, "paused": 1}
    counter.clear()
    assert counter.snapshot() == {}


def test_mailbox_loses_nothing_unseen_under_threads() -> None:
    counter, taken = DropCounter(), []
    box = Mailbox[int](7, counter.add)
    threads = [threading.Thread(target=lambda: [box.put(i) for i in range(500)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        taken += box.take_all()
    taken += box.take_all()
    assert len(taken) + counter.snapshot().get("busy", 0) == 2000


def test_durations_and_rates() -> None:
    durations = Durations(window=100)
    assert math.isnan(durations.percentiles_ms(0.5)[0])
    for i in range(200):
        durations.add(i / 1000)
    assert durations.percentiles_ms(0.0, 0.5, 0.99) == (100.0, 150.0, 199.0)
    meter = RateMeter()
    assert meter.age_s(3.0) is None and meter.rate_hz() == 0.0
    for i in range(5):
        meter.tick(0.1 * i)
    assert meter.rate_hz() == pytest.approx(10.0) and meter.age_s(1.4) == pytest.approx(1.0) and meter.count == 5
    counters = InputCounters()
    counters.frames_in = 3
    counters.clear()
    assert counters.frames_in == 0


# Mapping thread -------------------------------------------------------------------------------------------------


def test_tasks_run_on_one_thread_and_survive_errors() -> None:
    errors: list[Exception] = []
    stepped = threading.Event()

    def step() -> float:
        stepped.set()
        raise ValueError("step")

    thread = MappingThread(step, errors.append)
    thread.start()
    names = {thread.submit(lambda: threading.current_thread().name).result(TIMEOUT_S) for _ in range(5)}
    assert names == {"mapping"}
    with pytest.raises(ZeroDivisionError):
        thread.submit(lambda: 1 / 0).result(TIMEOUT_S)
    assert stepped.wait(TIMEOUT_S) and str(errors[0]) == "step"
    thread.stop()
    assert thread.submit(lambda: 1).cancelled()


def test_a_resting_thread_takes_no_step_whatever_comes_and_runs_tasks() -> None:
    steps: list[float] = []
    stepped = threading.Event()

    def step() -> float:
        steps.append(time.monotonic())
        if len(steps) == 1:
            thread.rest(0.3)
        if len(steps) == 2:
            stepped.set()
        return 10.0

    thread = MappingThread(step, lambda error: None)
    thread.start()
    thread.wake()
    thread.wake()
    assert stepped.wait(TIMEOUT_S), "what came while it rested is looked at afterwards"
    assert steps[1] - steps[0] >= 0.3
    assert thread.submit(lambda: 7).result(TIMEOUT_S) == 7
    thread.stop()


def test_a_mailbox_says_once_that_it_was_too_small() -> None:
    box = Mailbox[int](2, lambda reason, count: None)
    for i in range(2):
        box.put(i)
    assert not box.overflowed()
    box.put(2)
    assert box.overflowed() and not box.overflowed()


# Queue ----------------------------------------------------------------------------------------------------------


def test_one_job_runs_and_the_newest_waits() -> None:
    queue = JobQueue()
    first, second, third = queue.enter(), queue.enter(), queue.enter()
    assert queue.wait(first, lambda: False, lambda: None, 0.01) is Turn.RUN
    assert queue.wait(second, lambda: False, lambda: None, 0.01) is Turn.SUPERSEDED
    waits = []
    assert queue.wait(third, lambda: len(waits) == 3, lambda: waits.append(1), 0.001) is Turn.CANCELLED
    queue.leave(third)
    fourth = queue.enter()
    queue.leave(second)
    queue.leave(first)
    assert queue.wait(fourth, lambda: False, lambda: None, 0.01) is Turn.RUN
    assert queue.busy
    queue.leave(fourth)
    assert not queue.busy


# Jobs -----------------------------------------------------------------------------------------------------------


def keyframe(number: int = 0) -> Keyframe:
    rgb = np.full((24, 32, 3), 40 * number % 255, np.uint8)
    depth = np.full((24, 32), 1.2345, np.float32)
    depth[0, :3] = [np.nan, 0.0, 80.0]
    pose = SE3.exp(np.array([0.1, 0.2, 0.3]), np.array([float(number), 2.0, 3.0]))
    frame = Frame(rgb_u8=rgb, camera=CAMERA, stamp_ns=5, world_from_cam=pose, depth_m=depth, camera_name="left")
    return Keyframe(id=number, frame=frame, sharpness=2.0)


def request(target_preset: str = "", count: int = 2) -> JobRequest:
    keyframes = tuple(EncodedKeyframe.of(keyframe(i), 95) for i in range(count))
    return JobRequest(job_id="job", frame_id="map", stamp_ns=5, keyframes=keyframes, preset=target_preset)


def test_keyframes_survive_encoding() -> None:
    back = EncodedKeyframe.of(keyframe(3), 95).decoded()
    assert back.id == 3 and back.frame.stamp_ns == 5 and back.frame.camera_name == "left"
    assert back.frame.depth_m is not None
    np.testing.assert_allclose(back.frame.depth_m[1:], 1.2345, atol=6e-4)
    assert back.frame.depth_m[0, :3].tolist() == [0, 0, 0]
    np.testing.assert_allclose(back.frame.rgb_u8.astype(int), 120, atol=2)


def test_a_picture_of_another_size_than_its_camera_is_refused() -> None:
    encoded = EncodedKeyframe.of(keyframe(), 95)
    other = PinholeCamera(width=64, height=24, fx=30, fy=30, cx=15.5, cy=11.5)
    view = EncodedView(camera=other, pose=encoded.view.pose, image=encoded.view.image)
    wrong = EncodedKeyframe(id=0, stamp_ns=0, camera_name="", view=view)
    with pytest.raises(InvalidInputError, match="image of keyframe 0 is 32x24, expected 64x24 as announced"):
        wrong.decoded()


def test_job_options_change_the_servers_configuration() -> None:
    base = ReconxConfig()
    config = job_config(base, "gpu", "splatting: {steps: 7}")
    assert config.device == "cuda" and config.splatting.steps == 7 and base.splatting.steps != 7
    assert job_config(base, "", "") == base
    for preset, options, sentence in (
        ("fast", "", "unknown preset 'fast'"),
        ("", "splatting: {stps: 7}", "nearest known one is splatting.steps"),
        ("", "[1, 2]", "options_yaml holds a list, expected a mapping"),
        ("", "a: [", "options_yaml is no YAML"),
        ("", "!!python/object/apply:os.system [true]", "options_yaml is no YAML"),
    ):
        with pytest.raises((ConfigError, InvalidInputError), match=sentence):
            job_config(base, preset, options)


def test_progress_of_stages_is_one_rising_number() -> None:
    stages = ("pointmap", "diffusion", "splatting", "render")
    fractions = [overall_fraction(stage, f) for stage in stages for f in (0.0, 0.5, 1.0)]
    assert fractions == sorted(fractions) and fractions[0] == 0.0 and fractions[-1] == 1.0


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (CancelledError("x"), ErrorCode.CANCELLED),
        (InsufficientParallaxError("x"), ErrorCode.INSUFFICIENT_PARALLAX),
        (BackendUnavailableError("x"), ErrorCode.BACKEND_UNAVAILABLE),
        (StorageError("x"), ErrorCode.NO_DISK),
        (ConfigError("x"), ErrorCode.INVALID_GOAL),
        (ReconstructionError("x"), ErrorCode.RECONSTRUCTION_FAILED),
        (MemoryError(), ErrorCode.OUT_OF_MEMORY),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), ErrorCode.OUT_OF_MEMORY),
        (ValueError("two\nlines"), ErrorCode.RECONSTRUCTION_FAILED),
    ],
)
def test_every_error_has_a_code_and_one_sentence(error: Exception, code: ErrorCode) -> None:
    outcome = outcome_from_error(error)
    assert outcome.error_code == code and outcome.error_msg and "\n" not in outcome.error_msg


# Worker process -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def worker() -> Iterator[WorkerProcess]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))
        made = WorkerProcess(lambda level, text: logging.getLogger("worker").log(level, text), nice=1)
        yield made
        made.stop()


def run(worker: WorkerProcess, preset: str, out_dir: Path) -> tuple[str, object, list[tuple[str, float, str]]]:
    steps: list[tuple[str, float, str]] = []
    key, future = worker.run(
        request(preset), ReconxConfig(), str(out_dir), "ros_stub_jobs:by_preset", lambda *step: steps.append(step)
    )
    return key, future, steps


def test_worker_runs_draws_cancels_and_is_started_again(worker: WorkerProcess, tmp_path: Path) -> None:
    with pytest.raises(WorkerRefusedError, match="there is no scene yet"):
        worker.draw(CAMERA, SE3.identity()).result(TIMEOUT_S)
    outcome = run(worker, "", tmp_path)[1].result(TIMEOUT_S)  # type: ignore[attr-defined]
    assert outcome.succeeded and len(outcome.cloud) == 400
    drawn = worker.draw(CAMERA, SE3.identity()).result(TIMEOUT_S)
    assert drawn.rgb_u8.shape == (24, 32, 3) and drawn.seconds >= 0

    key, future, _ = run(worker, "endless", tmp_path)
    assert worker.draw(CAMERA, SE3.identity()).result(TIMEOUT_S).depth[0, 0] == 1.5  # also while a job runs
    worker.cancel(key)
    assert future.result(TIMEOUT_S).error_code == ErrorCode.CANCELLED  # type: ignore[attr-defined]

    _, future, _ = run(worker, "deaf", tmp_path)
    pid = worker.pid
    assert pid is not None and os.getpriority(os.PRIO_PROCESS, pid) >= 1
    worker.kill()
    with pytest.raises(WorkerDiedError, match="SIGKILL"):
        future.result(TIMEOUT_S)  # type: ignore[attr-defined]
    assert run(worker, "", tmp_path)[1].result(TIMEOUT_S).succeeded  # type: ignore[attr-defined]
    assert worker.pid not in (None, pid)


def test_a_stopped_worker_is_not_started_again_by_a_job_that_comes_late(tmp_path: Path) -> None:
    worker = WorkerProcess(lambda level, text: None)
    assert worker.prepare(ReconxConfig(), "").result(TIMEOUT_S) and worker.pid is not None
    worker.stop()
    _, future, _ = run(worker, "endless", tmp_path)
    with pytest.raises(WorkerDiedError, match="was stopped"):
        future.result(TIMEOUT_S)  # type: ignore[attr-defined]
    worker.start()
    assert worker.pid is None


def test_a_target_that_is_not_there_is_named(worker: WorkerProcess, tmp_path: Path) -> None:
    _, future = worker.run(request(), ReconxConfig(), str(tmp_path), "nowhere:nothing", lambda *step: None)
    outcome = future.result(TIMEOUT_S)
    assert outcome.error_code == ErrorCode.INVALID_GOAL
    assert outcome.error_msg.startswith("worker_target is 'nowhere:nothing', expected module:function")


def test_nodes_import_no_torch() -> None:
    code = (
        "import sys, reconx_ros.ros.robot.node, reconx_ros.ros.server.node;"
        "sys.exit(any(m.split('.')[0] in ('torch', 'scipy', 'diffusers', 'transformers') for m in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_worker_modules_import_no_ros() -> None:
    code = (
        "import sys, reconx_ros.jobs.worker, reconx_ros.jobs.worker_process, reconx_ros.jobs.map_files;"
        "sys.exit(any(m.split('.')[0] in ('rclpy', 'sensor_msgs', 'std_msgs') for m in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_exit_status_in_words() -> None:
    assert exit_words(3) == "exit status 3"
    assert exit_words(-9) == "SIGKILL, perhaps because the memory was not enough"
    assert exit_words(-11) == "SIGSEGV"


# Map files ------------------------------------------------------------------------------------------------------


def saved_map(count: int = 50) -> map_files.SavedMap:
    rng = np.random.default_rng(count)
    cloud = PointCloud(
        points=rng.normal(size=(count, 3)).astype(np.float32),
        rgb_u8=rng.integers(0, 255, (count, 3), np.uint8),
        confidence=rng.random(count, np.float32),
        provenance=rng.integers(1, 3, count).astype(np.uint8),
        keyframe_ids=rng.integers(0, 9, count).astype(np.uint32),
    )
    poses = {i: SE3.exp(rng.normal(size=3), rng.normal(size=3)) for i in range(9)}
    return map_files.SavedMap(cloud=cloud, poses=poses, frame_id="map", stamp_ns=2**60, metric_scale=True)


def test_maps_round_trip_exactly(tmp_path: Path) -> None:
    original = saved_map()
    size = map_files.save(tmp_path / "a" / "b", original, overwrite=False)
    assert size == sum(f.stat().st_size for f in (tmp_path / "a" / "b").iterdir())
    back = map_files.load(tmp_path / "a" / "b")
    for name in original.cloud.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(back.cloud, name), getattr(original.cloud, name))
    assert (back.frame_id, back.stamp_ns, back.metric_scale) == ("map", 2**60, True)
    for i, pose in original.poses.items():
        np.testing.assert_allclose(back.poses[i].matrix, pose.matrix, atol=1e-12)


def test_an_older_map_is_replaced_only_when_asked_and_only_a_map(tmp_path: Path) -> None:
    folder = tmp_path / "map"
    map_files.save(folder, saved_map(5), overwrite=False)
    with pytest.raises(FileExistsError, match="overwrite is false"):
        map_files.save(folder, saved_map(6), overwrite=False)
    map_files.save(folder, saved_map(6), overwrite=True)
    assert len(map_files.load(folder).cloud) == 6
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("all my work")
    with pytest.raises(InvalidInputError, match=r"holds other files but no map\.json"):
        map_files.save(tmp_path / "home", saved_map(), overwrite=True)
    with pytest.raises(InvalidInputError, match="is a file"):
        map_files.save(tmp_path / "home" / "thesis.txt", saved_map(), overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["home", "map"]  # nothing is left behind


def test_a_map_that_cannot_be_written_leaves_the_older_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "map"
    map_files.save(folder, saved_map(5), overwrite=False)

    def full(path: Path, cloud: PointCloud) -> None:
        raise StorageError(f"file {path} cannot be written: No space left on device")

    monkeypatch.setattr(map_files, "write_point_cloud_ply", full)
    with pytest.raises(StorageError, match="No space left"):
        map_files.save(folder, saved_map(6), overwrite=True)
    assert len(map_files.load(folder).cloud) == 5 and [p.name for p in tmp_path.iterdir()] == ["map"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"version": 1}, "has format reconx_map version 1, expected reconx_map 2"),
        ({"format": "other"}, "has format other version 2"),
        ({"keyframes": []}, "is damaged: its content is not what was saved"),
        ({"sha256": "0"}, "is damaged: its content is not what was saved"),
    ],
)
def test_maps_of_another_kind_are_refused(tmp_path: Path, change: dict[str, object], sentence: str) -> None:
    map_files.save(tmp_path / "map", saved_map(), overwrite=False)
    file = tmp_path / "map" / map_files.MAP_FILE
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(InvalidInputError, match=sentence):
        map_files.load(tmp_path / "map")
    file.write_text("{")
    with pytest.raises(InvalidInputError, match="cannot be read"):
        map_files.load(tmp_path / "map")


def test_a_scene_on_this_computer_is_copied_along(tmp_path: Path) -> None:
    (tmp_path / "scene.ply").write_text("gaussians")
    original = saved_map()
    with_scene = dataclasses.replace(original, scene_file=tmp_path / "scene.ply")
    elsewhere = dataclasses.replace(original, scene_file=tmp_path / "on another computer.ply")
    map_files.save(tmp_path / "a", with_scene, overwrite=False)
    map_files.save(tmp_path / "b", elsewhere, overwrite=False)
    assert (tmp_path / "a" / "scene.ply").read_text() == "gaussians"
    assert not (tmp_path / "b" / "scene.ply").exists()


def test_only_the_newest_results_of_this_process_are_kept(tmp_path: Path) -> None:
    (tmp_path / "job-older").mkdir()
    kept = KeptResults()
    for i in range(4):
        folder = job_folder(str(tmp_path), f"job/../{i}")
        folder.mkdir()
        assert folder.parent == tmp_path
        kept.add(folder, keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["job-older", "job_.._2", "job_.._3"]
    assert job_folder("", "...").name == "job" and output_folder("~").is_absolute()


def test_paths_of_requests(tmp_path: Path) -> None:
    assert map_files.resolved("a/b", tmp_path) == tmp_path / "a" / "b"
    assert map_files.resolved("/x", tmp_path) == Path("/x")
    for path in ("", "  ", "../x", "a/../../x"):
        with pytest.raises(InvalidInputError, match="path is"):
            map_files.resolved(path, tmp_path)

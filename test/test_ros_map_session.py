"""The robot's session without a node: pictures are encoded once, when they are kept."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest

pytest.importorskip("reconx_ros.msg")

from reconx_ros.core import SE3, Frame, PinholeCamera
from reconx_ros.core.settings import updated
from reconx_ros.io.images import decode_image, encode_jpeg
from reconx_ros.jobs import data as jobs_data
from reconx_ros.jobs.data import ErrorCode, JobOutcome, JobRequest
from reconx_ros.pipeline.config import ReconxConfig
from reconx_ros.ros.robot.map_session import MapSession

CAMERA = PinholeCamera(width=48, height=36, fx=40, fy=40, cx=23.5, cy=17.5)
CONFIG = updated(ReconxConfig(), {"keyframes.max_buffer": 4, "coverage.trigger_below": 0.0, "ros.jpeg_quality": 95})


class FakeOutputs:
    """Notes the pictures of ``~/keyframe``."""

    def __init__(self) -> None:
        self.pictures: list[bytes] = []

    def keyframe(self, keyframe: Any, jpeg: bytes, frame_id: str, optical_frame: str) -> None:
        """What a subscriber would get."""
        self.pictures.append(jpeg)

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: None


class FakeClient:
    """A server that is there and takes every job."""

    absence, name = "", "robot"

    def __init__(self) -> None:
        self.requests: list[JobRequest] = []

    def start(self, request: JobRequest) -> int:
        """Note it."""
        self.requests.append(request)
        return 0

    def abandon(self) -> None:
        """Nothing runs."""


class FakeLog:
    """Says nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda message: None


class Bench:
    """A session, and how often a picture or a depth image was encoded."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.outputs, self.client = FakeOutputs(), FakeClient()
        self.session = MapSession(CONFIG, self.outputs, self.client, FakeLog())
        self.encoded: list[str] = []
        for name in ("encode_jpeg", "encode_depth_png"):
            monkeypatch.setattr(jobs_data, name, self._counted(name, getattr(jobs_data, name)))

    def _counted(self, name: str, real: Any) -> Any:
        def counted(*arguments: Any) -> Any:
            self.encoded.append(name)
            return real(*arguments)

        return counted

    def see(self, number: int) -> None:
        """A frame a step to the side of the one before, another picture of stripes."""
        rng = np.random.default_rng(number)
        frame = Frame(
            rgb_u8=rng.integers(0, 255, (36, 48, 3), np.uint8),
            camera=CAMERA,
            stamp_ns=(number + 1) * 1_000_000_000,
            world_from_cam=SE3.exp(np.zeros(3), np.array([1.0 * number, 0, 0])),
            depth_m=np.full((36, 48), 2.0, np.float32),
        )
        self.session.add_frame(frame, "cam")

    def run_job(self) -> JobRequest:
        """Start a job and let it fail in a way that nothing is tried again."""
        started, why = self.session.start_job("asked")
        assert started, why
        request = self.client.requests[-1]
        self.session.take_outcome(request, JobOutcome.failure(ErrorCode.RECONSTRUCTION_FAILED, "a test"))
        return request


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(monkeypatch)


def test_every_keyframe_is_encoded_once_for_the_topic_and_all_jobs(bench: Bench) -> None:
    for number in range(3):
        bench.see(number)
    assert sorted(bench.encoded) == ["encode_depth_png"] * 3 + ["encode_jpeg"] * 3
    first, second = bench.run_job(), bench.run_job()
    bench.see(3)
    third = bench.run_job()
    assert bench.encoded.count("encode_jpeg") == 4 and bench.encoded.count("encode_depth_png") == 4
    for request in (first, second, third):
        sent = {k.id: k for k in request.keyframes}
        assert all(sent[i].view.image is bench.outputs.pictures[i] for i in sent)
        assert all(k.view.depth == sent[0].view.depth for k in request.keyframes)
    assert [len(r.keyframes) for r in (first, second, third)] == [3, 3, 4]


def test_what_is_sent_is_the_picture_that_was_kept(bench: Bench) -> None:
    bench.see(0)
    bench.see(1)
    (zero, one) = bench.run_job().keyframes
    for number, keyframe in enumerate((zero, one)):
        picture = np.random.default_rng(number).integers(0, 255, (36, 48, 3), np.uint8)
        assert keyframe.view.image == encode_jpeg(picture, 95)
        assert decode_image(keyframe.view.image).shape == picture.shape


def test_another_quality_is_for_keyframes_kept_from_then_on(bench: Bench) -> None:
    bench.see(0)
    bench.session.configure(updated(CONFIG, {"ros.jpeg_quality": 20}))
    bench.see(1)
    fine, coarse = bench.run_job().keyframes
    assert fine.view.image == bench.outputs.pictures[0] and len(coarse.view.image) < 0.6 * len(fine.view.image)


def test_pictures_go_with_their_keyframes(bench: Bench) -> None:
    """The buffer bounds what is held; a reset frees it all."""
    for number in range(9):
        bench.see(number)
    gc.collect()
    assert bench.encoded.count("encode_jpeg") == 9
    assert len(bench.session._encoded) == CONFIG.keyframes.max_buffer == len(bench.run_job().keyframes)
    bench.session.time_jumped("the clock went back", 0)
    gc.collect()
    assert len(bench.session._encoded) == 0
    bench.see(20)
    bench.session.reset()
    gc.collect()
    assert len(bench.session._encoded) == 0

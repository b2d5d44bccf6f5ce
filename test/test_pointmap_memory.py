"""Memory of stage 1 is estimated before it starts, and bounded where a limit is set."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pointmap_scenes import pinhole, room_scene

from reconx_ros.core import Frame, InvalidInputError, Job, Keyframe
from reconx_ros.pipeline.config import ReconxConfig
from reconx_ros.pipeline.reconstructor import Reconstructor
from reconx_ros.pointmap.backends.multiview import MultiviewBackend
from reconx_ros.pointmap.config import PointmapConfig
from reconx_ros.pointmap.memory import GIGABYTE, plan_memory, stage_bytes

CONFIG = PointmapConfig(kernels="torch")


def keyframes(count: int, width: int = 640, height: int = 480) -> list[Keyframe]:
    frame = Frame(rgb_u8=np.zeros((height, width, 3), np.uint8), camera=pinhole(width, height))
    return [Keyframe(id=i, frame=frame, sharpness=1.0) for i in range(count)]


def test_forty_images_fit_into_two_gigabytes_by_default() -> None:
    plan = plan_memory("multiview", keyframes(40), replace(CONFIG, max_memory_gb=2.0))
    assert plan.config.max_size == CONFIG.max_size and not plan.warnings
    assert plan.estimated_bytes is not None and plan.estimated_bytes < 1e9


def test_images_shrink_as_little_as_needed_and_the_report_is_told() -> None:
    config = replace(CONFIG, max_size=640, planes=192, max_memory_gb=2.0)
    plan = plan_memory("multiview", keyframes(40), config)
    assert 300 < plan.config.max_size < 640
    assert plan.estimated_bytes is not None and plan.estimated_bytes <= 2e9
    more = stage_bytes("multiview", keyframes(40), replace(config, max_size=plan.config.max_size + 1))
    assert more is not None and more > 2e9
    assert (
        "40 keyframes at 640 px need about" in plan.warnings[0] and f"at {plan.config.max_size} px" in plan.warnings[0]
    )
    assert replace(plan.config, max_size=640) == config


def test_what_cannot_fit_is_refused_with_figures() -> None:
    with pytest.raises(InvalidInputError, match=r"40 keyframes need about 0\.\d+ GB at 64 px, expected at most"):
        plan_memory("multiview", keyframes(40), replace(CONFIG, max_memory_gb=0.05))


@given(
    limit=st.floats(0.15, 8),
    count=st.integers(2, 60),
    planes=st.integers(8, 256),
    size=st.integers(64, 1024),
    width=st.integers(80, 1600),
)
def test_a_plan_keeps_its_limit(limit: float, count: int, planes: int, size: int, width: int) -> None:
    config = replace(CONFIG, max_memory_gb=limit, planes=planes, max_size=size)
    frame = keyframes(1, 80, 60)[0].frame
    wide = replace(frame.camera.scaled_to(width, 60), height=60)
    views = [Keyframe(id=0, frame=Frame(rgb_u8=np.zeros((60, width, 3), np.uint8), camera=wide), sharpness=1.0)] * count
    plan = plan_memory("multiview", views, config)
    assert plan.estimated_bytes is not None and plan.estimated_bytes <= limit * GIGABYTE
    assert plan.config.max_size <= size and bool(plan.warnings) == (plan.config.max_size < size)


def test_the_estimate_rises_with_all_that_costs() -> None:
    def estimate(count: int = 10, backend: str = "multiview", **changes: object) -> float:
        value = stage_bytes(backend, keyframes(count), replace(CONFIG, **changes))
        assert value is not None
        return value

    base = estimate()
    assert estimate(count=20) > base and estimate(max_size=400) > base and estimate(planes=200) > base
    assert estimate(max_size=640) == estimate(max_size=2000)
    assert estimate(kernels="auto") <= base
    assert estimate(backend="depth_sensor") < base < estimate(backend="depth_sensor", fill_depth=True)


def test_a_backend_without_an_estimate_says_that_the_limit_has_no_effect() -> None:
    assert plan_memory("foreign", keyframes(3), CONFIG).warnings == ()
    plan = plan_memory("foreign", keyframes(3), replace(CONFIG, max_memory_gb=1.0))
    assert plan.estimated_bytes is None and "backend foreign has no estimate" in plan.warnings[0]


@pytest.mark.parametrize("kernels", ["torch", "auto"])
def test_stage_one_stays_below_its_estimate(kernels: str) -> None:
    from reconx_ros.pipeline.stages import StageRecorder

    scene = room_scene(3, pinhole(120, 90))
    config = replace(CONFIG, max_size=120, planes=64, kernels=kernels)
    cpu = torch.device("cpu")
    stages = StageRecorder(cpu)
    with stages.measure("before"):
        pass
    with stages.measure("pointmap"):
        MultiviewBackend().reconstruct(scene.keyframes, config, device=cpu, job=Job())
    added = (stages.records[1].peak_mb - stages.records[0].peak_mb) * 2**20
    estimate = stage_bytes("multiview", scene.keyframes, config)
    assert estimate is not None and added < estimate


def test_a_run_shrinks_its_images_and_warns() -> None:
    scene = room_scene(2, pinhole(96, 72))
    depths = [d.astype(np.float32) for d in scene.depths]
    sensed = [replace(k, frame=replace(k.frame, depth_m=d)) for k, d in zip(scene.keyframes, depths, strict=True)]
    pointmap = PointmapConfig(max_size=160, max_memory_gb=0.001)
    views = Reconstructor(ReconxConfig(device="cpu", pointmap=pointmap)).align(sensed)
    assert 64 <= views.views[0].camera.width < 96
    assert "more than max_memory_gb = 0.001" in views.warnings[0]

"""Memory of stage 1 is estimated before it starts, and bounded where a limit is set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pointmap_scenes import pinhole, room_scene

from reconx_ros.core import AlignedViews, Frame, InvalidInputError, Job, Keyframe
from reconx_ros.core.memory import GIGABYTE
from reconx_ros.core.settings import updated
from reconx_ros.pipeline.config import ReconxConfig
from reconx_ros.pipeline.reconstructor import Reconstructor
from reconx_ros.pointmap.backends.depth_sensor import DepthSensorBackend
from reconx_ros.pointmap.backends.multiview import MultiviewBackend
from reconx_ros.pointmap.backends.structure_from_motion import StructureFromMotionBackend
from reconx_ros.pointmap.base import PointmapBackend
from reconx_ros.pointmap.config import PointmapConfig
from reconx_ros.pointmap.memory import MemoryPlan, plan_memory
from reconx_ros.pointmap.registry import registry
from reconx_ros.pointmap.stereo.settings import MultiviewSettings

CPU = torch.device("cpu")
CONFIG = PointmapConfig().with_own(MultiviewSettings(kernels="torch"))


def planned(views: list[Keyframe], config: PointmapConfig, backend: PointmapBackend | None = None) -> MemoryPlan:
    return plan_memory(backend or MultiviewBackend(), views, config, device=CPU)


def estimated(views: list[Keyframe], config: PointmapConfig) -> float:
    value = MultiviewBackend().estimate_bytes(views, config, device=CPU)
    assert value is not None
    return value


def keyframes(count: int, width: int = 640, height: int = 480) -> list[Keyframe]:
    frame = Frame(rgb_u8=np.zeros((height, width, 3), np.uint8), camera=pinhole(width, height))
    return [Keyframe(id=i, frame=frame, sharpness=1.0) for i in range(count)]


def test_forty_images_fit_into_two_gigabytes_by_default() -> None:
    plan = planned(keyframes(40), replace(CONFIG, max_memory_gb=2.0))
    assert plan.config.max_size == CONFIG.max_size and not plan.warnings
    assert plan.estimated_bytes is not None and plan.estimated_bytes < 1e9


def test_where_cameras_are_found_first_the_depth_after_them_is_what_takes_memory() -> None:
    plan = planned(keyframes(40), replace(CONFIG, max_memory_gb=2.0), StructureFromMotionBackend())
    assert plan.estimated_bytes == estimated(keyframes(40), CONFIG)


def test_images_shrink_as_little_as_needed_and_the_report_is_told() -> None:
    config = updated(CONFIG, {"max_size": 640, "multiview.planes": 192, "max_memory_gb": 2.0})
    plan = planned(keyframes(40), config)
    assert 300 < plan.config.max_size < 640
    assert plan.estimated_bytes is not None and plan.estimated_bytes <= 2e9
    assert estimated(keyframes(40), replace(config, max_size=plan.config.max_size + 1)) > 2e9
    assert (
        "40 keyframes at 640 px need about" in plan.warnings[0] and f"at {plan.config.max_size} px" in plan.warnings[0]
    )
    assert replace(plan.config, max_size=640) == config


def test_what_cannot_fit_is_refused_with_figures() -> None:
    with pytest.raises(InvalidInputError, match=r"40 keyframes need about 0\.\d+ GB at 64 px, expected at most"):
        planned(keyframes(40), replace(CONFIG, max_memory_gb=0.05))


@given(
    limit=st.floats(0.15, 8),
    count=st.integers(2, 60),
    planes=st.integers(8, 256),
    size=st.integers(64, 1024),
    width=st.integers(80, 1600),
)
def test_a_plan_keeps_its_limit(limit: float, count: int, planes: int, size: int, width: int) -> None:
    config = updated(CONFIG, {"max_memory_gb": limit, "multiview.planes": planes, "max_size": size})
    frame = keyframes(1, 80, 60)[0].frame
    wide = replace(frame.camera.scaled_to(width, 60), height=60)
    views = [Keyframe(id=0, frame=Frame(rgb_u8=np.zeros((60, width, 3), np.uint8), camera=wide), sharpness=1.0)] * count
    plan = planned(views, config)
    assert plan.estimated_bytes is not None and plan.estimated_bytes <= limit * GIGABYTE
    assert plan.config.max_size <= size and bool(plan.warnings) == (plan.config.max_size < size)


def test_the_estimate_rises_with_all_that_costs() -> None:
    def estimate(count: int = 10, **changes: object) -> float:
        return estimated(keyframes(count), updated(CONFIG, {k.replace("__", "."): v for k, v in changes.items()}))

    base = estimate()
    assert estimate(count=20) > base and estimate(max_size=400) > base and estimate(multiview__planes=200) > base
    assert estimate(max_size=640) == estimate(max_size=2000)
    assert estimate(multiview__kernels="auto") <= base
    filling = updated(CONFIG, {"depth_sensor.fill_depth": True})
    read, filled = (DepthSensorBackend().estimate_bytes(keyframes(10), c, device=CPU) for c in (CONFIG, filling))
    assert read is not None and filled is not None and read < base < filled


class Foreign:
    name = "foreign"

    def reconstruct(
        self, keyframes: Sequence[Keyframe], config: PointmapConfig, *, device: torch.device, job: Job
    ) -> AlignedViews:
        raise NotImplementedError


def test_a_backend_without_an_estimate_says_that_the_limit_has_no_effect() -> None:
    assert planned(keyframes(3), CONFIG, Foreign()).warnings == ()
    plan = planned(keyframes(3), replace(CONFIG, max_memory_gb=1.0), Foreign())
    assert plan.estimated_bytes is None and "backend foreign has no estimate" in plan.warnings[0]


def test_a_backend_that_keeps_the_limit_itself_is_left_alone() -> None:
    config = replace(CONFIG, max_memory_gb=1.0)
    network = registry()["dust3r"].load_class()()
    assert planned(keyframes(3), config, network) == MemoryPlan(config=config, estimated_bytes=None)


@pytest.mark.parametrize("kernels", ["torch", "auto"])
def test_stage_one_stays_below_its_estimate(kernels: str) -> None:
    from reconx_ros.pipeline.stages import StageRecorder

    scene = room_scene(3, pinhole(120, 90))
    config = replace(CONFIG, max_size=120).with_own(MultiviewSettings(planes=64, kernels=kernels))
    stages = StageRecorder(CPU)
    with stages.measure("before"):
        pass
    with stages.measure("pointmap"):
        MultiviewBackend().reconstruct(scene.keyframes, config, device=CPU, job=Job())
    added = (stages.records[1].peak_mb - stages.records[0].peak_mb) * 2**20
    assert added < estimated(scene.keyframes, config)


def test_a_run_shrinks_its_images_and_warns() -> None:
    scene = room_scene(2, pinhole(96, 72))
    depths = [d.astype(np.float32) for d in scene.depths]
    sensed = [replace(k, frame=replace(k.frame, depth_m=d)) for k, d in zip(scene.keyframes, depths, strict=True)]
    pointmap = PointmapConfig(max_size=160, max_memory_gb=0.001)
    views = Reconstructor(ReconxConfig(device="cpu", pointmap=pointmap)).align(sensed)
    assert 64 <= views.views[0].camera.width < 96
    assert "more than max_memory_gb = 0.001" in views.warnings[0]

"""Networks that stay loaded: when they are the same, when they give way, and that the worker process keeps them."""

from __future__ import annotations

import gc
import json
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from dust3r_networks import random_images, small_network
from safetensors.torch import save, save_file
from stage2_scenes import room_views

from reconx_ros.core import DoesNotFitError, Frame, Keyframe, WeightsError
from reconx_ros.core.files import whole_file
from reconx_ros.core.settings import updated
from reconx_ros.jobs.data import EncodedKeyframe, JobRequest
from reconx_ros.jobs.worker_process import WorkerProcess
from reconx_ros.pipeline.config import ReconxConfig
from reconx_ros.pipeline.preparation import prepare
from reconx_ros.pipeline.reconstructor import Reconstructor
from reconx_ros.pointmap.backends.dust3r import PointmapNetBackend
from reconx_ros.pointmap.config import PointmapConfig
from reconx_ros.pointmap.network.settings import PointmapNetSettings
from reconx_ros.pointmap.network.weights import save_network
from reconx_ros.splatting.lpips import head_shapes, trunk_shapes
from reconx_ros.weights import cache as module
from reconx_ros.weights.cache import ModelCache, module_bytes
from reconx_ros.weights.catalogue import WeightsRow
from reconx_ros.weights.resolve import WeightsSource

CPU = torch.device("cpu")
BYTES = 4 * 100  # of the models here
TIMEOUT_S = 240.0


def written(path: Path, value: float) -> WeightsSource:
    """Weights whose content is one number a hundred times; the file is replaced, as careful writers do."""
    with whole_file(path) as temporary:
        temporary.write_bytes(save({"weight": torch.full((100, 1), value)}))
    return WeightsSource(path=path)


class Asked:
    """A cache, and how often it had to load."""

    def __init__(self) -> None:
        self.models, self.loads = ModelCache(), 0

    def get(self, source: WeightsSource, kind: str = "net", *, load: Callable[[], Any] | None = None, **options: Any):  # noqa: ANN201
        def loaded() -> torch.nn.Module:
            self.loads += 1
            return torch.nn.Linear(100, 1, bias=False)

        values = {"dtype": torch.float32, "device": CPU, "size": module_bytes, **options}
        return self.models.get([source], kind, load or loaded, **values)


@pytest.fixture
def asked() -> Asked:
    return Asked()


# When two are the same -------------------------------------------------------------------------------------------


def test_a_model_is_loaded_once_and_anew_when_its_file_changes(asked: Asked, tmp_path: Path) -> None:
    source = written(tmp_path / "a.safetensors", 1.0)
    first = asked.get(source)
    assert asked.get(source) is first and asked.loads == 1
    path = tmp_path / "copy.safetensors"
    path.write_bytes(source.path.read_bytes())
    assert asked.get(WeightsSource(path=path)) is first  # the content counts, not the place
    source.path.touch()
    assert asked.get(source) is first and asked.loads == 1
    written(source.path, 2.0)
    second = asked.get(source)
    assert second is not first and asked.loads == 2
    written(source.path, 1.0)
    assert asked.get(source) is first and asked.loads == 2
    (tmp_path / "config.json").write_text("{}")  # the description beside the weights belongs to them
    assert asked.get(source) is not first and asked.loads == 3


@pytest.mark.parametrize(
    "other", [{"dtype": torch.bfloat16}, {"device": torch.device("meta")}, {"kind": "else"}, {"variant": "offloaded"}]
)
def test_another_type_device_kind_or_variant_is_another_entry(
    asked: Asked, tmp_path: Path, other: dict[str, Any]
) -> None:
    source = written(tmp_path / "a.safetensors", 1.0)
    assert asked.get(source) is not asked.get(source, **other) and len(asked.models.keys) == 2
    asked.get(source)
    asked.get(source, **other)
    assert asked.loads == 2


def test_a_file_that_is_not_the_catalogues_is_refused_and_not_kept(asked: Asked, tmp_path: Path) -> None:
    source = written(tmp_path / "a.safetensors", 1.0)
    row = WeightsRow(name="a", purpose="tests", path=source.path, sha256="0" * 64, size_bytes=1)
    with pytest.raises(WeightsError, match="expected 0000"):
        asked.get(replace(source, row=row))
    assert asked.models.keys == () and asked.loads == 0


def test_what_fails_to_load_is_asked_for_again(asked: Asked, tmp_path: Path) -> None:
    source = written(tmp_path / "a.safetensors", 1.0)

    def fails() -> Any:
        raise ValueError("no model")

    with pytest.raises(ValueError, match="no model"):
        asked.get(source, load=fails)
    assert asked.models.keys == ()
    asked.get(source)
    assert asked.loads == 1


def test_many_threads_load_one_model(asked: Asked, tmp_path: Path) -> None:
    source, found = written(tmp_path / "a.safetensors", 1.0), []
    start = threading.Barrier(8)

    def ask() -> None:
        start.wait(TIMEOUT_S)
        found.append(asked.get(source))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT_S)
    assert len(found) == 8 and len({id(model) for model in found}) == 1 and asked.loads == 1


# When they give way ----------------------------------------------------------------------------------------------


def three(asked: Asked, tmp_path: Path, **options: Any) -> list[WeightsSource]:
    sources = [written(tmp_path / f"{i}.safetensors", float(i)) for i in range(3)]
    for source in sources:
        asked.get(source, **options)
    return sources


def test_a_limit_holds_and_the_least_recently_used_goes_first(asked: Asked, tmp_path: Path) -> None:
    a, b, c = (written(tmp_path / f"{name}.safetensors", i) for i, name in enumerate("abc"))
    limit = {"limit_bytes": 2 * BYTES + 1}
    asked.get(a, **limit)
    asked.get(b, **limit)
    asked.get(a, **limit)
    asked.get(b, "another kind")  # which the limit is not for
    asked.get(c, **limit)
    loads = asked.loads
    asked.get(a, **limit)
    asked.get(c, **limit)
    asked.get(b, "another kind")
    assert asked.loads == loads == 4
    asked.get(b, **limit)
    assert asked.loads == 5
    alone = asked.get(a, limit_bytes=BYTES // 2)  # larger than the limit: given, not kept
    assert isinstance(alone, torch.nn.Linear)
    assert [key.kind for key in asked.models.keys] == ["another kind"]


def test_room_is_made_in_the_order_of_use(asked: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a, _, c = three(asked, tmp_path)
    kept = asked.get(a)
    asked.get(c)
    monkeypatch.setattr(module, "free_bytes", lambda device: 1000 - BYTES * len(asked.models.keys))
    asked.models.make_room(1000 - 2 * BYTES, CPU)
    asked.get(a), asked.get(c)
    assert asked.loads == 3 and len(asked.models.keys) == 2  # b, the least recently used, is gone
    assert asked.models.reclaimable_bytes(CPU) == 2 * BYTES
    assert asked.models.reclaimable_bytes(CPU, keep=kept) == BYTES
    asked.models.make_room(5000, torch.device("meta"))
    assert len(asked.models.keys) == 2  # nothing lies there
    asked.models.make_room(5000, CPU, keep=kept)
    assert asked.get(a) is kept and asked.loads == 3 and len(asked.models.keys) == 1
    asked.models.forget(kept)
    assert asked.models.keys == ()


def test_loading_makes_room_first(asked: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    three(asked, tmp_path)
    monkeypatch.setattr(module, "free_bytes", lambda device: 0)
    asked.get(written(tmp_path / "d.safetensors", 9.0))
    assert len(asked.models.keys) == 1


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        DoesNotFitError("9 GB"),
    ],
)
def test_work_that_runs_out_of_memory_is_done_again_without_the_others(
    asked: Asked, tmp_path: Path, error: Exception
) -> None:
    a, _, _ = three(asked, tmp_path)
    tries: list[int] = []

    def work() -> str:
        asked.get(a)
        tries.append(len(asked.models.keys))
        if len(tries) == 1:
            raise error
        return "done"

    assert asked.models.with_room(work) == "done"
    assert tries == [3, 1] and asked.loads == 3  # what the work uses itself stays


def test_work_that_others_cannot_help_fails_at_once(asked: Asked, tmp_path: Path) -> None:
    tries: list[int] = []

    def work(error: Exception) -> None:
        tries.append(1)
        raise error

    with pytest.raises(MemoryError):
        asked.models.with_room(lambda: work(MemoryError()))  # nothing is loaded
    three(asked, tmp_path)
    with pytest.raises(ValueError, match="a bug"):
        asked.models.with_room(lambda: work(ValueError("a bug")))
    assert len(tries) == 2 and len(asked.models.keys) == 3


def test_a_model_that_does_not_fit_beside_the_others_takes_their_place(asked: Asked, tmp_path: Path) -> None:
    three(asked, tmp_path)
    source, tries = written(tmp_path / "large.safetensors", 7.0), []

    def load() -> torch.nn.Module:
        tries.append(len(asked.models.keys))
        if tries[-1]:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return torch.nn.Linear(2, 2)

    asked.get(source, load=load)
    assert tries == [3, 0] and len(asked.models.keys) == 1


def test_models_that_are_let_go_are_freed(asked: Asked, tmp_path: Path) -> None:
    source = written(tmp_path / "a.safetensors", 1.0)
    dead = weakref.ref(asked.get(source))
    assert dead() is not None
    asked.models.clear()
    assert dead() is None and asked.models.keys == ()


def test_a_model_in_use_lives_on_until_its_user_is_done(asked: Asked, tmp_path: Path) -> None:
    model = asked.get(written(tmp_path / "a.safetensors", 1.0))
    dead = weakref.ref(model)
    asked.models.clear()
    assert dead() is model
    del model
    gc.collect()
    assert dead() is None


# Stages ----------------------------------------------------------------------------------------------------------


def test_the_pointmap_network_is_shared_and_survives_a_file_that_is_overwritten(tmp_path: Path) -> None:
    network = small_network()
    save_network(tmp_path / "net", network, network.state_dict(), {})
    models, config = ModelCache(), PointmapConfig().with_own(PointmapNetSettings(weights=str(tmp_path / "net")))
    loaded = PointmapNetBackend().with_models(models).load(config, CPU)
    assert PointmapNetBackend().with_models(models).load(config, CPU) is loaded
    before = {name: value.clone() for name, value in loaded.network.state_dict().items()}
    weights = tmp_path / "net" / "model.safetensors"
    weights.write_bytes(bytes(weights.stat().st_size))  # in place, as a plain copy does
    assert all(torch.equal(loaded.network.state_dict()[name], before[name]) for name in before)
    images = random_images(2, 32, 48)
    found, wanted = (n(images[:1], images[1:]) for n in (loaded.network, network))
    assert torch.equal(found.pts3d_1, wanted.pts3d_1)
    with pytest.raises(WeightsError):
        PointmapNetBackend().with_models(models).load(config, CPU)


def test_stage_1_keeps_its_network_within_its_own_limit(tmp_path: Path) -> None:
    network = small_network()
    save_network(tmp_path / "net", network, network.state_dict(), {})
    models, backend = ModelCache(), PointmapNetBackend()
    config = PointmapConfig().with_own(PointmapNetSettings(weights=str(tmp_path / "net")))
    backend.with_models(models).load(config, CPU)
    assert len(models.keys) == 1
    size_gb = module_bytes(network) / 1e9
    backend.with_models(models).load(replace(config, max_memory_gb=1.1 * size_gb), CPU)
    assert len(models.keys) == 1
    backend.with_models(models).load(replace(config, max_memory_gb=0.5 * size_gb), CPU)
    assert models.keys == ()


# Jobs ------------------------------------------------------------------------------------------------------------


def lpips_files(folder: Path, seed: int = 0) -> tuple[Path, Path]:
    """VGG16 and heads of random weights: 59 MB."""
    generator = torch.Generator().manual_seed(seed)
    trunk = {n: torch.randn(s, generator=generator) * (2 / max(1, s[0])) ** 0.5 for n, s in trunk_shapes().items()}
    heads = {name: torch.rand(shape, generator=generator) for name, shape in head_shapes().items()}
    paths = folder / "trunk.safetensors", folder / "heads.safetensors"
    save_file(trunk, paths[0])
    save_file(heads, paths[1])
    return paths


def small_config(folder: Path) -> ReconxConfig:
    trunk, heads = lpips_files(folder)
    return updated(
        ReconxConfig(),
        {
            "device": "cpu",
            "pointmap": {"backend": "multiview", "max_size": 48, "multiview": {"planes": 16}},
            "diffusion": {"frames": 2},
            "splatting": {
                "steps": 1, "max_gaussians": 100, "max_size": 32, "lpips_trunk": str(trunk), "lpips_heads": str(heads),
            },
            "output": {"novel_views": 1, "novel_view_size": 32},
        },
    )  # fmt: skip


def keyframes(count: int = 3) -> list[Keyframe]:
    return [
        Keyframe(
            id=view.keyframe_id,
            sharpness=1.0,
            frame=Frame(
                rgb_u8=(view.rgb * 255).round().to(torch.uint8).numpy(),
                camera=view.camera,
                world_from_cam=view.world_from_cam,
            ),
        )
        for view in room_views(count).views
    ]


def load_seconds(report: dict[str, Any]) -> float:
    assert all(stage["load_seconds"] >= 0 for stage in report["stages"])
    return sum(stage["load_seconds"] for stage in report["stages"])


@pytest.fixture
def worker() -> Iterator[WorkerProcess]:
    made = WorkerProcess(lambda level, text: None)
    yield made
    made.stop()


@pytest.mark.slow
def test_the_second_job_of_a_worker_process_loads_nothing(worker: WorkerProcess, tmp_path: Path) -> None:
    config = small_config(tmp_path)
    sent = tuple(EncodedKeyframe.of(keyframe, 95) for keyframe in keyframes())
    request = JobRequest(job_id="job", frame_id="map", stamp_ns=5, keyframes=sent)

    def job(number: int) -> float:
        _, future = worker.run(request, config, str(tmp_path / str(number)), "", lambda *step: None)
        outcome = future.result(TIMEOUT_S)
        assert outcome.succeeded, outcome.error_msg
        return load_seconds(json.loads(outcome.report_json))

    first, second = job(1), job(2)
    assert first > 0.01 and second <= 0.01 * first
    lpips_files(tmp_path, seed=1)
    assert job(3) > 10 * second
    assert job(4) <= 0.01 * first


@pytest.mark.slow
def test_what_was_prepared_is_there_for_the_first_job(tmp_path: Path) -> None:
    config, models = small_config(tmp_path), ModelCache()
    assert "with LPIPS" in prepare(config, models)
    took = models.load_seconds
    first = Reconstructor(config, models).run(keyframes())
    again = Reconstructor(config, models).run(keyframes())
    assert load_seconds(first.report) <= 0.01 * took and load_seconds(again.report) <= 0.01 * took
    assert torch.equal(first.scene.means, again.scene.means)
    assert (first.novel_views[0].rgb_u8 == again.novel_views[0].rgb_u8).all()
    dead = weakref.ref(models._entries[models.keys[0]].model)
    models.clear()
    assert dead() is None

"""What holds for every setting and backend: each is read, seeds reach their stages, no list names backends."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from splatting_scenes import sequence_of, wall_views

from reconx_ros.core import ConfigError, Job
from reconx_ros.core.memory import is_out_of_memory, limit_bytes
from reconx_ros.core.registry import BackendInfo, with_entry_points
from reconx_ros.core.settings import Sections, Setting, nearest_known, updated, walk
from reconx_ros.evaluation.protocol import seeded
from reconx_ros.pipeline import reconstructor
from reconx_ros.pipeline.config import ReconxConfig, stages, with_stage_seeds
from reconx_ros.pipeline.reconstructor import Reconstructor
from reconx_ros.pipeline.registries import registries
from reconx_ros.pointmap.config import PointmapConfig
from reconx_ros.pointmap.registry import automatic
from reconx_ros.pointmap.stereo.settings import MultiviewSettings

PACKAGE = Path(__file__).resolve().parents[1] / "reconx_ros"
ABOVE = ("pipeline", "jobs", "ros", "evaluation", "viz", "cli")  # what may know of backends through registries only
OTHER_MEANINGS = {  # words that are a backend's name elsewhere, and not here
    ("cli/evaluate.py", "reconx"): "the command",
    ("cli/main.py", "reconx"): "the command",
    ("cli/train_diffusion.py", "reconx"): "a preset of training",
    ("diffusion/training/config.py", "reconx"): "a preset of training",
}
SETTINGS_FILES = {"config.py", "settings.py", "generator_settings.py", "presets.py"}
READERS = {
    "robot": (
        "ros/robot",
        "ros/graph",
        "io/ingest",
        "pipeline/mapper.py",
        "pipeline/coverage.py",
        "pipeline/keyframes.py",
    ),
    "server": ("ros/server", "ros/graph", "jobs", "pipeline", "pointmap", "diffusion", "splatting"),
}
READERS["both"] = READERS["robot"]


def sources(*places: str) -> Iterator[Path]:
    for place in places:
        path = PACKAGE / place
        yield from path.rglob("*.py") if path.is_dir() else (path,)


def strings(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    return {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}


@pytest.mark.parametrize("stage", registries())
def test_a_backend_is_named_by_its_row_and_its_own_module_only(stage: str) -> None:
    rows = registries()[stage]
    for path in sources(stage, *ABOVE):
        place = path.relative_to(PACKAGE).as_posix()
        if place in (f"{stage}/registry.py", "pipeline/presets.py"):
            continue
        for name in strings(path) & set(rows):
            own = place == rows[name].target.partition(":")[0].removeprefix("reconx_ros.").replace(".", "/") + ".py"
            assert own or (place, name) in OTHER_MEANINGS, f"{place} names the {stage} backend '{name}'"


def test_every_setting_is_read_by_the_node_that_declares_it() -> None:
    texts = {
        node: "\n".join(p.read_text() for p in sources(*places) if p.name not in SETTINGS_FILES)
        for node, places in READERS.items()
    }
    for name, _, meta in walk(ReconxConfig()):
        assert meta.node in texts, f"{name} is no node's"
        field = name.rpartition(".")[2]
        words = rf"\bactual_{field}\b" if field == "seed" and "." in name else rf"\.{field}\b|[\"']{field}[\"']"
        assert re.search(words, texts[meta.node]), f"{name} is declared by {meta.node} and read by nobody there"


def test_settings_of_the_stages_may_change_between_jobs() -> None:
    for name, _, meta in walk(ReconxConfig()):
        if name.split(".")[0] in (*stages(ReconxConfig()), "device", "seed"):
            assert meta.node == "server" and meta.dynamic, name


@given(seed=st.integers(0, 2**40), own=st.fixed_dictionaries({n: st.integers(-1, 99) for n in stages(ReconxConfig())}))
def test_a_stage_has_its_own_seed_or_that_of_the_whole(seed: int, own: dict[str, int]) -> None:
    config = replace(ReconxConfig(seed=seed), **{n: replace(s, seed=own[n]) for n, s in stages(ReconxConfig()).items()})
    resolved = with_stage_seeds(config)
    assert {n: s.actual_seed for n, s in stages(resolved).items()} == {n: s if s >= 0 else seed for n, s in own.items()}
    assert with_stage_seeds(resolved) == resolved
    moved = with_stage_seeds(seeded(config, 7))
    assert all(stages(moved)[n].seed == s.seed + 7 for n, s in stages(resolved).items())


def test_a_stage_alone_has_seed_0() -> None:
    assert all(stage.seed == -1 and stage.actual_seed == 0 for stage in stages(ReconxConfig()).values())


class ReachedError(Exception):
    """A stage was reached; holds the seed that it was given."""


def test_the_seed_reaches_every_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    class Spy:
        name = "spy"

        def reconstruct(self, keyframes: Any, config: Any, **rest: Any) -> Any:
            raise ReachedError(config.actual_seed)

        def generate(self, views: Any, path: Any, config: Any, **rest: Any) -> Any:
            raise ReachedError(config.actual_seed)

    def start(views: Any, config: Any, *, seed: int) -> Any:
        raise ReachedError(seed)

    monkeypatch.setattr(reconstructor, "choose_pointmap", lambda *_: Spy())
    monkeypatch.setattr(reconstructor, "choose_generator", lambda *_: Spy())
    monkeypatch.setattr(reconstructor, "plan_trajectory", lambda *_, **__: None)
    monkeypatch.setattr(reconstructor, "initial_scene", start)
    views = wall_views(count=2)
    sequence = sequence_of(views)
    for own, expected in ((-1, 5), (3, 3)):
        settings = {n: replace(s, seed=own) for n, s in stages(ReconxConfig()).items()}
        run = Reconstructor(replace(ReconxConfig(device="cpu", seed=5), **settings))
        for stage in (
            lambda run=run: run.align([]),
            lambda run=run: run.generate(views, job=Job()),
            lambda run=run: run.fit(views, sequence),
        ):
            with pytest.raises(ReachedError, match=f"^{expected}$"):
                stage()


@pytest.mark.parametrize(
    ("posed", "depth", "name"),
    [
        (True, True, "depth_sensor"),
        (True, False, "multiview"),
        (False, False, "structure_from_motion"),
        (False, True, "structure_from_motion"),
    ],
)
def test_what_auto_takes(posed: bool, depth: bool, name: str) -> None:
    assert automatic(posed=posed, depth=depth) == name


@pytest.mark.parametrize(
    ("former", "now"),
    [
        ("planes", "multiview.planes"),
        ("kernels", "multiview.kernels"),
        ("fill_depth", "depth_sensor.fill_depth"),
        ("dust3r_weights", "dust3r.weights"),
        ("network_weights", "pointmap_net.weights"),
    ],
)
def test_a_former_name_is_refused_with_the_present_one(former: str, now: str) -> None:
    words = rf"unknown parameter pointmap\.{former}, the nearest known one is pointmap\.{re.escape(now)}$"
    with pytest.raises(ConfigError, match=words):
        updated(ReconxConfig(), {f"pointmap.{former}": 3})
    known = {name: meta for name, _, meta in walk(ReconxConfig())}
    assert nearest_known(f"pointmap.{former}", known) == f"pointmap.{now}"


@pytest.mark.parametrize("name", ["flat", "wrecked", "not a name", "nothing"])
def test_a_registered_row_is_whole_or_says_why_not(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    group = f"reconx_ros.test.{name}"
    found = {
        "flat": BackendInfo(name="other", target="", summary=""),
        "wrecked": BackendInfo(name="wrecked", target="", summary="", settings="reconx_ros:Nothing"),
        "not a name": BackendInfo(name="x", target="", summary=""),
        "nothing": "a string",
    }[name]
    point = SimpleNamespace(name=name, load=lambda: found)
    monkeypatch.setattr(metadata, "entry_points", lambda group: [point])
    row = with_entry_points({"ours": BackendInfo(name="ours", target="", summary="")}, group)[name]
    assert row.name == name and bool(row.broken) == (name != "flat")
    assert not row.broken or row.missing() == row.broken


def test_memory_limits_and_failures_have_one_reader() -> None:
    assert limit_bytes(0.0) is None and limit_bytes(1.5) == 1_500_000_000
    assert is_out_of_memory(MemoryError()) and is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"))
    assert not is_out_of_memory(RuntimeError("shapes differ")) and not is_out_of_memory(
        ValueError("can't allocate memory")
    )


def test_sections_are_reached_by_class_and_not_by_name() -> None:
    config = PointmapConfig()
    changed = config.with_own(MultiviewSettings(planes=9))
    assert changed.own(MultiviewSettings).planes == 9 and config.own(MultiviewSettings).planes != 9
    assert changed != config and hash(changed.with_own(MultiviewSettings())) == hash(config)
    with pytest.raises(ConfigError, match="no backend of this installation has settings of the class BackendInfo"):
        config.own(BackendInfo)
    clash = Sections((("max_size", MultiviewSettings(), Setting(doc="")),))
    with pytest.raises(ConfigError, match="backend 'max_size' has settings of its own, but its name is that of a"):
        PointmapConfig(sections=clash)

"""docs/parameters.md and config/*.yaml are what the configuration tree says, and load back to it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from reconx_ros.cli.common import read_parameters
from reconx_ros.core import ConfigError, StorageError
from reconx_ros.core.settings import from_mapping, nearest_known, updated, walk
from reconx_ros.jobs.reconstruct import job_config
from reconx_ros.pipeline.config import ReconxConfig
from reconx_ros.pipeline.parameter_files import generated_files, preset_yaml, write_generated_files
from reconx_ros.pipeline.presets import PRESETS, preset_values
from reconx_ros.pipeline.selection import choose_device
from reconx_ros.splatting.registry import registry
from reconx_ros.splatting.select import select_rasterizer

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("name", sorted(generated_files()))
def test_generated_files_are_up_to_date(name: str) -> None:
    assert (ROOT / name).read_text() == generated_files()[name], "run make docs"


def test_the_generated_files_are_written_below_a_checkout(tmp_path: Path) -> None:
    write_generated_files(tmp_path)
    written = {str(path.relative_to(tmp_path)): path.read_text() for path in tmp_path.rglob("*") if path.is_file()}
    assert written == generated_files() and "docs/parameters.md" in written


@pytest.mark.parametrize("preset", PRESETS)
def test_preset_files_load_back_to_the_preset(preset: str) -> None:
    loaded = yaml.safe_load(preset_yaml(preset))["/**"]["ros__parameters"]
    assert from_mapping(ReconxConfig, loaded) == updated(ReconxConfig(), preset_values(preset))


@pytest.mark.parametrize("after", PRESETS)
@pytest.mark.parametrize("before", PRESETS)
def test_a_preset_leaves_nothing_of_another(before: str, after: str) -> None:
    alone = updated(ReconxConfig(), preset_values(after))
    assert updated(updated(ReconxConfig(), preset_values(before)), preset_values(after)) == alone
    assert job_config(updated(ReconxConfig(), preset_values(before)), after, "") == alone


def test_the_cpu_preset_runs_on_the_cpu_of_a_server_that_started_with_the_gpu() -> None:
    gpu = updated(ReconxConfig(), preset_values("gpu"))
    cpu = job_config(gpu, "cpu", "")
    device = choose_device(cpu.device)
    assert gpu.device == "cuda" and device.type == "cpu"
    assert "cuda" not in registry()[select_rasterizer(cpu.splatting, device).name].needs


def test_every_parameter_has_a_sentence() -> None:
    for name, _, meta in walk(ReconxConfig()):
        assert meta.doc.endswith((".", ")")) and meta.doc[0].isupper(), name


def test_the_former_name_of_a_parameter_is_answered_with_the_present_one() -> None:
    for nested in ({"output": {"include_generated": True}}, {"output.include_generated": True}):
        with pytest.raises(
            ConfigError, match=r"parameter output.include_generated, the nearest known one is output.kinds"
        ):
            updated(ReconxConfig(), nested)
    known = {name: meta for name, _, meta in walk(ReconxConfig())}
    assert nearest_known("output.include_generated", known) == "output.kinds"
    assert nearest_known("splatting.include_generated", known) != "output.kinds"


def test_kinds_of_points_are_one_or_more_of_the_known_ones() -> None:
    assert ReconxConfig().output.kinds == ("observed",)
    with pytest.raises(
        ConfigError, match=r"parameter output.kinds is 'none', expected one of observed, inferred, generated"
    ):
        updated(ReconxConfig(), {"output.kinds": ["observed", "none"]})
    with pytest.raises(
        ConfigError, match=r"output.kinds is empty, expected at least one of observed, inferred, generated"
    ):
        updated(ReconxConfig(), {"output.kinds": []})


def test_parameter_files_are_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be read: No such file"):
        read_parameters(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [1")
    with pytest.raises(ConfigError, match="is not YAML"):
        read_parameters(tmp_path / "bad.yaml")
    (tmp_path / "empty.yaml").write_text("a: 1")
    with pytest.raises(ConfigError, match="no 'ros__parameters' group"):
        read_parameters(tmp_path / "empty.yaml")
    with pytest.raises(ConfigError, match="unknown preset 'gpus', the nearest known one is 'gpu'"):
        preset_values("gpus")

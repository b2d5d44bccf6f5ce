"""Rerun recordings: what is logged where, with and without the SDK at hand."""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from viewer_results import PIXELS, write_result

from reconx_ros.core import StorageError
from reconx_ros.viz.viewer.data import load_result
from reconx_ros.viz.viewer.rerun_export import write_rerun


class _Part:
    """Any Rerun archetype: keeps what it was made of."""

    def __init__(self, kind: str, args: tuple[Any, ...], values: dict[str, Any]) -> None:
        self.kind, self.args, self.values = kind, args, values

    def compress(self, **options: Any) -> _Part:
        return self


class _Stream:
    """Stands in for rerun.RecordingStream."""

    def __init__(self, name: str, **options: Any) -> None:
        self.logged: list[tuple[str, dict[str, Any], list[_Part]]] = []
        self.times: dict[str, Any] = {}

    def save(self, path: Path) -> None:
        path.write_bytes(b"RRF2")

    def log(self, entity: str, *parts: Any, static: bool) -> None:
        self.logged.append((entity, {} if static else dict(self.times), list(parts)))

    def set_time(self, timeline: str, **value: Any) -> None:
        (self.times[timeline],) = value.values()

    def reset_time(self) -> None:
        self.times.clear()

    def flush(self) -> None: ...

    def disconnect(self) -> None: ...


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> list[_Stream]:
    """A stand-in for the SDK, which is too large for every test run; returns the streams opened."""
    opened: list[_Stream] = []
    module = types.ModuleType("rerun")
    module.__spec__ = importlib.util.spec_from_loader("rerun", None)

    def stream(name: str, **options: Any) -> _Stream:
        opened.append(_Stream(name, **options))
        return opened[-1]

    module.RecordingStream = stream
    module.ViewCoordinates = types.SimpleNamespace(RIGHT_HAND_Z_UP="z up", RDF="rdf")
    for kind in (
        "TextDocument", "Points3D", "AnyValues", "GaussianSplats3D", "Transform3D", "Pinhole", "LineStrips3D", "Image",
        "DepthImage",
    ):  # fmt: skip
        setattr(module, kind, lambda *args, _kind=kind, **values: _Part(_kind, args, values))
    monkeypatch.setitem(sys.modules, "rerun", module)
    return opened


def test_everything_is_logged_under_its_name_and_time(tmp_path: Path, streams: list[_Stream]) -> None:
    data = load_result(write_result(tmp_path / "wall"))
    write_rerun(tmp_path / "new" / "wall.rrd", data)
    assert (tmp_path / "new" / "wall.rrd").read_bytes() == b"RRF2"
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["wall.rrd"]
    (stream,) = streams
    entities = [e for e, _, _ in stream.logged]
    assert {"about", "world", "world/splats", "world/keyframe_path", "world/novel_path"} <= set(entities)
    assert entities.count("world/camera/rgb") == 3 and entities.count("world/novel_camera/rgb") == 4
    assert sum(e.startswith("world/keyframes/") for e in entities) == 3
    clouds = {e.split("/")[-1]: parts for e, _, parts in stream.logged if e.startswith("world/points/")}
    seen, made_up = data.cloud.provenance == 1, data.cloud.provenance == 2
    assert set(clouds) == {"observed", "generated"}  # kinds without points are not there
    for name, mask in (("observed", seen), ("generated", made_up)):
        points, values = clouds[name]
        assert len(points.args[0]) == int(mask.sum()) and (points.values["colors"] == data.cloud.rgb_u8[mask]).all()
        assert (values.values["confidence"] == data.cloud.confidence[mask]).all()
    steps = [times for e, times, _ in stream.logged if e == "world/camera"]
    assert [t["keyframe"] for t in steps] == [0, 1, 2]
    assert steps[1]["stamp"] == np.datetime64(1_001_500_000_000, "ns")
    assert all("stamp" not in t for e, t, _ in stream.logged if e == "world/novel_camera")
    pinhole = next(p for e, _, parts in stream.logged if e == "world/camera" for p in parts if p.kind == "Pinhole")
    assert pinhole.values["image_from_camera"][0, 2] == PIXELS["cx"] + 0.5  # Rerun's pixels are centred at 0.5


def test_nothing_is_left_behind_by_a_failure(tmp_path: Path, streams: list[_Stream]) -> None:
    folder = write_result(tmp_path / "wall")
    data = load_result(folder)
    (folder / "images" / "0001.png").unlink()
    with pytest.raises(StorageError, match=r"0001\.png"):
        write_rerun(tmp_path / "wall.rrd", data)
    assert not list(tmp_path.glob("*.rrd*")) and not list(tmp_path.glob(".*.part"))


@pytest.mark.skipif(
    importlib.util.find_spec("rerun") is None, reason="rerun-sdk is not installed: pip install 'reconx_ros[rerun]'"
)
def test_the_real_sdk_takes_it(tmp_path: Path) -> None:
    write_rerun(tmp_path / "wall.rrd", load_result(write_result(tmp_path / "wall")))
    assert (tmp_path / "wall.rrd").read_bytes()[:3] == b"RRF"
    assert (tmp_path / "wall.rrd").stat().st_size > 50_000

"""PLY files: tables, clouds and Gaussian scenes."""

from __future__ import annotations

import os
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from splatting_scenes import random_gaussians, scene_from

from reconx_ros.core import GaussianScene, InvalidInputError, PointCloud, Provenance, StorageError
from reconx_ros.core.files import write_bytes
from reconx_ros.io.gaussians import read_scene_ply, scene_fields, write_scene_ply
from reconx_ros.io.ply import read_ply, read_point_cloud_ply, write_ply, write_point_cloud_ply

KINDS = ["i1", "u1", "i2", "u2", "i4", "u4", "f4", "f8"]


def some_scene(count: int = 7, bases: int = 4) -> GaussianScene:
    scene = scene_from(random_gaussians(count, bases=bases))
    scene.provenance[::2] = 2
    scene.confidence[:] = torch.linspace(0, 1, count)
    return scene


def some_cloud(count: int = 5) -> PointCloud:
    rng = np.random.default_rng(0)
    return PointCloud(
        points=rng.normal(size=(count, 3)).astype(np.float32),
        rgb_u8=rng.integers(0, 256, (count, 3), np.uint8),
        confidence=rng.random(count, np.float32),
        provenance=rng.integers(0, 4, count, np.uint8),
        keyframe_ids=rng.integers(0, 2**32, count, np.uint32),
    )


@hypothesis_settings(max_examples=30)
@given(kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=5), count=st.integers(0, 5), data=st.data())
def test_tables_come_back(
    tmp_path_factory: pytest.TempPathFactory, kinds: list[str], count: int, data: st.DataObject
) -> None:
    dtype = np.dtype([(f"p{i}", k) for i, k in enumerate(kinds)])
    raw = data.draw(st.binary(min_size=count * dtype.itemsize, max_size=count * dtype.itemsize))
    table = np.frombuffer(raw, dtype, count)
    path = tmp_path_factory.mktemp("ply") / "table.ply"
    write_ply(path, table, ["a comment"])
    back = read_ply(path)
    assert back.dtype == table.dtype and back.tobytes() == table.tobytes()


@pytest.mark.parametrize("form", ["ascii", "binary_big_endian"])
def test_other_encodings_and_elements_are_read(tmp_path: Path, form: str) -> None:
    header = f"ply\nformat {form} 1.0\nelement vertex 2\nproperty float64 x\nproperty uint8 red\n"
    header += "element face 1\nproperty list uchar int vertex_indices\nend_header\n"
    table = np.array([(1.5, 200), (-2.25, 7)], [("x", ">f8"), ("red", "u1")])
    body = b"1.5 200\n-2.25 7\n3 0 1 0\n" if form == "ascii" else table.tobytes() + b"\x03" + bytes(12)
    (tmp_path / "other.ply").write_bytes(header.encode() + body)
    back = read_ply(tmp_path / "other.ply")
    assert back["x"].tolist() == [1.5, -2.25] and back["red"].tolist() == [200, 7] and back.dtype["x"] == "<f8"


BAD_FILES = [
    (b"", InvalidInputError, "does not start with 'ply'"),
    (b"PK\x03\x04 zip", InvalidInputError, "does not start with 'ply'"),
    (b"ply\nformat ascii 1.0\n", InvalidInputError, "no line 'end_header'"),
    (b"ply\nformat binary_middle_endian 1.0\nelement vertex 1\nend_header\n", InvalidInputError, "has PLY format"),
    (b"ply\nformat ascii 1.0\nelement face 1\nend_header\n", InvalidInputError, "without properties"),
    (b"ply\nformat ascii 1.0\nelement face 1\nproperty int x\nend_header\n1\n", InvalidInputError, "expected vertices"),
    (b"ply\nformat ascii 1.0\nelement vertex -1\nproperty float x\nend_header\n", InvalidInputError, "'-1' of element"),
    (b"ply\nformat ascii 1.0\nelement vertex 1\nend_header\n", InvalidInputError, "without properties"),
    (
        b"ply\nformat ascii 1.0\nelement vertex 1\nproperty list uchar int x\nend_header\n1 1\n",
        InvalidInputError,
        "vertex property 'list uchar int x'",
    ),
    (
        b"ply\nformat ascii 1.0\nelement vertex 1\nproperty int x\nproperty int x\nend_header\n1 1\n",
        InvalidInputError,
        "twice",
    ),
    (b"ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nend_header\none\n", InvalidInputError, "no number"),
    (b"ply\nformat ascii 1.0\nelement vertex 2\nproperty float x\nend_header\n1\n", StorageError, "is truncated"),
    (
        b"ply\nformat binary_little_endian 1.0\nelement vertex 99999999999999\nproperty float x\nend_header\n1234",
        StorageError,
        "is truncated",
    ),
]


@pytest.mark.parametrize(("content", "error", "message"), BAD_FILES)
def test_bad_files_are_one_sentence(tmp_path: Path, content: bytes, error: type[Exception], message: str) -> None:
    path = tmp_path / "bad.ply"
    path.write_bytes(content)
    with pytest.raises(error, match=message) as caught:
        read_ply(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_absent_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"cannot read .*none\.ply: No such file"):
        read_ply(tmp_path / "none.ply")


def test_unusable_tables_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="structured array"):
        write_ply(tmp_path / "x.ply", np.zeros((3, 3)))
    with pytest.raises(InvalidInputError, match="property x has type"):
        write_ply(tmp_path / "x.ply", np.zeros(3, [("x", "i8")]))
    assert list(tmp_path.iterdir()) == []


def test_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "scene.ply"
    write_scene_ply(path, some_scene())
    before = path.read_bytes()

    def no_space(self: Path, target: Path) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(Path, "replace", no_space)
    with pytest.raises(StorageError, match=r"scene\.ply cannot be written: No space left on device"):
        write_scene_ply(path, some_scene(9))
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_absent_folder_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"x\.ply cannot be written: No such file or directory"):
        write_bytes(tmp_path / "nowhere" / "x.ply", b"x")


@pytest.mark.parametrize("bases", [1, 4, 9, 16])
def test_scenes_come_back(tmp_path: Path, bases: int) -> None:
    scene = some_scene(bases=bases)
    write_scene_ply(tmp_path / "scene.ply", scene)
    back = read_scene_ply(tmp_path / "scene.ply")
    for field in fields(scene):
        ours, theirs = getattr(scene, field.name), getattr(back, field.name)
        assert ours.dtype == theirs.dtype and torch.equal(ours, theirs), field.name


def test_standard_properties_come_first_and_all_are_float(tmp_path: Path) -> None:
    write_scene_ply(tmp_path / "scene.ply", some_scene(bases=4))
    table = read_ply(tmp_path / "scene.ply")
    names = list(table.dtype.names or ())
    assert names == [*scene_fields(4), "confidence", "provenance", "keyframe_id"]
    assert {table.dtype[n].str for n in names} == {"<f4"}
    assert np.allclose(table["f_rest_4"], some_scene(bases=4).sh[:, 2, 1])  # second higher harmonic of green


def test_foreign_scenes_are_not_taken_for_observed(tmp_path: Path) -> None:
    write_scene_ply(tmp_path / "plain.ply", some_scene(), extra=False)
    scene = read_scene_ply(tmp_path / "plain.ply")
    assert not bool(scene.provenance.any()) and not bool(scene.confidence.any())
    write_scene_ply(tmp_path / "again.ply", scene)
    assert not bool(read_scene_ply(tmp_path / "again.ply").provenance.any())


def test_clouds_of_other_programs_are_of_no_kind(tmp_path: Path) -> None:
    names = ("x", "y", "z", "red", "green", "blue", "confidence")
    write_ply(tmp_path / "scan.ply", np.ones(3, [(n, "<f4") for n in names]))
    cloud = read_point_cloud_ply(tmp_path / "scan.ply")
    assert len(cloud) == 3 and not cloud.provenance.any() and not cloud.confidence.any()  # their confidence is not ours


@pytest.mark.parametrize("read", [read_scene_ply, read_point_cloud_ply])
def test_headers_name_the_kinds_and_values_that_are_none_are_refused(tmp_path: Path, read: Any) -> None:
    path = tmp_path / "file.ply"
    scene, cloud = some_scene(), some_cloud()
    scene.provenance[:4] = torch.arange(4)
    cloud.provenance[:4] = np.arange(4)
    write: Any = (
        (lambda: write_scene_ply(path, scene)) if read is read_scene_ply else lambda: write_point_cloud_ply(path, cloud)
    )
    write()
    assert [int(k) for k in read(path).provenance[:4]] == [0, 1, 2, 3]
    header = path.read_bytes().split(b"end_header")[0].decode()
    for kind in Provenance:
        assert f"{int(kind)} {kind.name.lower()}" in header
    scene.provenance[1] = cloud.provenance[1] = 4
    write()
    with pytest.raises(InvalidInputError, match=r"has the provenance 4, expected one of 0 \(none\), 1 \(observed\)"):
        read(path)


def test_empty_scene_and_cloud_come_back(tmp_path: Path) -> None:
    write_scene_ply(tmp_path / "scene.ply", some_scene().select(torch.zeros(7, dtype=torch.bool)))
    assert len(read_scene_ply(tmp_path / "scene.ply")) == 0
    write_point_cloud_ply(tmp_path / "cloud.ply", PointCloud.empty())
    assert len(read_point_cloud_ply(tmp_path / "cloud.ply")) == 0


def test_scene_files_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "scene.ply"
    write_scene_ply(path, some_scene())
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    with pytest.raises(StorageError, match="is truncated"):
        read_scene_ply(path)
    path.write_bytes(data.replace(b"property float scale_1\n", b"property float scale_x\n"))
    with pytest.raises(InvalidInputError, match="lacks the vertex properties scale_1"):
        read_scene_ply(path)
    path.write_bytes(data.replace(b"property float f_rest_8\n", b"property float g_rest_8\n"))
    with pytest.raises(InvalidInputError, match="has 8 properties f_rest"):
        read_scene_ply(path)
    broken = some_scene()
    broken.means[2, 1] = float("nan")
    write_scene_ply(path, broken)
    with pytest.raises(
        InvalidInputError, match=r"1 of 7 Gaussians .* NaN or infinite, .* number 2 with y = nan.*--drop-bad"
    ):
        read_scene_ply(path)
    kept = read_scene_ply(path, drop_bad=True)
    assert torch.equal(kept.means, broken.means[[0, 1, 3, 4, 5, 6]])


def test_clouds_come_back(tmp_path: Path) -> None:
    cloud = some_cloud()
    write_point_cloud_ply(tmp_path / "cloud.ply", cloud)
    back = read_point_cloud_ply(tmp_path / "cloud.ply")
    for field in fields(cloud):
        ours, theirs = getattr(cloud, field.name), getattr(back, field.name)
        assert ours.dtype == theirs.dtype and np.array_equal(ours, theirs), field.name
    write_scene_ply(tmp_path / "scene.ply", some_scene())
    with pytest.raises(InvalidInputError, match="lacks the vertex properties red"):
        read_point_cloud_ply(tmp_path / "scene.ply")

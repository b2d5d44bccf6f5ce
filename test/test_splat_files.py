"""The small formats of web viewers, read back byte by byte by parsers of the tests' own."""

from __future__ import annotations

import gzip
import math
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from splatting_scenes import random_gaussians, scene_from

from reconx_ros.core import GaussianScene, InvalidInputError, StorageError
from reconx_ros.io.splat_files import write_splat, write_spz
from reconx_ros.splatting.harmonics import sh_sum

BASES = (1, 4, 9, 16)


def some_scene(count: int = 40, bases: int = 4, seed: int = 0) -> GaussianScene:
    return scene_from(random_gaussians(count, bases=bases, seed=seed))


def rotations(quats_wxyz: np.ndarray) -> np.ndarray:
    """Rotation matrices [N, 3, 3], which do not know a quaternion's sign."""
    w, x, y, z = (quats_wxyz / np.linalg.norm(quats_wxyz, axis=-1, keepdims=True)).T
    return np.stack(
        [
            np.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], -1),
            np.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], -1),
            np.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], -1),
        ],
        -2,
    )


# .splat ----------------------------------------------------------------------------------------------------------


def parse_splat(data: bytes) -> dict[str, np.ndarray]:
    assert len(data) % 32 == 0
    rows = [struct.unpack("<6f8B", data[at : at + 32]) for at in range(0, len(data), 32)]
    table = np.array(rows, np.float64).reshape(-1, 14)
    return {
        "means": table[:, :3],
        "scales": table[:, 3:6],
        "rgb": table[:, 6:9] / 255,
        "opacity": table[:, 9] / 255,
        "quats_wxyz": (table[:, 10:] - 128) / 128,
    }


@pytest.mark.parametrize("bases", BASES)
def test_splat_comes_back_within_its_steps(tmp_path: Path, bases: int) -> None:
    scene, path = some_scene(bases=bases), tmp_path / "scene.splat"
    write_splat(path, scene)
    found = parse_splat(path.read_bytes())
    opacity = torch.sigmoid(scene.logit_opacities)
    order = torch.argsort(opacity * scene.log_scales.sum(-1).exp(), descending=True)
    wanted = scene.select(order)
    np.testing.assert_array_equal(found["means"], wanted.means.numpy())
    np.testing.assert_allclose(found["scales"], wanted.log_scales.exp().numpy(), rtol=1e-6)
    rgb = (0.5 + 0.5 / math.sqrt(math.pi) * wanted.sh[:, 0]).clamp(0, 1).numpy()
    np.testing.assert_allclose(found["rgb"], rgb, atol=0.5 / 255 + 1e-6)
    np.testing.assert_allclose(found["opacity"], torch.sigmoid(wanted.logit_opacities), atol=0.5 / 255 + 1e-6)
    np.testing.assert_allclose(rotations(found["quats_wxyz"]), rotations(wanted.quats_wxyz.numpy()), atol=0.03)


# .spz ------------------------------------------------------------------------------------------------------------


def parse_spz(data: bytes) -> dict[str, Any]:
    """One Gaussian after the other, in the axes of the format."""
    body = gzip.decompress(data)
    magic, version, count, degree, bits, flags, reserved = struct.unpack_from("<4sIIBBBB", body)
    assert (magic, version, reserved) == (b"NGSP", 2, 0)
    higher = (degree + 1) ** 2 - 1
    assert len(body) == 16 + count * (9 + 1 + 3 + 3 + 3 + 3 * higher)
    at = 16
    blocks = []
    for size in (9, 1, 3, 3, 3, 3 * higher):
        blocks.append([body[at + i * size : at + (i + 1) * size] for i in range(count)])
        at += count * size
    positions, opacities, colors, scales, quats, harmonics = blocks
    xyz = [[v / 127.5 - 1 for v in q] for q in quats]
    return {
        "means": [
            [int.from_bytes(p[i : i + 3], "little", signed=True) / 2**bits for i in (0, 3, 6)] for p in positions
        ],
        "opacity": [o[0] / 255 for o in opacities],
        "constant": [[(v / 255 - 0.5) / 0.15 for v in c] for c in colors],
        "log_scales": [[v / 16 - 10 for v in s] for s in scales],
        "quats_wxyz": [[math.sqrt(max(0.0, 1 - sum(v * v for v in q))), *q] for q in xyz],
        "higher": np.array([[(v - 128) / 128 for v in h] for h in harmonics]).reshape(count, higher, 3),
        "degree": degree,
        "bits": bits,
        "antialiased": bool(flags & 1),
    }


HALF_TURN = np.diag([1.0, -1.0, -1.0])  # about x: from the axes of PLY files to the format's


@pytest.mark.parametrize("bases", BASES)
def test_spz_comes_back_within_its_steps(tmp_path: Path, bases: int) -> None:
    scene, path = some_scene(bases=bases), tmp_path / "scene.spz"
    write_spz(path, scene)
    found = parse_spz(path.read_bytes())
    assert (found["degree"] + 1) ** 2 == bases and found["bits"] == 12 and not found["antialiased"]
    np.testing.assert_allclose(found["means"], scene.means.numpy() @ HALF_TURN, atol=0.5 / 4096 + 1e-6)
    np.testing.assert_allclose(found["log_scales"], scene.log_scales.numpy(), atol=1 / 32 + 1e-5)
    np.testing.assert_allclose(found["opacity"], torch.sigmoid(scene.logit_opacities), atol=0.5 / 255 + 1e-6)
    np.testing.assert_allclose(found["constant"], scene.sh[:, 0].numpy(), atol=0.5 / 255 / 0.15 + 1e-5)
    turned = HALF_TURN @ rotations(scene.quats_wxyz.numpy())
    covariances = [
        r @ np.diag([1.0, 2.0, 3.0]) @ r.transpose(0, 2, 1) for r in (rotations(np.array(found["quats_wxyz"])), turned)
    ]
    np.testing.assert_allclose(covariances[0], covariances[1], atol=0.2)


@pytest.mark.parametrize("bases", BASES[1:])
def test_spz_harmonics_show_the_same_colour_from_the_turned_direction(tmp_path: Path, bases: int) -> None:
    scene, path = some_scene(bases=bases), tmp_path / "scene.spz"
    scene = replace(scene, sh=scene.sh.clamp(-0.98, 0.98))
    write_spz(path, scene)
    higher = torch.from_numpy(parse_spz(path.read_bytes())["higher"]).float()
    g = torch.Generator().manual_seed(1)
    directions = torch.nn.functional.normalize(torch.randn(len(scene), 3, generator=g), dim=-1)
    constant = torch.zeros(len(scene), 1, 3)
    found = sh_sum(torch.cat([constant, higher], dim=1), directions * torch.tensor([1.0, -1.0, -1.0]))
    wanted = sh_sum(torch.cat([constant, scene.sh[:, 1:]], dim=1), directions)
    torch.testing.assert_close(found, wanted, atol=0.5 / 128 * bases, rtol=0)
    assert float(wanted.abs().max()) > 0.5


@pytest.mark.parametrize("antialiased", [False, True])
def test_spz_says_whether_to_antialias(tmp_path: Path, antialiased: bool) -> None:
    write_spz(tmp_path / "scene.spz", some_scene(), antialiased=antialiased)
    assert parse_spz((tmp_path / "scene.spz").read_bytes())["antialiased"] is antialiased


def test_spz_w_is_never_negative(tmp_path: Path) -> None:
    scene = some_scene()
    for name, quats in (("a.spz", scene.quats_wxyz), ("b.spz", -scene.quats_wxyz)):
        write_spz(tmp_path / name, replace(scene, quats_wxyz=quats))
    assert (tmp_path / "a.spz").read_bytes() == (tmp_path / "b.spz").read_bytes()


@pytest.mark.parametrize(("largest", "bits"), [(2047.9, 12), (2048.0, 11), (1e5, 6), (8388607.0, 0)])
def test_spz_gives_bits_to_what_is_far_away(tmp_path: Path, largest: float, bits: int) -> None:
    scene = some_scene(2)
    means = torch.tensor([[largest, -largest, 0.0], [1.0, 2.0, 3.0]])
    write_spz(tmp_path / "scene.spz", replace(scene, means=means))
    found = parse_spz((tmp_path / "scene.spz").read_bytes())
    assert found["bits"] == bits
    np.testing.assert_allclose(found["means"], means.numpy() @ HALF_TURN, atol=0.5 / 2**bits)


def test_spz_refuses_what_is_too_far_away(tmp_path: Path) -> None:
    scene = replace(some_scene(1), means=torch.tensor([[0.0, 9e6, 0.0]]))
    with pytest.raises(InvalidInputError, match=r"9e\+06 units from the origin"):
        write_spz(tmp_path / "scene.spz", scene)


# Both ------------------------------------------------------------------------------------------------------------

WRITERS = pytest.mark.parametrize("write", [write_splat, write_spz])


@WRITERS
def test_empty_scene(tmp_path: Path, write: Any) -> None:
    write(tmp_path / "scene", some_scene(0, bases=1))
    data = (tmp_path / "scene").read_bytes()
    assert data == b"" if write is write_splat else parse_spz(data)["means"] == []


@WRITERS
def test_same_scene_same_bytes(tmp_path: Path, write: Any) -> None:
    for name in "ab":
        write(tmp_path / name, some_scene())
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@WRITERS
@hypothesis_settings(max_examples=20)
@given(value=st.sampled_from([-1e4, -100.0, -1.0, 0.0, 1.0, 100.0, 1e4]))
def test_extreme_values_saturate(tmp_path_factory: pytest.TempPathFactory, write: Any, value: float) -> None:
    scene = some_scene(3)
    extreme = replace(
        scene,
        logit_opacities=torch.full((3,), value),
        sh=torch.full((3, 4, 3), value),
        log_scales=torch.full((3, 3), value),
    )
    path = tmp_path_factory.mktemp("splat") / "scene"
    write(path, extreme)
    found = parse_splat(path.read_bytes()) if write is write_splat else parse_spz(path.read_bytes())
    assert write is write_spz or np.isfinite(found["scales"]).all()
    assert np.allclose(found["opacity"], 1 / (1 + math.exp(-max(value, -700))), atol=0.003)


@WRITERS
@pytest.mark.parametrize("name", ["means", "quats_wxyz", "log_scales", "logit_opacities", "sh"])
def test_nan_is_refused(tmp_path: Path, write: Any, name: str) -> None:
    scene = some_scene(3)
    getattr(scene, name).view(-1)[1] = float("nan")
    with pytest.raises(InvalidInputError, match=f"gaussian {name} has 1 values"):
        write(tmp_path / "scene", scene)
    assert not list(tmp_path.iterdir())


@WRITERS
def test_quaternion_without_direction_is_refused(tmp_path: Path, write: Any) -> None:
    scene = some_scene(3)
    scene.quats_wxyz[1] = 0
    with pytest.raises(InvalidInputError, match="1 Gaussians have a quaternion of length 0"):
        write(tmp_path / "scene", scene)


@WRITERS
def test_failure_leaves_the_older_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Any) -> None:
    path = tmp_path / "scene"
    path.write_bytes(b"older")

    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(StorageError, match="No space left"):
        write(path, some_scene())
    assert path.read_bytes() == b"older" and list(tmp_path.iterdir()) == [path]

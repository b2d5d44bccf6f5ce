"""SuperSplat's compressed PLY files, written here bit by bit, and PLY files with elements in any order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from reconx_ros.core import InvalidInputError, StorageError
from reconx_ros.io.gaussians import read_scene_ply
from reconx_ros.io.ply import read_ply, read_ply_file

COUNT = 300  # two chunks, the second not full
SH_C0 = 0.28209479177387814
RNG = np.random.default_rng(7)
MEANS = RNG.uniform(-3, 5, (COUNT, 3))
LOG_SCALES = RNG.uniform(-7, -2, (COUNT, 3))
QUATS = RNG.normal(size=(COUNT, 4))
QUATS /= np.linalg.norm(QUATS, axis=1, keepdims=True)
COLOURS = RNG.uniform(-0.2, 1.3, (COUNT, 3))
OPACITIES = np.r_[0.0, 1.0, RNG.uniform(0.02, 0.98, COUNT - 2)]
HARMONICS = RNG.integers(0, 256, (COUNT, 9), dtype=np.uint8)


def packed_bits(shares: np.ndarray, widths: tuple[int, ...]) -> np.ndarray:
    word = np.zeros(len(shares), np.uint32)
    for share, width in zip(shares.T, widths, strict=True):
        word = (word << width) | np.rint(share * ((1 << width) - 1)).astype(np.uint32)
    return word


def packed_quaternions(quats_wxyz: np.ndarray) -> np.ndarray:
    words = []
    for q in quats_wxyz:
        largest = int(np.argmax(np.abs(q)))
        others = np.delete(q * np.sign(q[largest]), largest)
        steps = np.rint((others / 2**0.5 + 0.5) * 1023).astype(np.uint32)
        words.append(largest << 30 | int(steps[0]) << 20 | int(steps[1]) << 10 | int(steps[2]))
    return np.array(words, np.uint32)


def write(path: Path, *, colour_bounds: bool = True, harmonics: bool = False) -> None:
    """The file as PlayCanvas' writer lays it out."""
    values = {"": MEANS, "scale_": LOG_SCALES} | ({"c": COLOURS} if colour_bounds else {})
    names, chunks, shares = [], [], {}
    for kind, rows in values.items():
        axes = "rgb" if kind == "c" else "xyz"
        prefix = "" if kind == "c" else kind
        parts = [rows[i : i + 256] for i in range(0, COUNT, 256)]
        bounds = [(p.min(0), p.max(0)) for p in parts]
        names += [f"{end}_{prefix}{axis}" for end in ("min", "max") for axis in axes]
        chunks.append(np.array([np.r_[low, high] for low, high in bounds], "<f4"))
        shares[kind] = np.concatenate([(p - lo) / (hi - lo) for p, (lo, hi) in zip(parts, bounds, strict=True)])
    colour = shares["c"] if colour_bounds else COLOURS.clip(0, 1)
    vertices = np.stack(
        [
            packed_bits(shares[""], (11, 10, 11)),
            packed_quaternions(QUATS),
            packed_bits(shares["scale_"], (11, 10, 11)),
            packed_bits(np.c_[colour, OPACITIES], (8, 8, 8, 8)),
        ],
        axis=-1,
    ).astype("<u4")
    header = ["ply", "format binary_little_endian 1.0", f"element chunk {len(chunks[0])}"]
    header += [f"property float {name}" for name in names] + [f"element vertex {COUNT}"]
    header += [f"property uint packed_{name}" for name in ("position", "rotation", "scale", "color")]
    if harmonics:
        header += [f"element sh {COUNT}", *(f"property uchar f_rest_{i}" for i in range(9))]
    body = np.concatenate(chunks, axis=1).tobytes() + vertices.tobytes() + (HARMONICS.tobytes() if harmonics else b"")
    path.write_bytes("\n".join([*header, "end_header", ""]).encode() + body)


@pytest.mark.parametrize("colour_bounds", [True, False])
def test_every_property_comes_back_to_its_step(tmp_path: Path, colour_bounds: bool) -> None:
    write(tmp_path / "scene.ply", colour_bounds=colour_bounds)
    scene = read_scene_ply(tmp_path / "scene.ply")
    assert np.abs(scene.means.numpy() - MEANS).max() < 8 / 1023
    assert np.abs(scene.log_scales.numpy() - LOG_SCALES).max() < 5 / 1023
    same = np.abs((scene.quats_wxyz.numpy() * QUATS).sum(axis=1))
    assert same.min() > 1 - 1e-5
    wanted = COLOURS if colour_bounds else COLOURS.clip(0, 1)
    assert np.abs(0.5 + SH_C0 * scene.sh[:, 0].numpy() - wanted).max() < 1.5 / 255
    assert np.abs(scene.logit_opacities.sigmoid().numpy() - OPACITIES).max() < 1 / 255
    assert not bool(scene.provenance.any()) and not bool(scene.confidence.any())


def test_harmonics_are_bytes_from_minus_four_to_four(tmp_path: Path) -> None:
    write(tmp_path / "scene.ply", harmonics=True)
    scene = read_scene_ply(tmp_path / "scene.ply")
    assert scene.sh_degree == 1
    red = scene.sh[:, 1:, 0].numpy()  # f_rest_0 to f_rest_2
    assert np.abs(red - (HARMONICS[:, :3] / 255 * 8 - 4)).max() < 0.04


def test_damaged_compressed_files_are_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "scene.ply"
    write(path)
    data = path.read_bytes()
    path.write_bytes(data[:-5])
    with pytest.raises(StorageError, match="truncated"):
        read_scene_ply(path)
    path.write_bytes(data.replace(b"max_scale_y", b"max_scale_q"))
    with pytest.raises(InvalidInputError, match="lacks the vertex properties max_scale_y"):
        read_scene_ply(path)
    start = data.index(b"end_header\n") + len(b"end_header\n")
    path.write_bytes(data[:start].replace(b"chunk 2", b"chunk 1") + data[start + 72 :])
    with pytest.raises(InvalidInputError, match="has 1 chunks, expected 2 for 300 Gaussians"):
        read_scene_ply(path)


@pytest.mark.parametrize("form", ["ascii", "binary_little_endian", "binary_big_endian"])
def test_elements_before_the_vertices_are_walked_over(tmp_path: Path, form: str) -> None:
    header = f"ply\r\nformat {form} 1.0\r\ncomment offset 1 2 3\r\nelement camera 1\nproperty float focal\n"
    header += "element face 2\nproperty list uchar int vertex_indices\nproperty uchar flag\n"
    header += "element vertex 2\nproperty double x\nelement other 1\nproperty int n\nend_header\n"
    order = ">" if form == "binary_big_endian" else "<"
    faces = b"\x03" + np.arange(3, dtype=f"{order}i4").tobytes() + b"\x01\x00\x01"
    body = np.array([525], f"{order}f4").tobytes() + faces + np.array([1.5, -2], f"{order}f8").tobytes() + bytes(4)
    if form == "ascii":
        body = b"525\n3 0 1 2 1\n0 1\n1.5\n-2\n0\n"
    path = tmp_path / "x.ply"
    path.write_bytes(header.encode() + body)
    assert read_ply(path)["x"].tolist() == [1.5, -2.0]
    file = read_ply_file(path, ["camera", "none"])
    assert file.comments == ("offset 1 2 3",) and file.elements["camera"]["focal"][0] == 525
    if form != "ascii":
        path.write_bytes(header.encode() + body[:12])
        with pytest.raises(StorageError, match="truncated"):
            read_ply(path)


def test_the_viewer_opens_a_file_alone(tmp_path: Path) -> None:
    from reconx_ros.viz.viewer.data import load_result

    write(tmp_path / "garden.compressed.ply")
    shown = load_result(tmp_path / "garden.compressed.ply")
    assert shown.scene is not None and len(shown.scene) == COUNT and shown.title == "garden.compressed"

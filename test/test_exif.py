"""Focal lengths and rotation that cameras note in their files."""

from __future__ import annotations

import math
import struct
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from reconx_ros.core import StorageError
from reconx_ros.io import images
from reconx_ros.io.exif import focal_length_px
from reconx_ros.io.image_size import image_size
from reconx_ros.io.scenes import read_scene


def exif(tags: dict[int, tuple[int, float]], orientation: int = 1, order: str = "<") -> bytes:
    """An APP1 segment: orientation in the main directory, other tags (type 3 short or 5 rational) in the EXIF one."""
    main = struct.pack(order + "H", 2)
    main += struct.pack(order + "HHIHH", 0x0112, 3, 1, orientation, 0)
    main += struct.pack(order + "HHII", 0x8769, 4, 1, 8 + 2 + 24 + 4) + struct.pack(order + "I", 0)
    start = 8 + len(main)
    data_at = start + 2 + 12 * len(tags) + 4
    entries, data = b"", b""
    for tag, (kind, value) in sorted(tags.items()):
        if kind == 3:
            entries += struct.pack(order + "HHIHH", tag, 3, 1, int(value), 0)
        else:
            entries += struct.pack(order + "HHII", tag, 5, 1, data_at + len(data))
            data += struct.pack(order + "II", round(value * 1000), 1000)
    tiff = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8) + main
    tiff += struct.pack(order + "H", len(tags)) + entries + struct.pack(order + "I", 0) + data
    body = b"Exif\0\0" + tiff
    return b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body


def photo(path: Path, segment: bytes, width: int = 64, height: int = 48) -> np.ndarray:
    rgb = np.zeros((height, width, 3), np.uint8)
    rgb[: height // 2] = 200
    jpeg = images.encode_jpeg(rgb)
    path.write_bytes(jpeg[:2] + segment + jpeg[2:])
    return rgb


@pytest.mark.parametrize("order", ["<", ">"])
def test_the_35_mm_equivalent(tmp_path: Path, order: str) -> None:
    photo(tmp_path / "a.jpg", exif({0xA405: (3, 26)}, order=order))
    expected = 26 / 43.267 * math.hypot(64, 48)
    assert focal_length_px(tmp_path / "a.jpg", 64, 48) == pytest.approx(expected)
    frame = read_scene(tmp_path).frames[0]
    assert frame.camera.fx == pytest.approx(expected) and 0 < frame.focal_uncertainty < 0.1


def test_focal_length_and_plane_resolution(tmp_path: Path) -> None:
    tags = {0x920A: (5, 50.0), 0xA20E: (5, 4000 / 36 * 25.4), 0xA210: (3, 2), 0xA002: (3, 4000)}
    photo(tmp_path / "a.jpg", exif(tags))
    assert focal_length_px(tmp_path / "a.jpg", 640, 427) == pytest.approx(50 / 36 * 640, rel=1e-3)


@pytest.mark.parametrize("segment", [b"", exif({}), exif({0xA405: (3, 0)}), exif({0xA405: (3, 26)})[:24]])
def test_unknown_is_none_and_the_frame_says_it_is_a_guess(tmp_path: Path, segment: bytes) -> None:
    (tmp_path / "a.jpg").write_bytes(images.encode_jpeg(np.zeros((48, 64, 3), np.uint8))[:2] + segment)
    assert focal_length_px(tmp_path / "a.jpg", 64, 48) is None
    photo(tmp_path / "a.jpg", b"")
    assert read_scene(tmp_path).frames[0].focal_uncertainty > 0.2
    assert read_scene(tmp_path, fov_deg=60).frames[0].focal_uncertainty == 0


def test_rotation_is_honoured(tmp_path: Path) -> None:
    upright = photo(tmp_path / "a.jpg", exif({0xA405: (3, 26)}, orientation=6))
    frame = read_scene(tmp_path).frames[0]
    assert frame.camera.size == (48, 64)
    assert np.abs(frame.rgb_u8.astype(int) - np.rot90(upright, -1)).mean() < 3
    assert (frame.camera.cx, frame.camera.cy) == (23.5, 31.5)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow says what it skips
@given(st.data())
def test_damaged_notes_are_no_notes(data: st.DataObject) -> None:
    """Any byte of the block may be wrong: there is a positive focal length or none, and never an error."""
    block = bytearray(exif({0x920A: (5, 50.0), 0xA20E: (5, 100.0), 0xA210: (3, 2), 0xA002: (3, 4000)}))
    for place in data.draw(st.lists(st.integers(4, len(block) - 1), min_size=1, max_size=4)):
        block[place] = data.draw(st.integers(0, 255))
    jpeg = images.encode_jpeg(np.zeros((48, 64, 3), np.uint8))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.jpg"
        path.write_bytes(jpeg[:2] + bytes(block) + jpeg[2:])
        focal = focal_length_px(path, 64, 48)
        assert focal is None or 0 < focal < math.inf
        assert sorted(image_size(path)) == [48, 64]


def test_notes_in_other_formats_are_read(tmp_path: Path) -> None:
    Image.new("RGB", (64, 48)).save(tmp_path / "a.webp", exif=exif({0xA405: (3, 26)})[4:])
    assert focal_length_px(tmp_path / "a.webp", 64, 48) == pytest.approx(26 / 43.267 * 80)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"no\.jpg cannot be read"):
        focal_length_px(tmp_path / "no.jpg", 64, 48)

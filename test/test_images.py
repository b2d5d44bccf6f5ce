"""Images and depth maps as files and bytes."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from reconx_ros.core import InvalidInputError, StorageError
from reconx_ros.core.files import write_bytes
from reconx_ros.io import image_size, images

rgb_arrays = hnp.arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12), st.just(3)))
millimetres = hnp.arrays(np.uint16, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 65534))


def smooth(height: int = 48, width: int = 64) -> np.ndarray:
    v, u = np.mgrid[0:height, 0:width]
    return np.stack([u * 3, v * 4, 255 - u - v], axis=-1).clip(0, 255).astype(np.uint8)


@given(rgb_arrays)
def test_png_bytes_round_trip_exactly(rgb: np.ndarray) -> None:
    assert np.array_equal(images.decode_image(images.encode_png(rgb)), rgb)


@given(millimetres)
def test_depth_bytes_round_trip_to_the_millimetre(units: np.ndarray) -> None:
    depth = units.astype(np.float32) * np.float32(0.001)
    for back in (
        images.decode_depth_png(images.encode_depth_png(depth)),
        images.decode_compressed_depth(images.encode_compressed_depth(depth), "16UC1; compressedDepth png"),
    ):
        assert back.dtype == np.float32
        assert np.array_equal(back, depth)


def test_files_round_trip(tmp_path: Path) -> None:
    rgb = smooth()
    images.write_image(tmp_path / "a.png", rgb)
    assert np.array_equal(images.read_image(tmp_path / "a.png"), rgb)
    images.write_image(tmp_path / "a.jpg", rgb)
    assert np.abs(images.read_image(tmp_path / "a.jpg").astype(int) - rgb).mean() < 2
    images.write_depth(tmp_path / "d.png", np.full((4, 5), 1.234, np.float32))
    assert images.read_depth(tmp_path / "d.png") == pytest.approx(np.full((4, 5), 1.234), abs=1e-6)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["a.jpg", "a.png", "d.png"]


def test_colours_are_rgb_not_bgr() -> None:
    red = np.zeros((8, 8, 3), np.uint8)
    red[..., 0] = 250
    assert images.decode_image(images.encode_jpeg(red, 100))[4, 4, 0] > 200
    assert cv2.imdecode(np.frombuffer(images.encode_png(red), np.uint8), cv2.IMREAD_COLOR)[4, 4, 2] == 250


def test_unknown_and_too_far_depth_becomes_zero() -> None:
    depth = np.array([[np.nan, np.inf, -1.0, 0.0, 65.534, 65.535, 1.0]], np.float32)
    assert images.decode_depth_png(images.encode_depth_png(depth))[0] == pytest.approx([0, 0, 0, 0, 65.534, 0, 1.0])


def test_float_compressed_depth_is_dequantised() -> None:
    a, b = 1000.0, 50.0
    depth = np.array([[0.5, 2.0, 8.0]])
    png = cv2.imencode(".png", np.append(a / depth + b, [[0]], axis=1).astype(np.uint16))[1].tobytes()
    out = images.decode_compressed_depth(struct.pack("<iff", 1, a, b) + png, "32FC1; compressedDepth png")
    assert out[0] == pytest.approx([0.5, 2.0, 8.0, 0.0], rel=5e-3)


def test_depth_without_the_compressed_depth_header_is_plain_png() -> None:
    png = images.encode_depth_png(np.full((3, 3), 2.0, np.float32))
    assert images.decode_compressed_depth(png, "16UC1; png compressed ") == pytest.approx(np.full((3, 3), 2.0))


@pytest.mark.parametrize(
    ("data", "encoding", "message"),
    [
        (b"", "16UC1; compressedDepth png", "0 bytes"),
        (b"x" * 40, "16UC1; compressedDepth png", "cannot be decoded"),
        (images.encode_compressed_depth(np.ones((3, 3), np.float32)), "16UC1; compressedDepth rvl", "rvl"),
        (images.encode_compressed_depth(np.ones((3, 3), np.float32)), "8UC1; compressedDepth png", "8UC1"),
        (images.encode_png(smooth()), "16UC1; png", "expected one 16-bit channel"),
    ],
)
def test_depth_payloads_that_cannot_be_used(data: bytes, encoding: str, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        images.decode_compressed_depth(data, encoding)


def test_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"nothing\.png cannot be read"):
        images.read_image(tmp_path / "nothing.png")
    for name, content in (("empty.jpg", b""), ("text.png", b"hello"), ("half.png", images.encode_png(smooth())[:200])):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InvalidInputError, match=name):
            images.read_image(tmp_path / name)
    with pytest.raises(StorageError, match="cannot be written"):
        images.write_image(tmp_path / "no" / "folder.png", smooth())
    with pytest.raises(InvalidInputError, match=r"'\.xyz'"):
        images.write_image(tmp_path / "a.xyz", smooth())


def test_wrong_arrays_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="uint8"):
        images.encode_png(np.zeros((4, 4, 3), np.float32))
    with pytest.raises(InvalidInputError, match="shape"):
        images.encode_jpeg(np.zeros((4, 4), np.uint8))
    with pytest.raises(InvalidInputError, match="quality"):
        images.encode_jpeg(smooth(), 0)
    with pytest.raises(InvalidInputError, match="unit"):
        images.encode_depth_png(np.zeros((2, 2), np.float32), unit_m=0)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "a.bin"
    write_bytes(target, b"old")

    def full_disk(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full_disk)
    with pytest.raises(StorageError, match="No space left"):
        write_bytes(target, b"new")
    assert target.read_bytes() == b"old"
    assert [f.name for f in tmp_path.iterdir()] == ["a.bin"]


def test_image_files_come_in_natural_order(tmp_path: Path) -> None:
    for name in ("img10.jpg", "img2.jpg", "img1.PNG", ".hidden.jpg", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    assert [f.name for f in images.image_files(tmp_path)] == ["img1.PNG", "img2.jpg", "img10.jpg"]
    with pytest.raises(StorageError, match="cannot be listed"):
        images.image_files(tmp_path / "nothing")


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "progressive.jpg", "a.bmp", "a.webp", "a.tif", "a.ppm", "grey.png"])
def test_sizes_are_read_without_decoding(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = np.zeros((21, 34) if name.startswith("grey") else (21, 34, 3), np.uint8)
    options = [cv2.IMWRITE_JPEG_PROGRESSIVE, 1] if name.startswith("progressive") else []
    assert cv2.imwrite(str(tmp_path / name), picture, options)
    monkeypatch.setattr(image_size, "read_image", lambda *_, **__: pytest.fail("the picture was decoded"))
    assert image_size.image_size(tmp_path / name) == (34, 21)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_the_measured_size_is_that_of_the_decoded_picture(tmp_path: Path, kind: str, orientation: int) -> None:
    exif, path = Image.Exif(), tmp_path / f"a.{kind.lower()}"
    exif[0x0112] = orientation
    Image.new("RGB", (34, 21)).save(path, kind, exif=exif)
    for as_stored in (False, True):
        height, width = images.read_image(path, as_stored=as_stored).shape[:2]
        assert image_size.image_size(path, as_stored=as_stored) == (width, height)


def test_what_has_no_size_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("not a picture")
    with pytest.raises(InvalidInputError, match=r"image .*text\.jpg cannot be decoded"):
        image_size.image_size(tmp_path / "text.jpg")
    with pytest.raises(StorageError, match=r"no\.jpg cannot be read: No such file"):
        image_size.image_size(tmp_path / "no.jpg")
    assert image_size.size_in_head(b"\xff\xd8\xff", "picture") is None


def test_a_picture_that_announces_too_many_pixels_is_refused_unseen(tmp_path: Path) -> None:
    png = with_size(images.encode_png(smooth()), 40_000, 40_000)
    (tmp_path / "bomb.png").write_bytes(png)
    with pytest.raises(InvalidInputError, match=r"^image .*bomb\.png announces more than \d+ pixels, expected fewer$"):
        image_size.image_size(tmp_path / "bomb.png")


def with_size(png: bytes, width: int, height: int) -> bytes:
    """The bytes of a PNG whose header announces another size."""
    header = b"IHDR" + struct.pack(">II", width, height) + png[24:29]
    return png[:12] + header + struct.pack(">I", zlib.crc32(header)) + png[33:]

"""Images and depth maps as files and as bytes: RGB uint8 inside, PNG and JPEG outside.

Depth is float32 metres with 0 where nothing was seen; outside it is a 16-bit PNG, by default in millimetres (REP-118's
``16UC1``). ``compressedDepth`` payloads are those of ROS's ``compressed_depth_image_transport``.
"""

from __future__ import annotations

import importlib.util
import io
import re
import struct
from pathlib import Path

import numpy as np

from reconx_ros.core import InvalidInputError, StorageError, check_shape
from reconx_ros.core.files import write_bytes

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm"})
HEIF_SUFFIXES = frozenset({".heic", ".heif", ".hif"})  # of phones; read where pillow-heif is installed
HEIF_CURE = "pip install pillow-heif reads them"
MILLIMETRE = 0.001
_NO_DEPTH = 65535  # what sensors write for unknown, besides 0
_DEPTH_HEADER = struct.Struct("<iff")  # format, quantisation A, quantisation B


def image_files(folder: Path) -> list[Path]:
    """Image files directly in a folder, in natural order (2 before 10).

    Raises:
        StorageError: when the folder cannot be listed.
    """
    suffixes = IMAGE_SUFFIXES | HEIF_SUFFIXES if heif_is_readable() else IMAGE_SUFFIXES
    try:
        files = [f for f in folder.iterdir() if f.suffix.lower() in suffixes and not f.name.startswith(".")]
    except OSError as err:
        raise StorageError(f"folder {folder} cannot be listed: {err.strerror}") from err
    return sorted(files, key=natural_order)


def heif_is_readable() -> bool:
    """Whether pillow-heif is installed, which reads HEIC files."""
    return importlib.util.find_spec("pillow_heif") is not None


def natural_order(path: Path) -> list[tuple[int, str]]:
    """Sort key by file name with numbers as numbers: 2 before 10."""
    return [(int(t), "") if t.isdecimal() else (-1, t) for t in re.split(r"(\d+)", path.name)]


def read_image(path: Path | str, *, as_stored: bool = False) -> np.ndarray:
    """Image file as RGB [H, W, 3] uint8; grey becomes RGB, transparency is dropped, EXIF rotation is applied.

    Args:
        path: the file.
        as_stored: leave out the EXIF rotation; calibrations refer to the pixels as they are stored.

    Raises:
        StorageError: when the file is missing or cannot be read.
        InvalidInputError: when it is not an image.
    """
    if Path(path).suffix.lower() in HEIF_SUFFIXES:
        return _decoded_heif(read_bytes(path), f"image {path}")
    return decode_image(read_bytes(path), f"image {path}", as_stored=as_stored)


def _decoded_heif(data: bytes, name: str) -> np.ndarray:
    """RGB of a HEIC file, whose decoder turns it as it was held."""
    if not heif_is_readable():
        raise InvalidInputError(f"{name} is a HEIC file, expected another format or pillow-heif: {HEIF_CURE}")
    import pillow_heif

    try:
        picture = pillow_heif.read_heif(io.BytesIO(data), convert_hdr_to_8bit=True).to_pillow().convert("RGB")
    except (ValueError, EOFError, RuntimeError, SyntaxError, OSError) as err:
        raise InvalidInputError(f"{name} cannot be decoded, expected a complete HEIC file: {err}") from None
    return np.ascontiguousarray(np.asarray(picture, np.uint8))


def write_image(path: Path | str, rgb_u8: np.ndarray, *, jpeg_quality: int = 95) -> None:
    """Write RGB [H, W, 3] uint8 as PNG or JPEG, by the file's suffix; readers never see half a file.

    Raises:
        StorageError: when it cannot be written.
        InvalidInputError: for another shape, type or suffix.
    """
    suffix = Path(path).suffix.lower()
    if suffix == ".png":
        write_bytes(path, encode_png(rgb_u8))
    elif suffix in (".jpg", ".jpeg"):
        write_bytes(path, encode_jpeg(rgb_u8, jpeg_quality))
    else:
        raise InvalidInputError(f"image file {path} has suffix '{suffix}', expected .png or .jpg")


def read_depth(path: Path | str, unit_m: float = MILLIMETRE) -> np.ndarray:
    """16-bit depth PNG as [H, W] float32 metres, 0 where nothing was seen.

    Raises:
        StorageError, InvalidInputError: as ``read_image``, or when it is not a single 16-bit channel.
    """
    return decode_depth_png(read_bytes(path), unit_m, f"depth {path}")


def write_depth(path: Path | str, depth_m: np.ndarray, unit_m: float = MILLIMETRE) -> None:
    """Write depth [H, W] in metres as a 16-bit PNG; NaN and what does not fit 16 bits become 0 (unknown).

    Raises:
        StorageError: when it cannot be written.
        InvalidInputError: for another shape.
    """
    write_bytes(path, encode_depth_png(depth_m, unit_m))


def decode_image(data: bytes | memoryview | np.ndarray, name: str = "image", *, as_stored: bool = False) -> np.ndarray:
    """Encoded image bytes (JPEG, PNG, ...) as RGB [H, W, 3] uint8; ``as_stored`` as in ``read_image``.

    Raises:
        InvalidInputError: when the bytes are not an image; ``name`` says which.
    """
    import cv2

    flags = cv2.IMREAD_COLOR | (cv2.IMREAD_IGNORE_ORIENTATION if as_stored else 0)
    return np.ascontiguousarray(_decoded(data, flags, name)[..., ::-1])  # BGR -> RGB


def decode_stored(data: bytes | memoryview | np.ndarray, name: str = "image") -> np.ndarray:
    """Encoded image bytes as they are stored: [H, W] or [H, W, C] uint8 or uint16, colours BGR or BGRA, EXIF ignored.

    Raises:
        InvalidInputError: when the bytes are not an image; ``name`` says which.
    """
    import cv2

    return _decoded(data, cv2.IMREAD_UNCHANGED, name)


def encode_jpeg(rgb_u8: np.ndarray, quality: int = 92) -> bytes:
    """RGB [H, W, 3] uint8 as JPEG, colour at full resolution: halving it costs fine textures several dB.

    Raises:
        InvalidInputError: for another shape or type, or a quality outside [1, 100].
    """
    import cv2

    if not 1 <= quality <= 100:
        raise InvalidInputError(f"JPEG quality is {quality}, expected a number in [1, 100]")
    options = [cv2.IMWRITE_JPEG_QUALITY, int(quality)]
    if hasattr(cv2, "IMWRITE_JPEG_SAMPLING_FACTOR"):  # OpenCV 4.7 and later
        options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    return _encoded(".jpg", _bgr(rgb_u8), options)


def encode_png(rgb_u8: np.ndarray) -> bytes:
    """RGB [H, W, 3] uint8 as PNG, lossless.

    Raises:
        InvalidInputError: for another shape or type.
    """
    return _encoded(".png", _bgr(rgb_u8), [])


def encode_depth_png(depth_m: np.ndarray, unit_m: float = MILLIMETRE) -> bytes:
    """Depth [H, W] in metres as 16-bit PNG in units of ``unit_m``; NaN, negative and too large values become 0.

    Raises:
        InvalidInputError: for another shape, or a unit that is not positive.
    """
    check_shape("depth", depth_m, "H", "W")
    units = np.rint(np.nan_to_num(depth_m, nan=0.0, posinf=0.0, neginf=0.0) / _checked_unit(unit_m))
    fits = (units > 0) & (units < _NO_DEPTH)
    return _encoded(".png", np.where(fits, units, 0).astype(np.uint16), [])


def decode_depth_png(
    data: bytes | memoryview | np.ndarray, unit_m: float = MILLIMETRE, name: str = "depth"
) -> np.ndarray:
    """16-bit PNG bytes as depth [H, W] float32 metres, 0 where nothing was seen (0 and 65535 in the file).

    Raises:
        InvalidInputError: when the bytes are not an image of one 16-bit channel.
    """
    steps = _decoded_u16(data, name)
    return np.where(steps == _NO_DEPTH, 0, steps).astype(np.float32) * np.float32(_checked_unit(unit_m))


def decode_compressed_depth(data: bytes | memoryview | np.ndarray, encoding: str, name: str = "depth") -> np.ndarray:
    """Depth [H, W] float32 metres, 0 where unknown, of a ROS CompressedImage on a ``compressedDepth`` topic.

    The payload is a 12-byte header and a 16-bit PNG: millimetres for ``16UC1``; for ``32FC1`` the header's A and B give
    ``depth = A / (png - B)`` metres. A PNG without header (plain ``png`` transport) is taken as millimetres.

    Args:
        data: the message's bytes.
        encoding: the message's ``format``, such as "16UC1; compressedDepth png".
        name: what the depth is called in errors.

    Raises:
        InvalidInputError: for an unknown encoding or compression, or bytes that cannot be decoded.
    """
    payload = bytes(data)
    if "compresseddepth" not in encoding.lower():
        return decode_depth_png(payload, name=name)
    if "rvl" in encoding.lower():
        raise InvalidInputError(f"{name} is compressed with rvl ('{encoding}'), expected compressedDepth png")
    if len(payload) <= _DEPTH_HEADER.size:
        raise InvalidInputError(f"{name} has {len(payload)} bytes, expected a compressedDepth header and a PNG")
    _, a, b = _DEPTH_HEADER.unpack_from(payload)
    kind = encoding.split(";")[0].strip()
    if kind == "32FC1":
        return _dequantised(_decoded_u16(payload[_DEPTH_HEADER.size :], name), a, b)
    if kind not in ("16UC1", "mono16"):
        raise InvalidInputError(f"{name} has encoding '{encoding}', expected 16UC1 or 32FC1 with compressedDepth png")
    return decode_depth_png(payload[_DEPTH_HEADER.size :], name=name)


def encode_compressed_depth(depth_m: np.ndarray) -> bytes:
    """Payload of a "16UC1; compressedDepth png" message of depth [H, W] in metres.

    Raises:
        InvalidInputError: for another shape.
    """
    return _DEPTH_HEADER.pack(0, 0.0, 0.0) + encode_depth_png(depth_m)


def read_bytes(path: Path | str) -> bytes:
    """The content of a file.

    Raises:
        StorageError: when it is missing or cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except OSError as err:
        raise StorageError(f"file {path} cannot be read: {err.strerror}") from err


def _bgr(rgb_u8: np.ndarray) -> np.ndarray:
    check_shape("image", rgb_u8, "H", "W", 3)
    if rgb_u8.dtype != np.uint8:
        raise InvalidInputError(f"image has type {rgb_u8.dtype}, expected uint8 RGB")
    return np.ascontiguousarray(rgb_u8[..., ::-1])


def _encoded(suffix: str, image: np.ndarray, options: list[int]) -> bytes:
    import cv2

    try:
        return bytes(cv2.imencode(suffix, image, options)[1].tobytes())
    except cv2.error as err:
        raise InvalidInputError(f"image of shape {list(image.shape)} cannot be encoded as {suffix}") from err


def _decoded(data: bytes | memoryview | np.ndarray, flags: int, name: str) -> np.ndarray:
    import cv2

    raw = np.frombuffer(data, np.uint8)
    try:
        image = cv2.imdecode(raw, flags) if raw.size else None
    except cv2.error:
        image = None
    if image is None:
        raise InvalidInputError(f"{name} cannot be decoded from {raw.size} bytes, expected a complete PNG or JPEG")
    return image


def _decoded_u16(data: bytes | memoryview | np.ndarray, name: str) -> np.ndarray:
    import cv2

    image = _decoded(data, cv2.IMREAD_UNCHANGED, name)
    if image.ndim != 2 or image.dtype != np.uint16:
        raise InvalidInputError(f"{name} is {image.dtype} of shape {list(image.shape)}, expected one 16-bit channel")
    return image


def _dequantised(inverse: np.ndarray, a: float, b: float) -> np.ndarray:
    known = (inverse > 0) & (inverse.astype(np.float32) != b)
    depth = a / (np.where(known, inverse, b + 1).astype(np.float32) - b)
    return np.where(known & np.isfinite(depth) & (depth > 0), depth, 0).astype(np.float32)


def _checked_unit(unit_m: float) -> float:
    if not (np.isfinite(unit_m) and unit_m > 0):
        raise InvalidInputError(f"depth unit is {unit_m} m, expected a positive number of metres")
    return unit_m

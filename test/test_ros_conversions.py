"""Messages to and from the library's types; no node is started."""

from __future__ import annotations

import array
import struct

import numpy as np
import pytest

pytest.importorskip("sensor_msgs")

import cv2
from hypothesis import given
from hypothesis import strategies as st
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2, PointField
from std_msgs.msg import Header
from test_images import with_size

from reconx_ros.core import SE3, Frame, InvalidInputError, Keyframe, PinholeCamera, PointCloud
from reconx_ros.io.guards import announced_size
from reconx_ros.io.images import encode_depth_png, encode_jpeg, encode_png
from reconx_ros.ros.conversions import (
    camera_info_msg,
    cloud_from_msg,
    cloud_msg,
    depth_from_compressed,
    depth_from_image,
    frustum_markers,
    header_msg,
    image_msg,
    image_view,
    ns_from_stamp,
    path_msg,
    pinhole_from_info,
    pose_msg,
    rectifier_from_info,
    rgb_from_compressed,
    rgb_from_image,
    se3_from_pose,
    time_msg,
)
from reconx_ros.ros.conversions.markers import frustum_corners

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 255, (5, 7, 3), np.uint8)
CAMERA = PinholeCamera(width=7, height=5, fx=6.0, fy=6.5, cx=3.1, cy=1.9)


def image(encoding: str, data: bytes, *, width: int = 2, height: int = 2, step: int = 0, big: bool = False) -> Image:
    msg = Image(encoding=encoding, width=width, height=height, step=step, is_bigendian=int(big))
    msg.data = array.array("B", data)
    return msg


# Images ---------------------------------------------------------------------------------------------------------


def test_rgb8_is_a_view_and_round_trips() -> None:
    msg = image_msg(RGB, "rgb8", Header())
    pixels = rgb_from_image(msg)
    np.testing.assert_array_equal(pixels, RGB)
    msg.data[0] = 200
    assert pixels[0, 0, 0] == 200  # no copy
    assert (msg.step, msg.width, msg.height) == (21, 7, 5)


@pytest.mark.parametrize(
    ("encoding", "pixel"),
    [("bgr8", [3, 2, 1]), ("rgba8", [1, 2, 3, 9]), ("bgra8", [3, 2, 1, 9]), ("rgb8", [1, 2, 3])],
)
def test_channel_orders(encoding: str, pixel: list[int]) -> None:
    msg = image(encoding, bytes(pixel * 4))
    assert rgb_from_image(msg)[1, 1].tolist() == [1, 2, 3]


def test_mono8_becomes_grey() -> None:
    assert rgb_from_image(image("mono8", bytes([1, 2, 3, 4])))[1, 0].tolist() == [3, 3, 3]


def test_row_step_is_honoured_and_last_padding_may_be_missing() -> None:
    padded = bytes([1, 2, 3, 4, 5, 6, 99, 99, 7, 8, 9, 10, 11, 12])
    assert rgb_from_image(image("rgb8", padded, step=8))[1].tolist() == [[7, 8, 9], [10, 11, 12]]


def test_depth_in_millimetres_of_both_byte_orders() -> None:
    for big in (False, True):
        data = struct.pack(">4H" if big else "<4H", 1500, 0, 2000, 65535)
        depth = depth_from_image(image("16UC1", data, big=big))
        assert depth.dtype == np.float32
        np.testing.assert_allclose(depth, [[1.5, np.nan], [2.0, np.nan]], rtol=1e-6)  # 65535 is no measurement


def test_depth_that_is_not_finite_and_positive_is_unknown() -> None:
    data = struct.pack("<4f", float("nan"), float("inf"), -1.0, 3.25)
    np.testing.assert_array_equal(depth_from_image(image("32FC1", data)), [[np.nan, np.nan], [np.nan, 3.25]])


def stored(pixels: np.ndarray, encoding: str, *, padding: int = 0, big: bool = False) -> Image:
    """An image message of an array [rows, ...], with padded rows, of either byte order."""
    rows = [row.astype(row.dtype.newbyteorder(">" if big else "<")).tobytes() for row in pixels]
    height = pixels.shape[0] * 2 // 3 if encoding.startswith("nv") else pixels.shape[0]
    data = b"".join(row + b"\xa5" * padding for row in rows)
    return image(encoding, data, width=pixels.shape[1], height=height, step=len(rows[0]) + padding, big=big)


def smooth_picture(height: int = 24, width: int = 32) -> np.ndarray:
    """RGB float [H, W, 3] in [30, 225] without edges: neighbours differ by little."""
    v, u = np.mgrid[:height, :width] / 32.0
    return np.stack([40 + 150 * u, 60 + 120 * v, 200 - 100 * u * v], axis=-1)


def yuv_of(rgb: np.ndarray) -> np.ndarray:
    """Y, U, V of ITU-R BT.601 with luma 16 to 235, from its definition."""
    r, g, b = np.moveaxis(rgb / 255.0, -1, 0)
    y = 0.299 * r + 0.587 * g + 0.114 * b
    return np.stack([16 + 219 * y, 128 + 224 * (b - y) / 1.772, 128 + 224 * (r - y) / 1.402], axis=-1)


def packed_yuv(rgb: np.ndarray, encoding: str) -> np.ndarray:
    """The buffer of a picture in one of the YUV encodings."""
    y, u, v = np.moveaxis(np.round(yuv_of(rgb)).astype(np.uint8), -1, 0)
    if encoding.startswith("nv"):
        chroma = np.stack([u, v] if encoding == "nv12" else [v, u], axis=-1)[::2, ::2]
        return np.concatenate([y, chroma.reshape(len(chroma), -1)])
    chroma = np.where(np.arange(y.shape[1]) % 2 == 0, u, np.roll(v, 1, axis=1))
    return np.stack([chroma, y] if encoding in ("uyvy", "yuv422") else [y, chroma], axis=-1)


@pytest.mark.parametrize("padding", [0, 6])
@pytest.mark.parametrize("encoding", ["uyvy", "yuv422", "yuyv", "yuv422_yuy2", "nv12", "nv21"])
def test_yuv_becomes_the_colours_that_it_was_made_of(encoding: str, padding: int) -> None:
    rgb = smooth_picture()
    got = rgb_from_image(stored(packed_yuv(rgb, encoding), encoding, padding=padding)).astype(float)
    assert got.shape == rgb.shape
    assert np.abs(got - rgb)[2:-2, 2:-2].max() < 9 and np.abs(got - rgb).mean() < 2.5


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("order", ["rggb", "bggr", "gbrg", "grbg"])
def test_a_bayer_mosaic_becomes_the_colours_that_it_was_made_of(order: str, bits: int) -> None:
    rgb = smooth_picture()
    channel = np.array(["rgb".index(c) for c in order]).reshape(2, 2)
    which = np.tile(channel, (12, 16))
    mosaic = np.take_along_axis(rgb, which[..., None], axis=-1)[..., 0]
    pixels = np.round(mosaic * (257 if bits == 16 else 1)).astype(np.uint16 if bits == 16 else np.uint8)
    for big in (False, True):
        got = rgb_from_image(stored(pixels, f"bayer_{order}{bits}", padding=4, big=big))
        assert got.dtype == np.uint8 and np.abs(got - rgb)[2:-2, 2:-2].max() < 4


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("encoding", ["rgb16", "bgr16", "rgba16", "bgra16", "mono16"])
def test_sixteen_bits_fill_eight(encoding: str, big: bool) -> None:
    rgb = np.round(smooth_picture()).astype(np.uint16) * 257
    if encoding == "mono16":
        got = rgb_from_image(stored(rgb[..., 1], encoding, padding=2, big=big))
        np.testing.assert_array_equal(got, np.repeat(rgb[..., 1:2] // 257, 3, axis=-1))
        return
    order = ["rgba".index(c) for c in encoding.removesuffix("16")]
    pixels = np.concatenate([rgb, np.full_like(rgb[..., :1], 7)], axis=-1)[..., order]
    np.testing.assert_array_equal(rgb_from_image(stored(pixels, encoding, padding=2, big=big)), rgb // 257)


def test_every_encoding_is_what_cv_bridge_makes_of_it() -> None:
    bridge = pytest.importorskip("cv_bridge").CvBridge()
    rgb = smooth_picture()
    for encoding in ("uyvy", "yuyv", "bayer_rggb8", "bayer_grbg8", "bgra8", "mono8"):
        if encoding.startswith("bayer"):
            msg = stored(np.round(rgb[..., 1]).astype(np.uint8), encoding)
        elif encoding in ("uyvy", "yuyv"):
            msg = stored(packed_yuv(rgb, encoding), encoding)
        else:
            channels = {"bgra8": [2, 1, 0, 0], "mono8": 1}[encoding]
            msg = stored(np.round(rgb).astype(np.uint8)[..., channels], encoding)
        np.testing.assert_array_equal(rgb_from_image(msg), bridge.imgmsg_to_cv2(msg, "rgb8"), err_msg=encoding)


@pytest.mark.parametrize(("encoding", "size"), [("uyvy", (3, 2)), ("nv12", (4, 3)), ("bayer_rggb8", (3, 3))])
def test_pixels_that_share_their_colour_come_in_pairs(encoding: str, size: tuple[int, int]) -> None:
    msg = image(encoding, bytes(64), width=size[0], height=size[1])
    with pytest.raises(InvalidInputError, match=f"size is {size[0]}x{size[1]}, expected an even width"):
        rgb_from_image(msg)


@pytest.mark.parametrize(
    ("msg", "sentence"),
    [
        (image("yuv9", bytes(8)), "encoding is 'yuv9', expected one of rgb8"),
        (image("rgb8", bytes(11)), "11 bytes, expected 12"),
        (image("rgb8", bytes(12), step=5), "step is 5 bytes, expected at least 6"),
        (image("rgb8", b"", width=0), "size is 0x2"),
        (image("rgb8", bytes(4), width=2**31, height=2**31), "size is 2147483648x2147483648"),
        (image("16UC1", bytes(8)), "encoding is '16UC1', expected one of rgb8"),
    ],
)
def test_bad_images_get_one_sentence(msg: Image, sentence: str) -> None:
    with pytest.raises(InvalidInputError, match=sentence):
        rgb_from_image(msg)


def test_colour_is_no_depth() -> None:
    with pytest.raises(InvalidInputError, match="depth encoding is 'rgb8', expected one of 32FC1"):
        depth_from_image(image("rgb8", bytes(12)))


@given(
    st.sampled_from(["rgb8", "bgr8", "mono8", "16UC1", "32FC1", "uyvy", "bayer_grbg16", "rgba16", "x"]),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**32 - 1),
    st.binary(max_size=64),
)
def test_any_image_message_is_read_or_refused(encoding: str, width: int, height: int, step: int, data: bytes) -> None:
    try:
        pixels = image_view(image(encoding, data, width=width, height=height, step=step))
    except InvalidInputError:
        return
    assert pixels.shape[:2] == (height, width)
    pixels.sum()  # every byte can be read


# Compressed images ----------------------------------------------------------------------------------------------


def compressed(data: bytes, kind: str = "jpeg") -> CompressedImage:
    return CompressedImage(format=kind, data=array.array("B", data))


def test_png_is_exact_and_jpeg_is_near() -> None:
    np.testing.assert_array_equal(rgb_from_compressed(compressed(encode_png(RGB))), RGB)
    smooth = np.full((16, 16, 3), (200, 100, 50), np.uint8)
    np.testing.assert_allclose(rgb_from_compressed(compressed(encode_jpeg(smooth))).astype(int), smooth, atol=4)


@pytest.mark.parametrize("encode", [encode_jpeg, encode_png])
def test_truncated_pictures_are_refused(encode: object) -> None:
    data = encode(RNG.integers(0, 255, (40, 40, 3), np.uint8))  # type: ignore[operator]
    assert announced_size(data) == (40, 40)
    for share in (0.5, 0.9):
        with pytest.raises(InvalidInputError, match=r"is cut short|starts with"):
            rgb_from_compressed(compressed(data[: int(share * len(data))]))


def test_a_picture_that_announces_too_much_is_refused_before_decoding() -> None:
    for side, words in ((9_000, "size is 9000x9000, expected 1x1 to 64000000"), (2**20, r"announces more than \d+")):
        with pytest.raises(InvalidInputError, match=words):
            rgb_from_compressed(compressed(with_size(encode_png(RGB), side, side)))


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_with_one_sentence(data: bytes) -> None:
    for prefix in (b"", b"\xff\xd8", b"\x89PNG\r\n\x1a\n"):
        with pytest.raises(InvalidInputError):
            rgb_from_compressed(compressed(prefix + data))


def test_compressed_depth_of_both_kinds() -> None:
    depth = np.array([[1.0, 0.0], [2.5, 4.0]], np.float32)
    plain = compressed(bytes(12) + encode_depth_png(depth), "16UC1; compressedDepth png")
    np.testing.assert_allclose(depth_from_compressed(plain), np.where(depth > 0, depth, np.nan), atol=1e-6)
    a, b = 100.0, 1.0
    counts = np.where(depth > 0, np.round(a / np.maximum(depth, 1e-3) + b), 0).astype(np.uint16)
    quantised = struct.pack("<iff", 0, a, b) + bytes(cv2.imencode(".png", counts)[1])
    got = depth_from_compressed(compressed(quantised, "32FC1; compressedDepth png"))
    np.testing.assert_allclose(got, np.where(depth > 0, depth, np.nan), rtol=0.02)
    with pytest.raises(InvalidInputError, match="rvl"):
        depth_from_compressed(compressed(quantised, "16UC1; compressedDepth rvl"))


# Clouds ---------------------------------------------------------------------------------------------------------


def cloud(count: int = 2) -> PointCloud:
    return PointCloud(
        points=np.arange(3 * count, dtype=np.float32).reshape(count, 3),
        rgb_u8=np.tile(np.array([[0x12, 0x34, 0x56]], np.uint8), (count, 1)),
        confidence=np.linspace(0.25, 1.0, count).astype(np.float32),
        provenance=np.arange(1, count + 1).astype(np.uint8) % 4,
        keyframe_ids=np.arange(70_000, 70_000 + count).astype(np.uint32),
    )


def test_cloud_bytes_are_those_of_the_documented_layout() -> None:
    msg = cloud_msg(cloud(), Header(frame_id="map"))
    layout = [(f.name, f.offset, f.datatype, f.count) for f in msg.fields]
    assert layout == [
        ("x", 0, PointField.FLOAT32, 1),
        ("y", 4, PointField.FLOAT32, 1),
        ("z", 8, PointField.FLOAT32, 1),
        ("rgb", 12, PointField.FLOAT32, 1),
        ("confidence", 16, PointField.FLOAT32, 1),
        ("provenance", 20, PointField.UINT8, 1),
        ("keyframe_id", 24, PointField.UINT32, 1),
    ]
    golden = (
        "00000000 0000803f 00000040 56341200 0000803e 01000000 70110100"
        "00004040 00008040 0000a040 56341200 0000803f 02000000 71110100"
    )
    assert bytes(msg.data) == bytes.fromhex(golden)
    assert (msg.point_step, msg.row_step, msg.height, msg.width, msg.is_dense) == (28, 56, 1, 2, True)
    assert isinstance(msg.data, array.array)


def test_cloud_round_trip_and_density() -> None:
    original = cloud(100)
    back = cloud_from_msg(cloud_msg(original, Header()))
    for name in original.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(back, name), getattr(original, name))
    original.points[3, 1] = np.nan
    assert not cloud_msg(original, Header()).is_dense
    assert len(cloud_from_msg(cloud_msg(PointCloud.empty(), Header()))) == 0


def test_organised_big_endian_cloud_with_padding_is_read() -> None:
    names = ("x", "y", "z")
    msg = PointCloud2(height=2, width=1, point_step=16, row_step=20, is_bigendian=True)
    msg.fields = [PointField(name=n, offset=4 * i, datatype=PointField.FLOAT32, count=1) for i, n in enumerate(names)]
    rows = [struct.pack(">4f", 1, 2, 3, 0) + b"pad!", struct.pack(">4f", 4, 5, 6, 0)]
    msg.data = array.array("B", b"".join(rows))
    read = cloud_from_msg(msg)
    assert read.points.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert read.provenance.tolist() == [0, 0] and read.confidence.tolist() == [0.0, 0.0]  # nobody says


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"fields": []}, "lacks field x, y, z"),
        ({"width": 3}, "56 bytes in rows of 56, expected 84"),
        ({"point_step": 8}, "do not fit a point of 8 bytes"),
        ({"width": 2**31, "height": 2**20}, "expected at most 100000000"),
    ],
)
def test_bad_clouds_get_one_sentence(change: dict[str, object], sentence: str) -> None:
    msg = cloud_msg(cloud(), Header())
    for name, value in change.items():
        setattr(msg, name, value)
    with pytest.raises(InvalidInputError, match=sentence):
        cloud_from_msg(msg)


# Cameras, poses, markers ----------------------------------------------------------------------------------------


def test_camera_info_round_trip() -> None:
    info = camera_info_msg(CAMERA, Header())
    rectifier = rectifier_from_info(info)
    assert rectifier.camera == CAMERA and not rectifier.changes
    assert pinhole_from_info(info) == CAMERA
    assert rectifier_from_info(info, rectified=True).camera == CAMERA


def test_binning_and_region_of_interest_change_the_intrinsics() -> None:
    info = camera_info_msg(PinholeCamera(width=640, height=480, fx=500, fy=500, cx=319.5, cy=239.5), Header())
    info.binning_x = info.binning_y = 2
    assert rectifier_from_info(info).camera == PinholeCamera(width=320, height=240, fx=250, fy=250, cx=159.5, cy=119.5)
    info.binning_x = info.binning_y = 0
    info.roi.x_offset, info.roi.y_offset, info.roi.width, info.roi.height = 100, 50, 200, 100
    assert rectifier_from_info(info).camera == PinholeCamera(width=200, height=100, fx=500, fy=500, cx=219.5, cy=189.5)
    info.roi.width = 600
    with pytest.raises(InvalidInputError, match="region of interest 600x100 at"):
        rectifier_from_info(info)


W, H, LENS = 160, 120, (-0.28, 0.07, 0.001, -0.0005, 0.0)


def full_calibration(model: str) -> CameraInfo:
    """The calibration of a whole sensor of 160x120."""
    info = CameraInfo(width=W, height=H, distortion_model=model)
    info.k = [110.0, 0.0, 79.5, 0.0, 112.0, 60.2, 0.0, 0.0, 1.0]
    info.d = [] if not model else list(LENS)
    return info


def sensor_picture(info: CameraInfo) -> np.ndarray:
    """What the whole sensor sees of a smooth pattern on the directions (x, y) at z = 1. [H, W] float"""
    u, v = np.meshgrid(np.arange(W, dtype=np.float64), np.arange(H, dtype=np.float64))
    pixels, k = np.stack([u, v], axis=-1).reshape(-1, 1, 2), np.array(info.k).reshape(3, 3)
    criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 200, 1e-10)
    rays = cv2.undistortPointsIter(pixels, k, np.array(info.d or [0.0] * 4), None, None, criteria)
    return pattern(rays.reshape(H, W, 2))


def pattern(rays: np.ndarray) -> np.ndarray:
    return 120 + 60 * np.sin(4 * rays[..., 0]) * np.cos(3 * rays[..., 1]) + 40 * rays[..., 0]


@pytest.mark.parametrize("model", ["", "plumb_bob"])
@pytest.mark.parametrize("binning", [(1, 1), (2, 2), (4, 2)])
@pytest.mark.parametrize("roi", [None, (40, 20, 80, 60), (96, 72, 64, 48), (0, 0, 60, 40)])
def test_a_window_and_its_binning_see_what_the_whole_sensor_sees(
    model: str, binning: tuple[int, int], roi: tuple[int, int, int, int] | None
) -> None:
    info = full_calibration(model)
    x, y, width, height = roi or (0, 0, W, H)
    picture = sensor_picture(info)[y : y + height, x : x + width]
    rows, columns = height // binning[1], width // binning[0]
    binned = picture.reshape(rows, binning[1], columns, binning[0]).mean(axis=(1, 3))
    info.binning_x, info.binning_y = binning
    if roi is not None:
        info.roi.x_offset, info.roi.y_offset, info.roi.width, info.roi.height = roi
    rectifier = rectifier_from_info(info)
    assert rectifier.camera.size == (columns, rows)
    got = rectifier.image(binned[..., None].astype(np.float32)).reshape(rows, columns)
    u, v = np.meshgrid(np.arange(columns), np.arange(rows))
    camera = rectifier.camera
    rays = np.stack([(u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy], axis=-1)
    assert np.abs(got - pattern(rays)).max() < 3.0 and np.abs(got - pattern(rays)).mean() < 0.6
    # little is lost: the rectified picture keeps most of the window's field of view
    assert camera.fx * binning[0] < 1.35 * info.k[0] and camera.fy * binning[1] < 1.35 * info.k[4]


def test_a_rectified_window_whose_place_cannot_be_known_is_refused() -> None:
    info = full_calibration("plumb_bob")
    info.p = [100.0, 0.0, 80.0, 0.0, 0.0, 100.0, 60.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    info.roi.x_offset, info.roi.y_offset, info.roi.width, info.roi.height = 40, 20, 80, 60
    assert rectifier_from_info(info, rectified=True).camera.cx == 40.0
    info.roi.do_rectify = True
    with pytest.raises(InvalidInputError, match="region of interest with do_rectify"):
        rectifier_from_info(info, rectified=True)


def test_uncalibrated_camera_is_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"fx = 0\.0, expected a calibrated camera"):
        rectifier_from_info(CameraInfo(width=4, height=4))


pose_values = st.lists(st.floats(-10, 10), min_size=6, max_size=6)


@given(pose_values)
def test_pose_round_trip(values: list[float]) -> None:
    pose = SE3.exp(np.array(values[:3]), np.array(values[3:]))
    back = se3_from_pose(pose_msg(pose))
    np.testing.assert_allclose(back.matrix, pose.matrix, atol=1e-9)


def test_pose_without_a_direction_is_refused() -> None:
    msg = pose_msg(SE3.identity())
    for w, words in ((0.0, "has length 0, expected 1"), (2.0, "has length 2"), (float("nan"), "has length nan")):
        msg.orientation.w = w
        with pytest.raises(InvalidInputError, match=words):
            se3_from_pose(msg)


@pytest.mark.parametrize("x", [float("nan"), float("inf"), -1e12])
def test_pose_without_a_place_is_refused(x: float) -> None:
    msg = pose_msg(SE3.identity())
    msg.position.x = x
    with pytest.raises(InvalidInputError, match="position is"):
        se3_from_pose(msg)


@given(st.integers(-(2**31) * 10**9, 2**31 * 10**9 - 1))
def test_stamp_round_trip(stamp_ns: int) -> None:
    assert ns_from_stamp(time_msg(stamp_ns)) == stamp_ns


def test_stamp_that_does_not_fit_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="stamp is"):
        time_msg(2**31 * 10**9)


def test_path_and_markers_carry_the_frames_stamps() -> None:
    pose = SE3.exp(np.zeros(3), np.array([1.0, 2.0, 3.0]))
    path = path_msg([pose, pose], [5, 6], "map", 6)
    assert [ns_from_stamp(p.header.stamp) for p in path.poses] == [5, 6] and path.header.frame_id == "map"
    frame = Frame(rgb_u8=RGB, camera=CAMERA, stamp_ns=9, world_from_cam=pose)
    lost = Frame(rgb_u8=RGB, camera=CAMERA, stamp_ns=10)
    keyframes = [Keyframe(id=4, frame=frame, sharpness=1.0), Keyframe(id=5, frame=lost, sharpness=1.0)]
    clear, frustum = frustum_markers(keyframes, "map", 0.2, {4}).markers
    assert clear.action == clear.DELETEALL
    assert frustum.id == 4 and len(frustum.points) == 16 and frustum.pose.position.z == 3.0
    assert ns_from_stamp(frustum.header.stamp) == 9


def test_frustum_corners_span_the_image() -> None:
    corners = frustum_corners(CAMERA, 2.0)
    u = corners[1:, 0] / corners[1:, 2] * CAMERA.fx + CAMERA.cx
    assert u.min() == pytest.approx(-0.5) and u.max() == pytest.approx(6.5)


def test_header() -> None:
    header = header_msg(1_500_000_000, "map")
    assert (header.stamp.sec, header.stamp.nanosec, header.frame_id) == (1, 500_000_000, "map")

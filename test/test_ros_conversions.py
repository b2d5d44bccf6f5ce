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

from reconx_ros.core import SE3, Frame, InvalidInputError, Keyframe, PinholeCamera, PointCloud
from reconx_ros.io.images import encode_depth_png, encode_jpeg, encode_png
from reconx_ros.ros.conversions import (
    camera_info_msg,
    cloud_msg,
    cloud_of,
    depth_of_compressed,
    depth_of_image,
    frustum_markers,
    header_msg,
    image_msg,
    image_view,
    path_msg,
    pinhole_of_info,
    pose_msg,
    rectifier_of_info,
    rgb_of_compressed,
    rgb_of_image,
    se3_of_pose,
    stamp_ns_of,
    time_msg,
)
from reconx_ros.ros.conversions.markers import frustum_corners
from reconx_ros.ros.encoded import announced_size

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
    pixels = rgb_of_image(msg)
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
    assert rgb_of_image(msg)[1, 1].tolist() == [1, 2, 3]


def test_mono8_becomes_grey() -> None:
    assert rgb_of_image(image("mono8", bytes([1, 2, 3, 4])))[1, 0].tolist() == [3, 3, 3]


def test_row_step_is_honoured_and_last_padding_may_be_missing() -> None:
    padded = bytes([1, 2, 3, 4, 5, 6, 99, 99, 7, 8, 9, 10, 11, 12])
    assert rgb_of_image(image("rgb8", padded, step=8))[1].tolist() == [[7, 8, 9], [10, 11, 12]]


def test_depth_in_millimetres_of_both_byte_orders() -> None:
    for big in (False, True):
        data = struct.pack(">4H" if big else "<4H", 1500, 0, 2000, 65535)
        depth = depth_of_image(image("16UC1", data, big=big))
        assert depth.dtype == np.float32
        np.testing.assert_allclose(depth, [[1.5, np.nan], [2.0, 65.535]], rtol=1e-6)


def test_depth_that_is_not_finite_and_positive_is_unknown() -> None:
    data = struct.pack("<4f", float("nan"), float("inf"), -1.0, 3.25)
    np.testing.assert_array_equal(depth_of_image(image("32FC1", data)), [[np.nan, np.nan], [np.nan, 3.25]])


@pytest.mark.parametrize(
    ("msg", "sentence"),
    [
        (image("yuv422", bytes(8)), "encoding is 'yuv422', expected one of rgb8"),
        (image("rgb8", bytes(11)), "11 bytes, expected 12"),
        (image("rgb8", bytes(12), step=5), "step is 5 bytes, expected at least 6"),
        (image("rgb8", b"", width=0), "size is 0x2"),
        (image("rgb8", bytes(4), width=2**31, height=2**31), "size is 2147483648x2147483648"),
        (image("16UC1", bytes(8)), "encoding is '16UC1', expected one of rgb8"),
    ],
)
def test_bad_images_get_one_sentence(msg: Image, sentence: str) -> None:
    with pytest.raises(InvalidInputError, match=sentence):
        rgb_of_image(msg)


def test_colour_is_no_depth() -> None:
    with pytest.raises(InvalidInputError, match="depth encoding is 'rgb8', expected one of 32FC1"):
        depth_of_image(image("rgb8", bytes(12)))


@given(
    st.sampled_from(["rgb8", "bgr8", "mono8", "16UC1", "32FC1", "x"]),
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
    np.testing.assert_array_equal(rgb_of_compressed(compressed(encode_png(RGB))), RGB)
    smooth = np.full((16, 16, 3), (200, 100, 50), np.uint8)
    np.testing.assert_allclose(rgb_of_compressed(compressed(encode_jpeg(smooth))).astype(int), smooth, atol=4)


@pytest.mark.parametrize("encode", [encode_jpeg, encode_png])
def test_truncated_pictures_are_refused(encode: object) -> None:
    data = encode(RNG.integers(0, 255, (40, 40, 3), np.uint8))  # type: ignore[operator]
    assert announced_size(data) == (40, 40)
    for share in (0.5, 0.9):
        with pytest.raises(InvalidInputError, match=r"is cut short|starts with"):
            rgb_of_compressed(compressed(data[: int(share * len(data))]))


def test_a_picture_that_announces_too_much_is_refused_before_decoding() -> None:
    data = bytearray(encode_png(RGB))
    data[16:24] = struct.pack(">II", 2**20, 2**20)
    with pytest.raises(InvalidInputError, match="size is 1048576x1048576"):
        rgb_of_compressed(compressed(bytes(data)))


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_with_one_sentence(data: bytes) -> None:
    for prefix in (b"", b"\xff\xd8", b"\x89PNG\r\n\x1a\n"):
        with pytest.raises(InvalidInputError):
            rgb_of_compressed(compressed(prefix + data))


def test_compressed_depth_of_both_kinds() -> None:
    depth = np.array([[1.0, 0.0], [2.5, 4.0]], np.float32)
    plain = compressed(bytes(12) + encode_depth_png(depth), "16UC1; compressedDepth png")
    np.testing.assert_allclose(depth_of_compressed(plain), np.where(depth > 0, depth, np.nan), atol=1e-6)
    a, b = 100.0, 1.0
    counts = np.where(depth > 0, np.round(a / np.maximum(depth, 1e-3) + b), 0).astype(np.uint16)
    quantised = struct.pack("<iff", 0, a, b) + bytes(cv2.imencode(".png", counts)[1])
    got = depth_of_compressed(compressed(quantised, "32FC1; compressedDepth png"))
    np.testing.assert_allclose(got, np.where(depth > 0, depth, np.nan), rtol=0.02)
    with pytest.raises(InvalidInputError, match="rvl"):
        depth_of_compressed(compressed(quantised, "16UC1; compressedDepth rvl"))


# Clouds ---------------------------------------------------------------------------------------------------------


def cloud(count: int = 2) -> PointCloud:
    return PointCloud(
        points=np.arange(3 * count, dtype=np.float32).reshape(count, 3),
        rgb_u8=np.tile(np.array([[0x12, 0x34, 0x56]], np.uint8), (count, 1)),
        confidence=np.linspace(0.25, 1.0, count).astype(np.float32),
        provenance=np.arange(1, count + 1).astype(np.uint8) % 3,
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
    back = cloud_of(cloud_msg(original, Header()))
    for name in original.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(back, name), getattr(original, name))
    original.points[3, 1] = np.nan
    assert not cloud_msg(original, Header()).is_dense
    assert len(cloud_of(cloud_msg(PointCloud.empty(), Header()))) == 0


def test_organised_big_endian_cloud_with_padding_is_read() -> None:
    names = ("x", "y", "z")
    msg = PointCloud2(height=2, width=1, point_step=16, row_step=20, is_bigendian=True)
    msg.fields = [PointField(name=n, offset=4 * i, datatype=PointField.FLOAT32, count=1) for i, n in enumerate(names)]
    rows = [struct.pack(">4f", 1, 2, 3, 0) + b"pad!", struct.pack(">4f", 4, 5, 6, 0)]
    msg.data = array.array("B", b"".join(rows))
    read = cloud_of(msg)
    assert read.points.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert read.provenance.tolist() == [1, 1] and read.confidence.tolist() == [1.0, 1.0]


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
        cloud_of(msg)


# Cameras, poses, markers ----------------------------------------------------------------------------------------


def test_camera_info_round_trip() -> None:
    info = camera_info_msg(CAMERA, Header())
    rectifier = rectifier_of_info(info)
    assert rectifier.camera == CAMERA and not rectifier.changes
    assert pinhole_of_info(info) == CAMERA
    assert rectifier_of_info(info, rectified=True).camera == CAMERA


def test_binning_and_region_of_interest_change_the_intrinsics() -> None:
    info = camera_info_msg(PinholeCamera(width=640, height=480, fx=500, fy=500, cx=319.5, cy=239.5), Header())
    info.binning_x = info.binning_y = 2
    assert rectifier_of_info(info).camera == PinholeCamera(width=320, height=240, fx=250, fy=250, cx=159.5, cy=119.5)
    info.binning_x = info.binning_y = 0
    info.roi.x_offset, info.roi.y_offset, info.roi.width, info.roi.height = 100, 50, 200, 100
    assert rectifier_of_info(info).camera == PinholeCamera(width=200, height=100, fx=500, fy=500, cx=219.5, cy=189.5)
    info.roi.width = 600
    with pytest.raises(InvalidInputError, match="region of interest 600x100 at"):
        rectifier_of_info(info)


def test_uncalibrated_camera_is_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"fx = 0\.0, expected a calibrated camera"):
        rectifier_of_info(CameraInfo(width=4, height=4))


pose_values = st.lists(st.floats(-10, 10), min_size=6, max_size=6)


@given(pose_values)
def test_pose_round_trip(values: list[float]) -> None:
    pose = SE3.exp(np.array(values[:3]), np.array(values[3:]))
    back = se3_of_pose(pose_msg(pose))
    np.testing.assert_allclose(back.matrix, pose.matrix, atol=1e-9)


def test_pose_without_a_direction_is_refused() -> None:
    msg = pose_msg(SE3.identity())
    msg.orientation.w = 0.0
    with pytest.raises(InvalidInputError, match="quaternion"):
        se3_of_pose(msg)


@given(st.integers(-(2**31) * 10**9, 2**31 * 10**9 - 1))
def test_stamp_round_trip(stamp_ns: int) -> None:
    assert stamp_ns_of(time_msg(stamp_ns)) == stamp_ns


def test_stamp_that_does_not_fit_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="stamp is"):
        time_msg(2**31 * 10**9)


def test_path_and_markers_carry_the_frames_stamps() -> None:
    pose = SE3.exp(np.zeros(3), np.array([1.0, 2.0, 3.0]))
    path = path_msg([pose, pose], [5, 6], "map", 6)
    assert [stamp_ns_of(p.header.stamp) for p in path.poses] == [5, 6] and path.header.frame_id == "map"
    frame = Frame(rgb_u8=RGB, camera=CAMERA, stamp_ns=9, world_from_cam=pose)
    lost = Frame(rgb_u8=RGB, camera=CAMERA, stamp_ns=10)
    keyframes = [Keyframe(id=4, frame=frame, sharpness=1.0), Keyframe(id=5, frame=lost, sharpness=1.0)]
    clear, frustum = frustum_markers(keyframes, "map", 0.2, {4}).markers
    assert clear.action == clear.DELETEALL
    assert frustum.id == 4 and len(frustum.points) == 16 and frustum.pose.position.z == 3.0
    assert stamp_ns_of(frustum.header.stamp) == 9


def test_frustum_corners_span_the_image() -> None:
    corners = frustum_corners(CAMERA, 2.0)
    u = corners[1:, 0] / corners[1:, 2] * CAMERA.fx + CAMERA.cx
    assert u.min() == pytest.approx(-0.5) and u.max() == pytest.approx(6.5)


def test_header() -> None:
    header = header_msg(1_500_000_000, "map")
    assert (header.stamp.sec, header.stamp.nanosec, header.frame_id) == (1, 500_000_000, "map")

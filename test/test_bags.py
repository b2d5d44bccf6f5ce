"""Bags: whole, cut off and wrong ones; frames out of them without ROS."""

from __future__ import annotations

import itertools
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reconx_ros.core import SE3, InvalidInputError, ReconxError, StorageError
from reconx_ros.io import images
from reconx_ros.io.bag_decode import Decoder, depth_from_buffer, image_from_buffer, stamp_ns
from reconx_ros.io.bag_frames import BagTopics, find_topics, read_bag_frames
from reconx_ros.io.bags import open_bag

rosbags = pytest.importorskip("rosbags.rosbag2")
typesys = pytest.importorskip("rosbags.typesys")

START = 1_700_000_000_000_000_000
STEP = 100_000_000
W, H, COUNT = 48, 36, 10
OPTICAL = SE3.from_quaternion_xyzw(np.zeros(3), np.array([-0.5, 0.5, -0.5, 0.5]))


def picture(k: int) -> np.ndarray:
    rng = np.random.default_rng(k)
    return rng.integers(0, 255, (H, W, 3), np.uint8)


def depth_map(k: int) -> np.ndarray:
    depth = np.full((H, W), 1.0 + 0.1 * k, np.float32)
    depth[0] = 0
    return depth


def base_pose(k: float) -> SE3:
    return SE3.exp(np.array([0.0, 0.0, 0.1 * k]), np.array([0.2 * k, 0.0, 0.5]))


class BagMaker:
    """Writes a small bag with the messages that a robot with one camera records."""

    def __init__(self, path: Path, plugin: str = "mcap", compression: Any = None) -> None:
        self.store = typesys.get_typestore(typesys.Stores.ROS2_HUMBLE)
        self.path = path
        storage = rosbags.StoragePlugin.MCAP if plugin == "mcap" else rosbags.StoragePlugin.SQLITE3
        self.writer = rosbags.Writer(path, version=8, storage_plugin=storage)
        if compression is not None:
            self.writer.set_compression(compression, rosbags.CompressionFormat.ZSTD)
        self.writer.open()
        self.connections: dict[str, Any] = {}

    def type(self, name: str) -> Any:
        return self.store.types[name]

    def header(self, stamp: int, frame: str) -> Any:
        time = self.type("builtin_interfaces/msg/Time")(sec=stamp // 10**9, nanosec=stamp % 10**9)
        return self.type("std_msgs/msg/Header")(stamp=time, frame_id=frame)

    def write(self, topic: str, kind: str, stamp: int, content: Any) -> None:
        if topic not in self.connections:
            self.connections[topic] = self.writer.add_connection(topic, kind, typestore=self.store)
        self.writer.write(self.connections[topic], stamp, self.store.serialize_cdr(content, kind))

    def transform(self, topic: str, parent: str, child: str, stamp: int, pose: SE3) -> None:
        x, y, z = pose.translation
        qx, qy, qz, qw = pose.quaternion_xyzw
        content = self.type("geometry_msgs/msg/Transform")(
            translation=self.type("geometry_msgs/msg/Vector3")(x=x, y=y, z=z),
            rotation=self.type("geometry_msgs/msg/Quaternion")(x=qx, y=qy, z=qz, w=qw),
        )
        stamped = self.type("geometry_msgs/msg/TransformStamped")(
            header=self.header(stamp, parent), child_frame_id=child, transform=content
        )
        self.write(topic, "tf2_msgs/msg/TFMessage", stamp, self.type("tf2_msgs/msg/TFMessage")(transforms=[stamped]))

    def info(self, stamp: int, *, width: int = W, d: tuple[float, ...] = (0.0,) * 5, focal: float = 40.0) -> None:
        kind = "sensor_msgs/msg/CameraInfo"
        k = np.array([focal, 0, 23.5, 0, focal, 17.5, 0, 0, 1.0])
        content = self.type(kind)(
            header=self.header(stamp, "optical"),
            height=H,
            width=width,
            distortion_model="plumb_bob",
            d=np.array(d),
            k=k,
            r=np.eye(3).ravel(),
            p=np.hstack([k.reshape(3, 3), np.zeros((3, 1))]).ravel(),
            binning_x=0,
            binning_y=0,
            roi=self.type("sensor_msgs/msg/RegionOfInterest")(
                x_offset=0, y_offset=0, height=0, width=0, do_rectify=False
            ),
        )
        self.write("/camera/camera_info", kind, stamp, content)

    def image(self, stamp: int, rgb: np.ndarray, topic: str = "/camera/image_raw") -> None:
        self.raw(topic, stamp, rgb.tobytes(), "rgb8", rgb.shape[1] * 3)

    def depth(self, stamp: int, depth_m: np.ndarray, frame: str = "optical") -> None:
        units = np.rint(depth_m * 1000).astype(np.uint16)
        self.raw("/camera/aligned_depth/image_raw", stamp, units.tobytes(), "16UC1", units.shape[1] * 2, frame)

    def raw(self, topic: str, stamp: int, data: bytes, encoding: str, step: int, frame: str = "optical") -> None:
        kind = "sensor_msgs/msg/Image"
        content = self.type(kind)(
            header=self.header(stamp, frame),
            height=H,
            width=W,
            encoding=encoding,
            is_bigendian=0,
            step=step,
            data=np.frombuffer(data, np.uint8),
        )
        self.write(topic, kind, stamp, content)

    def compressed(self, topic: str, stamp: int, data: bytes, encoding: str) -> None:
        kind = "sensor_msgs/msg/CompressedImage"
        content = self.type(kind)(
            header=self.header(stamp, "optical"), format=encoding, data=np.frombuffer(data, np.uint8)
        )
        self.write(topic, kind, stamp, content)


Frames = Callable[[BagMaker, int, int], None]


def raw_frames(bag: BagMaker, k: int, stamp: int) -> None:
    bag.image(stamp, picture(k))
    bag.depth(stamp + 3_000_000, depth_map(k))


def compressed_frames(bag: BagMaker, k: int, stamp: int) -> None:
    bag.compressed("/camera/image_raw/compressed", stamp, images.encode_png(picture(k)), "rgb8; png compressed bgr8")
    payload = images.encode_compressed_depth(depth_map(k))
    bag.compressed("/camera/aligned_depth/image_raw/compressedDepth", stamp, payload, "16UC1; compressedDepth png")


def make_bag(
    path: Path, frames: Frames = raw_frames, plugin: str = "mcap", compression: Any = None, count: int = COUNT
) -> Path:
    bag = BagMaker(path, plugin, compression)
    bag.transform("/tf_static", "base", "optical", START, OPTICAL)
    for k in range(count):
        stamp = START + k * STEP
        bag.info(stamp)
        frames(bag, k, stamp)
        bag.transform("/tf", "map", "base", stamp, base_pose(k))
    bag.writer.close()
    return path


@pytest.fixture(params=["mcap", "sqlite3"])
def bag(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return make_bag(tmp_path / "bag", plugin=request.param)


def storage_file(bag: Path) -> Path:
    return next(f for f in bag.iterdir() if f.suffix in (".mcap", ".db3"))


def test_topics_and_messages_in_order_of_time(bag: Path) -> None:
    with open_bag(bag) as reader:
        assert reader.topics["/camera/image_raw"].count == COUNT
        assert reader.topics["/tf"].type == "tf2_msgs/msg/TFMessage"
        messages = list(reader.messages())
        assert len(messages) == 4 * COUNT + 1
        assert all(a.stamp_ns <= b.stamp_ns for a, b in itertools.pairwise(messages))
        later = list(reader.messages(["/tf"], start_ns=START + 3 * STEP, stop_ns=START + 6 * STEP))
        assert [m.stamp_ns for m in later] == [START + k * STEP for k in (3, 4, 5)]
        assert {m.topic for m in later} == {"/tf"}
        assert list(reader.messages(["/nothing"])) == []
        assert reader.problem is None


def test_one_storage_file_is_a_bag_too(bag: Path) -> None:
    with open_bag(storage_file(bag)) as reader:
        assert len(list(reader.messages())) == 4 * COUNT + 1


def test_frames_have_image_camera_pose_and_depth(bag: Path) -> None:
    frames, summary = read_bag_frames(bag)
    assert (summary.frames, summary.without_pose, summary.without_depth, summary.skipped) == (COUNT, 0, 0, 0)
    assert summary.warnings() == ()
    for k, frame in enumerate(frames):
        assert np.array_equal(frame.rgb_u8, picture(k))
        assert frame.stamp_ns == START + k * STEP
        assert frame.camera.fx == 40
        assert frame.depth_m == pytest.approx(depth_map(k), abs=6e-4)
        assert frame.world_from_cam is not None
        assert np.allclose(frame.world_from_cam.matrix, (base_pose(k) @ OPTICAL).matrix, atol=1e-9)


def test_compressed_transport_gives_the_same_frames(tmp_path: Path) -> None:
    frames, summary = read_bag_frames(make_bag(tmp_path / "bag", compressed_frames))
    assert summary.topics.image == "/camera/image_raw/compressed"
    assert [np.array_equal(f.rgb_u8, picture(k)) for k, f in enumerate(frames)] == [True] * COUNT
    assert frames[3].depth_m == pytest.approx(depth_map(3), abs=6e-4)


def test_poses_between_transforms_are_interpolated_and_missing_ones_counted(tmp_path: Path) -> None:
    def late(bag: BagMaker, k: int, stamp: int) -> None:
        bag.image(stamp + STEP // 2, picture(k))

    frames, summary = read_bag_frames(make_bag(tmp_path / "bag", late))
    first = frames[0].world_from_cam
    assert first is not None
    assert first.translation == pytest.approx([0.1, 0.0, 0.5])
    assert frames[-1].world_from_cam is None
    assert (summary.without_pose, summary.frames) == (1, COUNT)
    assert "after the newest sample" in summary.warnings()[0]
    assert frames[0].depth_m is None


def test_depth_far_in_time_or_in_another_frame_is_not_used(tmp_path: Path) -> None:
    def far(bag: BagMaker, k: int, stamp: int) -> None:
        bag.image(stamp, picture(k))
        bag.depth(stamp + STEP // 2, depth_map(k))

    def other(bag: BagMaker, k: int, stamp: int) -> None:
        bag.image(stamp, picture(k))
        bag.depth(stamp, depth_map(k), frame="depth_optical")

    for name, frames in (("far", far), ("other", other)):
        got, summary = read_bag_frames(make_bag(tmp_path / name, frames))
        assert all(f.depth_m is None for f in got)
        assert summary.without_depth == COUNT
    assert "'depth_optical', expected 'optical'" in summary.warnings()[0]
    got, summary = read_bag_frames(tmp_path / "far", max_depth_offset_ns=STEP)
    assert summary.without_depth == 0


def test_images_that_cannot_be_decoded_are_skipped_and_counted(tmp_path: Path) -> None:
    def broken(bag: BagMaker, k: int, stamp: int) -> None:
        data = b"not an image" if k == 4 else images.encode_jpeg(picture(k))
        bag.compressed("/camera/image_raw/compressed", stamp, data, "jpeg")

    frames, summary = read_bag_frames(make_bag(tmp_path / "bag", broken))
    assert (len(frames), summary.skipped) == (COUNT - 1, 1)
    assert "cannot be decoded" in summary.warnings()[0]


def test_distorted_images_are_rectified_and_rectified_ones_kept(tmp_path: Path) -> None:
    for topic, changed in (("/camera/image_raw", True), ("/camera/image_rect_color", False)):
        bag = BagMaker(tmp_path / topic.rpartition("/")[2])
        bag.info(START, d=(-0.3, 0.1, 0.0, 0.0, 0.0))
        bag.image(START, picture(0), topic)
        bag.writer.close()
        frames, _ = read_bag_frames(bag.path)
        assert (frames[0].camera.fx != 40) == changed
        assert np.array_equal(frames[0].rgb_u8, picture(0)) != changed


@pytest.mark.parametrize(("change", "message"), [({"focal": 0.0}, "fx = 0"), ({"width": W + 1}, "expected 49x36")])
def test_a_camera_info_that_does_not_fit(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    bag = BagMaker(tmp_path / "bag")
    bag.info(START, **change)
    bag.image(START, picture(0))
    bag.writer.close()
    if "width" in change:
        assert message in read_bag_frames(bag.path)[1].warnings()[0]
    else:
        with pytest.raises(InvalidInputError, match=message):
            read_bag_frames(bag.path)


def test_map_frame_can_be_chosen_or_is_found(tmp_path: Path) -> None:
    path = make_bag(tmp_path / "bag")
    frames, _ = read_bag_frames(path, map_frame="base")
    assert np.allclose(frames[0].world_from_cam.matrix, OPTICAL.matrix)
    _, summary = read_bag_frames(path, map_frame="moon")
    assert summary.without_pose == COUNT
    assert "'moon' is not in the transform tree" in summary.warnings()[0]


def test_topics_are_found_or_named(tmp_path: Path) -> None:
    path = make_bag(tmp_path / "bag")
    with open_bag(path) as reader:
        assert find_topics(reader) == BagTopics(
            image="/camera/image_raw", camera_info="/camera/camera_info", depth="/camera/aligned_depth/image_raw"
        )
    bag = BagMaker(tmp_path / "lonely")
    bag.image(START, picture(0))
    bag.writer.close()
    with pytest.raises(InvalidInputError, match="its topics are: /camera/image_raw"):
        read_bag_frames(bag.path)


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_a_bag_cut_in_the_middle_yields_what_is_left(bag: Path, share: float) -> None:
    with open_bag(bag) as reader:
        whole = [(m.topic, m.stamp_ns, m.data) for m in reader.messages()]
    file = storage_file(bag)
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * share)])
    with open_bag(bag) as reader:
        left = [(m.topic, m.stamp_ns, m.data) for m in reader.messages()]
        problem = reader.problem
    assert len(left) > 0.4 * share * len(whole)
    assert set(left) <= set(whole)
    assert len(left) < len(whole) or share > 0.9
    assert problem is not None
    assert f"{len(left)} messages before" in problem
    assert "\n" not in problem


def test_frames_of_a_bag_that_was_cut_off(bag: Path) -> None:
    file = storage_file(bag)
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * 0.7)])
    frames, summary = read_bag_frames(bag)
    assert 3 <= len(frames) < COUNT
    assert summary.problem is not None
    assert summary.warnings()[0] == summary.problem


@pytest.mark.parametrize("mode", ["FILE", "MESSAGE", "STORAGE"])
def test_compressed_bags(tmp_path: Path, mode: str) -> None:
    path = make_bag(tmp_path / "bag", compression=rosbags.CompressionMode[mode])
    frames, summary = read_bag_frames(path)
    assert len(frames) == COUNT
    assert summary.problem is None


def test_a_compressed_chunk_is_salvaged_up_to_its_cut(tmp_path: Path) -> None:
    path = make_bag(tmp_path / "bag", compression=rosbags.CompressionMode.STORAGE, count=60)
    file = storage_file(path)
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * 0.8)])
    with open_bag(path) as reader:
        assert 60 < len(list(reader.messages())) < 4 * 60 + 1


def test_without_metadata_the_files_are_read(bag: Path) -> None:
    (bag / "metadata.yaml").unlink()
    with open_bag(bag) as reader:
        assert len(list(reader.messages())) == 4 * COUNT + 1
        assert reader.problem is not None
        assert "no metadata.yaml" in reader.problem


def empty(folder: Path) -> Path:
    folder.mkdir()
    return folder


def wrong_bags() -> dict[str, tuple[Callable[[Path], Path], type[ReconxError], str]]:
    def with_metadata(folder: Path, text: str) -> Path:
        (empty(folder) / "metadata.yaml").write_text(text)
        return folder

    def unknown_compression(folder: Path) -> Path:
        make_bag(folder)
        text = (folder / "metadata.yaml").read_text()
        text = text.replace("compression_format: ''", "compression_format: brotli")
        (folder / "metadata.yaml").write_text(text.replace("compression_mode: ''", "compression_mode: FILE"))
        return folder

    def file(folder: Path, name: str, content: bytes) -> Path:
        (empty(folder) / name).write_bytes(content)
        return folder / name

    return {
        "missing": (lambda p: p / "nothing", StorageError, "does not exist"),
        "not a bag": (empty, InvalidInputError, "is not a ROS 2 bag"),
        "ros 1": (lambda p: file(p, "a.bag", b"#ROSBAG V2.0"), InvalidInputError, "rosbags-convert"),
        "a picture": (lambda p: file(p, "a.jpg", b"x"), InvalidInputError, "is not a ROS 2 bag"),
        "empty mcap": (lambda p: file(p, "a.mcap", b""), StorageError, "cannot be read"),
        "noise mcap": (lambda p: file(p, "a.mcap", b"noise" * 100), StorageError, "cannot be read"),
        "noise db3": (lambda p: file(p, "a.db3", b"noise" * 1000), StorageError, "cannot be read"),
        "empty db3": (lambda p: file(p, "a.db3", b""), StorageError, "cannot be read"),
        "bad yaml": (lambda p: with_metadata(p, "a: [b"), StorageError, "cannot be read"),
        "other yaml": (lambda p: with_metadata(p, "a: 1"), StorageError, "metadata"),
        "compression": (unknown_compression, StorageError, "brotli"),
    }


@pytest.mark.parametrize("kind", wrong_bags())
def test_what_is_no_bag_is_one_sentence(tmp_path: Path, kind: str) -> None:
    make, error, message = wrong_bags()[kind]
    path = make(tmp_path / "bag")
    with pytest.raises(error, match=message) as caught:
        open_bag(path)
    assert "\n" not in str(caught.value)


def test_an_unknown_chunk_compression_is_named(tmp_path: Path) -> None:
    path = make_bag(tmp_path / "bag", compression=rosbags.CompressionMode.STORAGE)
    file = storage_file(path)
    file.write_bytes(file.read_bytes().replace(b"\x04\x00\x00\x00zstd", b"\x04\x00\x00\x00zzzz"))
    with pytest.raises(StorageError, match="compression 'zzzz'"), open_bag(path) as reader:
        list(reader.messages())


@pytest.mark.parametrize(
    ("encoding", "pixel", "rgb"),
    [
        ("rgb8", (1, 2, 3), (1, 2, 3)),
        ("bgr8", (1, 2, 3), (3, 2, 1)),
        ("8UC3", (1, 2, 3), (3, 2, 1)),
        ("rgba8", (1, 2, 3, 9), (1, 2, 3)),
        ("bgra8", (1, 2, 3, 9), (3, 2, 1)),
        ("mono8", (7,), (7, 7, 7)),
        ("mono16", (0, 7), (7, 7, 7)),
    ],
)
def test_image_encodings_with_padded_rows(encoding: str, pixel: tuple[int, ...], rgb: tuple[int, ...]) -> None:
    row = bytes(pixel) * 5 + b"\xff" * 3
    got = image_from_buffer(row * 2, 2, 5, len(row), encoding, "test")
    assert got.shape == (2, 5, 3)
    assert (got == rgb).all()
    with pytest.raises(InvalidInputError, match="expected 3 rows"):
        image_from_buffer(row * 2, 3, 5, len(row), encoding, "test")


def test_bayer_images_show_their_colour() -> None:
    red = np.zeros((8, 8), np.uint8)
    red[0::2, 0::2] = 200  # RGGB: red in the first row and column
    got = image_from_buffer(red.tobytes(), 8, 8, 8, "bayer_rggb8", "test")
    assert got[2:6, 2:6, 0].mean() > 150
    assert got[2:6, 2:6, 2].mean() < 20


def test_depth_encodings() -> None:
    millimetres = np.array([[0, 1500]], ">u2")
    assert depth_from_buffer(millimetres.tobytes(), 1, 2, 4, "16UC1", True, "d") == pytest.approx(np.array([[0, 1.5]]))
    metres = np.array([[np.nan, np.inf, -1, 1.5]], "<f4")
    got = depth_from_buffer(metres.tobytes(), 1, 4, 16, "32FC1", False, "d")
    assert got == pytest.approx(np.array([[0, 0, 0, 1.5]]))
    for encoding, reader in (("64FC1", depth_from_buffer), ("yuv422", image_from_buffer)):
        with pytest.raises(InvalidInputError, match=encoding):
            reader(b"0" * 16, 1, 2, 16, encoding, *([False] if reader is depth_from_buffer else []), "d")


def test_header_stamp_is_read_without_decoding(bag: Path) -> None:
    decode = Decoder()
    with open_bag(bag) as reader:
        for message in reader.messages(["/camera/image_raw", "/camera/camera_info"]):
            stamp = decode(message).header.stamp
            assert stamp_ns(message) == stamp.sec * 10**9 + stamp.nanosec


def test_messages_that_are_not_what_they_say(tmp_path: Path) -> None:
    path = make_bag(tmp_path / "bag")
    with open_bag(path) as reader:
        message = next(reader.messages(["/camera/image_raw"]))
    object.__setattr__(message, "data", message.data[:20] + struct.pack("<I", 1 << 30))
    with pytest.raises(InvalidInputError, match="cannot be decoded"):
        Decoder()(message)


def test_recorded_bags(reconx_data: Path, tmp_path: Path) -> None:
    frames, summary = read_bag_frames(reconx_data / "bags" / "hololens_table_raw_sqlite3")
    assert len(frames) == 12
    assert all(f.world_from_cam is not None and f.depth_m is not None for f in frames)
    frames, summary = read_bag_frames(reconx_data / "bags" / "tum_fr3_rgb_sqlite3")
    assert (len(frames), summary.topics.depth) == (17, None)
    source = reconx_data / "bags" / "hololens_table_mcap"
    (tmp_path / "cut").mkdir()
    shutil.copyfile(source / "metadata.yaml", tmp_path / "cut" / "metadata.yaml")
    data = storage_file(source).read_bytes()
    (tmp_path / "cut" / storage_file(source).name).write_bytes(data[: len(data) // 4])
    frames, summary = read_bag_frames(tmp_path / "cut")
    assert 15 < len(frames) < 30
    assert summary.problem is not None
    assert "cut off" in summary.problem

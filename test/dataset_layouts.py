"""Writes one simulated scene in the layouts of public data sets, as their own documentation describes them.

Axes are spelled out by name here (right, down, forward) so that writer and reader cannot share a slip.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import torch
from pointmap_scenes import look_at

from reconx_ros.core import SE3, PinholeCamera
from reconx_ros.io.images import encode_png
from reconx_ros.sim.raycast import RenderConfig, RgbdImage, RoomRenderer
from reconx_ros.sim.room import RoomConfig, make_room

WIDTH, HEIGHT, COUNT = 96, 72, 10
ODD = PinholeCamera(width=WIDTH, height=HEIGHT, fx=81.25, fy=83.5, cx=45.75, cy=37.125)  # nothing is the middle
CENTRED = PinholeCamera(width=WIDTH, height=HEIGHT, fx=80.0, fy=80.0, cx=(WIDTH - 1) / 2, cy=(HEIGHT - 1) / 2)
FREIBURG3 = PinholeCamera(width=640, height=480, fx=535.4, fy=539.2, cx=320.1, cy=247.6).scaled_to(WIDTH, HEIGHT)
KINECT = PinholeCamera(width=640, height=480, fx=525, fy=525, cx=319.5, cy=239.5).scaled_to(WIDTH, HEIGHT)
START_S = 1311868174


@lru_cache(maxsize=1)
def renderer() -> RoomRenderer:
    return RoomRenderer(make_room(RoomConfig(seed=3, furnished=False)), RenderConfig(texel_m=0.04, light_spacing_m=0.5))


@lru_cache(maxsize=8)
def views_of(camera: PinholeCamera, count: int = COUNT) -> tuple[RgbdImage, ...]:
    poses = [look_at((-1.2 + 0.15 * k, -0.9, 1.2 + 0.03 * k), (1.4, 0.9, 0.7)) for k in range(count)]
    return tuple(renderer().render(camera, pose) for pose in poses)


@dataclass(frozen=True)
class Written:
    """A folder in some layout, and what stands in it.

    Attributes:
        root: the folder.
        views: pictures, depth, cameras and poses, in the order in which the reader gives them.
        unit_m: of the depth files; None where the layout has none.
        metric: whether the layout is in metres.
        tolerance: of poses and intrinsics, where the layout keeps them in less than double precision.
    """

    root: Path
    views: Sequence[RgbdImage]
    unit_m: float | None
    metric: bool
    tolerance: float = 1e-6


def write_pictures(
    root: Path,
    views: Sequence[RgbdImage],
    image: str,
    depth: str | None = None,
    unit_m: float = 0.001,
    none: int = 0,
) -> None:
    """PNG files; ``image`` and ``depth`` are patterns with a number."""
    for k, view in enumerate(views):
        path = root / image.format(k)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_png(view.rgb_u8))
        if depth is not None:
            steps = np.rint(view.depth_m / unit_m).astype(np.uint16)
            steps[:3, :5] = none
            (root / depth.format(k)).parent.mkdir(parents=True, exist_ok=True)
            assert cv2.imwrite(str(root / depth.format(k)), steps)


def axes(pose: SE3) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """right, down, forward and centre in the world."""
    right, down, forward = pose.rotation.T
    return right, down, forward, pose.translation


def opengl(pose: SE3) -> np.ndarray:
    """World-from-camera whose columns are right, up, backwards."""
    right, down, forward, centre = axes(pose)
    matrix = np.eye(4)
    matrix[:3] = np.stack([right, -down, -forward, centre], axis=1)
    return matrix


def pose_of(view: RgbdImage) -> SE3:
    return view.world_from_cam


def text(matrix: np.ndarray) -> str:
    return "\n".join(" ".join(repr(float(v)) for v in row) for row in matrix) + "\n"


def colmap(root: Path, binary: bool = True) -> Written:
    from reconx_ros.io.colmap import ColmapView, write_colmap

    views = views_of(ODD)
    write_pictures(root, views, "images/{:03d}.png")
    model = [
        ColmapView(camera=v.camera, world_from_cam=v.world_from_cam, name=f"{k:03d}.png") for k, v in enumerate(views)
    ]
    write_colmap(root / "sparse" / "0", model[::-1], binary=binary)
    return Written(root, views, None, False)


def colmap_text(root: Path) -> Written:
    """Written by hand, with SIMPLE_PINHOLE: f, cx, cy from the corner; quaternion and translation of cam_from_world."""
    views = views_of(CENTRED)
    write_pictures(root, views, "images/{:03d}.png")
    (root / "sparse").mkdir()
    (root / "sparse" / "cameras.txt").write_text(f"5 SIMPLE_PINHOLE {WIDTH} {HEIGHT} 80 {WIDTH / 2} {HEIGHT / 2}\n")
    lines = []
    for k, view in enumerate(views):
        cam_from_world = np.linalg.inv(view.world_from_cam.matrix)
        x, y, z, w = SE3.from_matrix(cam_from_world).quaternion_xyzw
        words = [20 - k, w, x, y, z, *cam_from_world[:3, 3], 5, f"{k:03d}.png"]
        lines += [" ".join(map(str, words)), "1.5 2.5 -1"]
    (root / "sparse" / "images.txt").write_text("\n".join(lines) + "\n")
    return Written(root, views, None, False)


def nerfstudio(root: Path) -> Written:
    """Poses moved and scaled after the recording, as applied_transform and applied_scale say."""
    views = views_of(ODD)
    write_pictures(root, views, "images/frame_{:05d}.png", "depths/frame_{:05d}.png")
    applied, scale = np.array([[1.0, 0, 0, 0.5], [0, 0, 1, -2], [0, -1, 0, 0.25]]), 0.3
    frames = []
    for k, view in enumerate(views):
        moved = np.vstack([applied, [0, 0, 0, 1]]) @ opengl(view.world_from_cam)
        moved[:3, 3] *= scale
        name = f"frame_{k:05d}.png"
        frames.append(
            {"file_path": f"./images/{name}", "depth_file_path": f"depths/{name}", "transform_matrix": moved.tolist()}
        )
    shared = {"camera_model": "OPENCV", "w": WIDTH, "h": HEIGHT, "fl_x": ODD.fx, "fl_y": ODD.fy}
    shared |= {"cx": ODD.cx + 0.5, "cy": ODD.cy + 0.5, "k1": 0, "k2": 0, "p1": 0, "p2": 0}
    document = {**shared, "applied_transform": applied.tolist(), "applied_scale": scale, "frames": frames}
    (root / "transforms.json").write_text(json.dumps(document))
    return Written(root, views, 0.001, True)


def nerfstudio_per_frame(root: Path) -> Written:
    """Intrinsics with each frame; the pictures have two sizes."""
    views = [*views_of(ODD)[:5], *views_of(CENTRED.scaled_to(64, 48))[5:]]
    write_pictures(root, views, "images/{}.png")
    frames = []
    for k, view in enumerate(views):
        c = view.camera
        numbers = {"fl_x": c.fx, "fl_y": c.fy, "cx": c.cx + 0.5, "cy": c.cy + 0.5, "w": c.width, "h": c.height}
        frames.append({**numbers, "file_path": f"images/{k}.png", "transform_matrix": opengl(pose_of(view)).tolist()})
    (root / "transforms.json").write_text(json.dumps({"camera_model": "PINHOLE", "frames": frames}))
    return Written(root, views, None, False)


def blender(root: Path) -> Written:
    views = views_of(CENTRED)
    write_pictures(root, views, "train/r_{}.png")
    angle = 2 * np.arctan(WIDTH / 2 / CENTRED.fx)
    (root / "test").mkdir()
    for part, numbers in (("train", range(6)), ("test", range(6, COUNT))):
        frames = []
        for k in numbers:
            if part == "test":
                (root / "train" / f"r_{k}.png").rename(root / "test" / f"r_{k}.png")
            frames.append({"file_path": f"./{part}/r_{k}", "transform_matrix": opengl(pose_of(views[k])).tolist()})
        (root / f"transforms_{part}.json").write_text(json.dumps({"camera_angle_x": angle, "frames": frames}))
    return Written(root, views, None, False)


def llff(root: Path, shrink: int = 1) -> Written:
    """Numbers of the full size; pictures in images, or shrunken in images_2 and so on."""
    full = CENTRED.scaled_to(shrink * WIDTH, shrink * HEIGHT)
    views = views_of(CENTRED)
    write_pictures(root, views, "images/IMG_{:04d}.png" if shrink == 1 else f"images_{shrink}/image{{:03d}}.png")
    rows = []
    for view in views:
        right, down, forward, centre = axes(view.world_from_cam)
        hwf = np.array([full.height, full.width, full.fx])
        rows.append(np.r_[np.stack([down, right, -forward, centre, hwf], axis=1).ravel(), 0.5, 9.0])
    np.save(root / "poses_bounds.npy", np.stack(rows))
    return Written(root, views, None, False)


def dtu_mvsnet(root: Path) -> Written:
    root = root / "scan114"
    views = views_of(ODD)
    write_pictures(root, views, "images/{:08d}.png")
    (root / "cams").mkdir()
    for k, view in enumerate(views):
        cam_from_world = np.linalg.inv(view.world_from_cam.matrix)
        cam_from_world[:3, 3] *= 1000
        content = f"extrinsic\n{text(cam_from_world)}\nintrinsic\n{text(view.camera.matrix)}\n425.0 2.5\n"
        (root / "cams" / f"{k:08d}_cam.txt").write_text(content)
    return Written(root, views, None, True)


def dtu_neus(root: Path, sign: float = 1.0, name: str = "cameras_sphere.npz") -> Written:
    views = views_of(ODD)
    write_pictures(root, views, "image/{:03d}.png")
    arrays = {}
    for k, view in enumerate(views):
        world = np.eye(4)
        world[:3] = sign * 3.7 * view.camera.matrix @ np.linalg.inv(view.world_from_cam.matrix)[:3]
        arrays |= {f"world_mat_{k}": world, f"scale_mat_{k}": np.diag([2.0, 2, 2, 1])}
    np.savez(root / name, **arrays)
    return Written(root, views, None, False)


def dtu_idr(root: Path) -> Written:
    """float32, the other sign, and another name."""
    written = dtu_neus(root, -1.0, "cameras.npz")
    with np.load(root / "cameras.npz") as archive:
        arrays = {key: archive[key].astype(np.float32) for key in archive.files}
    np.savez(root / "cameras.npz", **arrays)
    return Written(root, written.views, None, False, tolerance=1e-4)


def tum(root: Path) -> Written:
    root = root / "rgbd_dataset_freiburg3_room"
    views = views_of(FREIBURG3)
    write_pictures(root, views, "rgb/{}.png", "depth/{}.png", 1 / 5000)
    rgb, depth, poses = (
        ["# color images", "# timestamp filename"],
        ["# depth maps"],
        ["# timestamp tx ty tz qx qy qz qw"],
    )
    for k, view in enumerate(views):
        stamp = START_S + 0.1 * k
        rgb.append(f"{stamp:.6f} rgb/{k}.png")
        depth.append(f"{stamp + 0.011:.6f} depth/{k}.png")
        for offset, shift in ((-0.03, 1.0), (0.004, 0.0), (0.017, 2.0)):
            numbers = [*(pose_of(view).translation + shift), *pose_of(view).quaternion_xyzw]
            poses.append(" ".join([f"{stamp + offset:.4f}", *map(repr, map(float, numbers))]))
    rgb.append(f"{START_S + 50:.6f} rgb/0.png")  # no pose anywhere near
    for name, lines in (("rgb", rgb), ("depth", depth), ("groundtruth", poses)):
        (root / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return Written(root, views, 1 / 5000, True)


def seven_scenes(root: Path) -> Written:
    """Two sequences; depth as the colour camera's (camera-intrinsics.txt), 65535 where there is none."""
    views = views_of(KINECT)
    for k, view in enumerate(views):
        folder = root / f"seq-{1 + k // 5:02d}"
        stem = f"frame-{k % 5:06d}"
        write_pictures(folder, [view], f"{stem}.color.png", f"{stem}.depth.png", none=65535)
        (folder / f"{stem}.pose.txt").write_text(text(pose_of(view).matrix).replace(" ", "\t "))
    (root / "TrainSplit.txt").write_text("sequence1\n")
    (root / "TestSplit.txt").write_text("sequence2\n")
    matrix = np.array([[525, 0, 319.5], [0, 525, 239.5], [0, 0, 1.0]])
    (root / "camera-intrinsics.txt").write_text(text(matrix))
    return Written(root, views, 0.001, True)


def scannet(root: Path) -> Written:
    """One pose of 10 is lost."""
    views = views_of(ODD)
    write_pictures(root, views, "color/{}.png", "depth/{}.png")
    for name in ("pose", "intrinsic"):
        (root / name).mkdir()
    for k, view in enumerate(views):
        lost = k == 3
        (root / "pose" / f"{k}.txt").write_text(text(np.full((4, 4), -np.inf) if lost else pose_of(view).matrix))
    matrix = np.eye(4)
    matrix[:3, :3] = ODD.matrix
    for name in ("color", "depth"):
        (root / "intrinsic" / f"intrinsic_{name}.txt").write_text(text(matrix))
    return Written(root, [v for k, v in enumerate(views) if k != 3], 0.001, True)


def chunk_video(views: Sequence[RgbdImage], key: str) -> dict[str, object]:
    """Cameras relative to the picture's size, from its corner; camera-from-world row by row."""
    rows = []
    for view in views:
        c = view.camera
        inner = [c.fx / c.width, c.fy / c.height, (c.cx + 0.5) / c.width, (c.cy + 0.5) / c.height, 0, 0]
        rows.append([*inner, *np.linalg.inv(view.world_from_cam.matrix)[:3].ravel()])
    images = [torch.frombuffer(bytearray(encode_png(v.rgb_u8)), dtype=torch.uint8) for v in views]
    stamps = torch.arange(len(views)) * 33_000
    return {"key": key, "url": "", "timestamps": stamps, "cameras": torch.tensor(rows).float(), "images": images}


def chunks(root: Path) -> Written:
    views = views_of(ODD)
    folder = root / "test"
    folder.mkdir(parents=True)
    torch.save([chunk_video(views, "5aca87f95a9412c6")], folder / "000000.torch")
    (folder / "index.json").write_text(json.dumps({"5aca87f95a9412c6": "000000.torch"}))
    return Written(root, views, None, False, tolerance=1e-5)


WRITERS: dict[str, tuple[str, Callable[[Path], Written]]] = {
    "colmap": ("colmap", colmap),
    "colmap_text": ("colmap", lambda root: colmap(root, binary=False)),
    "colmap_by_hand": ("colmap", colmap_text),
    "nerfstudio": ("nerfstudio", nerfstudio),
    "nerfstudio_per_frame": ("nerfstudio", nerfstudio_per_frame),
    "blender": ("nerfstudio", blender),
    "llff": ("llff", llff),
    "llff_shrunken": ("llff", lambda root: llff(root, shrink=4)),
    "dtu_mvsnet": ("dtu", dtu_mvsnet),
    "dtu_neus": ("dtu", dtu_neus),
    "dtu_idr": ("dtu", dtu_idr),
    "tum": ("tum", tum),
    "7scenes": ("7scenes", seven_scenes),
    "scannet": ("scannet", scannet),
    "chunks": ("chunks", chunks),
}

"""What goes wrong with maps on disk, each with real processes, real signals and real full disks."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("reconx_ros.srv")

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from reconx_ros.msg import Status
from reconx_ros.srv import LoadMap, RenderView, SaveMap
from ros_graph import TIMEOUT_S, FakeCamera, Graph, NodeProcess, graph
from sensor_msgs.msg import PointCloud2
from std_srvs.srv import Trigger

from reconx_ros.core import SE3, PointCloud
from reconx_ros.core.files import restore_folder
from reconx_ros.jobs import map_files
from reconx_ros.ros.conversions import camera_info_msg, header_msg, pose_msg
from reconx_ros.ros.graph.qos import latched_qos

SMALL, LARGE = 200, 1_000_000
SAVER = """
import json, os, sys
from pathlib import Path
import test_ros_storage as storage
from reconx_ros.jobs import map_files

def killed_after(events, work):
    child = os.fork()
    if child == 0:
        left = [events]
        def hook(event, arguments):
            if event in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"):
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), 9)
        sys.addaudithook(hook)
        work()
        os._exit(0)
    return os.waitpid(child, 0)[1] == 9

folder = Path(sys.argv[1]) / "map"
old, new = storage.saved_map(5, stamp_ns=1), storage.saved_map(6, stamp_ns=2)
found, events = [], 0
while True:
    events += 1
    map_files.save(folder, old, overwrite=True)
    killed = killed_after(events, lambda: map_files.save(folder, new, overwrite=True))
    found.append([len(map_files.load(folder).cloud), sorted(p.name for p in folder.parent.iterdir())])
    if not killed:
        break
print(json.dumps(found))
"""


def saved_map(count: int, stamp_ns: int = 2**60) -> map_files.SavedMap:
    rng = np.random.default_rng(count)
    cloud = PointCloud(
        points=rng.normal(size=(count, 3)).astype(np.float32),
        rgb_u8=rng.integers(0, 255, (count, 3), np.uint8),
        confidence=np.ones(count, np.float32),
        provenance=np.ones(count, np.uint8),
        keyframe_ids=np.sort(rng.integers(0, 4, count)).astype(np.uint32),
    )
    poses = {i: SE3.exp(rng.normal(size=3), rng.normal(size=3)) for i in range(4)}
    return map_files.SavedMap(cloud=cloud, poses=poses, frame_id="map", stamp_ns=stamp_ns, metric_scale=True)


# Files ----------------------------------------------------------------------------------------------------------


def test_a_save_killed_at_any_step_leaves_the_old_map_or_the_new_one(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-c", SAVER, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=300)
    found = json.loads(done.stdout)
    counts = [count for count, _ in found]
    assert len(counts) >= 12  # every opened, made and renamed file was once the last
    assert set(counts) == {5, 6} and counts == sorted(counts), counts
    assert all(names == ["map"] for _, names in found)  # what the killed process left is cleared away


def test_a_save_of_a_living_process_is_not_cleared_away(tmp_path: Path) -> None:
    folder = tmp_path / "map"
    map_files.save(folder, saved_map(5), overwrite=False)
    code = (
        "import sys; from pathlib import Path; from reconx_ros.core.files import whole_folder\n"
        "with whole_folder(Path(sys.argv[1])) as part:\n"
        "    (part / 'file').write_text('new'); print('writing', flush=True); sys.stdin.readline()\n"
    )
    writer = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert writer.stdin is not None and writer.stdout is not None
    assert writer.stdout.readline() == "writing\n"
    restore_folder(folder)
    assert len(list(tmp_path.iterdir())) == 2 and len(map_files.load(folder).cloud) == 5
    writer.communicate("\n", timeout=60)
    assert writer.returncode == 0 and [p.name for p in tmp_path.iterdir()] == ["map"]
    assert (folder / "file").read_text() == "new"


def flipped(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[2 * len(data) // 3] ^= 1
    file.write_bytes(data)


def changed_version(file: Path) -> None:
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, "version": 99}))


DAMAGES: list[tuple[str, str, Callable[[Path], Any], int, str]] = [
    # name, file, damage, error code, words
    *(
        (f"{name} cut", name, lambda f: os.truncate(f, f.stat().st_size // 2), LoadMap.Response.INVALID_MAP, words)
        for name, words in (("points.ply", "bytes, expected"), ("scene.ply", "bytes, expected"), ("map.json", "read"))
    ),
    *((f"{name} flipped", name, flipped, LoadMap.Response.INVALID_MAP, "") for name in ("points.ply", "scene.ply")),
    ("map.json flipped", "map.json", flipped, LoadMap.Response.INVALID_MAP, ""),
    ("map.json empty", "map.json", lambda f: f.write_text(""), LoadMap.Response.INVALID_MAP, "cannot be read"),
    ("map.json a list", "map.json", lambda f: f.write_text("[]"), LoadMap.Response.INVALID_MAP, "has format None"),
    ("another version", "map.json", changed_version, LoadMap.Response.INVALID_MAP, "version 99, expected reconx_map 2"),
    ("points missing", "points.ply", Path.unlink, LoadMap.Response.INVALID_MAP, "points.ply is missing"),
    ("scene missing", "scene.ply", Path.unlink, LoadMap.Response.INVALID_MAP, "scene.ply is missing"),
    ("map.json missing", "map.json", Path.unlink, LoadMap.Response.NOT_FOUND, "map.json is missing"),
    ("a file", "map.json", lambda f: (shutil.rmtree(f.parent), f.parent.touch()), LoadMap.Response.NOT_FOUND, "no map"),
]


# A node ---------------------------------------------------------------------------------------------------------


class Keeper:
    """A node whose map comes from disk, and what it says about it."""

    def __init__(self, made: Graph) -> None:
        self.graph = made
        self.points = made.listen(PointCloud2, "reconx_node/points", latched_qos())
        self.statuses = made.listen(Status, "reconx_node/status", latched_qos())
        self.diagnostics = made.listen(DiagnosticArray, "/diagnostics")

    def start(self, folder: Path, **parameters: Any) -> NodeProcess:
        return self.graph.start("reconx_node", ros__output_dir=str(folder), **parameters)

    def load(self, path: str | Path) -> LoadMap.Response:
        return self.graph.call(LoadMap, "reconx_node/load_map", LoadMap.Request(path=str(path)))

    def load_until(self, path: str | Path, words: str) -> LoadMap.Response:
        """Load again until the answer says so: what the node sees of the graph lags behind what the test sees.

        Each load waits for the server itself, so that this is no busy loop.
        """
        answers: list[str] = []
        deadline = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline:
            answer = self.load(path)
            assert answer.success, answer.message
            if words in answer.message:
                return answer
            answers.append(answer.message)
        raise AssertionError(f"no load said '{words}', but {answers}")

    def save(self, path: str | Path, *, overwrite: bool = False) -> SaveMap.Response:
        request = SaveMap.Request(path=str(path), overwrite=overwrite)
        return self.graph.call(SaveMap, "reconx_node/save_map", request)

    def cloud(self, width: int) -> PointCloud2:
        """The newest cloud, once it has that many points."""
        self.graph.wait(f"a cloud of {width} points", lambda: self.points and self.points[-1].width == width)
        return self.points[-1]

    def diagnosed(self, words: str) -> DiagnosticStatus:
        def found() -> DiagnosticStatus | None:
            newest = [s for a in self.diagnostics[-1:] for s in a.status if s.name == "reconx_node: map storage"]
            return newest[0] if newest and words in newest[0].message else None

        return self.graph.wait(f"diagnostics of the storage with '{words}'", found)


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of a given size; the test is skipped where this user may not mount one."""
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True)
    if done.returncode:
        pytest.skip(f"mount is not permitted here: {done.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def content(folder: Path) -> dict[str, str]:
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in folder.iterdir()}


def test_node_killed_in_the_middle_of_a_save_keeps_the_old_map(ros_domain: int, tmp_path: Path) -> None:
    maps = tmp_path / "maps"
    map_files.save(maps / "kitchen", saved_map(SMALL), overwrite=False)
    map_files.save(maps / "large", saved_map(LARGE), overwrite=False)
    before = content(maps / "kitchen")
    with graph(tmp_path) as made:
        keeper = Keeper(made)
        first = keeper.start(maps)
        assert keeper.load("large").points == LARGE
        client = made.node.create_client(SaveMap, "reconx_node/save_map")
        made.wait("the service", client.service_is_ready)
        answer = client.call_async(SaveMap.Request(path="kitchen", overwrite=True))
        while not list(maps.glob(".kitchen.*.part")):  # a matter of milliseconds, too short for waiting in steps
            assert first.alive and not answer.done(), "the save was over before it could be cut"
        first.process.kill()
        first.process.wait(15)
        assert not answer.done() and content(maps / "kitchen") == before
        assert list(maps.glob(".kitchen.*.part"))
        # Under another name, because the graph remembers the dead node for a while.
        made.start("reconx_node", "-r", "__node:=second", ros__output_dir=str(maps))
        points = made.listen(PointCloud2, "second/points", latched_qos())
        loaded = made.call(LoadMap, "second/load_map", LoadMap.Request(path="kitchen"))
        assert loaded.success and loaded.points == SMALL, loaded.message
        made.wait("the old map", lambda: points and points[-1].width == SMALL)
        assert not list(maps.glob(".kitchen.*"))


def test_full_disks_and_damaged_maps_cost_neither_node_nor_map(ros_domain: int, tmp_path: Path) -> None:
    maps = tmp_path / "maps"
    scene = tmp_path / "scene.ply"
    scene.write_bytes(b"x" * 1000)
    good = map_files.SavedMap(**{**vars(saved_map(SMALL)), "scene_file": scene})
    map_files.save(maps / "good", good, overwrite=False)
    map_files.save(maps / "large", saved_map(100_000), overwrite=False)
    with small_disk(tmp_path / "disk", "1m") as disk, graph(tmp_path) as made:
        map_files.save(disk / "map", saved_map(SMALL), overwrite=False)
        keeper = Keeper(made)
        node = keeper.start(disk)
        assert keeper.load(maps / "large").success
        cloud = keeper.cloud(100_000)
        check_full_disk(keeper, disk)
        check_limit(keeper, node, maps)
        check_damages(keeper, maps)
        assert node.process.poll() is None
        assert keeper.points[-1] is cloud, "the map was published again without need"
        assert keeper.save(maps / "after").success
        assert content(maps / "after")["points.ply"] == content(maps / "large")["points.ply"]
        keeper.diagnosed(f"100000 points are saved in {maps / 'after'}")


def check_full_disk(keeper: Keeper, disk: Path) -> None:
    before = content(disk / "map")
    for path, overwrite in (("map", True), ("another", False)):
        refused = keeper.save(path, overwrite=overwrite)
        assert (refused.success, refused.error_code) == (False, SaveMap.Response.NO_DISK), refused.message
        assert refused.message == f"map {disk / path} cannot be written (No space left on device)"
        assert keeper.diagnosed("No space left on device").level == DiagnosticStatus.ERROR
    assert content(disk / "map") == before and [p.name for p in disk.iterdir()] == ["map"]


def check_limit(keeper: Keeper, node: NodeProcess, maps: Path) -> None:
    """A file that may not grow, as with a quota of the file system."""
    pid = node.process.pid
    former = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (100_000, former[1]))
    try:
        refused = keeper.save(maps / "limited")
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, former)
    assert (refused.success, refused.error_code) == (False, SaveMap.Response.WRITE_FAILED), refused.message
    assert "cannot be written (File too large)" in refused.message and not (maps / "limited").exists()
    assert not list(maps.glob(".*"))


def check_damages(keeper: Keeper, maps: Path) -> None:
    for name, file, damage, code, words in DAMAGES:
        folder = maps / "damaged"
        shutil.copytree(maps / "good", folder)
        damage(folder / file)
        refused = keeper.load(folder)
        assert (refused.success, refused.error_code) == (False, code), f"{name}: {refused.message}"
        assert words in refused.message and str(folder) in refused.message, f"{name}: {refused.message}"
        assert "\n" not in refused.message
        assert keeper.diagnosed(refused.message).level == DiagnosticStatus.ERROR, name
        shutil.rmtree(folder) if folder.is_dir() else folder.unlink()


# The whole map comes back ---------------------------------------------------------------------------------------


def test_a_reloaded_map_is_the_same_cloud_byte_for_byte_and_draws_the_same_pictures(
    ros_domain: int, tmp_path: Path
) -> None:
    results = tmp_path / "results"
    target = {"ros__worker_target": "ros_stub_jobs:with_scene", "ros__output_dir": str(results)}
    with graph(tmp_path) as made:
        keeper, camera = Keeper(made), FakeCamera(made)
        server = made.start("reconstruction_server", **target)
        keeper.start(tmp_path / "maps", ros__retry_s=0.1)
        camera.ready()
        camera.walk(4)
        before = keeper.cloud(800)

        def picture() -> RenderView.Response:
            request = RenderView.Request(pose=pose_msg(camera.pose(0.3)))
            request.camera_info = camera_info_msg(camera.camera, header_msg(0, "view"))
            return made.call(RenderView, "reconstruction_server/render_view", request)

        drawn = picture()
        assert drawn.success and len(set(drawn.image.data)) > 20, drawn.message
        assert keeper.save("kitchen").success
        assert made.call(Trigger, "reconx_node/reset", Trigger.Request()).success
        keeper.cloud(0)
        seen = made.node.create_client(RenderView, "reconstruction_server/render_view")
        made.wait("sight of the server", seen.service_is_ready)
        server.stop()
        made.wait("the server to be forgotten", lambda: not seen.service_is_ready())  # or the next call goes to it
        shutil.rmtree(results)  # only what was saved may be used
        keeper.load_until("kitchen", "is not drawn: the reconstruction server is not there")
        made.start("reconstruction_server", **target)
        assert picture().error_code == RenderView.Response.NO_SCENE
        loaded = keeper.load_until("kitchen", "the reconstruction server draws")
        assert loaded.message.endswith("; the reconstruction server draws its scene"), loaded.message
        after = keeper.cloud(800)
        assert after.data == before.data and after == before
        again = picture()
        for name in ("image", "depth", "provenance"):
            assert getattr(again, name) == getattr(drawn, name), name
        assert keeper.save("copy").success
        names = ("points.ply", "scene.ply")
        first, second = content(tmp_path / "maps" / "kitchen"), content(tmp_path / "maps" / "copy")
        assert [first[n] for n in names] == [second[n] for n in names]

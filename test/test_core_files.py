"""Files appear whole or not at all; devices, pipes, links, modes and owners stay what they were."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from splatting_scenes import random_gaussians, scene_from

from reconx_ros.core import PointCloud, StorageError
from reconx_ros.core.files import whole_file, whole_folder, write_bytes, write_text
from reconx_ros.io.gaussians import write_scene_ply
from reconx_ros.io.images import write_depth, write_image
from reconx_ros.io.ply import write_point_cloud_ply
from reconx_ros.io.splat_files import write_splat, write_spz

SCENE = scene_from(random_gaussians(5))
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away and make devices")

WRITERS: dict[str, Callable[[Path], None]] = {
    "bytes": lambda path: write_bytes(path, b"new"),
    "text": lambda path: write_text(path, "new"),
    "cloud": lambda path: write_point_cloud_ply(path, PointCloud.empty()),
    "scene": lambda path: write_scene_ply(path, SCENE),
    "splat": lambda path: write_splat(path, SCENE),
    "spz": lambda path: write_spz(path, SCENE),
    "picture": lambda path: write_image(path.with_suffix(".png"), np.zeros((2, 2, 3), np.uint8)),
    "depth": lambda path: write_depth(path.with_suffix(".png"), np.ones((2, 2), np.float32)),
}


def other_names(folder: Path, *known: str) -> set[str]:
    return {file.name for file in folder.iterdir()} - set(known)


@AS_ROOT
@pytest.mark.parametrize("writer", WRITERS)
def test_a_device_is_written_into_and_stays(tmp_path: Path, writer: str) -> None:
    device = tmp_path / "null.png"
    os.mknod(device, stat.S_IFCHR | 0o666, os.makedev(1, 3))  # a /dev/null of our own
    WRITERS[writer](device)
    assert stat.S_ISCHR(device.stat().st_mode)
    assert not other_names(tmp_path, "null.png")


@AS_ROOT
def test_a_full_device_is_one_sentence(tmp_path: Path) -> None:
    device = tmp_path / "full"
    os.mknod(device, stat.S_IFCHR | 0o666, os.makedev(1, 7))
    with pytest.raises(StorageError, match=r"full cannot be written: No space left on device"):
        write_bytes(device, b"x")


def test_a_pipe_gets_the_content(tmp_path: Path) -> None:
    pipe, heard = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: heard.append(pipe.read_bytes()), daemon=True)
    reader.start()
    write_text(pipe, "through")
    reader.join(20)
    assert heard == [b"through"] and stat.S_ISFIFO(pipe.stat().st_mode)


@pytest.mark.parametrize("writer", WRITERS)
def test_a_link_stays_and_its_file_is_replaced(tmp_path: Path, writer: str) -> None:
    (tmp_path / "far").mkdir()
    target = tmp_path / "far" / "file.png"
    target.write_bytes(b"old")
    first, second = tmp_path / "first.png", tmp_path / "second.png"
    second.symlink_to("far/file.png")
    first.symlink_to(second)
    WRITERS[writer](first)
    assert first.is_symlink() and second.is_symlink()
    assert not target.is_symlink() and target.read_bytes() not in (b"old", b"")
    assert not other_names(tmp_path, "first.png", "second.png", "far")


def test_a_link_to_nothing_makes_the_file(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("later")
    write_text(link, "new")
    assert link.is_symlink() and (tmp_path / "later").read_text() == "new"


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o755])
def test_the_mode_is_kept(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(mode)
    write_text(path, "new")
    assert stat.S_IMODE(path.stat().st_mode) == mode and path.read_text() == "new"


def test_a_new_file_has_the_usual_mode(tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    write_text(tmp_path / "new", "x")
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "usual").stat().st_mode


@AS_ROOT
def test_the_owner_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    os.chown(path, 12345, 54321)
    write_text(path, "new")
    assert (path.stat().st_uid, path.stat().st_gid) == (12345, 54321)


def test_a_file_that_cannot_be_given_back_is_written_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_text("a longer old content")
    before = path.stat().st_ino

    def refused(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "chmod", refused)
    write_text(path, "new")
    assert path.read_text() == "new" and path.stat().st_ino == before


@pytest.mark.parametrize("writer", WRITERS)
def test_a_folder_in_place_of_a_file_is_one_sentence(tmp_path: Path, writer: str) -> None:
    (tmp_path / "x.png").mkdir()
    with pytest.raises(StorageError, match=r"x\.png cannot be written: a folder of that name is there"):
        WRITERS[writer](tmp_path / "x.png")
    assert (tmp_path / "x.png").is_dir() and not other_names(tmp_path, "x.png")


def test_a_file_in_place_of_a_folder_is_an_error_and_stays(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("mine")
    with pytest.raises(NotADirectoryError, match="a file of that name"), whole_folder(tmp_path / "x"):
        pass
    assert (tmp_path / "x").read_text() == "mine" and not other_names(tmp_path, "x")


def test_a_link_to_a_folder_stays_and_the_folder_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o750)
    (tmp_path / "real").chmod(0o750)
    (tmp_path / "link").symlink_to("real")
    with whole_folder(tmp_path / "link") as part:
        (part / "map").write_text("new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real" / "map").read_text() == "new"
    assert stat.S_IMODE((tmp_path / "real").stat().st_mode) == 0o750
    assert not other_names(tmp_path, "real", "link")


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    with pytest.raises(FileNotFoundError), whole_file(tmp_path / "file") as temporary:
        temporary.write_bytes(b"half" + (tmp_path / "missing").read_bytes())
    assert (tmp_path / "file").read_text() == "old" and not other_names(tmp_path, "file")


@pytest.mark.parametrize("place", ["-", "/dev/stdout"])
def test_json_goes_to_standard_output(tmp_path: Path, place: str) -> None:
    """Into a file that holds something already, as with ``>>``: what stands there stays."""
    log = tmp_path / "log"
    log.write_text("before\n")
    command = [sys.executable, "-m", "reconx_ros.cli", "doctor", "--json", place]
    with log.open("a") as out:
        subprocess.run(command, stdout=out, stderr=subprocess.PIPE, check=True, timeout=120)
    text = log.read_text()
    assert text.startswith("before\n")
    assert "packages" in json.loads(text[text.index("{") :])
    assert ("\nmachine\n" in text) == (place == "/dev/stdout")


def test_output_that_is_no_longer_read_is_no_error() -> None:
    command = [sys.executable, "-m", "reconx_ros.cli", "doctor"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""

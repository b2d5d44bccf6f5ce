"""Where results and maps are written, and how many results are kept. Needs no ROS."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections import deque
from pathlib import Path


def output_folder(output_dir: str) -> Path:
    """The configured output folder, or this user's folder below the temporary one."""
    return Path(output_dir).expanduser() if output_dir else Path(tempfile.gettempdir()) / f"reconx_ros_{os.getuid()}"


def job_folder(output_dir: str, job_id: str) -> Path:
    """Folder of one job's files, a direct child of the output folder whatever the job is called."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "_", job_id).strip(".")[:100] or "job"
    return output_folder(output_dir) / name


class KeptResults:
    """Removes the oldest of the result folders that this process wrote when there are too many."""

    def __init__(self) -> None:
        self._folders: deque[Path] = deque()

    def add(self, folder: Path, keep: int) -> None:
        """A result was written; folders of earlier processes are never touched."""
        if folder in self._folders:
            self._folders.remove(folder)
        self._folders.append(folder)
        while len(self._folders) > keep:
            shutil.rmtree(self._folders.popleft(), ignore_errors=True)

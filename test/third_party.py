"""A package that another team could install beside ours: a pointmap backend with two settings, by entry point.

Write further kinds of plug-ins as more files and lines of ``ENTRY_POINTS``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from reconx_ros.core.registry import registered

ENTRY_POINTS = """
[reconx_ros.pointmap]
flat = acme_vision:FLAT
wrecked = acme_vision:NOT_THERE
"""

FILES = {
    "acme_vision/__init__.py": """
from dataclasses import dataclass

from reconx_ros.core.settings import Settings, setting
from reconx_ros.pointmap.registry import PointmapInfo


@dataclass(frozen=True, kw_only=True)
class FlatSettings(Settings):
    distance: float = setting(2.0, "Distance of the wall.", unit="m", ge=0.1, le=100.0)
    trust: float = setting(0.9, "Confidence of all of it.", ge=0.0, le=1.0)


FLAT = PointmapInfo(
    name="flat",
    target="acme_vision.backend:FlatBackend",
    summary="a wall in front of every camera",
    settings="acme_vision:FlatSettings",
    licence_code="MIT",
)
""",
    "acme_vision/backend.py": """
import torch

from acme_vision import FlatSettings
from reconx_ros.core import AlignedViews, PointMap, Provenance


class FlatBackend:
    name = "flat"

    def reconstruct(self, keyframes, config, *, device, job):
        own, views = config.own(FlatSettings), []
        for keyframe in keyframes:
            frame = keyframe.frame
            ones = torch.ones(frame.camera.height, frame.camera.width)
            views.append(
                PointMap(
                    rgb=frame.rgb(), depth=own.distance * ones, confidence=own.trust * ones, valid=ones > 0,
                    provenance=Provenance.INFERRED.where(ones > 0),
                    camera=frame.camera, world_from_cam=frame.world_from_cam, keyframe_id=keyframe.id,
                )
            )
        return AlignedViews(views=tuple(views), metric_scale=True, scale_source="poses", backend=self.name)
""",
    "acme_vision-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: acme-vision\nVersion: 1.0\n",
    "acme_vision-1.0.dist-info/entry_points.txt": ENTRY_POINTS,
}


def install(folder: Path) -> Path:
    """Write the package as pip leaves it; the folder to put on the import path."""
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@contextmanager
def installed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The package is there, in this process and in those that it starts."""
    site = install(folder)
    with monkeypatch.context() as patch:
        patch.syspath_prepend(str(site))
        patch.setenv("PYTHONPATH", str(site), prepend=os.pathsep)
        registered.cache_clear()
        yield site
    registered.cache_clear()
    for name in [n for n in sys.modules if n.split(".")[0] == "acme_vision"]:
        del sys.modules[name]

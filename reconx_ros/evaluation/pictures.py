"""The pictures of an evaluation, as files; ``layout`` says where."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from reconx_ros.core import StorageError
from reconx_ros.evaluation.layout import OBSERVED, TRUTH, RunFolder
from reconx_ros.evaluation.visibility import Observed
from reconx_ros.io.images import write_image
from reconx_ros.splatting.render import RenderedView
from reconx_ros.viz.palette import provenance_picture

FULL_ERROR = 0.5  # mean over the channels of |difference|, in [0, 1], at and above which the error map is brightest
_UNKNOWN_GREY = 128


def error_map(picture_u8: np.ndarray, truth_u8: np.ndarray) -> np.ndarray:
    """Error [H, W, 3] uint8, from black (none) over purple and orange to pale yellow (0.5 and more)."""
    import cv2

    error = np.abs(picture_u8.astype(np.float32) - truth_u8.astype(np.float32)).mean(axis=-1) / 255.0
    level = np.round(255 * np.clip(error / FULL_ERROR, 0, 1)).astype(np.uint8)
    return np.ascontiguousarray(cv2.applyColorMap(level, cv2.COLORMAP_INFERNO)[..., ::-1])


def observed_map(observed: Observed) -> np.ndarray:
    """Grey levels [H, W, 3] uint8: white observed, black not, grey where nothing tells."""
    grey = np.where(observed.seen, 255, np.where(observed.unseen, 0, _UNKNOWN_GREY)).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)


class PictureWriter:
    """Writes the pictures of one run; does nothing without a folder.

    Args:
        folder: of the run; None writes nothing.
    """

    def __init__(self, folder: RunFolder | None) -> None:
        self._folder = folder

    @property
    def folder(self) -> RunFolder | None:
        """Where the pictures go; None nowhere."""
        return self._folder

    def input(self, index: int, rgb_u8: np.ndarray) -> None:
        """An input picture."""
        if self._folder is not None:
            _write(self._folder.input(index), rgb_u8)

    def truth(self, index: int, rgb_u8: np.ndarray, observed: Observed | None) -> None:
        """A held-out picture and which of its pixels some input saw."""
        if self._folder is None:
            return
        _write(self._folder.picture(index, TRUTH), rgb_u8)
        if observed is not None:
            _write(self._folder.picture(index, OBSERVED), observed_map(observed))

    def method(self, index: int, key: str, picture_u8: np.ndarray, truth_u8: np.ndarray) -> None:
        """A method's picture and its error."""
        if self._folder is not None:
            _write(self._folder.picture(index, key), picture_u8)
            _write(self._folder.layer(index, key, "error"), error_map(picture_u8, truth_u8))

    def layers(self, index: int, key: str, view: RenderedView) -> None:
        """Provenance and confidence of a map's picture."""
        if self._folder is not None:
            grey = np.round(255 * view.confidence).clip(0, 255).astype(np.uint8)
            _write(self._folder.layer(index, key, "provenance"), provenance_picture(view.provenance))
            _write(self._folder.layer(index, key, "confidence"), np.repeat(grey[..., None], 3, axis=-1))


def _write(path: Path, rgb_u8: np.ndarray) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise StorageError(f"folder {path.parent} cannot be made: {err.strerror}") from None
    write_image(path, rgb_u8)

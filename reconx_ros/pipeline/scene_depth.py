"""How far away is what a moving camera sees? From the frames and their poses alone.

Which frames are kept hangs on it, and must not hang on when the first map comes: a recording gives the same keyframes
however fast the computer is. Corners are tracked from frame to frame (Bouguet, "Pyramidal implementation of the Lucas
Kanade feature tracker", 2000) and triangulated with the given poses.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from reconx_ros.core import SE3, Frame, PinholeCamera

_SIDE = 160  # px of the longer side that corners are tracked on
_CORNERS = 80
_MIN_TRACKS = 12  # fewer say nothing
_MIN_ANGLE_DEG = 1.5  # between the rays of a corner, below which its depth is noise
_MAX_ERROR_PX = 1.5  # between a track and its triangulated point, on the small picture
_MAX_GAP_NS = 2_000_000_000  # tracks do not survive longer without a frame


@dataclass(kw_only=True, eq=False)
class _Tracks:
    """Corners of an anchor frame and where they are in the newest one."""

    camera: PinholeCamera  # of the small picture
    anchor_pose: SE3
    anchor: np.ndarray  # [P, 2] float32
    newest: np.ndarray  # [P, 2] float32
    grey: np.ndarray  # [h, w] uint8, of the newest frame
    stamp_ns: int
    depth: float | None = None


class DepthFromMotion:
    """Median depth of what one camera sees, updated frame by frame; the same frames give the same depths."""

    def __init__(self) -> None:
        self._tracks: _Tracks | None = None

    def update(self, frame: Frame) -> float | None:
        """Take in the next frame, with a pose.

        Returns:
            Median z-depth in the newest view, in the unit of the poses; the last one known while it cannot be told
            anew, and None before the camera has moved.
        """
        pose = frame.world_from_cam
        assert pose is not None
        camera = frame.camera.fitted_to(_SIDE)
        grey = cv2.cvtColor(cv2.resize(frame.rgb_u8, camera.size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
        tracks = self._tracks
        if tracks is None or tracks.camera != camera or not 0 < frame.stamp_ns - tracks.stamp_ns <= _MAX_GAP_NS:
            self._tracks = _anchored(camera, pose, grey, frame.stamp_ns, None if tracks is None else tracks.depth)
            return self._tracks.depth
        _follow(tracks, grey, frame.stamp_ns)
        found = _median_depth(tracks, pose)
        if found is not None:
            tracks.depth = found
        if len(tracks.anchor) < 2 * _MIN_TRACKS or found is not None:
            self._tracks = _anchored(camera, pose, grey, frame.stamp_ns, tracks.depth)
        return tracks.depth


def _anchored(camera: PinholeCamera, pose: SE3, grey: np.ndarray, stamp_ns: int, depth: float | None) -> _Tracks:
    corners = cv2.goodFeaturesToTrack(grey, _CORNERS, 0.01, 5.0)
    points = np.zeros((0, 2), np.float32) if corners is None else corners.reshape(-1, 2)
    return _Tracks(
        camera=camera, anchor_pose=pose, anchor=points, newest=points, grey=grey, stamp_ns=stamp_ns, depth=depth
    )  # fmt: skip


def _follow(tracks: _Tracks, grey: np.ndarray, stamp_ns: int) -> None:
    """Move the corners on; those that do not come back when followed backwards are lost."""
    if len(tracks.newest):
        there, found, _ = cv2.calcOpticalFlowPyrLK(tracks.grey, grey, tracks.newest[:, None], None)  # type: ignore[call-overload]
        back, again, _ = cv2.calcOpticalFlowPyrLK(grey, tracks.grey, there, None)  # type: ignore[call-overload]
        same = np.linalg.norm(back[:, 0] - tracks.newest, axis=1) < 0.5
        kept = (found[:, 0] == 1) & (again[:, 0] == 1) & same
        tracks.anchor, tracks.newest = tracks.anchor[kept], there[kept, 0]
    tracks.grey, tracks.stamp_ns = grey, stamp_ns


def _median_depth(tracks: _Tracks, pose: SE3) -> float | None:
    """Median depth in the newest view of the corners that can be triangulated; None where these are too few."""
    now_from_anchor = pose.inverse() @ tracks.anchor_pose
    a = _rays(tracks.camera, tracks.anchor) @ now_from_anchor.rotation.T  # [P, 3] in the newest camera
    b, shift = _rays(tracks.camera, tracks.newest), now_from_anchor.translation
    # The point on each ray b that is nearest to its ray a, which starts at the shift.
    ab, aa, bb = (a * b).sum(1), (a * a).sum(1), (b * b).sum(1)
    determinant = aa * bb - ab**2
    depth = (aa * (b @ shift) - ab * (a @ shift)) / np.maximum(determinant, 1e-12)
    cosine = ab / np.sqrt(aa * bb)
    wide = cosine < np.cos(np.deg2rad(_MIN_ANGLE_DEG))
    seen = (b * depth[:, None] - shift) @ now_from_anchor.rotation  # in the anchor camera
    safe = np.maximum(seen[:, 2], 1e-9)
    where = seen[:, :2] / safe[:, None] * (tracks.camera.fx, tracks.camera.fy) + (tracks.camera.cx, tracks.camera.cy)
    right = np.linalg.norm(where - tracks.anchor, axis=1) < _MAX_ERROR_PX
    usable = wide & right & (depth > 0) & (seen[:, 2] > 0)
    return float(np.median(depth[usable])) if usable.sum() >= _MIN_TRACKS else None


def _rays(camera: PinholeCamera, pixels: np.ndarray) -> np.ndarray:
    """Rays [P, 3] of unit depth through pixels [P, 2]."""
    flat = (pixels.astype(np.float64) - (camera.cx, camera.cy)) / (camera.fx, camera.fy)
    return np.concatenate([flat, np.ones((len(flat), 1))], axis=1)

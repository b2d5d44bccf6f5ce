"""Which frames are worth keeping: sharp, and showing something that the kept ones do not."""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass

import cv2
import numpy as np

from reconx_ros.core import SE3, Frame, Keyframe, PinholeCamera
from reconx_ros.pipeline.config import KeyframeConfig

_PROBE = 12  # overlap is measured on a grid of _PROBE x _PROBE rays
_RECENT_SHARPNESS = 15  # frames whose median sharpness is the yardstick


def luminance(rgb_u8: np.ndarray) -> np.ndarray:
    """Luminance [H, W] float32 in 8-bit grey levels of an RGB image [H, W, 3] uint8."""
    return np.asarray(cv2.cvtColor(rgb_u8.astype(np.float32), cv2.COLOR_RGB2GRAY))


def sharpness(rgb_u8: np.ndarray) -> float:
    """Variance of the 4-neighbour Laplacian of the luminance, in squared grey levels; 0 for images below 3x3."""
    grey = luminance(rgb_u8)
    if min(grey.shape) < 3:
        return 0.0
    laplacian = cv2.Laplacian(grey, cv2.CV_32F, ksize=1)[1:-1, 1:-1]  # [H-2, W-2]
    return float(cv2.meanStdDev(laplacian)[1].item() ** 2)


def chosen_keyframe(index: int, frame: Frame) -> Keyframe:
    """A frame that someone picked, as a keyframe."""
    return Keyframe(id=index, frame=frame, sharpness=sharpness(frame.rgb_u8), reason="chosen")


def view_overlap(camera: PinholeCamera, a_from_b: SE3, depth: float) -> float:
    """Share of camera b's image that falls into camera a's image, for content at one depth.

    Args:
        camera: intrinsics of both views.
        a_from_b: pose of b seen from a.
        depth: z-depth of the content in b, in the unit of the translation.

    Returns:
        A share in [0, 1]; 1 for identical views, 0 for views that look apart.
    """
    u, v = np.meshgrid(
        (np.arange(_PROBE) + 0.5) / _PROBE * camera.width - 0.5,
        (np.arange(_PROBE) + 0.5) / _PROBE * camera.height - 0.5,
    )
    rays = np.stack([(u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy, np.ones_like(u)], axis=-1)
    points_a = a_from_b.apply(rays.reshape(-1, 3) * depth)
    z = points_a[:, 2]
    front = z > 1e-6 * depth
    z = np.where(front, z, 1.0)
    ua = points_a[:, 0] / z * camera.fx + camera.cx
    va = points_a[:, 1] / z * camera.fy + camera.cy
    inside = (ua > -0.5) & (ua < camera.width - 0.5) & (va > -0.5) & (va < camera.height - 0.5)
    return float((inside & front).mean())


def image_overlap(a_u8: np.ndarray, b_u8: np.ndarray, size: int = 64) -> float:
    """Share of one image that another still shows, from their global shift (phase correlation); needs no pose.

    Args:
        a_u8, b_u8: [H, W, 3] uint8 of one camera.
        size: both are sampled to size x size first.

    Returns:
        A share in [0, 1].
    """
    spectra = []
    window = np.outer(np.hanning(size), np.hanning(size))
    for image in (a_u8, b_u8):
        rows = ((np.arange(size) + 0.5) * image.shape[0] / size).astype(int)
        columns = ((np.arange(size) + 0.5) * image.shape[1] / size).astype(int)
        grey = luminance(image[np.ix_(rows, columns)])
        spectra.append(np.fft.fft2((grey - grey.mean()) * window))
    cross = spectra[0] * np.conj(spectra[1])
    correlation = np.fft.ifft2(cross / np.maximum(np.abs(cross), 1e-9)).real
    peak = np.array(np.unravel_index(int(correlation.argmax()), correlation.shape))
    shift = np.minimum(peak, size - peak) / size
    return float((1 - shift[0]) * (1 - shift[1]))


@dataclass(frozen=True, kw_only=True)
class KeyframeVerdict:
    """What the policy says of a frame.

    Attributes:
        keep: whether it becomes a keyframe.
        reason: a few words ("blurred", "similar to keyframe 3", "moved 0.31 of the scene depth", ...).
        sharpness: of the frame, squared grey levels.
        overlap: with the most similar keyframe; None for the first frame.
    """

    keep: bool
    reason: str
    sharpness: float
    overlap: float | None = None


class KeyframePolicy:
    """Decides frame by frame; remembers only how sharp the recent frames of each camera were."""

    def __init__(self, config: KeyframeConfig) -> None:
        self._config = config
        self._recent: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=_RECENT_SHARPNESS))

    def judge(self, frame: Frame, keyframes: list[Keyframe], scene_depth: float) -> KeyframeVerdict:
        """Judge one frame against the keyframes held.

        Args:
            frame: the candidate.
            keyframes: those in the buffer, of all cameras.
            scene_depth: median depth of what the camera sees, in the unit of the poses.

        Returns:
            The verdict; ``keep`` is False for a blurred frame and for one that shows nothing new.
        """
        value = sharpness(frame.rgb_u8)
        recent = self._recent[frame.camera_name]  # cameras differ in size and lens, and so in what is sharp
        blurred = self._is_blurred(value, recent)
        recent.append(value)
        if blurred:
            return KeyframeVerdict(keep=False, reason="blurred", sharpness=value)
        same_camera = [k for k in keyframes if k.frame.camera_name == frame.camera_name]
        if not same_camera:
            return KeyframeVerdict(keep=True, reason="first view", sharpness=value)
        keep, reason, overlap = self._news(frame, same_camera, scene_depth)
        return KeyframeVerdict(keep=keep, reason=reason, sharpness=value, overlap=overlap)

    def _is_blurred(self, value: float, recent: deque[float]) -> bool:
        if len(recent) < 3:
            return False
        return value < self._config.min_sharpness_ratio * float(np.median(recent))

    def _news(self, frame: Frame, keyframes: list[Keyframe], depth: float) -> tuple[bool, str, float]:
        pose = frame.world_from_cam
        if pose is None:
            newest = keyframes[-1]
            overlap = image_overlap(newest.frame.rgb_u8, frame.rgb_u8)
            keep = overlap < self._config.max_overlap
            return keep, f"image overlap {overlap:.2f} with keyframe {newest.id}", overlap
        best_overlap, nearest, why = -1.0, keyframes[-1], ""
        for keyframe in keyframes:
            other = keyframe.frame.world_from_cam
            if other is None:
                continue
            overlap = view_overlap(frame.camera, other.inverse() @ pose, depth)
            reason = self._difference(overlap, other, pose, depth)
            if not reason:
                return False, f"similar to keyframe {keyframe.id}", overlap
            if overlap > best_overlap:
                best_overlap, nearest, why = overlap, keyframe, reason
        return True, f"{why} since keyframe {nearest.id}", max(best_overlap, 0.0)

    def _difference(self, overlap: float, other: SE3, pose: SE3, depth: float) -> str:
        baseline = other.distance_to(pose) / depth
        angle = np.degrees(other.angle_to(pose))
        if overlap < self._config.max_overlap:
            return f"overlap {overlap:.2f}"
        if angle > self._config.min_rotation_deg:
            return f"turned {angle:.0f} degrees"
        if baseline > self._config.min_baseline_ratio:
            return f"moved {baseline:.2f} of the scene depth"
        return ""


def most_redundant(keyframes: list[Keyframe], depth: float) -> int:
    """Index of the keyframe whose content the others show best; never the newest.

    Args:
        keyframes: at least two.
        depth: median scene depth.
    """
    redundancy = np.zeros(len(keyframes) - 1)
    for i, keyframe in enumerate(keyframes[:-1]):
        pose = keyframe.frame.world_from_cam
        if pose is None:
            continue
        overlaps = [
            view_overlap(keyframe.frame.camera, o.frame.world_from_cam.inverse() @ pose, depth)
            for j, o in enumerate(keyframes)
            if j != i and o.frame.world_from_cam is not None
        ]
        redundancy[i] = sum(sorted(overlaps)[-2:])
    return int(redundancy.argmax())

"""What cameras and odometry do to pictures and poses: motion blur, rolling shutter, compression, drift."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from reconx_ros.core import SE3, Frame, PinholeCamera
from reconx_ros.sim.raycast import RgbdImage, RoomRenderer, Twist

_EXPOSURES = 3  # renders that a blurred picture is the mean of
_BLUR_RAD, _BLUR_M = 0.008, 0.006  # motion during an exposure, standard deviation per axis
_SHUTTER_RAD, _SHUTTER_M = 0.01, 0.008  # motion while the rows are read
_POSE_M, _POSE_RAD = 0.01, np.deg2rad(0.5)


def rendered_with_faults(
    renderer: RoomRenderer, camera: PinholeCamera, pose: SE3, share: float, rng: np.random.Generator
) -> RgbdImage:
    """A picture, blurred by motion with a chance of ``share``, and else by a rolling shutter with the same chance.

    Depth is that of the pose in the middle of the exposure, and of each row with a rolling shutter.
    """
    draw = rng.random() if share else 1.0
    if draw < share:
        turn, move = rng.normal(0, _BLUR_RAD, 3), rng.normal(0, _BLUR_M, 3)
        shares = np.linspace(-0.5, 0.5, _EXPOSURES)
        images = [renderer.render(camera, pose @ SE3.exp(s * turn, s * move)) for s in shares]
        mean = np.mean([image.rgb_u8 for image in images], axis=0)
        return replace(images[_EXPOSURES // 2], rgb_u8=np.rint(mean).astype(np.uint8))
    if draw < 2 * share:
        turn, move = rng.normal(0, _SHUTTER_RAD, 3).tolist(), rng.normal(0, _SHUTTER_M, 3).tolist()
        return renderer.render(camera, pose, shutter=Twist(turn_rad=tuple(turn), move_m=tuple(move)))
    return renderer.render(camera, pose)


def jpeg_compressed(rgb_u8: np.ndarray, quality: int) -> np.ndarray:
    """A picture [H, W, 3] uint8 after JPEG compression at a quality of 1 to 100."""
    import cv2

    _, code = cv2.imencode(".jpg", rgb_u8[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.ascontiguousarray(np.asarray(cv2.imdecode(code, cv2.IMREAD_COLOR))[..., ::-1])


def with_pose_noise(frames: Sequence[Frame], largest: float, rng: np.random.Generator) -> list[Frame]:
    """Frames whose poses, but for the first, are off as odometry's are; how much is drawn per group, often nothing.

    Args:
        frames: with exact poses.
        largest: factor on 1 cm and half a degree per view.
        rng: of the errors.
    """
    size = largest * max(0.0, rng.uniform(-0.7, 1.0))
    found = [frames[0]]
    for frame in frames[1:]:
        pose = frame.world_from_cam
        wrong = SE3.exp(size * rng.normal(0, _POSE_RAD, 3) / np.sqrt(3), size * rng.normal(0, _POSE_M, 3) / np.sqrt(3))
        found.append(frame if pose is None else replace(frame, world_from_cam=pose @ wrong))
    return found

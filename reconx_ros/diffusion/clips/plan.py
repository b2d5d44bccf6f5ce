"""Which clips a video model makes for a set of keyframes: plans as data, made without a network.

A clip begins with a known picture and holds a second one, at its end (interpolation) or before it (extrapolation: the
frames past it go on; ReconX, arXiv:2408.16767, appendix D). Known pictures are keyframes, or frames of an earlier clip.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from reconx_ros.core import SE3, AlignedViews, InvalidInputError, PinholeCamera, Trajectory
from reconx_ros.diffusion.clips.trajectory import continued, length_per_radian, screw_pose
from reconx_ros.diffusion.config import DiffusionConfig
from reconx_ros.geometry.paths import order_poses, poses_within, smooth_path

_MIN_TURN_DEG, _MAX_TURN_DEG = 2.0, 150.0  # between the two keyframes of an orbit
_MAX_CLIPS = 64


@dataclass(frozen=True)
class KeyframeRef:
    """A picture that a camera took: index into ``AlignedViews.views``."""

    view: int


@dataclass(frozen=True)
class GeneratedRef:
    """A frame of an earlier clip of the same plan."""

    clip: int
    frame: int


PictureRef = KeyframeRef | GeneratedRef


@dataclass(frozen=True, kw_only=True, eq=False)
class ClipPlan:
    """One run of a video model.

    Attributes:
        first, second: its known pictures.
        second_frame: where the second one stands; the first is frame 0.
        trajectory: a camera for each of its T frames.
        kept: frames that go into the result, rising; the others are seen in another clip.

    Raises:
        InvalidInputError: when the second picture or a kept frame has no place.
    """

    first: PictureRef
    second: PictureRef
    second_frame: int
    trajectory: Trajectory
    kept: tuple[int, ...]

    def __post_init__(self) -> None:
        frames = len(self.trajectory)
        if not 1 <= self.second_frame < frames:
            raise InvalidInputError(
                f"second picture of a clip is frame {self.second_frame}, expected 1 to {frames - 1}"
            )
        if any(not 0 <= k < frames for k in self.kept):
            raise InvalidInputError(f"clip of {frames} frames keeps frame {max(self.kept)}, expected 0 to {frames - 1}")

    def __len__(self) -> int:
        return len(self.trajectory)

    @property
    def known(self) -> dict[int, PictureRef]:
        """Known pictures by frame."""
        return {0: self.first, self.second_frame: self.second}


def plan_clips(
    views: AlignedViews, config: DiffusionConfig, camera: PinholeCamera, frames: int
) -> tuple[ClipPlan, ...]:
    """The clips of a configuration's path.

    Args:
        views: stage 1's result.
        config: of the stage; ``path`` and ``beyond_share`` are read.
        camera: of the video model's frames.
        frames: T, of one clip.

    Raises:
        InvalidInputError: for fewer than two views, clips too short, or keyframes that no such path goes through.
    """
    if len(views.views) < 2:
        raise InvalidInputError(f"a video model needs at least 2 keyframes to go between, got {len(views.views)}")
    if frames < 3:
        raise InvalidInputError(f"clips have {frames} frames, expected at least 3")
    if config.path == "orbit":
        return orbit_clips(views, camera, frames)
    clips = chain_clips(views, camera, frames)
    return with_frames_beyond(clips, config.beyond_share) if config.path == "beyond" else clips


def chain_clips(views: AlignedViews, camera: PinholeCamera, frames: int) -> tuple[ClipPlan, ...]:
    """Interpolation between neighbours: keyframes in an order in which a camera could have visited them (sec. 5.2)."""
    weight = length_per_radian(views)
    poses = [v.world_from_cam for v in views.views]
    order = order_poses(poses, weight)
    path = smooth_path([poses[k] for k in order], weight)
    clips = []
    for segment, (a, b) in enumerate(itertools.pairwise(order)):
        between = poses_within(path, segment, frames - 2, weight)
        trajectory = Trajectory(camera=camera, world_from_cams=(poses[a], *between, poses[b]))
        clips.append(
            ClipPlan(
                first=KeyframeRef(a),
                second=KeyframeRef(b),
                second_frame=frames - 1,
                trajectory=trajectory,
                kept=tuple(range(1, frames - 1)),
            )
        )
    return tuple(clips)


def with_frames_beyond(clips: Sequence[ClipPlan], share: float) -> tuple[ClipPlan, ...]:
    """The same chain, whose last clip goes on past its second picture with a share of its frames.

    The camera goes on as it moved from the frame before the second picture to it.

    Raises:
        InvalidInputError: when the clip is too short to have a frame on both sides of the second picture.
    """
    last = clips[-1]
    frames = len(last)
    place = frames - 1 - max(1, round(share * (frames - 1)))
    if place < 2:
        raise InvalidInputError(
            f"a clip of {frames} frames with {100 * share:.0f} % of them past the second picture has none before it"
        )
    start, end = last.trajectory.world_from_cams[0], last.trajectory.world_from_cams[-1]
    poses = [_at_share(last.trajectory.world_from_cams, k / place) for k in range(1, place)]
    inside = [start, *poses, end]
    beyond = continued(inside[-2], end, frames - 1 - place)
    moved = replace(
        last,
        second_frame=place,
        trajectory=replace(last.trajectory, world_from_cams=(*inside, *beyond)),
        kept=tuple(k for k in range(1, frames) if k != place),
    )
    return (*clips[:-1], moved)


def _at_share(poses: Sequence[SE3], share: float) -> SE3:
    """Pose at a share of the way along evenly spaced ones."""
    place = share * (len(poses) - 1)
    k = min(int(place), len(poses) - 2)
    return poses[k].interpolate(poses[k + 1], place - k)


def orbit_clips(views: AlignedViews, camera: PinholeCamera, frames: int) -> tuple[ClipPlan, ...]:
    """Full circle from two keyframes (appendix D).

    The camera goes on along the screw that leads from the first keyframe to the second. Each clip has its second
    picture a little past the middle; the next one begins with one of its interpolated frames and has its last,
    extrapolated one as second picture, as far apart as the first two. The clip that closes the circle interpolates from
    a frame of the one before to the first keyframe. Frames past a second picture are kept only where no later clip
    interpolates them.

    Raises:
        InvalidInputError: for other than two views, clips below 4 frames, or two views whose turn does not say where
            the circle is.
    """
    if len(views.views) != 2:
        raise InvalidInputError(f"path 'orbit' continues the turn between 2 keyframes, got {len(views.views)}")
    if frames < 4:
        raise InvalidInputError(f"clips have {frames} frames, path 'orbit' needs at least 4")
    a, b = (v.world_from_cam for v in views.views)
    turn_deg = math.degrees(a.angle_to(b))
    if not _MIN_TURN_DEG <= turn_deg <= _MAX_TURN_DEG:
        raise InvalidInputError(
            f"the two keyframes differ by a turn of {turn_deg:.1f} degrees, path 'orbit' expects {_MIN_TURN_DEG:g} to"
            f" {_MAX_TURN_DEG:g}"
        )
    middle = (frames - 1) // 2 + 1
    around = middle * 360.0 / turn_deg  # steps of a full circle
    starts = _window_starts(around, frames, frames - 1 - middle)
    starts.append(math.ceil(around - (frames - 1)))  # of the clip that closes the circle
    clips: list[ClipPlan] = []
    covered = 0  # last step that is in the result
    for k, (start, after) in enumerate(itertools.pairwise(starts)):
        limit = max(start + middle, after)
        poses = [screw_pose(a, b, (start + j) / middle) for j in range(frames)]
        if k == 0:
            poses[0], poses[middle] = a, b
        clips.append(
            ClipPlan(
                first=GeneratedRef(k - 1, start - starts[k - 1]) if k else KeyframeRef(0),
                second=GeneratedRef(k - 1, frames - 1) if k else KeyframeRef(1),
                second_frame=middle,
                trajectory=Trajectory(camera=camera, world_from_cams=tuple(poses)),
                kept=tuple(j for j in range(frames) if covered < start + j <= limit and (k or j != middle)),
            )
        )
        covered = limit
    poses = _closing_poses([screw_pose(a, b, g / middle) for g in np.linspace(starts[-1], around, frames)], a)
    return (
        *clips,
        ClipPlan(
            first=GeneratedRef(len(clips) - 1, starts[-1] - starts[-2]),
            second=KeyframeRef(0),
            second_frame=frames - 1,
            trajectory=Trajectory(camera=camera, world_from_cams=tuple(poses)),
            kept=tuple(range(covered - starts[-1] + 1, frames - 1)),
        ),
    )


def _window_starts(around: float, frames: int, advance: int) -> list[int]:
    """Steps at which the sliding windows begin: until one clip reaches from the last window's end to the start."""
    starts = [0]
    while around - (starts[-1] + frames - 1) > frames - 1:
        starts.append(starts[-1] + advance)
        if len(starts) > _MAX_CLIPS:
            raise InvalidInputError(
                f"path 'orbit' would take more than {_MAX_CLIPS} clips of {frames} frames: the keyframes are too close"
                " to each other"
            )
    return starts


def _closing_poses(poses: Sequence[SE3], start: SE3) -> list[SE3]:
    """Poses of the last stretch, moved so that they end at the start: a screw rises, a circle does not."""
    drift = poses[-1].inverse() @ start
    share = [j / (len(poses) - 1) for j in range(len(poses))]
    return [*(p @ screw_pose(SE3.identity(), drift, s) for p, s in zip(poses[:-1], share, strict=False)), start]

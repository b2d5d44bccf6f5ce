"""The robot's side of mapping, free of ROS: keyframe buffer, map, coverage and trigger.

Not thread-safe: one thread owns a KeyframeMapper. All work here is light (milliseconds per frame).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from reconx_ros.core import SE3, Frame, InvalidInputError, Keyframe, PinholeCamera, PointCloud, Provenance
from reconx_ros.geometry.voxel import thin_cloud
from reconx_ros.pipeline.config import ReconxConfig
from reconx_ros.pipeline.coverage import CoverageModel, CoverageTrigger, TriggerDecision, ViewCoverage
from reconx_ros.pipeline.keyframes import KeyframePolicy, KeyframeVerdict, most_redundant, view_overlap
from reconx_ros.pipeline.scene_depth import SceneDepth

_SAME_MOMENT_NS = (1_000_000, 90_000_000)  # nearer stamps are no times of a camera, but numbers of pictures


@dataclass(frozen=True, kw_only=True)
class FrameDecision:
    """What became of a frame: the keyframe made of it, or why it was not kept."""

    kept: bool
    reason: str
    keyframe: Keyframe | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class CoverageReport:
    """Coverage now.

    Attributes:
        mean: of the recent views, in [0, 1]; what the trigger looks at.
        current: of the newest view.
        cells: [grid_height, grid_width] bool of the newest view: what measured points explain.
        inferred: [grid_height, grid_width] bool of the newest view: where only inferred points lie.
        per_keyframe: keyframe id to coverage, for the keyframes in the buffer.
    """

    mean: float
    current: float
    cells: np.ndarray  # [gh, gw]
    inferred: np.ndarray  # [gh, gw]
    per_keyframe: dict[int, float]


class KeyframeMapper:
    """Keeps the keyframes worth keeping and the map made from them, and knows when more is needed."""

    def __init__(self, config: ReconxConfig) -> None:
        self._config = config
        self._next_id = 0
        self._start()

    def _start(self) -> None:
        self._policy = KeyframePolicy(self._config.keyframes)
        self._depth = SceneDepth(self._config.keyframes.assumed_depth)
        self._model = CoverageModel(self._config.coverage)
        self._trigger = CoverageTrigger(self._config.coverage)
        self._keyframes: list[Keyframe] = []
        self._map: dict[int, PointCloud] = {}
        self._map_poses: dict[int, SE3] = {}
        self._current: tuple[PinholeCamera, SE3] | None = None
        self._used: set[int] = set()
        self._coverage: dict[int, float] = {}
        self._current_coverage: ViewCoverage | None = None
        self._looked: dict[str, tuple[int, ViewCoverage]] = {}
        self.frames_in = 0
        self.frames_not_kept: Counter[str] = Counter()
        self.reconstructions = 0

    @property
    def keyframes(self) -> tuple[Keyframe, ...]:
        """Keyframes in the buffer, oldest first."""
        return tuple(self._keyframes)

    def configure(self, config: ReconxConfig) -> None:
        """Take over changed (dynamic) parameters; keyframes and map stay."""
        self._config = config
        self._policy = KeyframePolicy(config.keyframes)
        self._model = CoverageModel(config.coverage)
        self._trigger.configure(config.coverage)
        self._map_changed()

    def add_frame(self, frame: Frame) -> FrameDecision:
        """Look at a new frame: update coverage, keep it if it shows something new.

        Which frames are kept follows from frames alone, not from the map, and so not from when reconstructions end.
        """
        self.frames_in += 1
        if frame.world_from_cam is not None:
            self._current = (frame.camera, frame.world_from_cam)
            self._current_coverage = self._view_coverage(frame)
        verdict = self._policy.judge(frame, self._keyframes, self._depth.of(frame))
        if not verdict.keep:
            self.frames_not_kept[verdict.reason.split(" ", 1)[0]] += 1
            return FrameDecision(kept=False, reason=verdict.reason)
        keyframe = self._keep(frame, verdict)
        return FrameDecision(kept=True, reason=verdict.reason, keyframe=keyframe)

    def _view_coverage(self, frame: Frame) -> ViewCoverage:
        """Coverage of a frame's view; for a moment that of the camera's former one, which differs little.

        A camera at 30 Hz is looked at 10 times a second; looking costs more than all else that is done for a frame.
        """
        stamp_ns, view = self._looked.get(frame.camera_name, (0, None))
        if view is not None and _SAME_MOMENT_NS[0] < frame.stamp_ns - stamp_ns < _SAME_MOMENT_NS[1]:
            return view
        assert frame.world_from_cam is not None
        view = self._model.view(frame.camera, frame.world_from_cam)
        self._looked[frame.camera_name] = (frame.stamp_ns, view)
        return view

    def _keep(self, frame: Frame, verdict: KeyframeVerdict) -> Keyframe:
        keyframe = Keyframe(
            id=self._next_id,
            frame=frame,
            sharpness=verdict.sharpness,
            overlap=verdict.overlap,
            reason=verdict.reason,
        )
        self._next_id += 1
        self._keyframes.append(keyframe)
        self._depth.add_keyframe(frame)
        if self._current_coverage is not None and frame.world_from_cam is not None:
            self._current_coverage = self._model.view(frame.camera, frame.world_from_cam)
            self._coverage[keyframe.id] = self._current_coverage.fraction
        if len(self._keyframes) > self._config.keyframes.max_buffer:
            dropped = self._keyframes.pop(most_redundant(self._keyframes, self._depth.of(frame)))
            self._coverage.pop(dropped.id, None)
        return keyframe

    def forget_after(self, stamp_ns: int) -> int:
        """Forget the keyframes of a time that has not come yet, after a clock jumped back; the map stays.

        Returns:
            How many keyframes were forgotten.
        """
        future = {k.id for k in self._keyframes if k.frame.stamp_ns > stamp_ns}
        self._keyframes = [k for k in self._keyframes if k.id not in future]
        self._coverage = {i: c for i, c in self._coverage.items() if i not in future}
        return len(future)

    def coverage(self) -> CoverageReport:
        """Coverage of the recent keyframes and the newest view; zeros before the first posed frame."""
        config = self._config.coverage
        recent = [self._coverage[k.id] for k in self._keyframes if k.id in self._coverage]
        recent = recent[-(config.recent_views - 1) :] if config.recent_views > 1 else []
        view = self._current_coverage
        values = recent + ([view.fraction] if view is not None else [])
        none = np.zeros((config.grid_height, config.grid_width), bool)
        return CoverageReport(
            mean=float(np.mean(values)) if values else 0.0,
            current=view.fraction if view is not None else 0.0,
            cells=none if view is None else view.cells,
            inferred=none if view is None else view.inferred,
            per_keyframe=dict(self._coverage),
        )

    def should_reconstruct(self, stamp_ns: int) -> TriggerDecision:
        """Ask the trigger, at the time of the newest frame."""
        posed = [k for k in self._keyframes if k.frame.world_from_cam is not None]
        new = [k for k in posed if k.id not in self._used]
        return self._trigger.decide(self.coverage().mean, len(posed), len(new), stamp_ns)

    def job_keyframes(self) -> list[Keyframe]:
        """The keyframes for the next reconstruction: the new ones and those of the old that overlap them most.

        Raises:
            InvalidInputError: with fewer than two keyframes that have a pose.
        """
        posed = [k for k in self._keyframes if k.frame.world_from_cam is not None]
        if len(posed) < 2:
            raise InvalidInputError(f"the map has {len(posed)} keyframe with a pose, a reconstruction needs at least 2")
        limit = self._config.keyframes.max_per_job
        if len(posed) <= limit:
            return posed
        new = [k for k in posed if k.id not in self._used][-limit:]
        old = [k for k in posed if k not in new]
        depth = self._depth.of(posed[-1].frame)
        old.sort(key=lambda k: -self._overlap_with(k, new or posed[-1:], depth))
        chosen = {k.id for k in new + old[: limit - len(new)]}
        return [k for k in posed if k.id in chosen]

    @staticmethod
    def _overlap_with(keyframe: Keyframe, others: Sequence[Keyframe], depth: float) -> float:
        pose = keyframe.frame.world_from_cam
        assert pose is not None
        return max(
            view_overlap(keyframe.frame.camera, o.frame.world_from_cam.inverse() @ pose, depth)
            for o in others
            if o.frame.world_from_cam is not None
        )

    def job_started(self, keyframes: Sequence[Keyframe]) -> None:
        """A reconstruction of these keyframes began."""
        self._used |= {k.id for k in keyframes}
        self._trigger.started()

    def job_finished(self, stamp_ns: int, *, succeeded: bool) -> None:
        """The reconstruction ended, at the time of the newest frame."""
        self._trigger.finished(stamp_ns)
        self.reconstructions += int(succeeded)

    def integrate(self, cloud: PointCloud, keyframe_poses: dict[int, SE3]) -> None:
        """Take a result into the map: it replaces the points of the keyframes it names, all others stay."""
        for keyframe_id, pose in keyframe_poses.items():
            self._map[keyframe_id] = cloud.select(cloud.keyframe_ids == keyframe_id)
            self._map_poses[keyframe_id] = pose
        self._map_changed()

    def _map_changed(self) -> None:
        everything = PointCloud.concatenate([self._map[i] for i in sorted(self._map)])
        self._model.set_map(everything, self._map_poses)
        for keyframe in self._keyframes:
            pose = keyframe.frame.world_from_cam
            if pose is not None:
                self._coverage[keyframe.id] = self._model.view(keyframe.frame.camera, pose).fraction
        self._looked.clear()
        if self._current is not None:
            self._current_coverage = self._model.view(*self._current)

    def cloud(self) -> PointCloud:
        """The map as it is exported: confident, of the configured kinds, thinned and bounded."""
        output = self._config.output
        cloud = PointCloud.concatenate([self._map[i] for i in sorted(self._map)])
        keep = cloud.confidence >= output.min_confidence
        keep &= np.isin(cloud.provenance, [int(Provenance[word.upper()]) for word in output.kinds])
        cloud = cloud.select(keep)
        if output.voxel_size > 0:
            cloud = thin_cloud(cloud, output.voxel_size)
        if len(cloud) > output.max_points:
            cloud = cloud.select(np.linspace(0, len(cloud) - 1, output.max_points).astype(np.int64))
        return cloud

    @property
    def map_poses(self) -> dict[int, SE3]:
        """world_from_cam of every keyframe that has points in the map."""
        return dict(self._map_poses)

    def full_cloud(self) -> PointCloud:
        """Everything in the map, unfiltered: what save_map stores."""
        return PointCloud.concatenate([self._map[i] for i in sorted(self._map)])

    def restore(self, cloud: PointCloud, keyframe_poses: dict[int, SE3]) -> None:
        """Replace the map by a saved one; new keyframes get ids above the saved ones."""
        self._map, self._map_poses = {}, {}
        self._next_id = max([self._next_id, *(i + 1 for i in keyframe_poses)])
        self.integrate(cloud, keyframe_poses)

    def score_views(self, camera: PinholeCamera, poses: Sequence[SE3]) -> list[tuple[float, float]]:
        """(expected gain, coverage) of each camera pose: the share of its image that the map does not explain yet."""
        fractions = [self._model.view(camera, pose).fraction for pose in poses]
        return [(1.0 - f, f) for f in fractions]

    def reset(self) -> None:
        """Forget keyframes and map; ids keep rising."""
        self._start()

"""What the three stages hand to each other: pointmaps, view sequences, Gaussians, clouds, trajectories."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from reconx_ros.core.cameras import PinholeCamera
from reconx_ros.core.checks import check_shape
from reconx_ros.core.errors import InvalidInputError
from reconx_ros.core.provenance import Provenance
from reconx_ros.core.transforms import SE3

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True, eq=False)
class MatchingEvidence:
    """What matching between views said about every pixel of one of them, also where it settled nothing.

    Attributes:
        cost: [H, W] in [0, 1], matching cost (1 - ZNCC) / 2 at the pixel's depth; 1 where nothing was matched.
        margin: [H, W] in [0, 1], by how much the next best depth costs more.
        sees: [H, W] number of other views whose image holds the point and that have a depth there.
        agrees: [H, W] number of them that tell the same surface.
        denies: [H, W] number of them that look through the point at something clearly farther.
    """

    cost: torch.Tensor  # [H, W]
    margin: torch.Tensor  # [H, W]
    sees: torch.Tensor  # [H, W]
    agrees: torch.Tensor  # [H, W]
    denies: torch.Tensor  # [H, W]


@dataclass(frozen=True, kw_only=True, eq=False)
class PointMap:
    """Dense geometry of one view: depth along z plus a camera, hence one 3-D point per pixel.

    Attributes:
        rgb: [H, W, 3] float32 in [0, 1].
        depth: [H, W] float32, z-depth in the world's unit (metres where the scale is metric); > 0 where valid, and
            elsewhere a guess that nothing confirms where there is evidence.
        confidence: [H, W] float32 in [0, 1]; 0 where not valid.
        valid: [H, W] bool.
        provenance: [H, W] uint8, values of Provenance: how each depth is known; NONE exactly where not valid.
        camera: intrinsics on this grid.
        world_from_cam: camera pose.
        keyframe_id: which keyframe this view is.
        evidence: what matching said; None where the backend does not tell.
        guessed: [H, W] bool, INFERRED pixels whose depth was completed after stage 1; None where none was.
    """

    rgb: torch.Tensor  # [H, W, 3]
    depth: torch.Tensor  # [H, W]
    confidence: torch.Tensor  # [H, W]
    valid: torch.Tensor  # [H, W]
    provenance: torch.Tensor  # [H, W]
    camera: PinholeCamera
    world_from_cam: SE3
    keyframe_id: int
    evidence: MatchingEvidence | None = None
    guessed: torch.Tensor | None = None  # [H, W]

    def __post_init__(self) -> None:
        import torch

        h, w = self.camera.height, self.camera.width
        check_shape("pointmap rgb", self.rgb, h, w, 3)
        check_shape("pointmap depth", self.depth, h, w)
        check_shape("pointmap confidence", self.confidence, h, w)
        check_shape("pointmap valid", self.valid, h, w)
        if self.valid.dtype != torch.bool:
            raise InvalidInputError(f"pointmap valid mask has type {self.valid.dtype}, expected torch.bool")
        check_shape("pointmap provenance", self.provenance, h, w)
        if self.guessed is not None:
            check_shape("pointmap guessed", self.guessed, h, w)
        for name, values in vars(self.evidence).items() if self.evidence else ():
            check_shape(f"pointmap evidence {name}", values, h, w)
        _check_kinds("pointmap", self.provenance)
        if not torch.equal(self.provenance != int(Provenance.NONE), self.valid):
            raise InvalidInputError("pointmap provenance is NONE on valid pixels, or is not on others")
        seen = self.depth[self.valid]
        if not bool((torch.isfinite(seen) & (seen > 0)).all()):
            raise InvalidInputError("pointmap depth is not finite and positive on all its valid pixels")
        if not bool(((self.confidence >= 0) & (self.confidence <= 1)).all()):
            raise InvalidInputError("pointmap confidence leaves [0, 1]")


def _check_kinds(what: str, provenance: torch.Tensor) -> None:
    import torch

    if provenance.dtype != torch.uint8:
        raise InvalidInputError(f"{what} provenance has type {provenance.dtype}, expected torch.uint8")


@dataclass(frozen=True, kw_only=True)
class ScaleEstimate:
    """How up-to-scale geometry was brought to another unit, and how well the source agrees with it.

    Attributes:
        factor: new units (metres where the source is metric) per unit before.
        spread: robust relative standard deviation of what the source says: of the log depth ratios of pixels, or of
            the distances between camera centres and given positions over the extent of the positions.
        inliers: share in [0, 1] of pixels or cameras that agree with the factor.
        source: "poses", "depth" or "network".
        count: pixels or cameras that were asked.
    """

    factor: float
    spread: float
    inliers: float
    source: str
    count: int

    def __post_init__(self) -> None:
        if not (math.isfinite(self.factor) and self.factor > 0):
            raise InvalidInputError(f"scale factor is {self.factor}, expected a finite positive number")


@dataclass(frozen=True, kw_only=True)
class PoseCorrection:
    """How the images moved a keyframe from the pose it was given.

    Attributes:
        keyframe_id: which keyframe.
        moved: distance between the given and the corrected position, in the world's unit.
        turned_deg: angle between the given and the corrected orientation, degrees.
    """

    keyframe_id: int
    moved: float
    turned_deg: float


@dataclass(frozen=True, kw_only=True, eq=False)
class AlignedViews:
    """Stage 1's result: pointmaps of all views in one world.

    Attributes:
        views: one PointMap per view, in the order of the input; keyframes that could not be joined have none.
        metric_scale: whether the unit is the metre.
        scale_source: what the scale comes from ("poses", "depth", "network"); None when up to scale.
        backend: name of the backend that made it.
        warnings: sentences for the report.
        scale: how the geometry was rescaled after the backend, with the residual; None when it was not.
        pose_corrections: what the images changed about given poses, per view; empty where they were taken as they are.
        matchers: names of the matchers of images that the cameras were found or corrected from; empty where none were.
    """

    views: tuple[PointMap, ...]
    metric_scale: bool
    scale_source: str | None
    backend: str
    warnings: tuple[str, ...] = ()
    scale: ScaleEstimate | None = None
    pose_corrections: tuple[PoseCorrection, ...] = ()
    matchers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.views:
            raise InvalidInputError("aligned views are empty, expected at least one view")


@dataclass(frozen=True, kw_only=True, eq=False)
class Trajectory:
    """Camera poses along a path, all with one camera model.

    Attributes:
        camera: intrinsics shared by all poses.
        world_from_cams: T poses.
    """

    camera: PinholeCamera
    world_from_cams: tuple[SE3, ...]

    def __len__(self) -> int:
        return len(self.world_from_cams)


@dataclass(frozen=True, kw_only=True, eq=False)
class SequenceView:
    """One picture of a ViewSequence: a keyframe or an in-between view.

    Attributes:
        rgb: [H, W, 3] float32 in [0, 1]; black where provenance is NONE.
        confidence: [H, W] float32 in [0, 1], how far the fit may trust the pixel: 1 everywhere in camera images, whose
            colours are facts; else that its place is right. 0 where provenance is NONE.
        provenance: [H, W] uint8, values of Provenance; NONE where the pixel is empty. Pixels of camera images without
            a depth are INFERRED: they were seen, and the fit has to place them.
        camera, world_from_cam: where it was taken or is rendered from.
        is_input: True for a real camera image (a keyframe), False for an in-between view.
        depth: [H, W] z-depth, 0 where unknown; None when the backend has none.
        depth_confidence: [H, W] float32 in [0, 1], that the depth of a camera image is right; None where the backend
            does not tell, and in in-between views.
    """

    rgb: torch.Tensor  # [H, W, 3]
    confidence: torch.Tensor  # [H, W]
    provenance: torch.Tensor  # [H, W]
    camera: PinholeCamera
    world_from_cam: SE3
    is_input: bool
    depth: torch.Tensor | None = None  # [H, W]
    depth_confidence: torch.Tensor | None = None  # [H, W]

    def __post_init__(self) -> None:
        h, w = self.camera.height, self.camera.width
        check_shape("sequence view rgb", self.rgb, h, w, 3)
        check_shape("sequence view confidence", self.confidence, h, w)
        check_shape("sequence view provenance", self.provenance, h, w)
        _check_kinds("sequence view", self.provenance)


@dataclass(frozen=True, kw_only=True, eq=False)
class ViewSequence:
    """Stage 2's result: keyframes and in-between views, each with confidence and provenance.

    Attributes:
        views: the keyframes (``is_input``), then the in-between views in order of the path.
        backend: name of the backend that made it.
        generates: whether any pixel was made up by a model.
        warnings: sentences for the report.
    """

    views: tuple[SequenceView, ...]
    backend: str
    generates: bool
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class GaussianScene:
    """A 3-D Gaussian splatting scene, parameters in their optimisation space.

    Attributes:
        means: [N, 3] world coordinates; float64 where the world's origin is so far that float32 would be coarse.
        quats_wxyz: [N, 4] rotations, any non-zero length.
        log_scales: [N, 3] natural logarithm of the standard deviations.
        logit_opacities: [N].
        sh: [N, K, 3] spherical-harmonic colour coefficients, K = (degree + 1)^2, 3DGS convention
            (rgb = 0.5 + C0 * sh[:, 0] + ...).
        provenance: [N] uint8, values of Provenance; NONE in scenes of other programs.
        confidence: [N] float32 in [0, 1].
        keyframe_ids: [N] int64, the keyframe that each Gaussian was initialised from.
    """

    means: torch.Tensor  # [N, 3]
    quats_wxyz: torch.Tensor  # [N, 4]
    log_scales: torch.Tensor  # [N, 3]
    logit_opacities: torch.Tensor  # [N]
    sh: torch.Tensor  # [N, K, 3]
    provenance: torch.Tensor  # [N]
    confidence: torch.Tensor  # [N]
    keyframe_ids: torch.Tensor  # [N]

    def __post_init__(self) -> None:
        dims = check_shape("gaussian means", self.means, "N", 3)
        check_shape("gaussian quats_wxyz", self.quats_wxyz, "N", 4, dims=dims)
        check_shape("gaussian log_scales", self.log_scales, "N", 3, dims=dims)
        check_shape("gaussian logit_opacities", self.logit_opacities, "N", dims=dims)
        dims = check_shape("gaussian sh", self.sh, "N", "K", 3, dims=dims)
        if dims["K"] not in (1, 4, 9, 16):
            raise InvalidInputError(f"gaussian sh has {dims['K']} bases, expected 1, 4, 9 or 16")
        check_shape("gaussian provenance", self.provenance, "N", dims=dims)
        check_shape("gaussian confidence", self.confidence, "N", dims=dims)
        check_shape("gaussian keyframe_ids", self.keyframe_ids, "N", dims=dims)

    def __len__(self) -> int:
        return int(self.means.shape[0])

    @property
    def sh_degree(self) -> int:
        """0 to 3."""
        return {1: 0, 4: 1, 9: 2, 16: 3}[int(self.sh.shape[1])]

    def select(self, mask: torch.Tensor) -> GaussianScene:
        """The Gaussians where mask [N] (bool or indices) says so."""
        return GaussianScene(**{name: getattr(self, name)[mask] for name in self.__dataclass_fields__})

    def to(self, device: torch.device | str) -> GaussianScene:
        """The same scene, detached, on another device."""
        return GaussianScene(**{name: getattr(self, name).detach().to(device) for name in self.__dataclass_fields__})

    @classmethod
    def concatenate(cls, scenes: Sequence[GaussianScene]) -> GaussianScene:
        """All Gaussians of several scenes; lower SH degrees are padded with zeros."""
        import torch

        if not scenes:
            raise InvalidInputError("no Gaussian scenes to concatenate, expected at least one")
        bases = max(int(s.sh.shape[1]) for s in scenes)
        padded = [
            replace(s, sh=torch.cat([s.sh, s.sh.new_zeros(len(s), bases - s.sh.shape[1], 3)], dim=1)) for s in scenes
        ]
        return cls(**{n: torch.cat([getattr(s, n) for s in padded]) for n in cls.__dataclass_fields__})


@dataclass(frozen=True, kw_only=True, eq=False)
class PointCloud:
    """A coloured cloud at the edge of the library (files, messages).

    Attributes:
        points: [P, 3] float32, world frame; float64 where the world's origin is so far that float32 would be coarse.
        rgb_u8: [P, 3] uint8.
        confidence: [P] float32 in [0, 1].
        provenance: [P] uint8, values of Provenance; NONE, with confidence 0, in clouds of other programs.
        keyframe_ids: [P] uint32, the keyframe that saw each point.
    """

    points: np.ndarray  # [P, 3]
    rgb_u8: np.ndarray  # [P, 3]
    confidence: np.ndarray  # [P]
    provenance: np.ndarray  # [P]
    keyframe_ids: np.ndarray  # [P]

    def __post_init__(self) -> None:
        dims = check_shape("cloud points", self.points, "P", 3)
        check_shape("cloud rgb_u8", self.rgb_u8, "P", 3, dims=dims)
        for name in ("confidence", "provenance", "keyframe_ids"):
            check_shape(f"cloud {name}", getattr(self, name), "P", dims=dims)

    def __len__(self) -> int:
        return int(self.points.shape[0])

    def select(self, mask: np.ndarray) -> PointCloud:
        """The points where mask [P] (bool or indices) says so."""
        return PointCloud(**{name: getattr(self, name)[mask] for name in self.__dataclass_fields__})

    @classmethod
    def empty(cls) -> PointCloud:
        """A cloud without points."""
        return cls(
            points=np.zeros((0, 3), np.float32),
            rgb_u8=np.zeros((0, 3), np.uint8),
            confidence=np.zeros(0, np.float32),
            provenance=np.zeros(0, np.uint8),
            keyframe_ids=np.zeros(0, np.uint32),
        )

    @classmethod
    def concatenate(cls, clouds: Sequence[PointCloud]) -> PointCloud:
        """All points of several clouds, in order."""
        return cls(
            **{n: np.concatenate([getattr(c, n) for c in (cls.empty(), *clouds)]) for n in cls.__dataclass_fields__}
        )

"""The alignment problem of ReconX eq. 2 in DUSt3R's form: observations, what is known, how the loss is normalised.

Each image n has a pose, one focal length and a depth map, hence one world point X per pixel. Each pair e has a
similarity T_e (scale, rotation, translation) from its own frame to the world. The loss is

    sum_e sum_p log(C1_ep) |X_p - T_e q1_ep| / P1  +  sum_e sum_p log(C2_ep) |X_p - T_e q2_ep| / P2

with q1, q2 the predicted points of a pair's first and second image, C1, C2 their confidences, and P1, P2 the number of
their pixels over all pairs. Where no two poses and no depth fix the unit, the mean of log scale over pairs is log 0.5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from reconx_ros.core import SE3, InvalidInputError, PinholeCamera, check_shape
from reconx_ros.geometry.projection import pixel_grid
from reconx_ros.pointmap.pairwise import PairPredictions, finite_confidence


@dataclass(frozen=True, kw_only=True, eq=False)
class KnownGeometry:
    """What is known before alignment, per image; an empty sequence or None where it is not.

    Attributes:
        cameras: N intrinsics at the size of the images' maps, held.
        world_from_cams: N poses, held. Two with different centres fix the unit, and so does depth.
        depths: N z-depth maps [H, W] in the unit of the poses; 0, negative and NaN are holes.
        depth_weight: None holds known depth as it is; a number adds ``depth_weight * |depth - known|`` (along the
            pixel's ray, normalised as a pair with log confidence 1) and leaves depth free.
    """

    cameras: Sequence[PinholeCamera | None] = ()
    world_from_cams: Sequence[SE3 | None] = ()
    depths: Sequence[torch.Tensor | None] = ()
    depth_weight: float | None = None

    def for_images(self, sizes: Sequence[tuple[int, int]]) -> KnownGeometry:
        """The same with one entry per image everywhere, checked against the sizes (height, width).

        Raises:
            InvalidInputError: for another number of entries than images, another size than an image's maps, or a
                weight that is not positive.
        """
        for name in ("cameras", "world_from_cams", "depths"):
            entries = len(getattr(self, name))
            if entries not in (0, len(sizes)):
                raise InvalidInputError(f"known {name} has {entries} entries, expected one for each of {len(sizes)}")
        if self.depth_weight is not None and not self.depth_weight > 0:
            raise InvalidInputError(
                f"depth_weight is {self.depth_weight}, expected a positive number or None (hold it)"
            )
        nothing = (None,) * len(sizes)
        filled = replace(
            self,
            cameras=tuple(self.cameras) or nothing,
            world_from_cams=tuple(self.world_from_cams) or nothing,
            depths=tuple(self.depths) or nothing,
        )
        for n, (height, width) in enumerate(sizes):
            camera, depth = filled.cameras[n], filled.depths[n]
            if camera is not None and camera.size != (width, height):
                raise InvalidInputError(
                    f"known camera of image {n} is {camera.width}x{camera.height}, "
                    f"expected {width}x{height} as its maps"
                )
            if depth is not None:
                check_shape(f"known depth of image {n}", depth, height, width)
        return filled

    def poses_fix_unit(self) -> bool:
        """Whether two poses have different centres."""
        centres = [p.translation for p in self.world_from_cams if p is not None]
        return any(float(((c - centres[0]) ** 2).sum()) > 0 for c in centres)

    def depth_fixes_unit(self) -> bool:
        """Whether any depth is known."""
        return any(d is not None and bool((torch.nan_to_num(d) > 0).any()) for d in self.depths)


@dataclass(frozen=True, kw_only=True, eq=False)
class Observation:
    """One image's map in one pair.

    Attributes:
        edge: index of the pair.
        points: [P, 3] in the pair's frame.
        confidence: [P] raw.
        share: 1 / number of pixels of this side over all pairs.
        clean: whether all values are finite and no confidence is below 1.
    """

    edge: int
    points: torch.Tensor  # [P, 3]
    confidence: torch.Tensor  # [P]
    share: float
    clean: bool

    def read(self, pixels: slice, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Points [p, 3] and weights [p] of some pixels; what is not finite gets weight 0."""
        points, confidence = self.points[pixels].to(device).float(), self.confidence[pixels].to(device)
        if self.clean:
            return points, confidence.float().log() * self.share
        finite = torch.isfinite(points).all(dim=1)
        return torch.where(finite[:, None], points, 0.0), finite_confidence(confidence).log() * finite * self.share


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageData:
    """What the solver reads of one image.

    Attributes:
        offsets: [P, 2] pixels relative to the principal point, v scaled by fx / fy so that one focal length serves.
        observations: its maps, in order of pairs.
        known_depth: [P] z-depth, 0 in holes; None without any.
        pixel_stride: 1, or the step between the pixels that are looked at.
    """

    offsets: torch.Tensor  # [P, 2]
    observations: tuple[Observation, ...]
    known_depth: torch.Tensor | None
    pixel_stride: int = 1

    @property
    def pixels(self) -> int:
        """Number of pixels P."""
        return int(self.offsets.shape[0])


@dataclass(frozen=True, kw_only=True, eq=False)
class AlignmentProblem:
    """All that stays the same while the unknowns change.

    Attributes:
        pairs: E pairs of images.
        sizes: (height, width) of each of N images.
        images: N images.
        fixed_pose: per image, whether its pose is held.
        fixed_focal: per image, whether its focal length is held.
        depth_weight: as ``KnownGeometry``.
        scale_is_free: whether the unit comes from the convention on pair scales.
    """

    pairs: tuple[tuple[int, int], ...]
    sizes: tuple[tuple[int, int], ...]
    images: tuple[ImageData, ...]
    fixed_pose: tuple[bool, ...]
    fixed_focal: tuple[bool, ...]
    depth_weight: float | None
    scale_is_free: bool

    @property
    def depth_share(self) -> float:
        """Weight of a pixel of known depth: 1 / number of pixels."""
        return 1.0 / sum(image.pixels for image in self.images)

    def thinned(self, max_pixels: int) -> AlignmentProblem:
        """The same seen by a regular subset of at most about ``max_pixels`` pixels per image (itself if small)."""
        strides = [max(1, round((h * w / max_pixels) ** 0.5)) for h, w in self.sizes]
        if all(s == 1 for s in strides):
            return self
        images = [_thinned(d, s, size) for d, s, size in zip(self.images, strides, self.sizes, strict=True)]
        return replace(self, images=_with_shares(images, self.pairs))


def build_problem(predictions: PairPredictions, known: KnownGeometry) -> AlignmentProblem:
    """The problem of some predictions; maps are referred to, not copied."""
    sizes = predictions.sizes
    known = known.for_images(sizes)
    observations: list[list[Observation]] = [[] for _ in sizes]
    for e, (i, j) in enumerate(predictions.pairs):
        observations[i].append(_observation(e, predictions.pts3d_1[e], predictions.conf_1[e]))
        observations[j].append(_observation(e, predictions.pts3d_2[e], predictions.conf_2[e]))
    images = [
        ImageData(
            offsets=pixel_offsets(size, camera),
            observations=tuple(seen),
            known_depth=None if depth is None else torch.nan_to_num(depth.float(), posinf=0.0).clamp_min(0).flatten(),
        )
        for size, camera, depth, seen in zip(sizes, known.cameras, known.depths, observations, strict=True)
    ]
    return AlignmentProblem(
        pairs=tuple(predictions.pairs),
        sizes=sizes,
        images=_with_shares(images, tuple(predictions.pairs)),
        fixed_pose=tuple(p is not None for p in known.world_from_cams),
        fixed_focal=tuple(c is not None for c in known.cameras),
        depth_weight=known.depth_weight,
        scale_is_free=not (known.poses_fix_unit() or known.depth_fixes_unit()),
    )


def principal_point(size: tuple[int, int], camera: PinholeCamera | None) -> tuple[float, float]:
    """(cx, cy) of a known camera, else (W / 2, H / 2), which is DUSt3R's on its grid of integer pixel centres."""
    return (size[1] / 2, size[0] / 2) if camera is None else (camera.cx, camera.cy)


def pixel_offsets(size: tuple[int, int], camera: PinholeCamera | None) -> torch.Tensor:
    """Pixels [H * W, 2] relative to the principal point, v in units of fx."""
    offsets = pixel_grid(size[1], size[0]) - torch.tensor(principal_point(size, camera))
    if camera is not None:
        offsets[..., 1] *= camera.fx / camera.fy
    return offsets.reshape(-1, 2)


def _observation(edge: int, points: torch.Tensor, confidence: torch.Tensor) -> Observation:
    clean = bool(torch.isfinite(points).all()) and bool(((confidence >= 1) & torch.isfinite(confidence)).all())
    return Observation(
        edge=edge, points=points.reshape(-1, 3), confidence=confidence.reshape(-1), share=1.0, clean=clean
    )


def _with_shares(images: Sequence[ImageData], pairs: tuple[tuple[int, int], ...]) -> tuple[ImageData, ...]:
    """The images with every observation's share of the loss."""
    totals = [sum(images[pair[side]].pixels for pair in pairs) for side in (0, 1)]
    return tuple(
        replace(
            image,
            observations=tuple(
                replace(o, share=1.0 / totals[0 if pairs[o.edge][0] == n else 1]) for o in image.observations
            ),
        )
        for n, image in enumerate(images)
    )


def _thinned(image: ImageData, stride: int, size: tuple[int, int]) -> ImageData:
    def thin(values: torch.Tensor) -> torch.Tensor:
        grid = values.reshape(*size, *values.shape[1:])
        return grid[stride // 2 :: stride, stride // 2 :: stride].reshape(-1, *values.shape[1:])

    return ImageData(
        offsets=thin(image.offsets),
        observations=tuple(
            replace(o, points=thin(o.points), confidence=thin(o.confidence)) for o in image.observations
        ),
        known_depth=None if image.known_depth is None else thin(image.known_depth),
        pixel_stride=stride,
    )

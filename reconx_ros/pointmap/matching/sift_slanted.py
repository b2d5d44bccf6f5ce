"""Matches of images from very different directions: features of synthesised slanted views.

ASIFT (Morel and Yu, "ASIFT: a new framework for fully affine invariant image comparison", SIAM J. Imaging Sciences
2009): each image is rotated and squeezed as a plane seen from the side would be, and features of all these views are
matched. Features of several views at one place are one *spot*: it makes one match, and is its own neighbour in no
ratio test, so that the matches stay independent pieces of evidence.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial import cKDTree

from reconx_ros.core import Keyframe
from reconx_ros.pointmap.matching.features import Features, Matches
from reconx_ros.pointmap.matching.sift import MAX_FEATURES, MAX_RATIO, extract, root_descriptors, shrunken_grey

TILTS = (math.sqrt(2.0), 2.0, 2 * math.sqrt(2.0))  # besides the image itself; a plane seen at up to 69 degrees
_TURN_DEG = 72.0  # between the directions of a tilt, over the tilt
_MAX_SIDE = 480  # px
_PLAIN = 3000  # features of the image itself
_PER_VIEW = (100, 700)  # features of one synthesised view: a quarter of the image's own, within these bounds
_CONTRAST = 0.02
_EDGE = 12.0
_BLUR = 0.8  # px of the squeezed view: Morel and Yu, section 4
_BORDER_PX = 5
_SPOT_SHARE = 1 / 640  # of the longer side: features nearer than this are one spot
_PLACE_SHARE = 1 / 320  # of the longer side: features nearer than this are found at one place
_CHUNK = 512
_MAX_NEIGHBOURS = 48


@dataclass(frozen=True, kw_only=True, eq=False)
class SlantedDescriptors:
    """Descriptors of one image and of its synthesised views.

    Attributes:
        descriptors: [N, 128] of all features.
        spot: [N] which spot each belongs to.
    """

    descriptors: np.ndarray  # [N, 128]
    spot: np.ndarray  # [N]


class SlantedSiftMatcher:
    """SIFT on synthesised slanted views; slow, for surfaces that are seen from very different directions.

    The features are spots, those of plain SIFT first; there are more than ``limit`` of them.
    """

    name = "sift_slanted"
    cost_s = 5.0
    doubtful = True

    def features(
        self, keyframes: Sequence[Keyframe], *, device: torch.device, limit: int | None = None
    ) -> Iterator[Features]:
        """Spots of each image, as ``Matcher.features``."""
        del device
        for keyframe in keyframes:
            yield extract_slanted(keyframe, extract(keyframe, limit or MAX_FEATURES))

    def match(self, pairs: Sequence[tuple[Features, Features]], *, device: torch.device) -> Iterator[Matches]:
        """Matches between the spots of each pair, as ``Matcher.match``."""
        for a, b in pairs:
            yield match_slanted(a, b, device=device)


def extract_slanted(keyframe: Keyframe, plain: Features) -> Features:
    """Spots: places of an image's own features (``sift.extract``), then those of its synthesised views."""
    camera = keyframe.frame.camera
    most = int(np.clip(len(plain) // 4, *_PER_VIEW))
    found = list(_slanted_views(keyframe, most)) if len(plain) else []
    uv = np.concatenate([np.zeros((0, 2)), *(u for u, _ in found)])
    spot, fresh = _spots(plain.uv, uv, _SPOT_SHARE * max(camera.size))
    own = np.arange(min(len(plain), _PLAIN))
    return Features(
        uv=np.concatenate([plain.uv, uv[fresh]]),
        camera=camera,
        descriptors=SlantedDescriptors(
            descriptors=np.concatenate([plain.descriptors[:_PLAIN], *(d for _, d in found)]),
            spot=np.concatenate([own, spot]).astype(np.int64),
        ),
    )


def match_slanted(a: Features, b: Features, *, device: torch.device) -> Matches:
    """Matches between spots of two images, one per spot; ratio and mutual test between places, not features."""
    spot_a, spot_b = a.descriptors.spot, b.descriptors.spot
    if len(spot_a) < 2 or len(spot_b) < 2:
        return Matches.none()
    nearest_b, ratio = _nearest_spots(a, np.arange(len(spot_a)), b, device)
    mine = np.flatnonzero(ratio < MAX_RATIO)
    theirs, place = np.unique(nearest_b[mine], return_inverse=True)
    nearest_a, ratio_b = _nearest_spots(b, theirs, a, device)  # only of those that can still make a match
    away = np.linalg.norm(a.uv[spot_a[nearest_a[place]]] - a.uv[spot_a[mine]], axis=1)
    ratio = np.maximum(ratio[mine], ratio_b[place])
    keep = (away <= _radius(a)) & (ratio < MAX_RATIO)
    found = Matches.ordered(np.stack([spot_a[mine], spot_b[theirs[place]]], axis=1)[keep], ratio[keep])
    for column in (0, 1):
        _, first = np.unique(found.index[:, column], return_index=True)
        found = found.select(np.sort(first))
    return found


def _radius(features: Features) -> float:
    return _PLACE_SHARE * max(features.camera.size)


def _slanted_views(keyframe: Keyframe, most: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(uv [N, 2] on the image's grid, descriptors [N, 128]) of each synthesised view, at most so many."""
    import cv2

    grey, zoom = shrunken_grey(keyframe.frame, _MAX_SIDE)
    sift = cv2.SIFT.create(nfeatures=most, contrastThreshold=_CONTRAST, edgeThreshold=_EDGE)
    for tilt in TILTS:
        for k in range(math.ceil(180 * tilt / _TURN_DEG - 1e-9)):
            view, mask, back = _slanted(grey, tilt, math.radians(k * _TURN_DEG / tilt))
            points, descriptors = sift.detectAndCompute(view, mask)
            if points:
                uv = np.array([p.pt for p in points]) @ back[:, :2].T + back[:, 2]
                yield (uv + 0.5) * zoom - 0.5, root_descriptors(descriptors)


def _slanted(grey: np.ndarray, tilt: float, turn_rad: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An image turned, then squeezed across by a tilt; where it is not border; affine map [2, 3] back."""
    import cv2

    height, width = grey.shape
    cosine, sine = math.cos(turn_rad), math.sin(turn_rad)
    turn = np.array([[cosine, -sine], [sine, cosine]])
    corners = np.array([[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]]) @ turn.T
    low = corners.min(axis=0)
    size = tuple(int(v) for v in np.ceil(corners.max(axis=0) - low) + 1)
    there = np.concatenate([turn, -low[:, None]], axis=1)
    turned = cv2.warpAffine(grey, there, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    inside = cv2.warpAffine(np.full_like(grey, 255), there, size, flags=cv2.INTER_NEAREST)
    turned = cv2.GaussianBlur(turned, (0, 0), sigmaX=_BLUR * math.sqrt(tilt * tilt - 1), sigmaY=0.01)
    narrow = (max(16, round(size[0] / tilt)), size[1])
    squeeze = narrow[0] / size[0]
    view = cv2.resize(turned, narrow, interpolation=cv2.INTER_LINEAR)
    mask = cv2.erode(
        cv2.resize(inside, narrow, interpolation=cv2.INTER_NEAREST), np.ones((2 * _BORDER_PX + 1,) * 2, np.uint8)
    )
    there[0] *= squeeze
    there[0, 2] += 0.5 * squeeze - 0.5
    return view, mask, cv2.invertAffineTransform(there)


def _spots(plain: np.ndarray, uv: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Which spot each feature [N, 2] belongs to, [N], and the features that begin a new one, after the plain ones."""
    spot = np.full(len(uv), -1)
    fresh: list[int] = []
    if len(uv) == 0:
        return spot, np.zeros(0, np.int64)
    distance, nearest = cKDTree(plain).query(uv, distance_upper_bound=radius)
    near = np.isfinite(distance)
    spot[near] = nearest[near]
    rest = np.flatnonzero(~near)
    neighbours = cKDTree(uv[rest]).query_ball_point(uv[rest], radius) if len(rest) else []
    for i, around in zip(rest, neighbours, strict=True):
        if spot[i] < 0:
            mine = rest[around]
            spot[mine[spot[mine] < 0]] = len(plain) + len(fresh)
            fresh.append(int(i))
    return spot, np.array(fresh, dtype=np.int64)


def _nearest_spots(a: Features, asked: np.ndarray, b: Features, device: torch.device) -> tuple[np.ndarray, np.ndarray]:
    """Nearest feature [N] of b for the features ``asked`` [N] of a; ratio [N] of its distance to the best elsewhere."""
    others = torch.from_numpy(b.descriptors.descriptors).to(device).T.contiguous()
    around = torch.from_numpy(_neighbours(b)).to(device)  # [M, K]
    best, ratios = [torch.zeros(0, dtype=torch.long)], [torch.zeros(0)]
    for first in range(0, len(asked), _CHUNK):
        similarity = torch.from_numpy(a.descriptors.descriptors[asked[first : first + _CHUNK]]).to(device) @ others
        top, index = similarity.max(dim=1)
        second = similarity.scatter_(1, around[index], -1.0).max(dim=1).values
        ratios.append(((1 - top).clamp_min(0) / (1 - second).clamp_min(1e-9)).sqrt().cpu())
        best.append(index.cpu())
    return torch.cat(best).numpy(), torch.cat(ratios).double().numpy()


def _neighbours(features: Features) -> np.ndarray:
    """Indices [N, K] of the nearest features within two radii of each, itself first; it fills up the row, too."""
    uv = features.uv[features.descriptors.spot]
    count = min(_MAX_NEIGHBOURS, len(uv))
    distance, index = cKDTree(uv).query(uv, k=count, distance_upper_bound=2 * _radius(features))
    return np.where(np.isfinite(distance), index, np.arange(len(uv))[:, None]).reshape(len(uv), count)

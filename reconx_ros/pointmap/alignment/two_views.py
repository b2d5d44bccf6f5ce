"""Two images without optimisation: the better of their two pairs is the world (DUSt3R's pair viewer)."""

from __future__ import annotations

import torch

from reconx_ros.core import SE3, InvalidInputError, PinholeCamera, ReconstructionError, Sim3
from reconx_ros.geometry.focal import weiszfeld_focal
from reconx_ros.geometry.pnp import grid_pixels, solve_pnp
from reconx_ros.pointmap.alignment.global_alignment import Alignment
from reconx_ros.pointmap.pairwise import PairPredictions, edge_scores, image_confidences

_MIN_CONFIDENCE = 3.0  # raw, of points that determine the pose


def align_two_views(predictions: PairPredictions) -> Alignment:
    """Cameras and depths of two images from pairs (0, 1) and (1, 0), in milliseconds.

    Each focal length comes from the map in its own camera's frame (Weiszfeld), the pose of the second image of the more
    confident pair by perspective-n-point on that pair's second map. The world is the frame of that pair.

    Raises:
        InvalidInputError: when the pairs are not exactly these two.
        ReconstructionError: when no pose explains the second image's points.
    """
    if sorted(predictions.pairs) != [(0, 1), (1, 0)]:
        raise InvalidInputError(f"two views need the pairs (0, 1) and (1, 0), got {list(predictions.pairs)}")
    edge = {pair: e for e, pair in enumerate(predictions.pairs)}
    scores = edge_scores(predictions)
    first = 0 if scores[edge[0, 1]] > scores[edge[1, 0]] else 1
    second = 1 - first
    best = edge[first, second]
    cameras = tuple(_camera(predictions.pts3d_1[edge[n, 1 - n]]) for n in (0, 1))
    confidences = image_confidences(predictions)
    pose = _pose(predictions.pts3d_2[best], confidences[second], cameras[second], predictions.pairs[best])
    depths = {
        first: predictions.pts3d_1[best][..., 2].float().cpu(),
        second: _depth(predictions.pts3d_2[best].float().cpu(), pose),
    }
    poses = {first: SE3.identity(), second: pose}
    usable = [torch.isfinite(depths[n]) & (depths[n] > 0) for n in (0, 1)]
    return Alignment(
        cameras=cameras,
        world_from_cams=(poses[0], poses[1]),
        depths=tuple(torch.where(usable[n], depths[n], 1.0) for n in (0, 1)),
        confidences=tuple(torch.where(usable[n], confidences[n], 1.0) for n in (0, 1)),
        pairs=(predictions.pairs[best],),
        world_from_pairs=(Sim3.identity(),),
        initial_loss=None,
        loss=None,
    )


def _camera(points_cam: torch.Tensor) -> PinholeCamera:
    height, width = points_cam.shape[:2]
    focal = weiszfeld_focal(points_cam.float().cpu())
    return PinholeCamera(width=width, height=height, fx=focal, fy=focal, cx=width / 2, cy=height / 2)


def _pose(points: torch.Tensor, confidence: torch.Tensor, camera: PinholeCamera, pair: tuple[int, int]) -> SE3:
    usable = (confidence > _MIN_CONFIDENCE).flatten().numpy()
    found = solve_pnp(points.reshape(-1, 3).double().cpu().numpy()[usable], grid_pixels(camera)[usable], camera)
    if found is None:
        raise ReconstructionError(
            f"the pose of image {pair[1]} in pair {pair} cannot be found from its "
            f"{int(usable.sum())} confident points, expected at least 4 that fall on their pixels"
        )
    return found.world_from_cam


def _depth(points: torch.Tensor, pose: SE3) -> torch.Tensor:
    """Depth [H, W] of points of the pair's frame in the second camera."""
    return (points - points.new_tensor(pose.translation)) @ points.new_tensor(pose.rotation[:, 2])

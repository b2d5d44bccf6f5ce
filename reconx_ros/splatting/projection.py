"""EWA projection of 3-D Gaussians to one picture, with the details of gsplat v1.5.3's classic mode.

Zwicker et al., "EWA splatting" (2002); Kerbl et al., "3D Gaussian Splatting" (2023), section 4.
Pixel (0, 0) is the centre of the first pixel here; only the frame of the picture needs the half pixel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from reconx_ros.geometry.rotations import rotations_from_quaternions_wxyz

DILATION_PX2 = 0.3  # added to the 2-D covariance: no Gaussian is thinner than about half a pixel
FRUSTUM_MARGIN = 0.15  # the Jacobian is evaluated at most this share of the picture outside of it
MIN_ALPHA = 1.0 / 255.0  # weaker contributions are skipped
_RADIUS_SIGMAS = 3.33  # where the strongest Gaussian, opacity 1, falls to MIN_ALPHA


@dataclass(frozen=True, kw_only=True, eq=False)
class Projection:
    """The M Gaussians in front of one camera, as it sees them.

    Attributes:
        index: [M] which of the N Gaussians, rising.
        means_px: [M, 2] centres, pixel-centre origin.
        depths: [M] z-depth.
        conics: [M, 3] inverse 2-D covariance (xx, xy, yy) in 1/px^2, after dilation.
        variances_px2: [M, 2] variance along u and v, after dilation.
        compensations: [M] opacity factor in [0, 1] that undoes the dilation's gain of energy.
    """

    index: torch.Tensor  # [M]
    means_px: torch.Tensor  # [M, 2]
    depths: torch.Tensor  # [M]
    conics: torch.Tensor  # [M, 3]
    variances_px2: torch.Tensor  # [M, 2]
    compensations: torch.Tensor  # [M]

    def radii_px(self) -> torch.Tensor:
        """[M, 2] half widths in whole pixels of the box that holds every visible pixel, whatever the opacity."""
        return torch.ceil(_RADIUS_SIGMAS * self.variances_px2.detach().sqrt())

    def footprints_px2(self) -> torch.Tensor:
        """[M] integral of the unoccluded Gaussian over the picture plane, for opacity 1."""
        a, b, c = self.conics.unbind(-1)
        return 2 * math.pi / (a * c - b * b).clamp_min(1e-12).sqrt()


def covariances(quats_wxyz: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """World covariances [N, 3, 3] = R diag(scale^2) R^T."""
    half = rotations_from_quaternions_wxyz(quats_wxyz) * scales[..., None, :]
    return half @ half.transpose(-1, -2)


def project_gaussians(
    means: torch.Tensor,
    covars: torch.Tensor,
    cam_from_world: torch.Tensor,
    intrinsics: torch.Tensor,
    *,
    width: int,
    height: int,
    near: float,
) -> Projection:
    """Project Gaussians to one camera.

    Args:
        means: [N, 3] world positions.
        covars: [N, 3, 3] world covariances.
        cam_from_world: [4, 4] OpenCV camera.
        intrinsics: [3, 3] K in pixels, pixel-centre origin.
        width, height: picture size in pixels.
        near: Gaussians with a smaller z-depth are left out.
    """
    rotation, translation = cam_from_world[:3, :3], cam_from_world[:3, 3]
    means_cam = means @ rotation.T + translation
    index = torch.nonzero(means_cam[:, 2].detach() > near).squeeze(-1)
    means_cam = means_cam.index_select(0, index)
    covars_cam = rotation @ covars.index_select(0, index) @ rotation.T
    jacobian = _jacobian(means_cam, intrinsics, width, height)
    covars_px = jacobian @ covars_cam @ jacobian.transpose(-1, -2)  # [M, 2, 2]
    focal, centre = torch.stack([intrinsics[0, 0], intrinsics[1, 1]]), intrinsics[:2, 2]
    return _with_dilation(index, means_cam[:, :2] / means_cam[:, 2:] * focal + centre, means_cam[:, 2], covars_px)


def _jacobian(means_cam: torch.Tensor, intrinsics: torch.Tensor, width: int, height: int) -> torch.Tensor:
    """d(u, v)/d(x, y, z) [M, 2, 3] at the means, or at the edge of the widened frustum for those beyond it."""
    z = means_cam[:, 2]
    rows = []
    for axis, size in ((0, width), (1, height)):
        focal, left = intrinsics[axis, axis], intrinsics[axis, 2] + 0.5  # pixels from the picture's edge
        margin = FRUSTUM_MARGIN * size / focal
        slope = torch.minimum(
            torch.maximum(means_cam[:, axis] / z, -left / focal - margin), (size - left) / focal + margin
        )
        row = [torch.zeros_like(z), torch.zeros_like(z), -focal * slope / z]
        row[axis] = focal / z
        rows.append(torch.stack(row, dim=-1))
    return torch.stack(rows, dim=-2)


def _with_dilation(
    index: torch.Tensor, means_px: torch.Tensor, depths: torch.Tensor, covars_px: torch.Tensor
) -> Projection:
    xx, xy, yy = covars_px[:, 0, 0], covars_px[:, 0, 1], covars_px[:, 1, 1]
    before = xx * yy - xy * xy
    xx, yy = xx + DILATION_PX2, yy + DILATION_PX2
    after = xx * yy - xy * xy
    ratio = (before / after).clamp_min(0.0)
    return Projection(
        index=index,
        means_px=means_px,
        depths=depths,
        conics=torch.stack([yy, -xy, xx], dim=-1) / after[:, None],
        variances_px2=torch.stack([xx, yy], dim=-1),
        compensations=torch.where(ratio > 0, ratio, 1.0).sqrt() * (ratio > 0),  # no infinite slope at zero
    )

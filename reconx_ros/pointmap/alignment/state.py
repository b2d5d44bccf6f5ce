"""The unknowns of an alignment besides depth, and how a step moves them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from reconx_ros.core import SE3, Sim3
from reconx_ros.core.transforms import nearest_rotation, rotation_exp

LOG_MEAN_SCALE = float(np.log(0.5))  # the convention on pair scales, DUSt3R's
PER_UNIT = 7  # unknowns of an image (translation, rotation, log focal) and of a pair (translation, rotation, log scale)


@dataclass(frozen=True, kw_only=True, eq=False)
class State:
    """Cameras and pair similarities in float64; the world's origin lies amid the scene.

    Attributes:
        rotations, centres: [N, 3, 3] and [N, 3], world_from_cam of each image.
        log_focals: [N], of pixels.
        edge_rotations, edge_translations, edge_log_scales: [E, 3, 3], [E, 3] and [E]; the world point of a pair's point
            q is ``exp(log_scale) * rotation @ q + translation``.
    """

    rotations: np.ndarray  # [N, 3, 3]
    centres: np.ndarray  # [N, 3]
    log_focals: np.ndarray  # [N]
    edge_rotations: np.ndarray  # [E, 3, 3]
    edge_translations: np.ndarray  # [E, 3]
    edge_log_scales: np.ndarray  # [E]

    @classmethod
    def from_transforms(cls, poses: Sequence[SE3], focals: Sequence[float], edges: Sequence[Sim3]) -> State:
        """From poses and focal lengths of N images and world_from_pair similarities of E pairs."""
        return cls(
            rotations=np.stack([p.rotation for p in poses]),
            centres=np.stack([p.translation for p in poses]),
            log_focals=np.log(np.asarray(focals, np.float64)),
            edge_rotations=np.stack([e.rotation for e in edges]),
            edge_translations=np.stack([e.translation for e in edges]),
            edge_log_scales=np.log([e.scale for e in edges]),
        )

    @property
    def poses(self) -> tuple[SE3, ...]:
        """world_from_cam of each image."""
        return tuple(
            SE3(rotation=r, translation=c) for r, c in zip(nearest_rotation(self.rotations), self.centres, strict=True)
        )

    @property
    def edges(self) -> tuple[Sim3, ...]:
        """world_from_pair of each pair."""
        rows = zip(self.edge_log_scales, nearest_rotation(self.edge_rotations), self.edge_translations, strict=True)
        return tuple(Sim3(scale=float(np.exp(s)), rotation=r, translation=t) for s, r, t in rows)

    def moved(self, step: np.ndarray) -> State:
        """After a step [7 N + 7 E]: translation, rotation vector about the origin, log focal or log scale, each."""
        images, edges = np.split(step.reshape(-1, PER_UNIT), [len(self.centres)])
        turns = np.stack([rotation_exp(row[3:6]) for row in images])
        edge_turns = np.stack([rotation_exp(row[3:6]) for row in edges])
        grown = np.exp(edges[:, 6:])
        return State(
            rotations=turns @ self.rotations,
            centres=np.einsum("nij,nj->ni", turns, self.centres) + images[:, :3],
            log_focals=self.log_focals + images[:, 6],
            edge_rotations=edge_turns @ self.edge_rotations,
            edge_translations=grown * np.einsum("eij,ej->ei", edge_turns, self.edge_translations) + edges[:, :3],
            edge_log_scales=self.edge_log_scales + edges[:, 6],
        )

    def scaled(self, factor: float) -> State:
        """The same geometry in a unit of 1 / factor; depth maps are the caller's to multiply."""
        return State(
            rotations=self.rotations,
            centres=factor * self.centres,
            log_focals=self.log_focals,
            edge_rotations=self.edge_rotations,
            edge_translations=factor * self.edge_translations,
            edge_log_scales=self.edge_log_scales + np.log(factor),
        )

    def conventional_scale(self) -> float:
        """The factor that brings the mean log scale of pairs to log 0.5."""
        return float(np.exp(LOG_MEAN_SCALE - self.edge_log_scales.mean()))

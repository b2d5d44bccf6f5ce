"""Smooth camera paths: an order for key poses, a curve through them, and poses at even steps along it.

Positions and rotations both run along cubic Bezier curves whose controls come from velocities at the key poses,
evaluated by De Casteljau's scheme: with straight lines for positions, with slerp for rotations (Shoemake, "Animating
rotation with quaternion curves", SIGGRAPH 1985). Knots are centripetal (Yuksel et al., "Parameterization and
applications of Catmull-Rom curves", 2011), so that the curve neither loops nor overshoots between uneven key poses.

The length of a move is its distance plus ``length_per_radian`` times its turn: what a turn is worth in travel.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from reconx_ros.core import SE3, InvalidInputError
from reconx_ros.core.transforms import rotation_exp, rotation_log

_STEPS_PER_SEGMENT = 48
_MAX_SWEEPS = 32


@dataclass(frozen=True, kw_only=True, eq=False)
class PosePath:
    """A smooth curve through key poses; make it with ``smooth_path``.

    Attributes:
        keys: the key poses, in order along the path; at least two.
        knots: [K] rising parameters of the keys.
        velocities: [K, 3] translation per unit of the parameter at each key.
        turns: [K, 3] axis-angle velocity, in the key's own frame, per unit of the parameter at each key.
    """

    keys: tuple[SE3, ...]
    knots: np.ndarray  # [K]
    velocities: np.ndarray  # [K, 3]
    turns: np.ndarray  # [K, 3]

    def at(self, segment: int, fraction: float) -> SE3:
        """The pose within a segment; fraction 0 is its first key, 1 its second.

        Raises:
            InvalidInputError: for a segment that the path has not.
        """
        if not 0 <= segment < len(self.keys) - 1:
            raise InvalidInputError(f"path segment is {segment}, expected a number in [0, {len(self.keys) - 2}]")
        start, end = self.keys[segment], self.keys[segment + 1]
        third = (self.knots[segment + 1] - self.knots[segment]) / 3
        return _de_casteljau(
            [
                start,
                _moved(start, self.velocities[segment] * third, self.turns[segment] * third),
                _moved(end, -self.velocities[segment + 1] * third, -self.turns[segment + 1] * third),
                end,
            ],
            fraction,
        )


def pose_distance(a: SE3, b: SE3, length_per_radian: float) -> float:
    """Length of the move from one pose to another: distance plus weighted turn."""
    return a.distance_to(b) + length_per_radian * a.angle_to(b)


def order_poses(poses: Sequence[SE3], length_per_radian: float) -> list[int]:
    """Indices of poses in an order in which a camera could have visited them: a short open path through all.

    Nearest neighbour from every start, then reversals of stretches (2-opt) while they shorten the path. Deterministic;
    of the two directions, the one that begins with the lower index.
    """
    if len(poses) < 3:
        return list(range(len(poses)))
    lengths = np.array([[pose_distance(a, b, length_per_radian) for b in poses] for a in poses])
    starts = [list(range(len(poses))), *(_nearest_neighbours(lengths, k) for k in range(len(poses)))]
    improved = [_untangled(order, lengths) for order in sorted(starts, key=lambda o: _path_length(o, lengths))[:3]]
    best = min(improved, key=lambda order: round(_path_length(order, lengths), 9))
    return best if best[0] < best[-1] else best[::-1]


def smooth_path(keys: Sequence[SE3], length_per_radian: float) -> PosePath:
    """A curve that passes each key pose in turn, with continuous velocity.

    Args:
        keys: at least two poses; equal neighbours are allowed.
        length_per_radian: weight of turns in the knots' spacing.

    Raises:
        InvalidInputError: for fewer than two poses or a negative weight.
    """
    if len(keys) < 2:
        raise InvalidInputError(f"a path needs at least 2 key poses, got {len(keys)}")
    if not (np.isfinite(length_per_radian) and length_per_radian >= 0):
        raise InvalidInputError(f"length per radian is {length_per_radian}, expected a number >= 0")
    pairs = list(itertools.pairwise(keys))
    lengths = np.array([pose_distance(a, b, length_per_radian) for a, b in pairs])
    steps = np.sqrt(np.maximum(lengths, 1e-6 * max(float(lengths.max()), 1e-12)))
    velocity = np.array([b.translation - a.translation for a, b in pairs]) / steps[:, None]
    turn = np.array([rotation_log(a.rotation.T @ b.rotation) for a, b in pairs]) / steps[:, None]
    return PosePath(
        keys=tuple(keys),
        knots=np.concatenate([[0.0], np.cumsum(steps)]),
        velocities=_at_keys(velocity, steps),
        turns=_at_keys(turn, steps),
    )


def poses_between(path: PosePath, count: int, length_per_radian: float) -> list[SE3]:
    """Poses strictly between the keys of a path, at even steps within each segment.

    Segments share the count by their length, each as evenly as whole numbers allow.

    Raises:
        InvalidInputError: for a negative count.
    """
    if count < 0:
        raise InvalidInputError(f"number of poses along the path is {count}, expected at least 0")
    tables = [_length_table(path, k, length_per_radian) for k in range(len(path.keys) - 1)]
    shares = share_out(count, [float(table[-1]) for table in tables])
    poses = []
    for segment, (table, share) in enumerate(zip(tables, shares, strict=True)):
        poses.extend(_even_poses(path, segment, table, share))
    return poses


def poses_within(path: PosePath, segment: int, count: int, length_per_radian: float) -> list[SE3]:
    """Poses strictly between two neighbouring keys of a path, at even steps.

    Raises:
        InvalidInputError: for a segment that the path has not, or a negative count.
    """
    if count < 0:
        raise InvalidInputError(f"number of poses along the path is {count}, expected at least 0")
    return _even_poses(path, segment, _length_table(path, segment, length_per_radian), count)


def share_out(count: int, lengths: Sequence[float]) -> list[int]:
    """Whole shares of a count in proportion to lengths (largest remainder); even where all lengths are zero."""
    weights = np.asarray(lengths, dtype=np.float64)
    if weights.sum() <= 0:
        weights = np.ones_like(weights)
    exact = count * weights / weights.sum()
    shares = np.floor(exact).astype(int)
    by_remainder = np.argsort(-(exact - shares), kind="stable")
    shares[by_remainder[: count - int(shares.sum())]] += 1
    return [int(n) for n in shares]


def _even_poses(path: PosePath, segment: int, table: np.ndarray, count: int) -> list[SE3]:
    return [path.at(segment, _fraction_at(table, (j + 1) / (count + 1))) for j in range(count)]


def _at_keys(rates: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Velocity at each key: of the parabola through it and its neighbours; at the ends as a natural spline has it."""
    if len(rates) == 1:
        return np.concatenate([rates, rates])
    inner = (steps[1:, None] * rates[:-1] + steps[:-1, None] * rates[1:]) / (steps[1:] + steps[:-1])[:, None]
    return np.concatenate([1.5 * rates[:1] - 0.5 * inner[:1], inner, 1.5 * rates[-1:] - 0.5 * inner[-1:]])


def _moved(pose: SE3, shift: np.ndarray, turn: np.ndarray) -> SE3:
    return SE3(rotation=pose.rotation @ rotation_exp(turn), translation=pose.translation + shift)


def _de_casteljau(controls: list[SE3], fraction: float) -> SE3:
    while len(controls) > 1:
        controls = [a.interpolate(b, fraction) for a, b in itertools.pairwise(controls)]
    return controls[0]


def _length_table(path: PosePath, segment: int, length_per_radian: float) -> np.ndarray:
    """Length [S + 1] from the segment's first key to evenly spaced fractions."""
    poses = [path.at(segment, float(t)) for t in np.linspace(0, 1, _STEPS_PER_SEGMENT + 1)]
    moves = [pose_distance(a, b, length_per_radian) for a, b in itertools.pairwise(poses)]
    return np.concatenate([[0.0], np.cumsum(moves)])


def _fraction_at(table: np.ndarray, share: float) -> float:
    if table[-1] <= 0:
        return share
    return float(np.interp(share * table[-1], table, np.linspace(0, 1, len(table))))


def _nearest_neighbours(lengths: np.ndarray, start: int) -> list[int]:
    order, left = [start], [k for k in range(len(lengths)) if k != start]
    while left:
        nearest = min(left, key=lambda k: (lengths[order[-1], k], k))
        order.append(nearest)
        left.remove(nearest)
    return order


def _path_length(order: Sequence[int], lengths: np.ndarray) -> float:
    return float(lengths[list(order[:-1]), list(order[1:])].sum())


def _untangled(order: list[int], lengths: np.ndarray) -> list[int]:
    """2-opt on an open path: reverse the stretch that shortens it most, until none does."""
    for _ in range(_MAX_SWEEPS * len(order)):
        gain, i, j = _best_reversal(np.array(order), lengths)
        if gain <= 1e-9:
            break
        order = [*order[:i], *order[i : j + 1][::-1], *order[j + 1 :]]
    return order


def _best_reversal(order: np.ndarray, lengths: np.ndarray) -> tuple[float, int, int]:
    """(gain, i, j) of reversing order[i..j]; the ends of an open path have no edge to lose."""
    n = len(order)
    edge = np.concatenate([[0.0], lengths[order[:-1], order[1:]], [0.0]])  # edge[i] leads into position i
    tour = lengths[np.ix_(order, order)]
    into = np.vstack([np.zeros(n), tour[:-1]])  # [i, j]: from the position before i to j
    out = np.hstack([tour[:, 1:], np.zeros((n, 1))])  # [i, j]: from i to the position after j
    gain = edge[:-1, None] + edge[None, 1:] - into - out
    gain[np.tril_indices(n)] = 0.0
    best = int(np.argmax(gain))
    return float(gain.flat[best]), best // n, best % n

"""Shape and finiteness checks with symbolic dimensions."""

from __future__ import annotations

from typing import Any

import numpy as np

from reconx_ros.core.errors import InvalidInputError


def check_shape(name: str, value: Any, *shape: int | str, dims: dict[str, int] | None = None) -> dict[str, int]:
    """Check an array's shape against a symbolic one.

    Args:
        name: what the array is called in the error message.
        value: anything with a ``shape`` (numpy array or torch tensor).
        shape: one entry per axis: an int that must match, a name bound on first use, or ``"*"`` for any size.
            A leading ``"..."`` accepts any number of leading axes.
        dims: names bound by earlier checks, so that several arrays can share a dimension.

    Returns:
        The bound dimension names, including those of ``dims``.

    Raises:
        InvalidInputError: when the shape differs.
    """
    bound = dict(dims or {})
    actual = tuple(int(n) for n in value.shape)
    wanted = shape
    if wanted and wanted[0] == "...":
        wanted = wanted[1:]
        trailing = actual[len(actual) - len(wanted) :] if len(actual) >= len(wanted) else None
    else:
        trailing = actual if len(actual) == len(wanted) else None
    if trailing is None or not all(_axis_matches(n, w, bound) for n, w in zip(trailing, wanted, strict=True)):
        expected = ", ".join(f"{w}={bound[w]}" if isinstance(w, str) and w in bound else str(w) for w in shape)
        raise InvalidInputError(f"{name} has shape {list(actual)}, expected [{expected}]")
    return bound


def _axis_matches(size: int, wanted: int | str, bound: dict[str, int]) -> bool:
    if wanted == "*":
        return True
    if isinstance(wanted, str):
        return bound.setdefault(wanted, size) == size
    return size == wanted


def check_finite(name: str, value: Any) -> None:
    """Raise InvalidInputError when a numpy array or torch tensor holds NaN or infinity."""
    finite = value.isfinite() if hasattr(value, "isfinite") else np.isfinite(value)  # tensors have it, arrays do not
    bad = int((~finite).sum())
    if bad:
        raise InvalidInputError(f"{name} has {bad} values that are NaN or infinite, expected finite numbers")

"""Tables of backends: a name, where its class is, what it needs and under which licence it comes."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from reconx_ros.core.errors import BackendUnavailableError, ConfigError


@dataclass(frozen=True, kw_only=True)
class BackendInfo:
    """One row of a registry.

    Attributes:
        name: what configuration calls it.
        target: "module:Class"; imported only when used.
        summary: one line for ``reconx doctor``.
        modules: import names that must be installed.
        extra: pip extra that installs them ("" when none is needed).
        needs: any of "cuda", "weights", "network", "compiler".
        licence_code, licence_weights: SPDX names; weights "" when there are none.
    """

    name: str
    target: str
    summary: str
    modules: tuple[str, ...] = ()
    extra: str = ""
    needs: tuple[str, ...] = ()
    licence_code: str = "Apache-2.0"
    licence_weights: str = ""

    def missing(self) -> str | None:
        """Why this backend cannot run here, as one sentence with the cure; None when it can."""
        absent = [m for m in self.modules if importlib.util.find_spec(m) is None]
        if absent:
            cure = f"pip install 'reconx_ros[{self.extra}]'" if self.extra else f"pip install {' '.join(absent)}"
            return f"backend '{self.name}' needs the Python package {', '.join(absent)}: run {cure}"
        if "cuda" in self.needs and not _cuda_available():
            return f"backend '{self.name}' needs a CUDA GPU and PyTorch with CUDA, and none is visible here"
        probe = getattr(self.load_class(), "unavailable_reason", None)
        reason = probe() if probe is not None else None
        return None if reason is None else str(reason)

    def load_class(self) -> Any:
        """Import and return the class."""
        module, _, name = self.target.partition(":")
        return getattr(importlib.import_module(module), name)


def _cuda_available() -> bool:
    import torch

    return bool(torch.cuda.is_available())


def with_entry_points(builtin: Mapping[str, BackendInfo], group: str) -> dict[str, BackendInfo]:
    """The built-in rows plus those that installed packages register under an entry-point group.

    An entry point names a BackendInfo; a built-in name cannot be replaced.
    """
    rows = dict(builtin)
    for point in metadata.entry_points(group=group):
        if point.name not in rows:
            rows[point.name] = point.load()
    return rows


def create(rows: Mapping[str, BackendInfo], name: str, *, kind: str) -> Any:
    """Instantiate a backend by name.

    Args:
        rows: the registry.
        name: a key of it.
        kind: what the registry holds, for messages ("pointmap backend").

    Raises:
        ConfigError: for an unknown name.
        BackendUnavailableError: when it cannot run here; the message says what would enable it.
    """
    if name not in rows:
        nearest = difflib.get_close_matches(name, rows, n=1, cutoff=0.0)[0]
        raise ConfigError(f"unknown {kind} '{name}', the nearest known one is '{nearest}' (all: {', '.join(rows)})")
    reason = rows[name].missing()
    if reason is not None:
        raise BackendUnavailableError(reason)
    return rows[name].load_class()()

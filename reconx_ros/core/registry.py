"""Tables of backends: a name, where its class is, what it needs and can do, and under which licence it comes.

A backend may have settings of its own: its row names their class, and the configuration tree, ROS parameters, YAML
files and documentation take them from there. A row that another package registers by entry point is like any other.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import importlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any, TypeVar

from reconx_ros.core.errors import BackendUnavailableError, ConfigError
from reconx_ros.core.settings import Sections, Setting, Settings


@dataclass(frozen=True, kw_only=True)
class BackendInfo:
    """One row of a registry; a stage's own kind of row also says what its backends can do.

    Attributes:
        name: what configuration calls it.
        target: "module:Class"; imported only when used.
        summary: one line for ``reconx doctor``.
        modules: import names that must be installed.
        extra: pip extra that installs them ("" when none is needed).
        needs: any of "cuda", "weights", "network", "compiler".
        settings: "module:Class" of the backend's own Settings, which no other backend shares; "" when it has none. The
            nodes import it, so it should load little.
        licence_code, licence_weights: SPDX names; weights "" when there are none.
        broken: why a registered row cannot be used, "" for all others.
    """

    name: str
    target: str
    summary: str
    modules: tuple[str, ...] = ()
    extra: str = ""
    needs: tuple[str, ...] = ()
    settings: str = ""
    licence_code: str = "Apache-2.0"
    licence_weights: str = ""
    broken: str = ""

    @property
    def needs_weights(self) -> bool:
        """Whether it runs a network whose weights must be named."""
        return "weights" in self.needs

    def missing(self) -> str | None:
        """Why this backend cannot run here, as one sentence with the cure; None when it can."""
        if self.broken:
            return self.broken
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
        return _imported(self.target)

    def own_settings(self) -> Settings | None:
        """The backend's own settings with their defaults; None when it has none."""
        return _imported(self.settings)() if self.settings else None


R = TypeVar("R", bound=BackendInfo)


def _imported(target: str) -> Any:
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def _cuda_available() -> bool:
    import torch

    return bool(torch.cuda.is_available())


def with_entry_points(builtin: Mapping[str, R], group: str) -> dict[str, R]:
    """The built-in rows plus those that installed packages register under an entry-point group.

    An entry point names a row of the same kind as the built-in ones, under its own name; a built-in name cannot be
    replaced. One that cannot be loaded becomes a row that is missing and says why.
    """
    kind = type(next(iter(builtin.values())))
    rows = dict(builtin)
    for name, row in registered(group).items():
        if isinstance(row, kind):
            rows.setdefault(name, row)
        else:
            fault = _fault(name, row, kind)
            rows.setdefault(name, kind(name=name, target="", summary="cannot be loaded", broken=fault))
    return rows


@functools.cache
def registered(group: str) -> Mapping[str, object]:
    """What installed packages register under a group, by name; the error in place of what cannot be loaded."""
    return {point.name: _loaded(point) for point in sorted(metadata.entry_points(group=group), key=lambda p: p.name)}


def _loaded(point: metadata.EntryPoint) -> object:
    if not point.name.isidentifier():
        return ConfigError(f"its name is '{point.name}', expected letters, digits and underscores")
    try:
        row = point.load()
        if isinstance(row, BackendInfo):
            row.own_settings()
            row = dataclasses.replace(row, name=point.name)
    except Exception as error:
        return error
    return row


def _fault(name: str, row: object, kind: type[BackendInfo]) -> str:
    if isinstance(row, Exception):
        return f"backend '{name}' is registered by an installed package but cannot be loaded ({row!r})"
    return f"backend '{name}' is registered by an installed package as {row!r}, expected a {kind.__name__}"


def sections_field(rows: Callable[[], Mapping[str, BackendInfo]]) -> Any:
    """A dataclass field for ``StageSettings.sections``: one for each backend of a registry with settings of its own."""
    return dataclasses.field(default_factory=lambda: _sections(rows()))


def _sections(rows: Mapping[str, BackendInfo]) -> Sections:
    found = ((name, row.own_settings(), f"{row.summary[:1].upper()}{row.summary[1:]}.") for name, row in rows.items())
    return Sections(tuple((name, own, Setting(doc=doc)) for name, own, doc in found if own is not None))


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

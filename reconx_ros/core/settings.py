"""Typed settings: frozen dataclasses whose fields carry unit, range and one line of documentation.

One declaration serves the ROS parameters, YAML files, command line and docs/parameters.md. A stage's settings hold a
section for each backend that has settings of its own; which there are, its registry tells (``core/registry.py``).
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from reconx_ros.core.errors import ConfigError

T = TypeVar("T")
S = TypeVar("S", bound="StageSettings")
NodeRole = Literal["", "robot", "server", "both"]
_META = "reconx"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is known about one field.

    Attributes:
        doc: one sentence.
        unit: "" when it has none.
        ge, le: inclusive bounds of a number, or of each element of a tuple.
        choices: allowed values of a string, or of each element of a tuple, which then has at least one.
        formerly: names that this field, or another that it replaces, had.
        dynamic: may change while a node runs.
        node: which node reads it; "" leaves that to the section it stands in.
    """

    doc: str
    unit: str = ""
    ge: float | None = None
    le: float | None = None
    choices: tuple[str, ...] | None = None
    formerly: tuple[str, ...] = ()
    dynamic: bool = False
    node: NodeRole = ""

    def within(self, section: Setting) -> Setting:
        """The same, with what it leaves to its section."""
        return dataclasses.replace(self, node=self.node or section.node, dynamic=self.dynamic or section.dynamic)


def setting(
    default: Any,
    doc: str,
    *,
    unit: str = "",
    ge: float | None = None,
    le: float | None = None,
    choices: tuple[str, ...] | None = None,
    formerly: tuple[str, ...] = (),
    dynamic: bool = False,
    node: NodeRole = "",
) -> Any:
    """A dataclass field with its Setting attached."""
    meta = Setting(doc=doc, unit=unit, ge=ge, le=le, choices=choices, formerly=formerly, dynamic=dynamic, node=node)
    return dataclasses.field(default=default, metadata={_META: meta})


def section(kind: type[T], doc: str, *, node: NodeRole = "", dynamic: bool = False) -> T:
    """A dataclass field that holds a nested settings dataclass; node and dynamic go for all that is in it."""
    meta = Setting(doc=doc, node=node, dynamic=dynamic)
    field: T = dataclasses.field(default_factory=kind, metadata={_META: meta})
    return field


class Settings:
    """Base of every settings dataclass: checks types and ranges at birth."""

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if isinstance(value, Sections):
                _check_names(value, hints)
            if isinstance(value, Settings | Sections):
                continue
            object.__setattr__(self, field.name, _checked(field.name, value, hints[field.name], field.metadata[_META]))


@dataclass(frozen=True)
class Sections:
    """Settings of backends, by the backends' names, for a stage's settings to hold: a section each.

    Attributes:
        rows: name, settings and what they are for.
    """

    rows: tuple[tuple[str, Settings, Setting], ...] = ()

    def replaced(self, changes: Mapping[str, Settings]) -> Sections:
        """The same with some settings replaced, by name."""
        return Sections(tuple((name, changes.get(name, own), meta) for name, own, meta in self.rows))


class StageSettings(Settings):
    """Settings of a stage: those that its backends share, and a section for each backend that has its own.

    Attributes:
        seed: of the stage's random choices; negative where none is set.
        sections: of its backends; reached by class with ``own`` and ``with_own``, so that no code needs their names.
    """

    seed: int
    sections: Sections

    @property
    def actual_seed(self) -> int:
        """The stage's seed; 0 where none is set and no pipeline filled in its own."""
        return max(self.seed, 0)

    def own(self, kind: type[T]) -> T:
        """The section of the backend whose settings have this class."""
        for _, own, _ in self.sections.rows:
            if type(own) is kind:
                return own
        raise ConfigError(f"no backend of this installation has settings of the class {kind.__name__}")

    def with_own(self: S, settings: Settings) -> S:
        """A copy with the section of that class replaced."""
        names = [name for name, own, _ in self.sections.rows if type(own) is type(settings)]
        changed = self.sections.replaced(dict.fromkeys(names, settings))
        return dataclasses.replace(self, sections=changed)  # type: ignore[type-var]


def _check_names(sections: Sections, taken: Mapping[str, Any]) -> None:
    for name, _, _ in sections.rows:
        if name in taken:
            raise ConfigError(f"backend '{name}' has settings of its own, but its name is that of a setting")


def _checked(name: str, value: Any, hint: Any, meta: Setting) -> Any:
    value = _converted(name, value, hint)
    if value == () and meta.choices is not None:
        raise ConfigError(f"parameter {name} is empty, expected at least one of {', '.join(meta.choices)}")
    for number in value if isinstance(value, tuple) else (value,):
        _check_range(name, number, meta)
    return value


def _check_range(name: str, value: Any, meta: Setting) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"parameter {name} is {value}, expected a finite number")
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        too_low = meta.ge is not None and value < meta.ge
        if too_low or (meta.le is not None and value > meta.le):
            low = "-inf" if meta.ge is None else f"{meta.ge:g}"
            high = "inf" if meta.le is None else f"{meta.le:g}"
            raise ConfigError(f"parameter {name} is {value}, expected a number in [{low}, {high}]")
    if meta.choices is not None and isinstance(value, str) and value not in meta.choices:
        raise ConfigError(f"parameter {name} is '{value}', expected one of {', '.join(meta.choices)}")


def _converted(name: str, value: Any, hint: Any) -> Any:
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        options = [h for h in typing.get_args(hint) if h is not type(None)]
        return None if value is None else _converted(name, value, options[0])
    if typing.get_origin(hint) is tuple:
        if isinstance(value, str) or not hasattr(value, "__iter__"):
            raise ConfigError(f"parameter {name} is {value!r}, expected a list")
        element = typing.get_args(hint)[0]
        return tuple(_converted(name, v, element) for v in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise ConfigError(f"parameter {name} is {value!r} ({type(value).__name__}), expected {hint.__name__}")
    return value


def entries(settings: Any) -> Iterator[tuple[str, Any, Setting]]:
    """Name, value and Setting of each field, in order of declaration; the sections of backends come last."""
    held: list[Sections] = []
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if isinstance(value, Sections):
            held.append(value)
        else:
            yield field.name, value, field.metadata[_META]
    for sections in held:
        yield from sections.rows


def walk(settings: Any, prefix: str = "", above: Setting | None = None) -> Iterator[tuple[str, Any, Setting]]:
    """Every leaf of a settings tree as (dotted name, value, Setting), in order of declaration.

    The Settings are whole: they hold what a leaf leaves to its section.
    """
    for name, value, meta in entries(settings):
        whole = meta if above is None else meta.within(above)
        if isinstance(value, Settings):
            yield from walk(value, f"{prefix}{name}.", whole)
        else:
            yield prefix + name, value, whole


def walk_sections(settings: Any, prefix: str = "") -> Iterator[tuple[str, Setting]]:
    """Every section of a settings tree as (dotted name, Setting)."""
    for name, value, meta in entries(settings):
        if isinstance(value, Settings):
            yield prefix + name, meta
            yield from walk_sections(value, f"{prefix}{name}.")


def from_mapping(kind: type[T], values: Mapping[str, Any], prefix: str = "") -> T:
    """Build a settings tree from nested dictionaries; missing keys keep their defaults.

    Raises:
        ConfigError: for an unknown key (the message names the nearest known one) or a bad value.
    """
    return updated(kind(), values, prefix)


def updated(settings: T, values: Mapping[str, Any], prefix: str = "") -> T:
    """A copy of a settings tree with some values replaced, given as nested or dotted keys.

    Raises:
        ConfigError: as from_mapping.
    """
    known = {name: value for name, value, _ in entries(settings)}
    changes: dict[str, Any] = {}
    for name, inner in _nested(values).items():
        if name not in known:
            raise ConfigError(f"unknown parameter {prefix}{name}, {_nearest_words(settings, name, inner, prefix)}")
        if isinstance(known[name], Settings):
            if not isinstance(inner, Mapping):
                raise ConfigError(f"parameter {prefix}{name} is {inner!r}, expected a group of parameters")
            changes[name] = updated(known[name], inner, f"{prefix}{name}.")
        else:
            changes[name] = inner
    try:
        return _replaced(settings, changes)
    except ConfigError as err:
        raise ConfigError(str(err).replace("parameter ", f"parameter {prefix}", 1)) from None


def _replaced(settings: T, changes: dict[str, Any]) -> T:
    """``dataclasses.replace`` that also reaches the sections of backends."""
    own = {f.name for f in dataclasses.fields(settings)}  # type: ignore[arg-type]
    direct = {name: value for name, value in changes.items() if name in own}
    for field in dataclasses.fields(settings):  # type: ignore[arg-type]
        held = getattr(settings, field.name)
        if isinstance(held, Sections):
            direct[field.name] = held.replaced(changes)
    return dataclasses.replace(settings, **direct)  # type: ignore[type-var]


def nearest_known(name: str, known: Mapping[str, Setting]) -> str:
    """The known one of these dotted names that an unknown one means: what replaced it, or what resembles it most.

    Names with the same last word come before all others.
    """
    for new, meta in known.items():
        if any(name == f"{group}{old}" for group in _groups(new) for old in meta.formerly):
            return new
    alike = [n for n in known if _last(n, ".") == _last(name, ".")] or [n for n in known if _last(n) == _last(name)]
    return difflib.get_close_matches(name, alike or known, n=1, cutoff=0.0)[0]


def _groups(name: str) -> list[str]:
    """The sections that a dotted name stands in, with their last dot."""
    return ["", *(name[: i + 1] for i, letter in enumerate(name) if letter == ".")]


def _last(name: str, separators: str = "._") -> str:
    return re.split(f"[{separators}]", name)[-1]


def _nearest_words(settings: Any, name: str, inner: Any, prefix: str) -> str:
    sections, leaves = dict(walk_sections(settings, prefix)), {n: meta for n, _, meta in walk(settings, prefix)}
    known = sections if isinstance(inner, Mapping) and sections else leaves
    return f"the nearest known one is {nearest_known(prefix + name, known)}"


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in values.items():
        head, _, rest = str(key).partition(".")
        if not rest:
            tree[head] = {**tree.get(head, {}), **value} if isinstance(value, Mapping) else value
        else:
            tree.setdefault(head, {})[rest] = value
    return tree


def to_mapping(settings: Any) -> dict[str, Any]:
    """Nested plain dictionaries of a settings tree: what YAML and JSON can hold."""
    plain: dict[str, Any] = {}
    for name, value, _ in entries(settings):
        if isinstance(value, Settings):
            plain[name] = to_mapping(value)
        else:
            plain[name] = list(value) if isinstance(value, tuple) else value
    return plain

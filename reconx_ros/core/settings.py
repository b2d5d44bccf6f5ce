"""Typed settings: frozen dataclasses whose fields carry unit, range and one line of documentation.

One declaration serves the ROS parameters, YAML files, command line and docs/parameters.md.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from reconx_ros.core.errors import ConfigError

T = TypeVar("T")
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
    """

    doc: str
    unit: str = ""
    ge: float | None = None
    le: float | None = None
    choices: tuple[str, ...] | None = None
    formerly: tuple[str, ...] = ()
    dynamic: bool = False


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
) -> Any:
    """A dataclass field with its Setting attached."""
    meta = Setting(doc=doc, unit=unit, ge=ge, le=le, choices=choices, formerly=formerly, dynamic=dynamic)
    return dataclasses.field(default=default, metadata={_META: meta})


def section(kind: type[T], doc: str) -> T:
    """A dataclass field that holds a nested settings dataclass."""
    field: T = dataclasses.field(default_factory=kind, metadata={_META: Setting(doc=doc)})
    return field


class Settings:
    """Base of every settings dataclass: checks types and ranges at birth."""

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if isinstance(value, Settings):
                continue
            object.__setattr__(self, field.name, _checked(field.name, value, hints[field.name], field.metadata[_META]))


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


def walk(settings: Any, prefix: str = "") -> Iterator[tuple[str, Any, Setting]]:
    """Every leaf of a settings tree as (dotted name, value, Setting), in order of declaration."""
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if isinstance(value, Settings):
            yield from walk(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, value, field.metadata[_META]


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
    known = {f.name: getattr(settings, f.name) for f in dataclasses.fields(settings)}  # type: ignore[arg-type]
    changes: dict[str, Any] = {}
    for name, inner in _nested(values).items():
        if name not in known:
            metas = {prefix + f.name: f.metadata[_META] for f in dataclasses.fields(settings)}  # type: ignore[arg-type]
            nearest = nearest_known(prefix + name, metas)
            raise ConfigError(f"unknown parameter {prefix}{name}, the nearest known one is {nearest}")
        if isinstance(known[name], Settings):
            if not isinstance(inner, Mapping):
                raise ConfigError(f"parameter {prefix}{name} is {inner!r}, expected a group of parameters")
            changes[name] = updated(known[name], inner, f"{prefix}{name}.")
        else:
            changes[name] = inner
    try:
        return dataclasses.replace(settings, **changes)  # type: ignore[type-var]
    except ConfigError as err:
        raise ConfigError(str(err).replace("parameter ", f"parameter {prefix}", 1)) from None


def nearest_known(name: str, known: Mapping[str, Setting]) -> str:
    """The known one of these dotted names that an unknown one means: what replaced it, or what resembles it most."""
    for new, meta in known.items():
        group = new[: new.rfind(".") + 1]
        if name in [f"{group}{old}" for old in meta.formerly]:
            return new
    return difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]


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
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if isinstance(value, Settings):
            plain[field.name] = to_mapping(value)
        else:
            plain[field.name] = list(value) if isinstance(value, tuple) else value
    return plain

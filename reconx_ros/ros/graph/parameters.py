"""ROS parameters from the configuration tree: declared with their range, validated, swapped as one reference.

Every leaf of ``ReconxConfig`` that a node reads is a parameter of its dotted name; it is read-only unless its setting
is dynamic. What is the other node's is not declared, and ignored where a file gives it. A tuple becomes an array.
Numbers with a fraction also take integers (``tf_timeout_s: 2``).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

from reconx_ros.core import ConfigError
from reconx_ros.core.settings import NodeRole, Setting, nearest_known, updated, walk
from reconx_ros.pipeline.config import ReconxConfig

_FOREIGN = ("qos_overrides.", "use_sim_time", "start_type_description_service", "diagnostic_updater.")
_MAX_INT = 2**63 - 1


def descriptor_from_setting(default: Any, meta: Setting) -> ParameterDescriptor:
    """Description, range and read-only flag of one setting."""
    descriptor = ParameterDescriptor(description=describe(meta), read_only=not meta.dynamic)
    descriptor.dynamic_typing = isinstance(default, float | tuple) or default is None
    if isinstance(default, bool) or (meta.ge is None and meta.le is None):
        return descriptor
    if isinstance(default, int):
        low = -_MAX_INT if meta.ge is None else int(meta.ge)
        high = _MAX_INT if meta.le is None else int(meta.le)
        descriptor.integer_range = [IntegerRange(from_value=low, to_value=high, step=1)]
    elif isinstance(default, float):
        low_f = -sys.float_info.max if meta.ge is None else float(meta.ge)
        high_f = sys.float_info.max if meta.le is None else float(meta.le)
        descriptor.floating_point_range = [FloatingPointRange(from_value=low_f, to_value=high_f, step=0.0)]
    return descriptor


def describe(meta: Setting) -> str:
    """The sentence, unit and choices of one setting."""
    words = [meta.doc]
    if meta.unit:
        words.append(f"[{meta.unit}]")
    if meta.choices:
        words.append(f"One of: {', '.join(meta.choices)}.")
    return " ".join(words)


def unknown_sentences(given: Sequence[str], known: Mapping[str, Setting]) -> list[str]:
    """One sentence for each given name that is neither known nor another package's, naming the nearest known one."""
    sentences = []
    for name in given:
        if name not in known and not name.startswith(_FOREIGN):
            nearest = nearest_known(name, known)
            sentences.append(f"unknown parameter {name} is ignored, the nearest known one is {nearest}")
    return sentences


class NodeParameters:
    """The configuration of one node; ``config`` is always a valid, immutable tree.

    Settings of the other node have their defaults in it.

    Args:
        node: on which the parameters are declared.
        role: which of the two it is, "robot" or "server".
        on_change: called with the new tree after dynamic parameters were set.

    Attributes:
        errors: sentences about given values that are not valid; their defaults are declared instead.
        unknown: sentences about given names that no setting has.
    """

    def __init__(
        self, node: Node, role: NodeRole, on_change: Callable[[ReconxConfig], None] = lambda config: None
    ) -> None:
        self._on_change = on_change
        leaves = [*walk(ReconxConfig())]
        self._own = [leaf for leaf in leaves if leaf[2].node in (role, "both")]
        self._names = [name for name, _, _ in self._own]
        self.errors: list[str] = []
        given: Mapping[str, Parameter] = dict(getattr(node, "_parameter_overrides", {}))
        self.unknown = unknown_sentences([*given], {name: meta for name, _, meta in leaves})
        self._config = self._declared(node, given)
        node.add_on_set_parameters_callback(self._validate)
        self._swaps_later = hasattr(node, "add_post_set_parameters_callback")  # not in Humble
        if self._swaps_later:
            node.add_post_set_parameters_callback(self._swap)

    @property
    def config(self) -> ReconxConfig:
        """The present configuration."""
        return self._config

    def _declared(self, node: Node, given: Mapping[str, Parameter]) -> ReconxConfig:
        config = ReconxConfig()
        for name, default, meta in self._own:
            valid = True
            if name in given:
                try:
                    config = updated(config, {name: given[name].value})
                except ConfigError as error:
                    self.errors.append(str(error))
                    valid = False
            value = list(default) if isinstance(default, tuple) else default
            node.declare_parameter(name, value, descriptor_from_setting(default, meta), ignore_override=not valid)
        return config

    def _candidate(self, parameters: Sequence[Parameter]) -> ReconxConfig:
        return updated(self._config, {p.name: p.value for p in parameters if p.name in self._names})

    def _validate(self, parameters: Sequence[Parameter]) -> SetParametersResult:
        try:
            candidate = self._candidate(parameters)
        except ConfigError as error:
            return SetParametersResult(successful=False, reason=str(error))
        if not self._swaps_later:
            self._take(candidate)
        return SetParametersResult(successful=True)

    def _swap(self, parameters: Sequence[Parameter]) -> None:
        self._take(self._candidate(parameters))

    def _take(self, candidate: ReconxConfig) -> None:
        if candidate != self._config:
            self._config = candidate
            self._on_change(candidate)

"""docs/parameters.md and config/*.yaml, made from the configuration tree."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from reconx_ros.core.files import write_text
from reconx_ros.core.settings import Setting, Settings, entries, updated, walk, walk_sections
from reconx_ros.pipeline.config import ReconxConfig
from reconx_ros.pipeline.presets import PRESETS, preset_values

_HEADER = "made from reconx_ros/pipeline/config.py by `make docs`; a test compares them"


def generated_files() -> dict[str, str]:
    """Path relative to the repository, to content."""
    files = {f"config/{name}.yaml": preset_yaml(name) for name in PRESETS}
    files["docs/parameters.md"] = parameters_markdown()
    return files


def write_generated_files(root: Path) -> None:
    """Write all generated files below a checkout."""
    for name, content in generated_files().items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        write_text(root / name, content)


def preset_yaml(preset: str) -> str:
    """A parameter file with every parameter of a preset, each with its sentence, for nodes and command line."""
    config = updated(ReconxConfig(), preset_values(preset))
    lines = [f"# Preset '{preset}': {_HEADER}.", "/**:", "  ros__parameters:"]
    lines += _yaml_lines(config, "    ")
    return "\n".join(lines) + "\n"


def _yaml_lines(settings: Settings, indent: str) -> Iterator[str]:
    for name, value, meta in entries(settings):
        if isinstance(value, Settings):
            yield f"{indent}{name}:  # {meta.doc}"
            yield from _yaml_lines(value, indent + "  ")
        else:
            yield f"{indent}# {meta.doc}{_aside(meta)}"
            yield f"{indent}{name}: {_scalar(value)}"


def _aside(meta: Setting) -> str:
    parts = [meta.unit] if meta.unit else []
    limits = limits_text(meta)
    if limits:
        parts.append(limits)
    return f" [{'; '.join(parts)}]" if parts else ""


def _scalar(value: Any) -> str:
    plain = list(value) if isinstance(value, tuple) else value
    return yaml.safe_dump(plain, default_flow_style=True).replace("\n...", "").strip()


def limits_text(meta: Setting) -> str:
    """Allowed values in words, "" when there is no limit."""
    if meta.choices is not None:
        return ", ".join(meta.choices)
    if meta.ge is not None and meta.le is not None:
        return f"{meta.ge:g} to {meta.le:g}"
    if meta.ge is not None:
        return f"at least {meta.ge:g}"
    return f"at most {meta.le:g}" if meta.le is not None else ""


def parameters_markdown() -> str:
    """One table per group of parameters."""
    config = ReconxConfig()
    groups: dict[str, list[str]] = {}
    for name, value, meta in walk(config):
        group, _, _ = name.rpartition(".")
        changes = "yes" if meta.dynamic else "no"
        limits = limits_text(meta) or "-"
        cells = [f"`{name}`", f"`{_scalar(value)}`", meta.unit or "-", limits, meta.node, changes, meta.doc]
        row = f"| {' | '.join(cells)} |"
        groups.setdefault(group, []).append(row)
    lines = [
        "# Parameters",
        "",
        f"<!-- {_HEADER} -->",
        "",
        "The same names serve the nodes (`--params-file`), the command line (`--config`, `--set NAME=VALUE`) and the",
        "action goal (`options_yaml`). *Node* says which node declares a parameter: the robot's (`reconx_node`), the",
        "`reconstruction_server`, or both; one file with `/**:` serves both, since each ignores what is the other's. A",
        "parameter that may change while a node runs is marked *live*; the server takes such a change at the start of",
        "its next job. All others are read when the node is configured. `config/*.yaml` hold every parameter of each",
        "preset. Backends that other packages register bring sections of their own.",
    ]
    docs = {name: meta.doc for name, meta in walk_sections(config)}
    for group, rows in groups.items():
        title = f"`{group}`: {docs[group][0].lower()}{docs[group][1:]}" if group else "General"
        lines += [
            "",
            f"## {title}",
            "",
            "| name | default | unit | allowed | node | live | meaning |",
            "|---|---|---|---|---|---|---|",
        ]
        lines += rows
    lines += [
        "",
        "## Presets",
        "",
        "A preset also sets what another preset changes back to its default, so that the one that was in force before",
        "leaves nothing behind.",
    ]
    lines += ["", "| preset | differs from the defaults in |", "|---|---|"]
    for preset, values in PRESETS.items():
        text = ", ".join(f"`{k}: {_scalar(v)}`" for k, v in values.items())
        lines.append(f"| `{preset}` | {text} |")
    return "\n".join(lines) + "\n"

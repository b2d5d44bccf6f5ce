"""Builds the Python package; everything that can be said without code is in setup.cfg."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).resolve().parent
NATIVE = HERE / "reconx_ros" / "native"


def build_native_library(out_dir: Path) -> None:
    """Compiles the native library into a folder; without a compiler the package still works, slower.

    Args:
        out_dir: Folder that will hold the library, made if it is missing.
    """
    source = NATIVE / "build_native.py"
    if not source.is_file():
        return
    spec = importlib.util.spec_from_file_location("reconx_build_native", source)
    if spec is None or spec.loader is None:
        raise ImportError(f"{source} cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up while they are made
    spec.loader.exec_module(module)
    out_dir.mkdir(parents=True, exist_ok=True)
    try:
        built = module.build(out_dir)
    except (OSError, RuntimeError) as error:
        built, reason = None, f" ({error})"
    else:
        reason = ""
    if built is None:
        sys.stderr.write(f"warning: reconx_ros: no usable C compiler, the slower built-in code is used{reason}\n")


class BuildWithNative(build_py):
    """Copies the Python files, then adds the compiled library beside them."""

    def run(self) -> None:
        """Runs the build step."""
        super().run()
        if not getattr(self, "editable_mode", False):
            build_native_library(Path(self.build_lib) / "reconx_ros" / "native")


class PlatformDistribution(Distribution):
    """A distribution whose wheel is named after the platform, since it may hold a compiled library."""

    def has_ext_modules(self) -> bool:
        """Says that the wheel is not for every platform."""
        return NATIVE.is_dir()


setup(cmdclass={"build_py": BuildWithNative}, distclass=PlatformDistribution)

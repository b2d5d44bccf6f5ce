"""Regenerate docs/parameters.md and config/*.yaml from the configuration tree (``make docs``)."""

from pathlib import Path

from reconx_ros.pipeline.parameter_files import write_generated_files

if __name__ == "__main__":
    write_generated_files(Path(__file__).resolve().parents[1])

"""The Hugging Face hub: what lies in its cache on this computer, and downloads that a user asked for."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from reconx_ros.core import BackendUnavailableError, WeightsError


def cached(hub_id: str, revision: str | None) -> Path | None:
    """The folder of a repository in the local cache, complete or not; None when there is none."""
    if importlib.util.find_spec("huggingface_hub") is None:
        return None
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(hub_id, revision=revision, local_files_only=True))
    except (OSError, ValueError):  # the library's own errors are kinds of these
        return None


def download(hub_id: str, revision: str | None, patterns: Sequence[str]) -> Path:
    """Get files of a repository into the local cache; returns its folder there.

    Raises:
        WeightsError: when the hub cannot be reached or refuses.
        BackendUnavailableError: when huggingface_hub is not installed.
    """
    if importlib.util.find_spec("huggingface_hub") is None:
        raise BackendUnavailableError(
            "downloads from the hub need the Python package huggingface_hub: run pip install 'reconx_ros[models]'"
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=list(patterns) or None))
    except Exception as error:  # of the library, its client and the network: a dozen kinds
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = f"{type(error).__name__}: {lines[0][:160]}" if lines else type(error).__name__
        raise WeightsError(f"'{hub_id}' on the hub cannot be downloaded ({reason})") from None

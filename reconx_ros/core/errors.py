"""Errors a user may see: each message is one sentence naming the thing, its value and what was expected."""

from __future__ import annotations


class ReconxError(Exception):
    """Base of every error this package raises on purpose."""


class InvalidInputError(ReconxError, ValueError):
    """An image, camera, depth map, pose, file or parameter that cannot be used as given."""


class ConfigError(InvalidInputError):
    """A configuration with an unknown key or a value out of its range."""


class BackendUnavailableError(ReconxError):
    """A named backend cannot run here; the message holds the command that would enable it."""


class InsufficientParallaxError(ReconxError):
    """The views share (nearly) one centre, so that depth cannot be triangulated from them."""


class ReconstructionError(ReconxError):
    """A stage ran but its outcome cannot be trusted or is empty."""


class StorageError(ReconxError, OSError):
    """A file or folder could not be written or read (permissions, full disk, truncation)."""


class WeightsError(BackendUnavailableError, StorageError):
    """Network weights that are missing or damaged; the message says how to get them."""


class DoesNotFitError(ReconstructionError):
    """Work needs more memory than there is."""


class CancelledError(ReconxError):
    """The user or a newer job cancelled the work."""

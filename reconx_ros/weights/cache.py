"""Loaded networks that stay in memory between jobs."""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch

from reconx_ros.core.memory import free_bytes, is_out_of_memory
from reconx_ros.weights.files import Digests
from reconx_ros.weights.resolve import WeightsSource

_LOG = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class ModelKey:
    """What makes two loaded networks the same.

    Attributes:
        kind: what was made of the weights, for example "pointmap network".
        digest: of all files.
        dtype: of the parameters.
        device: where they lie.
        variant: other choices of loading.
    """

    kind: str
    digest: str
    dtype: torch.dtype
    device: str
    variant: str = ""


@dataclass(kw_only=True, eq=False)
class _Entry:
    model: Any
    size_bytes: int
    used: int  # number of the request that asked for it last


class ModelCache:
    """Networks by what their files hold, their type of numbers and their device; safe to use from several threads.

    Models are shared: who gets one must not change its weights, type or device. A model that is let go is freed as soon
    as nobody works with it any more.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._entries: dict[ModelKey, _Entry] = {}
        self._digests = Digests()
        self._requests = 0
        self._load_seconds = 0.0

    @property
    def keys(self) -> tuple[ModelKey, ...]:
        """Of the models that are loaded, those used least recently first."""
        with self._lock:
            return tuple(self._oldest_first())

    @property
    def load_seconds(self) -> float:
        """Wall time that all requests so far took: reading files, their digests, making room."""
        return self._load_seconds

    def get(
        self,
        sources: Sequence[WeightsSource],
        kind: str,
        load: Callable[[], T],
        *,
        dtype: torch.dtype,
        device: torch.device,
        size: Callable[[T], int],
        limit_bytes: int = 0,
        variant: str = "",
    ) -> T:
        """The model that is loaded already, or a new one.

        Args:
            sources: its weights.
            kind: as ``ModelKey``; a limit is for the models of one kind.
            load: makes the model on its device.
            dtype: as ``ModelKey``.
            device: as ``ModelKey``.
            size: bytes of a loaded model.
            limit_bytes: what models of this kind may take together; those used least recently go first. The one that is
                asked for is given also where it alone takes more, but not kept then. 0 sets no limit.
            variant: as ``ModelKey``.

        Raises:
            WeightsError: when a file is not the one that the catalogue knows.
            Exception: what ``load`` raises.
        """
        started = time.perf_counter()
        with self._lock:
            try:
                digest = " ".join(source.digest(self._digests) for source in sources)
                key = ModelKey(kind=kind, digest=digest, dtype=dtype, device=str(device), variant=variant)
                self._requests += 1
                entry = self._entries.get(key)
                if entry is None:
                    entry = self._loaded(key, sources, load, size, device)
                entry.used = self._requests
                self._hold(kind, limit_bytes)
                model: T = entry.model
            finally:
                self._load_seconds += time.perf_counter() - started
        return model

    def _loaded(
        self,
        key: ModelKey,
        sources: Sequence[WeightsSource],
        load: Callable[[], T],
        size: Callable[[T], int],
        device: torch.device,
    ) -> _Entry:
        self.make_room(sum(source.size_bytes for source in sources), device)
        model = self.with_room(load)
        _LOG.info("%s loaded, %s on %s", key.kind, str(key.dtype).removeprefix("torch."), key.device)
        entry = self._entries[key] = _Entry(model=model, size_bytes=size(model), used=self._requests)
        return entry

    def _hold(self, kind: str, limit_bytes: int) -> None:
        kept = [(key, self._entries[key]) for key in self._oldest_first() if key.kind == kind]
        total = sum(entry.size_bytes for _, entry in kept)
        for key, entry in kept:
            if not limit_bytes or total <= limit_bytes:
                return
            total -= entry.size_bytes
            self._drop([key])

    def reclaimable_bytes(self, device: torch.device, *, keep: Any = None) -> int:
        """What would be free on a device without the models on it, but for one."""
        with self._lock:
            return sum(
                entry.size_bytes
                for key, entry in self._entries.items()
                if key.device == str(device) and entry.model is not keep
            )

    def make_room(self, needed_bytes: float, device: torch.device, *, keep: Any = None) -> None:
        """Let go of models on a device, those used least recently first, until so much is free there.

        Args:
            needed_bytes: that should be free.
            device: whose memory.
            keep: a model that stays.
        """
        with self._lock:
            for key in self._oldest_first():
                free = free_bytes(device)
                if free is None or free >= needed_bytes:
                    return
                if key.device == str(device) and self._entries[key].model is not keep:
                    self._drop([key])

    def with_room(self, work: Callable[[], T]) -> T:
        """What some work returns; where memory runs out, it is done once more without the models that it did not use.

        Raises:
            Exception: what the work raises.
        """
        before = self._requests
        try:
            return work()
        except Exception as error:
            if not is_out_of_memory(error) or not self._unused_since(before):
                raise
        with self._lock:  # the error is gone by now, and with it what its frames held
            unused = self._unused_since(before)
            _LOG.warning("memory ran out: %d loaded models are let go, and it is tried again", len(unused))
            self._drop(unused)
        return work()

    def _unused_since(self, request: int) -> list[ModelKey]:
        with self._lock:
            return [key for key, entry in self._entries.items() if entry.used <= request]

    def forget(self, model: Any) -> None:
        """Let go of one model."""
        with self._lock:
            self._drop([key for key, entry in self._entries.items() if entry.model is model])

    def clear(self) -> None:
        """Let go of all models."""
        with self._lock:
            self._drop(list(self._entries))

    def _oldest_first(self) -> list[ModelKey]:
        return sorted(self._entries, key=lambda key: self._entries[key].used)

    def _drop(self, keys: Iterable[ModelKey]) -> None:
        for key in keys:
            del self._entries[key]
            _LOG.info("%s on %s let go", key.kind, key.device)
        gc.collect()  # modules refer to themselves
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()


@runtime_checkable
class UsesModels(Protocol):
    """A backend with networks, which it takes from a cache."""

    def with_models(self, models: ModelCache) -> Any:
        """The same backend with that cache."""
        ...


def sharing(backend: T, models: ModelCache | None) -> T:
    """A backend that takes its networks from a cache, if it has any."""
    if models is None or not isinstance(backend, UsesModels):
        return backend
    shared: T = backend.with_models(models)
    return shared


def module_bytes(*modules: object) -> int:
    """Parameters and buffers of those that are torch modules."""
    tensors = (
        tensor
        for module in modules
        if isinstance(module, torch.nn.Module)
        for tensor in (*module.parameters(), *module.buffers())
    )
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

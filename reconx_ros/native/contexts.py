"""Memory of the kernels, kept between calls: allocating it anew would cost as much as a small rendering."""

from __future__ import annotations

import ctypes
import threading
import weakref

from reconx_ros.core.errors import ReconstructionError

_MAX_IDLE = 4


class ContextPool:
    """Memory of the kernels, lent to one call at a time."""

    def __init__(self, kernels: ctypes.CDLL) -> None:
        self.library = kernels
        self._lock = threading.Lock()
        self._idle: list[int] = []
        weakref.finalize(self, _free_all, kernels, self._idle)

    def borrow(self) -> BorrowedContext:
        """A context that returns here when it is dropped."""
        with self._lock:
            handle = self._idle.pop() if self._idle else self.library.reconx_context_new()
        if not handle:
            raise ReconstructionError("there is no memory left for the rasteriser")
        return BorrowedContext(self, handle)

    def take_back(self, handle: int) -> None:
        """Keep a context for the next call, or free it when enough are idle."""
        with self._lock:
            keep = len(self._idle) < _MAX_IDLE
            if keep:
                self._idle.append(handle)
        if not keep:
            self.library.reconx_context_free(handle)


def _free_all(kernels: ctypes.CDLL, handles: list[int]) -> None:
    while handles:
        kernels.reconx_context_free(handles.pop())


class BorrowedContext:
    """One borrowed context; lives as long as the graph that may go backward through it."""

    def __init__(self, pool: ContextPool, handle: int) -> None:
        self._pool = pool
        self.handle: int | None = handle

    def __enter__(self) -> BorrowedContext:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Give it back."""
        handle, self.handle = self.handle, None
        if handle is not None:
            self._pool.take_back(handle)

"""Endless numbered examples as a stream that does not depend on where it starts or how many processes make it."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

T = TypeVar("T")

_PREFETCHED = 16  # examples that each worker makes ahead


@dataclass(frozen=True, kw_only=True)
class Reuse:
    """How often examples are shown: making one may cost more than learning from it.

    Attributes:
        batch: examples per step.
        times: mean number of steps that an example takes part in; 1 shows each once.
        window: newest examples that a step draws from, at least the batch; as large as the batch for ``times`` 1.
        seed: of the draw.
    """

    batch: int
    times: int
    window: int
    seed: int

    @property
    def fresh(self) -> int:
        """New examples per step."""
        return max(1, self.batch // self.times)

    def available(self, step: int) -> range:
        """Numbers of the examples that a step, counted from 0, draws from."""
        stop = self.batch + step * self.fresh
        return range(max(0, stop - max(self.batch, self.window)), stop)

    def first_step(self, number: int) -> int:
        """The step from which on an example may be drawn: the inverse of ``available``."""
        return max(0, -((self.batch - 1 - number) // self.fresh))

    def drawn(self, step: int) -> list[int]:
        """Numbers of the examples of a step, no two equal."""
        available = self.available(step)
        if self.times == 1:
            return list(available[-self.batch :])
        rng = np.random.default_rng([self.seed, step])
        return [available[int(k)] for k in rng.choice(len(available), self.batch, replace=False)]


class _Numbered(Dataset[T]):
    """The endless source as a map from numbers."""

    def __init__(self, make: Callable[[int], T]) -> None:
        self._make = make

    def __getitem__(self, number: int) -> T:
        return self._make(number)


def _as_is(item: Any) -> Any:
    return item


def _start_worker(number: int) -> None:
    """Ctrl-C is the parent's to handle; one thread per worker."""
    del number
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)


def made_in_order(make: Callable[[int], T], numbers: range, *, workers: int) -> Iterator[T]:
    """The examples of some numbers, in order, whatever the number of workers.

    Args:
        make: gives an example by its number; the same number gives the same example. It must survive being sent to
            another process.
        numbers: which ones.
        workers: processes that make them; 0 makes them in this one.
    """
    loader: DataLoader[T] = DataLoader(
        _Numbered(make),
        batch_size=None,
        sampler=numbers,
        num_workers=workers,
        collate_fn=_as_is,
        prefetch_factor=_PREFETCHED if workers else None,
        worker_init_fn=_start_worker,
    )
    return iter(loader)


def drawn_examples(make: Callable[[int], T], steps: range, reuse: Reuse, *, workers: int) -> Iterator[list[T]]:
    """The examples of every step; they do not depend on where the range starts.

    Args:
        make, workers: as ``made_in_order``.
        steps: without gaps.
        reuse: which examples each step shows.
    """
    if not len(steps):
        return
    numbers = range(reuse.available(steps[0]).start, reuse.available(steps[-1]).stop)
    made = zip(numbers, made_in_order(make, numbers, workers=workers), strict=True)
    held: dict[int, T] = {}
    for step in steps:
        available = reuse.available(step)
        while available[-1] not in held:
            number, example = next(made)
            held[number] = example
        for old in [number for number in held if number < available.start]:
            del held[old]
        yield [held[number] for number in reuse.drawn(step)]

"""What a figure of a report is called, how it is written, and which of two is better."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A number that tables show; modules that make tables keep theirs as rows of one tuple.

    Attributes:
        name: its key in files.
        title: heading in tables.
        unit: "" when it has none.
        digits, factor: how it is written: so many digits of so many times the number.
        higher_is_better: which of two is better.
    """

    name: str
    title: str
    unit: str = ""
    digits: int = 3
    factor: float = 1.0
    higher_is_better: bool = True

    @property
    def heading(self) -> str:
        """Title and unit."""
        return f"{self.title}, {self.unit}" if self.unit else self.title

    def written(self, value: float | None) -> str:
        """The number alone, "-" where there is none."""
        return "-" if value is None or math.isnan(value) else f"{self.factor * value:.{self.digits}f}"

    def best(self, values: Iterable[float | None]) -> float | None:
        """The best of some numbers; None where there is none."""
        known = [v for v in values if v is not None]
        return None if not known else (max(known) if self.higher_is_better else min(known))

    def gain(self, value: float, other: float) -> float:
        """By how much the first number is better than the second."""
        return value - other if self.higher_is_better else other - value

"""Timing side by side: every contender in turn, again and again, so that the machine's mood falls on all alike."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    """rates: one per repeat, in `unit` (higher is better). ratio: median of ours / this one within each repeat."""

    suite: str
    name: str
    unit: str
    rates: tuple[float, ...]
    ratio: float

    @property
    def median(self) -> float:
        return statistics.median(self.rates)

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"median": self.median}


def compare(
    suite: str, unit: str, contenders: Mapping[str, Callable[[], float]], repeats: int, ours: str = "vitpe"
) -> list[Row]:
    """Call each contender, which returns how much work it did, `repeats` times in turn; the first round warms up."""
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for round_number in range(repeats + 1):
        for name, work in contenders.items():
            began = time.perf_counter()
            amount = work()
            if round_number:
                rates[name].append(amount / (time.perf_counter() - began))
    return rows(suite, unit, rates, ours)


def rows(suite: str, unit: str, rates: Mapping[str, list[float]], ours: str = "vitpe") -> list[Row]:
    """Rows with the ratio of `ours` to each contender, taken repeat by repeat."""
    return [
        Row(
            suite,
            name,
            unit,
            tuple(values),
            statistics.median(a / b for a, b in zip(rates[ours], values, strict=True)),
        )
        for name, values in rates.items()
    ]

"""What a swap measured and chose."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Timed:
    """Hold how long the ways took.

    Args:
        seconds: The median of each way.
        ratios: The median of each way's time over the dense time of the same round.

    Example:
        >>> Timed({"dense": 2.0, "kernel": 1.0}, {"dense": 1.0, "kernel": 0.5}).ratios["kernel"]
        0.5
    """

    seconds: Mapping[str, float]
    ratios: Mapping[str, float]


@dataclass(frozen=True)
class Choice:
    """Hold what was measured of one layer, and what was chosen.

    Args:
        name: The layer.
        density: The fraction of its weight that is not zero.
        timed: By number of columns; a swapped layer's own time stands there as "swapped".
        plan: The chosen way by number of columns.
        swapped: Whether the layer was replaced.
        bytes: What the weight takes now, and what it took.

    Example:
        >>> timed = Timed({}, {"dense": 1.0, "kernel": 0.5, "int8": 0.4})
        >>> Choice("fc", 0.1, {64: timed}, {64: "kernel"}, True, (70, 400)).told
        'fc, density 0.100: kernel at 64 columns (2.00x dense; int8 would be 2.50x)'
    """

    name: str
    density: float
    timed: Mapping[int, Timed]
    plan: Mapping[int, str]
    swapped: bool
    bytes: tuple[int, int]

    @property
    def told(self) -> str:
        """The choice in one line."""
        parts = [self._at(columns, way) for columns, way in sorted(self.plan.items())]
        kept = "" if self.swapped else "; left dense"
        return f"{self.name}, density {self.density:.3f}: {', '.join(parts)}{kept}"

    def _at(self, columns: int, way: str) -> str:
        """Return the choice for so many columns."""
        ratios = self.timed[columns].ratios if columns in self.timed else {}
        notes = [] if way == "dense" or way not in ratios else [f"{1 / ratios[way]:.2f}x dense"]
        best = ratios.get(way, 1.0)
        if way != "int8" and ratios.get("int8", best) < best:
            notes.append(f"int8 would be {1 / ratios['int8']:.2f}x")
        told = f" ({'; '.join(notes)})" if notes else ""
        return f"{way} at {columns} columns{told}"


@dataclass(frozen=True)
class Swapped:
    """Hold what `swap_sparse_` did.

    Args:
        choices: One for each layer that was tried.
        left: Why other layers were left alone, by name.
        linked: Layers whose outputs stay feature by feature for the next one.
        model: The whole model's times by number of samples: "dense" as it was, "swapped" as it is.
        kernel: Where the compiled kernel lies, or why there is none.
        threads: How many threads the times were taken with.

    Example:
        >>> Swapped([], {"fc": "no zeros"}, [], {}, "", 1).told
        'fc: no zeros'
    """

    choices: list[Choice]
    left: Mapping[str, str]
    linked: list[str]
    model: Mapping[int, Timed]
    kernel: str
    threads: int
    notes: list[str] = field(default_factory=list)

    @property
    def told(self) -> str:
        """All of it, a line each."""
        whole = [
            f"model, {samples} samples: {1 / timed.ratios['swapped']:.2f}x dense"
            for samples, timed in sorted(self.model.items())
        ]
        left = [f"{name}: {why}" for name, why in self.left.items()]
        return "\n".join([*(choice.told for choice in self.choices), *left, *whole, *self.notes])

    def rows(self) -> list[dict[str, Any]]:
        """Return one row for each layer and number of columns, times in seconds."""
        return [
            {
                "name": choice.name,
                "density": choice.density,
                "columns": columns,
                "way": choice.plan[columns],
                "swapped": choice.swapped,
                "bytes": choice.bytes[0],
                "dense_bytes": choice.bytes[1],
                **timed.seconds,
            }
            for choice in self.choices
            for columns, timed in choice.timed.items()
        ]

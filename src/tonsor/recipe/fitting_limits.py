"""What a search for a small model is asked for: bytes, milliseconds, and how far the metric may fall."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypedDict

Row = Mapping[str, Any]
UNITS = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "ki": 1024, "mi": 1024**2, "gi": 1024**3}


class Limits(TypedDict, total=False):
    """Name what may be limited; at least one of them.

    Example:
        >>> Limits(max_bytes=40_000, max_fall=0.5)
        {'max_bytes': 40000, 'max_fall': 0.5}
    """

    max_bytes: int | None
    latency_ms: float | None
    max_fall: float | None


def read_bytes(text: str) -> int:
    """Return a number of bytes as people write it: k, M and G are powers of 1000, Ki, Mi and Gi of 1024.

    Args:
        text: A number, perhaps with a fraction and a unit, whose letters may be large or small, with or
            without a B for bytes.

    Raises:
        ValueError: If it is none, or below one byte.

    Example:
        >>> [read_bytes(text) for text in ("40000", "40k", "40KB", "40KiB", "1.5M")]
        [40000, 40000, 40000, 40960, 1500000]
    """
    plain = text.strip().lower().removesuffix("b")
    number = plain.rstrip("kmgi ")
    unit = plain[len(number) :].strip()
    try:
        found = int(float(number) * UNITS[unit]) if number.isascii() else 0
    except (ValueError, KeyError, OverflowError):
        found = 0
    if found < 1:
        raise ValueError(
            f"--bytes must be a number of bytes such as 40000, 40k, 40KiB (of 1024) or 1.5M; got '{text}'"
        )
    return found


@dataclass(frozen=True)
class Budget:
    """Say what a model has to keep to, and which of two models keeps to it better.

    Args:
        max_bytes: The most that the packed file may have.
        latency_ms: The most milliseconds of a call.
        max_fall: The most that the metric may fall, in hundredths.

    Raises:
        ValueError: If nothing is limited, or a limit makes no sense.

    Example:
        >>> budget = Budget(max_bytes=1000, max_fall=0.5)
        >>> budget.meets({"bytes": 900, "fall": 0.4}), budget.misses({"bytes": 1100, "fall": 0.4})
        (True, ['1,100 bytes of 1,000'])
        >>> print(budget)
        at most 1,000 bytes, metric down by at most 0.5 points
    """

    max_bytes: int | None = None
    latency_ms: float | None = None
    max_fall: float | None = None

    def __post_init__(self) -> None:
        given = {"max_bytes": self.max_bytes, "latency_ms": self.latency_ms, "max_fall": self.max_fall}
        if all(value is None for value in given.values()):
            raise ValueError("fit: give at least one of max_bytes, latency_ms and max_fall")
        for name, value in given.items():
            if value is not None and not (value >= 0 if name == "max_fall" else value > 0):
                raise ValueError(f"fit: {name} must be above 0 (max_fall: 0 or more); got {value}")

    def __str__(self) -> str:
        parts = [
            f"at most {self.max_bytes:,} bytes" if self.max_bytes is not None else "",
            f"at most {self.latency_ms:g} ms" if self.latency_ms is not None else "",
            f"metric down by at most {self.max_fall:g} points" if self.max_fall is not None else "",
        ]
        return ", ".join(part for part in parts if part)

    def misses(self, row: Row) -> list[str]:
        """Return which limits a candidate does not keep, each with what it has."""
        told = []
        if self.max_bytes is not None and row["bytes"] > self.max_bytes:
            told.append(f"{row['bytes']:,} bytes of {self.max_bytes:,}")
        if self.latency_ms is not None and row["latency_ms"] > self.latency_ms:
            told.append(f"{row['latency_ms']:.3g} ms of {self.latency_ms:g}")
        if self.max_fall is not None and row["fall"] > self.max_fall:
            told.append(f"metric down by {row['fall']:.2f} points of {self.max_fall:g}")
        return told

    def meets(self, row: Row) -> bool:
        """Say whether a candidate keeps every limit."""
        return not self.misses(row)

    def rank(self, row: Row) -> tuple[float, ...]:
        """Return what the best candidate has least of.

        Of those that keep every limit it is the smallest file where the fall is limited, else the one with
        the highest metric. Where none does it is the nearest: first in bytes and time, then in the metric.
        """
        if not self.meets(row):
            return (1.0, self._over(row), row["fall"])
        if self.max_fall is not None:
            return (0.0, row["bytes"], row["fall"])
        return (0.0, row["fall"], row["bytes"])

    def why(self) -> str:
        """Return in words by what the pick was chosen."""
        return "the smallest file" if self.max_fall is not None else "the best metric"

    def _over(self, row: Row) -> float:
        """Return by which share bytes and time are above their limits."""
        over = 0.0
        for have, most in ((row["bytes"], self.max_bytes), (row["latency_ms"], self.latency_ms)):
            over += max(0.0, have / most - 1) if most else 0.0
        return over

"""What may be used to make bytes few, and the ways to write positions."""

from collections.abc import Sequence
from dataclasses import dataclass

from tonsor.pack.coders import CODERS
from tonsor.pack.context import from_context, to_context
from tonsor.pack.positions import (
    Positions,
    from_bitmap,
    from_csr,
    from_runs,
    to_bitmap,
    to_csr,
    to_runs,
)
from tonsor.spelling import unknown

INLINE = "inline"  # zeros are coded among the values

POSITIONS: dict[str, Positions] = {
    "bitmap": Positions(to_bitmap, from_bitmap),
    "runs": Positions(to_runs, from_runs),
    "csr": Positions(to_csr, from_csr),
    "context": Positions(to_context, from_context),
}


@dataclass(frozen=True)
class Coding:
    """Say what may be used to make bytes few; of each the shortest is chosen, by measuring.

    Args:
        positions: Names of `POSITIONS`, or "inline".
        coders: Names of `CODERS`.
        threads: Tensors that are coded at once.

    Raises:
        ValueError: If a name is not known, or there is none.

    Example:
        >>> Coding(positions=("bitmap",), coders=("deflate",)).threads
        2
    """

    positions: Sequence[str] = (INLINE, *POSITIONS)
    coders: Sequence[str] = ("range", "zstd")
    threads: int = 2

    def __post_init__(self) -> None:
        for kind, given, known in (
            ("position", self.positions, (INLINE, *POSITIONS)),
            ("coder", self.coders, CODERS),
        ):
            if wrong := [name for name in given if name not in known]:
                raise ValueError(f"pack.Coding: {unknown(kind, wrong[0], known)}")
            if not given:
                raise ValueError(f"pack.Coding: {kind}s must name one at least; got none")
        if self.threads < 1:
            raise ValueError(f"pack.Coding: threads must be at least 1; got {self.threads}")

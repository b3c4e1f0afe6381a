"""Limits of a group: how many of its units may go, and in which numbers."""

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import ceil

import torch
from torch import Tensor

from tonsor.spelling import unknown

ROUNDINGS = ("nearest", "up", "down")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Say how many units a group keeps at least, and which counts are welcome.

    Whole is always welcome: a group of 30 that loses nothing keeps 30, whatever the multiple.

    Args:
        at_least: Units that stay in each group, at least 1.
        multiple_of: What the number of units that stay is a multiple of; kernels like 8 or 16.
        rounding: Where a count is no multiple: "nearest" (half goes up), "up" or "down".
        most: The largest fraction that a group may lose, in [0, 1]; or fractions by group name, with `*`
            and `?`, of which the first that fits counts.

    Raises:
        ValueError: If a number lies outside its range or the rounding is not known.

    Example:
        >>> [Limits(multiple_of=8).allowed("a", 32)[count] for count in (1, 11, 12, 31)]
        [8, 8, 16, 32]
        >>> Limits(at_least=4, most={"head*": 0.5}).allowed("head", 12)[0]
        6
    """

    at_least: int = 1
    multiple_of: int = 1
    rounding: str = "nearest"
    most: float | Mapping[str, float] = 1.0

    def __post_init__(self) -> None:
        if self.at_least < 1 or self.multiple_of < 1:
            raise ValueError(
                "shrink.Limits: at_least and multiple_of must be at least 1; "
                f"got {self.at_least} and {self.multiple_of}"
            )
        if self.rounding not in ROUNDINGS:
            raise ValueError(f"shrink.Limits: {unknown('rounding', self.rounding, ROUNDINGS)}")
        for name, most in self._fractions().items():
            if not 0 <= most <= 1:
                raise ValueError(
                    f"shrink.Limits: most{name} is the largest fraction removed, in [0, 1]; got {most}"
                )

    def allowed(self, name: str, units: int) -> list[int]:
        """Return for each number of units that a choice keeps, from 0 to all, how many stay.

        Example:
            >>> Limits(at_least=2).allowed("a", 4)
            [2, 2, 2, 3, 4]
        """
        least = self._least(name, units)
        return [self._stay(units, kept, least) for kept in range(units + 1)]

    def needed(self, name: str, units: int, live: int) -> int:
        """Return how many units stay at least where so many are live: counts are rounded up.

        Example:
            >>> Limits(multiple_of=8, rounding="down").needed("a", 32, 9)
            16
        """
        return min(units, self._round_up(max(live, self._least(name, units))))

    def _stay(self, units: int, kept: int, least: int) -> int:
        """Return how many units stay of those that a choice keeps."""
        if kept >= units:
            return units
        up, down = min(units, self._round_up(kept)), kept - kept % self.multiple_of
        nearest = up if up - kept <= kept - down else down
        stay = {"nearest": nearest, "up": up, "down": down}[self.rounding]
        return stay if stay >= least else min(units, self._round_up(least))

    def _round_up(self, count: int) -> int:
        """Return the next multiple."""
        return -(-count // self.multiple_of) * self.multiple_of

    def _least(self, name: str, units: int) -> int:
        """Return how many units of a group stay, whatever is chosen."""
        fitting = (most for glob, most in self._fractions().items() if fnmatchcase(name, glob or "*"))
        spared = ceil((1 - next(fitting, 1.0)) * units - 1e-9)  # 1e-9: (1 - 0.9) * 10 is a little over 1
        return min(units, max(self.at_least, spared))

    def _fractions(self) -> Mapping[str, float]:
        """Return the fractions by name; one for all has no name."""
        return self.most if isinstance(self.most, Mapping) else {"": self.most}


def give_back(keep: Tensor, scores: Tensor, allowed: list[int]) -> Tensor:
    """Return the choice with as many units as are allowed: the best removed come back, or the worst go.

    Of equal units the one that stands first goes first. Nothing waits for the device.

    Args:
        keep: One boolean for each unit.
        scores: One score for each.
        allowed: For each number of units kept how many shall stay.

    Example:
        >>> give_back(torch.tensor([True, False, False]), torch.tensor([3.0, 1.0, 2.0]), [2, 2, 2, 3])
        tensor([ True, False,  True])
    """
    stay = torch.tensor(allowed, device=keep.device)[keep.sum()]
    by_score = scores.argsort(stable=True)
    order = by_score[keep[by_score].byte().argsort(stable=True)]  # those that go first, each by score
    places = torch.arange(len(keep), device=keep.device)
    rank = torch.empty_like(places).scatter(0, order, places)
    return rank >= len(keep) - stay

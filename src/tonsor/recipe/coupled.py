"""The pattern of a recipe that is read off the model itself: its groups of coupled channels, with limits."""

from dataclasses import dataclass

from tonsor.shrink import ChannelGroups, Limits
from tonsor.shrink.units import check_scoring


@dataclass(frozen=True, kw_only=True)
class Coupled:
    """Hold the keys of `pattern = { rule = "channel_groups", ... }` until the model is there.

    Args:
        reduction: As in `ChannelGroups.scored`.
        normalise: As in `ChannelGroups.scored`.
        only: As in `ChannelGroups.limited`, and so are the keys below.
        ignore: Groups that may lose nothing.
        at_least: Units that stay in each group.
        multiple_of: What the number of units that stay is a multiple of.
        rounding: Where a count is no multiple.
        most: The largest fraction that a group may lose.

    Raises:
        ValueError: If a key has a value that none of the two takes.

    Example:
        >>> import torch
        >>> from tonsor.shrink import channel_groups
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
        >>> groups = Coupled(multiple_of=4, normalise="mean").of(channel_groups(model, torch.ones(1, 4)))
        >>> groups.normalise, groups.limits.multiple_of
        ('mean', 4)
    """

    reduction: str = "sum"
    normalise: str = "none"
    only: tuple[str, ...] = ("*",)
    ignore: tuple[str, ...] = ()
    at_least: int = 1
    multiple_of: int = 1
    rounding: str = "nearest"
    most: float | dict[str, float] = 1.0

    def __post_init__(self) -> None:
        check_scoring(self.reduction, self.normalise)
        Limits(at_least=self.at_least, multiple_of=self.multiple_of, rounding=self.rounding, most=self.most)

    def of(self, groups: ChannelGroups) -> ChannelGroups:
        """Return a model's groups with these ways to score and limits."""
        limited = groups.limited(
            only=self.only,
            ignore=self.ignore,
            at_least=self.at_least,
            multiple_of=self.multiple_of,
            rounding=self.rounding,
            most=self.most,
        )
        return limited.scored(reduction=self.reduction, normalise=self.normalise)

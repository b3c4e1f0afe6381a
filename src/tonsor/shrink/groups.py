"""Groups of channels: all slices of all parameters that must go together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from tonsor.shrink.collect import Group
from tonsor.shrink.costs import Costs, costs_of, kind_of
from tonsor.shrink.limits import Limits, give_back
from tonsor.shrink.listing import listing
from tonsor.shrink.named import IGNORED, check_named, is_named
from tonsor.shrink.trace import Trace
from tonsor.shrink.units import check_scoring, comparable, unit_scores
from tonsor.shrink.work import Work


@dataclass(frozen=True)
class ChannelGroups:
    """Hold a model's groups of coupled channels. It is a pattern: its units live or die together.

    Args:
        groups: Groups whose units can be removed, by name: the first weight that produces them.
        frozen: Groups that must stay, each with the reason.
        trace: The graph they were found in.
        roots: Of each label of the graph the smallest it is joined with.
        unruled: The nodes of the graph whose rule did not foresee them.
        work: What one call multiplies.
        limits: In which numbers units may go; see `limited`.
        reduction: How the scores of a unit's elements become one; see `scored`.
        normalise: What the scores of a group are divided by; see `scored`.

    Example:
        >>> from torch import nn
        >>> from tonsor.shrink import channel_groups
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
        >>> groups = channel_groups(model, torch.ones(1, 2))
        >>> keep = {"0.weight": torch.tensor([True, False, True])}
        >>> groups.expand(keep, {"2.weight": model[2].weight})
        {'2.weight': tensor([[ True, False,  True]])}
    """

    groups: dict[str, Group]
    frozen: tuple[Group, ...]
    trace: Trace = field(repr=False)
    roots: Tensor = field(repr=False)
    unruled: frozenset[Any] = field(repr=False, default=frozenset())
    work: Work = field(repr=False, default_factory=Work)
    limits: Limits = field(default_factory=Limits)
    reduction: str = "sum"
    normalise: str = "none"

    def __post_init__(self) -> None:
        check_scoring(self.reduction, self.normalise)

    @cached_property
    def costs(self) -> Costs:
        """What the model costs at any number of units removed."""
        return costs_of(self.groups, self.trace, self.work)

    def scored(self, *, reduction: str = "sum", normalise: str = "mean") -> "ChannelGroups":
        """Return the same groups with another way to score a unit.

        Args:
            reduction: How the scores of a unit's elements, over all its slices that were scored, become
                one: "sum", "mean", "max", "l2" (root of the sum of squares), or "first" (the sum over the
                first slice alone, mostly the row of the weight that the group is named after).
            normalise: What makes groups comparable, for scopes that let them compete: "none"; "mean" or
                "max" divides by that of the group's magnitudes, so that no group is emptied because all
                its weights are small; "gaussian" counts in standard deviations from the mean.

        Raises:
            ValueError: If a name is not known.

        Example:
            >>> from torch import nn
            >>> from tonsor.shrink import channel_groups
            >>> model = nn.Sequential(nn.Linear(1, 2), nn.Linear(2, 1))
            >>> groups = channel_groups(model, torch.ones(1, 1)).scored(reduction="l2", normalise="mean")
            >>> groups.reduce({"0.weight": torch.tensor([[1.0], [3.0]])})
            {'0.weight': tensor([0.5000, 1.5000])}
        """
        return replace(self, reduction=reduction, normalise=normalise)

    def limited(
        self,
        *,
        only: Sequence[str] = ("*",),
        ignore: Sequence[str] = (),
        at_least: int = 1,
        multiple_of: int = 1,
        rounding: str = "nearest",
        most: float | Mapping[str, float] = 1.0,
    ) -> "ChannelGroups":
        """Return the same groups with limits to what may go; they hold for every scope, and in `shrink_`.

        Groups that are left out move to `frozen`: their units are no units, and count in no sparsity. The
        other limits are held after a scope has chosen: the best of what it removed comes back, or the
        worst of what it kept goes. What is given back is not made up for elsewhere; for an exact target
        see `shrink_to`.

        Args:
            only: Groups that may lose units, by a parameter that writes their channels, by its module, or
                by what their units are: "inner", "residual", "heads", "head_dim". With `*` and `?`.
            ignore: Groups that may not, in the same words; stronger than `only`. A layer that is ignored
                keeps all its outputs; its inputs may go with the layer before.
            at_least: Units that stay in each group.
            multiple_of: What the number of units that stay is a multiple of, as kernels like 8 or 16.
            rounding: Where a count is no multiple: "nearest" (half goes up), "up" or "down".
            most: The largest fraction that a group may lose, in [0, 1], or fractions by group name, with
                `*` and `?`, of which the first that fits counts.

        Raises:
            ValueError: If a name fits nothing, or a number lies outside its range.

        Example:
            >>> from torch import nn
            >>> from tonsor.shrink import channel_groups
            >>> model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2))
            >>> groups = channel_groups(model, torch.ones(1, 4)).limited(ignore=["1"], at_least=2)
            >>> list(groups.groups), groups.frozen[0].name, groups.frozen[0].reason
            (['0.weight'], '1.weight', 'ignored')
        """
        check_named([*only, *ignore], self.trace)
        limits = Limits(at_least=at_least, multiple_of=multiple_of, rounding=rounding, most=most)
        kinds = {name: kind_of(group, self.work) for name, group in self.groups.items()}
        stay = {
            name: group
            for name, group in self.groups.items()
            if is_named(group, kinds[name], only) and not is_named(group, kinds[name], ignore)
        }
        left_out = [replace(g, reason=IGNORED) for name, g in self.groups.items() if name not in stay]
        return replace(self, groups=stay, frozen=(*left_out, *self.frozen), limits=limits)

    def limit(self, keep: Mapping[str, Tensor], units: Mapping[str, Tensor], /) -> dict[str, Tensor]:
        """Return a scope's choice with as many units of each group as the limits allow.

        Args:
            keep: One boolean for each unit, by group.
            units: The scores it was chosen by, as `reduce` gives them.

        Example:
            >>> from torch import nn
            >>> from tonsor.shrink import channel_groups
            >>> model = nn.Sequential(nn.Linear(1, 3), nn.Linear(3, 1))
            >>> groups = channel_groups(model, torch.ones(1, 1)).limited(at_least=2)
            >>> keep = {"0.weight": torch.tensor([True, False, False])}
            >>> groups.limit(keep, {"0.weight": torch.tensor([3.0, 1.0, 2.0])})
            {'0.weight': tensor([ True, False,  True])}
        """
        return {
            name: give_back(stays, units[name], self.limits.allowed(name, self._group(name, stays).units))
            for name, stays in keep.items()
        }

    def reduce(self, scores: Mapping[str, Tensor], /) -> dict[str, Tensor]:
        """Return one score for each unit, over all its slices of the weights that were given.

        Args:
            scores: Scores by parameter name, shaped like the parameters. Names of which no slice
                belongs to a group do not matter.

        Returns:
            A vector by group, for the groups of which at least one slice was given.

        Raises:
            ValueError: If a score is not shaped like its parameter.

        Example:
            >>> from torch import nn
            >>> from tonsor.shrink import channel_groups
            >>> model = nn.Sequential(nn.Linear(1, 2), nn.Linear(2, 1))
            >>> groups = channel_groups(model, torch.ones(1, 1))
            >>> scores = {"0.weight": torch.tensor([[1.0], [2.0]]), "1.weight": torch.tensor([[4.0, 8.0]])}
            >>> groups.reduce(scores)
            {'0.weight': tensor([ 5., 10.])}
        """
        given = self._by_first_name(scores)
        found = {name: unit_scores(group, given, self.reduction) for name, group in self.groups.items()}
        return comparable({name: unit for name, unit in found.items() if unit is not None}, self.normalise)

    def expand(self, keep: Mapping[str, Tensor], like: Mapping[str, Tensor], /) -> dict[str, Tensor]:
        """Return masks: false on all slices of a unit that goes.

        Args:
            keep: One boolean for each unit, by group; a group that is not given stays whole.
            like: The weights to mask, by parameter name.

        Returns:
            Boolean masks shaped like the weights, on their devices.

        Raises:
            ValueError: If a group is not known or has another number of units.

        Example:
            >>> from torch import nn
            >>> from tonsor.shrink import channel_groups
            >>> model = nn.Sequential(nn.Linear(1, 2), nn.Linear(2, 1))
            >>> groups = channel_groups(model, torch.ones(1, 1))
            >>> keep = {"0.weight": torch.tensor([False, True])}
            >>> groups.expand(keep, {"0.bias": model[0].bias})
            {'0.bias': tensor([False,  True])}
        """
        masks = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in like.items()}
        own = self._by_first_name(masks)
        for name, stays in keep.items():
            for part in self._group(name, stays).slices:
                if part.parameter in own and part.role != "direction":
                    mask = own[part.parameter]
                    gone = part.index.to(mask.device)[~stays.to(mask.device)].reshape(-1)
                    mask.index_fill_(part.dim, gone, False)
        return {name: own[self.trace.names.get(name, name)] for name in like}

    def _group(self, name: str, stays: Tensor) -> Group:
        """Return the group that a decision is about."""
        from tonsor.spelling import unknown

        if name not in self.groups:
            raise ValueError(f"shrink.ChannelGroups: {unknown('group', name, self.groups)}")
        group = self.groups[name]
        if tuple(stays.shape) != (group.units,):
            raise ValueError(
                f"shrink.ChannelGroups: group '{name}' has {group.units} units; "
                f"got a decision of shape {tuple(stays.shape)}"
            )
        return group

    def _by_first_name(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors under the first of their tied names, each checked against its parameter."""
        found: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            first = self.trace.names.get(name, name)
            expected = self.trace.shapes.get(first, tuple(tensor.shape))
            if tuple(tensor.shape) != expected:
                raise ValueError(
                    f"shrink.ChannelGroups: '{name}' has shape {expected}; got {tuple(tensor.shape)}"
                )
            found.setdefault(first, tensor)
        return found

    def __str__(self) -> str:
        return listing(self.groups, self.frozen, self.costs)

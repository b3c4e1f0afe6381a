"""What is to be done to a model: which indices stay, which biases take a constant."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from tonsor.shrink.cut import cut_
from tonsor.shrink.decide import Decision
from tonsor.shrink.groups import ChannelGroups
from tonsor.shrink.survey import Reading
from tonsor.shrink.trace import named_tensors


@dataclass(frozen=True)
class Plan:
    """Hold what is to be done to a model."""

    decision: Decision
    slices: dict[str, dict[int, Tensor]]
    folds: dict[str, Tensor]  # by bias: what is added to each row, before rows are sliced
    lacking: dict[str, Tensor]  # by module that gets a bias: the rows that stay

    def apply_(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """Fold and slice, in place; return the new biases."""
        tensors = named_tensors(model)
        fresh = {}
        with torch.no_grad():
            for name, extra in self.folds.items():
                path = name.removesuffix("bias").rstrip(".")
                if path in self.lacking:
                    fresh[path] = extra[self.lacking[path]]
                else:
                    tensors[name].add_(extra.to(tensors[name]))
        return cut_(model, self.slices, fresh)

    def without(self, removed: Mapping[str, Sequence[int]], blamed: Sequence[str], why: str) -> "Plan":
        """Return the plan with the groups that were left out, and why."""
        more = tuple((name, len(removed[name]), f"cut, {why}") for name in blamed)
        others = (stay for stay in self.decision.stays if stay[0] not in blamed)
        return replace(self, decision=replace(self.decision, stays=(*others, *more)))

    def as_json(self) -> dict[str, Any]:
        """Return the plan as plain lists and dicts."""
        slices = {
            name: {str(dim): index.tolist() for dim, index in kept.items()}
            for name, kept in self.slices.items()
        }
        return {"slices": slices, "biases": list(self.lacking)}


def plan_for(
    groups: ChannelGroups, readings: Sequence[Reading], decision: Decision, model: nn.Module
) -> Plan:
    """Return which indices of which tensors stay, and what is folded into which bias."""
    slices: dict[str, dict[int, Tensor]] = {}
    for group in groups.groups.values():
        units = decision.removed.get(group.name, [])
        for part in group.slices if units else ():
            size = groups.trace.shapes[part.parameter][part.dim]
            stay = slices.setdefault(part.parameter, {}).setdefault(part.dim, torch.arange(size))
            slices[part.parameter][part.dim] = stay[~torch.isin(stay, part.index[units])]
    folds, lacking = {}, {}
    tensors = named_tensors(model)
    for reading in readings:
        extra = reading.folded(decision.gone[reading.columns])
        if reading.bias and bool((extra[~decision.gone[reading.rows]] != 0).any()):
            folds[reading.bias] = extra
            if reading.bias not in tensors:
                path = reading.bias.removesuffix("bias").rstrip(".")
                lacking[path] = (~decision.gone[reading.rows]).nonzero().flatten()
    return Plan(decision, slices, folds, lacking)

"""Averages of a model's weights follow it when it is cut: sliced by the same indices."""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn

from tonsor.modes import evaluating
from tonsor.shrink.copies import copied
from tonsor.shrink.cut import cut_, replace_, sliced
from tonsor.shrink.groups import ChannelGroups
from tonsor.shrink.plan import Plan
from tonsor.shrink.survey import survey
from tonsor.shrink.trace import first_names, named_tensors
from tonsor.spelling import unknown
from tonsor.tensors import apply_masks_

Average: TypeAlias = nn.Module | Mapping[str, Tensor]


def averages(ema: Average | Sequence[Average] | None) -> list[Average]:
    """Return the averages as a list; one that wraps its copy of the model stands for the copy.

    Example:
        >>> from torch.optim.swa_utils import AveragedModel
        >>> averages(AveragedModel(nn.Linear(1, 1)))
        [Linear(in_features=1, out_features=1, bias=True)]
    """
    if ema is None:
        return []
    given = [ema] if isinstance(ema, (nn.Module, Mapping)) else list(ema)
    return [_inner(average) for average in given]


def check_average(average: Average, model: nn.Module) -> None:
    """Refuse an average of another model.

    Example:
        >>> check_average({"wieght": torch.ones(1, 1)}, nn.Linear(1, 1))
        Traceback (most recent call last):
        ValueError: shrink.shrink_: ema: unknown tensor 'wieght'; did you mean 'weight'? Known: bias, weight
    """
    tensors = named_tensors(model)
    own = named_tensors(average) if isinstance(average, nn.Module) else average
    for name, tensor in own.items():
        if name not in tensors:
            raise ValueError(f"shrink.shrink_: ema: {unknown('tensor', name, tensors)}")
        if tensor.shape != tensors[name].shape:
            raise ValueError(
                f"shrink.shrink_: ema: '{name}' has shape {tuple(tensor.shape)}; "
                f"the model's has {tuple(tensors[name].shape)}"
            )


def follow_(
    average: Average, model: nn.Module, groups: ChannelGroups, plan: Plan, masks: Mapping[str, Tensor]
) -> None:
    """Mask and slice an average as its model is, in place; its own constants go into its own biases.

    Its tensors stay the same objects. A unit that the model can miss may not be quite idle in the average,
    which still remembers older weights; what it added there is lost.

    Args:
        average: A module built like the model, or tensors by the model's names.
        model: The model before the cut.
        groups: Its groups.
        plan: What is done to the model.
        masks: What was set to zero in it.

    Example:
        >>> from tonsor.shrink import channel_groups
        >>> from tonsor.shrink.decide import Decision
        >>> model = nn.Sequential(nn.Linear(1, 2), nn.Linear(2, 1))
        >>> groups = channel_groups(model, torch.ones(1, 1))
        >>> shadow = {"1.weight": torch.tensor([[3.0, 4.0]])}
        >>> nothing = Decision(torch.zeros(1, dtype=torch.bool), {}, ())
        >>> plan = Plan(nothing, {"1.weight": {1: torch.tensor([1])}}, {}, {})
        >>> follow_(shadow, model, groups, plan, {}); shadow
        {'1.weight': tensor([[4.]])}
    """
    stand_in = average if isinstance(average, nn.Module) else _loaded(model, average)
    apply_masks_(named_tensors(stand_in), masks)
    folds = _folds(stand_in, groups, plan)
    with torch.no_grad():
        if isinstance(average, nn.Module):
            tensors = named_tensors(average)
            for name in folds.keys() & tensors.keys():
                tensors[name].add_(folds[name].to(tensors[name]))
            fresh = {
                path: folds[_bias(path)][rows] if _bias(path) in folds else None
                for path, rows in plan.lacking.items()
            }
            cut_(average, plan.slices, fresh)
            return
        first = first_names(named_tensors(model))
        for name, tensor in average.items():
            kept = tensor.masked_fill(~masks[name].to(tensor.device), 0) if name in masks else tensor
            kept = kept + folds[name].to(kept) if name in folds else kept
            replace_(tensor, sliced(kept.detach(), plan.slices.get(first[name], {})))


def _inner(average: Average) -> Average:
    """Return the copy of the model that an averaging module wraps."""
    inner = getattr(average, "module", None) if isinstance(average, nn.Module) else None
    return inner if isinstance(inner, nn.Module) else average


def _loaded(model: nn.Module, average: Mapping[str, Tensor]) -> nn.Module:
    """Return a copy of the model with the averaged weights."""
    stand_in = copied(model)
    with torch.no_grad():
        for name, tensor in named_tensors(stand_in).items():
            if name in average:
                tensor.copy_(average[name])
    return stand_in


def _folds(average: nn.Module, groups: ChannelGroups, plan: Plan) -> dict[str, Tensor]:
    """Return what the removed units that are constant in the average add to each bias."""
    if not plan.decision.removed:
        return {}
    with evaluating(average):
        readings = survey(average, groups)
    found = {}
    for reading in readings:
        gone = plan.decision.gone[reading.columns] & reading.steady
        extra = reading.folded(gone)
        if reading.bias and bool((extra != 0).any()):
            found[reading.bias] = extra
    return found


def _bias(path: str) -> str:
    """Return the name of a module's bias."""
    return f"{path}.bias".lstrip(".")

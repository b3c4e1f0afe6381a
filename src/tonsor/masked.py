"""What masks mean beside zeros in the weights: no gradient, and no memory in the optimizer."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import LBFGS, Optimizer

# State that does not start at zero, with the setting it starts at: Rprop's and Adagrad's.
_FIRST = {"step_size": "lr", "sum": "initial_accumulator_value"}


@torch.no_grad()
def mask_gradients_(parameters: Mapping[str, Tensor], masks: Mapping[str, Tensor], /) -> None:
    """Set the gradients to zero where the weight's mask is false, in place.

    Done between backward and clipping, a removed weight neither counts in the norm nor moves a momentum.
    Zeros are written, not multiplied, so that an infinite gradient becomes zero as well.

    Args:
        parameters: Weights by name; one without a gradient is passed over, a sparse gradient is coalesced.
        masks: Boolean masks by name, true where the weight stays; a name without a mask is left alone.

    Example:
        >>> w = torch.ones(2, requires_grad=True); w.grad = torch.tensor([3.0, 4.0])
        >>> mask_gradients_({"w": w}, {"w": torch.tensor([True, False])}); w.grad
        tensor([3., 0.])
    """
    for name, mask in masks.items():
        grad = parameters[name].grad
        if grad is not None and grad.is_sparse:
            parameters[name].grad = grad = grad.coalesce()
            grad._values().masked_fill_(~mask[tuple(grad._indices())], 0)
        elif grad is not None:
            grad.masked_fill_(~mask, 0)


@torch.no_grad()
def clear_state_(
    optimizer: Optimizer, parameters: Mapping[str, Tensor], masks: Mapping[str, Tensor], /
) -> None:
    """Make an optimizer forget the weights whose mask is false: their state becomes what it was at first.

    Without it a momentum from before goes on moving a weight that was removed, and a weight that comes back
    starts with the moments of its past. Every floating-point tensor of the state that is shaped like the
    weight is cleared (momenta, both moments and their maximum, Rprop's step sizes); counters, Adafactor's
    factors and quantised state are left alone, and so is LBFGS, which keeps all weights in one vector.

    Args:
        optimizer: Any torch optimizer; a weight that it has no state for yet is passed over.
        parameters: Weights by name.
        masks: Boolean masks by name, true where the weight stays.

    Example:
        >>> w = torch.ones(2, requires_grad=True)
        >>> sgd = torch.optim.SGD([w], lr=0.1, momentum=0.9)
        >>> w.grad = torch.tensor([3.0, 4.0]); sgd.step()
        >>> clear_state_(sgd, {"w": w}, {"w": torch.tensor([True, False])})
        >>> sgd.state[w]["momentum_buffer"]
        tensor([3., 0.])
    """
    if isinstance(optimizer, LBFGS):
        return
    groups = {id(parameter): group for group in optimizer.param_groups for parameter in group["params"]}
    for name, mask in masks.items():
        weight = parameters[name]
        for key, kept in optimizer.state.get(weight, {}).items():
            if _is_of_elements(kept, weight):
                first = groups[id(weight)].get(_FIRST.get(key, ""), 0.0)
                kept.masked_fill_(~mask.to(kept.device), first)


def _is_of_elements(kept: Any, weight: Tensor) -> bool:
    """Return whether a part of the state holds a number for each element; a counter's has no dimension."""
    if not torch.is_tensor(kept) or kept.ndim == 0 or kept.shape != weight.shape:
        return False
    return kept.is_floating_point() or kept.is_complex()

"""Copies of a model to try things on, without what its forward keeps between calls."""

import copy
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from torch import Tensor, nn

from tonsor.shrink.trace import forget_

Kind = TypeVar("Kind", bound=nn.Module)


def copied(model: Kind) -> Kind:
    """Return a copy of a model.

    What its forward computed and left in an attribute, as a weight that a hook makes or a cache of
    attention biases, is copied as a plain tensor: torch refuses to copy it as it is.

    Example:
        >>> import torch
        >>> layer = nn.Linear(1, 1); layer.cache = {"twice": 2 * layer.weight}
        >>> copied(layer).cache["twice"].requires_grad
        False
    """
    memo: dict[int, Any] = {}
    for module in model.modules():
        for tensor in _computed(vars(module)):
            memo[id(tensor)] = tensor.detach().clone()
    twin = copy.deepcopy(model, memo)
    forget_(twin)
    return twin


def _computed(item: Any) -> Iterator[Tensor]:
    """Yield the tensors in attributes that autograd computed, also those inside dicts and lists."""
    if isinstance(item, Tensor):
        if item.grad_fn is not None:
            yield item
    elif isinstance(item, (Mapping, list, tuple)):
        for part in item.values() if isinstance(item, Mapping) else item:
            yield from _computed(part)

"""Copies of a model to try things on, without what its forward keeps between calls."""

import copy
from collections.abc import Collection, Iterator, Mapping
from typing import Any, TypeVar

from torch import Tensor, nn

from tonsor.shrink.trace import forget_, named_tensors
from tonsor.tensors import apply_masks_

Kind = TypeVar("Kind", bound=nn.Module)


def copied(model: Kind, known: Mapping[int, Tensor] | None = None) -> Kind:
    """Return a copy of a model.

    What its forward computed and left in an attribute, as a weight that a hook makes or a cache of
    attention biases, is copied as a plain tensor: torch refuses to copy it as it is.

    Args:
        model: The module.
        known: What stands for a tensor in the copy, by the tensor's `id`.

    Example:
        >>> import torch
        >>> layer = nn.Linear(1, 1); layer.cache = {"twice": 2 * layer.weight}
        >>> copied(layer).cache["twice"].requires_grad
        False
    """
    memo: dict[int, Any] = dict(known or {})
    for module in model.modules():
        for tensor in _computed(vars(module)):
            memo[id(tensor)] = tensor.detach().clone()
    copy_ = copy.deepcopy(model, memo)
    forget_(copy_)
    return copy_


def twin(model: nn.Module, *, own: Collection[str] = ()) -> nn.Module:
    """Return a copy whose parameters lie in the same memory, to be sliced or only run.

    Args:
        model: The module; its buffers are copied.
        own: Parameters that are copied as well, because they will be written to.

    Example:
        >>> model = nn.Linear(1, 1)
        >>> other = twin(model, own=["bias"])
        >>> other.weight.data_ptr() == model.weight.data_ptr(), other.bias.data_ptr() == model.bias.data_ptr()
        (True, False)
    """
    written = {id(tensor) for name, tensor in named_tensors(model).items() if name in own}
    shared = {
        id(tensor): nn.Parameter(tensor.detach(), tensor.requires_grad)
        for tensor in model.parameters()
        if type(tensor) is nn.Parameter and id(tensor) not in written
    }
    return copied(model, shared)


def masked_copy(model: nn.Module, masks: Mapping[str, Tensor]) -> nn.Module:
    """Return a copy of a model with zeros where masks are false; it shares no memory.

    Example:
        >>> model = nn.Linear(2, 1)
        >>> masked_copy(model, {"weight": model.weight == 0}).weight
        Parameter containing:
        tensor([[0., 0.]], requires_grad=True)
    """
    tensors = named_tensors(model)
    zeroed: dict[int, Tensor] = {}
    for name, mask in masks.items():
        tensor = tensors[name]
        if type(tensor) is nn.Parameter:
            before = zeroed.get(id(tensor), tensor).detach()
            zeroed[id(tensor)] = nn.Parameter(before.masked_fill(~mask, 0), tensor.requires_grad)
    masked = copied(model, zeroed)
    rest = {name: mask for name, mask in masks.items() if id(tensors[name]) not in zeroed}
    apply_masks_(named_tensors(masked), rest)
    return masked


def _computed(item: Any) -> Iterator[Tensor]:
    """Yield the tensors in attributes that autograd computed, also those inside dicts and lists."""
    if isinstance(item, Tensor):
        if item.grad_fn is not None:
            yield item
    elif isinstance(item, (Mapping, list, tuple)):
        for part in item.values() if isinstance(item, Mapping) else item:
            yield from _computed(part)

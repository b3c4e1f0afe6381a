"""Copy a model without copying its weights."""

import copy
from collections.abc import Collection, Mapping

from torch import Tensor, nn

from tonsor.shrink.trace import named_tensors
from tonsor.tensors import apply_masks_


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
    return copy.deepcopy(model, shared)


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
    copied = copy.deepcopy(model, dict(zeroed))
    rest = {name: mask for name, mask in masks.items() if id(tensors[name]) not in zeroed}
    apply_masks_(named_tensors(copied), rest)
    return copied

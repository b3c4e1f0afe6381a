"""A batch as its samples, one by one."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor


def samples(batches: Iterable[tuple[Any, Any]], /) -> Iterator[tuple[Any, Any]]:
    """Yield every sample of the batches as a batch of one.

    Samples lie along the first dimension; how many there are, the first tensor of the inputs tells. Every
    tensor of that length, in inputs and targets, at any depth of tuples, lists and mappings, is cut;
    everything else goes with each sample as it is.

    Args:
        batches: Pairs of inputs and targets.

    Raises:
        ValueError: If the inputs hold no tensor with a dimension.

    Example:
        >>> import torch
        >>> x = torch.tensor([[1.0], [2.0]])
        >>> list(samples([((x, "as it is"), None)]))
        [((tensor([[1.]]), 'as it is'), None), ((tensor([[2.]]), 'as it is'), None)]
    """
    for inputs, targets in batches:
        size = next((len(tensor) for tensor in _tensors(inputs) if tensor.ndim), None)
        if size is None:
            raise ValueError(
                "prune.collect: a batch cannot be cut into samples, because its inputs hold no tensor"
                f" with a dimension; got {type(inputs).__name__}"
            )
        for place in range(size):
            yield _cut(inputs, place, size), _cut(targets, place, size)


def _tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors inside a value, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _tensors(inner)
    elif isinstance(value, (tuple, list)):
        for inner in value:
            yield from _tensors(inner)


def _cut(value: Any, place: int, size: int) -> Any:
    """Return a value with every tensor of the batch's length cut to one sample."""
    if isinstance(value, Tensor):
        return value[place : place + 1] if value.ndim and len(value) == size else value
    if isinstance(value, Mapping):
        return {key: _cut(inner, place, size) for key, inner in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)([_cut(inner, place, size) for inner in value])
    return value

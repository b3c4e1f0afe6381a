"""Look at a model without changing it: its modes, and a batch to feed it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def evaluating(model: nn.Module, /) -> Iterator[None]:
    """Put every module of a model into evaluation mode, without gradients, and put all back after.

    The flags are set one by one, because an exported graph refuses `eval()`.

    Args:
        model: The model; its modules may differ in their flags.

    Example:
        >>> model = nn.Dropout()
        >>> with evaluating(model): model.training
        False
        >>> model.training
        True
    """
    flags = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in flags:
            module.training = False
        with torch.no_grad():
            yield
    finally:
        for module, training in flags:
            module.training = training


def call(model: nn.Module, inputs: Any, /) -> Any:
    """Call a model with one input or several.

    Args:
        model: The model.
        inputs: A tensor, a tuple of arguments or a mapping of keyword arguments.

    Returns:
        What the model returns.

    Example:
        >>> call(nn.Bilinear(1, 1, 1), (torch.ones(2, 1), torch.ones(2, 1))).shape
        torch.Size([2, 1])
    """
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


def rows(inputs: Tensor | tuple[Any, ...], batch: int, /) -> tuple[Any, ...]:
    """Return the inputs as a tuple whose tensors have a given number of rows, repeated or cut.

    Args:
        inputs: One tensor or a tuple; what is no tensor, or has no dimension, is handed on.
        batch: How many rows, at least 1.

    Returns:
        The arguments of one call.

    Example:
        >>> rows(torch.tensor([1, 2]), 3)
        (tensor([1, 2, 1]),)
    """
    given = inputs if isinstance(inputs, tuple) else (inputs,)
    return tuple(_fit(x, batch) if isinstance(x, Tensor) and x.ndim else x for x in given)


def _fit(x: Tensor, batch: int) -> Tensor:
    """Return a tensor with a given number of rows."""
    times = -(-batch // max(1, len(x)))
    return x.repeat(times, *[1] * (x.ndim - 1))[:batch]

"""Compact tensors: of size 1 along the dimensions where nothing varies."""

import torch
from torch import Tensor


def unspread(tensor: Tensor) -> Tensor:
    """Return an expanded tensor with size 1 along the dimensions it was expanded along.

    Example:
        >>> unspread(torch.ones(1, 3).expand(4, 3)).shape
        torch.Size([1, 3])
    """
    for dim, step in enumerate(tensor.stride()):
        if not step and tensor.shape[dim] > 1:
            tensor = tensor.narrow(dim, 0, 1)
    return tensor


def some(flags: Tensor, dim: int) -> Tensor:
    """Return whether any flag along a dimension is set, on the CPU: NumPy is several times faster there.

    Example:
        >>> some(torch.tensor([[True, False], [False, False]]), 1)
        tensor([ True, False])
    """
    return torch.from_numpy(flags.numpy().any(dim))


def even(live: Tensor) -> Tensor:
    """Return a boolean tensor of size 1 along every dimension if it is the same everywhere.

    Example:
        >>> even(torch.tensor([[True, True]])), even(torch.tensor([True, False]))
        (tensor([[True]]), tensor([ True, False]))
    """
    live = unspread(live)
    if live.numel() < 2:
        return live
    one = live.any()
    return one.reshape((1,) * live.ndim) if one == live.all() else live

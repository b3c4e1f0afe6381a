"""Weights of a model that share values, a step before they are packed."""

from collections.abc import Mapping

from torch import Tensor

from tonsor.pack.by_kmeans import FLOATS, kmeans
from tonsor.pack.named import State, check_masks, fitting, masked, told, untied
from tonsor.pack.shared import Shared, Sharing

Bits = int | Mapping[str, int] | None


def share(
    state: State,
    /,
    *,
    bits: Bits = 4,
    masks: Mapping[str, Tensor] | None = None,
    sharing: Sharing = kmeans,
) -> dict[str, Shared]:
    """Let the elements of weights share few values, as a step before `finetune_` and `pack`.

    Args:
        state: A model, or tensors by name; it is left as it is.
        bits: Of a code. One number is for all floats of two dimensions or more, a mapping from patterns of
            names (with * and ?; the first that fits counts) for just those that it names.
        masks: Booleans by name, true where a weight stays; what they remove is zero.
        sharing: A rule of `SHARINGS`, with its other settings bound.

    Returns:
        The shared weights by name; what is left out stays as it is. Tied tensors are there once.

    Raises:
        ValueError: If a pattern fits no name, a mask fits no tensor, or a weight cannot be shared.

    Example:
        >>> import torch
        >>> shared = share({"w": torch.tensor([[1.0, 1.1], [4.0, 0.0]]), "b": torch.ones(2)}, bits=2)
        >>> list(shared), shared["w"].learned.shape
        (['w'], torch.Size([1, 3]))
    """
    tensors, _ = untied(state)
    check_masks(tensors, masks or {})
    shared = {}
    for name, count in bits_of(tensors, bits).items():
        shared[name] = told(name, sharing, masked(name, tensors, masks or {}), bits=count)
    return shared


def bits_of(tensors: Mapping[str, Tensor], bits: Bits, /) -> dict[str, int]:
    """Return the bits of each tensor that is to share values.

    Args:
        tensors: By name.
        bits: One number, or numbers by pattern, or none.

    Returns:
        Bits by name; those of zero elements are left out.

    Raises:
        ValueError: If a pattern fits no name.

    Example:
        >>> import torch
        >>> bits_of({"a.weight": torch.ones(2, 2), "a.bias": torch.ones(2)}, {"*.weight": 4, "*": 6})
        {'a.weight': 4, 'a.bias': 6}
    """
    if bits is None:
        return {}
    if isinstance(bits, int):
        return {n: bits for n, t in tensors.items() if t.dtype in FLOATS and t.ndim > 1 and t.numel()}
    can = {name for name, tensor in tensors.items() if tensor.dtype in FLOATS and tensor.numel()}
    return {name: count for name, count in fitting(bits, tensors).items() if name in can}

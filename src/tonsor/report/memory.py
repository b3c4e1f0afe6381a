"""What a model holds in memory: its weights, and what one forward pass adds to them."""

import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tonsor.modes import evaluating, rows
from tonsor.tensors import distinct


def weight_bytes(model: nn.Module, /) -> int:
    """Return the bytes of all parameters and buffers; tied ones count once.

    Args:
        model: The model.

    Example:
        >>> weight_bytes(nn.Linear(3, 2))
        32
    """
    return sum(tensor.nbytes for tensor in distinct([*model.parameters(), *model.buffers()]))


def activation_bytes(
    model: nn.Module, inputs: Tensor | tuple[Any, ...], /, *, batches: Sequence[int] = (1, 64)
) -> dict[str, int]:
    """Return how many bytes the tensors of a forward pass hold at most at one time.

    Counted is every tensor that one of torch's operations returns, from then until nobody holds it. Not
    counted are the weights and the inputs, which are there before, and room that an operation takes and gives
    back inside itself. The model runs in evaluation mode, without gradients, and is left as it was.

    Args:
        model: The model.
        inputs: One tensor or a tuple of positional arguments, each with the batch first.
        batches: Batch sizes, each at least 1; the inputs' rows are repeated or cut to fit.

    Returns:
        The bytes by batch size (as text).

    Example:
        >>> model = nn.Sequential(nn.Linear(3, 100), nn.ReLU(), nn.Linear(100, 2))
        >>> activation_bytes(model, torch.ones(1, 3), batches=(1, 4))     # what goes into and out of the ReLU
        {'1': 800, '4': 3200}
    """
    found = {}
    with evaluating(model):
        for batch in batches:
            sample = rows(inputs, batch)
            model(*sample)  # what is made once and kept is made now
            with _Held() as held:
                model(*sample)
            found[str(batch)] = held.most
    return found


class _Held(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follow the memory of the tensors that operations return until it is given back."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.most = 0
        self._known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operation and take down the memory it returns that was not there before."""
        there = {id(storage) for storage in _storages((args, kwargs))}
        out = func(*args, **(kwargs or {}))
        for storage in _storages(out):
            if id(storage) not in there and storage not in self._known:
                self._known.add(storage)
                self.now += storage.nbytes()
                weakref.finalize(storage, self._given_back, storage.nbytes())
        self.most = max(self.most, self.now)
        return out

    def _given_back(self, size: int) -> None:
        """Count memory that nobody holds any more."""
        self.now -= size


def _storages(values: Any) -> list[torch.UntypedStorage]:
    """Return the memory of every tensor in nested values; a sparse one's lies in tensors of its own."""
    strided = (x for x in tree_leaves(values) if isinstance(x, Tensor) and x.layout is torch.strided)
    return [x.untyped_storage() for x in strided]

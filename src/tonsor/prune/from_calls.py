"""Statistics that come from the operations a model runs."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from tonsor.prune.from_loss import wide

PRODUCTS = {"mm", "addmm", "bmm", "baddbmm", "mv", "addmv"}
CONVOLUTIONS = {"convolution", "_convolution"}
COPIES = {"clone", "_to_copy"}  # a copy of a weight, in another type say, stands for it


class Positions:
    r"""Gather how often each weight is used in one call of the model: multiply-accumulates a weight.

    Every matrix product and convolution of the forward is watched that is fed a weight or a view of one,
    wherever it is called from: functional layers and attention count, and a layer called twice counts twice.
    A weight used in parts has the mean over its elements. What is looked up, as in an embedding, is not
    multiplied and has 0.

    Args:
        model: The model; a hook before and one after its forward are hung on it.
        weights: Weights by name.

    Example:
        >>> model = nn.Conv1d(1, 2, 3)
        >>> gathered = Positions(model, {"weight": model.weight})
        >>> out = model(torch.zeros(1, 1, 10))
        >>> gathered.add(None); gathered.close()
        >>> gathered.result()                     # the kernel stands at eight places
        {'weight': tensor([[[8.]]])}
    """

    needs_loss = False

    def __init__(self, model: nn.Module, weights: Mapping[str, Tensor], /) -> None:
        self._weights = dict(weights)
        self._watch = _Watch(weights.values())
        self._batches = 0
        self._opened = ExitStack()
        self._hooks = [
            model.register_forward_pre_hook(self._begin, prepend=True),
            model.register_forward_hook(self._end, always_call=True),
        ]

    def add(self, loss: Tensor | None, /) -> None:
        """Count the batch that the hooks have seen."""
        self._batches += 1

    def result(self) -> dict[str, Tensor]:
        """Return the uses by weight, one number each, of as many dimensions as the weight."""
        uses = {
            name: self._watch.macs.get(weight.data_ptr(), 0) / max(1, weight.numel()) / self._batches
            for name, weight in self._weights.items()
        }
        return {
            name: torch.full([1] * weight.ndim, uses[name], dtype=wide(weight), device=weight.device)
            for name, weight in self._weights.items()
        }

    def close(self) -> None:
        """Take the hooks off the model."""
        for hook in self._hooks:
            hook.remove()

    def _begin(self, *_: Any) -> None:
        """Watch from here, every fused kernel opened so that its products are seen."""
        fast = torch.backends.mha.get_fastpath_enabled()
        self._opened.callback(torch.backends.mha.set_fastpath_enabled, fast)
        torch.backends.mha.set_fastpath_enabled(False)
        with warnings.catch_warnings(action="ignore"):  # torch tells of settings for devices not there
            self._opened.enter_context(torch.backends.mkldnn.flags(enabled=False))
            self._opened.enter_context(torch.backends.cudnn.flags(enabled=False))
        self._opened.enter_context(self._watch)

    def _end(self, *_: Any) -> None:
        """Watch no more."""
        with warnings.catch_warnings(action="ignore"):
            self._opened.close()
        self._watch.forget_copies()


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Count the multiply-accumulates of each weight, known by where its memory begins."""

    def __init__(self, weights: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.macs: dict[int, int] = {}
        self._ranges = {weight.data_ptr(): (_end_of(weight), weight.data_ptr()) for weight in weights}
        self._copies: list[Tensor] = []  # kept, so that nothing else comes to lie where they are

    def forget_copies(self) -> None:
        """Let go of the copies of weights that were made during one call."""
        for copy in self._copies:
            self._ranges.pop(copy.data_ptr(), None)
        self._copies.clear()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in PRODUCTS:
            first, second = args[-2:]
            self._note((first, second), first.numel() * (second.shape[-1] if second.ndim > 1 else 1))
        elif name in CONVOLUTIONS:
            x, weight, is_transposed = args[0], args[1], args[6]
            places = x if is_transposed else out
            self._note((weight,), places.numel() // max(1, places.shape[1]) * weight.numel())
        elif name in COPIES:
            self._keep(args[0], out)
        return out

    def _keep(self, tensor: Tensor, copy: Tensor) -> None:
        """Let the copy of a weight stand for it."""
        weight = self._weight_of(tensor)
        if weight is not None and copy.numel():
            self._ranges[copy.data_ptr()] = (_end_of(copy), weight)
            self._copies.append(copy)

    def _note(self, operands: Sequence[Tensor], macs: int) -> None:
        """Add the multiply-accumulates to the weights among the operands."""
        for operand in operands:
            weight = self._weight_of(operand)
            if weight is not None:
                self.macs[weight] = self.macs.get(weight, 0) + macs

    def _weight_of(self, tensor: Tensor) -> int | None:
        """Return where the weight begins that a tensor is, is a view of, or is a copy of."""
        place = tensor.data_ptr()
        found = [of for start, (end, of) in self._ranges.items() if start <= place < end]
        return found[0] if found else None


def _end_of(tensor: Tensor) -> int:
    """Return where the memory of a tensor ends."""
    return tensor.data_ptr() + tensor.numel() * tensor.element_size()

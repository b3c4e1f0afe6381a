"""Layers that use the zeros of their weight. They are for inference alone."""

import copy
import math
from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor, nn

from tonsor.pack.sparse_rows import Rows, rows_of
from tonsor.pack.sparse_unfold import convolved
from tonsor.pack.sparse_ways import WAYS, Way

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@final
class SparseLayer(nn.Module):
    """Stand for a pruned layer, and multiply in the way that its plan names for so many columns.

    `swap_sparse_` puts it in the layer's place, `densify_` takes it out again. Its `state_dict` is the dense
    layer's, key by key, and a dense one can be loaded: zeros are found anew, the plan stays. The weight is
    held by its nonzeros, and dense only if the plan says so for some number of columns.

    Args:
        layer: An `nn.Linear`, a convolution, or Hugging Face's `Conv1D`; it is left as it is.
        plan: A way by number of columns (rows of a linear layer's input; places of a convolution's output, of
            all samples): what lies between two numbers goes with the nearer, by their ratio.
        turned: Whether a linear layer's outputs may lie feature by feature in memory.

    Raises:
        ValueError: When called in training mode, with another precision than float32, off the CPU, or by an
            exporter.

    Example:
        >>> layer = SparseLayer(nn.Linear(3, 2).eval(), {1: "dense", 64: "kernel"})
        >>> [layer.way(columns) for columns in (1, 7, 9, 500)]
        ['dense', 'dense', 'kernel', 'kernel']
        >>> list(layer.state_dict())
        ['weight', 'bias']
    """

    def __init__(self, layer: Any, plan: Mapping[int, str], *, turned: bool = False) -> None:
        super().__init__()
        self.training = layer.training
        self.transposed = is_conv1d(layer)
        self.convolves = isinstance(layer, CONVOLUTIONS)
        self.turned = turned
        self.plan = dict(plan)
        self.register_parameter("bias", layer.bias)
        shell = copy.copy(layer)  # the layer's own settings; its weight and its bias are kept here
        shell._parameters = dict.fromkeys(layer._parameters)
        self._shell = (shell,)  # in a tuple, so that it is no submodule
        self._trained: bool = layer.weight.requires_grad
        self._take(layer.weight.detach())

    @property
    def weight(self) -> Tensor:
        """The dense weight, made anew each time."""
        weight = self.rows.dense().view(self.shape)
        return weight.t().contiguous() if self.transposed else weight

    @property
    def density(self) -> float:
        """The fraction of the weight that is not zero."""
        return self.rows.values.numel() / max(1, self.shape.numel())

    @property
    def bytes(self) -> int:
        """What the weight takes in memory, in all the forms that the plan needs."""
        dense = self.shape.numel() * sum({"dense": 4, "int8": 1}.get(name, 0) for name in self.ways)
        wide = 4 * self.rows.values.numel() if "csr" in self.ways and self.rows.index.itemsize < 4 else 0
        return self.rows.bytes + dense + wide

    def way(self, columns: int, /) -> str:
        """Return the way for so many columns."""
        found = self._nearest.get(columns)
        if found is None:
            near = min(self.plan, key=lambda known: abs(math.log(known / max(1, columns))))
            found = self._nearest[columns] = self.plan[near]
        return found

    def forward(self, x: Tensor) -> Tensor:
        """Return what the layer returns, without a gradient."""
        if self.training or type(x) is not Tensor or x.dtype is not torch.float32 or not x.is_cpu:
            self._refuse(x)
        inner = convolved if self.convolves else _multiplied
        if not torch.is_grad_enabled():
            return inner(self, x)
        with torch.no_grad():
            out = inner(self, x)
        return _NoGradient.apply(x, out) if x.requires_grad else out  # type: ignore[no-untyped-call]

    def dense_layer(self) -> Any:
        """Return the layer as it was before it was swapped, with its weight and bias of now."""
        layer = copy.copy(self._shell[0])
        layer._parameters = dict(layer._parameters)
        layer.weight = nn.Parameter(self.weight, requires_grad=self._trained)
        layer.bias = self.bias
        layer.training = self.training
        return layer

    def extra_repr(self) -> str:
        """Return what the layer was, its density and its plan."""
        return f"{self._shell[0]}, density={self.density:.3g}, plan={self.plan}"

    def _take(self, weight: Tensor) -> None:
        """Keep a weight in all the forms that the plan needs."""
        upright = weight.t() if self.transposed else weight
        self.shape = upright.shape
        groups = getattr(self._shell[0], "groups", 1)
        self.rows: Rows = rows_of(upright.flatten(1), groups=groups)
        self.ways: dict[str, Way] = {name: WAYS[name](self.rows) for name in set(self.plan.values())}
        self._nearest = dict(self.plan)

    def _refuse(self, x: Tensor) -> None:
        """Say why the layer cannot be called so, if it cannot."""
        if self.training:
            raise ValueError(
                "pack: a layer that uses its zeros is for inference alone; call model.eval(), or "
                "tonsor.pack.densify_(model) to train"
            )
        if x.dtype is not torch.float32 or not x.is_cpu:
            raise ValueError(
                f"pack: a layer that uses its zeros takes float32 on the CPU; got {x.dtype} on {x.device}: "
                "call tonsor.pack.densify_(model) first, and turn autocast off"
            )
        if torch.compiler.is_compiling():
            raise ValueError(
                "pack: a layer that uses its zeros cannot be exported; call tonsor.pack.densify_(model) first"
            )

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        """Write the dense layer's keys."""
        destination[f"{prefix}weight"] = self.weight
        bias = self._parameters["bias"]
        if bias is not None:
            destination[f"{prefix}bias"] = bias if keep_vars else bias.detach()

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Read the dense layer's keys; what does not fit is told by torch."""
        weight = state.get(f"{prefix}weight")
        own = self.weight.shape
        if isinstance(weight, Tensor) and weight.shape == own:
            self._take(weight.detach().to("cpu", torch.float32))
        held: Any = (
            nn.Module()
        )  # it has the dense layer's keys, so that torch's messages are the dense layer's
        held.weight = nn.Parameter(torch.empty(own))
        held.bias = self.bias
        held._load_from_state_dict(state, prefix, *rest)
        self._parameters["bias"] = held.bias


def _multiplied(layer: Any, x: Tensor) -> Tensor:
    """Return the product of a linear layer."""
    flat = x if x.ndim == 2 else x.reshape(-1, x.shape[-1])
    if flat.shape[1] != layer.rows.features:
        raise ValueError(
            f"pack: this layer takes {layer.rows.features} features; got inputs of shape {tuple(x.shape)}"
        )
    way = layer.ways[layer.way(flat.shape[0])]
    out: Tensor = way(flat, layer._parameters["bias"], turned=layer.turned)
    if x.ndim == 2:
        return out
    return torch.unflatten(out, 0, x.shape[:-1]) if x.ndim > 1 else out[0]


class _NoGradient(torch.autograd.Function):
    """Let outputs through, and refuse to go back through them."""

    @staticmethod
    def forward(context: Any, x: Tensor, out: Tensor) -> Tensor:
        """Return the outputs."""
        return out.view_as(out)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Any:
        """Say what to do instead."""
        raise ValueError(
            "pack: a layer that uses its zeros has no gradient; call tonsor.pack.densify_(model) to train"
        )


def is_conv1d(layer: nn.Module, /) -> bool:
    """Say whether a module is Hugging Face's `Conv1D`, a linear layer that stores (in, out)."""
    return type(layer).__name__ == "Conv1D" and hasattr(layer, "nf")

"""The statistic that needs no data: how much flows through each weight."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn


class SynapticFlow:
    r"""Gather the derivative of the flow by the size of each weight: :math:`\partial R / \partial |w|`.

    The flow :math:`R` is the sum of what the model gives in float64 when every parameter is replaced by its
    absolute value, biases and running means by zero, and the input by a single sample of ones. Of the
    batches only the form of the first is looked at; inputs that are whole numbers (tokens) are kept, as ones
    would say nothing. Defined for nets that pass positive values on: linear layers, convolutions, ReLU,
    pooling, batch normalisation; not for layer normalisation, which subtracts.

    Args:
        model: The model; a hook is hung on it.
        weights: Weights by name.

    Raises:
        ValueError: In the end, if no flow arrives, or a larger weight lets less through.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 1, bias=False), nn.ReLU(), nn.Linear(1, 1, bias=False))
        >>> model[0].weight.data = torch.tensor([[1.0, -2.0]])
        >>> model[2].weight.data = torch.tensor([[-3.0]])
        >>> gathered = SynapticFlow(model, dict(model.named_parameters()))
        >>> out = model(torch.zeros(5, 2))
        >>> gathered.close()
        >>> gathered.result()
        {'0.weight': tensor([[3., 3.]], dtype=torch.float64), '2.weight': tensor([[3.]], dtype=torch.float64)}

    References:
        Tanaka et al., 2020, "Pruning neural networks without any data by iteratively conserving synaptic
        flow", https://arxiv.org/abs/2006.05467
    """

    needs_loss = False

    def __init__(self, model: nn.Module, weights: Mapping[str, Tensor], /) -> None:
        self._model = model
        self._names = {id(weight): name for name, weight in model.named_parameters()}
        self._weights = dict(weights)
        self._inputs: tuple[tuple[Any, ...], dict[str, Any]] | None = None
        self._hook = model.register_forward_pre_hook(self._see, with_kwargs=True)

    def add(self, loss: Tensor | None, /) -> None:
        """Do nothing: the hook has seen the form of the batch."""

    def result(self) -> dict[str, Tensor]:
        """Return the derivative by weight, in float64, shaped like the weight."""
        args, named = self._inputs or ((), {})
        state = _positive(self._model)
        leaves = [state[self._names[id(weight)]].requires_grad_() for weight in self._weights.values()]
        with torch.enable_grad():
            output = torch.func.functional_call(self._model, state, args, named, tie_weights=True)
            flow = torch.stack([tensor.double().sum() for tensor in _floating(output)]).sum()
            found = torch.autograd.grad(flow, leaves, allow_unused=True, materialize_grads=True)
        if not flow > 0 or any(gradient.lt(0).any() for gradient in found):
            raise ValueError(
                "prune.collect: 'synaptic_flow' is not defined for this model: fed with ones, the net of"
                " absolute weights must give something, and no less where a weight is larger (a layer of"
                " zeros lets nothing through, a layer normalisation subtracts); take another importance"
            )
        return dict(zip(self._weights, found, strict=True))

    def close(self) -> None:
        """Take the hook off the model."""
        self._hook.remove()

    def _see(self, model: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        """Note a sample of ones in the form of the first batch."""
        if self._inputs is None:
            self._inputs = _ones(inputs), _ones(named)


@torch.no_grad()
def _positive(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers in float64: sizes, and zero for what only adds."""
    state: dict[str, Tensor] = {}
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        last = name.rpartition(".")[2]
        if not tensor.is_floating_point():
            state[name] = tensor
        elif "bias" in last or last == "running_mean":
            state[name] = torch.zeros_like(tensor, dtype=torch.float64)
        else:
            state[name] = tensor.detach().double().abs()
    return state


def _ones(value: Any) -> Any:
    """Return a value with every tensor of numbers cut to one sample of ones in float64."""
    if isinstance(value, Tensor):
        first = value[:1] if value.ndim else value
        return torch.ones_like(first, dtype=torch.float64) if value.is_floating_point() else first.clone()
    if isinstance(value, Mapping):
        return {key: _ones(inner) for key, inner in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)([_ones(inner) for inner in value])
    return value


def _floating(output: Any) -> Iterator[Tensor]:
    """Yield the tensors of numbers in what a model gives."""
    if isinstance(output, Tensor):
        if output.is_floating_point():
            yield output
    elif isinstance(output, Mapping):
        for inner in output.values():
            yield from _floating(inner)
    elif isinstance(output, (tuple, list)):
        for inner in output:
            yield from _floating(inner)

"""Statistics: what an importance asks for beside the weight, gathered in one pass over batches."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tonsor.prune.from_gram import InputGram
from tonsor.prune.from_inputs import InputNorm
from tonsor.prune.from_loss import Gradient
from tonsor.prune.protocol import Collector, Importance
from tonsor.prune.unchanged import unchanged
from tonsor.spelling import unknown

STATISTICS: dict[str, Callable[[nn.Module, Mapping[str, Tensor]], Collector]] = {
    "gradient": Gradient,
    "input_norm": InputNorm,
    "input_gram": InputGram,
    "input_mean": partial(InputGram, what="mean"),
}
NAME = "name"  # the statistic that is always there: the weight's own name


def arguments(importance: Importance, /) -> tuple[str, ...]:
    """Return the names of the statistics that an importance is called with, in order.

    They are its positional parameters without a default, after the first. A `functools.partial` is seen
    through.

    Args:
        importance: The function, or an object that is called like one.

    Example:
        >>> from tonsor.prune import random, taylor
        >>> arguments(taylor), arguments(random)
        (('gradient',), ('name',))
    """
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [
        parameter.name
        for parameter in inspect.signature(importance).parameters.values()
        if parameter.kind in positional and parameter.default is inspect.Parameter.empty
    ]
    return tuple(names[1:])


def needs(importance: Importance, /) -> tuple[str, ...]:
    """Return the names of the statistics that have to be collected for an importance.

    Args:
        importance: The function, or an object that is called like one; `functools.partial` is seen through.

    Returns:
        The names, to be handed to `collect`; empty where the weight is enough.

    Example:
        >>> from tonsor.prune import magnitude, taylor
        >>> needs(taylor), needs(magnitude)
        (('gradient',), ())
    """
    return tuple(name for name in arguments(importance) if name != NAME)


def collect(
    model: nn.Module,
    batches: Iterable[tuple[Any, Any]],
    /,
    *,
    names: Iterable[str],
    weights: Iterable[str] | None = None,
    loss: Callable[[Any, Any], Tensor] | None = None,
) -> dict[str, dict[str, Tensor]]:
    """Gather statistics of the weights in one pass over the batches.

    The model runs in eval mode. Afterwards, and after an error, its training flags, buffers and
    gradients are as before, and so is torch's random state.

    Args:
        model: The model.
        batches: Pairs of inputs and targets on the model's device; inputs are a tensor, a tuple of
            arguments or a mapping of keyword arguments. A few hundred samples are usual.
        names: Names of the statistics, as `needs` gives them.
        weights: Names of the parameters (the mapping that `find_masks` gets will do); without it every
            parameter of two or more dimensions.
        loss: Called with output and targets, gives a scalar; needed for statistics of the loss.

    Returns:
        By parameter name, then by statistic, a tensor that broadcasts to the parameter.

    Raises:
        ValueError: If a name is not known, the loss is missing, there is no batch, or a statistic cannot
            be had for one of the weights.

    Example:
        >>> model = nn.Linear(2, 1)
        >>> collect(model, [(torch.tensor([[3.0, 4.0]]), None)], names=["input_norm"])
        {'weight': {'input_norm': tensor([[3., 4.]])}}
    """
    wanted = list(dict.fromkeys(names))
    _check_known(wanted)
    chosen = _chosen(model, weights)
    if not wanted:
        return {weight: {} for weight in chosen}
    with unchanged(model), ExitStack() as stack:
        collectors: dict[str, Collector] = {}
        for name in wanted:
            collectors[name] = STATISTICS[name](model, chosen)
            stack.callback(collectors[name].close)
        _check_loss(collectors, loss)
        if loss and any(isinstance(module, nn.RNNBase) for module in model.modules()):
            # cuDNN refuses to go backward through a recurrent layer in eval mode.
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        _run(model, chosen, batches, loss, list(collectors.values()))
        found = {name: collector.result() for name, collector in collectors.items()}
    return {weight: {name: found[name][weight] for name in wanted} for weight in chosen}


def _check_known(names: Sequence[str]) -> None:
    """Refuse statistics that are not known."""
    for name in names:
        if name not in STATISTICS:
            raise ValueError(f"prune.collect: {unknown('statistic', name, STATISTICS)}")


def _check_loss(collectors: Mapping[str, Collector], loss: Callable[[Any, Any], Tensor] | None) -> None:
    """Refuse a missing loss."""
    for name, collector in collectors.items():
        if collector.needs_loss and loss is None:
            raise ValueError(f"prune.collect: '{name}' needs a loss; give loss=(output, targets) -> scalar")


def _chosen(model: nn.Module, weights: Iterable[str] | None) -> dict[str, Tensor]:
    """Return the parameters that were named, or all of two or more dimensions."""
    known = dict(model.named_parameters(remove_duplicate=False))
    if weights is None:
        return {name: known[name] for name, weight in model.named_parameters() if weight.ndim > 1}
    chosen = list(weights)
    for name in chosen:
        if name not in known:
            raise ValueError(f"prune.collect: {unknown('parameter', name, known)}")
    return {name: known[name] for name in chosen}


def _run(
    model: nn.Module,
    chosen: Mapping[str, Tensor],
    batches: Iterable[tuple[Any, Any]],
    loss: Callable[[Any, Any], Tensor] | None,
    collectors: Sequence[Collector],
) -> None:
    """Run the model over the batches, with a graph only where a loss is needed."""
    needs_loss = any(collector.needs_loss for collector in collectors)
    for weight in chosen.values() if needs_loss else ():
        weight.requires_grad_()
    count = 0
    with torch.set_grad_enabled(needs_loss):
        for inputs, targets in batches:
            output = _call(model, inputs)
            value = loss(output, targets) if needs_loss and loss else None
            if value is not None and value.numel() != 1:
                raise ValueError(
                    f"prune.collect: the loss must be one number; got shape {tuple(value.shape)};"
                    " take its mean"
                )
            for collector in collectors:
                collector.add(value)
            count += 1
    if not count:
        raise ValueError("prune.collect: there was no batch; give at least one (an iterator runs once)")


def _call(model: nn.Module, inputs: Any) -> Any:
    """Call the model with a tensor, a tuple of arguments or a mapping of keyword arguments."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)

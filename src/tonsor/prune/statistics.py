"""Statistics: what an importance asks for beside the weight, gathered in one pass over batches."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tonsor.modes import call
from tonsor.prune.from_calls import Positions
from tonsor.prune.from_curvature import HessianGradient, InverseFisher
from tonsor.prune.from_flow import SynapticFlow
from tonsor.prune.from_gram import InputGram
from tonsor.prune.from_inputs import InputNorm
from tonsor.prune.from_loss import Gradient, fisher, squared_gradient, weight_gradient
from tonsor.prune.from_norms import NormScale
from tonsor.prune.from_outputs import activation_mean, activation_rank, activation_variance, activation_zeros
from tonsor.prune.protocol import Collector, Importance
from tonsor.prune.samples import samples
from tonsor.prune.unchanged import unchanged
from tonsor.spelling import unknown

STATISTICS: dict[str, Callable[..., Collector]] = {
    "gradient": Gradient,
    "squared_gradient": squared_gradient,
    "weight_gradient": weight_gradient,
    "fisher": fisher,
    "inverse_fisher": InverseFisher,
    "hessian_gradient": HessianGradient,
    "synaptic_flow": SynapticFlow,
    "input_norm": InputNorm,
    "activation_mean": activation_mean,
    "activation_zeros": activation_zeros,
    "activation_variance": activation_variance,
    "activation_rank": activation_rank,
    "norm_scale": NormScale,
    "positions": Positions,
    "input_gram": InputGram,
    "input_mean": partial(InputGram, what="mean"),
}
SAMPLEWISE = frozenset({"fisher", "inverse_fisher"})  # statistics that see one sample at a time
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
    settings: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, dict[str, Tensor]]:
    """Gather statistics of the weights in one pass over the batches.

    The model runs in eval mode. Afterwards, and after an error, its training flags, buffers and
    gradients are as before, and so is torch's random state. Statistics of single samples (`fisher`,
    `inverse_fisher`) take a pass of their own, sample by sample; asked for together with others, the batches
    are held in memory.

    Args:
        model: The model.
        batches: Pairs of inputs and targets on the model's device; inputs are a tensor, a tuple of
            arguments or a mapping of keyword arguments. A few hundred samples are usual.
        names: Names of the statistics, as `needs` gives them.
        weights: Names of the parameters (the mapping that `find_masks` gets will do); without it every
            parameter of two or more dimensions.
        loss: Called with output and targets, gives a scalar; needed for statistics of the loss.
        settings: What tunes a statistic, by its name, as `{"inverse_fisher": {"damping": 1e-3}}`.

    Returns:
        By parameter name, then by statistic, a tensor that broadcasts to the parameter, or the matrices that
        the statistic describes.

    Raises:
        ValueError: If a name or setting is not known, the loss is missing, there is no batch, or a statistic
            cannot be had for one of the weights.

    Example:
        >>> model = nn.Linear(2, 1)
        >>> collect(model, [(torch.tensor([[3.0, 4.0]]), None)], names=["input_norm"])
        {'weight': {'input_norm': tensor([[3., 4.]])}}
    """
    wanted = list(dict.fromkeys(names))
    tuning = settings or {}
    _check_known(wanted, tuning)
    chosen = _chosen(model, weights)
    found: dict[str, dict[str, Tensor]] = {}
    with unchanged(model):
        for group, source in _passes(wanted, batches):
            kinds = {name: partial(STATISTICS[name], **tuning.get(name, {})) for name in group}
            found |= _gather(model, chosen, source, kinds, loss)
    return {weight: {name: found[name][weight] for name in wanted} for weight in chosen}


def _passes(
    names: Sequence[str], batches: Iterable[tuple[Any, Any]]
) -> list[tuple[list[str], Iterable[tuple[Any, Any]]]]:
    """Return the statistics of each pass with what it runs over: batches, or their samples."""
    whole = [name for name in names if name not in SAMPLEWISE]
    single = [name for name in names if name in SAMPLEWISE]
    if whole and single:
        batches = list(batches)
    return [(group, source) for group, source in ((whole, batches), (single, samples(batches))) if group]


def _gather(
    model: nn.Module,
    chosen: Mapping[str, Tensor],
    batches: Iterable[tuple[Any, Any]],
    kinds: Mapping[str, Callable[..., Collector]],
    loss: Callable[[Any, Any], Tensor] | None,
) -> dict[str, dict[str, Tensor]]:
    """Return the statistics of one pass, by name and weight."""
    collectors: dict[str, Collector] = {}
    with ExitStack() as stack:
        for name, kind in kinds.items():
            collectors[name] = kind(model, chosen)
            stack.callback(collectors[name].close)
        _check_loss(collectors, loss)
        if loss and any(isinstance(module, nn.RNNBase) for module in model.modules()):
            # cuDNN refuses to go backward through a recurrent layer in eval mode.
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        _run(model, chosen, batches, loss, list(collectors.values()))
    # The hooks are off by now, so that a collector may run the model once more.
    return {name: collector.result() for name, collector in collectors.items()}


def _check_known(names: Sequence[str], settings: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse statistics that are not known, and settings that they do not have."""
    for name in names:
        if name not in STATISTICS:
            raise ValueError(f"prune.collect: {unknown('statistic', name, STATISTICS)}")
    for name, tuning in settings.items():
        if name not in names:
            raise ValueError(f"prune.collect: in settings: {unknown('statistic', name, names)}")
        known = inspect.signature(STATISTICS[name]).parameters.values()
        keys = [parameter.name for parameter in known if parameter.kind is parameter.KEYWORD_ONLY]
        for key in tuning:
            if key not in keys:
                raise ValueError(f"prune.collect: in settings of '{name}': {unknown('key', key, keys)}")


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
            output = call(model, inputs)
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

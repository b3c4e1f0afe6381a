"""Bring a freshly built model to the sizes of a shrunk one."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from tonsor.shrink.attributes import check_attributes
from tonsor.shrink.cut import cut_
from tonsor.shrink.find import channel_groups
from tonsor.shrink.freedom import Freedom
from tonsor.shrink.survey import BIASED
from tonsor.shrink.trace import first_names, named_tensors
from tonsor.shrink.trial import Trial, gone_from, graph_of
from tonsor.spelling import unknown


@dataclass(frozen=True)
class Sizes:
    """Hold a plan that was checked against a model.

    Args:
        slices: The indices that stay, by the first name of a parameter or buffer and by dimension.
        biases: Modules that get a bias.
        attributes: By module the numbers that are corrected.
        rewritten: The model's own code cannot run at these sizes; its rewritten graph does.
        freedom: What the search for the groups was free to offer.

    Example:
        >>> Sizes({"weight": {0: torch.tensor([0, 2])}}, ()).shape_of("weight", (3, 4))
        (2, 4)
    """

    slices: dict[str, dict[int, Tensor]]
    biases: tuple[str, ...]
    attributes: dict[str, dict[str, Any]] = field(default_factory=dict)
    rewritten: bool = False
    freedom: Freedom = field(default_factory=Freedom)

    def shape_of(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape that a tensor will have."""
        kept = self.slices.get(name, {})
        return tuple(len(kept[dim]) if dim in kept else size for dim, size in enumerate(shape))


def resize_(
    model: nn.Module,
    plan: Mapping[str, Any],
    example_args: Tensor | tuple[Any, ...] | None = None,
    example_kwargs: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Slice a freshly built model to the sizes that a shrunk one has, in place.

    Its weights are sliced as the others were, but they need not be those: load the shrunk model's
    weights afterwards.

    Args:
        model: Built as the model was before it was shrunk.
        plan: The plan of `Shrunk`, also after a way through JSON.
        example_args: The arguments of one call, as `channel_groups` had them. Needed only where the
            shrunk model's forward runs its rewritten graph, which is then found again.
        example_kwargs: Arguments by name.

    Returns:
        The model.

    Raises:
        ValueError: If the plan is not one, or is another model's, or if it needs an example. The model is
            then untouched.

    Example:
        >>> model = nn.Linear(4, 3)
        >>> resize_(model, {"slices": {"weight": {"1": [0, 3]}}, "biases": []})
        Linear(in_features=2, out_features=3, bias=True)
    """
    sizes = check_plan(model, plan, "shrink.resize_")
    return apply_(model, sizes, graph_for(model, sizes, example_args, example_kwargs, "shrink.resize_"))


def apply_(model: nn.Module, sizes: Sizes, trial: Trial) -> nn.Module:
    """Slice the model, in place, as was checked before.

    Example:
        >>> apply_(nn.Linear(4, 3), Sizes({}, ()), Trial(0.0))
        Linear(in_features=4, out_features=3, bias=True)
    """
    with torch.no_grad():
        cut_(model, sizes.slices, dict.fromkeys(sizes.biases))
    trial.finish_(model)
    return model


def graph_for(
    model: nn.Module,
    sizes: Sizes,
    example_args: Tensor | tuple[Any, ...] | None,
    example_kwargs: Mapping[str, Any] | None,
    where: str,
) -> Trial:
    """Return what the model needs beyond slicing: corrected numbers, or its graph at the new sizes.

    Raises:
        ValueError: If the graph is needed and no example was given.

    Example:
        >>> graph_for(nn.Linear(4, 3), Sizes({}, ()), None, None, "shrink.load").graph is None
        True
    """
    if not sizes.rewritten:
        return Trial(0.0, sizes.attributes)
    if example_args is None:
        raise ValueError(
            f"{where}: the shrunk model's own code could not run at its sizes, its rewritten graph did; "
            "give the example that channel_groups had, so that the graph is found again"
        )
    groups = channel_groups(model, example_args, example_kwargs, **sizes.freedom.as_json())
    return graph_of(model, groups, gone_from(groups, sizes.slices))


def check_plan(model: nn.Module, plan: Any, where: str) -> Sizes:
    """Check a plan against a model before anything is touched.

    Args:
        model: It is only looked at.
        plan: Whatever came out of a file.
        where: What the messages begin with.

    Raises:
        ValueError: If it is no plan, or names or indices do not fit the model.

    Example:
        >>> check_plan(nn.Linear(1, 1), {"slices": {}, "biases": ["conv"]}, "a.json")
        Traceback (most recent call last):
        ValueError: a.json: biases: unknown module 'conv'. Known: the model itself
    """
    flags = ("rewritten", "width", "head_dim")
    needed, known = {"slices", "biases"}, {"slices", "biases", "attributes", *flags}
    if not isinstance(plan, Mapping) or not needed <= set(plan) <= known:
        raise ValueError(f'{where}: the plan must be {{"slices": ..., "biases": ...}}; got {_short(plan)}')
    tensors = named_tensors(model)
    first = first_names(tensors)
    slices: dict[str, dict[int, Tensor]] = {}
    for name, kept in _mapping(plan["slices"], f"{where}: slices").items():
        if name not in tensors:
            raise ValueError(f"{where}: slices: {unknown('parameter', name, tensors)}")
        if first[name] in slices:
            raise ValueError(f"{where}: slices: '{name}' is named twice, it is tied to '{first[name]}'")
        slices[first[name]] = _kept(kept, tuple(tensors[name].shape), f"{where}: slices: '{name}'")
    said = {flag: plan.get(flag, False) for flag in flags}
    for flag, value in said.items():
        if not isinstance(value, bool):
            raise ValueError(f"{where}: {flag}: must be true or false; got {_short(value)}")
    attributes = check_attributes(model, plan.get("attributes", {}), f"{where}: attributes")
    biases = _biases(model, plan["biases"], f"{where}: biases")
    freedom = Freedom(width=said["width"], head_dim=said["head_dim"])
    return Sizes(slices, biases, attributes, said["rewritten"], freedom)


def _kept(given: Any, shape: tuple[int, ...], where: str) -> dict[int, Tensor]:
    """Return the indices that stay along each dimension, checked."""
    kept = {}
    for key, indices in _mapping(given, where).items():
        dims = {str(dim): dim for dim in range(len(shape))}
        if key not in dims:
            raise ValueError(f"{where}: it has {len(shape)} dimensions; got dimension {key!r}")
        size = shape[dims[key]]
        sound = isinstance(indices, list) and 0 < len(indices) <= size
        sound = sound and all(type(i) is int and 0 <= i < size for i in indices)
        if not sound or any(a >= b for a, b in pairwise(indices)):
            raise ValueError(
                f"{where}: dimension {key} must list from 1 to {size} rising indices below {size}; "
                f"got {_short(indices)}"
            )
        kept[dims[key]] = torch.tensor(indices)
    return kept


def _biases(model: nn.Module, given: Any, where: str) -> tuple[str, ...]:
    """Return the modules that get a bias, checked."""
    if not isinstance(given, list) or not all(isinstance(name, str) for name in given):
        raise ValueError(f"{where}: must be a list of module names; got {_short(given)}")
    modules = dict(model.named_modules())
    for name in given:
        if name not in modules:
            raise ValueError(f"{where}: {_unknown_module(name, modules)}")
        module = modules[name]
        if not isinstance(module, BIASED) or module.bias is not None or given.count(name) > 1:
            raise ValueError(f"{where}: '{name}' is a {type(module).__name__} that needs no bias")
    return tuple(given)


def _unknown_module(name: str, modules: Mapping[str, nn.Module]) -> str:
    """Return the sentence for a module that is not there."""
    return unknown("module", name, (known or "the model itself" for known in modules))


def _mapping(given: Any, where: str) -> Mapping[str, Any]:
    """Return what was given if it is a mapping with text as keys."""
    if not isinstance(given, Mapping) or not all(isinstance(key, str) for key in given):
        raise ValueError(f"{where}: must be an object with names as keys; got {_short(given)}")
    return given


def _short(given: Any) -> str:
    """Return the beginning of what was given."""
    text = repr(given)
    return text if len(text) <= 60 else f"{text[:60]}..."

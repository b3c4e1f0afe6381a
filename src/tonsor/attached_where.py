"""What an optimizer holds: its parameters, their names, the masks that fit them, the rule's own words."""

import inspect
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim import Optimizer

from tonsor.spelling import unknown
from tonsor.tensors import gradients


def inner_of(optimizer: Any) -> Optimizer:
    """Return the optimizer inside its wrappers, whose step is the one that counts and has working hooks.

    Accelerate and Lightning wrap the user's optimizer and keep it as `.optimizer`.
    """
    while isinstance(getattr(optimizer, "optimizer", None), Optimizer):
        optimizer = optimizer.optimizer
    if not hasattr(optimizer, "register_step_pre_hook"):
        raise ValueError(f"attach: got {type(optimizer).__name__}, expected a torch.optim.Optimizer")
    return cast(Optimizer, optimizer)


def parameters_of(optimizer: Optimizer) -> list[Tensor]:
    """Return all parameters of the optimizer, group by group."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def names_of(optimizer: Optimizer, model: torch.nn.Module | None) -> dict[str, Tensor]:
    """Return the parameters by name: the model's names, or those the optimizer was given."""
    if model is not None:
        return dict(model.named_parameters(remove_duplicate=False))
    groups = optimizer.param_groups
    return {n: p for g in groups for n, p in zip(g.get("param_names", ()), g["params"], strict=False)}


def gradients_by_name(optimizer: Optimizer, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the gradients by the names of their parameters; one without a name has its number and shape."""
    names = {id(parameter): name for name, parameter in reversed(list(named.items()))}
    found: dict[str, Tensor] = {}
    for i, parameter in enumerate(parameters_of(optimizer)):
        if parameter.grad is not None:
            found[names.get(id(parameter), f"#{i} {tuple(parameter.shape)}")] = parameter.grad
    return found


def masked_by(
    optimizer: Optimizer, model: torch.nn.Module | None, masks: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the parameter of each mask, after checking that they fit."""
    named = names_of(optimizer, model)
    for name, mask in masks.items():
        if name not in named:
            hint = "" if named else " (give model=..., or build the optimizer from named_parameters())"
            raise ValueError(f"attach: masks: {unknown('parameter', name, named)}{hint}")
        if mask.shape != named[name].shape:
            shapes = f"got {tuple(mask.shape)}, expected {tuple(named[name].shape)}"
            raise ValueError(f"attach: masks['{name}']: {shapes}")
    return {name: named[name] for name in masks}


def weights_of(moving: Any, optimizer: Optimizer, model: torch.nn.Module | None) -> dict[str, Tensor]:
    """Return the weights of an object that moves masks: its own, or those its masks name."""
    own = getattr(moving, "parameters", None)
    weights = dict(own) if isinstance(own, Mapping) else masked_by(optimizer, model, moving.masks)
    held = {id(parameter) for parameter in parameters_of(optimizer)}
    for name, weight in weights.items():
        if id(weight) not in held and weight.requires_grad:
            raise ValueError(
                f"attach: masks: the optimizer does not hold '{name}'; make both with one model's weights"
            )
    return weights


def fixed_bound_of(clip: Any) -> float | None:
    """Return the bound that a function puts on all gradients together: `global_norm`, torch's own."""
    function = clip
    while isinstance(function, partial):
        function = function.func
    is_known = hasattr(function, "factor") or getattr(function, "__name__", "") == "clip_grad_norm_"
    if not (inspect.isfunction(function) and is_known):
        return None
    bound = inspect.signature(clip).parameters.get("max_norm")
    return bound.default if bound is not None and isinstance(bound.default, int | float) else None


def bound_of(clip: Any, fixed: float | None, norm: Tensor) -> Tensor | None:
    """Return the bound on the joint norm in this step: what the rule tells, or the fixed one."""
    told = getattr(clip, "threshold", fixed)
    if isinstance(told, Tensor):
        return told.reshape(()) if told.numel() == 1 else None
    return None if told is None else torch.full_like(norm, told)


def diagnosis(norm: Tensor, parameters: Sequence[Tensor], named: Mapping[str, Tensor]) -> str:
    """Return the sentence that says which gradients are not finite."""
    names = {id(parameter): f"{name} " for name, parameter in named.items()}
    bad = [
        i for i, p in enumerate(parameters) if p.grad is not None and not gradients([p])[0].isfinite().all()
    ]
    told = [f"{names.get(id(parameters[i]), f'#{i} ')}{tuple(parameters[i].shape)}" for i in bad[:5]]
    where = ", ".join(told) or "their sum overflows"
    return (
        f"attach: the gradient norm is {norm.item()}; not finite: parameters {where} ({len(bad)} of "
        f"{len(parameters)}). Lower the learning rate, or pass on_nonfinite='skip' or 'zero'"
    )

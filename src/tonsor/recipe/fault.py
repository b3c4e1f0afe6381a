"""Say where a number that is not finite came from."""

from typing import Any

import torch
from torch import Tensor, nn

from tonsor.modes import call


class NonFiniteError(FloatingPointError):
    """Tell that a loss or a gradient is not finite: the step, the layer, and what is kept.

    Example:
        >>> str(NonFiniteError("train, step 3: the loss is nan"))
        'train, step 3: the loss is nan'
    """


def first_bad_layer(model: nn.Module, inputs: Any) -> str:
    """Return a sentence that names where the first number that is not finite appears.

    Args:
        model: The model, run once more.
        inputs: The batch it failed on.

    Returns:
        A weight that is not finite already, or else the first layer whose output is not.

    Example:
        >>> model = nn.Sequential(nn.Linear(1, 1), nn.ReLU())
        >>> _ = nn.init.constant_(model[0].bias, float("inf"))
        >>> first_bad_layer(model, torch.ones(1, 1))
        "weight '0.bias' is not finite"
    """
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            return f"weight '{name}' is not finite"
    layer = _first_bad_output(model, inputs)
    if layer is not None:
        return layer
    return "every layer's output is finite; the loss, or what the model does between its layers, is not"


def _first_bad_output(model: nn.Module, inputs: Any) -> str | None:
    """Run the model once more and return which layer's output is the first that is not finite."""
    found: list[str] = []

    def look(name: str) -> Any:
        def hook(module: nn.Module, _: Any, output: Any) -> None:
            if isinstance(output, Tensor) and not output.isfinite().all():
                found.append(f"the output of layer '{name}' ({type(module).__name__}) is not finite")

        return hook

    leaves = [(name, module) for name, module in model.named_modules() if not any(module.children())]
    hooks = [module.register_forward_hook(look(name)) for name, module in leaves]
    try:
        with torch.no_grad():
            call(model, inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else None


def first_bad_gradient(model: nn.Module) -> str:
    """Return a sentence that names the first weight whose gradient is not finite.

    Example:
        >>> model = nn.Linear(1, 1)
        >>> model.weight.grad, model.bias.grad = torch.ones(1, 1), torch.tensor([float("nan")])
        >>> first_bad_gradient(model)
        "the gradient of 'bias' is not finite"
    """
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and not parameter.grad.isfinite().all():
            return f"the gradient of '{name}' is not finite"
    return "every gradient is finite, their norm overflows"

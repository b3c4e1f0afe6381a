"""Draw the weights of a model anew, as its modules do when they are built."""

from collections.abc import Callable

import torch
from torch import nn


def refresh_(model: nn.Module, *, seed: int) -> None:
    """Draw all weights of a model anew, in place; torch's random state is left as it was.

    Every module draws its own by `reset_parameters`, the inner ones first, as when the model was built.

    Args:
        model: The model.
        seed: Another seed is another draw.

    Raises:
        ValueError: If a module has weights of its own and no `reset_parameters`; nothing has been changed.

    Example:
        >>> one, other = nn.Linear(2, 2), nn.Linear(2, 2)
        >>> refresh_(one, seed=1); refresh_(other, seed=1)
        >>> bool((one.weight == other.weight).all())
        True
    """
    resets: list[Callable[[], None]] = []
    for path, module in model.named_modules():
        reset = getattr(module, "reset_parameters", getattr(module, "_reset_parameters", None))
        if reset is not None:
            resets.append(reset)
        elif names := [name for name, _ in module.named_parameters(recurse=False)]:
            raise ValueError(
                f"prune.Rewind: '{'.'.join(filter(None, (path, names[0])))}' cannot be drawn anew:"
                f" {type(module).__name__} has no method reset_parameters(); give it one"
            )
    devices = {tensor.device for tensor in model.parameters() if tensor.is_cuda}
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        for reset in reversed(resets):
            reset()

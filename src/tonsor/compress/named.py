"""Parameters by name, from a model or from a bare list."""

from collections.abc import Iterable

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tonsor.tensors import distinct


def trained_of(parameters: nn.Module | Iterable[Tensor], where: str, /) -> dict[str, Tensor]:
    """Return the distinct parameters that require a gradient, by name or by place.

    Args:
        parameters: A model, or its parameters.
        where: Who asks, for the error.

    Returns:
        Parameters by name; of a bare list by place, as "0".

    Raises:
        ValueError: If the model is wrapped in DDP, or there is none.

    Example:
        >>> list(trained_of(nn.Linear(1, 1), "here")), list(trained_of(nn.Linear(1, 1).parameters(), "here"))
        (['weight', 'bias'], ['0', '1'])
    """
    if isinstance(parameters, nn.Module):
        if any(isinstance(module, DistributedDataParallel) for module in parameters.modules()):
            raise ValueError(
                f"{where}: gradients in DDP are averaged later, in buckets of its own; pass the plain model"
            )
        named: dict[str, Tensor] = dict(parameters.named_parameters())
    else:
        named = {str(place): parameter for place, parameter in enumerate(distinct(parameters))}
    trained = {name: parameter for name, parameter in named.items() if parameter.requires_grad}
    if not trained:
        raise ValueError(
            f"{where}: no parameter requires a gradient; was the generator of parameters used up?"
        )
    return trained

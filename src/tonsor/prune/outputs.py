"""Where the output channels of a module lie: in its output, and along its weight."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

KINDS = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)  # modules whose weight has output channels
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def owners(
    model: nn.Module, names: Iterable[str], statistic: str, kinds: tuple[Any, ...], /
) -> dict[str, Any]:
    """Return the module of each weight, if it is of a kind that has the statistic.

    Args:
        model: The model.
        names: Names of weights.
        statistic: What is asked for, to say so.
        kinds: Classes of modules.

    Raises:
        ValueError: If a name is not that of the `weight` of such a module.

    Example:
        >>> owners(nn.Sequential(nn.Linear(2, 1)), ["0.weight"], "activation_mean", KINDS)
        {'0.weight': Linear(in_features=2, out_features=1, bias=True)}
    """
    found = {}
    for name in names:
        path, _, attribute = name.rpartition(".")
        owner = model.get_submodule(path)
        if attribute != "weight" or not isinstance(owner, kinds):
            known = ", ".join(kind.__name__ for kind in kinds)
            raise ValueError(
                f"prune.collect: '{statistic}' is not defined for '{name}' of {type(owner).__name__}, only"
                f" for the weight of {known}; leave it out or take another importance"
            )
        found[name] = owner
    return found


def channel_dim(owner: Any, output: Tensor, /) -> int:
    """Return the dimension of an output that its channels lie along.

    Args:
        owner: A module of `KINDS`.
        output: What it gave.

    Example:
        >>> import torch
        >>> channel_dim(nn.Conv1d(1, 2, 3), torch.zeros(5, 2, 7))     # samples, channels, positions
        1
    """
    places: int = owner.weight.ndim - 2  # dimensions behind the channels; none of a linear layer
    return output.ndim - 1 - places


def by_channel(owner: Any, output: Tensor, /) -> Tensor:
    """Return an output with its channels first and its positions flat.

    Args:
        owner: A module of `KINDS`.
        output: What it gave, of its own shape or passed on in that shape.

    Returns:
        Shape `(channels, positions)`, samples and places together.

    Example:
        >>> import torch
        >>> by_channel(nn.Linear(1, 3), torch.zeros(2, 5, 3)).shape   # samples, tokens, features
        torch.Size([3, 10])
    """
    return output.movedim(channel_dim(owner, output), 0).reshape(channels(owner), -1)


def channels(owner: Any, /) -> int:
    """Return how many output channels a module has.

    Args:
        owner: A module of `KINDS`.

    Example:
        >>> channels(nn.Linear(2, 3)), channels(nn.ConvTranspose2d(2, 4, 3, groups=2))
        (3, 4)
    """
    weight: Tensor = owner.weight
    return weight.shape[1] * owner.groups if isinstance(owner, TRANSPOSED) else weight.shape[0]


def along_outputs(owner: Any, values: Tensor, /) -> Tensor:
    """Return one value a channel in the shape that broadcasts to the weight, group by group.

    Args:
        owner: A module of `KINDS`.
        values: Shape `(channels,)`.

    Returns:
        The values, of as many dimensions as the weight.

    Example:
        >>> import torch
        >>> along_outputs(nn.Conv2d(2, 4, 3), torch.arange(4)).shape
        torch.Size([4, 1, 1, 1])
        >>> along_outputs(nn.ConvTranspose2d(2, 4, 3, groups=2), torch.arange(4)).shape   # inputs first
        torch.Size([2, 2, 1, 1])
    """
    weight: Tensor = owner.weight
    if isinstance(owner, TRANSPOSED):
        values = values.view(owner.groups, -1).repeat_interleave(weight.shape[0] // owner.groups, dim=0)
        return values.view(*weight.shape[:2], *[1] * (weight.ndim - 2))
    return values.view(-1, *[1] * (weight.ndim - 1))


def not_seen(statistic: str, missing: Mapping[str, Any], reason: str, /) -> None:
    """Refuse to answer for weights of which nothing was seen.

    Args:
        statistic: What was asked for.
        missing: Modules by the name of their weight.
        reason: Why there is nothing.

    Raises:
        ValueError: If there is any such weight.

    Example:
        >>> not_seen("activation_mean", {}, "")
    """
    for name, owner in missing.items():
        raise ValueError(
            f"prune.collect: '{statistic}' cannot be had for weight '{name}' of {type(owner).__name__}:"
            f" {reason}; leave the weight out"
        )

"""Read a model once: what a rule that only sees parameters has to know of them."""

from collections.abc import Callable, Hashable, Mapping
from fnmatch import fnmatchcase
from typing import TypeVar

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from tonsor.clip.units import Units

Known = TypeVar("Known")

_PLAIN_DIMS = 2


def unit_dims(
    model: nn.Module, dims: Mapping[str, int | tuple[int, ...] | None] | None = None, /
) -> Callable[[Tensor], Units | None]:
    """Return a function that tells the units of each parameter of a model, for `agc` and `PerUnit`.

    Rows of linear, recurrent, attention and embedding layers, filters of convolutions, output channels
    of transposed convolutions (grouped ones too) and the columns of transformers' `Conv1D` are
    recognised. So is any other matrix, whose rows are taken. A parameter of three dimensions or more in
    a module that is not known has to be told.

    Args:
        model: What the parameters belong to.
        dims: What is known better, by parameter name; `*` and `?` stand for any characters. An int or
            several as for `PerUnit`: (0, 1) for experts stacked as (expert, out, in), (0, 2) for
            (expert, in, out). None leaves the parameter alone.

    Returns:
        A function to be given as `unit_dim`.

    Raises:
        ValueError: If a parameter's units are not known, or a name fits no parameter. The function
            raises it for a parameter that is not the model's.

    Example:
        >>> import torch
        >>> from functools import partial
        >>> from tonsor.clip import agc
        >>> model = nn.Sequential(nn.ConvTranspose2d(3, 5, 2), nn.Linear(5, 2))
        >>> units = unit_dims(model, {"1.*": None})     # the last layer is left alone
        >>> units(model[0].weight), units(model[1].weight)
        (Units(dims=(1,), groups=1), None)
        >>> rule = partial(agc, unit_dim=units)
    """
    told = dict(dims or {})
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    for pattern in told:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ValueError(f"clip.unit_dims: '{pattern}' fits no parameter of {type(model).__name__}")
    found: dict[int, tuple[Tensor, Units | None]] = {}
    for prefix, module in model.named_modules():
        for own, parameter in module.named_parameters(recurse=False):
            name = f"{prefix}.{own}" if prefix else own
            fits = [known for pattern, known in told.items() if fnmatchcase(name, pattern)]
            units = _units(fits[0]) if fits else _of_module(module, name, parameter)
            found.setdefault(id(parameter), (parameter, units))
    return lambda parameter: _look_up(found, parameter, "unit_dims")


def blocks(model: nn.Module, /, *, depth: int = 1) -> Callable[[Tensor], Hashable]:
    """Return a function that tells the block of each parameter of a model, for `group_norm` and `Group`.

    Args:
        model: What the parameters belong to.
        depth: How many parts of its name make a block: 1 takes the model's children, 2 theirs.

    Returns:
        A function to be given as `groups`.

    Raises:
        ValueError: If `depth` is below 1. The function raises it for a parameter that is not the model's.

    Example:
        >>> model = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2))
        >>> blocks(model)(model[1].bias)
        '1'
    """
    if depth < 1:
        raise ValueError(f"clip.blocks: depth must be at least 1; got {depth}")
    found = {
        id(parameter): (parameter, ".".join(name.split(".")[:-1][:depth]))
        for name, parameter in model.named_parameters()
    }
    return lambda parameter: _look_up(found, parameter, "blocks")


def _look_up(found: Mapping[int, tuple[Tensor, Known]], parameter: Tensor, where: str) -> Known:
    """Return what was read of a parameter."""
    if id(parameter) not in found:
        raise ValueError(
            f"clip.{where}: a parameter of shape {tuple(parameter.shape)} does not belong to the model that "
            "was read; read the model after it was moved, copied or wrapped"
        )
    return found[id(parameter)][1]


def _units(dims: int | tuple[int, ...] | None) -> Units | None:
    """Return units as `dims` names them."""
    if dims is None:
        return None
    return Units((dims,) if isinstance(dims, int) else tuple(dims))


def _of_module(module: nn.Module, name: str, parameter: Tensor) -> Units:
    """Return the units of a parameter as its module uses it."""
    if isinstance(module, _ConvTransposeNd) and parameter.ndim > _PLAIN_DIMS:
        return Units((1,)) if module.groups == 1 else Units((0, 2), module.groups)
    if (
        type(module).__name__.endswith("Conv1D") and parameter.ndim == _PLAIN_DIMS
    ):  # of transformers: (in, out)
        return Units((1,))
    if parameter.ndim > _PLAIN_DIMS and not isinstance(module, (_ConvNd, nn.Bilinear)):
        raise ValueError(
            f"clip.unit_dims: '{name}' of shape {tuple(parameter.shape)} is of a {type(module).__name__}, "
            f"whose units are not known; name them: {{'{name}': (0, 1)}} for (expert, out, in), "
            "None to leave it alone"
        )
    return Units()

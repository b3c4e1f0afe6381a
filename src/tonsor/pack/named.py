"""Tensors by name: tied ones once, masks applied, mistakes told with the name."""

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from tonsor.spelling import unknown

State = nn.Module | Mapping[str, Tensor]
Result = TypeVar("Result")
Given = ParamSpec("Given")


def untied(state: State, /) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors of a model, each once, and for every further name of one the first name."""
    given: Mapping[str, Any] = state.state_dict() if isinstance(state, nn.Module) else state
    tensors: dict[str, Tensor] = {}
    ties: dict[str, str] = {}
    first: dict[object, str] = {}
    for name, tensor in given.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise ValueError(
                f"pack: {name!r} is a {type(tensor).__name__}; only tensors can be packed: keep it apart"
            )
        place = _place(tensor)
        if first.setdefault(place, name) == name:
            tensors[name] = tensor
        else:
            ties[name] = first[place]
    return tensors, ties


def _place(tensor: Tensor) -> object:
    """Return what tensors have in common that are one another's; the object itself where it has no memory."""
    if tensor.layout != torch.strided or tensor.is_meta or not tensor.numel():
        return id(tensor)
    return tensor.device, tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride()


def check_masks(tensors: Mapping[str, Tensor], masks: Mapping[str, Tensor], /) -> None:
    """Refuse a mask of no tensor, of another shape, or that is no mask."""
    for name, mask in masks.items():
        if name not in tensors:
            raise ValueError(f"pack: masks: {unknown('tensor', name, tensors)}")
        if mask.dtype != torch.bool or mask.shape != tensors[name].shape:
            raise ValueError(
                f"pack: the mask of '{name}' must hold booleans of shape {tuple(tensors[name].shape)}; "
                f"got {mask.dtype} of shape {tuple(mask.shape)}"
            )


def masked(name: str, tensors: Mapping[str, Tensor], masks: Mapping[str, Tensor], /) -> Tensor:
    """Return a tensor without what its mask removes."""
    tensor = tensors[name].detach()
    return torch.where(masks[name].to(tensor.device), tensor, 0) if name in masks else tensor


def fitting(patterns: Mapping[str, Any], names: Iterable[str], /) -> dict[str, Any]:
    """Return for each name what the first pattern that fits it says; one that fits none is a mistake."""
    known = list(names)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in known):
            raise ValueError(f"pack: {unknown('tensor', pattern, known)}")
    found = {name: [value for p, value in patterns.items() if fnmatchcase(name, p)] for name in known}
    return {name: values[0] for name, values in found.items() if values}


def told(name: str, call: Callable[Given, Result], *given: Given.args, **settings: Given.kwargs) -> Result:
    """Call for one tensor; a mistake is told with its name."""
    try:
        return call(*given, **settings)
    except ValueError as error:
        raise ValueError(f"'{name}': {error}") from error


def in_threads(call: Callable[[str], Result], names: Iterable[str], threads: int, /) -> dict[str, Result]:
    """Return what a call gives for each name; the largest share of the work lets other threads run."""
    known = list(names)
    if threads == 1 or len(known) < 2:
        return {name: call(name) for name in known}
    with ThreadPoolExecutor(threads) as pool:
        return dict(zip(known, pool.map(partial(call), known), strict=True))

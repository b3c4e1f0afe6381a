"""A shrunk model on disk: its weights as safetensors, and beside them the sizes to build it with."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tonsor.files import read_json, read_tensors, write_json, write_tensors
from tonsor.shrink.resize import Sizes, apply_, check_plan, graph_for
from tonsor.shrink.trace import first_names, named_tensors
from tonsor.spelling import unknown

FORMAT, VERSION = "tonsor", 1
NO_PLAN: dict[str, Any] = {"slices": {}, "biases": []}


def save(
    model: nn.Module,
    path: str | Path,
    *,
    plan: Mapping[str, Any] | None = None,
    about: Mapping[str, Any] | None = None,
) -> None:
    """Write a model: the weights to `x.safetensors`, the sizes to `x.json` beside it.

    Each file is written whole or not at all. Neither holds code: to load them one builds the model as
    it was before it was shrunk.

    Args:
        model: The model, shrunk or not.
        path: Where the weights shall stand; the name ends in `.safetensors`.
        plan: The plan of `Shrunk`; `None` if the model has the sizes it was built with.
        about: Whatever else shall be kept, as JSON has it.

    Raises:
        ValueError: If the name has another ending, if `about` is no JSON, or if the model's state holds
            something that is no tensor. Nothing is written then.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "small.safetensors"
        >>> save(nn.Linear(2, 1), path)
        >>> sorted(file.name for file in path.parent.iterdir())
        ['small.json', 'small.safetensors']
    """
    path = _checked(path, "save")
    state = _state(model)
    header = {
        "format": FORMAT,
        "version": VERSION,
        "plan": dict(NO_PLAN if plan is None else plan),
        "about": dict(about or {}),
    }
    try:
        json.dumps(header, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"shrink.save: plan and about must be what JSON can hold: {error}") from error
    write_tensors(path, state, about={"format": "pt"})
    write_json(path.with_suffix(".json"), header)


def load(
    model: nn.Module,
    path: str | Path,
    example_args: Tensor | tuple[Any, ...] | None = None,
    example_kwargs: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Load what `save` wrote into a freshly built model, which gets the saved sizes, in place.

    Nothing in the files is executed. Both are read and checked against the model before it is touched.

    Args:
        model: Built as the saved model was before it was shrunk.
        path: The weights; the file with the sizes lies beside them.
        example_args: The arguments of one call; needed only where the shrunk model's forward runs its
            rewritten graph, see `resize_`.
        example_kwargs: Arguments by name.

    Returns:
        The model.

    Raises:
        ValueError: If a file is truncated, is no such file, or does not fit the model: says which file
            and what to do.
        FileNotFoundError: If one of the two files is not there.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "small.safetensors"
        >>> plan = {"slices": {"weight": {"1": [0, 3]}}, "biases": []}
        >>> save(nn.Linear(2, 3), path, plan=plan)
        >>> load(nn.Linear(4, 3), path)
        Linear(in_features=2, out_features=3, bias=True)
    """
    path = _checked(path, "load")
    beside = path.with_suffix(".json")
    sizes = check_plan(model, _header(beside)["plan"], f"{beside}: plan")
    tensors, _ = read_tensors(path)
    _compare(model, sizes, tensors, path)
    apply_(model, sizes, graph_for(model, sizes, example_args, example_kwargs, str(beside)))
    model.load_state_dict(tensors)
    return model


def _header(path: Path) -> dict[str, Any]:
    """Return the content of the file with the sizes, checked."""
    try:
        header = read_json(path)
    except RecursionError as error:
        raise ValueError(f"{path}: nested too deeply; write the model anew with tonsor's save") from error
    known = {"format", "version", "plan", "about"}
    if not isinstance(header, dict) or header.get("format") != FORMAT or set(header) != known:
        raise ValueError(f"{path}: was not written by tonsor's save; write the model anew")
    if header["version"] != VERSION or isinstance(header["version"], bool):
        raise ValueError(
            f"{path}: has version {header['version']!r}, this tonsor reads {VERSION}; update tonsor"
        )
    return header


def _compare(model: nn.Module, sizes: Sizes, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Refuse weights that do not fit the model at its new sizes."""
    expected = _expected(model, sizes)
    for name in tensors:
        if name not in expected:
            raise ValueError(f"{path}: {unknown('weight', name, expected)}; {ADVICE}")
    for name, (shape, dtype) in expected.items():
        if name not in tensors:
            raise ValueError(f"{path}: the weight '{name}' is missing; {ADVICE}")
        got = tensors[name]
        if tuple(got.shape) != shape or got.dtype != dtype:
            raise ValueError(
                f"{path}: '{name}' is {got.dtype} of shape {tuple(got.shape)}; the model at its saved "
                f"sizes has {dtype} of shape {shape}; {ADVICE}"
            )
    first = first_names(named_tensors(model))
    for name, tensor in tensors.items():
        tied = tensors.get(first.get(name, name), tensor)
        if not bool(((tensor == tied) | ((tensor != tensor) & (tied != tied))).all()):
            raise ValueError(f"{path}: '{name}' and '{first[name]}' are tied but differ; {ADVICE}")


ADVICE = "build the model as it was before it was shrunk, or write it anew with tonsor's save"


def _expected(model: nn.Module, sizes: Sizes) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Return the shape and type that each tensor of the model's state will have."""
    first = first_names(named_tensors(model))
    expected = {
        name: (sizes.shape_of(first.get(name, name), tuple(tensor.shape)), tensor.dtype)
        for name, tensor in _state(model).items()
    }
    for path in sizes.biases:
        weight = f"{path}.weight".lstrip(".")
        shape, dtype = expected[weight]
        expected[weight.removesuffix("weight") + "bias"] = shape[:1], dtype
    return expected


def _state(model: nn.Module) -> dict[str, Tensor]:
    """Return the model's state if it holds nothing but tensors."""
    state = model.state_dict()
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor):
            raise ValueError(
                f"shrink: the model's state holds a {type(tensor).__name__} under '{name}'; "
                "only tensors can be saved and loaded safely"
            )
    return dict(state)


def _checked(path: str | Path, what: str) -> Path:
    """Return the path if it names a safetensors file."""
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"shrink.{what}: the name must end in .safetensors; got {path}")
    return path

"""Prove that a sliced model computes what the masked one does."""

import traceback
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from tonsor.modes import evaluating
from tonsor.shrink.copies import copied
from tonsor.shrink.trace import MODEL_ERRORS, gpus_of

# How far outputs may lie apart, as a share of the largest output.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 3e-2}
ROUNDED = 0.05  # a difference above this is none of rounding
RUNS = 2  # random inputs beside the example


class Unequal(Exception):  # noqa: N818 - it is a finding; `shrink_` turns it into a ValueError
    """Say how two models differ.

    Example:
        >>> raise Unequal("the sliced model does not run")
        Traceback (most recent call last):
        tonsor.shrink.proof.Unequal: the sliced model does not run
    """

    apart: float = float("inf")  # by how much outputs of the same shapes differ


def prove(masked: nn.Module, small: nn.Module, example: tuple[tuple[Any, ...], Mapping[str, Any]]) -> float:
    """Run both models on the example and on random inputs, in eval mode, and compare all outputs.

    Random numbers have the example's mean and deviation; integers and booleans are its own, permuted.
    Outputs may differ by 1e-5 of the largest output in float32 and by 1e-10 in float64. A model that makes
    more of its roundings, because it is deep, is compared in float64 instead.

    Args:
        masked: The model with zeros.
        small: The model without them.
        example: The arguments of one call: a tuple and a dict.

    Returns:
        The largest difference, as a share of the largest output.

    Raises:
        Unequal: If they differ, or if the small model does not run.

    Example:
        >>> model = nn.Linear(2, 2)
        >>> prove(model, model, ((torch.ones(1, 2),), {}))
        0.0
    """
    return Proof(masked, example).of(small)


class Proof:
    """Compare copies with a masked model, as `prove` does; what the masked model gives is worked out once.

    Example:
        >>> model = nn.Linear(2, 2)
        >>> proof = Proof(model, ((torch.ones(1, 2),), {}))
        >>> proof.of(model), proof.of(copied(model))
        (0.0, 0.0)
    """

    def __init__(self, masked: nn.Module, example: tuple[tuple[Any, ...], Mapping[str, Any]]) -> None:
        self.masked, self.example = masked, example
        self.inputs = list(_inputs(example))
        self.answers: list[list[Any] | None] = []  # of the masked model; none where it does not take an input
        self.wide: Proof | None = None

    def of(self, small: nn.Module) -> float:
        """Return the largest difference of a copy, as a share of the largest output."""
        try:
            return self._compared(small)
        except Unequal as finding:
            if finding.apart > ROUNDED or not _is_narrow(self.masked):
                raise
            first = finding
        self.wide = self.wide or Proof(_wide(self.masked), _widened(self.example))
        try:
            return self.wide._compared(_wide(small))
        except MODEL_ERRORS as error:  # a graph may have the type of its numbers written in it
            raise first from error

    def _compared(self, small: nn.Module) -> float:
        """Return the largest difference, or say what it is."""
        largest = 0.0
        for number, (args, kwargs) in enumerate(self.inputs):
            expected = self._answer(number)
            if expected is None:
                continue
            try:
                with evaluating(small):
                    got = _run(small, args, kwargs)
            except MODEL_ERRORS as error:
                raise Unequal(_story(error, small)) from error
            largest = max(largest, _difference(expected, got))
        return largest

    def _answer(self, number: int) -> list[Any] | None:
        """Return what the masked model gives; nothing if random numbers are not what it takes."""
        if number == len(self.answers):
            try:
                with evaluating(self.masked):
                    self.answers.append(_run(self.masked, *self.inputs[number]))
            except MODEL_ERRORS:
                if number == 0:
                    raise
                self.answers.append(None)
        return self.answers[number]


def _is_narrow(model: nn.Module) -> bool:
    """Say whether a model has weights of less than 64 bits."""
    floats = [p for p in model.parameters() if p.is_floating_point()]
    return any(p.dtype != torch.float64 for p in floats)


def _wide(model: nn.Module) -> nn.Module:
    """Return a copy of a model in float64."""
    return copied(model).double()


def _widened(
    example: tuple[tuple[Any, ...], Mapping[str, Any]],
) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    """Return the example in float64."""
    from torch.utils._pytree import tree_map_only

    def wide(tensor: Tensor) -> Tensor:
        return tensor.double() if tensor.is_floating_point() else tensor

    args, kwargs = tree_map_only(Tensor, wide, (example[0], dict(example[1])))
    return args, kwargs


def _run(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any]:
    """Return all leaves of the output; inputs and random numbers are left as they were for the next."""
    from torch.utils._pytree import tree_leaves, tree_map_only

    args, kwargs = tree_map_only(Tensor, torch.clone, (args, dict(kwargs)))
    with torch.random.fork_rng(devices=gpus_of(model)):
        leaves: list[Any] = tree_leaves(model(*args, **kwargs))
    return leaves


def _inputs(
    example: tuple[tuple[Any, ...], Mapping[str, Any]],
) -> Iterator[tuple[tuple[Any, ...], Mapping[str, Any]]]:
    """Yield the example, then random inputs of its shapes and types."""
    from torch.utils._pytree import tree_map_only

    yield example
    generator = torch.Generator().manual_seed(0)
    for _ in range(RUNS):
        args, kwargs = tree_map_only(Tensor, lambda t: _alike(t, generator), (example[0], dict(example[1])))
        yield args, kwargs


def _alike(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Return a random tensor like this one."""
    if not tensor.is_floating_point():
        order = torch.randperm(tensor.numel(), generator=generator).to(tensor.device)
        return tensor.flatten()[order].reshape(tensor.shape)
    noise = torch.randn(tensor.shape, generator=generator).to(tensor.device, tensor.dtype)
    spread = tensor.std() if tensor.numel() > 1 else torch.zeros(())
    alike: Tensor = tensor.mean() + noise * torch.where(spread > 0, spread, 1).to(tensor)
    return alike


def _difference(expected: list[Any], got: list[Any]) -> float:
    """Return the largest difference as a share of the largest output; raise if it is no rounding."""
    if len(expected) != len(got):
        raise Unequal(f"it returns {len(got)} values instead of {len(expected)}")
    largest = 0.0
    for place, (a, b) in enumerate(zip(expected, got, strict=True)):
        if not (isinstance(a, Tensor) and isinstance(b, Tensor)):
            if isinstance(a, Tensor) or isinstance(b, Tensor) or a != b:
                raise Unequal(f"its output {place} is {b!r} instead of {a!r}")
            continue
        if a.shape != b.shape:
            raise Unequal(f"its output {place} has shape {tuple(b.shape)} instead of {tuple(a.shape)}")
        apart = _apart(a, b)
        if not apart <= TOLERANCE.get(a.dtype, 0.0):
            finding = Unequal(
                f"its output {place} differs from the masked model's by {apart:.1e} of the largest value"
            )
            finding.apart = apart if apart == apart else float("inf")
            raise finding
        largest = max(largest, apart)
    return largest


def _apart(a: Tensor, b: Tensor) -> float:
    """Return the largest difference as a share of the largest value; not a number equals itself."""
    if a.numel() == 0:
        return 0.0
    wide = torch.complex128 if a.is_complex() else torch.float64
    a, b = a.to(wide), b.to(wide)
    same = (a == b) | (a.isnan() & b.isnan())
    scale = a[a.isfinite()].abs().max() if bool(a.isfinite().any()) else torch.ones(())
    apart = torch.where(same, 0, (a - b).abs())
    return float(apart.max() / scale) if float(scale) > 0 else float(apart.max())


def _story(error: BaseException, model: nn.Module) -> str:
    """Say in which module a forward failed, and with what."""
    names = {id(module): name for name, module in model.named_modules()}
    frames: list[FrameType] = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    inside = [names[id(f.f_locals["self"])] for f in frames if id(f.f_locals.get("self")) in names]
    own = [f"'{name}'" for name in inside if name] or ["its forward"]
    said = str(error).strip().splitlines() or [type(error).__name__]
    return (
        f"the sliced model does not run: in {own[-1]}: {said[0]}; "
        "a size may be written as a number there, as in view(-1, 400)"
    )

"""Visit the layers of a model in the order of their calls, each with the moments of its inputs."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from tonsor.prune.layers import Layer, Raw
from tonsor.prune.moments import Moments
from tonsor.prune.order import Group, Part, plan
from tonsor.prune.unchanged import unchanged

Call: TypeAlias = tuple[tuple[Any, ...], dict[str, Any]]  # arguments and keyword arguments
Fed: TypeAlias = tuple[Sequence[Call], Sequence[Call]]  # of each batch, as it is now and in the dense model


class Dense:
    """Keep the dense values of parameters that have been changed, and lend them to a run.

    Example:
        >>> layer, dense = nn.Linear(1, 1, bias=False), Dense()
        >>> dense.keep([layer.weight])
        >>> before = layer.weight.detach().clone()
        >>> with torch.no_grad(): layer.weight.zero_()
        Parameter containing: ...
        >>> with dense.lent(): bool(layer.weight == before)
        True
        >>> layer.weight.item()
        0.0
    """

    def __init__(self) -> None:
        self._kept: dict[Tensor, Tensor] = {}

    def __len__(self) -> int:
        """How many parameters are kept."""
        return len(self._kept)

    def keep(self, parameters: Iterable[Tensor], /) -> None:
        """Copy parameters that are about to be changed, each once."""
        for parameter in parameters:
            if parameter not in self._kept:
                self._kept[parameter] = parameter.detach().clone()

    def forget(self) -> None:
        """Drop all copies."""
        self._kept.clear()

    @contextmanager
    def lent(self) -> Iterator[None]:
        """Put the dense values in for a while."""
        now = {parameter: parameter.data for parameter in self._kept}
        for parameter, value in self._kept.items():
            parameter.data = value
        try:
            yield
        finally:
            for parameter, value in now.items():
                parameter.data = value


class _Enough(BaseException):
    """Stop a run that has shown what was wanted; no `except Exception` of the model's stands in the way."""


def call_of(inputs: Any, /) -> Call:
    """Return arguments and keyword arguments of a call with one batch's inputs.

    Args:
        inputs: A tensor, a tuple of arguments or a mapping of keyword arguments.

    Example:
        >>> call_of({"x": 1}), call_of((1, 2)), call_of(1)
        (((), {'x': 1}), ((1, 2), {}), ((1,), {}))
    """
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (inputs if isinstance(inputs, tuple) else (inputs,)), {}


@torch.no_grad()
def walk(
    model: nn.Module,
    layers: Sequence[Layer],
    calls: Sequence[Call],
    solve: Callable[[Layer, Moments], None],
    dense: Dense | None,
    /,
    *,
    all_for: str | None = None,
) -> list[Layer]:
    """Call `solve` for each layer with its moments, in the order of the model's calls.

    What a layer is fed is measured when its turn comes, so that it sees what was changed before it. A
    chain of blocks is walked block by block on stored inputs; elsewhere the model runs from its beginning
    up to the layer.

    Args:
        model: The model.
        layers: The layers to visit.
        calls: One call for each calibration batch.
        solve: May change the layer's weight and bias.
        dense: Given where the dense model's inputs are wanted too: keeps what is about to be changed.
        all_for: Name of the function that needs every layer to be called, for the error.

    Returns:
        The layers that were visited.

    Raises:
        ValueError: If a layer is not called and `all_for` is given; nothing has been changed then.

    Example:
        >>> from tonsor.prune.layers import layer_of
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
        >>> tell = lambda layer, moments: print(layer.name, tuple(moments.gram.shape))
        >>> visited = walk(model, [layer_of(model, "1.weight")], [((torch.ones(4, 2),), {})], tell, None)
        1.weight (1, 3, 3)
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # it passes the modules by, and their hooks
    try:
        with unchanged(model):
            parts = plan(model, layers, *_copied(calls[0]))
            visited = [layer for part in parts for group in part.groups for layer in group.layers]
            missed = [layer.name for layer in layers if layer not in visited]
            if missed and all_for:
                raise ValueError(
                    f"prune.{all_for}: the batches never call {', '.join(missed)}; leave them out"
                )
            fed: Fed = (calls, calls)
            for number, part in enumerate(parts):
                before = parts[number - 1].block if number else None
                fed = _fed(model, before, part.block, calls, fed, dense)
                if dense is not None and all(later.block is not None for later in parts[number:]):
                    dense.forget()  # what came before is behind the stored inputs
                _visit(part.block or model, part, fed, solve, dense)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return visited


def _fed(
    model: nn.Module,
    before: nn.Module | None,
    block: nn.Module | None,
    calls: Sequence[Call],
    fed: Fed,
    dense: Dense | None,
) -> Fed:
    """Return the calls of a part, as they are now and in the dense model."""
    if block is None:
        return calls, calls
    if before is None:
        step, fed = partial(_captured, model, block), (calls, calls)
    else:
        step = partial(_advanced, before)
    now = [step(call) for call in fed[0]]
    if dense is None or (len(dense) == 0 and fed[0] is fed[1]):
        return now, now
    with dense.lent():
        return now, [step(call) for call in fed[1]]


def _visit(
    module: nn.Module, part: Part, fed: Fed, solve: Callable[[Layer, Moments], None], dense: Dense | None
) -> None:
    """Visit the groups of one part."""
    for group in part.groups:
        moments = Moments(group.layers[0])
        for now, then in zip(*fed, strict=True):
            _add(moments, module, group, (now, then), dense)
        for layer in group.layers:
            if dense is not None:
                dense.keep(layer.parameters.values())
            solve(layer, moments)


def _add(
    moments: Moments, module: nn.Module, group: Group, calls: tuple[Call, Call], dense: Dense | None
) -> None:
    """Add what the group is fed in one batch; in the dense model too, where that is something else."""
    seen = _inputs(module, group, calls[0])
    if dense is None or (len(dense) == 0 and calls[0] is calls[1]):
        for raw in seen:
            moments.add(raw)
        return
    with dense.lent():
        before = _inputs(module, group, calls[1])
    for raw, first in zip(seen, before, strict=True):
        moments.add(raw, first)


def _inputs(module: nn.Module, group: Group, call: Call) -> list[Raw]:
    """Run a module up to a group of layers and return what these were fed, call by call."""
    seen: list[Raw] = []

    def see(raw: Raw) -> None:
        """Keep the inputs as they are now, and stop when all are there."""
        seen.append(tuple(x.clone() for x in raw))
        if len(seen) == group.calls:
            raise _Enough

    with group.layers[0].watch(see), suppress(_Enough):
        inputs, named = _copied(call)
        module(*inputs, **named)
    return seen


def _captured(model: nn.Module, block: nn.Module, call: Call) -> Call:
    """Run the model up to a block and return the arguments of the block."""
    found: list[Call] = []

    def see(_: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        """Keep the arguments and stop."""
        found.append((inputs, named))
        raise _Enough

    with block.register_forward_pre_hook(see, with_kwargs=True), suppress(_Enough):
        inputs, named = _copied(call)
        model(*inputs, **named)
    return found[0]


def _advanced(block: nn.Module, call: Call) -> Call:
    """Run a block and return the arguments of the next."""
    inputs, named = _copied(call)
    output = block(*inputs, **named)
    return (output[0] if isinstance(output, tuple) else output, *call[0][1:]), call[1]


def _copied(call: Call) -> Call:
    """Return a call whose first argument may be written to, as an in-place activation does."""
    inputs, named = call
    if inputs and isinstance(inputs[0], Tensor):
        inputs = (inputs[0].clone(), *inputs[1:])
    return inputs, named

"""A model's exported graph, and who its inputs are."""

import inspect
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tonsor.modes import evaluating
from tonsor.shrink.freedom import Freedom
from tonsor.shrink.tidy import check_sizes, tidy_

# What a model's own forward may raise.
MODEL_ERRORS = (
    RuntimeError,
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    AssertionError,
    ArithmeticError,
)


@dataclass(frozen=True)
class Trace:
    """Hold a model's graph: what a run of its forward in eval mode did, operation by operation.

    Args:
        graph: The graph at the level of `linear`, `conv2d`, `layer_norm`.
        sources: For each placeholder the name of its parameter or buffer; other inputs are not here.
        constants: Tensors that the graph holds itself, by placeholder.
        inputs: The example's leaves, by placeholder.
        names: For each name of a parameter or buffer the first of its tied names.
        shapes: The shape of each parameter and buffer by its first name.
        buffers: The first names that are buffers.
        example: The arguments as they were given: a tuple and a dict.
        specs: How arguments and results are put together, as pytree specifications.
        freedom: What may lose channels when the graph is run on labels.

    Example:
        >>> trace_of(nn.Linear(2, 3), (torch.ones(1, 2),), {}).sources
        {'p_weight': 'weight', 'p_bias': 'bias'}
    """

    graph: Any
    sources: dict[str, str]
    constants: dict[str, Tensor]
    inputs: dict[str, Any]
    names: dict[str, str]
    shapes: dict[str, tuple[int, ...]]
    buffers: frozenset[str]
    example: tuple[tuple[Any, ...], dict[str, Any]]
    specs: tuple[Any, Any] = (None, None)
    freedom: Freedom = field(default_factory=Freedom)


def trace_of(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, batch: bool = False
) -> Trace:
    """Export a model in eval mode; its training flags and the random numbers are left as they were.

    Args:
        model: The module.
        args: The arguments of one call.
        kwargs: Those by name.
        batch: Let the first size of every tensor be any, where the model allows it.

    Raises:
        ValueError: If torch cannot export the model: says what torch said.

    Example:
        >>> model = nn.Sequential(nn.Dropout(0.5))
        >>> len(trace_of(model, (torch.ones(1),), {}).graph.nodes), model[0].training
        (3, True)
    """
    from torch.utils._pytree import tree_leaves

    forget_(model)
    try:
        program = _export(model, args, dict(kwargs), batch)
    finally:
        forget_(model)
    tidy_(program.graph)
    if not batch:
        check_sizes(program.graph, type(model).__name__)
    tensors = named_tensors(model)
    names = first_names(tensors)
    sources, constants, placeholders = {}, {}, []
    for spec in program.graph_signature.input_specs:
        if spec.target in names:
            sources[spec.arg.name] = names[spec.target]
        elif spec.target is not None:
            constants[spec.arg.name] = program.constants[spec.target]
        else:
            placeholders.append(spec.arg.name)
    inputs = dict(zip(placeholders, tree_leaves((args, dict(kwargs))), strict=True))
    shapes = {name: tuple(tensors[name].shape) for name in names.values()}
    buffers = frozenset(name for name, _ in model.named_buffers())
    example = (args, dict(kwargs))
    specs = (program.call_spec.in_spec, program.call_spec.out_spec)
    return Trace(program.graph, sources, constants, inputs, names, shapes, buffers, example, specs)


def forget_(model: nn.Module) -> None:
    """Let a model drop what its forward keeps between calls in eval mode, as caches of attention biases.

    A module that keeps something has a `train` of its own, which drops it; its flags are left as they are.

    Example:
        >>> class Caching(nn.Module):
        ...     def train(self, mode=True):
        ...         self.cache = {}
        ...         return super().train(mode)
        >>> model = Caching().eval(); model.cache["bias"] = 1
        >>> forget_(model); model.cache, model.training
        ({}, False)
    """
    flags = [(module, module.training) for module in model.modules()]
    for module, _ in flags:
        if type(module).train is not nn.Module.train:
            with suppress(*MODEL_ERRORS):  # an exported graph refuses it
                module.train(True)
    for module, training in flags:
        module.training = training


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters, then buffers, under every name they have.

    Example:
        >>> list(named_tensors(nn.Linear(1, 1)))
        ['weight', 'bias']
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    return {**parameters, **dict(model.named_buffers(remove_duplicate=False))}


def first_names(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Return for each name the first name of the same tensor.

    Example:
        >>> w = torch.ones(1)
        >>> first_names({"a": w, "b": w})
        {'a': 'a', 'b': 'a'}
    """
    first: dict[int, str] = {}
    return {name: first.setdefault(id(tensor), name) for name, tensor in tensors.items()}


def gpus_of(model: nn.Module) -> list[int]:
    """Return the CUDA devices of a model, whose random numbers are set aside with the CPU's.

    Example:
        >>> gpus_of(nn.Linear(1, 1))
        []
    """
    devices = {tensor.device for tensor in named_tensors(model).values()}
    return sorted(device.index for device in devices if device.type == "cuda")


def _export(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], batch: bool) -> Any:
    """Run torch.export and say in the user's words when it fails."""
    from torch.export import Dim, export
    from torch.utils._pytree import tree_map

    def free(given: Any) -> Any:
        return {0: Dim.AUTO} if isinstance(given, Tensor) and given.ndim and len(given) > 1 else None

    with (
        evaluating(model),
        _plainly(),
        torch.random.fork_rng(devices=gpus_of(model)),
        torch.enable_grad(),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # of recurrent layers, whose flat weights export sets aside
        try:
            shapes = _by_name(model, *tree_map(free, (args, kwargs))) if batch else None
            return export(model, args, kwargs, strict=False, dynamic_shapes=shapes)
        except MODEL_ERRORS as error:
            said = str(error).strip().splitlines()
            raise ValueError(
                f"shrink.channel_groups: {type(model).__name__} cannot be exported: "
                f"{said[0] if said else type(error).__name__}; its channels cannot be found. Make its "
                "forward free of decisions that depend on the values of tensors"
            ) from error


def _by_name(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return what is given for each argument under the name that the forward has for it."""
    names = list(inspect.signature(model.forward).parameters.values())
    named: dict[str, Any] = {}
    for place, parameter in enumerate(names):
        if parameter.kind is parameter.VAR_POSITIONAL:
            named[parameter.name] = tuple(args[place:])
        elif place < len(args):
            named[parameter.name] = args[place]
        elif parameter.kind is parameter.VAR_KEYWORD:
            named |= {name: given for name, given in kwargs.items() if name not in named}
        elif parameter.name in kwargs:
            named[parameter.name] = kwargs[parameter.name]
    return named


@contextmanager
def _plainly() -> Iterator[None]:
    """Keep transformer layers from being one opaque operation, and nodes from naming lines of code."""
    config: Any = torch.fx.config
    before = torch.backends.mha.get_fastpath_enabled()
    silent = getattr(config, "do_not_emit_stack_traces", False)
    torch.backends.mha.set_fastpath_enabled(False)
    config.do_not_emit_stack_traces = True  # a fifth of the time
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
        config.do_not_emit_stack_traces = silent

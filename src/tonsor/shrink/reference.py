"""What a model whose norms lose channels is compared with: statistics are taken over those that stay."""

import copy
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from tonsor.shrink.copies import copied
from tonsor.shrink.forward import GraphForward
from tonsor.shrink.kept import Kept, nodes_of
from tonsor.shrink.node import bind, key, named
from tonsor.shrink.trace import Trace
from tonsor.shrink.value import Value, dims_of

Lines: TypeAlias = Sequence[tuple[int, Tensor]]  # dimensions, and the places along them that stay
REDUCED = {
    f"aten.{name}" for name in ("linalg_vector_norm", "mean", "norm", "std", "std_mean", "var", "var_mean")
}


def reference(masked: nn.Module, trace: Trace, kept: Kept) -> tuple[nn.Module, tuple[str, ...]]:
    """Return the masked model with each statistic over channels that go taken over those that stay.

    It has all its channels: means, variances and norms are those of the chosen places alone, and every
    place is normalised by them. Nothing reads the places that go.

    Args:
        masked: The model with zeros; it is only copied.
        trace: Its graph.
        kept: What stays of each value.

    Returns:
        The model, and the operations that differ from the masked one; the masked model itself if none does.

    Example:
        >>> from tonsor.shrink import channel_groups
        >>> from tonsor.shrink.kept import kept_of
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3), nn.Linear(3, 1))
        >>> groups = channel_groups(model, torch.ones(1, 2), width=True)
        >>> gone = torch.zeros(len(groups.roots), dtype=torch.bool)
        >>> gone[groups.groups["0.weight"].roots[:1]] = True
        >>> reference(model, groups.trace, kept_of(groups, gone))[1]
        ('aten.layer_norm in 1',)
    """
    module = copy.deepcopy(trace.graph.owning_module)
    device = next((p.device for p in masked.parameters()), torch.device("cpu"))
    changed = []
    for node, twin in list(zip(nodes_of(module.graph), nodes_of(trace.graph), strict=True)):
        if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
            continue
        dims = _dims(node, kept.values.get(twin.args[0]) if twin.args else None)
        lines = _lines(kept, twin, dims)
        if lines:
            _narrow_(node, [(dim, line.to(device)) for dim, line in lines])
            changed.append(named(twin))
    if not changed:
        return masked, ()
    module.recompile()
    model = copied(masked)
    object.__setattr__(model, "forward", GraphForward(model, module, trace).forward)
    return model, tuple(dict.fromkeys(changed))


def layer_norm(
    lines: Lines,
    x: Tensor,
    shape: Sequence[int],
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    _: bool,
) -> Tensor:
    """Normalise by mean and variance of the places that stay.

    Example:
        >>> x = torch.tensor([[1.0, 3.0, 9.0]])
        >>> layer_norm([(1, torch.tensor([0, 1]))], x, (3,), None, None, 0.0, False)
        tensor([[-1.,  1.,  7.]])
    """
    return _scaled(_standard(x, lines, range(x.ndim - len(shape), x.ndim), eps), weight, bias)


def rms_norm(
    lines: Lines, x: Tensor, shape: Sequence[int], weight: Tensor | None, eps: float | None
) -> Tensor:
    """Normalise by the mean square of the places that stay.

    Example:
        >>> x = torch.tensor([[2.0, 2.0, 9.0]])
        >>> rms_norm([(1, torch.tensor([0, 1]))], x, (3,), None, 0.0)
        tensor([[1.0000, 1.0000, 4.5000]])
    """
    small = torch.finfo(x.dtype).eps if eps is None else eps
    made = _standard(x, lines, range(x.ndim - len(shape), x.ndim), small, centred=False)
    return _scaled(made, weight, None)


def group_norm(
    lines: Lines, x: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float, _: bool
) -> Tensor:
    """Normalise one group of channels by mean and variance of the places that stay.

    Example:
        >>> x = torch.tensor([[[1.0], [3.0], [9.0]]])
        >>> group_norm([(1, torch.tensor([0, 1]))], x, 1, None, None, 0.0, False).flatten()
        tensor([-1.,  1.,  7.])
    """
    shape = (-1,) + (1,) * (x.ndim - 2)
    affine = [None if tensor is None else tensor.reshape(shape) for tensor in (weight, bias)]
    return _scaled(_standard(x, lines, range(1, x.ndim), eps), *affine)


def batch_norm(lines: Lines, x: Tensor, *given: Any) -> Tensor:
    """Normalise each channel by its own mean and variance over the places that stay, as in training.

    Example:
        >>> x = torch.tensor([[[1.0, 3.0, 9.0]]])
        >>> batch_norm([(2, torch.tensor([0, 1]))], x, None, None, None, None, True, 0.1, 0.0, False)
        tensor([[[-1.,  1.,  7.]]])
    """
    weight, bias, eps = given[0], given[1], given[6]
    shape = (-1,) + (1,) * (x.ndim - 2)
    affine = [None if tensor is None else tensor.reshape(shape) for tensor in (weight, bias)]
    return _scaled(_standard(x, lines, [0, *range(2, x.ndim)], eps), *affine)


NORMS: dict[str, Callable[..., Tensor]] = {
    "aten.layer_norm": layer_norm,
    "aten.rms_norm": rms_norm,
    "aten.group_norm": group_norm,
    "aten.batch_norm": batch_norm,
}


def _standard(x: Tensor, lines: Lines, dims: Sequence[int], eps: float, *, centred: bool = True) -> Tensor:
    """Return the tensor less the mean, over the root of the variance, of the places that stay."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    part = wide
    for dim, line in lines:
        part = part.index_select(dim, line)
    mean = (
        part.mean(tuple(dims), keepdim=True)
        if centred
        else torch.zeros((), device=x.device, dtype=wide.dtype)
    )
    variance = (part - mean).square().mean(tuple(dims), keepdim=True)
    return ((wide - mean) * (variance + eps).rsqrt()).to(x.dtype)


def _scaled(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """Return the tensor scaled and shifted, where there is something to do it with."""
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


def _dims(node: Any, x: Any) -> list[int]:
    """Return the dimensions that a node takes a statistic over; none if it takes none."""
    name = key(node.target, overload=False)
    if not isinstance(x, Value) or (name not in REDUCED and name not in NORMS):
        return []
    given = bind(node.target, node.args, node.kwargs)
    if name in REDUCED:
        return dims_of(given.get("dim"), x.ndim)
    if "normalized_shape" in given:
        return list(range(x.ndim - len(given["normalized_shape"]), x.ndim))
    if name == "aten.group_norm":
        return list(range(1, x.ndim)) if given["num_groups"] == 1 else []
    return [0, *range(2, x.ndim)] if given["training"] else []


def _lines(kept: Kept, twin: Any, dims: Sequence[int]) -> list[tuple[int, Tensor]]:
    """Return the dimensions along which places go, each with those that stay."""
    found = [(dim, kept.line(kept.values[twin.args[0]], dim)) for dim in dims]
    return [(dim, stays.nonzero().flatten()) for dim, stays in found if not bool(stays.all())]


def _narrow_(node: Any, lines: list[tuple[int, Tensor]]) -> None:
    """Let a node take its statistic over the places that stay, in place."""
    owner, graph = node.graph.owning_module, node.graph
    given = bind(node.target, node.args, node.kwargs)
    with graph.inserting_before(node):
        held = []
        for dim, line in lines:
            name = f"stays_{sum(1 for _ in owner.named_buffers())}"
            owner.register_buffer(name, line)
            held.append((dim, graph.get_attr(name)))
        norm = NORMS.get(key(node.target, overload=False))
        if norm is not None:
            node.target, node.args, node.kwargs = norm, (held, *given.values()), {}
            return
        x = node.args[0]
        for dim, line in held:
            x = graph.call_function(torch.ops.aten.index_select.default, (x, dim, line))
    node.args = (x, *node.args[1:])

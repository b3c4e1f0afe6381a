"""The rule of attention: heads are removed whole, or the same channels inside each of them."""

from dataclasses import replace

import torch
from torch import Tensor

from tonsor.shrink.elementwise import meet_values, right
from tonsor.shrink.labels import Labels, varying
from tonsor.shrink.mixing import restless
from tonsor.shrink.product import matmul_like, nonzero, within
from tonsor.shrink.value import Call, Contraction, NoRule, Value


def attention(call: Call, labels: Labels, /) -> Value:
    """Join the heads of queries, keys and values; what is inside a head stays together.

    Where what is inside may go, heads stay: the channels of queries are joined with those of keys, which
    both can miss where a query is zero or a key is the same at all positions, and so takes no part in the
    softmax.
    """
    q, k, v = (call.given[name] for name in ("query", "key", "value"))
    if call.given["dropout_p"]:
        raise NoRule("it draws random numbers")
    if call.given["enable_gqa"]:
        k, v = (_repeated(value, q.shape[-3]) for value in (k, v))
    if not labels.freedom.head_dim:
        q, k = (_whole(value, labels, call.name) for value in (q, k))
    scores = _scores(call, q, k, labels)
    read = _read(q, k, labels, call.name)
    v = _beneath(v, scores, labels, call.name)
    mask = call.value("attn_mask")
    if mask is not None:
        scores = meet_values([scores, mask], scores.shape, labels, call.name)
    for layer in scores.layers:
        labels.settle(layer, [len(scores.shape) - 1], call.name)
    made = matmul_like(replace(call, given={}), scores, v, labels)
    moving = (v.live | nonzero(v)).any(-2, keepdim=True)
    return Value(call.shape, made.layers, right(moving, len(call.shape)), contractions=read)


def _scores(call: Call, q: Value, k: Value, labels: Labels) -> Value:
    """Return queries times keys."""
    batch = (torch.empty(q.shape[:-2], device="meta") + torch.empty(k.shape[:-2], device="meta")).shape
    shape = (*batch, q.shape[-2], k.shape[-2])
    turned = replace(k, shape=(*k.shape[:-2], k.shape[-1], k.shape[-2]), layers=_turned(k), real=None)
    inner = Call(call.name, call.op, {}, [shape])
    return matmul_like(inner, replace(q, real=None), turned, labels)


def _read(q: Value, k: Value, labels: Labels, name: str) -> tuple[Contraction, ...]:
    """Return what is read of the channels inside heads; nothing where these stay together."""
    last = q.ndim - 1
    line = labels.along(
        (within(layer, set(range(last)), labels, name) for layer in q.layers), last, q.shape[-1], name
    )
    if not bool(line.any()) or q.real is None or k.real is None:
        return ()
    queries = _anywhere(q, q.live | nonzero(q))
    keys = _anywhere(k, restless(k, [k.ndim - 2]))
    needed = (queries & keys)[None]
    known = Value((1, len(line)), (), needed, real=needed.float())
    nobody = torch.zeros(1, dtype=torch.int64)
    return (Contraction(nobody, line, known, 1, torch.ones(1, len(line), 1), bare=False),)


def _anywhere(value: Value, places: Tensor) -> Tensor:
    """Return for each place along the last dimension whether it holds anywhere."""
    return value.whole(places.cpu()).reshape(-1, value.shape[-1]).any(0)


def _turned(value: Value) -> tuple[Tensor, ...]:
    """Return the layers with the last two dimensions swapped."""
    return tuple(layer.mT for layer in value.layers)


def _whole(value: Value, labels: Labels, name: str) -> Value:
    """Let the last dimension keep its size: the scale of the scores depends on it."""
    layers = (labels.settle(layer, [value.ndim - 1], name) for layer in value.layers)
    kept = tuple(layer for layer in layers if value.ndim - 1 not in varying(layer))
    return replace(value, layers=kept)


def _repeated(value: Value, heads: int) -> Value:
    """Return keys or values with each head repeated for the query heads that share it."""
    times = heads // value.shape[-3]
    shape = (*value.shape[:-3], heads, *value.shape[-2:])
    layers = tuple(_repeat(layer, times) for layer in value.layers)
    real = None if value.real is None else value.real.repeat_interleave(times, -3)
    return replace(value, shape=shape, layers=layers, live=_repeat(value.live, times), real=real)


def _repeat(tensor: Tensor, times: int) -> Tensor:
    """Repeat each head if there are several."""
    return tensor.repeat_interleave(times, -3) if tensor.ndim > 2 and tensor.shape[-3] > 1 else tensor


def _beneath(v: Value, scores: Value, labels: Labels, name: str) -> Value:
    """Let values that several heads share keep their size: the heads can go then."""
    batch = v.ndim - 2
    shared = {dim for dim in range(batch) if v.shape[dim] == 1}
    if not any(varying(layer) & shared for layer in scores.layers):
        return v
    return _whole(v, labels, name)
